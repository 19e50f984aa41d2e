"""Peaks of multiplying matrices, and what each runtime makes of each type.

Every chain is loaded in the worker that would ship it. Its answer is compared with torch's first:
a runtime that lacks what a type needs has been seen to answer at once, with nothing (OpenVINO
2026.4 in bfloat16 under ONEDNN_MAX_CPU_ISA=AVX2: no rows). The same workers tell their kernels and
take turns in one race, so that a rate and its ratio to float32 come from one stretch of time. The
number of rows is what the slowest float32 chain does in `_FLOAT_SECONDS`, so that an old machine is
asked for less. A chain more than `_TOO_SLOW` times as slow as float32 in its runtime (an emulation
by scalar loops) is not raced: it would take all the time there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from burnish.bench import Race, Ratio
from burnish.hardware import Machine
from burnish.profile._capability import Ran, computed_in, judge, product_kernels, refused
from burnish.profile._probe import Capability, Peak
from burnish.profile._probe_graphs import FEW_ROWS, Subject, macs, matrix
from burnish.profile._probe_workers import Workers
from burnish.runtimes import Artifact

_LEAST_ROWS, _MOST_ROWS = 64, 512  # the most: for each thread
_FLOAT_SECONDS = 0.04
_TOO_SLOW = 8.0
_STEADY = 1.25  # high over low


@dataclass(frozen=True)
class _Seen:
    """What was found out about the subjects, by label."""

    reasons: Mapping[str, str]
    kinds: Mapping[str, tuple[str, ...]]
    first: Mapping[str, float]  # seconds of a run of few rows
    race: Race
    rows: int


def measure_peaks(
    subjects: Iterable[Subject],
    machine: Machine,
    threads: int,
    torch_kernels: Callable[[], Mapping[str, str]],
    seconds: float,
    told: Callable[[float], None],
) -> tuple[tuple[Peak, ...], tuple[Capability, ...]]:
    """A peak and a capability for each subject, in order.

    `torch_kernels` gives what `_onednn` found; it is called before anything is timed.
    """
    asked: list[Subject] = []

    def artifacts() -> Iterator[tuple[str, Artifact]]:
        for subject in subjects:
            asked.append(subject)
            if subject.artifact is not None:
                yield subject.label, subject.artifact

    with Workers(artifacts()) as workers:
        told(0.2)
        named = torch_kernels()
        few = matrix(FEW_ROWS)
        expected = {subject.label: subject.expected for subject in asked}
        errors = {label: workers.error(label, few, expected[label]) for label in workers.labels}
        kinds = {label: workers.kinds(label, few) for label in workers.labels}
        single = {label: workers.seconds(label, few) for label in workers.labels}
        first = {label: value for label, value in single.items() if value is not None}
        told(0.3)
        rows = _rows(first, threads)
        fast = [label for label in first if not _is_hopeless(label, first)]
        race = workers.race(fast, matrix(rows), seconds, lambda share: told(0.3 + 0.7 * share))
        reasons = {s.label: s.reason for s in asked if s.reason is not None} | workers.reasons
    seen = _Seen(reasons, kinds, first, race, rows)
    peaks, capabilities = [], []
    for subject in asked:
        peak, speed = _rate(subject, seen)
        peaks.append(peak)
        if peak.gmacs is None:
            capabilities.append(refused(subject.runtime, subject.dtype, peak.note or ""))
            continue
        kernels = seen.kinds[subject.label]
        how = ", ".join(product_kernels(kernels) or dict.fromkeys(kernels))
        if subject.runtime == "eager":
            how = named.get(subject.dtype, "oneDNN gave no account of it")
        computed = computed_in(subject.runtime, subject.dtype, kernels)
        ran = Ran(how, computed, speed, errors[subject.label])
        capabilities.append(judge(machine, subject.runtime, subject.dtype, ran))
    return tuple(peaks), tuple(capabilities)


def _floats(label: str) -> str:
    return f"{label.split()[0]} float32"


def _rows(first: Mapping[str, float], threads: int) -> int:
    slowest = max((first[label] for label in first if label == _floats(label)), default=0.0)
    if not slowest:
        return _LEAST_ROWS
    wanted = int(FEW_ROWS * _FLOAT_SECONDS / slowest)
    return max(_LEAST_ROWS, min(_MOST_ROWS * threads, wanted // _LEAST_ROWS * _LEAST_ROWS))


def _is_hopeless(label: str, first: Mapping[str, float]) -> bool:
    floats = _floats(label)
    return floats in first and first[label] > _TOO_SLOW * first[floats]


def _rate(subject: Subject, seen: _Seen) -> tuple[Peak, Ratio | None]:
    """The peak of one subject, and its speed against float32 in its runtime."""
    runtime, dtype, label = subject.runtime, subject.dtype, subject.label
    floats = _floats(label)
    if label in seen.reasons:
        return Peak(runtime, dtype, None, None, None, False, seen.reasons[label]), None
    if label not in seen.race.medians:
        taken = seen.first[label]
        note = f"too slow to race: a run of {FEW_ROWS} rows took {taken:.2g} s"
        rate, speed = macs(FEW_ROWS) / taken / 1e9, seen.first[floats] / taken
        once = Ratio(speed, speed, speed, unreliable=True)
        return Peak(runtime, dtype, rate, None, None, False, note), once
    failed = seen.race.timing(label).failed
    if failed is not None:
        return Peak(runtime, dtype, None, None, None, False, failed), None
    work = macs(seen.rows) / 1e9
    middle, shortest, longest = seen.race.latency(label)
    steady = longest <= _STEADY * shortest
    doubt = None if steady else "the machine was not quiet: its rounds differ"
    peak = Peak(runtime, dtype, work / middle, work / longest, work / shortest, steady, doubt)
    if label == floats:
        return peak, Ratio(1.0, 1.0, 1.0, unreliable=False)
    if floats not in seen.race.medians or seen.race.timing(floats).failed is not None:
        return peak, None
    return peak, seen.race.ratio(floats, label)
