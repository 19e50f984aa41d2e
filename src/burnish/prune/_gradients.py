"""Gradients of every parameter, batch by batch: of the loss, or of the outputs alone.

With labels it is the loss's. Without, outputs are multiplied by random signs and summed: over many
draws the mean square of that gradient is the diagonal of the Gauss-Newton matrix of the outputs
(Hutchinson, 1989), which says how much an output moves with a weight, whatever is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from burnish.core import copied_model
from burnish.goal import Call
from burnish.graph import Traced, flatten, flatten_call

Gradient = dict[str, torch.Tensor]
MOST_SAMPLES = 1024  # more hardly change the order of channels


def loss_gradients(
    model: nn.Module, calls: Iterable[Call], loss: Callable[[Any, Any], torch.Tensor]
) -> Iterator[Gradient]:
    """Of the loss of each batch."""
    return _gradients(model, calls, loss)


def output_gradients(model: nn.Module, calls: Iterable[Call], seed: int) -> Iterator[Gradient]:
    """Of the outputs of each batch under random signs, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)

    def signed(outputs: Any, target: Any) -> torch.Tensor:
        tensors = [tensor for tensor in flatten(outputs)[0] if tensor.is_floating_point()]
        signs = [torch.randint(0, 2, t.shape, generator=generator) * 2 - 1 for t in tensors]
        return torch.stack([(t * s.to(t)).sum() for t, s in zip(tensors, signs, strict=True)]).sum()

    return _gradients(model, calls, signed)


def _gradients(
    model: nn.Module, calls: Iterable[Call], objective: Callable[[Any, Any], torch.Tensor]
) -> Iterator[Gradient]:
    """For each parameter, by the name it has in the module, or in the graph of a traced one."""
    work = copied_model(model)
    owner = work.graph_module if isinstance(work, Traced) else work
    parameters = dict(owner.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(parameter.is_floating_point())
    seen = 0
    for call in calls:
        value = objective(work(*call.args, **call.kwargs), call.target)
        found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        yield {
            name: gradient
            for name, gradient in zip(parameters, found, strict=True)
            if gradient is not None
        }
        seen += max((len(t) for t in flatten_call(call.args, call.kwargs) if t.dim()), default=1)
        if seen >= MOST_SAMPLES:
            return
