"""Cross-layer equalization: two neighbouring layers share the reach of the channels between them.

Channel i, made by W1 and read by W2 with a positively homogeneous function between, may be divided
by s_i in W1 (and its bias) and multiplied by s_i in W2. With r1 and r2 the largest magnitudes of
the weights that make and read it, s = sqrt(r1 r2) / r2 gives both the same reach, sqrt(r1 r2), and
that maximizes the precision the two share (Nagel, van Baalen, Blankevoort, Welling 2019; Meller,
Finkelstein, Almog, Grobman 2019). Along a chain a layer is second in one pair and first in the
next, so the pairs are gone through again and again until no factor moves by more than `SETTLED`.

No data is needed: weights stand for the activations they make. Factors stay within 1/100 and 100 in
all: a channel whose weights are all but zero would else blow up its bias.

Left out: ReLU6, SiLU and GELU in between (they do not commute: reported, never replaced); values
that several layers read; absorbing high biases into the next layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import fx, nn

from burnish.core import Choices, Rewrite
from burnish.errors import NoEffect
from burnish.goal import Goal, Inputs
from burnish.graph import Traced, finish, operator, operator_names, scale_outputs, tensor_of
from burnish.quantize._graphs.coverage import Coverage
from burnish.quantize._graphs.entry import (
    float_graph,
    fold,
    planned,
    refuse_quantized,
    trace_for,
    trace_inputs,
)
from burnish.quantize._graphs.node import groups_of, readers
from burnish.quantize._graphs.policy import CONVOLUTIONS, WEIGHTED
from burnish.quantize._rescaling.carry import (
    Path,
    Paths,
    follow,
    own_tensors,
    shared_tensors,
)
from burnish.quantize._rescaling.scale import (
    input_reach,
    input_shaped,
    output_reach,
    scale_made,
    scale_read,
)

EQUALIZED, LEFT = "equalized", "left alone"
ROUNDS = 50
SETTLED = 1e-3
LARGEST = 100.0
_NEEDED = 1.01


@dataclass(frozen=True)
class CrossLayerEqualization(Rewrite):
    """Equalize the weights of neighbouring layers, without changing the function. No settings."""

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        """Decide from the weights; no data is read."""
        return self.choose_from(fold(trace_for(model, goal)))

    def choose_from(self, folded: Traced) -> Choices:
        """Decide for a graph whose batch-norms are folded.

        Raises:
            NoEffect: no two layers to equalize, or all of them equal; with the reasons.
            InvalidInput: a model that is quantized already.
        """
        refuse_quantized(folded, "CrossLayerEqualization")
        pairs, left = _pairs(folded)
        if not pairs:
            lines = [f"\n  {name}: {why}" for name, why in list(left.items())[:8]]
            raise NoEffect(f"CrossLayerEqualization: no two layers to equalize{''.join(lines)}")
        rounds, factors = _settle(folded.graph_module, pairs)
        return _choices(folded, pairs, left, rounds, factors)

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        """The equalized float graph. Pure: equal choices give equal graphs."""
        return _equalized(float_graph(model, choices), choices)


def equalize_cross_layer(model: nn.Module, example: Any) -> Traced:
    """Cross-layer equalization as a function: the same model, easier to quantize.

    Args:
        model: in eval mode; left as it was.
        example: one batch, as for `quantize_static`: what the model is traced with.

    Returns:
        A float module called like the original, with the same outputs to float rounding.

    Raises:
        NoEffect: no two layers to equalize, or all of them equal.
        Unsupported: the model cannot be exported.
    """
    step = CrossLayerEqualization()
    folded = fold(trace_inputs(model, Inputs.of(example)))
    result = step.rewrite(folded, step.choose_from(folded))
    assert isinstance(result, Traced)
    return result


@dataclass(frozen=True)
class Neighbours:
    """Two layers; `origin` is the first's channel for each channel the second reads."""

    first: fx.Node
    second: fx.Node
    origin: torch.Tensor


def _pairs(folded: Traced) -> tuple[list[Neighbours], dict[str, str]]:
    module = folded.graph_module
    names, shared = operator_names(module), shared_tensors(module)
    paths, found = Paths(module), list[tuple[fx.Node, Path]]()
    left: dict[str, str] = {}
    for node in names:
        if node.op != "call_function" or operator(node) not in WEIGHTED:
            continue
        path = _path(module, node, paths, shared)
        if isinstance(path, str):
            left[names[node]] = path
        else:
            found.append((node, path))
    ends = [(path, _axis(node)) for node, path in found]
    pairs = []
    for (node, path), origin in zip(found, follow(folded, ends, folded.example()), strict=True):
        if isinstance(origin, str):
            left[names[node]] = origin
        else:
            pairs.append(Neighbours(path.source, node, origin))
    return pairs, left


def _path(
    module: fx.GraphModule, node: fx.Node, paths: Paths, shared: dict[fx.Node, str]
) -> Path | str:
    reason = _unfit(module, node, shared)
    if reason is not None:
        return reason
    value = node.args[0]
    assert isinstance(value, fx.Node)
    if any(reader is not node for reader in readers(value)):
        return "its input is read by other operators, too"
    path = paths.to(value)
    if isinstance(path, str):
        return path
    if operator(path.source) not in WEIGHTED:
        return f"a {operator(path.source)} is in front, no layer whose weights could share"
    reason = _unfit(module, path.source, shared)
    return path if reason is None else f"the layer before: {reason}"


