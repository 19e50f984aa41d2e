"""In-place operators, written as the functional ones they stand for.

`nn.ReLU(inplace=True)` and `x += y` stay `relu_` and `add_` in an exported graph. A method that
puts operators between two others must then know what else sees the tensor change. So `a.relu_()`
becomes `b = relu(a)`, and whatever read `a` afterwards reads `b`. That is the same only where
nobody else looks at a's memory: `a` is no view, no view of it is read later, and it is no parameter
or buffer, whose change outlives the call. Elsewhere the in-place operator stays, and is right.

Dropout in eval mode hands out its input itself and is left away.

Left out: torch's own functionalization (`run_decompositions`), which takes reshapes and batch-norm
apart as well.
"""

from __future__ import annotations

import torch
from torch import fx

# They may hand out their input itself, which their schema does not tell.
_MAY_ALIAS = frozenset(
    {
        *("contiguous", "to", "type_as", "sum_to_size", "reshape", "reshape_as", "flatten"),
        *("atleast_1d", "atleast_2d", "atleast_3d", "einsum", "meshgrid"),
    }
)

_DROPOUTS = ("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")


def functionalize(module: fx.GraphModule) -> None:
    """Replace in-place operators where that changes nothing else, in place."""
    for node in list(module.graph.nodes):
        if _name(node).rstrip("_") in _DROPOUTS and not node.args[2]:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
            continue
        functional = _functional(node)
        if functional is None or not _alone(node):
            continue
        value = node.args[0]
        with module.graph.inserting_before(node):
            new = module.graph.call_function(functional, node.args, node.kwargs)
        new.meta = node.meta.copy()
        node.replace_all_uses_with(new)
        value.replace_all_uses_with(new, delete_user_cb=lambda user, new=new: user > new)
        module.graph.erase_node(node)
    module.graph.lint()
    module.recompile()


def _name(node: fx.Node) -> str:
    """The name of an operator of torch's own; "" for anything else."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return ""
    return target._schema.name.removeprefix("aten::")


def _functional(node: fx.Node) -> torch._ops.OpOverload | None:
    """The functional twin of an in-place operator that gives a tensor of the same dtype."""
    target, name = node.target, _name(node)
    if not isinstance(target, torch._ops.OpOverload) or not name.endswith("_"):
        return None
    packet = getattr(torch.ops.aten, name[:-1], None)
    twin = getattr(packet, target._overloadname, None)
    if not isinstance(twin, torch._ops.OpOverload):
        return None
    theirs, ours = twin._schema.arguments[1:], target._schema.arguments[1:]
    same = [argument.name for argument in theirs] == [argument.name for argument in ours]
    tensors = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), torch.Tensor)]
    dtypes = {n.meta["val"].dtype for n in [*tensors, node]}
    return twin if same and len(dtypes) == 1 and next(iter(dtypes)).is_floating_point else None


def _alone(node: fx.Node) -> bool:
    """No other tensor shares the memory that `node` writes to, as far as anybody looks."""
    value = node.args[0]
    if not isinstance(value, fx.Node) or value.op not in ("call_function", "placeholder"):
        return False
    if value.op == "call_function" and _aliases(value):
        return False
    return not any(_aliases(user) for user in value.users if user < node)


def _aliases(node: fx.Node) -> bool:
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return True
    return _name(node) in _MAY_ALIAS or any(
        r.alias_info is not None for r in target._schema.returns
    )
