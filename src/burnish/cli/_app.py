"""The commands. Each parses its options, calls one room and prints what it gives back.

A room is imported inside its command, so that `--help`, `verify`, `bench`, `sweep`, `report` and
`doctor` start in a moment and work where torch is not installed. Left out: settings of single
techniques, which are Python (`burnish.quantize`), and whatever a goal can say for itself.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from burnish.cli._console import DEBUG, FAILED, complaints, guarded, output
from burnish.errors import InvalidInput, RuntimeFailed

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
    finally:
        if arguments is None:
            # The process ends here. Python would look once more through all that torch has made,
            # for garbage: nearly two seconds after an export.
            gc.freeze()
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
def profile(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE.py:FUNCTION", help="FUNCTION() returns (model, burnish.Inputs)."
        ),
    ],
    batch: Annotated[int, typer.Option(help="Samples a call.")] = 1,
    threads: Annotated[
        int | None, typer.Option(help="Of each runtime (default: every core).", show_default=False)
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long to race the runtimes.")] = 2.5,
    probe: Annotated[
        bool, typer.Option("--probe", help="Measure the machine's peaks, if not done yet.")
    ] = False,
    preflight: Annotated[
        bool, typer.Option("--preflight", help="Ask what is worth trying: half a minute more.")
    ] = False,
    devices: Annotated[
        Path | None,
        typer.Option(help="JSON file of further devices to fit.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder (default: burnish-runs/NAME-profile).", show_default=False),
    ] = None,
) -> None:
    """Tell where a model's parameters, MACs, bytes and time go, operator by operator."""
    from burnish.cli import _profile

    settings = {"batch": batch, "threads": threads, "seconds": seconds}
    found = _profile.run(source, measure=probe, ask=preflight, devices=devices, settings=settings)
    _profile.show(found, out or _profile.folder_of(source))


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
    from burnish.bench import race
    from burnish.bundle import Bundle

    opened = Bundle.open(bundle)
    artifact = opened.artifact if threads is None else opened.artifact.with_options(threads=threads)
    inputs = opened.samples(batch)
    found = race({"bundle": artifact}, inputs, seconds=seconds, batch=batch)
    (took,) = found.timings
    if took.failed is not None:
        raise RuntimeFailed(took.failed)
    _, low, high = found.latency("bundle")
    shown = Table(box=None, show_header=False, pad_edge=False)
    shown.add_column(style="bold")
    shown.add_column(justify="right")
    shown.add_column()
    for name, value, unit in (
        ("median", 1e3 * took.p50, f"ms per call, {1e3 * low:.3g} to {1e3 * high:.3g}"),
        ("p90", 1e3 * took.p90, "ms per call"),
        ("p99", 1e3 * took.p99, "ms per call"),
        ("throughput", took.throughput, "samples/s"),
        ("loading", took.load_seconds, "s"),
        ("peak memory", took.memory_bytes / 1e6, "MB"),
    ):
        shown.add_row(name, f"{value:,.0f}" if value >= 1000 else f"{value:.3g}", unit)
    console = output()
    console.print(shown)
    console.print(
        Text(f"{took.rounds} rounds of calls of batch {batch}; one artifact by itself", "dim")
    )


@app.command()
@guarded()
def sweep(
    bundle: BundleFolder,
    batches: Annotated[
        str | None,
        typer.Option(help="Samples a call (default: 1 to 32 by doubling).", show_default=False),
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option(help="Threads a stream (default: 1 to all by doubling).", show_default=False),
    ] = None,
    streams: Annotated[str, typer.Option(help="Processes side by side.")] = "1,2",
    min_throughput: Annotated[
        float | None, typer.Option(help="Samples/s wanted: find the lowest latency there.")
    ] = None,
    max_p99: Annotated[
        float | None, typer.Option(help="Milliseconds allowed: find the highest throughput there.")
    ] = None,
    price: Annotated[
        float | None, typer.Option(help="Of the machine, an hour: tell what a million cost.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(help="How long to measure (default: 1 a combination).")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder (default: burnish-runs/NAME-sweep).", show_default=False),
    ] = None,
) -> None:
    """Time a bundle over batch, threads and streams, and find the best combination."""
    from burnish.cli import _sweep

    _sweep.check_limits(min_throughput=min_throughput, max_p99=max_p99, price=price)
    listed = {"batches": batches, "threads": threads, "streams": streams}
    found = _sweep.run(bundle, listed, seconds)
    allowed = None if max_p99 is None else max_p99 / 1e3
    limits = {"min_throughput": min_throughput, "max_p99": allowed}
    _sweep.show(found, limits, price, out or _sweep.folder_of(bundle))


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
def doctor(
    no_measure: Annotated[
        bool, typer.Option("--no-measure", help="Show what was measured before, measure nothing.")
    ] = False,
    renew: Annotated[bool, typer.Option("--renew", help="Measure again.")] = False,
) -> None:
    """Say what this machine can do, what is installed and what is missing.

    The first time, speeds are measured (half a minute) and kept.
    """
    from burnish.cli._doctor import diagnosis
    from burnish.cli._measured import measured
    from burnish.hardware import detect

    if no_measure and renew:
        raise InvalidInput("--renew measures, --no-measure forbids it: give one of them")
    output().print(diagnosis(detect()))
    output().print(measured(measure=not no_measure, renew=renew))
