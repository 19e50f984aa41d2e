"""What this machine was measured to do, for a console: the second half of `burnish doctor`.

Measuring needs torch, which exports the graphs that are run; where it is not installed, what is not
measured is said with the line that installs it. A figure with a question mark is not reliable, and
its row or a note below says why.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from burnish.cli._console import complaints
from burnish.cli._doctor import section
from burnish.errors import MissingExtra

if TYPE_CHECKING:
    from burnish.hardware import Gpu
    from burnish.profile import Probe

_STYLES = {"native": "green", "converted": "yellow", "emulated": "yellow", "refused": "dim"}
_NOT_MEASURED = "peaks, bandwidths, dispatch, what each runtime really computes in"


def measured(*, measure: bool, renew: bool) -> RenderableType:
    """GPUs and the probe: read back where it was measured before, else measured with progress."""
    from burnish.hardware import gpus

    try:
        found = gpus()
    except MissingExtra:
        why = "torch, which exports what is run, is not installed: pip install torch"
        return section("Measured", [("nothing", "missing", f"{_NOT_MEASURED}: {why}")])
    known = _probe(renew) if measure else _last_probe()
    shown = [section("GPUs", _gpus(found))]
    if known is None:
        row = ("nothing", "", f"{_NOT_MEASURED}: leave out --no-measure")
        return Group(*shown, section("Measured", [row]))
    return Group(*shown, *_sections(known))


def _probe(renew: bool) -> Probe:
    from burnish.profile import probe

    columns = (TextColumn("{task.description}"), BarColumn())
    with Progress(*columns, console=complaints(), transient=True) as bar:
        task = bar.add_task("measuring this machine", total=1.0)
        return probe(
            renew=renew,
            progress=lambda what, share: bar.update(task, description=what, completed=share),
        )


def _last_probe() -> Probe | None:
    from burnish.profile import last_probe

    return last_probe()


def _gpus(found: tuple[Gpu, ...]) -> Iterator[tuple[str, str, str]]:
    if not found:
        yield "none", "", "torch sees no GPU here"
    for gpu in found:
        memory = f"{gpu.memory_bytes / 1e9:.3g} GB" if gpu.memory_bytes else "memory not told"
        yield gpu.device, gpu.name, memory


def _sections(probe: Probe) -> Iterator[RenderableType]:
    when = probe.created[:16].replace("T", " ") + " UTC"
    threads = "1 thread" if probe.threads == 1 else f"{probe.threads} threads"
    yield Text(f"Measured with {threads}, {when}", style="bold underline")
    yield _products(probe)
    levels = ((row.level, row.gb_per_s, row.reliable) for row in probe.bandwidths)
    yield _figures("reading from", "GB/s", levels)
    dispatches = ((row.runtime, row.seconds * 1e6, row.reliable) for row in probe.dispatches)
    yield _figures("an operator in", "µs before it computes", dispatches)
    sound = [peak.reliable for peak in probe.peaks if peak.gmacs is not None]
    sound += [level.reliable for level in probe.bandwidths]
    sound += [each.reliable for each in probe.dispatches]
    if not all(sound):
        yield Text("? not reliable: on a quiet machine, burnish doctor --renew", style="yellow")
    for note in probe.notes:
        yield Text(f"! {note}", style="yellow")


def _products(probe: Probe) -> RenderableType:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("multiplying matrices in", "type"):
        shown.add_column(title, no_wrap=True)
    shown.add_column("10⁹ MAC/s", justify="right", no_wrap=True)
    shown.add_column("of float32", justify="right", no_wrap=True)
    shown.add_column("", no_wrap=True)
    shown.add_column("by", overflow="fold", style="dim")
    for peak in probe.peaks:
        known = probe.capability(peak.runtime, peak.dtype)
        if known is None:
            continue
        speed = "" if known.speed is None else f"{_figure(known.speed, peak.reliable)} ×"
        remarks = dict.fromkeys(part for part in (known.how, known.reason, peak.note) if part)
        shown.add_row(
            Text(peak.runtime),
            Text(peak.dtype),
            Text("–" if peak.gmacs is None else _figure(peak.gmacs, peak.reliable)),
            Text(speed),
            Text(known.state, style=_STYLES[known.state]),
            Text("; ".join(remarks)),
        )
    return shown


def _figures(what: str, unit: str, rows: Iterator[tuple[str, float, bool]]) -> RenderableType:
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column(what, no_wrap=True)
    shown.add_column(unit, justify="right", no_wrap=True)
    for name, value, reliable in rows:
        shown.add_row(Text(name), Text(_figure(value, reliable)))
    return shown


def _figure(value: float, reliable: bool) -> str:
    return f"{value:.3g}" + ("" if reliable else " ?")
