"""What the command line offers, how each command ends, and what it prints."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from burnish.bundle import Verification
from burnish.cli import main
from burnish.cli._app import app
from burnish.errors import Infeasible, InvalidInput, RuntimeFailed
from tests.report import runs

# Adding a command or an option is a promise to keep it: this list is changed on purpose only.
COMMANDS = {
    "": ["--debug", "--version"],
    "demo": ["--out"],
    "optimize": ["FILE.py:FUNCTION", "--name", "--runs", "--minutes", "--max-drop", "--out"],
    "profile": [
        *("FILE.py:FUNCTION", "--batch", "--threads", "--seconds", "--probe", "--preflight"),
        *("--devices", "--out"),
    ],
    "verify": ["BUNDLE"],
    "bench": ["BUNDLE", "--seconds", "--batch", "--threads"],
    "sweep": [
        *("BUNDLE", "--batches", "--threads", "--streams", "--min-throughput", "--max-p99"),
        *("--price", "--seconds", "--out"),
    ],
    "report": ["RUN", "--out"],
    "doctor": ["--no-measure", "--renew"],
}


def _names(command: Any) -> list[str]:
    shown: list[Any] = []
    for parameter in command.params:
        is_option = parameter.param_type_name == "option"
        shown += parameter.opts if is_option else [parameter.metavar]
    return shown


def test_the_commands_and_their_options_are_these() -> None:
    root: Any = typer.main.get_command(app)
    found = {"": _names(root)} | {name: _names(one) for name, one in root.commands.items()}
    assert found == COMMANDS


@dataclass(frozen=True)
class FakeResult:
    """What `optimize` gives back."""

    run_folder: Path
    report: dict[str, Any] = field(default_factory=runs.good)
    saved: list[Path] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "report.html").touch()
        (folder / "bundle").mkdir()
        self.saved.append(folder)

    def __str__(self) -> str:
        return "the best so far [bold]"


FILE = """
import burnish

def make():
    x = __import__("torch").zeros(2, 3)
    task = burnish.Task(inputs=burnish.Inputs(x), metric=burnish.metrics.top1, validation=[(x, x)])
    return "a model", burnish.Goal(task)

def bare_task():
    model, goal = make()
    return model, goal.task

def broken():
    value = {}
    return value["gone"]

def nothing():
    return 3

def leaves():
    raise SystemExit(4)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE, encoding="utf-8")
    return path


Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]


@pytest.fixture
def optimize(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Calls, FakeResult]:
    """`burnish.auto.optimize` replaced by one that only writes down how it was called."""
    calls: Calls = []
    result = FakeResult(tmp_path / "run")

    def fake(*args: Any, **kwargs: Any) -> FakeResult:
        calls.append((args, kwargs))
        result.run_folder.mkdir(exist_ok=True)
        (result.run_folder / "report.html").touch()
        return result

    _replace_room(monkeypatch, "auto", optimize=fake)
    return calls, result


def _replace_room(monkeypatch: pytest.MonkeyPatch, room: str, **names: Any) -> None:
    module = types.ModuleType(f"burnish.{room}")
    vars(module).update(names)
    monkeypatch.setitem(sys.modules, f"burnish.{room}", module)


def _raises(error: BaseException) -> Callable[..., Any]:
    def fake(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fake


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)


def test_optimize_hands_over_the_model_the_goal_and_the_run_folder(
    file: Path, optimize: tuple[Calls, FakeResult]
) -> None:
    calls, _ = optimize
    done = run("optimize", f"{file}:make")
    assert done.exit_code == 0, done.output
    ((args, kwargs),) = calls
    assert args[0] == "a model"
    assert args[1].budget.max_drop == 0.01
    assert (kwargs["name"], kwargs["run_folder"]) == ("mine", Path("burnish-runs/mine"))
    assert "Pick: openvino int8, 2 threads" in done.stdout
    assert "report.html" in done.stdout


