"""The one tracer: torch.export with dynamic axes, from any call to any output.

`trace` wraps a copy of the model so that flat tensors go in and a flat tuple of tensors comes out
(the trees are kept beside), exports it, and gives a `Traced`: a module that is called like the
model it came from and holds the graph. A copy, because `ExportedProgram.module()` shares storage
with what was exported, and nothing of ours may change the user's model; a caller that only reads
its parameters may share them, which halves the memory of a large model. The graph is handed on as a
plain `GraphModule`: torch's own refuses `eval()`, and carries trees that deepcopy warns about.

A model that cannot be exported is refused with torch's reason and the line of the user's own code.

A graph has its mode built in (`_mode`): eval mode unless told otherwise. What draws at random in
training and leaves no trace in eval mode is listed in `lost`.

Left out: guessing what a custom operator does with its mode.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import fx, nn

from burnish.errors import InvalidInput, Unsupported
from burnish.graph._call import (
    BATCH,
    build_call,
    describe_call,
    example_call,
    flatten_call,
    match_call,
)
from burnish.graph._functional import functionalize
from burnish.graph._lost import lost_in_eval
from burnish.graph._refusal import quiet, refusal, user_line
from burnish.graph._tree import flatten, tensor_names, unflatten, unique_names

_WRAPPED = "model"


@dataclass(frozen=True)
class Slot:
    """An input or output of a traced graph. A string in `shape` is a dynamic axis's name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Traced(nn.Module):
    """A traced model: called like the original, with the flat graph inside.

    `graph_module` takes the tensors of a call in `inputs` order and gives a flat tuple in `outputs`
    order; `tree` says how those nest in what the model returned. `training` is the mode built into
    the graph, and `lost` names what drops at random in training and is not in it.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        inputs: tuple[Slot, ...],
        outputs: tuple[Slot, ...],
        tree: Mapping[str, Any],
        call: Mapping[str, Any],
        *,
        training: bool = False,
        lost: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.graph_module = graph_module
        self.inputs = inputs
        self.outputs = outputs
        self.tree = tree
        self.call = call
        self.lost = lost
        super().train(training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call it as the original was called; the order of keywords does not matter.

        Raises:
            InvalidInput: other arguments than it was traced with.
        """
        return unflatten(self.tree, self.graph_module(*match_call(self.call, args, kwargs)))

    def train(self, mode: bool = True) -> Self:
        """Nothing where the graph is in that mode already, Unsupported where it is not."""
        if mode != self.training:
            have, want = ("train", "eval") if self.training else ("eval", "train")
            raise Unsupported(
                f"a traced model stays in {have} mode, which is built into its graph: "
                f"graph.set_mode(traced, {mode}) gives the same graph in {want} mode"
            )
        return self

    def with_graph(self, graph_module: fx.GraphModule) -> Traced:
        """The same signature around another graph."""
        return Traced(
            graph_module,
            self.inputs,
            self.outputs,
            self.tree,
            self.call,
            training=self.training,
            lost=self.lost,
        )

    def copy(self, *, share: bool = False) -> Traced:
        """A deep copy: its graph may be edited. With `share` both read the same tensors."""
        if not share:
            return self.with_graph(copy.deepcopy(self.graph_module))
        graph = copy.deepcopy(self.graph_module.graph)
        return self.with_graph(fx.GraphModule(self.graph_module, graph, class_name="Graph"))

    def example(self, batch: int = 2) -> tuple[torch.Tensor, ...]:
        """Zeros of the traced shapes: what shape propagation and re-exporting need."""
        return tuple(
            torch.zeros(
                [self._size(index, axis, size, batch) for axis, size in enumerate(slot.shape)],
                dtype=getattr(torch, slot.dtype),
            )
            for index, slot in enumerate(self.inputs)
        )

    def num_samples(self, tensors: tuple[torch.Tensor, ...]) -> int:
        """Samples in a call's tensors; 1 where no input has a batch axis."""
        for slot, tensor in zip(self.inputs, tensors, strict=True):
            if BATCH in slot.shape:
                return int(tensor.shape[slot.shape.index(BATCH)])
        return 1

    def narrowed(self, tensors: tuple[torch.Tensor, ...], size: int) -> tuple[torch.Tensor, ...]:
        """The first `size` samples of a call's tensors."""
        return tuple(
            tensor.narrow(slot.shape.index(BATCH), 0, size) if BATCH in slot.shape else tensor
            for slot, tensor in zip(self.inputs, tensors, strict=True)
        )

    def dynamic_shapes(self) -> tuple[dict[int, torch.export.Dim], ...]:
        """The dynamic axes of each input, as torch.export wants them to export the graph again."""
        names = dict.fromkeys(s for slot in self.inputs for s in slot.shape if isinstance(s, str))
        dims = {name: torch.export.Dim(f"d{index}") for index, name in enumerate(names)}
        return tuple(
            {axis: dims[size] for axis, size in enumerate(slot.shape) if isinstance(size, str)}
            for slot in self.inputs
        )

    def _size(self, index: int, axis: int, size: int | str, batch: int) -> int:
        if size == BATCH:
            return batch
        return int(self.call["leaves"][index]["shape"][axis]) if isinstance(size, str) else size


