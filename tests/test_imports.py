"""What importing costs and what it loads, measured in fresh processes.

The front door and the command line answer without torch; the rooms that must work where torch is
not installed load none of it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

import pytest

import burnish

IMPORT_BUDGET = 1.0  # seconds `import burnish` may add to importing torch
HELP_BUDGET = 2.0  # seconds until `burnish --help` has answered
NO_TORCH = ("errors", "hardware", "bundle", "bench", "report", "cli")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter; a failure shows what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def loaded(code: str) -> set[str]:
    """The packages outside the standard library that are loaded once `code` has run."""
    tell = "import json, sys; print(json.dumps([name.partition('.')[0] for name in sys.modules]))"
    names = set(json.loads(run("-c", f"{code}\n{tell}").stdout.splitlines()[-1]))
    return names - set(sys.stdlib_module_names) - {"__main__"}


def seconds(*arguments: str) -> float:
    start = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - start


def test_importing_burnish_loads_nothing_else() -> None:
    assert loaded("import burnish") - loaded("pass") == {"burnish"}


@pytest.mark.parametrize("room", NO_TORCH)
def test_a_room_that_must_work_without_torch_does_not_load_it(room: str) -> None:
    assert "torch" not in loaded(f"import burnish.{room}")


def test_importing_burnish_costs_little_beyond_torch() -> None:
    code = "import time, torch; start = time.perf_counter(); import burnish; "
    took = float(run("-c", code + "print(time.perf_counter() - start)").stdout)
    assert 0 < took < IMPORT_BUDGET


def test_help_is_quick_and_loads_no_torch() -> None:
    shown = run("-X", "importtime", "-m", "burnish", "--help")
    assert "optimize" in shown.stdout
    assert "torch" not in {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    took = statistics.median(seconds("-m", "burnish", "--help") for _ in range(3))
    assert took < HELP_BUDGET


@pytest.mark.parametrize("name", [name for name in dir(burnish) if not name.startswith("_")])
def test_every_public_name_is_there(name: str) -> None:
    found = getattr(burnish, name)
    room = getattr(found, "__module__", None) or found.__name__
    assert room.startswith("burnish.")
    assert getattr(burnish, name) is found


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"no 'optimise'; it has: .*optimize"):
        burnish.optimise  # type: ignore[attr-defined]  # noqa: B018
