"""The commands. Each parses its options, calls one room and prints what it gives back.

A room is imported inside its command, so that `--help`, `verify`, `bench`, `report` and `doctor`
start in a moment and work where torch is not installed. Left out: settings of single techniques,
which are Python (`burnish.quantize`), and whatever a goal can say for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from burnish.cli._console import DEBUG, FAILED, complaints, guarded, output
from burnish.errors import InvalidInput

if TYPE_CHECKING:
    from burnish.goal import Goal

app = typer.Typer(
    name="burnish",
    help="A trained PyTorch model in, the fastest artifact that provably keeps its quality out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

BundleFolder = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (of this process, when None) and return the exit code."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="burnish")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    return 0


def _show_version(wanted: bool) -> None:
    if wanted:
        from burnish import __version__

        output().print(f"burnish {__version__}", markup=False)
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error, too.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Say the version."),
    ] = False,
) -> None:
    DEBUG.set(debug)


@app.command()
@guarded(resumable=True)
def demo(
    out: Annotated[
        Path | None, typer.Option(help="Where the bundle and the report go.", show_default=False)
    ] = None,
) -> None:
    """Train a small network on real digits, optimize it, write a report and a bundle."""
    from burnish.demo import demo as run

    _announce(run(out), out)


@app.command()
@guarded(resumable=True)
def optimize(
    source: Annotated[
        str, typer.Argument(metavar="FILE.py:FUNCTION", help="FUNCTION() returns (model, goal).")
    ],
    name: Annotated[
        str | None,
        typer.Option(help="Name of the run (default: the file's).", show_default=False),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("burnish-runs"),
    minutes: Annotated[
        float | None, typer.Option(help="Wall-clock allowance; overrides the goal's.")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Largest loss of quality; overrides the goal's.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Also save the bundle and the report there.", show_default=False),
    ] = None,
) -> None:
    """Find the fastest artifact that keeps the model's quality. Given again, it carries on."""
    from burnish.cli._load import load, split

    name = _run_name(name or split(source)[0].stem)
    model, goal = load(source)
    goal = _with_budget(goal, minutes=minutes, max_drop=max_drop)
    from burnish.auto import optimize as run

    result = run(model, goal, name=name, run_folder=runs / name, console=complaints())
    if out is not None:
        result.save(out)
    _announce(result, out)


def _run_name(name: str) -> str:
    if name in ("", ".", "..") or Path(name).name != name:
        raise InvalidInput(f"--name {name!r} must be the name of one folder; say where by --runs")
    return name


def _with_budget(goal: Goal, **wanted: float | None) -> Goal:
    from dataclasses import replace

    changes: dict[str, Any] = {key: value for key, value in wanted.items() if value is not None}
    return replace(goal, budget=replace(goal.budget, **changes)) if changes else goal


def _announce(result: Any, out: Path | None) -> None:
    from burnish.report import table

    console = output()
    console.print(table(result.report))
    folder = result.run_folder if out is None else out
    bundle = folder if (folder / "manifest.json").is_file() else folder / "bundle"
    paths = {"report": folder / "report.html", "bundle": bundle, "run": result.run_folder}
    for what, path in paths.items():
        if path.exists():
            console.print(Text(f"{what:<7}{path}"), soft_wrap=True)


@app.command()
@guarded()
def verify(bundle: BundleFolder) -> None:
    """Check a bundle on this machine: hashes, loading, outputs. Exit code 1 when a check fails."""
    from burnish.bundle import verify as run

    found = run(bundle)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("check", no_wrap=True)
    shown.add_column("", no_wrap=True)
    shown.add_column("found", overflow="fold")
    for check in found.checks:
        mark = Text("ok", style="green") if check.ok else Text("FAILED", style="bold red")
        shown.add_row(Text(check.name), mark, Text(check.detail))
    console = output()
    console.print(shown)
    if not found.ok:
        console.print(Text(f"{bundle} is not what was shipped, or does not run here", "bold red"))
        raise typer.Exit(FAILED)
    console.print(Text(f"{bundle} is sound", "bold green"))


@app.command()
@guarded()
def bench(
    bundle: BundleFolder,
    seconds: Annotated[float, typer.Option(help="How long to measure.")] = 5.0,
    batch: Annotated[int, typer.Option(help="Samples a call.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(help="Threads of the runtime (default: the bundle's).", show_default=False),
    ] = None,
) -> None:
    """Time a bundle on this machine."""
    from burnish.bundle import time_bundle

    took = time_bundle(bundle, seconds=seconds, batch=batch, threads=threads)
    shown = Table(box=None, show_header=False, pad_edge=False)
    shown.add_column(style="bold")
    shown.add_column(justify="right")
    shown.add_column()
    for name, value, unit in (
        ("median", 1e3 * took.p50, "ms per call"),
        ("p90", 1e3 * took.p90, "ms per call"),
        ("p99", 1e3 * took.p99, "ms per call"),
        ("throughput", took.throughput, "samples/s"),
        ("loading", took.load_seconds, "s"),
        ("peak memory", took.memory_bytes / 1e6, "MB"),
    ):
        shown.add_row(name, f"{value:,.0f}" if value >= 1000 else f"{value:.3g}", unit)
    console = output()
    console.print(shown)
    console.print(Text(f"{took.runs:,} calls of batch {took.batch}; one artifact by itself", "dim"))


@app.command()
@guarded()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.")],
    out: Annotated[
        Path | None,
        typer.Option(help="File or folder to write (default: RUN).", show_default=False),
    ] = None,
) -> None:
    """Write the report page of a run again from what it recorded."""
    from burnish.report import report as write

    output().print(Text(str(write(run, out))), soft_wrap=True)


@app.command()
@guarded()
def doctor() -> None:
    """Say what this machine can do, what is installed and what is missing."""
    from burnish.cli._doctor import diagnosis
    from burnish.hardware import detect

    output().print(diagnosis(detect()))
