"""Calibration: one pass of data through the folded float graph, remembering sketches.

The graph is interpreted node by node, so a value is looked at when it is made and freed when its
last reader is done: memory is that of inference plus the sketches, whatever the number of batches.
Batches are cut into chunks of `CHUNK` samples: the working set stays in cache, and the memory is
that of a small batch. Convolution networks run in channels-last, which is faster on a CPU.

One calibration serves every runtime's placement and every later exclusion: it watches all values
that some policy could quantize.

Left out: running calibration on an exported artifact (faster still, but its values are fused away).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from burnish.errors import InvalidInput
from burnish.graph import Traced, operator, operator_names
from burnish.quantize._calibration.batches import channels_last, chunks, fast_copy
from burnish.quantize._calibration.observe import (
    FLOOR,
    Channels,
    Histogram,
    Thinned,
    channels,
    histogram,
    thinned,
)
from burnish.quantize._calibration.sample import Sample, empty_sample
from burnish.quantize._graphs.place import quantizable
from burnish.quantize._graphs.policy import POLICIES, WEIGHTED
from burnish.quantize._rescaling.equalize import Pair, depthwise_pairs

_RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})


@dataclass(frozen=True)
class Statistics:
    """What calibration saw, by the names of operators.

    `histograms` of values; `inputs` of weighted operators, channel by channel; `outputs` and
    `samples` of the values whose channels may be equalized; `sample`, whole inputs of the model.
    """

    histograms: dict[str, Histogram]
    inputs: dict[str, Channels]
    outputs: dict[str, Channels]
    samples: dict[str, Thinned]
    num_samples: int
    sample: Sample

    def merged(self, other: Statistics) -> Statistics:
        """The statistics of both data."""
        return Statistics(
            _merged(self.histograms, other.histograms),
            _merged(self.inputs, other.inputs),
            _merged(self.outputs, other.outputs),
            _merged(self.samples, other.samples),
            self.num_samples + other.num_samples,
            self.sample.merged(other.sample),
        )


def calibrate(
    traced: Traced,
    calls: Iterable[tuple[torch.Tensor, ...]],
    watch: Callable[[Iterable[Any], str], Iterable[Any]] | None = None,
) -> Statistics:
    """Run float data through a folded graph.

    Args:
        traced: the model with its batch-norms folded.
        calls: the tensors of each call, in the order of `traced.inputs`.
        watch: wraps an iterable with a title, as a progress bar does.

    Raises:
        InvalidInput: no calls, tensors that do not fit the model's inputs, or a value that is not
            finite (named).
    """
    observer = _Observer(traced)
    batches = calls if watch is None else watch(calls, "calibrating")
    with torch.inference_mode():
        for tensors in batches:
            check_call(traced, tensors)
            for chunk, size in chunks(traced, tensors):
                observer.observe(chunk, size)
    if observer.num_samples == 0:
        raise InvalidInput("the calibration data is empty: it gave no batch")
    return observer.statistics()


class _Observer(fx.Interpreter):
    """Interprets the graph and keeps the running sketches."""

    def __init__(self, traced: Traced) -> None:
        module = fast_copy(traced)
        super().__init__(module)
        self.names = operator_names(module)
        self.watched = _watched(module)
        self.axes = _batch_axes(traced, module)
        self.weighted = {
            node for node in self.names if node.op == "call_function" and operator(node) in WEIGHTED
        }
        self.pairs = {pair.value: pair for pair in depthwise_pairs(module)}
        self.num_samples = 0
        self.sample = empty_sample(traced)
        self.size = 0
        self._histograms: dict[str, Histogram] = {}
        self._inputs: dict[str, Channels] = {}
        self._outputs: dict[str, Channels] = {}
        self._samples: dict[str, Thinned] = {}

    def observe(self, tensors: tuple[torch.Tensor, ...], size: int) -> None:
        self.size = size
        self.run(*(channels_last(tensor) for tensor in tensors))
        self.sample = self.sample.observe(tensors)
        self.num_samples += size

    def run_node(self, n: fx.Node) -> Any:
        if n in self.weighted:
            self._see_input(n)
        value = super().run_node(n)
        name = self.names.get(n)
        if name in self.watched and isinstance(value, torch.Tensor):
            self._see(n, name, value)
        return value

    def _see(self, node: fx.Node, name: str, value: torch.Tensor) -> None:
        known = self._histograms.get(name)
        axis = self.axes.get(node)
        if axis is not None and value.shape[axis] % self.size:
            axis = None
        seen = histogram(value, self.size, known.exponent if known else FLOOR, axis)
        if not (abs(seen.low) < float("inf") and abs(seen.high) < float("inf")):
            raise InvalidInput(
                f"calibration: the value of {name} is not finite ({seen.low} to {seen.high}); the "
                "model overflows on this data, or is not a number in itself"
            )
        self._histograms[name] = known.merged(seen) if known else seen
        pair = self.pairs.get(node)
        if pair is not None:
            self._see_channels(name, value, pair)

    def _see_channels(self, name: str, value: torch.Tensor, pair: Pair) -> None:
        seen = channels(value, pair.axis, extremes=True)
        known = self._outputs.get(name)
        self._outputs[name] = known.merged(seen) if known else seen
        sample = thinned(value, pair.axis, self.size)
        before = self._samples.get(name)
        self._samples[name] = before.merged(sample) if before else sample

    def _see_input(self, node: fx.Node) -> None:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        value = self.env[source]
        seen = channels(value, input_axis(node, value.dim()), extremes=False)
        name = self.names[node]
        known = self._inputs.get(name)
        self._inputs[name] = known.merged(seen) if known else seen

    def statistics(self) -> Statistics:
        return Statistics(
            self._histograms,
            self._inputs,
            self._outputs,
            self._samples,
            self.num_samples,
            self.sample,
        )


def input_axis(node: fx.Node, rank: int) -> int:
    """The channel axis of a weighted operator's input of that rank."""
    kind = operator(node)
    if kind == "linear":
        return rank - 1
    return rank - 1 - int(kind[-2])


