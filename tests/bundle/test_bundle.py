"""Bundles: what is written is checked on opening, and nothing half-written looks like one."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from burnish.bundle import Artifact, Bundle
from burnish.errors import Damaged, InvalidInput
from tests.bundle import models
from tests.bundle.test_artifact import UNSAFE


def write(folder: Path, artifact: Artifact, **changes: Any) -> Bundle:
    inputs = models.samples(3)
    settings: dict[str, Any] = {
        "check_inputs": inputs,
        "check_outputs": [models.expected(inputs).astype(np.float32)],
        "expected": {"top1": {"value": 0.9, "low": 0.88, "high": 0.92}},
        "history": [{"step": "quantize", "settings": {}}],
        "environment": {"machine": "here"},
        **changes,
    }
    return Bundle.write(folder, artifact, **settings)


@pytest.fixture
def bundle(tmp_path: Path, onnx_artifact: Artifact) -> Bundle:
    return write(tmp_path / "bundle", onnx_artifact)


def test_what_is_written_is_opened(tmp_path: Path, onnx_artifact: Artifact) -> None:
    written = write(
        tmp_path / "a" / "bundle", onnx_artifact.with_options(threads=1), tolerance=0.02
    )
    opened = Bundle.open(written.folder)
    assert opened == written
    assert opened.artifact.folder == written.folder
    assert opened.artifact.options.threads == 1
    assert opened.tolerance == 0.02
    assert opened.manifest["metrics"]["top1"]["low"] == 0.88
    assert opened.manifest["history"][0]["step"] == "quantize"
    inputs, outputs = opened.check_arrays()
    np.testing.assert_array_equal(inputs["x"], models.samples(3)["x"])
    np.testing.assert_allclose(outputs[0], models.expected(inputs), rtol=1e-6)
    shutil.move(written.folder, tmp_path / "moved")
    assert Bundle.open(tmp_path / "moved").artifact.size_bytes() == onnx_artifact.size_bytes()


def test_a_bundle_is_replaced_and_nothing_else_is(bundle: Bundle, onnx_artifact: Artifact) -> None:
    again = write(bundle.folder, onnx_artifact, history=["new"])
    assert again.manifest["history"] == ["new"]
    assert list(bundle.folder.parent.iterdir()) == [bundle.folder]
    precious = bundle.folder.parent / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(InvalidInput, match="not overwritten"):
        write(precious, onnx_artifact)
    with pytest.raises(InvalidInput, match="not overwritten"):
        write(precious / "thesis.txt", onnx_artifact)
    assert (precious / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"check_inputs": {"x": np.zeros((2, 3), np.float32)}}, "'x' takes"),
        ({"check_outputs": []}, "0 arrays"),
        ({"check_outputs": [np.zeros((3, models.CLASSES))]}, "'y' is float32"),
        ({"tolerance": 1.5}, "tolerance"),
    ],
)
def test_what_does_not_fit_the_artifact_is_refused(
    tmp_path: Path, onnx_artifact: Artifact, change: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidInput, match=told):
        write(tmp_path / "bundle", onnx_artifact, **change)
    assert list(tmp_path.iterdir()) == []


def test_figures_that_are_no_numbers_are_not_written(
    tmp_path: Path, onnx_artifact: Artifact
) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write(tmp_path / "bundle", onnx_artifact, expected={"top1": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["os.replace", "os.fsync", "shutil.copyfile"])
def test_a_full_disk_leaves_the_old_bundle_or_none(
    bundle: Bundle, onnx_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    parent = bundle.folder.parent
    for folder in (bundle.folder, parent / "new"):
        with monkeypatch.context() as patch:
            patch.setattr(broken, full)
            with pytest.raises(OSError, match="No space"):
                write(folder, onnx_artifact, history=["new"])
    assert Bundle.open(bundle.folder) == bundle
    assert list(parent.iterdir()) == [bundle.folder]


def test_a_move_that_fails_halfway_puts_the_old_bundle_back(
    bundle: Bundle, onnx_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, calls = os.replace, []

    def second_folder_fails(source: Any, target: Any) -> None:
        if Path(source).is_dir():
            calls.append(source)
            if len(calls) == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", second_folder_fails)
    with pytest.raises(OSError, match="No space"):
        write(bundle.folder, onnx_artifact, history=["new"])
    assert Bundle.open(bundle.folder) == bundle
    assert list(bundle.folder.parent.iterdir()) == [bundle.folder]


@pytest.mark.parametrize("name", ["model.onnx", "check.safetensors"])
def test_a_damaged_file_is_told_by_name(bundle: Bundle, name: str) -> None:
    path = bundle.folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(Damaged, match=f"{name} is truncated"):
        Bundle.open(bundle.folder)
    path.write_bytes(whole + b"x")
    with pytest.raises(Damaged, match=f"{name} is too long"):
        Bundle.open(bundle.folder)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(Damaged, match=f"{name} was altered"):
        Bundle.open(bundle.folder)
    path.unlink()
    with pytest.raises(Damaged, match=f"'{name}', which is missing"):
        Bundle.open(bundle.folder)


@pytest.mark.parametrize("name", UNSAFE)
def test_a_manifest_naming_a_file_outside_is_refused(bundle: Bundle, name: str) -> None:
    path = bundle.folder / "manifest.json"
    for place in ("artifact", "files"):
        record = json.loads(path.read_text())
        if place == "artifact":
            record["artifact"]["files"][0] = name
        else:
            record["files"][name] = record["files"]["model.onnx"]
        kept = path.read_text()
        path.write_text(json.dumps(record))
        with pytest.raises(Damaged) as error:
            Bundle.open(bundle.folder)
        assert repr(name) in str(error.value)
        path.write_text(kept)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r.update(schema=9), "schema 9"),
        (lambda r: r.pop("metrics"), "metrics"),
        (lambda r: r.update(surprise=1), "surprise"),
        (lambda r: r["files"].pop("model.onnx"), "hashes of"),
        (lambda r: r["files"]["model.onnx"].pop("sha256"), "sha256"),
        (lambda r: r["files"].update({"model.onnx": 3}), "no object"),
        (lambda r: r["check"].update(tolerance="wide"), "tolerance"),
        (lambda r: r["artifact"].update(runtime="tflite"), "tflite"),
    ],
)
def test_a_manifest_that_was_altered_is_refused(bundle: Bundle, change: Any, told: str) -> None:
    path = bundle.folder / "manifest.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(Damaged, match=told):
        Bundle.open(bundle.folder)


def test_any_truncated_manifest_is_refused(bundle: Bundle) -> None:
    path = bundle.folder / "manifest.json"
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 31):
        path.write_bytes(whole[:length])
        with pytest.raises(Damaged, match=r"manifest\.json"):
            Bundle.open(bundle.folder)


def test_check_arrays_of_another_model_are_damage(bundle: Bundle) -> None:
    save_file({"input.z": np.zeros(3)}, bundle.folder / "check.safetensors")
    with pytest.raises(Damaged, match=r"input\.z"):
        bundle.check_arrays()
    (bundle.folder / "check.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(Damaged, match="cannot be read"):
        bundle.check_arrays()
