"""Tensors that stay, in pages of their own.

What calibration keeps from batch to batch is made while activations come and go. In the heap it
would lie between them, and leave holes into which no later activation fits: the peak would then
grow, by a sixth of itself, with the number of batches. Pages that are mapped for one tensor leave
no holes, and go back to the system with it.

Left out: small tensors; they fit into any hole.
"""

from __future__ import annotations

import mmap

import torch

LEAST = 1 << 15  # bytes


def kept(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous copy, in pages of its own unless it is small."""
    if tensor.nbytes < LEAST:
        return tensor.detach().clone(memory_format=torch.contiguous_format)
    pages = torch.frombuffer(mmap.mmap(-1, tensor.nbytes), dtype=tensor.dtype)
    return pages.reshape(tensor.shape).copy_(tensor.detach())
