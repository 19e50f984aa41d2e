"""A profile for a terminal: the model, the runtimes, the operators that take the time, the devices.

The operators are in the order they run. Of a long model those are shown that take the most of the
fastest runtime's time (the most multiply-accumulates, where nothing was timed); how many were left
out, and what share of the time they are, is said below. A time stands with the operator whose
kernel it is; "·" marks one that was computed inside another's kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from burnish.profile._device import Fit
from burnish.profile._figures import bytes_text, count_text
from burnish.profile._memory import Memory
from burnish.profile._operator import Operator
from burnish.profile._run import Run

_MOST_ROWS = 30
_INSIDE = "·"
_UNKNOWN = "?"


def facts(batch: int, threads: int, num_parameters: int, macs: int, memory: Memory) -> Text:
    """The model in one line."""
    return Text(
        f"batch {batch}, {threads} thread{'s' * (threads != 1)}: {count_text(num_parameters)} "
        f"parameters, {bytes_text(memory.weight_bytes)}; {count_text(macs)} MACs; activations "
        f"{bytes_text(memory.peak_bytes)} at most"
        + (f", at {memory.peak_at}" if memory.peak_at else "")
    )


def runs_table(runs: Sequence[Run]) -> Table:
    """Latency in each runtime, and how much of it the operators explain."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("runtime", no_wrap=True)
    for name in ("median ms", "interval", "operators ms", "share", "memory"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("", overflow="fold")
    for run in runs:
        if run.latency is None:
            shown.add_row(run.name, *["–"] * 5, Text(run.failed or "", style="red"))
            continue
        latency = run.latency
        counted = run.attributed_ms
        shown.add_row(
            run.name,
            f"{latency.p50_ms:.3g}",
            f"{latency.low_ms:.3g} to {latency.high_ms:.3g}",
            "–" if counted is None else f"{counted:.3g}",
            "–" if run.share is None else f"{run.share:.0%}",
            "–" if run.memory_bytes is None else bytes_text(run.memory_bytes),
            Text(
                ("" if run.reliable else "unreliable: ") + (run.note or ""),
                style="" if run.reliable else "yellow",
            ),
        )
    return shown


def operators_table(operators: Sequence[Operator], runs: Sequence[Run]) -> Table:
    """The operators that matter, in order, with a line for the rest."""
    timed = [run for run in runs if run.attributed_ms is not None]
    fastest = min(timed, key=lambda run: run.latency.p50_ms if run.latency else 0.0, default=None)
    chosen = _chosen(operators, fastest)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    if len(chosen) < len(operators):
        shown.caption = Text(_rest(operators, chosen, fastest))
    shown.add_column("operator", overflow="fold")
    for name in ("params", "MACs", "bytes", "MAC/B"):
        shown.add_column(name, justify="right", no_wrap=True)
    for run in timed:
        shown.add_column(f"{_short(run.name)} ms", justify="right", no_wrap=True)
    roofed = fastest is not None and any(item.roofline.get(fastest.name) for item in chosen)
    if roofed:
        shown.add_column("of peak", justify="right", no_wrap=True)
        shown.add_column("bound", no_wrap=True)
    for item in chosen:
        roof = item.roofline.get(fastest.name) if fastest is not None else None
        share = roof.share_of_peak if roof is not None else None
        bound = roof.bound if roof is not None else None
        shown.add_row(
            Text(item.name),
            count_text(item.num_parameters) if item.num_parameters else "",
            _UNKNOWN if item.macs is None else count_text(item.macs) if item.macs else "",
            bytes_text(item.num_bytes),
            "" if not item.intensity else f"{item.intensity:.3g}",
            *(_milliseconds(item, run.name) for run in timed),
            *(("" if share is None else f"{share:.0%}", bound or "") if roofed else ()),
        )
    return shown


def devices_table(fits: Sequence[Fit]) -> Table:
    """Which devices the model fits."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("device", no_wrap=True)
    shown.add_column("fits", no_wrap=True)
    shown.add_column("needs", overflow="fold")
    for item in fits:
        word, style = {True: ("yes", "green"), False: ("no", "red"), None: (_UNKNOWN, "")}[
            item.fits
        ]
        shown.add_row(Text(item.device.name), Text(word, style=style), Text(item.reason))
    return shown


def _cost(item: Operator, fastest: Run | None) -> float:
    if fastest is None:
        return float(item.macs or 0)
    return item.seconds.get(fastest.name) or 0.0


def _chosen(operators: Sequence[Operator], fastest: Run | None) -> list[Operator]:
    if len(operators) <= _MOST_ROWS:
        return list(operators)
    dearest = sorted(operators, key=lambda item: _cost(item, fastest), reverse=True)[:_MOST_ROWS]
    names = {item.name for item in dearest}
    return [item for item in operators if item.name in names]


def _rest(operators: Sequence[Operator], chosen: Sequence[Operator], fastest: Run | None) -> str:
    whole = sum(_cost(item, fastest) for item in operators)
    share = 1 - sum(_cost(item, fastest) for item in chosen) / whole if whole else 0.0
    what = "the MACs" if fastest is None else f"the time in {fastest.name}"
    return f"and {len(operators) - len(chosen)} more: {share:.0%} of {what}"


def _milliseconds(item: Operator, runtime: str) -> str:
    if item.fused_into.get(runtime) is not None:
        return _INSIDE
    seconds = item.seconds.get(runtime)
    return "" if seconds is None else f"{seconds * 1e3:.3g}"


def _short(runtime: str) -> str:
    return {"onnxruntime": "ort", "openvino": "ov"}.get(runtime, runtime)
