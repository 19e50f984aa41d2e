"""Artifacts: what is saved is what is opened, and nothing unsafe or unfitting is taken."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.bundle import Artifact, Options, Port
from burnish.bundle._artifact import check_inputs
from burnish.errors import Damaged, InvalidInput
from tests.bundle import models

UNSAFE = ["../x", "a/../../x", "/etc/passwd", "C:\\x", "c:x", "..\\x", "", ".", "a\0b"]


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return models.onnx_artifact(tmp_path / "artifact")


def edit(artifact: Artifact, change: Any) -> None:
    path = artifact.folder / "artifact.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def test_what_is_saved_is_opened(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "model.onnx").write_bytes(b"123")
    (tmp_path / "weights.data").write_bytes(b"4567")
    artifact = Artifact(
        tmp_path,
        "onnxruntime",
        "int8",
        ("sub/model.onnx", "weights.data"),
        (Port("ids", "int64", ("batch", "length")), Port("scale", "float32", ())),
        (Port("logits", "float32", ("batch", 4)),),
        tree={"logits": [0, None]},
        options=Options(threads=3, execution="bfloat16"),
    )
    artifact.save()
    assert Artifact.open(tmp_path) == artifact
    assert artifact.size_bytes() == 7


def test_options_change_and_the_rest_stays(artifact: Artifact) -> None:
    one = artifact.with_options(threads=1)
    assert one.options == Options(threads=1)
    assert artifact.options == Options()
    assert one.with_options(threads=None) == artifact


@pytest.mark.parametrize(
    "change",
    [
        {"threads": 0},
        {"threads": True},
        {"execution": "float16"},
        {"device": ""},
    ],
)
def test_options_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(change))):
        Options(**change)


def test_ports_that_make_no_sense_are_refused() -> None:
    for dtype in ("float33", "object", "str", "bfloat16?"):
        with pytest.raises(InvalidInput, match="dtype"):
            Port("x", dtype, ())
    for size in (-1, True, "", 2.0):
        with pytest.raises(InvalidInput, match="dimension"):
            Port("x", "float32", (size,))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="name a tensor"):
        Port("", "float32", ())


@pytest.mark.parametrize("name", UNSAFE)
def test_a_file_outside_the_folder_is_refused_by_name(artifact: Artifact, name: str) -> None:
    def point_outside(record: dict[str, Any]) -> None:
        record["files"][0] = name

    edit(artifact, point_outside)
    with pytest.raises(Damaged) as error:
        Artifact.open(artifact.folder)
    assert repr(name) in str(error.value)
    with pytest.raises(InvalidInput):
        Artifact(artifact.folder, "onnxruntime", "float32", (name,), (), models.OUTPUTS)


def test_a_link_that_leads_out_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.onnx").write_bytes(b"")
    path = artifact.folder / "model.onnx"
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(Damaged, match="leads out"):
        Artifact.open(artifact.folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r.update(schema=2), "schema 2"),
        (lambda r: r.update(schema=True), "schema"),
        (lambda r: r.pop("schema"), "schema"),
        (lambda r: r.pop("precision"), "precision"),
        (lambda r: r.update(surprise=1), "surprise"),
        (lambda r: r.update(runtime="tflite"), "tflite"),
        (lambda r: r.update(files=[]), "at least one file"),
        (lambda r: r.update(files=["gone.onnx"]), "gone.onnx"),
        (lambda r: r.update(files=[3]), "int"),
        (lambda r: r["options"].update(threads=0), "threads"),
        (lambda r: r["options"].update(threads="2"), "threads"),
        (lambda r: r["options"].pop("device"), "device"),
        (lambda r: r["inputs"][0].update(dtype="float33"), "float33"),
        (lambda r: r["inputs"][0].pop("shape"), "shape"),
        (lambda r: r["inputs"].append(3), "int"),
        (lambda r: r["inputs"].append(r["inputs"][0]), "share a name"),
    ],
)
def test_a_record_that_was_altered_is_refused(artifact: Artifact, change: Any, told: str) -> None:
    edit(artifact, change)
    with pytest.raises(Damaged, match=told):
        Artifact.open(artifact.folder)


def test_any_truncated_record_is_refused(artifact: Artifact) -> None:
    path = artifact.folder / "artifact.json"
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(Damaged):
            Artifact.open(artifact.folder)
    path.unlink()
    with pytest.raises(Damaged, match="missing"):
        Artifact.open(artifact.folder)


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_full_disk_leaves_the_old_record(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(path.name for path in artifact.folder.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os, broken, full)
        with pytest.raises(OSError, match="No space"):
            artifact.with_options(threads=1).save()
    assert Artifact.open(artifact.folder) == artifact
    assert sorted(path.name for path in artifact.folder.iterdir()) == before


PORTS = (Port("a", "float32", ("batch", 3)), Port("b", "int64", ("batch", "length")))
A, B = np.zeros((2, 3), np.float32), np.zeros((2, 5), np.int64)


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"a": A}, "takes the inputs"),
        ({"a": A, "c": B}, "takes the inputs"),
        ({"a": A, "b": B.astype(np.int32)}, r"'b' takes int64 .* got int32"),
        ({"a": A[:, :2], "b": B}, r"'a' takes float32 \['batch', 3\]; got float32 \[2, 2\]"),
        ({"a": A[0], "b": B}, r"'a' .* got float32 \[3\]"),
        ({"a": A, "b": B[:1]}, r"'b' .* 'batch' is 2 in input 'a'"),
        ({"a": A.tolist(), "b": B}, "'a' is a list"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(inputs: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        check_inputs(PORTS, inputs)


@given(st.integers(1, 9), st.integers(0, 9))
def test_inputs_that_fit_come_back_in_order(batch: int, length: int) -> None:
    a = np.arange(batch * 3, dtype=np.float32).reshape(3, batch).T
    b = np.ones((batch, length), np.int64)
    first, second = check_inputs(PORTS, {"b": b, "a": a})
    assert first.flags.c_contiguous
    np.testing.assert_array_equal(first, a)
    np.testing.assert_array_equal(second, b)