def _watched(module: fx.GraphModule) -> set[str]:
    """What some policy may quantize, and what recurrent layers read and hand on."""
    found: set[str] = set()
    for policy in POLICIES.values():
        found |= quantizable(module, policy)
    names = operator_names(module)
    for node in names:
        if node.op == "call_function" and operator(node) in _RECURRENT:
            around = [node.args[0], *(user for user in node.users if user.args[1:] == (0,))]
            found |= {names[n] for n in around if isinstance(n, fx.Node) and n in names}
    return found


def _batch_axes(traced: Traced, module: fx.GraphModule) -> dict[fx.Node, int]:
    """The axis of each value that grows with the batch; values that have none are left out."""
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    symbols = {
        str(node.meta["val"].shape[slot.shape.index("batch")])
        for node, slot in zip(placeholders, traced.inputs, strict=True)
        if "batch" in slot.shape
    }
    found: dict[fx.Node, int] = {}
    for node in module.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            grown = [axis for axis, size in enumerate(value.shape) if symbols & _symbols(size)]
            if grown:
                found[node] = grown[0]
    return found


def _symbols(size: Any) -> set[str]:
    if not isinstance(size, torch.SymInt):
        return set()
    return {str(symbol) for symbol in size.node.expr.free_symbols}


def check_call(traced: Traced, tensors: tuple[torch.Tensor, ...]) -> None:
    if len(tensors) != len(traced.inputs):
        raise InvalidInput(
            f"a calibration batch holds {len(tensors)} tensors, the model takes "
            f"{', '.join(slot.name for slot in traced.inputs)}"
        )
    for slot, tensor in zip(traced.inputs, tensors, strict=True):
        fits = len(slot.shape) == tensor.dim() and all(
            isinstance(want, str) or want == got
            for want, got in zip(slot.shape, tensor.shape, strict=True)
        )
        dtype = str(tensor.dtype).removeprefix("torch.")
        if not fits or dtype != slot.dtype:
            raise InvalidInput(
                f"calibration: the input {slot.name!r} is {dtype} {list(tensor.shape)}, the model "
                f"was traced with {slot.dtype} {list(slot.shape)}"
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InvalidInput(f"calibration: the input {slot.name!r} holds NaN or infinity")


def _merged(mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    both = dict(mine)
    for name, value in theirs.items():
        both[name] = both[name].merged(value) if name in both else value
    return both
