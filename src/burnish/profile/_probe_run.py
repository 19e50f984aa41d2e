"""Measuring what this machine can do, once, and reading it back ever after.

In turn: graphs are exported, their workers loaded, kernels named, peaks raced, dispatches raced,
the memory read. Nothing is timed while something else of ours runs. The result is kept under the
fingerprint of machine and versions, the masks and the number of threads; what was measured in a
noisy moment says so in its rows, and `renew` measures it again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from burnish.bench import Environment
from burnish.errors import InvalidInput, Unsupported
from burnish.hardware import Machine
from burnish.profile._onednn import TorchKernels
from burnish.profile._probe import DTYPES, Probe
from burnish.profile._probe_bandwidth import read_bandwidths
from burnish.profile._probe_cache import Conditions, keep, kept
from burnish.profile._probe_dispatch import measure_dispatch
from burnish.profile._probe_graphs import RUNTIMES, Subject, subjects
from burnish.profile._probe_peaks import measure_peaks

Progress = Callable[[str, float], None]  # what is being done, and the share of all that is done

# Shares of `seconds`, the timing alone; the memory takes its own second or two.
_PEAKS, _DISPATCH = 0.75, 0.25


def probe(
    *,
    threads: int | None = None,
    renew: bool = False,
    seconds: float = 4.0,
    progress: Progress | None = None,
) -> Probe:
    """What this machine can do: peaks, bandwidths, dispatch, and what runs in which type.

    Read from the cache where it was measured before (see `_probe_cache`), else measured, which
    takes half a minute at most on two cores.

    Args:
        threads: of the runtimes; default: every usable core.
        renew: measure again.
        seconds: of timing; what comes before it (exporting, loading) takes longer than that.
        progress: told what is being done and the share of all that is done, 0 to 1.

    Raises:
        InvalidInput: more threads than usable cores, or `seconds` not above 0.
        Unsupported: files or processes of its own are not allowed here.
    """
    if seconds <= 0:
        raise InvalidInput(f"seconds is {seconds}; use a number above 0")
    environment = Environment.capture()
    machine = environment.machine
    conditions = Conditions.of(environment, _checked(threads, machine))
    found = None if renew else kept(conditions)
    if found is not None:
        return found
    try:
        measured = _measure(machine, conditions, seconds, progress or (lambda what, share: None))
    except OSError as error:
        raise Unsupported(
            f"this machine cannot be probed: {error}. A probe writes 100 MB into the temporary "
            "folder (TMPDIR) and starts processes"
        ) from error
    problem = keep(conditions, measured)
    if problem is not None:
        measured = replace(measured, notes=(*measured.notes, problem))
    return measured


def last_probe(*, threads: int | None = None) -> Probe | None:
    """What `probe` measured before on this machine; None where that is still to be done.

    Raises:
        InvalidInput: more threads than usable cores.
    """
    environment = Environment.capture()
    return kept(Conditions.of(environment, _checked(threads, environment.machine)))


def _checked(threads: int | None, machine: Machine) -> int:
    if threads is None:
        return machine.cores
    if not 1 <= threads <= machine.cores:
        raise InvalidInput(
            f"threads is {threads!r}; use None or a number from 1 to {machine.cores}, the cores "
            "this process may use"
        )
    return threads


def _measure(machine: Machine, conditions: Conditions, seconds: float, progress: Progress) -> Probe:
    threads = conditions.threads
    with tempfile.TemporaryDirectory(prefix="burnish-probe-") as name:
        folder = Path(name)
        torch_kernels = TorchKernels()
        try:
            peaks, capabilities = measure_peaks(
                _exported(folder, threads, progress),
                machine,
                threads,
                torch_kernels.names,
                seconds * _PEAKS,
                lambda share: progress("multiplying matrices", 0.3 + 0.35 * share),
            )
        finally:
            torch_kernels.close()
        dispatches, untold = measure_dispatch(
            folder,
            threads,
            seconds * _DISPATCH,
            lambda share: progress("dispatching small operators", 0.65 + 0.25 * share),
        )
    bandwidths, unread = read_bandwidths(
        machine, threads, lambda share: progress("reading memory", 0.9 + 0.1 * share)
    )
    measured = Probe(
        environment=conditions.environment,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        threads=threads,
        masks=conditions.masks,
        peaks=peaks,
        bandwidths=bandwidths,
        dispatches=dispatches,
        capabilities=capabilities,
        notes=(*untold, *unread),
    )
    if machine.throttles(threads):
        return distrusted(
            measured,
            f"a quota of {machine.quota:g} cores stops {threads} busy thread(s) in the middle of a "
            "run: no figure here is the machine's",
        )
    return measured


def _exported(folder: Path, threads: int, progress: Progress) -> Iterator[Subject]:
    share = 0.3 / (len(RUNTIMES) * len(DTYPES))
    progress("exporting matrix products", 0.0)
    for index, subject in enumerate(subjects(folder, threads), start=1):
        progress(f"exported {subject.label}", index * share)
        yield subject


def distrusted(measured: Probe, why: str) -> Probe:
    """The same with every figure marked unreliable, and the reason."""
    return replace(
        measured,
        peaks=tuple(replace(row, reliable=False) for row in measured.peaks),
        bandwidths=tuple(replace(row, reliable=False) for row in measured.bandwidths),
        dispatches=tuple(replace(row, reliable=False) for row in measured.dispatches),
        notes=(why, *measured.notes),
    )
