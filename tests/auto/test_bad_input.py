"""Bad input gets a clear error before any work is done, and leaves nothing behind."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from burnish.auto import optimize
from burnish.errors import BurnishError, InvalidInput, MissingExtra, Unsupported
from burnish.goal import Budget, Goal, Inputs, Target, Task
from burnish.metrics import Metric, top1
from tests.auto.made_up import (
    CLASSES,
    Exports,
    MadeUp,
    Net,
    batches,
    by_precision,
    data,
    goal,
    quietly,
    task,
    trained,
)

Made = Callable[[], Goal]


class NoWork(MadeUp):
    """A machine on which nothing may be timed."""

    def race(self, *_: Any) -> Any:
        raise AssertionError("work was done")


def refused(
    kind: type[BurnishError], wanted: Made, folder: Path, model: nn.Module | None = None
) -> str:
    """The message; nothing was timed and nothing was written."""
    with pytest.raises(kind) as caught:
        quietly(model or trained(), wanted(), NoWork(by_precision(2, 1)), folder / "run")
    assert list(folder.iterdir()) == []
    return str(caught.value)


# --- data

IMAGES, LABELS = data("validation", 400)
SPLITS = ("calibration", "validation", "test")


def having(split: str, found: Any) -> Task:
    """The task with another split."""
    changes: dict[str, Any] = {split: found}
    return task(**changes)


def spoilt(change: Callable[[torch.Tensor], torch.Tensor], split: str) -> list[Any]:
    """A split whose second batch is changed."""
    found = batches(data(split, 400))
    found[1] = (change(found[1][0]), found[1][1])
    return found


def with_value(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda images: torch.cat([images[:-1], torch.full_like(images[-1:], value)])


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_value(float("nan")), "batch 1: input '0' holds NaN; clean the data"),
        (with_value(float("inf")), "batch 1: input '0' holds infinity"),
        (lambda images: images[:, :, :4], "batch 1: input '0' has shape (100, 1, 4, 8)"),
        (lambda images: images.flatten(1), "batch 1: input '0' has shape (100, 64)"),
        (lambda images: images.double(), "batch 1: input '0' has dtype torch.float64"),
        (lambda images: images[:0], "batch 1: input '0' has shape (0, 1, 8, 8): no element"),
    ],
    ids=["NaN", "infinity", "shape", "rank", "dtype", "no sample"],
)
def test_data_that_cannot_be_used(
    tmp_path: Path, split: str, change: Callable[[torch.Tensor], torch.Tensor], said: str
) -> None:
    found = spoilt(change, split)
    message = refused(InvalidInput, lambda: goal(having(split, found)), tmp_path)
    assert f"{split} {said}" in message


@pytest.mark.parametrize("split", SPLITS)
def test_data_that_is_empty(tmp_path: Path, split: str) -> None:
    message = refused(InvalidInput, lambda: goal(having(split, [])), tmp_path)
    assert message == f"the {split} data is empty: it gave no batch"


@pytest.mark.parametrize("split", SPLITS)
def test_data_that_is_used_up_by_its_first_pass(tmp_path: Path, split: str) -> None:
    generator = (batch for batch in batches(data(split, 400)))
    message = refused(InvalidInput, lambda: goal(having(split, generator)), tmp_path)
    assert f"the {split} data is a generator, used up by its first pass" in message
    assert "as a list or a DataLoader" in message


class Once:
    """Looks as if it could be iterated again."""

    def __init__(self, found: list[Any]) -> None:
        self.left = iter(found)

    def __iter__(self) -> Iterator[Any]:
        return self.left


@pytest.mark.parametrize("split", SPLITS)
def test_data_that_hides_that_it_is_used_up(tmp_path: Path, split: str) -> None:
    found = Once(batches(data(split, 400)))
    message = refused(InvalidInput, lambda: goal(having(split, found)), tmp_path)
    assert f"the {split} data gave batches once and none the second time" in message


@pytest.mark.parametrize("split", ["calibration", "validation"])
def test_data_that_is_not_given(tmp_path: Path, split: str) -> None:
    message = refused(InvalidInput, lambda: goal(having(split, None)), tmp_path)
    assert message == f"this needs {split} data: give Task({split}=…)"


def test_test_data_that_overlaps_validation_data(tmp_path: Path) -> None:
    images, labels = data("test", 100)
    leaking = batches((torch.cat([images, IMAGES[7:10]]), torch.cat([labels, LABELS[7:10]])))
    message = refused(InvalidInput, lambda: goal(task(test=leaking)), tmp_path)
    assert "3 of 103 test samples are also in the validation data" in message
    assert "take them out" in message


def test_validation_data_that_is_shuffled(tmp_path: Path) -> None:
    from torch.utils.data import DataLoader, TensorDataset

    loader = DataLoader(TensorDataset(IMAGES, LABELS), 100, shuffle=True)
    message = refused(InvalidInput, lambda: goal(task(validation=loader)), tmp_path)
    assert "switch shuffling and random augmentation off" in message


# --- the metric


def correct(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output.argmax(1) == target).float()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda o, t: correct(o, t).mean(), "metric 'mine' returned shape [], expected [100]"),
        (lambda o, t: correct(o, t)[:, None], "metric 'mine' returned shape [100, 1]"),
        (lambda o, t: correct(o, t)[1:], "metric 'mine' returned shape [99]"),
        (lambda o, t: correct(o, t) / 0 * 0, "metric 'mine' returned NaN or infinity for 100"),
    ],
    ids=["averaged", "rank", "length", "NaN"],
)
def test_a_metric_that_returns_nonsense(tmp_path: Path, function: Any, said: str) -> None:
    metric = Metric("mine", function, "continuous")
    message = refused(InvalidInput, lambda: goal(task(metric=metric)), tmp_path)
    assert said in message


@pytest.mark.usefixtures("quick")
def test_a_metric_that_is_not_as_binary_as_it_says(tmp_path: Path) -> None:
    half = Metric("half", lambda o, t: correct(o, t) / 2, "binary")
    message = refused(InvalidInput, lambda: goal(task(metric=half)), tmp_path)
    assert "metric 'half' is binary and returned 0.5" in message
    assert "declare kind='continuous'" in message


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("figure", [float("nan"), torch.zeros(2)])
def test_a_metric_of_the_whole_set_that_returns_nonsense(tmp_path: Path, figure: Any) -> None:
    metric = Metric("auc", lambda outputs, targets: figure, "set")
    message = refused(InvalidInput, lambda: goal(task(metric=metric)), tmp_path)
    assert "metric 'auc' returned" in message
    assert "expected one finite number" in message


@pytest.mark.usefixtures("quick")
def test_a_metric_that_was_mended_carries_on_in_the_same_folder(tmp_path: Path) -> None:
    """The error left no run behind that the mended one would be refused for."""
    for version, function in (("1", lambda o, t: correct(o, t).mean()), ("2", correct)):
        wanted = goal(task(metric=Metric("mine", function, "binary", version=version)))
        bench = MadeUp(by_precision(2, 1))
        if version == "1":
            with pytest.raises(InvalidInput):
                quietly(trained(), wanted, bench, tmp_path / "run")
        else:
            result = quietly(trained(), wanted, bench, tmp_path / "run")
    assert result.report["pick"]["state"] == "verified"


# --- runtimes


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_runtime_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    find = importlib.util.find_spec

    def without(package: str, *more: Any) -> Any:
        return None if package == name else find(package, *more)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    target = Target(runtimes=("eager", name))
    message = refused(MissingExtra, lambda: Goal(task(), target), tmp_path)
    assert f"names {name}" in message
    assert f"pip install {name}" in message


def test_a_runtime_that_does_not_exist(tmp_path: Path) -> None:
    target = Target(runtimes=("tensorrt",))
    message = refused(InvalidInput, lambda: Goal(task(), target), tmp_path)
    assert "no runtime 'tensorrt': one of eager, inductor, onnxruntime, openvino" in message


@pytest.mark.usefixtures("quick")
def test_runtimes_that_are_not_installed_are_left_out_unless_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "burnish.auto._optimize.available",
        lambda: {"eager": "not today", "onnxruntime": None, "openvino": "not today"},
    )
    wanted = Goal(task(), Target(threads=1), Budget(max_drop=0.02))
    record = quietly(trained(), wanted, MadeUp(by_precision(2, 1)), tmp_path / "run").report
    assert {item["runtime"] for item in record["candidates"]} == {"onnxruntime"}


# --- the model


class Branching(Net):
    """What it does depends on the values in a tensor."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        if logits.sum() > 0:
            logits = logits + 1
        return logits


