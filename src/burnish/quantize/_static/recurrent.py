"""LSTM layers in a statically quantized graph.

*OpenVINO* has an int8 LSTM. Its kernel knows one scale for input and hidden state, with zero point
128, and one for both weights. A hidden state lies within -1 and 1, an input anywhere: so the input
is brought to the state's range, its integers read on the state's grid (x / k), and the input's
weights carry the k. A larger k leaves more steps to the hidden state and fewer to its weights;
the k is taken that leaves the gates the least error, each rounding counted as uniform noise and
inputs as a third of their range. Layers behind the first read hidden states: k is 1 there at once.
*onnxruntime* has no LSTM with fixed ranges: its LSTM with ranges taken at run time stands in.

Inputs are seen on the calibration sample, in float, largest magnitude (no range method: one
outlier of an LSTM's input is as much of a signal as any).

Left out: GRU (OpenVINO's int8 kernel has no form with the reset gate behind the product, which is
torch's; onnxruntime has none at all) and plain RNN.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from burnish.graph import (
    DEQUANTIZE,
    PER_TENSOR,
    QUANTIZE,
    STATIC_LSTM,
    Traced,
    add_tensor,
    operator_names,
)
from burnish.quantize._calibration.sample import Sample
from burnish.quantize._dynamic.insert import Inserter
from burnish.quantize._graphs.coverage import INT8, Coverage
from burnish.quantize._graphs.policy import REASONS
from burnish.quantize._graphs.recurrent import Layer, read, refusal
from burnish.quantize._graphs.recurrent import replace as replace_layers

aten = torch.ops.aten
NAME_KEY = "burnish"
_FACTORS = torch.logspace(-2.0, 1.0, 61, dtype=torch.float64).tolist()
_AT_RUN_TIME = "ranges are taken at run time: onnxruntime has no LSTM with fixed ones"


def decide_recurrent(
    folded: Traced, rows: Sequence[Coverage], sample: Sample, runtime: str
) -> tuple[dict[str, Any], tuple[Coverage, ...]]:
    """What becomes of each LSTM that nobody excluded, and the rows that say so.

    Returns:
        {operator: {"ranges": "run time"} or {"factors": [k of each layer], "scale": of an input
        divided by it and of the hidden state}}, and all rows.
    """
    module = folded.graph_module
    nodes = {name: node for node, name in operator_names(module).items()}
    asked = [row.operator for row in rows if row.kind == "lstm" and row.reason == REASONS["lstm"]]
    plan: dict[str, Any] = {}
    changed: dict[str, Coverage] = {}
    largest = _largest_inputs(folded, [nodes[n] for n in asked], sample, runtime)
    for row in rows:
        if row.operator not in asked:
            continue
        why_not = refusal(module, nodes[row.operator])
        if why_not:
            changed[row.operator] = replace(row, reason=why_not)
        elif runtime == "onnxruntime":
            plan[row.operator] = {"ranges": "run time"}
            changed[row.operator] = replace(row, state=INT8, reason=_AT_RUN_TIME)
        else:
            layers = read(module, nodes[row.operator]).layers
            seen = largest[row.operator]
            ends = [seen if index == 0 else 1.0 for index in range(len(layers))]
            factors = [_factor(layer, end) for layer, end in zip(layers, ends, strict=True)]
            scales = [max(e / k, 1.0) / 127 for e, k in zip(ends, factors, strict=True)]
            plan[row.operator] = {"factors": factors, "scales": scales}
            changed[row.operator] = replace(row, state=INT8, reason="")
    return plan, tuple(changed.get(row.operator, row) for row in rows)


class _Inputs(fx.Interpreter):
    """The largest magnitude that some nodes read first."""

    def __init__(self, module: fx.GraphModule, nodes: Sequence[fx.Node]) -> None:
        super().__init__(module)
        self.seen = dict.fromkeys(nodes, 0.0)

    def run_node(self, n: fx.Node) -> Any:
        if n in self.seen:
            value = self.fetch_args_kwargs_from_env(n)[0][0]
            assert isinstance(value, torch.Tensor)
            self.seen[n] = max(self.seen[n], float(value.abs().max()))
        return super().run_node(n)


def _largest_inputs(
    folded: Traced, nodes: Sequence[fx.Node], sample: Sample, runtime: str
) -> dict[str, float]:
    if runtime == "onnxruntime" or not nodes:
        return {}
    names = operator_names(folded.graph_module)
    interpreter = _Inputs(folded.graph_module, nodes)
    with torch.no_grad():
        for tensors in sample.batches():
            interpreter.run(*tensors)
    return {names[node]: max(seen, 1e-6) for node, seen in interpreter.seen.items()}


def _factor(layer: Layer, end: float) -> float:
    """The k to divide an input of this largest magnitude by."""
    wide, deep = layer.w.double(), layer.r.double()
    width, hidden = wide.shape[2], deep.shape[2]

    def error(k: float) -> float:
        step = max(end / k, 1.0) / 127
        grid = max(k * float(wide.abs().max()), float(deep.abs().max())) / 127
        inputs = float((k * wide).square().sum(2).mean() + deep.square().sum(2).mean())
        power = width * (end / k / 3) ** 2 + hidden / 9
        return float(step * step * inputs + grid * grid * power)

    return float(min((factor * end for factor in (*_FACTORS, 1.0 / end)), key=error))


def insert_recurrent(
    module: fx.GraphModule, nodes: Mapping[str, fx.Node], plan: Mapping[str, Any]
) -> None:
    """Put the int8 forms of a plan's LSTMs into a graph, in place."""
    inserter = Inserter(module, False)
    for name, entry in plan.items():
        if "factors" not in entry:
            inserter.replace(nodes[name], name, "lstm")
            continue
        _insert(module, nodes[name], name, entry)


