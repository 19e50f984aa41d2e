"""The user's own class with fewer channels, where its code allows that.

The module's tensors are cut as the graph's are, under the same names, and the sizes that torch's
own layers keep beside them (`out_channels`, `groups`, `normalized_shape`, ...) are set anew. What
the user's code has written down itself (a number of heads, a size in a reshape) nobody here can
know. So before that form is chosen the module is called once, beside the shrunk graph: where it
fails, or says anything else, it is refused, with the line it failed on, and the graph is taken. So
is a module with layers that only training reads (auxiliary heads): the graph of eval mode does not
know what they are coupled to, so that they kept their width while what they read lost some.

Left out: nn.MultiheadAttention with fewer heads, whose forward insists on its width.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from burnish.core import copied_model
from burnish.errors import Unsupported
from burnish.goal import Inputs
from burnish.graph import Traced, flatten, operator, operator_names

MODULE, GRAPH = "module", "graph"
_TOLERANCE = 1e-4
_NOT_THE_USERS = tuple(
    f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1])
)


def shrink_module(model: nn.Module, small: Traced) -> nn.Module:
    """A copy of `model` without the channels that `small`, its graph, has lost.

    Raises:
        Unsupported: a constant is to be folded into a bias that the module does not have.
    """
    copied = copied_model(model)
    own, new = _tensors(copied), _tensors(small.graph_module)
    if any(name.startswith("burnish_") and name.endswith("_bias") for name in new):
        raise Unsupported(
            "a constant that removed channels held goes into the bias of the layer that reads "
            "them, which the module does not have; the graph is used instead"
        )
    # Of tied tensors the graph knows one name.
    cut = {id(t): new[f"model.{name}"] for name, t in own.items() if f"model.{name}" in new}
    made = {id(t): _like(t, cut[id(t)]) for t in own.values() if id(t) in cut}
    for name, tensor in own.items():
        if id(tensor) in made:
            path, _, leaf = name.rpartition(".")
            setattr(copied.get_submodule(path), leaf, made[id(tensor)])
    for node, name in operator_names(small.graph_module).items():
        path = name.rpartition(":")[0]
        if node.op == "call_function" and path:
            _set_sizes(copied.get_submodule(path), operator(node), node)
    return copied


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _set_sizes(module: Any, kind: str, node: fx.Node) -> None:
    """The sizes one of torch's own layers keeps beside its tensors."""
    if isinstance(module, nn.modules.conv._ConvNd) and kind.startswith("conv"):
        rows, columns = module.weight.shape[:2]
        groups: Any = node.args[6] if len(node.args) > 6 else 1
        sizes = (columns * groups, rows)
        module.groups = groups
        module.in_channels, module.out_channels = sizes[::-1] if module.transposed else sizes
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        module.num_features = int(node.meta["val"].shape[1])
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and kind in ("layer_norm", "rms_norm"):
        normalized: Any = node.args[1]
        module.normalized_shape = tuple(normalized)
    elif isinstance(module, nn.GroupNorm) and kind == "group_norm":
        groups = node.args[1]
        module.num_groups = groups
        module.num_channels = len(module.weight) if module.affine else module.num_channels
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = module.weight.shape[1]
    elif isinstance(module, nn.RNNBase):
        _set_recurrent(module)


def _set_recurrent(module: Any) -> None:
    module.input_size = module.weight_ih_l0.shape[1]
    module.hidden_size = module.weight_ih_l0.shape[0] // {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    if module.proj_size:
        module.proj_size = module.weight_hr_l0.shape[0]
    module._init_flat_weights()


def _like(old: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    found = value.detach().clone()
    return nn.Parameter(found, old.requires_grad) if isinstance(old, nn.Parameter) else found


_WRITTEN = "a size is written into its code"


def form_of(
    make: Callable[[], nn.Module], small: Traced, inputs: Inputs, because: str = _WRITTEN
) -> dict[str, str]:
    """ "module" where what `make` gives says what the graph says, else "graph", and why.

    `because`: what it comes from where it does not, for the message.
    """
    try:
        check_module(make().eval(), small, inputs, because)
    except Unsupported as error:
        return {"form": GRAPH, "form because": str(error)}
    return {"form": MODULE, "form because": "the module computes what the graph does"}


def check_module(module: nn.Module, small: Traced, inputs: Inputs, because: str = _WRITTEN) -> None:
    """Unsupported, where the module does not say what the graph says, or cannot train.

    The module is used up: it may have trained when this is done.

    Args:
        module: what was made of the user's.
        small: what was made of its graph.
        inputs: an example call.
        because: what such a failure comes from, for the message.
    """
    args, kwargs, _ = inputs.to_trace()
    with torch.no_grad():
        expected, _ = flatten(small(*args, **kwargs))
        try:
            found, _ = flatten(module(*args, **kwargs))
        except Exception as error:
            raise Unsupported(
                f"the smaller module cannot be called: {because}{_line(error)} "
                f"({type(error).__name__}: {error}); the graph is used instead"
            ) from error
    for one, other in zip(expected, found, strict=True):
        same = one.shape == other.shape
        if not same or (one.double() - other.double()).norm() > _TOLERANCE * one.double().norm():
            raise Unsupported(
                f"the smaller module computes something else than the graph: {because}, which "
                "changes what it computes; the graph is used instead"
            )
    _check_training(module, small, args, kwargs)


def _check_training(module: nn.Module, small: Traced, args: Any, kwargs: Any) -> None:
    """Unsupported, where training reads layers that the graph has not, and these do not fit."""
    own, in_graph = _tensors(module), _tensors(small.graph_module)
    known = {id(tensor) for name, tensor in own.items() if f"model.{name}" in in_graph}
    unknown = [name for name, p in module.named_parameters() if id(p) not in known]
    if not unknown:
        return
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            module.train()(*args, **kwargs)
        except Exception as error:
            raise Unsupported(
                f"in train mode the module cannot be called with fewer channels{_line(error)} "
                f"({type(error).__name__}: {error}): eval mode does not read {unknown[0]!r}, so "
                "nobody knows which of its channels must go; the graph is used instead"
            ) from error


def _line(error: BaseException) -> str:
    """The innermost line that is not torch's or ours."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((*_NOT_THE_USERS, "<")):
            return f", at {frame.filename}:{frame.lineno}: {frame.line}"
    return ""
