"""The bundle: what ships, with everything needed to check it somewhere else.

A folder with the artifact's files, `check.safetensors` (sample inputs and the outputs this very
artifact gave for them) and `manifest.json` (what the artifact takes and gives, its runtime and
options, what was measured, how it came to be, and the size and SHA-256 of each other file). It is
built beside its place and renamed there: a full disk leaves nothing that looks like a bundle.
Opening one checks all of it before any runtime sees a byte.

The hashes tell damage and mix-ups, not forgery: who can change a file can change the manifest.
Left out: signatures, for which there are tools; and files the manifest does not name.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from burnish import __version__
from burnish.bundle._artifact import Artifact, Port, check_inputs
from burnish.bundle._batch import batch_axis, with_batch
from burnish.bundle._record import Json, inside, only, read_json, sha256, take, write_json
from burnish.errors import Damaged, InvalidInput

SCHEMA = 1
MANIFEST = "manifest.json"
CHECK = "check.safetensors"
_KEYS = (
    "schema",
    "burnish",
    "artifact",
    "metrics",
    "history",
    "environment",
    "check",
    "files",
)
Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Bundle:
    """A bundle that was opened: its folder, its artifact (loaded from there), its manifest."""

    folder: Path
    artifact: Artifact
    manifest: dict[str, Json]

    @property
    def tolerance(self) -> float:
        """Largest difference accepted by `verify`, as a share of the largest output."""
        return float(self.manifest["check"]["tolerance"])

    def check_arrays(self) -> tuple[dict[str, np.ndarray[Any, Any]], list[np.ndarray[Any, Any]]]:
        """The sample inputs by name, and the outputs the artifact gave when it was bundled.

        Raises `Damaged` when they are not what the manifest says.
        """
        path = self.folder / CHECK
        try:
            arrays = safetensors.numpy.load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise Damaged(f"{path} cannot be read ({error})") from None
        keys = [_input_key(port) for port in self.artifact.inputs]
        outputs = [_output_key(index) for index in range(len(self.artifact.outputs))]
        if set(arrays) != {*keys, *outputs}:
            raise Damaged(f"{path} holds {sorted(arrays)} where {keys + outputs} are expected")
        inputs = {port.name: arrays[_input_key(port)] for port in self.artifact.inputs}
        try:
            check_inputs(self.artifact.inputs, inputs)
        except InvalidInput as error:
            raise Damaged(f"{path}: {error}") from None
        return inputs, [arrays[key] for key in outputs]

    @property
    def takes_any_batch(self) -> bool:
        """Whether the artifact has a batch dimension that is free."""
        return any(batch_axis(port) is not None for port in self.artifact.inputs)

    def samples(self, batch: int) -> dict[str, np.ndarray[Any, Any]]:
        """The sample inputs by name, repeated or cut off to `batch` of them.

        Where the batch is fixed they are given as they are, for a `batch` of 1.
        Raises `InvalidInput` for another `batch` there, `Damaged` like `check_arrays`.
        """
        inputs, _ = self.check_arrays()
        if batch == 1 and not self.takes_any_batch:
            return inputs
        return with_batch(self.artifact.inputs, inputs, batch)

    @classmethod
    def write(
        cls,
        folder: Path,
        artifact: Artifact,
        *,
        check_inputs: Arrays,
        check_outputs: Sequence[np.ndarray[Any, Any]],
        expected: Mapping[str, Json],
        history: Json,
        environment: Json,
        tolerance: float = 0.01,
    ) -> Bundle:
        """Write a bundle to `folder`, whole or not at all, and open it.

        `check_outputs` are what this artifact gave for `check_inputs`; `expected` holds the
        measurements with their intervals; `tolerance` is the largest difference `verify` accepts,
        as a share of the largest magnitude in that output. An older bundle in `folder` is replaced.
        Raises `InvalidInput` when `folder` holds something else, or the arrays do not fit the
        artifact; `OSError` when the disk does not take it.
        """
        folder = Path(folder)
        _check_place(folder)
        _check_arrays(artifact, check_inputs, check_outputs)
        if not 0 <= tolerance < 1:
            raise InvalidInput(f"tolerance is {tolerance}; use a share of the output from 0 to 1")
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        unfinished.chmod(0o755)  # mkdtemp's 0700 would keep others from what is meant to be shipped
        try:
            for name in artifact.files:
                target = inside(unfinished, name, "the artifact", InvalidInput)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(artifact.folder / name, target)
            arrays = {_input_key(port): check_inputs[port.name] for port in artifact.inputs}
            arrays |= {_output_key(index): item for index, item in enumerate(check_outputs)}
            contiguous = {key: np.ascontiguousarray(item) for key, item in arrays.items()}
            safetensors.numpy.save_file(contiguous, unfinished / CHECK)
            record = {
                "schema": SCHEMA,
                "burnish": __version__,
                "artifact": artifact.to_json(),
                "metrics": dict(expected),
                "history": history,
                "environment": environment,
                "check": {"tolerance": tolerance, "cpu": cpu_name()},
                "files": {
                    name: {
                        "bytes": (unfinished / name).stat().st_size,
                        "sha256": sha256(unfinished / name),
                    }
                    for name in (*artifact.files, CHECK)
                },
            }
            write_json(unfinished / MANIFEST, record)
            _move(unfinished, folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> Bundle:
        """Open and check a bundle: its schema, its paths, the size and hash of each file.

        Raises `Damaged` naming the file and what is wrong with it.
        """
        folder = Path(folder)
        path = folder / MANIFEST
        record = read_json(path)
        schema = take(record, "schema", int, str(path))
        if schema != SCHEMA:
            raise Damaged(f"{path} has schema {schema}; this version reads schema {SCHEMA}")
        only(record, _KEYS, str(path))
        files = take(record, "files", dict, str(path))
        for name, entry in files.items():
            _check_file(folder, name, entry, str(path))
        artifact = Artifact.from_json(folder, take(record, "artifact", dict, str(path)), str(path))
        if set(files) != {*artifact.files, CHECK}:
            raise Damaged(
                f"{path} has hashes of {sorted(files)}, the artifact's files are "
                f"{sorted(artifact.files)}"
            )
        check = take(record, "check", dict, str(path))
        only(check, ("tolerance", "cpu"), f"{path}, check")
        take(check, "tolerance", float, f"{path}, check")
        take(check, "cpu", str, f"{path}, check")
        take(record, "metrics", dict, str(path))
        return cls(folder, artifact, record)


def cpu_name() -> str:
    """The processor's name, to tell whether a check is repeated on the same kind."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _input_key(port: Port) -> str:
    return f"input.{port.name}"


