"""What `burnish sweep` prints: every combination in a row, the choice, and what is to be known.

Two rows are marked where nothing was asked for: the lowest latency and the highest throughput.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from burnish.cli._console import complaints, output
from burnish.errors import Infeasible, InvalidInput, RuntimeFailed

if TYPE_CHECKING:
    from burnish.bench import Point, Sweep

_MILLI = 1e3
_FEW = "*"


def numbers(option: str, text: str) -> list[int]:
    """`1,4,16` as numbers. Raises `InvalidInput` naming the option."""
    try:
        return [int(item) for item in text.split(",")]
    except ValueError:
        raise InvalidInput(
            f"{option} {text!r}: say whole numbers with commas between, 1,4,16"
        ) from None


def check_limits(**limits: float | None) -> None:
    """Refuse, before anything is measured, what could not be answered afterwards."""
    for name, value in limits.items():
        if value is not None and not 0 < value < float("inf"):
            raise InvalidInput(f"--{name.replace('_', '-')} {value}: use a number above 0")
    if limits["min_throughput"] is not None and limits["max_p99"] is not None:
        raise InvalidInput(
            "--min-throughput asks for the lowest latency above it, --max-p99 for the highest "
            "throughput under it: give one of them"
        )


def folder_of(bundle: Path) -> Path:
    """Where the sweep of a bundle goes: by the run's name, where the bundle is a run's."""
    whole = bundle.resolve()
    name = whole.parent.name if whole.name == "bundle" else whole.name
    return Path("burnish-runs") / f"{name or 'bundle'}-sweep"


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[float], None]]:
    """A bar on a terminal's error stream; nothing in a pipe."""
    console = complaints()
    columns = TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda share: bar.update(task, completed=share)


def run(bundle: Path, listed: Mapping[str, str | None], seconds: float | None) -> Sweep:
    """Sweep a bundle over the lists given as text; a fixed batch is run as it is."""
    from burnish.bench import sweep
    from burnish.bundle import Bundle

    wanted: dict[str, Any] = {
        name: numbers(f"--{name}", text) for name, text in listed.items() if text is not None
    }
    opened = Bundle.open(bundle)
    if not opened.takes_any_batch:
        wanted.setdefault("batches", [1])
    with progress("sweep") as share:
        return sweep(opened.artifact, opened.samples, seconds=seconds, progress=share, **wanted)


def show(
    found: Sweep, limits: Mapping[str, float | None], price: float | None, folder: Path
) -> None:
    """Print it and write it to `folder`.

    Raises `Infeasible` when no combination is in the limit, `RuntimeFailed` when none ran.
    """
    from burnish.report import sweep_page

    path = found.save(folder, price_per_hour=price, **limits)
    page = sweep_page(folder)
    best = refused = None
    try:
        if any(limit is not None for limit in limits.values()):
            best = found.best(**limits)
        elif all(point.timing.failed for point in found.points):
            raise RuntimeFailed(f"no combination ran; {found.points[0]}")
    except (Infeasible, RuntimeFailed) as error:
        refused = error
    console = output()
    console.print(table(found, best, price))
    for said in (*_legend(found), *found.notes, f"energy: {found.energy}"):
        console.print(Text(said, "dim"))
    for what, where in (("record", path), ("page", page)):
        console.print(Text(f"{what:<7}{where}"), soft_wrap=True)
    if refused is not None:
        raise refused
    if best is not None:
        why = found.to_json(**limits)["best"]["why"]
        console.print(Text(f"best   {why}", "bold green"), soft_wrap=True)


def table(found: Sweep, best: Point | None, price: float | None) -> Table:
    """All combinations, the best one marked (or, without one, the two ends)."""
    energy = any(point.joules is not None for point in found.points)
    marks = _marks(found, best)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("batch", "threads", "streams", "p50 ms", "interval", "p99 ms", "samples/s"):
        shown.add_column(name, justify="right", no_wrap=True)
    for name, wanted in (("mJ/sample", energy), ("cost per million", price is not None)):
        if wanted:
            shown.add_column(name, justify="right")
    shown.add_column("", overflow="fold")
    for point in found.points:
        row = [str(point.batch), str(point.threads), str(point.streams), *_times(point)]
        if energy:
            row.append("" if point.joules is None else f"{_MILLI * point.joules:.3g}")
        if price is not None:
            failed = point.timing.failed is not None
            row.append("" if failed else f"{point.cost_per_million(price):.3g}")
        doubt = None if point.doubt is None else "unreliable"
        said = [marks.get(point.label), point.timing.failed, doubt]
        row.append("; ".join(item for item in said if item))
        style = "bold green" if point is best else "dim" if point.timing.failed else ""
        shown.add_row(*(Text(cell) for cell in row), style=style)
    return shown


def _times(point: Point) -> list[str]:
    timing = point.timing
    if timing.failed is not None:
        return ["failed", "", "", ""]
    return [
        f"{_MILLI * timing.p50:.3g}",
        f"{_MILLI * point.low:.3g} to {_MILLI * point.high:.3g}",
        f"{_MILLI * timing.p99:.3g}{_FEW if point.few_runs else ' '}",
        f"{timing.throughput:,.0f}" if timing.throughput >= 1000 else f"{timing.throughput:.3g}",
    ]


def _legend(found: Sweep) -> list[str]:
    doubts = dict.fromkeys(point.doubt for point in found.points if point.doubt is not None)
    said = [f"unreliable: {doubt}" for doubt in doubts]
    if any(point.few_runs for point in found.points):
        said.append(f"{_FEW} rests on under 100 runs: little more than the slowest of them")
    return said


def _marks(found: Sweep, best: Point | None) -> dict[str, str]:
    if best is not None:
        return {best.label: "best"}
    ran = [point for point in found.points if point.timing.failed is None]
    if not ran:
        return {}
    quickest = min(ran, key=lambda point: point.timing.p50)
    most = max(ran, key=lambda point: point.timing.throughput)
    if quickest is most:
        return {quickest.label: "lowest latency, highest throughput"}
    return {quickest.label: "lowest latency", most.label: "highest throughput"}
