"""Train mode and eval mode of an exported graph, and what is lost between the two.

A module looks at a flag when it is called; a graph was traced with the flag's value built into its
nodes: `batch_norm(…, training=False)`. `set_mode` rewrites those arguments wherever an operator has
one (batch-norm, instance-norm with running statistics, dropout, the recurrent networks, rrelu), and
the graph then trains like the module, bit for bit.

What eval mode took away altogether cannot come back: a dropout in eval mode is nothing, so the
tracer leaves no node for it, and stochastic depth is a Python `if`. `Traced.lost` names the modules
it was in. Trace with `training=True` to keep them; such a graph, set to eval mode, loses them then.

A counter stands still: `num_batches_tracked` is not in a graph traced in eval mode. It matters only
to a batch-norm that averages over all batches (momentum=None), which is refused.

Left out: switching off random operators that have no such argument (`bernoulli`, `rand`); they are
refused by name.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx

from burnish.errors import Unsupported
from burnish.graph._edit import finish, module_path, operator
from burnish.graph._functional import functionalize
from burnish.graph._trace import Traced

_FLAGS = ("train", "training", "use_input_stats")
_STATISTICS = "running_mean"
_COUNTER = "num_batches_tracked"


def set_mode(traced: Traced, training: bool, *, share: bool = False) -> Traced:
    """The same graph in the other mode.

    Args:
        traced: left as it was.
        training: train mode, or eval mode.
        share: let both graphs read the same tensors, so that training one trains the other. By
            default they are copied.

    Raises:
        Unsupported: a batch-norm that averages over all batches cannot train in a graph, a random
            operator without a mode cannot be switched off.
    """
    if share:
        graph = copy.deepcopy(traced.graph_module.graph)
        module = fx.GraphModule(traced.graph_module, graph, class_name="Graph")
    else:
        module = copy.deepcopy(traced.graph_module)
    lost: list[str] = []
    for node in list(module.graph.nodes):
        if isinstance(node.target, torch._ops.OpOverload):
            lost += _train(node) if training else _evaluate(node)
    if not training:
        functionalize(module)  # leaves out dropout in eval mode
    finish(module)
    return Traced(
        module,
        traced.inputs,
        traced.outputs,
        traced.tree,
        traced.call,
        training=training,
        lost=tuple(dict.fromkeys([*traced.lost, *lost])),
    )


def _train(node: fx.Node) -> list[str]:
    """Set a node to train mode; nothing is lost."""
    flag = _flag(node)
    if flag is None or _without_statistics(node):
        return []
    if operator(node) == "batch_norm" and _argument(node, "momentum") == 0.0:
        raise Unsupported(
            f"the batch-norm {module_path(node)!r} keeps a mean over all batches (momentum=None), "
            "or none (momentum=0), and a graph has no counter of batches to go by: set a momentum, "
            "as 0.1, and trace the model again"
        )
    _set(node, flag, True)
    return []


def _evaluate(node: fx.Node) -> list[str]:
    """Set a node to eval mode; the random operators this switches off for good."""
    if operator(node) == "add_" and _counts(node):
        node.graph.erase_node(node)
        return []
    name = module_path(node) or operator(node)
    if operator(node) == "scaled_dot_product_attention":
        chance = _argument(node, "dropout_p")
        _set(node, "dropout_p", 0.0)
        return [f"{name} (attention dropout, p={chance})"] if chance else []
    flag = _flag(node)
    if flag is None:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise Unsupported(
                f"the operator {operator(node)!r} of {name!r} draws at random, and a graph cannot "
                "tell whether it does so in eval mode, too: trace the model itself in eval mode"
            )
        return []
    if _without_statistics(node):
        return []
    _set(node, flag, False)
    if "dropout" not in operator(node):
        return []
    return [f"{name} ({operator(node)}, p={_argument(node, 'p')})"]


def _counts(node: fx.Node) -> bool:
    counted = node.args[0]
    return isinstance(counted, fx.Node) and str(counted.target).endswith(_COUNTER)


def _flag(node: fx.Node) -> str | None:
    """The name of the argument that holds an operator's mode."""
    names = [argument.name for argument in _arguments(node)]
    return next((name for name in _FLAGS if name in names), None)


def _without_statistics(node: fx.Node) -> bool:
    """A normalisation that keeps no running statistics does the same in both modes."""
    names = [argument.name for argument in _arguments(node)]
    return _STATISTICS in names and _argument(node, _STATISTICS) is None


def _argument(node: fx.Node, name: str) -> Any:
    """An argument's value, wherever it stands."""
    if name in node.kwargs:
        return node.kwargs[name]
    for index, argument in enumerate(_arguments(node)):
        if argument.name == name:
            return node.args[index] if index < len(node.args) else argument.default_value
    return None


def _arguments(node: fx.Node) -> list[Any]:
    """What an operator's schema says of its arguments."""
    assert isinstance(node.target, torch._ops.OpOverload)
    return list(node.target._schema.arguments)


def _set(node: fx.Node, name: str, value: Any) -> None:
    index = [argument.name for argument in _arguments(node)].index(name)
    if name not in node.kwargs and index < len(node.args):
        node.update_arg(index, value)
    else:
        node.update_kwarg(name, value)
