"""The run folder: nothing is done twice, nothing is lost, and nothing of another run is touched."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from burnish.errors import BurnishError, Damaged, InvalidInput
from burnish.recipe import Store
from tests.recipe.folders import OURS, filled, lines_of, write_lines

SRC = Path(__file__).resolve().parents[2] / "src"


# --- resuming


def test_work_is_done_once_in_the_life_of_the_folder(tmp_path: Path) -> None:
    done = []

    def work() -> dict[str, int]:
        done.append(1)
        return {"answer": 42}

    for _ in range(3):
        with Store.open(tmp_path / "run", OURS) as store:
            assert store.once("question", work) == {"answer": 42}
            assert store.once("question", work) == {"answer": 42}
    assert len(done) == 1


def test_a_result_is_the_same_fresh_and_read_back(tmp_path: Path) -> None:
    """A run that is resumed must go on from the very value it went on from before."""
    result = {"pair": (1, 2), "third": 1 / 3, "tiny": 5e-324, "text": "ü\n\r\u2028", 7: None}
    with Store.open(tmp_path / "run", OURS) as store:
        fresh = store.once("key", lambda: result)
    with Store.open(tmp_path / "run", OURS) as store:
        assert store.find("key") == fresh
    assert fresh["pair"] == [1, 2]
    assert fresh["third"] == 1 / 3


def test_a_result_of_none_is_a_result(tmp_path: Path) -> None:
    with Store.open(tmp_path / "run", OURS) as store:
        store.once("nothing", lambda: None)
    with Store.open(tmp_path / "run", OURS) as store:
        assert store.once("nothing", lambda: pytest.fail("done twice")) is None


def test_events_are_told_in_order_with_their_times(tmp_path: Path) -> None:
    filled(tmp_path / "run")
    with Store.open(tmp_path / "run", OURS) as store:
        events = store.events()
    assert [event["key"] for event in events] == list("abcde")
    assert [event["number"] for event in events] == [0, 1, 2, 3, 4]
    assert all(earlier["at"] <= later["at"] for earlier, later in itertools.pairwise(events))


def test_work_that_fails_leaves_no_trace(tmp_path: Path) -> None:
    def work() -> None:
        raise RuntimeError("in the middle")

    with Store.open(tmp_path / "run", OURS) as store:
        with pytest.raises(RuntimeError, match="in the middle"):
            store.once("key", work)
        assert store.once("key", lambda: 1) == 1


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_beyond_json_are_refused_before_anything_is_written(
    tmp_path: Path, number: float
) -> None:
    filled(tmp_path / "run")
    before = lines_of(tmp_path / "run")
    with Store.open(tmp_path / "run", OURS) as store:
        with pytest.raises(ValueError, match="JSON"):
            store.record("bad", {"value": [number]})
        assert store.find("bad") is None
    assert lines_of(tmp_path / "run") == before


# --- killed while writing


@pytest.mark.parametrize("kept", [1, 20, -2, -1])
def test_a_line_cut_short_is_dropped_and_the_run_carries_on(tmp_path: Path, kept: int) -> None:
    run = filled(tmp_path / "run")
    whole = lines_of(run)
    write_lines(run, [*whole[:4], whole[4][:kept]])
    with Store.open(run, OURS) as store:
        assert [event["key"] for event in store.events()] == list("abcd")
        assert store.once("e", lambda: {"number": 4}) == {"number": 4}
        store.record("f", None)
    with Store.open(run, OURS) as store:
        assert [event["key"] for event in store.events()] == list("abcdef")


def test_killed_before_the_first_line_was_whole(tmp_path: Path) -> None:
    run = filled(tmp_path / "run", "a")
    write_lines(run, [lines_of(run)[0][:10]])
    with Store.open(run, OURS) as store:
        assert store.events() == ()
        store.record("a", 1)


def test_killed_between_run_json_and_the_journal(tmp_path: Path) -> None:
    run = filled(tmp_path / "run", "")
    (run / "journal.jsonl").unlink()
    with Store.open(run, OURS) as store:
        assert store.events() == ()


def test_killed_while_run_json_was_written(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.json-x1y2").write_text('{"sche')
    with Store.open(tmp_path / "run", OURS) as store:
        assert store.once("a", lambda: 1) == 1


# --- whose folder it is


@pytest.mark.parametrize(
    ("theirs", "named"),
    [
        ({"model": "other", "goal": "bb"}, "another model:"),
        ({"model": "aa", "goal": "other"}, "another goal:"),
        ({"model": "x", "goal": "y"}, "another goal, model:"),
        ({**OURS, "environment": "cc"}, "another environment:"),
    ],
)
def test_the_run_of_another_is_refused_and_not_touched(
    tmp_path: Path, theirs: dict[str, str], named: str
) -> None:
    run = filled(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(InvalidInput, match=named):
        Store.open(run, theirs)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_folder_that_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InvalidInput, match="no run folder"):
        Store.open(tmp_path, OURS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(InvalidInput, match="is a file"):
        Store.open(tmp_path / "run", OURS)
    with pytest.raises(BurnishError, match="cannot write"):
        Store.open(tmp_path / "run" / "below", OURS)
    assert (tmp_path / "run").read_text() == "a file"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "identity": 3}', "\x00\x00"]
)
def test_a_run_json_that_does_not_read_is_damage(tmp_path: Path, text: str) -> None:
    run = filled(tmp_path / "run")
    (run / "run.json").write_text(text)
    with pytest.raises(Damaged, match=r"run\.json does not read"):
        Store.open(run, OURS)


def test_a_run_of_a_later_version_is_refused(tmp_path: Path) -> None:
    run = filled(tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"schema": 2}))
    with pytest.raises(InvalidInput, match="schema 2"):
        Store.open(run, OURS)


def test_an_empty_folder_may_be_taken(tmp_path: Path) -> None:
    with Store.open(tmp_path, OURS) as store:
        store.record("a", 1)
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "journal.jsonl"}


def test_two_that_claim_one_folder_at_once_do_not_both_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both see an empty folder; the other's run.json is renamed over ours before we hold it."""
    import burnish.recipe._store as module

    lock = module._lock

    def late(handle: Any, folder: Path) -> None:
        other = {"schema": 1, "identity": {"model": "theirs", "goal": "bb"}}
        (folder / "run.json").write_text(json.dumps(other))
        lock(handle, folder)

    monkeypatch.setattr(module, "_lock", late)
    with pytest.raises(InvalidInput, match="another model"):
        Store.open(tmp_path / "run", OURS)


