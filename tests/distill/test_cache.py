"""The teachers' outputs on disk: they are the teacher's own, found again by sample, never stale."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from burnish.distill import KD, Hint, LogitMSE, SelfTeacher, Tap, distill
from burnish.errors import Damaged, InvalidInput
from burnish.train import Fitted
from tests.distill.small import BATCHES, QUICK, Drawn, X, same_state, state, student, task, teacher

ASKED_BEFORE = 2  # on the example call


class Counting(nn.Module):
    """A teacher that counts how often it is asked, in a list its copies share."""

    def __init__(self, net: nn.Module, factor: float = 1.0) -> None:
        super().__init__()
        self.net = net
        self.factor = factor
        self.asked: list[int] = []

    def __deepcopy__(self, memo: Any) -> Counting:
        copied = Counting(teacher(), self.factor)
        copied.load_state_dict(self.state_dict())
        copied.asked = self.asked
        return copied

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(x))
        found: torch.Tensor = self.net(x)
        return self.factor * found


def counting(factor: float = 1.0) -> Counting:
    return Counting(teacher(), factor).eval()


def run(folder: Path | None, theirs: Any = None, train: Any = BATCHES, **changes: Any) -> Fitted:
    given = {**QUICK, "cache": folder, **changes}
    return distill(student(), theirs or counting(), task(train=train), **given)


def test_each_sample_is_answered_once(tmp_path: Path) -> None:
    theirs = counting()
    cached = run(tmp_path, theirs, epochs=3)
    # Six batches in the first epoch, one of the second again to compare.
    assert len(theirs.asked) == ASKED_BEFORE + len(BATCHES) + 1
    assert same_state(state(cached.model), state(run(None, epochs=3).model))
    again = counting()
    second = run(tmp_path, again, epochs=3)
    assert len(again.asked) == ASKED_BEFORE + 1
    assert same_state(state(cached.model), state(second.model))


def test_other_batches_in_another_order_are_found_sample_by_sample(tmp_path: Path) -> None:
    run(tmp_path)
    order = torch.randperm(96, generator=torch.Generator().manual_seed(3))
    y = torch.cat([y for _, y in BATCHES])
    mixed = [(X[part], y[part]) for part in order.split(24)]
    theirs = counting()
    cached = run(tmp_path, theirs, mixed)
    assert len(theirs.asked) == ASKED_BEFORE + 1
    fresh = run(None, None, mixed)
    for one, two in zip(cached.model.parameters(), fresh.model.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def noisy(number: int) -> Any:
    """Augmented by torch's generator, which fit seeds for each epoch."""
    x, y = BATCHES[number]
    return x + 0.1 * torch.randn(x.shape), y


def test_augmented_samples_are_kept_for_each_draw(tmp_path: Path) -> None:
    theirs = counting()
    run(tmp_path, theirs, Drawn(noisy))
    assert len(theirs.asked) == ASKED_BEFORE + 2 * 3
    again = counting()
    run(tmp_path, again, Drawn(noisy), epochs=3)
    assert len(again.asked) == ASKED_BEFORE + 1 + 3  # the third epoch is new
    other = counting()
    run(tmp_path, other, Drawn(noisy), seed=1)
    assert len(other.asked) == ASKED_BEFORE + 2 * 3


def test_an_augmentation_that_fit_does_not_seed_is_refused(tmp_path: Path) -> None:
    own = torch.Generator().manual_seed(0)

    def unseeded(number: int) -> Any:
        x, y = BATCHES[number]
        return x + 0.1 * torch.randn(x.shape, generator=own), y

    run(tmp_path, train=Drawn(unseeded))
    with pytest.raises(InvalidInput, match=r"stale.*was cached whole"):
        run(tmp_path, train=Drawn(unseeded))


@pytest.mark.parametrize("change", ["weights", "code", "precision", "number"])
def test_a_stale_cache_is_refused(tmp_path: Path, change: str) -> None:
    run(tmp_path)
    before = sorted(tmp_path.iterdir())
    theirs: Any = counting()
    changes: dict[str, Any] = {}
    if change == "weights":
        theirs.net[0].bias.data += 0.01
    elif change == "code":
        theirs.factor = 1.1
    elif change == "precision":
        changes["precision"] = "bfloat16"
    else:
        theirs = [theirs, counting(2.0)]
    with pytest.raises(InvalidInput, match="stale"):
        run(tmp_path, theirs, **changes)
    assert sorted(tmp_path.iterdir()) == before


def test_an_interrupted_epoch_is_kept_and_not_taken_for_whole(tmp_path: Path) -> None:
    class Stopping(Drawn):
        def __iter__(self) -> Iterator[Any]:
            yield BATCHES[0]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, train=Stopping(lambda number: BATCHES[number], num=6))
    theirs = counting()
    run(tmp_path, theirs, epochs=1)
    assert len(theirs.asked) == ASKED_BEFORE + 1 + 5


def test_every_teacher_is_kept(tmp_path: Path) -> None:
    both = [counting(), counting(2.0)]
    cached = run(tmp_path, both, epochs=3)
    assert [len(one.asked) for one in both] == [ASKED_BEFORE + len(BATCHES) + 1] * 2
    fresh = run(None, [counting(), counting(2.0)], epochs=3)
    assert same_state(state(cached.model), state(fresh.model))


def test_a_training_in_bfloat16_keeps_bfloat16(tmp_path: Path) -> None:
    run(tmp_path, precision="bfloat16")
    kept = [safetensors.torch.load_file(str(path)) for path in tmp_path.glob("*.safetensors")]
    rows = [tensor for one in kept for name, tensor in one.items() if not name.endswith(".keys")]
    assert {tensor.dtype for tensor in rows} == {torch.bfloat16}
    run(tmp_path, precision="bfloat16")


def test_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    safetensors.torch.save_file({"x": torch.zeros(2)}, str(tmp_path / "weights.safetensors"))
    with pytest.raises(InvalidInput, match="holds no outputs of teachers"):
        run(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"not a file of ours")
    with pytest.raises(Damaged, match="does not read"):
        run(tmp_path)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InvalidInput, match="is a file"):
        run(file)


def test_what_cannot_be_cached(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="needs the teacher's layers"):
        distill(student(), teacher(), task(), (Hint(Tap("0")),), cache=tmp_path, **QUICK)
    with pytest.raises(InvalidInput, match="changes at every step"):
        distill(student(), SelfTeacher(), task(), (KD(),), cache=tmp_path, **QUICK)

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = student()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x).mean(0)  # type: ignore[no-any-return]

    pooled = Pooled().eval()
    with pytest.raises(InvalidInput, match="sample by sample"):
        distill(pooled, pooled, task(loss=lambda output, target: output.sum()), (LogitMSE(),),
                cache=tmp_path, **QUICK)  # fmt: skip
