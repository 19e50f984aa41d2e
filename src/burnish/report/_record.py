"""What a run wrote down, read into frozen values that know what is unknown.

A search stops at any moment, so nearly every figure may be null: a null, a missing key and NaN all
become None and are shown as unknown. A value of the wrong type is not unknown but `Damaged`, and
the message says where in which file it stands.

Left out: the plans and tensors of a candidate's history, which only a replay needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.errors import InvalidInput
from burnish.report._node import Node, load, root
from burnish.report._preflight import Preflight, preflight
from burnish.report._profile_record import Profile, embedded
from burnish.report._ratio import Ratio, ratio

SCHEMA = 1
FILE = "report.json"


@dataclass(frozen=True)
class Quality:
    """A figure of the metric on a split of n samples, with its interval."""

    split: str | None
    metric: str | None
    value: float | None
    low: float | None
    high: float | None
    n: int | None


@dataclass(frozen=True)
class Verdict:
    """A paired statement about candidate minus baseline; `max_drop` is absolute."""

    state: str
    difference: float | None
    low: float | None
    high: float | None
    max_drop: float | None
    relative: bool
    confidence: float | None
    n: int | None
    needed: int | None
    method: str | None
    reason: str | None


@dataclass(frozen=True)
class Latency:
    """Milliseconds per call: percentiles, and the interval of the median."""

    p50: float | None
    p90: float | None
    p99: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Candidate:
    """One artifact that was made, and what is known about it."""

    label: str
    runtime: str | None
    precision: str | None
    threads: int | None
    failed: bool
    reason: str | None
    accepted: bool
    frontier: bool
    quality: Quality | None
    agreement: float | None
    verdict: Verdict | None
    latency: Latency | None
    ratio: Ratio | None
    size_mb: float | None
    memory_mb: float | None
    load_s: float | None
    num_int8: int | None
    num_operators: int | None
    steps: tuple[str, ...]
    folder: str | None


@dataclass(frozen=True)
class Pick:
    """The artifact to ship; the last three are of the test data."""

    label: str
    state: str | None
    why: tuple[str, ...]
    quality: Quality | None
    baseline: Quality | None
    verdict: Verdict | None


@dataclass(frozen=True)
class Operator:
    """One operator of a candidate's graph: in int8 or not, and why."""

    name: str
    kind: str
    state: str
    reason: str


@dataclass(frozen=True)
class Sensitive:
    """What one operator in int8 costs alone: a share of the outputs' power, and of the metric."""

    operator: str
    kind: str
    error: float
    change: float | None


@dataclass(frozen=True)
class Run:
    """All that a report tells."""

    title: str
    created: str | None
    version: str | None
    goal: Mapping[str, Any]
    environment: Mapping[str, Any]
    fingerprint: str | None
    reference: str | None
    candidates: tuple[Candidate, ...]
    pick: Pick | None
    stopped: str | None
    failures: tuple[tuple[str, str], ...]
    coverage: Mapping[str, tuple[Operator, ...]]
    sensitivity: Mapping[str, tuple[Sensitive, ...]]
    recovery: tuple[tuple[str, str], ...]
    phases: tuple[tuple[str, float | None], ...]
    notes: tuple[str, ...]
    preflight: Preflight | None
    profile: Profile | None

    def named(self, label: str | None) -> Candidate | None:
        """The candidate of that label, if there is one."""
        return next((one for one in self.candidates if one.label == label), None)


def read(run_folder: Path) -> Run:
    """Read the report.json of a run folder.

    Raises:
        InvalidInput: no such folder, no report in it, or one of a later schema.
        Damaged: the file is cut short, is no JSON, or holds a value of the wrong type.
    """
    path = run_folder / FILE
    if not run_folder.is_dir():
        raise InvalidInput(f"{run_folder} is not a folder; a run is in burnish-runs/NAME")
    if not path.is_file():
        raise InvalidInput(
            f"{run_folder} holds no {FILE}: it is not a run folder, or its run has not come far "
            "enough; carry it on with the same `burnish optimize` command"
        )
    return _run(load(path, SCHEMA))


def parse(record: Any, where: str = FILE) -> Run:
    """The values in a report; raises as `read` does."""
    return _run(root(record, where, SCHEMA))


