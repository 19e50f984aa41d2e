"""Which layer of the student learns from which layer of the teacher, and what those layers gave.

A `Tap` names one layer of each model by its dotted name, as `named_modules` of the bare model has
it; what DistributedDataParallel and torch.compile put in between is looked through. `tapped`
records the outputs of the tapped layers by forward hooks, which exist only inside its `with`.

Whatever could make a recorded tensor something else than the output of that layer is an error: a
layer that did not run or ran more than once, an output changed in place afterwards (`bn` before
`ReLU(inplace=True)`), a student's layer that nothing trainable leads to. torch.compile does not
notice hooks that come and go, so a compiled model runs uncompiled while it is tapped.

Left out: layers of a traced graph, which runs no modules; models spread over several devices
(DataParallel, FSDP); more than one output of a layer (the first of a tuple is taken, as a recurrent
layer and a transformer's block give their sequence first).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from burnish.errors import InvalidInput, Unsupported
from burnish.graph import Traced

Side = Literal["student", "teacher"]
COMPILED = "_orig_mod"  # under which torch.compile keeps the module it wraps
NEAR = 4


@dataclass(frozen=True)
class Tap:
    """A layer of the student and the layer of the teacher it learns from.

    Args:
        student: dotted name of the student's layer, as "layer3.1.conv2".
        teacher: of the teacher's; the same name by default.
        batch_axis: of both layers' outputs; 1 for a recurrent layer that is not `batch_first`.
        channel_axis: of both layers' outputs. By default the last of [N, C] and of sequences
            [N, L, C], and 1 of maps [N, C, H, W]: say 1 for a one-dimensional convolution and -1
            for maps with channels last.

    Raises:
        InvalidInput: an empty name.
    """

    student: str
    teacher: str | None = None
    batch_axis: int = 0
    channel_axis: int | None = None

    def __post_init__(self) -> None:
        for side in (self.student, self.teacher):
            if side is not None and not (isinstance(side, str) and side):
                raise InvalidInput(
                    f"Tap names the layer {side!r}: give its dotted name, as 'layer3.1.conv2' "
                    "(what a whole model returns is compared by the signals on logits)"
                )

    def __str__(self) -> str:
        same = self.teacher in (None, self.student)
        return self.student if same else f"{self.student} from {self.teacher}"

    def name(self, side: Side) -> str:
        """The layer's name in that model."""
        return self.student if side == "student" or self.teacher is None else self.teacher

    def has_tokens(self, dims: int) -> bool:
        """Whether a feature of so many dimensions is a sequence, channels last."""
        return dims == 3 and self.channel_axis is None

    def laid_out(self, feature: torch.Tensor) -> torch.Tensor:
        """A layer's output as [N, C, *positions].

        Raises:
            InvalidInput: the axes do not exist, or are one and the same.
        """
        dims = feature.dim()
        channels = self.channel_axis
        if channels is None:
            channels = -1 if dims <= 3 else 1
        axes = (self.batch_axis, channels)
        if any(not -dims <= axis < dims for axis in axes) or (axes[0] - axes[1]) % dims == 0:
            raise InvalidInput(
                f"its output {list(feature.shape)} has no samples along axis {axes[0]} and "
                f"channels along axis {axes[1]}: tap a layer with both, or say where they are, as "
                "Tap(…, batch_axis=1) or Tap(…, channel_axis=-1)"
            )
        return feature.movedim(axes, (0, 1))


@contextmanager
def tapped(model: nn.Module, taps: Iterable[Tap], side: Side) -> Iterator[dict[Tap, torch.Tensor]]:
    """Record what the tapped layers of `model` give in the one call made inside the `with`.

    Args:
        model: student or teacher, wrapped or bare.
        taps: of all signals together; equal ones are recorded once.
        side: which of the two the model is.

    Yields:
        {tap: feature}, [N, C, *positions] each, complete when the `with` has been left.

    Raises:
        InvalidInput: a name that is no layer of the model; a layer that did not run or ran more
            than once; an output that is no floating tensor, has no such axes, was changed in place
            afterwards or, of a student under gradients, takes no gradient.
        Unsupported: a traced model.
    """
    seen: dict[Tap, torch.Tensor] = {}
    taps = tuple(dict.fromkeys(taps))
    layers = layers_of(model, side) if taps else {}
    records = {tap: _Record(tap, find_layer(tap.name(side), layers, side), side) for tap in taps}
    with ExitStack() as stack:
        if taps and _is_compiled(model):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for record in records.values():
            stack.enter_context(record.layer.register_forward_hook(record.keep))
        yield seen
    for tap, record in records.items():
        seen[tap] = record.checked()


