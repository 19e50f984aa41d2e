"""Fake quantizers in a folded graph: what `PrepareQat.rewrite` does.

They stand where `QuantizeStatic` would put quantizers for the same plan, so that the graph computes
in float what the quantized one will compute on integers: every value of the plan behind its
operator, every stored weight before its own, biases on the grid of the accumulators. Rectifiers
stay: the quantizer behind saturates inside of them.

*Learned*: a parameter for each value, or for each group of values that share a scale, and one for
each output channel of a weight. *Observed*: values follow their extremes by a moving average, and
a weight's scales its largest magnitudes.

Weights that took in a batch-norm are constants of the folded graph; here they become parameters
again. What a later conversion must know stands in the nodes' `meta`: it survives training, which
copies graphs.

Left out: recurrent layers (`qat`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from operator import getitem

import torch
from torch import fx, nn

from burnish.core import Choices
from burnish.graph import (
    FAKE_BIAS,
    FAKE_QUANTIZE,
    LEARNED_SCALE,
    OBSERVED_SCALE,
    PER_TENSOR,
    PROGRESS,
    Traced,
    add_tensor,
    finish,
    operator,
    operator_names,
    tensor_of,
)
from burnish.quantize._graphs.node import bias_of, weight_axis
from burnish.quantize._graphs.policy import WEIGHTED, policy_for
from burnish.quantize._static.grids import has_weights
from burnish.quantize._static.insert import (
    becomes_product,
    behind,
    equalized,
    input_params,
    reroute,
    rounded_weight,
)
from burnish.quantize._tensors.weights import Grid

aten = torch.ops.aten
QAT_KEY = "burnish_qat"
_EDITED = "burnish_"  # what `add_tensor` calls the tensors of an edited graph
_KEPT = ("call", "runtime", "operators", "quantizers", "grids", "coverage")


def frozen_layers(traced: Traced) -> list[str]:
    """The operators whose stored weights take no gradients, by a user's wish or as constants.

    Weights that a step before has edited are constants of the graph, and no user froze them.
    """
    module, found = traced.graph_module, []
    for node, name in operator_names(module).items():
        if has_weights(module, node):
            weight = tensor_of(module, node.args[1])
            edited = str(node.args[1].target).startswith(_EDITED)  # type: ignore[union-attr]
            if weight is not None and not weight.requires_grad and not edited:
                found.append(name)
    return found


def insert_fakes(folded: Traced, choices: Choices) -> Traced:
    """Put fake quantizers into a folded graph, in place. InvalidInput for another model's plan.

    The plan is that of `QuantizeStatic` with "scales" ("learned" or "observed"), "frozen_from",
    "groups" {value: the one whose scale it shares} and "frozen" [operators not to be trained].
    """
    nodes = equalized(folded, choices)
    module, plan = folded.graph_module, choices.plan
    names = {id(entry): name for name, entry in plan["quantizers"].items()}
    reads = {name: names[id(entry)] for name, entry in input_params(nodes, plan).items()}
    fakes = _Fakes(module, choices)
    for name, entry in plan["quantizers"].items():
        readers = entry["readers"]
        wanted = None if readers is None else [nodes[reader] for reader in readers]
        fakes.value(nodes[name], name, wanted)
    for name in plan["operators"]:
        if has_weights(module, nodes[name]):
            fakes.weights(nodes[name], name, reads.get(name))
    output = next(node for node in module.graph.nodes if node.op == "output")
    output.meta[QAT_KEY] = {key: plan[key] for key in _KEPT}
    _make_trainable(module, nodes, plan["frozen"])
    finish(module)
    return folded


class _Fakes:
    """Writes fake quantizers, and remembers the parameters and scales that are there already."""

    def __init__(self, module: fx.GraphModule, choices: Choices) -> None:
        self.module, self.graph, self.choices = module, module.graph, choices
        self.plan = choices.plan
        self.learned = self.plan["scales"] == "learned"
        self.scales: dict[str, fx.Node] = {}
        self.held: dict[str, tuple[str, ...]] = {}
        self.units: dict[tuple[str, int | None], list[tuple[str, torch.Tensor]]] = {}
        self.members: dict[str, list[str]] = {}
        for name in self.plan["quantizers"]:
            self.members.setdefault(self._group(name), []).append(name)
        module.register_buffer(PROGRESS, torch.zeros(()))
        with self.graph.inserting_before(next(iter(self.graph.nodes))):
            self.progress = self.graph.get_attr(PROGRESS)

    def _group(self, value: str) -> str:
        return str(self.plan["groups"].get(value, value))

    def _tensors(self, key: str, first: Mapping[str, torch.Tensor]) -> list[fx.Node]:
        """Nodes that read the tensors held for `key`, which begin as `first`."""
        if key in self.held:
            return [self.graph.get_attr(target) for target in self.held[key]]
        nodes = [add_tensor(self.module, f"{key}_{end}", t) for end, t in first.items()]
        self.held[key] = tuple(str(node.target) for node in nodes)
        if "ratio" in first:
            _to_parameter(self.module, self.held[key][list(first).index("ratio")])
        return nodes

    def value(self, node: fx.Node, name: str, readers: list[fx.Node] | None) -> None:
        """Quantize a value for its readers; for all where they are None."""
        call = self.graph.call_function
        with self.graph.inserting_before(behind(node)):
            made: tuple[fx.Node, ...] = ()
            if self.learned:
                zero_point = float(self.plan["quantizers"][name]["zero_point"])
                zero = add_tensor(self.module, f"{name}_zero", torch.tensor(zero_point))
                unit = torch.tensor(self.plan["quantizers"][name]["scale"])
                scale = self._learned_scale(self._group(name), unit, name)
            else:
                made = (call(aten.detach.default, (node,)),)
                scale, zero = self._observed(made[0], name)
            fake = call(FAKE_QUANTIZE, (node, scale, zero, 0, 255, PER_TENSOR))
        fake.meta[QAT_KEY] = name
        self.scales[name] = scale
        reroute(node, fake, readers, but=(fake, *made))

    def _learned_scale(self, key: str, unit: torch.Tensor, name: str) -> fx.Node:
        first = {"ratio": torch.ones_like(unit), "unit": unit}
        settings = (self.progress, self.plan["frozen_from"], name, False)
        return self.graph.call_function(LEARNED_SCALE, (*self._tensors(key, first), *settings))

    def _observed(self, value: fx.Node, name: str) -> tuple[fx.Node, fx.Node]:
        entry, group = self.plan["quantizers"][name], self._group(name)
        zero, members = int(entry["zero_point"]), self.members[group]
        symmetric = policy_for(self.plan["runtime"]).symmetric and zero == 128
        low, high = (-127, 127) if symmetric else (-zero, 255 - zero)
        ends = torch.tensor([low, high], dtype=torch.float64) * entry["scale"]
        (seen,) = self._tensors(group, {"seen": ends.repeat(len(members), 1)})
        place = (members.index(name), symmetric, entry["scale"])
        observed = self.graph.call_function(
            OBSERVED_SCALE,
            (value, seen, self.progress, *place, self.plan["frozen_from"], name, False),
        )
        scale, zero_point = (self.graph.call_function(getitem, (observed, at)) for at in (0, 1))
        return scale, zero_point

    def weights(self, node: fx.Node, name: str, source: str | None) -> None:
        """Quantize the stored weight of an operator that reads the value `source`, and its bias."""
        module, call, tensors = self.module, self.graph.call_function, self.choices.tensors
        weight, corrected = tensor_of(module, node.args[1]), tensors.get(f"bias:{name}")
        assert weight is not None, name
        bias = bias_of(module, node) if corrected is None else corrected
        axis, args = weight_axis(node), list(node.args)
        grid = Grid(**self.plan["grids"].get(name, {}))
        input_scale = 1.0 if source is None else self.plan["quantizers"][source]["scale"]
        _, unit = rounded_weight(weight, axis, name, self.choices, bias, input_scale)
        with self.graph.inserting_before(node):
            if corrected is not None:
                args = [*args[:2], add_tensor(module, f"{name}_bias", corrected), *args[3:]]
            held = args[2] if bias is not None else None
            read_by = None if source is None else self.scales[source]
            key = self._alike(node, name, axis, unit)
            if self.learned:
                scale = self._learned_scale(key, unit, name)
            else:
                size = reach(weight, axis)
                share = torch.where(size > 0, unit.double() / size, 1.0 / grid.high)
                scale = call(followed_scale, (args[1], *self._tensors(key, {"share": share}), axis))
            where = PER_TENSOR if axis is None else axis
            fake = call(FAKE_QUANTIZE, (args[1], scale, None, grid.low, grid.high, where))
            if held is not None and not becomes_product(node):
                args[2] = call(FAKE_BIAS, (held, scale, read_by))
        fake.meta[QAT_KEY] = name
        args[1] = fake
        node.args = tuple(args)

    def _alike(self, node: fx.Node, name: str, axis: int | None, unit: torch.Tensor) -> str:
        """The key of the scales of a weight: that of an operator before with the same of both."""
        stored = str(node.args[1].target)  # type: ignore[union-attr]
        known = self.units.setdefault((stored, axis), [])
        for other, its_unit in known:
            if torch.equal(its_unit, unit):
                return other
        known.append((f"{name}_weight", unit))
        return f"{name}_weight"


def followed_scale(weight: torch.Tensor, share: torch.Tensor, axis: int | None) -> torch.Tensor:
    """Scales that are a constant share of each channel's largest magnitude, without gradients.

    The share is that of the first scale. At 8 bits it is 1/127, as rounding would choose for any
    weight. With fewer bits it clips as much as was best at first: searched for anew at each step,
    the best scale was seen to jump, and whole layers to be rounded otherwise from step to step.
    """
    return (share * reach(weight, axis)).clamp_min(1e-20).float()


def reach(weight: torch.Tensor, axis: int | None) -> torch.Tensor:
    """The largest magnitude for each index of `axis`, of all where it is None; float64."""
    size = weight.detach().abs()
    return (size.amax() if axis is None else size.movedim(axis, 0).flatten(1).amax(1)).double()


def _make_trainable(
    module: fx.GraphModule, nodes: Mapping[str, fx.Node], frozen: Collection[str]
) -> None:
    """Make parameters of the weights and biases that editing the graph made constants of."""
    for name, node in nodes.items():
        if name in frozen or not _weighted(node):
            continue
        for held in node.args[1:3]:
            held = _bare(held)
            if held is not None and str(held.target).startswith(_EDITED):
                _to_parameter(module, str(held.target))


def _weighted(node: fx.Node) -> bool:
    return operator(node) in WEIGHTED or operator(node) == "matmul"


def _bare(held: object) -> fx.Node | None:
    """The `get_attr` node of an argument, behind a fake quantizer or not."""
    if isinstance(held, fx.Node) and held.target in (FAKE_QUANTIZE, FAKE_BIAS):
        held = held.args[0]
    return held if isinstance(held, fx.Node) and held.op == "get_attr" else None


def _to_parameter(module: fx.GraphModule, name: str) -> None:
    tensor = module._buffers.pop(name, None)
    if tensor is not None:
        module.register_parameter(name, nn.Parameter(tensor))
