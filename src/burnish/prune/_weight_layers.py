"""The weights that can be masked, in a module or in a graph: where they are, what goes into them.

A weight goes by the name of its parameter, as `named_parameters` has it. In a module it is the
weight of a convolution or a linear layer; in a graph whatever a convolution or a linear operator
reads as its weight. Biases are those of the same layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from burnish.core import copied_model
from burnish.goal import Call
from burnish.graph import Traced, flatten_call, tensor_of

aten = torch.ops.aten
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_OPERATORS = frozenset(
    {
        *(aten.linear.default, aten.conv1d.default, aten.conv2d.default, aten.conv3d.default),
        *(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding),
    }
)


@dataclass(frozen=True, eq=False)
class Weight:
    """A parameter that can be masked, or is already.

    `value` is what the layer computes with, `mask` what it carries; `bias`: whether it is one.
    """

    name: str
    value: torch.Tensor
    bias: bool
    mask: torch.Tensor | None = None

    @property
    def kept(self) -> torch.Tensor:
        """What an earlier mask keeps, on the CPU; everything where there is none."""
        if self.mask is None:
            return torch.ones(self.value.shape, dtype=torch.bool)
        return self.mask.cpu() != 0


def weights_of(model: nn.Module) -> tuple[Weight, ...]:
    """All weights and biases of convolutions and linear layers, each once, in order."""
    found: dict[str, Weight] = {}
    seen: set[int] = set()
    for weight, parameter in _in_graph(model) if isinstance(model, Traced) else _in_module(model):
        if id(parameter) not in seen:
            seen.add(id(parameter))
            found[weight.name] = weight
    return tuple(found.values())


def _in_module(model: nn.Module) -> Iterator[tuple[Weight, torch.Tensor]]:
    """Weights with the parameters behind them."""
    for path, module in model.named_modules():
        if not isinstance(module, LAYERS):
            continue
        for leaf in ("weight", "bias"):
            name, bias = f"{path}.{leaf}" if path else leaf, leaf == "bias"
            plain, original = (module._parameters.get(key) for key in (leaf, f"{leaf}_orig"))
            if original is not None:
                mask = module.get_buffer(f"{leaf}_mask")
                yield Weight(name, original.detach() * mask, bias, mask), original
            elif plain is not None:
                yield Weight(name, plain, bias), plain


def _in_graph(traced: Traced) -> Iterator[tuple[Weight, torch.Tensor]]:
    """Weights with the parameters behind them."""
    module = traced.graph_module
    for node in module.graph.nodes:
        for bias in (False, True):
            name = stored_name(module, node, bias=bias)
            if name is None:
                continue
            stem = name.removesuffix("_orig")
            parameter = module.get_parameter(name)
            if stem == name:
                yield Weight(name, parameter, bias), parameter
            else:
                mask = module.get_buffer(f"{stem}_mask")
                yield Weight(stem, parameter.detach() * mask, bias, mask), parameter


def stored_name(module: fx.GraphModule, node: fx.Node, *, bias: bool = False) -> str | None:
    """The parameter that a convolution or linear operator reads as its weight, or as its bias.

    None where it reads none, or the node is another operator. A masked one ends in "_orig".
    """
    place = 2 if bias else 1
    if node.target not in _OPERATORS or len(node.args) <= place:
        return None
    tensor: Any = node.args[place]
    if not isinstance(tensor, fx.Node):
        return None
    source: Any = tensor.args[0] if _is_mask_product(tensor) else tensor
    stored = isinstance(tensor_of(module, source), nn.Parameter)
    return str(source.target) if stored else None


def _is_mask_product(node: fx.Node) -> bool:
    """Whether a node multiplies a stored weight with its mask."""
    if node.target is not aten.mul.Tensor:
        return False
    one, other = node.args
    return (
        isinstance(one, fx.Node)
        and isinstance(other, fx.Node)
        and str(one.target).endswith("_orig")
        and str(other.target).endswith("_mask")
    )


def input_norms(model: nn.Module, calls: Iterable[Call]) -> dict[str, torch.Tensor]:
    """For each weight the root of the summed squares of each of its inputs, over all calls.

    Shaped to multiply the weight: [inputs] of a linear layer, [inputs, 1, ...] of a convolution,
    [outputs, inputs/groups, 1, ...] of one with groups, each output with the inputs of its own.
    """
    work = copied_model(model).eval()
    totals: dict[str, torch.Tensor] = {}

    def note(name: str, weight: torch.Tensor, value: torch.Tensor) -> None:
        squares = value.detach().double().square()
        if weight.dim() == 2:
            sums = squares.flatten(0, -2).sum(0)
        else:
            channel = value.dim() - weight.dim() + 1
            sums = squares.movedim(channel, 0).flatten(1).sum(1)
            groups = len(sums) // weight.shape[1]
            window = [1] * (weight.dim() - 2)
            if groups > 1:
                own = sums.reshape(groups, -1).repeat_interleave(len(weight) // groups, 0)
                sums = own.reshape(len(weight), -1, *window)
            else:
                sums = sums.reshape(-1, *window)
        totals[name] = totals.get(name, torch.zeros_like(sums)) + sums

    with torch.no_grad():
        for call in calls:
            if isinstance(work, Traced):
                tensors = flatten_call(call.args, call.kwargs)
                _Noting(work.graph_module, note).run(*tensors)
            else:
                _run_noting(work, call, note)
    return {name: total.sqrt() for name, total in totals.items()}


class _Noting(fx.Interpreter):
    """Runs a graph and notes what goes into each layer."""

    def __init__(self, module: fx.GraphModule, note: Any) -> None:
        super().__init__(module)
        self._note = note

    def run_node(self, n: fx.Node) -> Any:
        """The node's value, after noting its input."""
        assert isinstance(self.module, fx.GraphModule)
        name = stored_name(self.module, n)
        if name is not None:
            args, _ = self.fetch_args_kwargs_from_env(n)
            value, tensor = args[:2]
            assert isinstance(value, torch.Tensor)
            assert isinstance(tensor, torch.Tensor)
            self._note(name.removesuffix("_orig"), tensor, value)
        return super().run_node(n)


def _run_noting(model: nn.Module, call: Call, note: Any) -> None:
    handles = []
    for path, module in model.named_modules():
        if isinstance(module, LAYERS):
            name = f"{path}.weight" if path else "weight"

            def hook(layer: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
                note(name, layer.weight, args[0])

            handles.append(module.register_forward_pre_hook(hook))
    try:
        model(*call.args, **call.kwargs)
    finally:
        for handle in handles:
            handle.remove()