class _Record:
    """What one layer gave, and whether that can be relied on."""

    def __init__(self, tap: Tap, layer: nn.Module, side: Side) -> None:
        self.tap = tap
        self.layer = layer
        self.what = f"layer {tap.name(side)!r} of the {side}"
        self.learns = side == "student"
        self.runs = 0
        self.version = 0
        self.feature: torch.Tensor | None = None

    def keep(self, layer: nn.Module, args: Any, output: Any) -> None:
        """The forward hook."""
        self.runs += 1
        self.feature = self._tensor(output)
        self.version = _version(self.feature)

    def checked(self) -> torch.Tensor:
        """The feature, once the call is over."""
        if self.feature is None or self.runs != 1:
            how = f"ran {self.runs} times" if self.runs else "did not run"
            raise InvalidInput(
                f"{self.what} {how} in one call of the model: tap a layer that runs once"
            )
        if _version(self.feature) != self.version:
            raise InvalidInput(
                f"the output of {self.what} was changed in place by what came after it, as "
                "ReLU(inplace=True) does: tap that later layer, or a layer before"
            )
        if self.learns and torch.is_grad_enabled() and not self.feature.requires_grad:
            raise InvalidInput(
                f"{self.what} gives nothing that takes a gradient, so a signal there would teach "
                "nothing: no parameter up to it is trainable, or it runs under no_grad (as inside "
                "checkpoint(use_reentrant=True)); unfreeze one, or tap a later layer"
            )
        return self.feature

    def _tensor(self, output: Any) -> torch.Tensor:
        first = output[0] if isinstance(output, tuple | list) and output else output
        if not isinstance(first, torch.Tensor) or not first.is_floating_point():
            got = (
                f"{first.dtype} tensor" if isinstance(first, torch.Tensor) else type(first).__name__
            )
            raise InvalidInput(
                f"{self.what} gives a {got}, not a floating tensor: tap a layer inside or before it"
            )
        time_first = getattr(self.layer, "batch_first", True) is False and first.dim() == 3
        if time_first and self.tap.batch_axis == 0:
            raise InvalidInput(
                f"{self.what} has its samples along axis 1 (batch_first=False): say "
                "Tap(…, batch_axis=1)"
            )
        try:
            return self.tap.laid_out(first)
        except InvalidInput as error:
            raise InvalidInput(f"{self.what}: {error}") from error


def _version(tensor: torch.Tensor) -> int:
    """How often a tensor was written in place; inference tensors do not count."""
    return 0 if tensor.is_inference() else tensor._version


def layers_of(model: nn.Module, side: Side) -> dict[str, nn.Module]:
    """Each layer by the name it has in the bare model."""
    bare = _bare(model)
    if isinstance(bare, Traced):
        raise Unsupported(
            f"the {side} is a traced graph, which runs no layers that could be tapped: distil its "
            "logits, or tap the module it was traced from"
        )
    found: dict[str, nn.Module] = {}

    def walk(module: nn.Module, path: str) -> None:
        for name, child in module._modules.items():
            if child is not None:
                found[path + name] = _bare(child)
                walk(found[path + name], f"{path}{name}.")

    walk(bare, "")
    return found


def _bare(module: nn.Module) -> nn.Module:
    while True:
        if COMPILED in module._modules:
            module = module.get_submodule(COMPILED)
        elif isinstance(module, DistributedDataParallel):
            module = module.module
        else:
            return module


def _is_compiled(model: nn.Module) -> bool:
    """By torch.compile(model) or model.compile(), of all or of a part."""
    return any(
        COMPILED in module._modules or module._compiled_call_impl is not None
        for module in model.modules()
    )


def find_layer(name: str, layers: dict[str, nn.Module], side: Side) -> nn.Module:
    if name in layers:
        return layers[name]
    near = [known for known in layers if known.endswith(f".{name}")][:NEAR]
    near += difflib.get_close_matches(name, layers, n=NEAR - len(near)) if len(near) < NEAR else []
    top = [known for known in layers if "." not in known]
    words = ", ".join(map(repr, dict.fromkeys(near) or top))
    raise InvalidInput(
        f"the {side} has no layer {name!r}; {'near are' if near else 'its layers are'} "
        f"{words or 'none'}"
    )