def test_a_model_that_cannot_be_exported_names_its_line(tmp_path: Path) -> None:
    model = Branching()
    model.load_state_dict(trained().state_dict())
    message = refused(Unsupported, goal, tmp_path, model.eval())
    lines, first = inspect.getsourcelines(Branching.forward)
    number = first + next(i for i, line in enumerate(lines) if "if logits" in line)
    assert f"{__file__}:{number}: if logits.sum() > 0:" in message
    assert "torch.where" in message


def test_a_model_of_one_batch_size_says_which_axis(tmp_path: Path) -> None:
    class Fixed(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.reshape(2, 1, 8, 8))

    wanted = goal(
        task(
            calibration=batches(data("calibration", 8), 2),
            validation=batches(data("validation", 8), 2),
            test=batches(data("test", 8), 2),
        )
    )
    message = refused(Unsupported, lambda: wanted, tmp_path, Fixed().eval())
    assert "the dynamic axis 'batch'" in message
    assert "Inputs(x, batch_axis=None)" in message


def test_what_is_no_model_and_no_task(tmp_path: Path) -> None:
    not_a_model: Any = lambda x: x  # noqa: E731
    with pytest.raises(InvalidInput, match="the model is a function"):
        optimize(not_a_model, goal(), run_folder=tmp_path / "run")
    not_a_task: Any = {"inputs": 1}
    with pytest.raises(InvalidInput, match="needs a Task or a Goal, not a dict"):
        optimize(trained(), not_a_task, run_folder=tmp_path / "run")
    not_a_target: Any = "cpu"
    with pytest.raises(InvalidInput, match=r"Goal\(target=…\) is a str"):
        optimize(trained(), task(), target=not_a_target, run_folder=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_model_nothing_of_which_can_be_quantized(quick: Exports, tmp_path: Path) -> None:
    """NoEffect, recorded with its reason; the float artifact is picked."""

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("patterns", data("mean", 400)[0][:CLASSES].flatten(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(x.flatten(1)[:, :CLASSES], 1)

    bench = MadeUp(by_precision(2, 1))
    record = quietly(Plain().eval(), goal(), bench, tmp_path / "run").report
    failures = {failure["label"]: failure["reason"] for failure in record["failures"]}
    assert set(failures) == {"onnxruntime int8", "onnxruntime int8 dynamic"}
    assert failures["onnxruntime int8"].startswith("NoEffect: no operator could be quantized")
    assert failures["onnxruntime int8 dynamic"].startswith("NoEffect: ")
    assert record["pick"]["label"] == "onnxruntime float32, 1 thread"


def test_an_example_that_does_not_fit_the_data(tmp_path: Path) -> None:
    wrong = task(inputs=Inputs(torch.zeros(2, 3, 8, 8)), metric=top1)
    message = refused(InvalidInput, lambda: goal(wrong), tmp_path)
    assert "has shape (32, 1, 8, 8), the example call (2, 3, 8, 8)" in message
