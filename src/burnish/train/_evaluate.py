"""The one loop that scores a split, whatever it is that answers.

`evaluate` calls anything callable, a module or an artifact behind a worker, on each batch of a
split and keeps one score per sample, so that two models can be compared pair by pair. Where the
metric has one figure for the whole set, outputs and targets are kept instead, joined along the
samples: arrays and tensors are concatenated, lists (of samples) are strung together, and tuples,
dicts and dataclasses are nesting.

A module in train mode is refused, not switched: whoever trains says when training is over.

Left out: moving batches to another device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from burnish.errors import InvalidInput
from burnish.goal import Task
from burnish.graph import Traced
from burnish.metrics import Metric, scores

Watch = Callable[[Iterable[Any], str], Iterable[Any]]


@dataclass(frozen=True, eq=False)
class Scores:
    """How well something did on a split of `n` samples.

    `figure` is the mean score, or what a set metric gives for the whole set. `values` holds one
    score per sample, float64 [n]; for a set metric it is None, and `outputs` and `targets` hold
    what the metric was given. `groups` holds one label per sample, or is None.
    """

    split: str
    metric: str
    n: int
    figure: float
    values: np.ndarray[Any, np.dtype[np.float64]] | None
    outputs: Any = None
    targets: Any = None
    groups: np.ndarray[Any, Any] | None = None


def evaluate(
    run: Callable[..., Any], task: Task, split: str, *, watch: Watch | None = None
) -> Scores:
    """Score `run` on a split of `task`, without gradients.

    Args:
        run: called with the arguments of each batch, or by `task.predict` where there is one.
        task: its metric, data, and the hooks `unpack`, `groups` and `predict`.
        split: "validation", "test", …
        watch: wraps an iterable with a title, as a progress bar does.

    Raises:
        InvalidInput: no data; a module in train mode; a metric that returns a wrong shape or NaN;
            outputs whose number of samples differs from the batch's.
    """
    _refuse_train_mode(run)
    kept = _Kept(task.metric)
    data = task.data(split)
    for batch in data if watch is None else watch(data, f"evaluating on {split}"):
        call = task.call(batch)
        with torch.inference_mode():
            if task.predict is not None:
                output = task.predict(run, batch)
            else:
                output = run(*call.args, **call.kwargs)
            size = kept.add(output, call.target)
        if task.groups is not None:
            kept.groups += _labels(task.groups(batch), size)
    return kept.scores(split)


class _Kept:
    """What is kept of each batch, until the split has been gone through."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.values: list[np.ndarray[Any, np.dtype[np.float64]]] = []
        self.outputs: list[Any] = []
        self.targets: list[Any] = []
        self.groups: list[Any] = []
        self.n = 0

    def add(self, output: Any, target: Any) -> int:
        """Take a batch in; how many samples it had."""
        if self.metric.kind == "set":
            size = _length(output, self.metric)
            _same_length(size, target, self.metric)
            self.outputs.append(output)
            self.targets.append(target)
        else:
            values = scores(self.metric, output, target)
            size = len(values)
            self.values.append(values)
        self.n += size
        return size

    def scores(self, split: str) -> Scores:
        """All batches together."""
        if not self.n:
            raise InvalidInput(f"the {split} data is empty: it gave no sample")
        groups = np.asarray(self.groups) if self.groups else None
        name = self.metric.name
        if self.metric.kind != "set":
            values = np.concatenate(self.values)
            return Scores(split, name, self.n, float(values.mean()), values, groups=groups)
        outputs, targets = _joined(self.outputs), _joined(self.targets)
        figure = _figure(self.metric, outputs, targets, split)
        return Scores(split, name, self.n, figure, None, outputs, targets, groups)


def _refuse_train_mode(run: Any) -> None:
    """Graphs carry their mode inside; their flags say nothing."""
    if isinstance(run, Traced) and run.training:
        raise InvalidInput(
            "the traced model is in train mode: call graph.set_mode(model, training=False) before "
            "evaluating it"
        )
    if not isinstance(run, nn.Module) or isinstance(run, Traced | torch.fx.GraphModule):
        return
    for name, module in run.named_modules():
        if module.training and not isinstance(module, Traced | torch.fx.GraphModule):
            what = f"its module {name!r}" if name else "the model"
            raise InvalidInput(f"{what} is in train mode: call model.eval() before evaluating it")


def _labels(labels: Any, size: int) -> list[Any]:
    found = labels.tolist() if isinstance(labels, torch.Tensor | np.ndarray) else list(labels)
    if len(found) != size:
        raise InvalidInput(
            f"Task(groups=…) returned {len(found)} labels for a batch of {size} samples: give one "
            "label per sample"
        )
    return found


def _length(value: Any, metric: Metric) -> int:
    """Samples in a nested value: the length of the first array or list in it."""
    parts = _parts(value)
    if parts is not None:
        for part in parts.values():
            if part is not None:
                return _length(part, metric)
    elif hasattr(value, "__len__") and not (hasattr(value, "shape") and not value.shape):
        return len(value)
    raise InvalidInput(
        f"metric {metric.name!r} has one figure for the whole set, so its outputs are kept sample "
        f"by sample, and a {type(value).__name__} holds no samples: return arrays with samples "
        "along axis 0, or a list of samples"
    )


def _same_length(size: int, target: Any, metric: Metric) -> None:
    wanted = size if target is None else _length(target, metric)
    if size != wanted:
        raise InvalidInput(
            f"metric {metric.name!r} needs outputs with samples along axis 0, or a list of "
            f"samples: a batch has outputs of {size} samples and targets of {wanted}"
        )


def _parts(value: Any) -> dict[Any, Any] | None:
    """What a value nests, by name or number; None where it is an array or a list of samples."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    return dict(enumerate(value)) if isinstance(value, tuple) else None


def _joined(values: Sequence[Any]) -> Any:
    """Batches of one nesting as one value of that nesting, with the samples of all."""
    first = values[0]
    if first is None:
        return None
    if isinstance(first, torch.Tensor):
        return torch.cat([value.detach() for value in values])
    parts = [_parts(value) for value in values]
    if parts[0] is None:
        if isinstance(first, list):
            return [sample for value in values for sample in value]
        return np.concatenate([np.asarray(value) for value in values])
    joined = {key: _joined([part[key] for part in parts if part]) for key in parts[0]}
    if isinstance(first, Mapping):
        return joined
    if isinstance(first, tuple):
        items = list(joined.values())
        return type(first)(*items) if hasattr(first, "_fields") else tuple(items)
    return dataclasses.replace(first, **joined)


def _figure(metric: Metric, outputs: Any, targets: Any, split: str) -> float:
    returned = metric.function(outputs, targets)
    array = np.asarray(returned.detach().cpu() if hasattr(returned, "detach") else returned)
    if array.size != 1 or array.dtype.kind not in "buif" or not np.isfinite(array).all():
        got = repr(array.item()) if array.size == 1 else f"shape {list(array.shape)}"
        raise InvalidInput(
            f"metric {metric.name!r} returned {got} for the {split} data, expected one finite "
            "number for the whole set"
        )
    return float(array.item())
