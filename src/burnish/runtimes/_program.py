"""The torch program that eager runs and inductor compiles: one file, written the same way.

Weights that are not stored row by row (a transposed view, a model kept channels-last, a slice of a
larger tensor) are found, and stored contiguous: whatever reads them reads them in order, and how
four axes lie in memory is then decided by the artifact's `layout` and nothing else.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn

from burnish.bundle import Artifact, Options, save_program
from burnish.graph import Traced
from burnish.runtimes._exported import exported
from burnish.runtimes._runtime import ports

FILE = "model.pt2"


def strided_weights(model: nn.Module) -> tuple[str, ...]:
    """The names of the parameters and buffers that are not contiguous in memory, in their order."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    return tuple(name for name, tensor in tensors if not tensor.is_contiguous())


def export_program(runtime: str, model: Traced, folder: Path, precision: str) -> Artifact:
    """Write `model.pt2`, the names of its operators and `artifact.json`; `model` stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    made = exported(_contiguous(model))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        files = save_program(made.program, folder / FILE, made.names)
    artifact = Artifact(
        folder=folder,
        runtime=runtime,
        precision=precision,
        files=files,
        inputs=ports(model.inputs),
        outputs=ports(model.outputs),
        tree=dict(model.tree),
        options=Options(),
    )
    artifact.save()
    return artifact


def _contiguous(model: Traced) -> Traced:
    """The model, or a copy with contiguous weights where some are not."""
    if not strided_weights(model.graph_module):
        return model
    copied = model.copy()
    for tensor in (*copied.graph_module.parameters(), *copied.graph_module.buffers()):
        tensor.data = tensor.data.contiguous()
    return copied
