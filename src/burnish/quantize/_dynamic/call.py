"""`quantize_dynamic`, called as people know it from torch, on the traced graph.

torch swaps modules, for which it needs no input; a graph has to be traced with one. So the call
takes an `example`, or gives a module that traces itself at its first call. The layers are named as
in torch: a set of module classes and of module names; what is below a named module comes along.

Left out: dicts of qconfigs and `mapping`, which name torch's own kernels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from burnish.errors import InvalidInput, Unsupported
from burnish.goal import Inputs
from burnish.graph import Traced, operator_names
from burnish.quantize._dynamic.dynamic import QuantizeDynamic
from burnish.quantize._dynamic.place import KINDS, NO_FORM
from burnish.quantize._graphs.entry import fold, refuse_quantized, trace_inputs
from burnish.quantize._graphs.stored import kind_of

Layers = Iterable[type[nn.Module] | str]
# What an entry of the set stands for: the paths of its modules.
Asked = dict[str, list[str]]


class DynamicModel(nn.Module):
    """What `quantize_dynamic` gives without an example: it is quantized at its first call.

    That call is traced with axis 0 of every tensor dynamic, and later calls may differ in nothing
    else. The model is copied at once: training it on changes nothing here.
    """

    def __init__(self, model: nn.Module, step: QuantizeDynamic, asked: Asked) -> None:
        super().__init__()
        try:
            self._original: list[nn.Module] = [copy.deepcopy(model)]
        except Exception as error:
            raise Unsupported(
                f"the model cannot be copied ({type(error).__name__}: {error}), which keeps yours "
                "as it is: take out what is no part of the network"
            ) from error
        self._step = step
        self._asked = asked
        self.quantized: Traced | None = None
        self.eval()

    @property
    def traced(self) -> Traced:
        """The quantized graph, to export. InvalidInput before the first call."""
        if self.quantized is None:
            raise InvalidInput(
                "this model is quantized at its first call: call it once, or give "
                "quantize_dynamic an example=..."
            )
        return self.quantized

    def quantize(self, example: Any) -> Traced:
        """Quantize now, with an example call: a tensor, a tuple, a dict of keywords or `Inputs`."""
        if self.quantized is None:
            folded = fold(trace_inputs(self._original[0], Inputs.of(example)))
            step = replace(self._step, include=_included(self._asked, folded))
            result = step.rewrite(folded, step.choose_from(folded))
            assert isinstance(result, Traced)
            self.quantized = result
            self._original.clear()
        return self.quantized

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Called as the original is; the first call quantizes."""
        if self.quantized is None:
            self.quantize(Inputs(args, kwargs))
        return self.traced(*args, **kwargs)


def quantize_dynamic(
    model: nn.Module,
    qconfig_spec: Layers | None = None,
    dtype: torch.dtype = torch.qint8,
    *,
    example: Any = None,
    runtime: str = "onnxruntime",
    exclude: tuple[str, ...] = (),
    half_range: bool = False,
) -> Traced | DynamicModel:
    """Quantize layers' weights to int8, and their activations as they come.

    Args:
        model: in eval mode; left as it was.
        qconfig_spec: module classes (with their subclasses) and module names (with all below them),
            {nn.Linear, "encoder.lstm"}. None for every Linear, LSTM, GRU and Embedding.
            Convolutions are quantized where they are named themselves, {nn.Conv2d}.
        dtype: torch.qint8 (torch.int8 means the same).
        example: an example call: a tensor, a tuple of positional arguments, a dict of keyword ones,
            or `Inputs`, which can say which axes are dynamic. None to trace at the first call.
        runtime, exclude, half_range: as of `QuantizeDynamic`.

    Returns:
        A module called like the original that computes what the runtime's integer kernels compute:
        the quantized graph itself with an example, a `DynamicModel` without.

    Raises:
        InvalidInput: a class or name that matches no module, or nothing that can be quantized; a
            model that is quantized already.
        Unsupported: another dtype, a runtime without the kernels, a model that cannot be exported.
        NoEffect: there is nothing to quantize.
    """
    _check_dtype(dtype)
    step = QuantizeDynamic(runtime, exclude=exclude, half_range=half_range)
    if isinstance(model, Traced):
        refuse_quantized(model, "quantize_dynamic")
        step = replace(step, include=_of_traced(qconfig_spec))
        result = step.rewrite(model, step.choose_from(fold(model)))
        assert isinstance(result, Traced)
        return result
    if isinstance(model, DynamicModel):
        raise InvalidInput("this model is quantized already: start from the float model")
    asked = _asked(model, qconfig_spec)
    if _asks_for_convolutions(model, asked):
        step = replace(step, kinds=KINDS)
    lazy = DynamicModel(model, step, asked)
    return lazy if example is None else lazy.quantize(example)


