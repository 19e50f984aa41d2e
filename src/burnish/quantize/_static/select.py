"""Choosing, value by value, the range method whose readers' outputs err least.

What a range costs is not told by the value's own error: an operator may average the rounding away
and suffer from the clipping, or the other way round. So each method's range is tried: the value is
quantized and dequantized with it, the operators that read it are run alone, with their weights
rounded as they will be, and their outputs compared with the float ones, in squared error relative
to the output's own square. All values and ranges are tried in one pass over the float graph, on
samples that calibration kept. The mean error that the rounded weights cause is taken off first, as
bias correction will.

Values that share a scale are chosen for together, by the sum over all their readers. Ranges that
are all but equal are tried once. Where no operator with weights and no matrix product reads a
value, there is no output to judge by, and the squared error of the value itself chooses.

After the layer-wise search of Wu, Tang, Zhao, Zhang, Fu and Zhang, 2020 (EasyQuant), which moves
the scale itself by the similarity of outputs; here the candidates are what the observers propose.

Left out: combinations of ranges (each value is judged with all others in float); weights of fewer
than 8 bits (the range is judged with 8); recurrent layers (judged by the value's own error).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from burnish.errors import InvalidInput
from burnish.graph import Traced, operator, operator_names, tensor_of
from burnish.quantize._calibration.batches import CHUNK, channels_last, fast_copy
from burnish.quantize._calibration.calibrate import Statistics, input_axis
from burnish.quantize._calibration.observe import Histogram
from burnish.quantize._calibration.range import METHODS, Method, Params, choose_range
from burnish.quantize._calibration.sample import Sample
from burnish.quantize._graphs.coverage import Placement
from burnish.quantize._graphs.node import stored_matrix, weight_axis
from burnish.quantize._graphs.policy import PRODUCTS, WEIGHTED
from burnish.quantize._static.bias import fast_shift
from burnish.quantize._tensors.weights import along, round_weight, weight_scales

NUM_SAMPLES = 32
FALL_BACK: Method = "squared error"


@dataclass(frozen=True)
class Gain:
    """A value whose channels along `axis` will be multiplied by `factor` before it is quantized."""

    axis: int
    factor: torch.Tensor


def select_ranges(
    folded: Traced,
    placement: Placement,
    histograms: Mapping[str, Histogram],
    statistics: Statistics,
    *,
    symmetric: bool,
    gains: Mapping[str, Gain] | None = None,
) -> dict[str, Method]:
    """The method for each group of values that share a scale.

    Args:
        folded: the float graph; not changed.
        placement: whose quantizers and groups to choose for.
        histograms: what was seen of each group, gains included.
        statistics: of the calibration: its samples are run, its means correct biases.
        symmetric: as for `choose_range`.
        gains: of values that depthwise equalization will rescale.

    Raises:
        InvalidInput: the statistics kept no samples.
    """
    if statistics.sample.num == 0:
        raise InvalidInput(
            'ranges="per layer" runs calibration samples again, and these statistics kept none: '
            "calibrate on data"
        )
    candidates = {
        group: _distinct({m: choose_range(hist, m, symmetric) for m in METHODS})
        for group, hist in histograms.items()
    }
    trial = _Trial(folded, placement, candidates, statistics, gains or {})
    with torch.inference_mode():
        for call in _calls(statistics.sample):
            trial.run(*(channels_last(tensor) for tensor in call))
    return {
        group: min(trial.errors[group], key=trial.errors[group].__getitem__)
        if group in trial.errors
        else FALL_BACK
        for group in candidates
    }


def _calls(sample: Sample) -> Iterator[tuple[torch.Tensor, ...]]:
    """The least hashes of the sample come first: any number of them is a sample itself."""
    return itertools.islice(sample.batches(CHUNK), NUM_SAMPLES // CHUNK)


def _distinct(ranges: Mapping[Method, Params]) -> dict[Method, Params]:
    """Without those within 1 % of one before: the squared error's stands for its like."""
    kept: dict[Method, Params] = {}
    for method, mine in ranges.items():
        alike = (
            abs(mine.scale / other.scale - 1) < 0.01
            and abs(mine.zero_point - other.zero_point) <= 1
            for other in kept.values()
        )
        if not any(alike):
            kept[method] = mine
    return kept