def _insert(module: fx.GraphModule, node: fx.Node, name: str, entry: Mapping[str, Any]) -> None:
    found = read(module, node)

    def build(x: fx.Node, states: list[fx.Node], index: int) -> list[fx.Node]:
        ranges = entry["factors"][index], entry["scales"][index]
        return _layer(module, f"{name}_{index}", found.layers[index], x, states, *ranges)

    replace_layers(module, node, found, build)


def _layer(
    module: fx.GraphModule,
    name: str,
    layer: Layer,
    x: fx.Node,
    states: list[fx.Node],
    k: float,
    scale: float,
) -> list[fx.Node]:
    """The output and last states of one layer, each direction an operator of its own."""
    call = module.graph.call_function
    zero = add_tensor(module, f"{name}_zero", torch.tensor(128, dtype=torch.uint8))
    of_input = add_tensor(module, f"{name}_input_scale", torch.tensor(k * scale))
    of_state = add_tensor(module, f"{name}_scale", torch.tensor(scale))

    def on_grid(value: fx.Node, read_with: fx.Node) -> fx.Node:
        integers = call(QUANTIZE, (value, read_with, zero, PER_TENSOR))
        return call(DEQUANTIZE, (integers, of_state, zero, PER_TENSOR))

    x = on_grid(x, of_input)
    count, results = layer.w.shape[0], []
    for d in range(count):
        h, c = (call(aten.slice.Tensor, (state, 0, d, d + 1)) for state in states)
        wide, deep = layer.w[d : d + 1] * k, layer.r[d : d + 1]
        grid = torch.maximum(wide.abs().max(), deep.abs().max()) / 127
        tensors = [
            add_tensor(module, f"{name}_{d}_{part}", tensor)
            for part, tensor in (
                ("w", (wide / grid).round().to(torch.int8)),
                ("r", (deep / grid).round().to(torch.int8)),
                ("weight_scale", grid),
                ("bias", layer.bias[d : d + 1]),
            )
        ]
        one = call(STATIC_LSTM, (x, on_grid(h, of_state), c, *tensors, scale, d == 1))
        results.append([call(operator.getitem, (one, part)) for part in range(3)])
    joined = [list(parts) for parts in zip(*results, strict=True)]
    if count == 1:
        return [parts[0] for parts in joined]
    axes = (2, 0, 0)
    return [call(aten.cat.default, both) for both in zip(joined, axes, strict=True)]
