"""The same answer for a terminal: the frontier as a table, the pick and why.

A Rich renderable for a console that has colours, and the same as plain text for `print` and for a
pipe. Every figure is also on the page; the table keeps the seven columns a decision needs.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from burnish.report._page import in_order
from burnish.report._record import Candidate, Run, parse
from burnish.report._sentences import headline, raced
from burnish.report._words import Scale, scale, significant, verdict_state

STYLES = {"holds": "green", "fails": "red", "undecided": "yellow", "none": "dim"}
WIDTH = 100
ROOMY = 98  # columns from which on a label need not be folded
TONES = {"good": "bold green", "warn": "bold yellow", "bad": "bold red"}


@dataclass(frozen=True)
class Summary:
    """A run as a Rich renderable; `str` of it is plain text, 100 columns wide."""

    run: Run

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from _parts(self.run)

    def __str__(self) -> str:
        return _plain(self, WIDTH)


def table(report: Mapping[str, Any]) -> Summary:
    """The record of a run (what report.json holds), to print on a Rich console or as text.

    Raises:
        InvalidInput: the record is of a later schema.
        Damaged: it holds a value of the wrong type.
    """
    return Summary(parse(dict(report)))


def text(report: Mapping[str, Any], width: int = WIDTH) -> str:
    """`table` as plain text, `width` characters wide, without colours; raises as `table` does."""
    return _plain(table(report), width)


def _plain(summary: Summary, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(summary)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _parts(run: Run) -> Iterator[RenderableType]:
    metric = scale(run)
    head = headline(run, metric)
    if run.candidates:
        yield _Candidates(run, metric)
        marks = "▶ the pick; " if run.pick else ""
        yield Text(f"{marks}= the best float, which speed is against", style="dim")
    for candidate in run.candidates:
        if candidate.failed:
            why = candidate.reason or "no reason was written down"
            yield Text(f"{candidate.label} failed: {why}", style="red")
    label = "Pick: " if run.pick else ""
    yield Text.assemble((f"{label}{head.title}", TONES[head.tone]), f"  [{head.badge}]")
    yield Text(head.sentence)
    yield Text(head.verdict)
    if run.pick and run.pick.why:
        yield Text("\n".join(["Why:", *(f"  - {line}" for line in run.pick.why)]))
    if run.stopped and run.pick:
        yield Text(f"The search ended: {run.stopped}")


@dataclass(frozen=True)
class _Candidates:
    """The table, its columns fitted to the console it is printed on: folded, never cropped."""

    run: Run
    metric: Scale

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        longest = max(len(candidate.label) for candidate in self.run.candidates)
        roomy = options.max_width >= ROOMY
        yield _candidates(self.run, self.metric, min(longest, 30) if roomy else None)


def _candidates(run: Run, metric: Scale, label_width: int | None) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("", justify="right", no_wrap=True)
    shown.add_column("artifact", overflow="fold", min_width=label_width)
    shown.add_column("p50 ms", justify="right", overflow="fold")
    shown.add_column("speed", justify="right", overflow="fold")
    shown.add_column(metric.name, justify="right", overflow="fold")
    shown.add_column("verdict", overflow="fold", max_width=14)
    shown.add_column("MB", justify="right", overflow="fold")
    for number, candidate in enumerate(in_order(run.candidates, run.reference), 1):
        picked = run.pick is not None and run.pick.label == candidate.label
        style = "bold" if picked else ("" if candidate.frontier else "dim")
        mark = "▶ " if picked else "= " if run.reference == candidate.label else ""
        shown.add_row(f"{mark}{number}", *_cells(candidate, run, metric), style=style)
    return shown


def _cells(candidate: Candidate, run: Run, metric: Scale) -> tuple[Text, ...]:
    label = Text(candidate.label)
    if candidate.failed:
        blank = Text("–")
        return label, blank, blank, blank, Text("failed", style="red"), blank
    latency, quality = candidate.latency, candidate.quality
    fast = raced(candidate, run)
    doubtful = fast.state == "unreliable"
    ends = f" ({fast.ends.replace(' to ', '–')})" if fast.ends and not doubtful else ""
    doubt = " unreliable" if doubtful else ""
    verdict = candidate.verdict
    said = verdict.state if verdict else "not judged"
    if verdict and verdict.state == "cannot tell":
        needed = "? samples" if verdict.needed is None else f"{verdict.needed:,}"
        said += f"; needs {needed}"
    return (
        label,
        Text(significant(latency.p50 if latency else None)),
        Text(f"{fast.text}{ends}{doubt}"),
        Text(metric.value(quality.value if quality else None)),
        Text(said, style=STYLES[verdict_state(verdict)]),
        Text(significant(candidate.size_mb)),
    )