@dataclass(frozen=True)
class _Read:
    """One input of an operator that comes from a quantized value."""

    position: int
    group: str
    gain: Gain | None


class _Trial(fx.Interpreter):
    """Interprets the float graph and sums each range's relative output error."""

    def __init__(
        self,
        folded: Traced,
        placement: Placement,
        candidates: Mapping[str, Mapping[Method, Params]],
        statistics: Statistics,
        gains: Mapping[str, Gain],
    ) -> None:
        module = fast_copy(folded)
        super().__init__(module)
        self.graph_of = module
        self.names = operator_names(module)
        self.candidates = candidates
        self.means = {name: seen.mean for name, seen in statistics.inputs.items()}
        int8 = set(placement.int8())
        found = {
            node: _reads(node, self.names, placement, gains)
            for node, name in self.names.items()
            if name in int8 and operator(node) in WEIGHTED | PRODUCTS
        }
        # A value with one candidate has nothing to choose.
        self.reads = {
            node: [read for read in reads if len(candidates[read.group]) > 1]
            for node, reads in found.items()
        }
        self.rounded: dict[fx.Node, _Rounded] = {}
        self.errors: dict[str, dict[Method, float]] = {}

    def run_node(self, n: fx.Node) -> Any:
        reads = self.reads.get(n)
        if not reads:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        value = super().run_node(n)
        if n not in self.rounded:
            self.rounded[n] = self._round(n, value.dim())
        rounded = self.rounded[n]
        wanted = value if rounded.shift is None else value + rounded.shift
        norm = float(value.float().square().sum())
        for read in reads:
            inputs = list(args)
            if rounded.weight is not None:
                inputs[1] = rounded.weight
            errors = self.errors.setdefault(
                read.group, dict.fromkeys(self.candidates[read.group], 0.0)
            )
            for method, params in self.candidates[read.group].items():
                inputs[read.position] = _seen_through(args[read.position], params, read.gain)
                assert callable(n.target)
                error = n.target(*inputs, **kwargs) - wanted
                errors[method] += float(error.square_().sum()) / max(norm, 1e-30)
        return value

    def _round(self, node: fx.Node, rank: int) -> _Rounded:
        kind, name = operator(node), self.names[node]
        stored = kind in WEIGHTED or stored_matrix(self.graph_of, node) is not None
        weight = tensor_of(self.graph_of, node.args[1]) if stored else None
        if weight is None:
            return _Rounded(None, None)
        axis = weight_axis(node)
        scale = weight_scales(weight, axis, None, 1.0)
        rounded = round_weight(weight, scale, axis).float() * along(scale, weight, axis)
        if name not in self.means:
            return _Rounded(rounded, None)
        shift = fast_shift(node, weight, rounded, self.means[name]).float()
        shape = [1] * rank
        shape[input_axis(node, rank)] = -1
        return _Rounded(rounded, shift.reshape(shape))


@dataclass(frozen=True)
class _Rounded:
    """An operator's weights on their grid, and the mean output error they cause."""

    weight: torch.Tensor | None
    shift: torch.Tensor | None


def _reads(
    node: fx.Node, names: Mapping[fx.Node, str], placement: Placement, gains: Mapping[str, Gain]
) -> list[_Read]:
    found = []
    for position, source in enumerate(node.args[: 1 if operator(node) in WEIGHTED else 2]):
        value = _quantized(source, names, placement)
        if value is not None:
            found.append(_Read(position, placement.groups[value], gains.get(value)))
    return found


def _quantized(source: Any, names: Mapping[fx.Node, str], placement: Placement) -> str | None:
    """The quantized value an input comes from, over what moves data or concatenates."""
    while isinstance(source, fx.Node) and source in names:
        if names[source] in placement.quantizers:
            return names[source]
        source = source.args[0] if source.args else None
        # All that a concatenation without a quantizer of its own reads has one scale.
        source = source[0] if isinstance(source, list | tuple) else source
    return None


def _seen_through(x: torch.Tensor, params: Params, gain: Gain | None) -> torch.Tensor:
    """Quantized and dequantized."""
    factor = None if gain is None else along(gain.factor, x, gain.axis).to(x.dtype)
    steps = (x if factor is None else x * factor) / params.scale
    steps.round_().clamp_(-params.zero_point, params.levels - params.zero_point)
    back = steps.mul_(params.scale)
    return back if factor is None else back.div_(factor)