def trace(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    axes: Mapping[str, Mapping[int, str]] | None = None,
    *,
    training: bool = False,
    share: bool = False,
) -> Traced:
    """Export a model in eval mode, or in train mode to train the graph.

    Args:
        model: left as it was; a `Traced` is given back as it is.
        args: positional arguments of one example call; dynamic axes must have a size above 1.
        kwargs: keyword arguments of it.
        axes: the dynamic axes of each tensor of the call: {key: {axis: name}} with the keys "0",
            "1.0", "input_ids"; axes of one name have one size. Default: axis 0 is "batch".
        training: trace in train mode: dropout and the like stay in the graph.
        share: let the graph read the model's own parameters instead of copies: for large models,
            and for a caller that writes into none of them.

    Raises:
        Unsupported: torch.export refuses the model (the message names the line and torch's
            reason), or the model cannot be copied.
        InvalidInput: the example call itself fails, or `axes` does not fit it.
    """
    if isinstance(model, Traced):
        return model
    kwargs = dict(kwargs or {})
    call = describe_call(args, kwargs, axes)
    _check_sizes(call)
    tensors = flatten_call(args, kwargs)
    trees: list[dict[str, Any]] = []
    with torch.no_grad():
        try:
            flat = _Flat(_copy(model, training, share), call, trees.append)
            program = _export(flat, tensors, call)
        except Unsupported:
            _run(_copy(model, training), call, tensors)
            raise
    tree = trees[-1]
    module = _plain(program.module(check_guards=False))
    functionalize(module)
    names = _input_names(model, [leaf["key"] for leaf in call["leaves"]])
    inputs = tuple(
        Slot(
            name,
            leaf["dtype"],
            tuple(leaf["axes"].get(str(a), s) for a, s in enumerate(leaf["shape"])),
        )
        for name, leaf in zip(names, call["leaves"], strict=True)
    )
    outputs = _output_slots(module, tree, inputs)
    lost = () if training else lost_in_eval(model)
    return Traced(module, inputs, outputs, tree, call, training=training, lost=lost)


def retrace(model: nn.Module, call: Mapping[str, Any], *, share: bool = False) -> Traced:
    """Trace a model from the description of a call alone: tensors of zeros, no data."""
    args, kwargs = example_call(call)
    axes = {
        leaf["key"]: {int(axis): name for axis, name in leaf["axes"].items()}
        for leaf in call["leaves"]
    }
    return trace(model, args, kwargs, axes, share=share)


def _check_sizes(call: Mapping[str, Any]) -> None:
    if not call["leaves"]:
        raise InvalidInput("the example call holds no tensor")
    for leaf in call["leaves"]:
        for axis, name in leaf["axes"].items():
            size = leaf["shape"][int(axis)]
            if size < 2:
                raise InvalidInput(
                    f"the dynamic axis {name!r} (axis {axis} of input {leaf['key']!r}) has size "
                    f"{size} in the example call: torch.export takes a size of 1 for a constant; "
                    "give an example with 2 or more"
                )


def _copy(model: nn.Module, training: bool, share: bool = False) -> nn.Module:
    # What deepcopy finds in here it takes for copied.
    kept: dict[int, Any] = {id(p): p for p in model.parameters()} if share else {}
    try:
        return copy.deepcopy(model, kept).train(training)
    except Exception as error:
        raise Unsupported(
            f"the model cannot be copied ({type(error).__name__}: {error}): it is traced on a copy "
            "so that yours stays as it is. Call it once under torch.no_grad() if it computes its "
            "weights (weight_norm does), or take out what is no part of the network"
        ) from error


