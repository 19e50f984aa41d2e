"""What each precision of each layer loses: the outputs' squared error with that alone changed.

int8 is `sensitivity` of the plan in which everything is int8: a layer's loss is its own row and
those of its followers. Layers without a row (an LSTM gives several values) are quantized alone and
the whole graph is run. For bfloat16 a layer's inputs, weights and result are rounded to it; for
int4 its stored matrices are put on the grid of their blocks, rounded to nearest. Then what hangs on
the layer runs again, as in the sensitivity. float32 loses nothing.

Losses are shares of the outputs' power, over at most `NUM_SAMPLES` calibration samples.

Left out: rounding by HQQ, GPTQ or AWQ (nearest is an upper bound for them); followers in bfloat16.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from burnish.core import Choices
from burnish.graph import Traced, operator, operator_names
from burnish.quantize._blocks.round import BlockSpec, dequantize_rounded, round_nearest
from burnish.quantize._calibration.calibrate import Statistics
from burnish.quantize._mixed.layers import Layer
from burnish.quantize._sensitivity.alone import Group, compute
from burnish.quantize._sensitivity.one_pass import Call, Reruns, power, prepared, squared_error
from burnish.quantize._sensitivity.sensitivity import sensitivity
from burnish.quantize._static.insert import insert
from burnish.quantize._static.static import QuantizeStatic

NUM_SAMPLES, AT_ONCE = 32, 8
Losses = dict[str, dict[str, float]]
Values = Mapping[fx.Node, Any]
Changed = Callable[[fx.Node, Values], Any]


def losses(
    folded: Traced,
    statistics: Statistics,
    layers: Sequence[Layer],
    precisions: Sequence[str],
    static: tuple[QuantizeStatic, Choices] | None,
    spec: BlockSpec,
) -> Losses:
    """The loss of each precision a layer can have.

    Args:
        folded: the float graph; left as it was.
        statistics: of its calibration, whose samples are run.
        layers: the layers.
        precisions: "float32", "bfloat16", "int8", "int4".
        static: the step and its choices with every layer in int8; None where int8 is not asked for.
        spec: the grid of int4 weights.

    Raises:
        Unsupported: an operator writes into its input.
    """
    calls = list(itertools.islice(statistics.sample.batches(AT_ONCE), NUM_SAMPLES // AT_ONCE))
    found: Losses = {layer.name: {} for layer in layers}
    for precision in precisions:
        able = [layer for layer in layers if precision not in layer.refused]
        if precision == "float32":
            own = {layer.name: 0.0 for layer in able}
        elif precision == "int8":
            assert static is not None
            own = _in_int8(folded, statistics, able, static, calls)
        else:
            changed = _in_bfloat16 if precision == "bfloat16" else _Blocks(spec)
            own = _output_errors(folded, able, changed, calls)
        for name, loss in own.items():
            found[name][precision] = loss
    return found


def _in_int8(
    folded: Traced,
    statistics: Statistics,
    layers: Sequence[Layer],
    static: tuple[QuantizeStatic, Choices],
    calls: Sequence[Call],
) -> dict[str, float]:
    step, choices = static
    found = dict.fromkeys((layer.name for layer in layers), 0.0)
    if not found:
        return found
    rows: dict[str, float] = {}
    if choices.plan["operators"]:
        table = sensitivity(folded, choices, calls)
        rows = {row.operator: row.output_error for row in table.rows}
    int8 = [*choices.plan["operators"], *choices.plan["recurrent"]]
    for layer in layers:
        found[layer.name] = sum(rows.get(name, 0.0) for name in (layer.name, *layer.followers))
        if layer.name not in rows:
            others = tuple(name for name in int8 if name != layer.name)
            alone = QuantizeStatic(step.runtime, exclude=others).choose_from(folded, statistics)
            found[layer.name] += _whole_error(folded, insert(folded.copy(), alone), calls)
    return found


def _whole_error(folded: Traced, other: Traced, calls: Sequence[Call]) -> float:
    """The outputs' squared error of another graph, as a share of their power."""
    error = whole = 0.0
    with torch.inference_mode():
        for call in calls:
            wanted = folded.graph_module(*call)
            error += squared_error(other.graph_module(*call), wanted)
            whole += power(wanted)
    return error / whole if whole else error


def _output_errors(
    folded: Traced, layers: Sequence[Layer], changed: Changed, calls: Sequence[Call]
) -> dict[str, float]:
    """The outputs' squared error when `changed` gives a layer's result, one layer at a time."""
    floats = prepared(folded)
    nodes = {name: node for node, name in operator_names(floats.graph_module).items()}
    groups = [_alone(nodes[layer.name], layer.name) for layer in layers]
    reruns = Reruns(floats, groups)
    errors, whole = dict.fromkeys((group.name for group in groups), 0.0), 0.0
    with torch.inference_mode():
        for call in calls:
            values = reruns.floats(call)
            wanted = reruns.results(values)
            whole += power(wanted)
            for group in groups:
                given = reruns.again(group, values, changed(group.node, values))
                errors[group.name] += squared_error(given, wanted)
    return {name: error / whole if whole else error for name, error in errors.items()}


def _alone(node: fx.Node, name: str) -> Group:
    """A group that is one operator, for what has to run again behind it."""
    return Group(name, node, {}, (node,), {}, {}, (), None, (None, None))


def _in_bfloat16(node: fx.Node, values: Values) -> Any:
    given = {source: _rounded(values[source]) for source in node.all_input_nodes}
    return _rounded(compute(node, given))


def _rounded(value: Any) -> Any:
    """To bfloat16 and back; what is no float32 tensor stays as it is."""
    if isinstance(value, list | tuple):
        return tuple(_rounded(part) for part in value)
    if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
        return value.bfloat16().float()
    return value


class _Blocks:
    """A layer's result with its stored matrices on the grid of their blocks."""

    def __init__(self, spec: BlockSpec) -> None:
        self.spec = spec
        self._known: dict[fx.Node, torch.Tensor] = {}

    def __call__(self, node: fx.Node, values: Values) -> Any:
        given = dict(values)
        for source in node.all_input_nodes:
            if source.op == "get_attr" and values[source].dim() > 1:
                if source not in self._known:
                    turned = operator(node) == "matmul"
                    self._known[source] = self._on_grid(values[source], turned)
                given[source] = self._known[source]
        return compute(node, given)

    def _on_grid(self, weight: torch.Tensor, turned: bool) -> torch.Tensor:
        rows = weight.t() if turned else weight
        matrix = rows.reshape(rows.shape[0], -1).contiguous()
        back = dequantize_rounded(round_nearest(matrix, self.spec), self.spec).reshape(rows.shape)
        return back.t() if turned else back