def _output_key(index: int) -> str:
    return f"output.{index}"


def _check_place(folder: Path) -> None:
    if not folder.exists():
        return
    ours = folder.is_dir() and ((folder / MANIFEST).is_file() or not any(folder.iterdir()))
    if not ours:
        raise InvalidInput(f"{folder} exists and is not a bundle; it is not overwritten")


def _check_arrays(
    artifact: Artifact, inputs: Arrays, outputs: Sequence[np.ndarray[Any, Any]]
) -> None:
    check_inputs(artifact.inputs, inputs)
    if len(outputs) != len(artifact.outputs):
        raise InvalidInput(
            f"check_outputs has {len(outputs)} arrays, the artifact gives {len(artifact.outputs)}"
        )
    for port, array in zip(artifact.outputs, outputs, strict=True):
        if array.dtype != np.dtype(port.dtype) or array.ndim != len(port.shape):
            raise InvalidInput(
                f"output {port.name!r} is {port.dtype} {list(port.shape)}; check_outputs has "
                f"{array.dtype.name} {list(array.shape)}"
            )
    reserved = {MANIFEST, CHECK} & set(artifact.files)
    if reserved:
        raise InvalidInput(f"a bundle keeps {sorted(reserved)} for itself; rename the model's file")


def _check_file(folder: Path, name: str, entry: Json, where: str) -> None:
    path = inside(folder, name, where)
    if not isinstance(entry, dict):
        raise Damaged(f"{where}: the entry of {name!r} is no object")
    only(entry, ("bytes", "sha256"), f"{where}, {name!r}")
    wanted = take(entry, "bytes", int, f"{where}, {name!r}")
    if not path.is_file():
        raise Damaged(f"{where} names {name!r}, which is missing in {folder}")
    found = path.stat().st_size
    if found != wanted:
        how = "truncated" if found < wanted else "too long"
        raise Damaged(f"{path} is {how}: {found} bytes where the manifest says {wanted}")
    if sha256(path) != take(entry, "sha256", str, f"{where}, {name!r}"):
        raise Damaged(f"{path} was altered: its SHA-256 is not the manifest's")


def _move(unfinished: Path, folder: Path) -> None:
    if not (folder / MANIFEST).exists():
        os.replace(unfinished, folder)
        return
    old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-old-"))
    os.replace(folder, old)
    try:
        os.replace(unfinished, folder)
    except BaseException:
        os.replace(old, folder)
        raise
    shutil.rmtree(old)
