"""What `burnish profile` does: load, profile, ask, write three files, print the tables."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from burnish.cli._console import complaints, output
from burnish.cli._load import load_example, split

if TYPE_CHECKING:
    from burnish.profile import Profile

TRACE = "trace.json"


def folder_of(source: str) -> Path:
    """Where the profile of FILE.py:FUNCTION goes unless told otherwise."""
    return Path("burnish-runs") / f"{split(source)[0].stem}-profile"


def run(
    source: str, *, measure: bool, ask: bool, devices: Path | None, settings: dict[str, Any]
) -> Profile:
    """Profile what FILE.py:FUNCTION returns.

    Args:
        source: FILE.py:FUNCTION.
        measure: measure the machine's peaks where they are not known yet.
        ask: what is worth trying, too.
        devices: a file of further devices.
        settings: of `profile`: batch, threads, seconds.
    """
    with _progress() as told:
        told("loading the model")
        model, inputs = load_example(source)
        from burnish.profile import devices as known
        from burnish.profile import preflight, probe, profile

        peaks = None
        if measure:
            peaks = probe(threads=settings["threads"], progress=lambda what, share: told(what))
        found = profile(
            model,
            inputs,
            peaks=peaks,
            devices=known(devices),
            title=split(source)[0].stem,
            progress=told,
            **settings,
        )
        if not ask:
            return found
        size = {"batch": settings["batch"], "threads": settings["threads"]}
        answers = preflight(model, inputs, progress=told, **size)
        return dataclasses.replace(found, preflight=answers.to_json())


def show(found: Profile, folder: Path) -> None:
    """Write the record, the page and the trace into `folder`; print the table and the paths."""
    from burnish.profile import Preflight
    from burnish.report import profile_page

    record = found.save(folder)
    found.chrome_trace(folder / TRACE)
    page = profile_page(folder)
    console = output()
    console.print(found)
    if found.preflight is not None:
        console.print(Preflight.from_json(found.preflight))
    for what, path in (("record", record), ("page", page), ("trace", folder / TRACE)):
        console.print(Text(f"{what:<7}{path}"), soft_wrap=True)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What is being done, on a terminal's error stream; nothing in a pipe."""
    console = complaints()
    if not console.is_terminal:
        yield lambda doing: None
        return
    with console.status("") as status:
        yield status.update
