"""Is this bundle what was shipped, and does it still do here what it did there?

In order: every file is whole and unaltered; the artifact loads in a worker; it gives, for the
sample inputs, the outputs recorded with it, within the recorded tolerance; it gives them again when
the samples come twice in one batch (the batch dimension is really dynamic, and no sample depends on
its neighbours). A later check is not tried when an earlier one it needs has failed.

Differences are told as numbers even when they pass: the largest absolute one, and as a share of the
output's largest magnitude; for outputs [n, classes], how often the largest class is the same. On
another processor than the recorded one small differences are normal: integer instructions and
vector widths differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from burnish.bundle._artifact import Port
from burnish.bundle._batch import batch_axis, batch_size, take_samples, with_batch
from burnish.bundle._bundle import Bundle, cpu_name
from burnish.bundle._process import Worker
from burnish.errors import Damaged, InvalidInput, RuntimeFailed


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: its name, whether it is as it should be, what was found."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class Verification:
    """All checks of one bundle; `ok` when every one of them is."""

    ok: bool
    checks: tuple[Check, ...]


def verify(folder: Path, *, timeout: float = 120.0) -> Verification:
    """Check the bundle in `folder` on this machine. Needs its runtime, not torch.

    A bundle that is damaged or behaves differently is an answer (`ok` is False), not an exception.
    Raises `InvalidInput` when there is no such folder, `MissingExtra` when the bundle's runtime is
    not installed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InvalidInput(f"{folder} is no folder; give the folder that holds manifest.json")
    checks = _checks(folder, timeout)
    return Verification(all(check.ok for check in checks), tuple(checks))


def _checks(folder: Path, timeout: float) -> list[Check]:
    try:
        bundle = Bundle.open(folder)
        inputs, outputs = bundle.check_arrays()
    except Damaged as error:
        return [Check("files", False, str(error))]
    size = sum(entry["bytes"] for entry in bundle.manifest["files"].values())
    checks = [
        Check("files", True, f"{len(bundle.manifest['files'])} files, {size} bytes, hashes agree")
    ]
    try:
        worker = Worker(bundle.artifact, timeout=timeout)
    except (RuntimeFailed, Damaged) as error:
        return [*checks, Check("loads", False, str(error))]
    with worker:
        runtime = bundle.artifact.runtime
        checks.append(Check("loads", True, f"{runtime}, in {worker.load_seconds:.3f} s"))
        try:
            checks.append(_outputs(bundle, worker.run(inputs), outputs))
            checks.append(_batch(bundle, worker, inputs, outputs))
        except RuntimeFailed as error:
            checks.append(Check("runs", False, str(error)))
    return checks


def _outputs(
    bundle: Bundle, got: Sequence[np.ndarray[Any, Any]], want: Sequence[np.ndarray[Any, Any]]
) -> Check:
    ok, detail = _compare(bundle, got, want)
    there = bundle.manifest["check"]["cpu"]
    if there != cpu_name():
        detail += f"; recorded on {there}, this is {cpu_name()}: small differences are expected"
    return Check("outputs", ok, detail)


def _batch(
    bundle: Bundle,
    worker: Worker,
    inputs: dict[str, np.ndarray[Any, Any]],
    outputs: Sequence[np.ndarray[Any, Any]],
) -> Check:
    ports = bundle.artifact.inputs
    size = batch_size(ports, inputs)
    if size is None:
        return Check("batch", True, "no dimension is named 'batch': nothing to vary")
    got = worker.run(with_batch(ports, inputs, 2 * size))
    ours = [
        (port, array, take_samples(port, want, 2 * size))
        for port, array, want in zip(bundle.artifact.outputs, got, outputs, strict=True)
        if batch_axis(port) is not None
    ]
    if not ours:
        return Check("batch", True, f"runs at {2 * size}; no output has a batch to compare")
    ports_with_batch, arrays, wanted = zip(*ours, strict=True)
    ok, detail = _compare(bundle, arrays, wanted, ports_with_batch)
    return Check("batch", ok, f"{size} samples twice over, as {2 * size}: {detail}")


def _compare(
    bundle: Bundle,
    got: Sequence[np.ndarray[Any, Any]],
    want: Sequence[np.ndarray[Any, Any]],
    ports: Sequence[Port] | None = None,
) -> tuple[bool, str]:
    told, ok = [], True
    for port, ours, theirs in zip(ports or bundle.artifact.outputs, got, want, strict=True):
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            ok = False
            told.append(
                f"{port.name}: {ours.dtype.name} {list(ours.shape)} where "
                f"{theirs.dtype.name} {list(theirs.shape)} is expected"
            )
            continue
        share, text = _difference(ours, theirs)
        ok &= share <= bundle.tolerance
        told.append(f"{port.name}: {text}")
    return ok, f"{'; '.join(told)} (tolerance {bundle.tolerance:g})"


def _difference(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> tuple[float, str]:
    if ours.size == 0 or np.array_equal(ours, theirs, equal_nan=ours.dtype.kind in "fc"):
        return 0.0, "identical"
    wide: Any = np.complex128 if ours.dtype.kind == "c" else np.float64
    finite = np.isfinite(theirs)
    if not np.array_equal(np.isfinite(ours), finite):
        return float("inf"), "not finite where it was, or the other way round"
    apart = float(np.abs(ours.astype(wide) - theirs.astype(wide))[finite].max(initial=0.0))
    largest = float(np.abs(theirs.astype(wide))[finite].max(initial=0.0))
    share = apart / largest if largest > 0 else float("inf")
    text = f"largest difference {apart:.3g} ({share:.3g} of the largest output)"
    if ours.ndim == 2 and ours.dtype.kind == "f" and ours.shape[1] > 1:
        same = float(np.mean(ours.argmax(1) == theirs.argmax(1)))
        text += f", same largest class in {same:.1%}"
    return share, text