def test_options_override_the_budget_and_nothing_else(
    file: Path, optimize: tuple[Calls, FakeResult], tmp_path: Path
) -> None:
    calls, result = optimize
    more = ("--minutes", 3, "--max-drop", 0.02, "--name", "n", "--runs", tmp_path / "r")
    done = run("optimize", f"{file}:bare_task", *more, "--out", tmp_path / "o" / "p")
    assert done.exit_code == 0, done.output
    ((args, kwargs),) = calls
    assert (args[1].budget.minutes, args[1].budget.max_drop) == (3.0, 0.02)
    assert args[1].budget.confidence == 0.95
    assert kwargs["run_folder"] == tmp_path / "r" / "n"
    assert result.saved == [tmp_path / "o" / "p"]
    assert str(tmp_path / "o" / "p" / "bundle") in done.stdout.replace("\n", "")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mine.py", "does not name a function"),
        ("mine.py:", "does not name a function"),
        ("nowhere.py:make", "there is no file nowhere.py"),
        ("{file}:missing", "has no function 'missing'; it has: make, bare_task, broken"),
        ("{file}:broken", r"mine.py, line 15 (broken()): KeyError: 'gone'"),
        ("{file}:nothing", "returned a int; it must return a tuple (model, goal)"),
        ("{file}:leaves", "ends the program (leaves(), exit 4)"),
    ],
)
def test_what_is_wrong_with_the_file_is_told(
    file: Path, optimize: tuple[Calls, FakeResult], source: str, message: str
) -> None:
    done = run("optimize", source.format(file=file))
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.output
    assert not optimize[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1\ny = (\n", "line 2 (loading it): SyntaxError"),
        ("import burnish\n\nburnish.Budget(max_drop=-1)\n", "line 3 (loading it): InvalidInput"),
        ("import no_such_module\n", "line 1 (loading it): ModuleNotFoundError"),
        ("import sys\nsys.exit('usage')\n", "exit usage"),
    ],
)
def test_a_file_that_does_not_load_is_told_by_line(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "bad.py"
    path.write_text(content, encoding="utf-8")
    done = run("optimize", f"{path}:make")
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_a_file_may_import_its_neighbour_and_have_a_librarys_name(
    tmp_path: Path, optimize: tuple[Calls, FakeResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "neighbour_of_json.py").write_text(FILE, encoding="utf-8")
    path = tmp_path / "json.py"
    path.write_text("from neighbour_of_json import make\n", encoding="utf-8")
    assert run("optimize", f"{path}:make").exit_code == 0
    assert sys.modules["json"] is json


def test_a_run_may_not_leave_its_folder(file: Path) -> None:
    done = run("optimize", f"{file}:make", "--name", "../away")
    assert done.exit_code == 2
    assert "must be the name of one folder" in done.stderr


def test_a_bad_budget_is_refused(file: Path, optimize: tuple[Calls, FakeResult]) -> None:
    done = run("optimize", f"{file}:make", "--max-drop", "-1")
    assert done.exit_code == 2
    assert "Budget(max_drop=-1.0)" in done.stderr


def test_infeasible_shows_the_best_that_was_found(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    error = Infeasible("nothing is under 1 ms", FakeResult(tmp_path))
    _replace_room(monkeypatch, "auto", optimize=_raises(error))
    done = run("optimize", f"{file}:make")
    assert done.exit_code == 3
    assert "Error: nothing is under 1 ms" in done.stderr
    assert "the best so far [bold]" in done.stdout


def test_an_interrupted_run_says_that_it_can_be_carried_on(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _replace_room(monkeypatch, "auto", optimize=_raises(KeyboardInterrupt()))
    done = run("optimize", f"{file}:make")
    assert done.exit_code == 130
    assert "the same command carries on" in done.stderr
    monkeypatch.setattr("burnish.bundle.verify", _raises(KeyboardInterrupt()))
    done = run("verify", "bundle")
    assert done.exit_code == 130
    assert "carries on" not in done.stderr


def test_the_traceback_is_shown_only_when_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("burnish.bundle.verify", _raises(RuntimeFailed("it hung [1/2]", "hung")))
    quiet, loud = run("verify", "b"), run("--debug", "verify", "b")
    assert (quiet.exit_code, loud.exit_code) == (2, 2)
    assert "Error: it hung [1/2]" in quiet.stderr
    assert "Traceback" not in quiet.output
    assert "Traceback" in loud.stderr
    assert "Traceback" not in run("verify", "b").output, "one command's --debug is not the next's"


def test_a_mistake_of_ours_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("burnish.bundle.verify", _raises(ZeroDivisionError("ours")))
    with pytest.raises(ZeroDivisionError):
        run("verify", "b")


def test_demo_prints_the_table_and_the_paths(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Path | None] = []

    def fake(out: Path | None) -> FakeResult:
        asked.append(out)
        result = FakeResult(tmp_path / "run")
        result.save(tmp_path / "run")
        return result

    _replace_room(monkeypatch, "demo", demo=fake)
    done = run("demo")
    assert done.exit_code == 0, done.output
    assert asked == [None]
    assert "1.68 times as fast" in " ".join(done.stdout.split())
    assert "report " in done.stdout
    assert "bundle " in done.stdout


@dataclass(frozen=True)
class FakeCheck:
    """One check of a bundle."""

    name: str
    ok: bool
    detail: str


@pytest.mark.parametrize("ok", [True, False])
def test_verify_ends_with_1_when_a_check_fails(monkeypatch: pytest.MonkeyPatch, ok: bool) -> None:
    checks: Any = (FakeCheck("files", True, "3 files"), FakeCheck("outputs", ok, "apart by [0.5]"))
    monkeypatch.setattr("burnish.bundle.verify", lambda folder: Verification(ok, checks))
    done = run("verify", "bundle")
    assert done.exit_code == (0 if ok else 1)
    assert "apart by [0.5]" in done.stdout
    assert ("FAILED" in done.stdout) is not ok
    assert ("is sound" in done.stdout) is ok


def test_report_prints_the_path_it_wrote(tmp_path: Path) -> None:
    folder = runs.write(runs.sad(), tmp_path / ("deep" * 40))
    done = run("report", folder)
    assert done.exit_code == 0
    assert Path(done.stdout.strip()) == folder / "report.html"
    assert (folder / "report.html").is_file()
    assert run("report", tmp_path).exit_code == 2


def test_main_returns_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert main(["--version"]) == 0
    assert main(["no-such-command"]) == 2
    assert main(["report", "/nowhere"]) == 2
    assert "Error: /nowhere is not a folder" in capsys.readouterr().err


def test_input_errors_are_red_on_a_terminal_and_plain_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("burnish.bundle.verify", _raises(InvalidInput("no such bundle")))
    assert "\x1b" not in run("verify", "b").stderr
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[31m" in run("verify", "b").stderr


TORCH_FREE = [["--help"], ["report", "{run}"], ["verify", "{run}"], ["bench", "{run}"], ["doctor"]]


@pytest.mark.parametrize("arguments", TORCH_FREE, ids=lambda arguments: arguments[0])
def test_what_needs_no_torch_loads_none(arguments: list[str], tmp_path: Path) -> None:
    """Where importing torch is an error, as where it is not installed."""
    folder = runs.write(runs.sad(), tmp_path)
    given = [one.format(run=folder) for one in arguments]
    code = (
        "import sys; sys.modules['torch'] = None; from burnish.cli import main; "
        f"code = main({given!r}); print('ended with', code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    assert "ended with" in done.stdout
