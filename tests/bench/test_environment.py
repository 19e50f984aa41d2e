"""Environments: what is captured, written down, and told apart."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

import burnish
from burnish.bench import Environment
from burnish.bench._environment import _commit
from burnish.errors import Damaged
from burnish.hardware import detect


def test_here_and_now_is_captured() -> None:
    here = Environment.capture()
    assert here.machine == detect()
    assert here.versions["burnish"] == burnish.__version__
    assert here.versions["numpy"] == metadata.version("numpy")
    assert here.versions["torch"] == metadata.version("torch")
    assert set(here.versions) >= {"python", "onnxruntime", "openvino"}
    assert Environment.from_json(json.loads(json.dumps(here.to_json()))) == here


def test_the_fingerprint_follows_versions_and_machine_but_not_the_commit() -> None:
    here = Environment.capture()
    assert here.fingerprint == replace(here, commit="another").fingerprint
    newer = replace(here, versions={**here.versions, "openvino": "9999.0"})
    larger = replace(here, machine=replace(here.machine, cores=1024))
    assert len({here.fingerprint, newer.fingerprint, larger.fingerprint}) == 3


def test_a_record_of_something_else_is_refused() -> None:
    record = Environment.capture().to_json()
    for broken in ({}, {**record, "machine": {}}, {**record, "versions": 3}):
        with pytest.raises(Damaged):
            Environment.from_json(broken)


def test_the_commit_is_told_with_a_plus_for_changes(tmp_path: Path) -> None:
    assert _commit(tmp_path) is None

    def git(*arguments: str) -> str:
        settings = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *settings, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    assert _commit(tmp_path) is None
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "first", "--no-verify")
    commit = git("rev-parse", "HEAD")
    assert _commit(tmp_path) == commit
    (tmp_path / "file").write_text("two")
    assert _commit(tmp_path) == f"{commit}+"
