"""A tiny model: one topology, small enough to trace in a second, with the data that suits it.

A `Tiny` is a recipe, not a model: `build` makes a fresh one each time, from a seed that is its
name, so that two builds are equal bit for bit and no test can spoil another's. Batch-norm gets
running statistics and an affine part away from 0 and 1, because a batch-norm that does nothing
hides every mistake made in folding it.

Left out: models that learn anything. Weights are as they were drawn.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from burnish.errors import InvalidInput
from burnish.goal import Goal, Inputs, Task
from burnish.graph import Traced, flatten, trace
from burnish.metrics import Metric

Sampler = Callable[[torch.Generator, Mapping[str, int]], Inputs]


@dataclass(frozen=True)
class Tiny:
    """A tiny model of one topology.

    Args:
        name: unique in the catalogue.
        make: makes the model, its weights drawn from torch's global generator.
        sample: draws one call from a generator, given the size of each dynamic axis, "batch" among
            them.
        topologies: what is in it, as "batch_norm", "residual", "keyword_inputs".
        dynamic: sizes of the dynamic axes beyond the batch, by name.
        recurrent: holds an LSTM or a GRU.
    """

    name: str
    make: Callable[[], nn.Module]
    sample: Sampler
    topologies: frozenset[str]
    dynamic: Mapping[str, int] = field(default_factory=dict, hash=False)
    recurrent: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "topologies", frozenset(self.topologies))
        object.__setattr__(self, "dynamic", MappingProxyType(dict(self.dynamic)))

    def build(self) -> nn.Module:
        """A fresh model in eval mode; every build has the same weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(self.name.encode()))
            model = self.make()
            for module in model.modules():
                _unsettle(module)
        return model.eval()

    def inputs(self, batch: int = 2, seed: int = 0, **sizes: int) -> Inputs:
        """An example call of `batch` samples; `sizes` sets further dynamic axes by name.

        Raises:
            InvalidInput: a size for an axis this model does not have.
        """
        for name in sizes:
            if name not in self.dynamic:
                known = ", ".join(self.dynamic) or "none beyond the batch"
                raise InvalidInput(f"{self.name} has no dynamic axis {name!r}; it has {known}")
        generator = torch.Generator().manual_seed(seed)
        return self.sample(generator, {**self.dynamic, **sizes, "batch": batch})

    def call(self, model: Callable[..., Any], inputs: Inputs) -> Any:
        """What `model` returns for `inputs`, without gradients."""
        with torch.no_grad():
            return model(*inputs.args, **inputs.kwargs)

    def trace(self) -> Traced:
        """A fresh model, traced with its dynamic axes."""
        inputs = self.inputs()
        axes = {leaf.key: leaf.axes for leaf in inputs.leaves()}
        return trace(self.build(), inputs.args, inputs.kwargs, axes)

    def goal(self, seed: int = 0) -> Goal:
        """A goal in which the model's own outputs are the targets, so that it scores 0, the best.

        Twelve samples each to calibrate, train, validate and test. The score of a sample is the
        mean squared error of the first output.
        """
        model, batch_axis = self.build(), self.inputs().leaves()[0].batch_axis() or 0
        error = _SquaredError(batch_axis)

        def split(first: int) -> list[tuple[Inputs, torch.Tensor]]:
            drawn = [self.inputs(4, seed=first + i) for i in range(3)]
            return [(inputs, error.samples(self.call(model, inputs))) for inputs in drawn]

        task = Task(
            inputs=self.inputs(),
            metric=Metric("squared_error", error, "continuous", higher_is_better=False),
            calibration=split(100),
            train=split(200),
            validation=split(300),
            test=split(400),
            loss=error.mean,
            unpack=_as_pair,
        )
        return Goal(task, seed=seed)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class _SquaredError:
    """Compares a model's first output, its samples along `batch_axis`, with targets [batch, …]."""

    batch_axis: int

    def samples(self, output: Any) -> torch.Tensor:
        """The first output with its samples along axis 0."""
        return flatten(output)[0][0].movedim(self.batch_axis, 0)

    def __call__(self, output: Any, target: torch.Tensor) -> torch.Tensor:
        """One score for each sample, [batch]."""
        return (self.samples(output) - target).square().flatten(1).mean(1)

    def mean(self, output: Any, target: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar."""
        return self(output, target).mean()


def _as_pair(batch: tuple[Inputs, torch.Tensor]) -> tuple[Inputs, torch.Tensor]:
    return batch


def batches(tiny: Tiny, num: int, size: int, seed: int = 0) -> list[Any]:
    """`num` batches of `size` samples without targets, in the form a `Task` takes apart by itself.

    A bare tensor for one positional input, a tuple for several, a dict for keywords. Dynamic axes
    beyond the batch keep their default sizes.
    """
    return [_as_batch(tiny.inputs(size, seed=seed * 100_003 + 1 + i)) for i in range(num)]


def _as_batch(inputs: Inputs) -> Any:
    if inputs.kwargs:
        return dict(inputs.kwargs)
    return inputs.args[0] if len(inputs.args) == 1 else tuple(inputs.args)


def _unsettle(module: nn.Module) -> None:
    if not isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        return
    assert module.running_mean is not None and module.running_var is not None
    with torch.no_grad():
        module.running_mean.normal_(0.0, 0.3)
        module.running_var.uniform_(0.5, 2.0)
        module.weight.uniform_(0.5, 1.5)
        module.bias.normal_(0.0, 0.3)
