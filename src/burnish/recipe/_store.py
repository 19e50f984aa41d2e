"""The run folder: an append-only journal of what was done, so that nothing is done twice.

    run.json          whose run this is: model, goal, environment; written once
    journal.jsonl     one finished piece of work a line, flushed to the disk, each with a checksum
    candidates/KEY/   artifacts, histories and tensors of one candidate
    report.json, report.html, bundle/

Every expensive piece of work has a key and goes through `once(key, work)`: where the journal holds
the key, its result is given back; else the work is done and the result appended. A program written
that way is resumed by running it again. A process killed while writing leaves a last line without
its newline: that line is dropped. Any other line that does not read, or whose checksum is wrong, is
damage, and refused by its number.

One process at a time may hold a run folder (an advisory lock, freed when the process dies). A
folder made for work that failed before anything was recorded is taken away again.

Left out: sharing a run folder between machines.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from burnish.errors import BurnishError, Damaged, InvalidInput
from burnish.files import write_text

SCHEMA = 1
RUN, JOURNAL = "run.json", "journal.jsonl"


class Store:
    """An open run folder. Use `Store.open`, and close it."""

    def __init__(self, folder: Path, handle: Any, made: bool) -> None:
        self.folder = folder
        self._events = _read_journal(folder / JOURNAL, handle)
        self._by_key = {event["key"]: event for event in self._events}
        self._handle = handle
        self._made = made

    @classmethod
    def open(cls, folder: Path, identity: Mapping[str, Any]) -> Store:
        """Open a run folder, or make one.

        Args:
            folder: made where it is absent.
            identity: what makes two runs the same run, as flat JSON: {"model": hash, …}.

        Raises:
            InvalidInput: the folder is another run's, is in use, or holds something else.
            Damaged: run.json or a line of the journal does not read.
            BurnishError: the disk does not take or give it.
        """
        folder = Path(folder)
        made = not folder.exists()
        _claim(folder, dict(identity))
        with _disk(folder / JOURNAL):
            # Unbuffered: what a full disk refused must not be tried again when the file is closed.
            handle = open(folder / JOURNAL, "a+b", buffering=0)  # noqa: SIM115 (held while open)
        try:
            _lock(handle, folder)
            _check(folder, dict(identity))  # another process may have claimed it at the same time
            return cls(folder, handle, made)
        except BaseException:
            handle.close()
            raise

    def close(self) -> None:
        """Let another process have the folder."""
        self._handle.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None and not self._events:
            self._withdraw()
        self.close()

    def _withdraw(self) -> None:
        """Leave nothing behind of a run that did nothing."""
        with contextlib.suppress(OSError):
            if {item.name for item in self.folder.iterdir()} == {RUN, JOURNAL}:
                (self.folder / RUN).unlink()
                (self.folder / JOURNAL).unlink()
                if self._made:
                    self.folder.rmdir()

    def once(self, key: str, work: Callable[[], Any]) -> Any:
        """The result of `work` (plain JSON), done at most once in the life of the folder."""
        if key in self._by_key:
            return self._by_key[key]["result"]
        result = work()
        self.record(key, result)
        return self._by_key[key]["result"]

    def record(self, key: str, result: Any) -> None:
        """Append a finished piece of work. BurnishError where the disk does not take it.

        `result` is plain JSON: no NaN and no infinity (ValueError), which no journal can hold.
        """
        event = {"number": len(self._events), "at": round(time.time(), 3), "key": key}
        line = _with_checksum(event | {"result": result})
        before = self._handle.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(line):
                written += self._handle.write(line[written:])
            os.fsync(self._handle.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._handle.truncate(before)
            raise BurnishError(
                f"cannot write to {self.folder / JOURNAL}: {error.strerror}; what was measured "
                "before is kept: make room and run the same command again"
            ) from error
        # What a resumed run would read, so that both go on from the very same value.
        kept: dict[str, Any] = json.loads(line)
        self._events.append(kept)
        self._by_key[key] = kept

    def find(self, key: str) -> Any:
        """The result under a key, or None."""
        event = self._by_key.get(key)
        return None if event is None else event["result"]

    def events(self) -> tuple[Mapping[str, Any], ...]:
        """Everything in the journal, in order."""
        return tuple(self._events)

    def candidate(self, key: str) -> Path:
        """The folder of a candidate; made where it is absent."""
        path = self.folder / "candidates" / key
        with _disk(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name: str, text: str) -> Path:
        """Write a file of the folder, whole or not at all."""
        path = self.folder / name
        with self.writing(path):
            write_text(path, text)
        return path

    @staticmethod
    def writing(path: Path) -> contextlib.AbstractContextManager[None]:
        """While this is entered, what the disk refuses is a BurnishError that names `path`."""
        return _disk(path)


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    """What the disk refuses, as an error of ours that names the file."""
    try:
        yield
    except OSError as error:
        raise BurnishError(
            f"cannot write {path}: {error.strerror or error}; make room, or name another run folder"
        ) from error


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    run = folder / RUN
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"{folder} is a file and no run folder: name another one")
    if run.exists():
        _check(folder, identity)
        return
    if folder.exists() and any(item.name[0] != "." for item in folder.iterdir()):
        raise InvalidInput(f"{folder} is not empty and is no run folder: name another one")
    with _disk(run):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(run, json.dumps({"schema": SCHEMA, "identity": identity}, indent=1))


def _check(folder: Path, identity: dict[str, Any]) -> None:
    """Whether run.json tells of this run."""
    run = folder / RUN
    try:
        record = json.loads(run.read_text(encoding="utf-8"))
        known, schema = dict(record["identity"]), record["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{run} does not read ({error}): move the folder away") from None
    if schema != SCHEMA:
        raise InvalidInput(f"{run} has schema {schema}, this version of Burnish writes {SCHEMA}")
    identity = json.loads(json.dumps(identity))
    differing = sorted(k for k in known.keys() | identity.keys() if known.get(k) != identity.get(k))
    if differing:
        raise InvalidInput(
            f"{folder} holds the run of another {', '.join(differing)}: its measurements do not "
            "apply here, and it is not overwritten; name another run folder, or remove it"
        )


def _lock(handle: Any, folder: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows has no advisory locks of this kind; two processes are not stopped
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InvalidInput(
            f"{folder} is in use by another process: wait for it, or name another run folder"
        ) from None


def _with_checksum(event: dict[str, Any]) -> bytes:
    body = json.dumps(event, separators=(",", ":"), allow_nan=False)
    return f'{body[:-1]},"crc":"{zlib.crc32(body.encode()):08x}"}}\n'.encode()


def _read_journal(path: Path, handle: Any) -> list[dict[str, Any]]:
    with _disk(path):
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            handle.truncate(whole)
    return list(_events(data[:whole], path))


def _events(data: bytes, path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            text = line.decode()
            body, mark, checksum = text.rpartition(',"crc":"')
            good = mark and checksum == f'{zlib.crc32(f"{body}}}".encode()):08x}"}}'
            event = json.loads(text)
            sound = good and event["number"] == number - 1 and "key" in event and "result" in event
        except (ValueError, KeyError, TypeError):
            sound = False
        if not sound:
            raise Damaged(
                f"line {number} of {path} is damaged: what follows cannot be trusted; delete that "
                "line and all below it to carry on from there, or move the folder away"
            )
        yield event
