"""Cutting calls into samples, and the layout in which images run fastest.

Data run in chunks of `CHUNK` samples: the working set stays in cache, and the memory is that of a
small batch. Convolutions of images run in channels-last, which is faster on a CPU.

Left out: chunks that grow where samples are small.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from burnish.graph import Traced, operator

CHUNK = 8
Call = tuple[torch.Tensor, ...]


def batch_axes(traced: Traced) -> tuple[int | None, ...]:
    """The batch axis of each input; None for one without."""
    return tuple(
        slot.shape.index("batch") if "batch" in slot.shape else None for slot in traced.inputs
    )


def num_samples(traced: Traced, tensors: Call) -> int:
    """The number of samples of a call; 1 where no input has a batch axis."""
    sizes = [t.shape[a] for t, a in zip(tensors, batch_axes(traced), strict=True) if a is not None]
    return int(sizes[0]) if sizes else 1


def chunks(traced: Traced, tensors: Call, size: int = CHUNK) -> Iterator[tuple[Call, int]]:
    """Cut a call into calls of up to `size` samples, with their numbers.

    Inputs without a batch axis go whole into each chunk.
    """
    axes, num = batch_axes(traced), num_samples(traced, tensors)
    for start in range(0, num, size):
        length = min(size, num - start)
        part = tuple(
            t if a is None else t.narrow(a, start, length)
            for t, a in zip(tensors, axes, strict=True)
        )
        yield part, length


def fast_copy(traced: Traced) -> fx.GraphModule:
    """A copy of the graph to run: the weights of images' convolutions in channels-last."""
    module = traced.copy().graph_module
    if any(operator(node) in ("conv2d", "conv_transpose2d") for node in module.graph.nodes):
        # Not module.to(): it wants axes of 5, as those of a 3d convolution, to be 4.
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.data = channels_last(tensor.data)
    return module


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    """Images in the layout in which convolutions run fastest; other tensors as they are."""
    if tensor.dim() == 4 and tensor.is_floating_point():
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor
