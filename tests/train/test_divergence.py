"""Divergence: NaN, infinity, an explosion, a spoilt weight; what is said and what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from burnish.errors import BurnishError, Diverged
from burnish.train import fit
from burnish.train._divergence import Watchdog
from tests.train.small import BATCHES, network, plain, task


def test_a_loss_that_is_not_finite_names_step_and_rate() -> None:
    poisoned = [*BATCHES[:4], (BATCHES[4][0] * float("nan"), BATCHES[4][1]), BATCHES[5]]
    with pytest.raises(Diverged, match=r"loss is nan at step 4 \(epoch 1, batch 4\), with") as info:
        fit(network(), task(train=poisoned), epochs=1, learning_rate=0.01, schedule="constant")
    assert isinstance(info.value, BurnishError)
    assert (info.value.step, info.value.learning_rate) == (4, 0.01)
    assert info.value.checkpoint is None
    assert "no checkpoint was written" in str(info.value)

    def explodes(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(output, target) * float("inf")

    with pytest.raises(Diverged, match="loss is inf at step 0"):
        fit(network(), task(loss=explodes), epochs=1, learning_rate=0.01)


class Turning:
    """A loss that turns bad after so many calls."""

    def __init__(self, good: int, bad: float) -> None:
        self.left, self.bad = good, bad

    def __call__(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.left -= 1
        loss = F.cross_entropy(output, target)
        return loss if self.left >= 0 else loss * self.bad


def test_the_last_good_checkpoint_is_named_and_loads(tmp_path: Path) -> None:
    given: dict[str, Any] = {"epochs": 3, "learning_rate": 0.01, "checkpoints": tmp_path}
    with pytest.raises(Diverged, match=r"the last good state is in .*checkpoint\.pt") as info:
        fit(plain(), task(loss=Turning(14, float("nan"))), **given)
    assert info.value.checkpoint == tmp_path / "checkpoint.pt"
    state = torch.load(info.value.checkpoint, weights_only=True)
    assert len(state["epochs"]) == 2
    net = plain()
    net.load_state_dict(state["model"])
    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())


def test_an_explosion_stops_it_and_one_bad_batch_does_not() -> None:
    steadily = Turning(12, 1e4)
    with pytest.raises(Diverged, match=r"has exploded: a median of .* where 100 is the most"):
        fit(plain(), task(loss=steadily), epochs=9, learning_rate=1e-6)

    class Once(Turning):
        def __call__(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            loss = super().__call__(output, target)
            self.left = 99 if self.left < 0 else self.left
            return loss

    fit(plain(), task(loss=Once(12, 1e4)), epochs=9, learning_rate=1e-6)


def test_a_rate_far_too_high_is_seen() -> None:
    with pytest.raises(Diverged, match=r"step \d+ .* learning rate of 1e\+04: lower the rate"):
        fit(
            plain(),
            task(loss=lambda o, t: (o[:, 0] - t).square().mean()),
            epochs=30,
            learning_rate=1e4,
            optimizer=torch.optim.SGD,
            schedule="constant",
        )


def test_a_bound_that_goes_with_the_first_loss() -> None:
    """A loss in thousands may grow to hundreds of thousands; a small one to a hundred."""
    large, small = Watchdog(), Watchdog()
    for _ in range(40):
        large.look({"a": 900.0, "b": 100.0}, 0, "step 0", 0.1, None)
        small.look({"a": 1e-4}, 0, "step 0", 0.1, None)
    for _ in range(40):
        large.look({"a": 9e4, "b": 0.0}, 0, "step 0", 0.1, None)
        small.look({"a": 90.0}, 0, "step 0", 0.1, None)
    for _ in range(9):  # not yet half of the last twenty
        large.look({"a": 2e5}, 0, "step 0", 0.1, None)
    with pytest.raises(Diverged, match=r"where 1e\+05 is the most"):
        large.look({"a": 2e5}, 0, "step 0", 0.1, None)
    with pytest.raises(Diverged, match=r"the loss is inf \(part 'b'\)"):
        small.look({"a": 1.0, "b": float("inf")}, 0, "step 0", 0.1, None)


def test_weights_spoilt_by_the_last_step_are_seen(tmp_path: Path) -> None:
    class Spoiling(torch.autograd.Function):
        """A finite loss with a gradient that is not."""

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * float("inf")

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(Spoiling.apply(output), target)

    given: dict[str, Any] = {"epochs": 1, "learning_rate": 0.1, "checkpoints": tmp_path}
    with pytest.raises(Diverged, match=r"parameter '0\.weight' holds NaN or infinity at step 0"):
        fit(plain(), task(loss=loss, train=BATCHES[:1]), **given)
    assert not list(tmp_path.iterdir()), "a spoilt state was saved"