def _run(model: nn.Module, call: Mapping[str, Any], tensors: tuple[torch.Tensor, ...]) -> None:
    """InvalidInput where the example call fails without being traced, too."""
    args, kwargs = build_call(call, [tensor.clone() for tensor in tensors])
    try:
        model(*args, **kwargs)
    except Exception as error:
        raise InvalidInput(
            f"the model fails on the example call: {type(error).__name__}: {error}"
            f"{user_line(error)}"
        ) from error


class _Flat(nn.Module):
    """Flat tensors in, flat tuple out, around a model with trees on both sides.

    The tree of the outputs is told to `note` while the model is traced: a call before would leave
    in the model whatever it keeps from call to call.
    """

    def __init__(
        self, model: nn.Module, call: Mapping[str, Any], note: Callable[[dict[str, Any]], None]
    ) -> None:
        super().__init__()
        self.model = model
        self._call = call
        self._note = note

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        args, kwargs = build_call(self._call, tensors)
        outputs, tree = flatten(self.model(*args, **kwargs))
        if not outputs:
            raise Unsupported("the model returns no tensor: nothing to optimize")
        self._note(tree)
        return tuple(outputs)


def _export(
    wrapper: nn.Module, tensors: tuple[torch.Tensor, ...], call: Mapping[str, Any]
) -> torch.export.ExportedProgram:
    axes = [leaf["axes"] for leaf in call["leaves"]]
    identifiers = {name: _identifier(name) for leaf in axes for name in leaf.values()}
    dims = {name: torch.export.Dim(identifier) for name, identifier in identifiers.items()}
    shapes = tuple({int(axis): dims[name] for axis, name in leaf.items()} for leaf in axes)
    try:
        with quiet():
            return torch.export.export(wrapper, tensors, dynamic_shapes=(shapes,), strict=False)
    except Unsupported:
        raise
    except Exception as error:
        names = {identifier: name for name, identifier in identifiers.items()}
        raise refusal(error, names) from error


def _identifier(name: str) -> str:
    return name if name.isidentifier() else "".join(c if c.isalnum() else "_" for c in f"d{name}")


def _plain(exported: torch.nn.Module) -> fx.GraphModule:
    """The graph without torch's calling convention, unread tensors and our wrapper's own level."""
    assert isinstance(exported, fx.GraphModule)
    graph = exported.graph
    for node in list(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
        elif "nn_module_stack" in node.meta:
            node.meta["nn_module_stack"] = _user_stack(node.meta["nn_module_stack"])
    graph.set_codegen(fx.graph.CodeGen())
    return fx.GraphModule(exported, graph, class_name="Graph")


def _user_stack(stack: Mapping[str, tuple[str, Any]]) -> dict[str, tuple[str, Any]]:
    """The modules a node came from, by the names the user knows."""
    return {
        key: ("" if path == _WRAPPED else path.removeprefix(f"{_WRAPPED}."), kind)
        for key, (path, kind) in stack.items()
        if path == _WRAPPED or path.startswith(f"{_WRAPPED}.")
    }


def _input_names(model: nn.Module, keys: list[str]) -> list[str]:
    """Positional keys take the name of the forward's parameter where it has one."""
    parameters = [
        parameter.name
        for parameter in inspect.signature(model.forward).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    names = []
    for key in keys:
        first, *rest = key.split(".")
        if first.isdigit():
            index = int(first)
            first = parameters[index] if index < len(parameters) else f"input_{index}"
        names.append("_".join([first, *rest]))
    return unique_names(names)


def _output_slots(
    module: fx.GraphModule, tree: Mapping[str, Any], inputs: tuple[Slot, ...]
) -> tuple[Slot, ...]:
    symbols: dict[str, str] = {}
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    for node, slot in zip(placeholders, inputs, strict=True):
        for size, label in zip(node.meta["val"].shape, slot.shape, strict=True):
            if isinstance(label, str):
                symbols[str(size)] = label
    output = next(node for node in module.graph.nodes if node.op == "output")
    slots = []
    for name, node in zip(
        tensor_names(tree, [slot.name for slot in inputs]), output.args[0], strict=True
    ):
        value = node.meta["val"]
        shape = tuple(
            size if isinstance(size, int) else symbols.get(str(size), f"{name}_{axis}")
            for axis, size in enumerate(value.shape)
        )
        slots.append(Slot(name, str(value.dtype).removeprefix("torch."), shape))
    return tuple(slots)