def _unfit(module: fx.GraphModule, node: fx.Node, shared: dict[fx.Node, str]) -> str | None:
    weight = tensor_of(module, node.args[1])
    if weight is None:
        return "its weight is computed, not stored"
    if len(node.args) > 2 and node.args[2] is not None and tensor_of(module, node.args[2]) is None:
        return "its bias is computed, not stored"
    if weight.dim() < 2 or node.meta["val"].dim() < weight.dim():
        return "it computes one sample without a batch"
    return own_tensors(node, shared)


def _axis(node: fx.Node) -> int:
    """The axis of the channels that a layer reads, from the end."""
    return -1 if operator(node) == "linear" else -1 - int(operator(node)[-2])


def _settle(module: fx.GraphModule, pairs: list[Neighbours]) -> tuple[int, list[torch.Tensor]]:
    """The factors s of each pair's channels, float64, and the rounds it took."""
    weights: dict[fx.Node, torch.Tensor] = {}
    for pair in pairs:
        for node in (pair.first, pair.second):
            weight = tensor_of(module, node.args[1])
            assert weight is not None
            weights.setdefault(node, weight.detach().double())
    total = [torch.ones_like(output_reach(p.first, weights[p.first])) for p in pairs]
    for number in range(1, ROUNDS + 1):
        moved = 0.0
        for index, pair in enumerate(pairs):
            wanted = total[index] * _factor(pair, weights)
            new = wanted.clamp(1 / LARGEST, LARGEST)
            step = new / total[index]
            moved = max(moved, float(step.log().abs().max()))
            total[index] = new
            _apply(pair, weights, step)
        if moved < SETTLED:
            return number, total
    return ROUNDS, total


def _factor(pair: Neighbours, weights: Mapping[fx.Node, torch.Tensor]) -> torch.Tensor:
    """sqrt(r1 r2) / r2 for each channel of the first; 1 where either is zero."""
    made = output_reach(pair.first, weights[pair.first])
    read = torch.zeros_like(made).scatter_reduce(
        0, pair.origin, input_reach(pair.second, weights[pair.second]), "amax"
    )
    alive = (made > 0) & (read > 0)
    return torch.where(alive, (made / read.clamp_min(1e-300)).clamp_min(1e-300).sqrt(), 1.0)


def _apply(pair: Neighbours, weights: dict[fx.Node, torch.Tensor], factor: torch.Tensor) -> None:
    first, second = pair.first, pair.second
    transposed = operator(first) not in CONVOLUTIONS | {"linear"}
    weights[first] = scale_outputs(weights[first], 1 / factor, transposed, groups_of(first))
    shaped = input_shaped(second, weights[second], factor[pair.origin])
    weights[second] = weights[second] * shaped


def _choices(
    folded: Traced,
    pairs: list[Neighbours],
    left: dict[str, str],
    rounds: int,
    factors: list[torch.Tensor],
) -> Choices:
    """The plan: {"call", "rounds", "pairs": [{"first", "second", "largest"}], "coverage"}; tensors:
    what the first layer's outputs and the second one's inputs are multiplied by."""
    names = operator_names(folded.graph_module)
    rows, tensors, states = [], dict[str, torch.Tensor](), dict[str, tuple[str, str]]()
    for name, why in left.items():
        states[name] = (LEFT, why)
    for pair, factor in zip(pairs, factors, strict=True):
        first, second = names[pair.first], names[pair.second]
        largest = float(torch.maximum(factor, 1 / factor).max())
        if largest < _NEEDED:
            states.setdefault(second, (LEFT, f"its channels are as large as {first} makes them"))
            continue
        rows.append({"first": first, "second": second, "largest": largest})
        tensors[f"made:{second}"] = 1 / factor
        tensors[f"read:{second}"] = factor[pair.origin]
        states[second] = (EQUALIZED, f"with {first} before it")
    if not rows:
        raise NoEffect("CrossLayerEqualization: all neighbouring layers are equal already")
    kinds = {name: operator(node) for node, name in names.items()}
    coverage = [Coverage(n, kinds[n], *states[n]) for n in kinds if n in states]
    plan = {
        "call": dict(folded.call),
        "rounds": rounds,
        "pairs": rows,
        "coverage": [asdict(row) for row in coverage],
    }
    return Choices(plan, tensors)


def _equalized(folded: Traced, choices: Choices) -> Traced:
    module = folded.graph_module
    pairs = choices.plan["pairs"]
    nodes = planned(module, (n for pair in pairs for n in (pair["first"], pair["second"])))
    for pair in pairs:
        first, second = nodes[pair["first"]], nodes[pair["second"]]
        scale_made(module, first, choices.tensors[f"made:{pair['second']}"])
        scale_read(module, second, choices.tensors[f"read:{pair['second']}"])
    finish(module)
    return folded
