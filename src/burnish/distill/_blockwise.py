"""Block by block: each block of a damaged copy learns to give what the original's block gives.

For a pruned or quantized copy whose blocks still have the original's names and output shapes. The
loss is the sum over blocks of

    mean((student - teacher)^2) / mean(teacher^2)

and no labels are needed. The copy runs as a whole on its own activations, so that each block makes
up for what the blocks before it lost, while what a block hands on is cut from the graph: a block is
trained by its own output alone, through a few layers instead of all. What lies between two blocks
learns with the second; what lies behind the last is not trained.

After Li et al., 2021 (*BRECQ: pushing the limit of post-training quantization by block
reconstruction*), and Blakeney et al., 2021 (*Parallel blockwise knowledge distillation*), who train
all blocks at once as here, but feed each with the teacher's activations.

Left out: weighing outputs by their gradients (BRECQ's Fisher weights); one block after another;
choosing the blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Unpack

import torch
from torch import nn

from burnish.distill._tap import Side, Tap, find_layer, layers_of, tapped
from burnish.distill._teachers import Panel
from burnish.distill._tryout import device_of, example_call
from burnish.distill._wide import wide
from burnish.errors import InvalidInput
from burnish.goal import Task
from burnish.graph import flatten, unflatten
from burnish.train import FitSettings, Fitted, Moment, fit


def reconstruct(
    student: nn.Module,
    teacher: nn.Module,
    task: Task,
    blocks: Sequence[str | Tap],
    **settings: Unpack[FitSettings],
) -> Fitted:
    """Train a copy of `student`, block by block, towards what `teacher` computes.

    Args:
        student: the damaged copy; left as it is.
        teacher: the original; left as it is.
        task: its `train` data; targets are not looked at.
        blocks: dotted names of modules that both models have and that run one after another, as
            ("layer1", "layer2", "layer3"); a `Tap` where the names differ, or the samples are not
            along axis 0.
        settings: as of `fit`.

    Raises:
        InvalidInput: a block that is not there, lies inside another or gives another shape than
            the teacher's; and as `fit`.
    """
    taps = tuple(block if isinstance(block, Tap) else Tap(block) for block in blocks)
    objective = Reconstruction(student, teacher, task, taps)
    return fit(student, task, objective=objective, **settings)


@wide
def reconstruction_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The mean squared difference of two features, relative to the teacher's mean square.

    Args:
        student: any shape.
        teacher: the same shape; takes no gradient.

    Returns:
        A scalar, in float32 at least: 0 where they are equal, 1 for a student that gives zeros.
    """
    power = teacher.square().mean().clamp_min(torch.finfo(teacher.dtype).tiny)
    return (student - teacher).square().mean() / power


class Reconstruction:
    """The objective of `fit` that `reconstruct` uses."""

    def __init__(
        self, student: nn.Module, teacher: nn.Module, task: Task, taps: Sequence[Tap]
    ) -> None:
        self.panel = Panel(teacher, "weights", student)
        self.taps = tuple(taps)
        _check_blocks(self.taps)
        self.device: torch.device | None = None
        self._try(student, task)

    def modules(self) -> None:
        """Nothing learns beside the student."""

    def settings(self) -> Mapping[str, Any]:
        """What is minimised, as plain JSON."""
        return {"reconstruct": [str(tap) for tap in self.taps], "teacher": self.panel.hashes()[0]}

    def __call__(self, model: nn.Module, call: Any, moment: Moment) -> dict[str, torch.Tensor]:
        """The relative error of each block."""
        device = device_of(model)
        if device != self.device:
            self.panel.to(device)
            self.device = device
        with torch.no_grad():
            taught = _run(self.panel.copies[0], self.taps, "teacher", call.args, call.kwargs)
        seen = _run(model, self.taps, "student", call.args, call.kwargs)
        return {str(tap): reconstruction_loss(seen[tap], taught[tap]) for tap in self.taps}

    def _try(self, student: nn.Module, task: Task) -> None:
        """InvalidInput where a block of the example call differs in shape from the teacher's."""
        copied, args, kwargs = example_call(student, task)
        self.panel.to(device_of(copied))
        with torch.no_grad():
            seen = _run(copied, self.taps, "student", args, kwargs)
            taught = _run(self.panel.copies[0], self.taps, "teacher", args, kwargs)
        for tap in self.taps:
            if seen[tap].shape != taught[tap].shape:
                raise InvalidInput(
                    f"block {tap}: the student gives {list(seen[tap].shape)} and the teacher "
                    f"{list(taught[tap].shape)}: only blocks of one output shape are "
                    "reconstructed; name larger blocks, whose outputs agree, or use "
                    "distill() with Hint, which grows an adapter"
                )


def _run(
    model: nn.Module, taps: Sequence[Tap], side: Side, args: Any, kwargs: Any
) -> dict[Tap, torch.Tensor]:
    """What each block gives, with nothing flowing back from the blocks behind it."""
    layers = layers_of(model, side)
    with ExitStack() as stack:
        seen = stack.enter_context(tapped(model, taps, side))
        for tap in taps:
            # Behind the hook of `tapped`, so that this one sees what the block really gave.
            layer = find_layer(tap.name(side), layers, side)
            stack.callback(layer.register_forward_hook(_cut).remove)
        model(*args, **kwargs)
    return seen


def _cut(layer: nn.Module, args: Any, output: Any) -> Any:
    """A forward hook: what comes behind reads a copy, which it may change in place."""
    tensors, tree = flatten(output, "the block's output")
    return unflatten(tree, [tensor.detach().clone() for tensor in tensors])


def _check_blocks(taps: Sequence[Tap]) -> None:
    if not taps:
        raise InvalidInput("reconstruct(blocks=()): name at least one block, as ('layer1',)")
    names = [tap.student for tap in taps]
    for name in names:
        inside = next((other for other in names if name.startswith(f"{other}.")), None)
        if inside is not None or names.count(name) > 1:
            where = f"lies inside the block {inside!r}" if inside else "is named twice"
            raise InvalidInput(
                f"the block {name!r} {where}: each block is trained by its own output alone; "
                "name one of the two"
            )