def _check_dtype(dtype: object) -> None:
    if dtype in (torch.float16, torch.bfloat16):
        raise Unsupported(
            f"quantize_dynamic(dtype={dtype}): weights in half precision are a cast, not a "
            "quantization: see burnish.quantize.cast"
        )
    if dtype not in (torch.qint8, torch.int8):
        raise Unsupported(
            f"quantize_dynamic(dtype={dtype}): weights are int8 and symmetric, torch.qint8; "
            "activations are uint8, whatever is asked for"
        )


def _entries(spec: Layers | None) -> list[type[nn.Module] | str]:
    if isinstance(spec, dict):
        raise InvalidInput(
            "quantize_dynamic takes a set of module classes and names, {nn.Linear, 'encoder'}, no "
            "dict of qconfigs: those name torch's own kernels"
        )
    one = isinstance(spec, str | type)
    entries: list[Any] = [spec] if one else list(spec or ())
    for entry in entries:
        known = isinstance(entry, str) or (isinstance(entry, type) and issubclass(entry, nn.Module))
        if not known:
            raise InvalidInput(f"quantize_dynamic: {entry!r} is no module class and no module name")
    if spec is not None and not entries:
        raise InvalidInput("quantize_dynamic: the set of layers is empty; None stands for all")
    return entries


def _of_traced(spec: Layers | None) -> tuple[str, ...]:
    entries = _entries(spec)
    for entry in entries:
        if not isinstance(entry, str):
            raise InvalidInput(
                f"{entry.__name__} names nothing in a traced model, which has no module classes: "
                "give operators' names or module paths, or the model itself"
            )
    return tuple(str(entry) for entry in entries)


def _asked(model: nn.Module, spec: Layers | None) -> Asked:
    """The paths of the modules that each entry names, by all names a module goes by."""
    modules = list(model.named_modules(remove_duplicate=False))
    asked: Asked = {}
    for entry in _entries(spec):
        named = [
            module
            for path, module in modules
            if (path == entry if isinstance(entry, str) else isinstance(module, entry))
        ]
        label = entry if isinstance(entry, str) else entry.__name__
        if not named:
            classes = ", ".join(sorted({type(module).__name__ for _, module in modules}))
            raise InvalidInput(
                f"quantize_dynamic: {label!r} matches no module of the model; it has {classes}"
                if not isinstance(entry, str)
                else f"quantize_dynamic: the model has no module named {label!r}; its modules are "
                + ", ".join(path for path, _ in modules[1:7])
            )
        same = {id(module) for module in named}
        asked[label] = [path for path, module in modules if id(module) in same]
    return asked


def _asks_for_convolutions(model: nn.Module, asked: Asked) -> bool:
    """Whether a convolution is named itself, and not only what holds it."""
    paths = {path for named in asked.values() for path in named}
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return any(isinstance(module, kinds) for path, module in model.named_modules() if path in paths)


def _included(asked: Asked, folded: Traced) -> tuple[str, ...]:
    """The operators of the modules asked for. InvalidInput where an entry comes to nothing."""
    nodes = {
        name: node
        for node, name in operator_names(folded.graph_module).items()
        if node.op == "call_function"
    }
    included: dict[str, None] = {}
    for label, paths in asked.items():
        found = [
            name
            for name in nodes
            if any(not path or name.startswith((f"{path}:", f"{path}.")) for path in paths)
        ]
        if not found:
            raise InvalidInput(f"quantize_dynamic: no module that {label!r} names is ever called")
        held = [name for name in found if kind_of(nodes[name])]
        if not held:
            raise InvalidInput(f"quantize_dynamic: {label!r} {NO_FORM}")
        included |= dict.fromkeys(held)
    return tuple(included)