# --- nothing left behind


def test_a_run_that_fails_before_anything_is_recorded_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Store.open(tmp_path / "run", OURS):
        raise KeyError("bad input")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(KeyError), Store.open(tmp_path / "empty", OURS):
        raise KeyError("bad input")
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_run_that_fails_later_keeps_what_it_has(tmp_path: Path) -> None:
    def later() -> None:
        with Store.open(tmp_path / "run", OURS) as store:
            store.once("a", lambda: 1)
            raise KeyError("later")

    for _ in range(2):
        with pytest.raises(KeyError, match="later"):
            later()
    with Store.open(tmp_path / "run", OURS) as store:
        assert store.find("a") == 1


def test_files_of_the_users_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Store.open(tmp_path / "run", OURS) as store:
        raise KeyError((store.folder / "notes.txt").write_text("mine"))
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    with Store.open(tmp_path / "run", OURS):
        pass


# --- one process at a time

HOLD = """
import sys
from burnish.recipe import Store
store = Store.open({folder!r}, {identity!r})
store.record("theirs", 1)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_in_use_by_another_process_is_refused_until_that_dies(tmp_path: Path) -> None:
    code = HOLD.format(folder=str(tmp_path / "run"), identity=OURS)
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InvalidInput, match="in use by another process"):
            Store.open(tmp_path / "run", OURS)
        other.send_signal(signal.SIGKILL)
    with Store.open(tmp_path / "run", OURS) as store:
        assert store.find("theirs") == 1


def test_in_one_process_too(tmp_path: Path) -> None:
    with (
        Store.open(tmp_path / "run", OURS),
        pytest.raises(InvalidInput, match="in use"),
    ):
        Store.open(tmp_path / "run", OURS)


def test_closing_lets_go(tmp_path: Path) -> None:
    Store.open(tmp_path / "run", OURS).close()
    Store.open(tmp_path / "run", OURS).close()


def test_a_run_folder_may_be_moved(tmp_path: Path) -> None:
    run = filled(tmp_path / "run")
    shutil.move(run, tmp_path / "elsewhere")
    with Store.open(tmp_path / "elsewhere", OURS) as store:
        assert len(store.events()) == 5
