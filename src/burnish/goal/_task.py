"""The task: an example call, the data, the metric, and the few hooks real models need.

Data is any *re-iterable* of batches, as a DataLoader or a Hugging Face loader gives them. A batch
becomes `(args, kwargs, target)`: by `unpack` where given, else by a guess that covers the common
forms (a tensor; a tuple of inputs and a target; a dict whose keys name the inputs). The guess is
checked against the example call before any work is done, so a wrong guess is an error, never a
wrong number.

Left out: streaming data of unknown length (a quality verdict needs the same samples twice).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from burnish.errors import InvalidInput
from burnish.goal._inputs import BATCH, Inputs, leaves_of
from burnish.metrics import Metric

SPLITS = ("calibration", "validation", "test", "train")
TARGET_KEYS = ("labels", "label", "targets", "target", "y")


@dataclass(frozen=True, eq=False)
class Call:
    """A batch taken apart: the call of the model, and what the metric compares it with."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: Any


@dataclass(frozen=True, eq=False)
class Task:
    """What the model is for.

    Args:
        inputs: one example call (`Inputs`), or a bare tensor or tuple for `Inputs(x)`. Dynamic axes
            other than the batch have a size of 2 or more in it.
        metric: how good an answer is.
        validation: batches the search may look at as often as it likes.
        test: batches looked at once, for the pick.
        calibration: batches without targets needed, for ranges and bias correction.
        train: batches for steps that train.
        loss: `loss(output, target) -> scalar tensor`, for steps that train.
        unpack: `unpack(batch) -> (Inputs | tensor | tuple | list | dict, target)`; a dict holds the
            keyword arguments, unless the example call is one positional dict.
        groups: `groups(batch) -> one label per sample`, where samples are not independent.
        predict: `predict(run, batch) -> output for the metric`, where pre- or post-processing
            surrounds the network; `run(*args, **kwargs)` calls it.
    """

    inputs: Any
    metric: Metric
    validation: Iterable[Any] | None = None
    test: Iterable[Any] | None = None
    calibration: Iterable[Any] | None = None
    train: Iterable[Any] | None = None
    loss: Callable[[Any, Any], torch.Tensor] | None = None
    unpack: Callable[[Any], tuple[Any, Any]] | None = None
    groups: Callable[[Any], Sequence[Any]] | None = None
    predict: Callable[[Callable[..., Any], Any], Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.inputs, Inputs):
            object.__setattr__(self, "inputs", Inputs(self.inputs))
        if not isinstance(self.metric, Metric):
            raise InvalidInput(
                f"Task(metric=…) is a {type(self.metric).__name__}: give a burnish.metrics.Metric, "
                "as burnish.metrics.top1 or Metric(name, function, kind)"
            )
        for leaf in self.inputs.leaves():
            for axis, name in leaf.axes.items():
                if name != BATCH and leaf.tensor.shape[axis] < 2:
                    raise InvalidInput(
                        f"dynamic axis {name!r} has size 1 in input {leaf.key!r} of the example "
                        "call: torch.export takes a size of 1 for a constant; give an example with "
                        "2 or more"
                    )
        for split in SPLITS:
            data = getattr(self, split)
            if data is None:
                continue
            if not isinstance(data, Iterable):
                raise InvalidInput(
                    f"the {split} data is a {type(data).__name__}, not an iterable of batches: "
                    "give a list of batches, or wrap it in a DataLoader"
                )
            if isinstance(data, Iterator):
                raise InvalidInput(
                    f"the {split} data is a {type(data).__name__}, used up by its first pass: give "
                    "something that can be iterated again, as a list or a DataLoader"
                )

    def data(self, split: str) -> Iterable[Any]:
        """The batches of a split. InvalidInput where the task has none."""
        data: Iterable[Any] | None = getattr(self, split)
        if data is None:
            raise InvalidInput(f"this needs {split} data: give Task({split}=…)")
        return data

    def calls(self, split: str) -> Iterator[Call]:
        """The batches of a split, taken apart."""
        return (self.call(batch) for batch in self.data(split))

    def call(self, batch: Any) -> Call:
        """One batch, taken apart by `unpack` or by the guess. InvalidInput where neither fits."""
        if self.unpack is None:
            return self._guess(batch)
        try:
            unpacked = self.unpack(batch)
        except Exception as error:
            raise InvalidInput(
                f"Task(unpack=…) fails on a batch that is {_describe(batch)}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not (isinstance(unpacked, list | tuple) and len(unpacked) == 2):
            raise InvalidInput(
                "Task(unpack=…) must return the pair (inputs, target), and returned "
                f"{_describe(unpacked)}"
            )
        return self._unpacked(*unpacked)

    def _unpacked(self, inputs: Any, target: Any) -> Call:
        if isinstance(inputs, Inputs):
            return Call(inputs.args, inputs.kwargs, target)
        forms = [Call((inputs,), {}, target)]
        if isinstance(inputs, Mapping):
            forms.insert(0, Call((), dict(inputs), target))
        elif isinstance(inputs, list | tuple):
            forms.insert(0, Call(tuple(inputs), {}, target))
        return next((form for form in forms if self._fits(form)), forms[0])

    def _guess(self, batch: Any) -> Call:
        """The common forms in turn; the first that calls the model as the example does."""
        for form in self._forms(batch):
            if self._fits(form):
                return form
        args, kwargs = self.inputs.args, self.inputs.kwargs
        raise InvalidInput(
            f"cannot tell inputs from target in a batch that is {_describe(batch)}, for a model "
            f"called with {len(args)} positional and {len(kwargs)} keyword arguments: give "
            "Task(unpack=lambda batch: (inputs, target))"
        )

    def _forms(self, batch: Any) -> Iterator[Call]:
        args = self.inputs.args
        # What is no tensor in the example call is the same in every call.
        tensors = [name for name, value in self.inputs.kwargs.items() if leaves_of((value,), {})]
        fixed = {k: v for k, v in self.inputs.kwargs.items() if k not in tensors}
        if isinstance(batch, torch.Tensor):
            yield Call((batch,), fixed, None)
        elif isinstance(batch, Mapping):
            target = next((batch[k] for k in TARGET_KEYS if k in batch and k not in tensors), None)
            if tensors and all(name in batch for name in tensors):
                yield Call((), {name: batch[name] for name in tensors} | fixed, target)
            rest = tuple(value for key, value in batch.items() if key not in TARGET_KEYS)
            if len(rest) == 1:  # of several, nothing says which is the first argument
                yield Call(rest, fixed, target)
            if len(args) == 1 and isinstance(args[0], Mapping):
                yield Call(({k: batch[k] for k in args[0] if k in batch},), fixed, target)
        elif isinstance(batch, list | tuple):
            if len(batch) == 2 and isinstance(batch[0], Mapping):
                named = {name: batch[0][name] for name in tensors if name in batch[0]}
                yield Call((), named | fixed, batch[1])
            if len(batch) == len(args) + 1:
                yield Call(tuple(batch[:-1]), fixed, batch[-1])
            yield Call(tuple(batch), fixed, None)

    def _fits(self, call: Call) -> bool:
        """Whether a call has the tensors of the example call, by their keys."""
        keys = [key for key, _ in leaves_of(call.args, call.kwargs)]
        return keys == [leaf.key for leaf in self.inputs.leaves()]


def _describe(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a {type(batch).__name__} with keys {', '.join(map(repr, batch))}"
    if isinstance(batch, list | tuple):
        kinds = ", ".join(type(item).__name__ for item in batch[:8])
        return f"a {type(batch).__name__} of {len(batch)} ({kinds})"
    return f"a {type(batch).__name__}"
