"""Mixed precision: what computes in which type, the scaling of float16, and what is counted."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.errors import Diverged, InvalidInput, Unsupported
from burnish.train import Precision, Tricks, evaluate, fit
from tests.train.small import BATCHES, network, plain, task


class Watching(nn.Module):
    """A linear layer that notes the type it computed in."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.seen: list[torch.dtype] = []

    def forward(self, x: torch.Tensor) -> Any:
        y = self.linear(x)
        self.seen.append(y.dtype)
        return y


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
        (Precision("bfloat16"), torch.bfloat16),
    ],
)
def test_layers_compute_in_it_and_losses_in_float32(precision: Any, dtype: torch.dtype) -> None:
    losses: list[tuple[torch.dtype, bool]] = []

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        losses.append((output.dtype, torch.is_autocast_enabled("cpu")))
        return F.cross_entropy(output, target)

    settings: dict[str, Any] = {"epochs": 1, "learning_rate": 0.01, "precision": precision}
    trained = fit(Watching(), task(loss=loss), **settings).model
    assert isinstance(trained, Watching)
    assert set(trained.seen) == {dtype}
    assert set(losses) == {(torch.float32, False)}
    assert trained.linear.weight.dtype == torch.float32


def test_an_outer_autocast_does_not_change_a_float32_training() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained = fit(Watching(), task(), epochs=1, learning_rate=0.01).model
    assert isinstance(trained, Watching)
    assert set(trained.seen) == {torch.float32}


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_it_learns_in_sixteen_bits(precision: str) -> None:
    settings: dict[str, Any] = {"epochs": 20, "learning_rate": 0.02, "precision": precision}
    fitted = fit(network(), task(), **settings)
    assert evaluate(fitted.model, task(), "validation").figure > 0.85
    assert fitted.record.settings["precision"]["dtype"] == precision


def test_an_overflow_skips_the_step_halves_the_scale_and_is_counted() -> None:
    """A scale so high that the gradients overflow until it has come down."""
    steps: list[Any] = []

    def spied(groups: Any, lr: float) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(groups, lr=lr)
        optimizer.register_step_post_hook(lambda *told: steps.append(told))
        return optimizer

    fitted = fit(
        Watching(),
        task(),
        epochs=3,
        learning_rate=0.01,
        optimizer=spied,
        precision=Precision("float16", initial_scale=2.0**22),
    )
    record = fitted.record
    assert record.num_steps == 18
    assert 0 < record.skipped < 9
    assert record.epochs[-1].skipped == 0, "overflows after the scale had come down"
    assert len(steps) == record.num_steps - record.skipped


def test_the_scale_grows_after_its_interval() -> None:
    """Skips come back at once when the scale is doubled every step: it climbs to the overflow."""
    often = Precision("float16", initial_scale=2.0**14, growth_interval=1)
    fitted = fit(Watching(), task(), epochs=10, learning_rate=0.01, precision=often)
    assert fitted.record.skipped > 2


def test_gradients_that_are_never_finite_end_the_training() -> None:
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * float("nan")

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(Broken.apply(output), target)

    small = Precision("float16", initial_scale=2.0)
    with pytest.raises(Diverged, match=r"not finite although the loss's scale is down to 0\.5 at"):
        fit(plain(), task(loss=loss), epochs=5, learning_rate=0.01, precision=small)


def test_a_layer_without_a_kernel_is_refused() -> None:
    """oneDNN has no LSTM in float16 on most CPUs; where it has one, it trains."""

    class Reading(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(2, 4, batch_first=True)
            self.out = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> Any:
            return self.out(self.lstm(x[:, None])[0][:, -1])

    fit(Reading(), task(), epochs=1, learning_rate=0.01, precision="bfloat16")
    with contextlib.suppress(Unsupported):
        fit(Reading(), task(), epochs=1, learning_rate=0.01, precision="float16")

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("\"lapack\" not implemented for 'Half'")

    with pytest.raises(Unsupported, match=r"this cpu cannot compute a layer .* in float16 \(\"lap"):
        fit(plain(), task(loss=loss), epochs=1, learning_rate=0.01, precision="float16")
    with pytest.raises(RuntimeError, match="lapack"):
        fit(plain(), task(loss=loss), epochs=1, learning_rate=0.01)


def test_clipping_sees_unscaled_gradients() -> None:
    """The norm in the record is the same whatever the scale."""
    norms = [
        fit(
            plain(),
            task(train=BATCHES[:1]),
            epochs=1,
            learning_rate=0.01,
            precision=Precision("float16", initial_scale=scale),
            tricks=Tricks(clip=1.0),
        )
        .record.epochs[0]
        .gradient_norm
        for scale in (1.0, 256.0)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=0.01)


@pytest.mark.parametrize(
    "settings",
    [
        {"dtype": "int8"},
        {"initial_scale": 0.5},
        {"initial_scale": float("inf")},
        {"growth_interval": 0},
    ],
)
def test_what_is_no_precision_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=r"Precision\("):
        Precision(**settings)