def _run(node: Node) -> Run:
    return Run(
        title=node.text("title") or "untitled run",
        created=node.text("created"),
        version=node.text("burnish"),
        goal=node.object("goal"),
        environment=node.object("environment"),
        fingerprint=node.text("fingerprint"),
        reference=node.text("reference"),
        candidates=tuple(_candidate(one) for one in node.children("candidates")),
        pick=_pick(node.child("pick")),
        stopped=node.text("stopped"),
        failures=tuple(
            (one.needed("label"), one.text("reason") or "") for one in node.children("failures")
        ),
        coverage=_coverage(node.child("coverage")),
        sensitivity=_sensitivity(node.child("sensitivity")),
        recovery=tuple(
            (one.text("label") or "", one.text("what") or "") for one in node.children("recovery")
        ),
        phases=tuple(
            (one.text("name") or "unnamed", one.number("seconds"))
            for one in node.children("phases")
        ),
        notes=node.texts("notes"),
        preflight=preflight(node.child("preflight")),
        profile=embedded(node.child("profile")),
    )


def _candidate(node: Node) -> Candidate:
    return Candidate(
        label=node.needed("label"),
        runtime=node.text("runtime"),
        precision=node.text("precision"),
        threads=node.whole("threads"),
        failed=node.text("status") == "failed",
        reason=node.text("reason"),
        accepted=node.flag("accepted"),
        frontier=node.flag("frontier"),
        quality=_quality(node.child("quality")),
        agreement=node.number("agreement"),
        verdict=_verdict(node.child("verdict")),
        latency=_latency(node.child("latency")),
        ratio=ratio(node.child("ratio")),
        size_mb=node.number("size_mb"),
        memory_mb=node.number("memory_mb"),
        load_s=node.number("load_s"),
        num_int8=node.whole("num_int8"),
        num_operators=node.whole("num_operators"),
        steps=tuple(one.text("step") or "unnamed step" for one in node.children("history")),
        folder=node.text("folder"),
    )


def _quality(node: Node | None) -> Quality | None:
    if node is None:
        return None
    low, high = node.number("low"), node.number("high")
    value, n = node.number("value"), node.whole("n")
    return Quality(node.text("split"), node.text("metric"), value, low, high, n)


def _verdict(node: Node | None) -> Verdict | None:
    if node is None:
        return None
    return Verdict(
        state=node.needed("state"),
        difference=node.number("difference"),
        low=node.number("low"),
        high=node.number("high"),
        max_drop=node.number("max_drop"),
        relative=node.flag("relative"),
        confidence=node.number("confidence"),
        n=node.whole("n"),
        needed=node.whole("needed"),
        method=node.text("method"),
        reason=node.text("reason"),
    )


def _latency(node: Node | None) -> Latency | None:
    if node is None:
        return None
    keys = ("p50_ms", "p90_ms", "p99_ms", "low_ms", "high_ms")
    return Latency(*(node.number(key) for key in keys))


def _pick(node: Node | None) -> Pick | None:
    if node is None:
        return None
    test = node.child("test")
    return Pick(
        label=node.needed("label"),
        state=node.text("state"),
        why=node.texts("why"),
        quality=_quality(test.child("quality")) if test else None,
        baseline=_quality(test.child("baseline")) if test else None,
        verdict=_verdict(test.child("verdict")) if test else None,
    )


def _coverage(node: Node | None) -> dict[str, tuple[Operator, ...]]:
    if node is None:
        return {}
    return {
        label: tuple(
            Operator(
                one.text("operator") or "unnamed",
                one.text("kind") or "unknown",
                one.text("state") or "unknown",
                one.text("reason") or "no reason was written down",
            )
            for one in node.children(label)
        )
        for label in node.value
    }


def _sensitivity(node: Node | None) -> dict[str, tuple[Sensitive, ...]]:
    if node is None:
        return {}
    return {
        label: tuple(
            Sensitive(
                one.text("operator") or "unnamed",
                one.text("kind") or "unknown",
                one.number("output_error") or 0.0,
                one.number("metric_change"),
            )
            for one in node.children(label)
        )
        for label in node.value
    }
