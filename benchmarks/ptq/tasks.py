"""A model as the task every tool is given: its samples in files, and the float model as ONNX."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from handover import Given, Stored
from models import Model, Sources

from burnish.bundle import Artifact
from burnish.graph import trace
from burnish.runtimes import export

# Photos are bytes in the first place; this is how the network wants them.
BYTES = {"lite0": {"stored": "uint8", "offset": 127.0, "divisor": 128.0}}


def prepare(model: Model, sources: Sources, work: Path, threads: int) -> tuple[Given, Artifact]:
    """Write the task and the float model into an empty folder.

    Samples that calibrate come first, then those of the validation data.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    inputs = model.inputs()
    axes = {leaf.key: leaf.axes for leaf in inputs.leaves()}
    traced = trace(model.network, inputs.args, {}, axes)
    stored = tuple(
        Stored(slot.name, tuple(tensor.shape[1:]), slot.dtype, slot.dtype)
        for slot, tensor in zip(traced.inputs, inputs.args, strict=True)
    )
    if model.name in BYTES:
        stored = tuple(replace(item, **BYTES[model.name]) for item in stored)  # type: ignore[arg-type]
    counts = []
    for split in (model.calibration, model.validation):
        for batch in split:
            for item, tensor in zip(stored, batch.args, strict=True):
                item.append(work, tensor.numpy())
        counts.append(sum(len(batch.target) for batch in split))
    places = {"data": str(sources.data), "cache": str(sources.cache)}
    given = Given(work, model.name, model.kind, threads, counts[0], sum(counts), stored, places)
    given.save()
    read = torch.from_numpy(given.samples(0, 2)[stored[0].name])
    assert np.array_equal(read, model.calibration[0].args[0][:2]), "samples changed on the way"
    reference = export(traced, "onnxruntime", work)
    (work / reference.files[0]).replace(given.float_file)
    return given, replace(reference, files=(given.float_file.name,))
