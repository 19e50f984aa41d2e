"""Torch archives: ours load, and none that could run code gets as far as torch."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from burnish.bundle import Artifact, Port, Worker, save_program
from burnish.bundle._archive import check_archive
from burnish.errors import Damaged, Unsupported
from tests.bundle import models

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
SAMPLES = "data/sample_inputs/model.pt"
Entries = dict[str, bytes]


class Touch:
    """Unpickling one creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.open, (str(self.path), os.O_CREAT | os.O_WRONLY)


@pytest.fixture
def entries(eager_artifact: Artifact) -> Entries:
    with zipfile.ZipFile(eager_artifact.folder / "model.pt2") as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "was_executed"


def write(path: Path, entries: Entries, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(f"model/{name}", content)
    return path


def torch_saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def with_graph(entries: Entries, change: Callable[[dict[str, Any]], None]) -> Entries:
    graph = json.loads(entries[GRAPH])
    change(graph)
    return {**entries, GRAPH: json.dumps(graph).encode()}


def set_everywhere(value: Any, key: str, new: Any) -> None:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in items:
        set_everywhere(item, key, new)
    if isinstance(value, dict) and key in value:
        value[key] = new


def expression(marker: Path) -> str:
    return f"__import__('os').open({str(marker)!r}, {os.O_CREAT | os.O_WRONLY}) and 2"


def test_ours_is_accepted_and_holds_no_pickle_and_no_path(
    eager_artifact: Artifact, entries: Entries
) -> None:
    path = eager_artifact.folder / "model.pt2"
    assert GRAPH in check_archive(path)
    assert entries[SAMPLES] == b""
    for content in entries.values():
        assert not content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK"))
    assert os.fsencode(os.path.dirname(torch.__file__)) not in path.read_bytes()
    assert b"stack_trace" not in path.read_bytes()


def test_the_same_program_gives_the_same_bytes_and_keeps_its_inputs(tmp_path: Path) -> None:
    program = models.program()
    for name in ("a.pt2", "b.pt2"):
        save_program(program, tmp_path / name)
    assert (tmp_path / "a.pt2").read_bytes() == (tmp_path / "b.pt2").read_bytes()
    assert program.example_inputs is not None


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        save_program(models.program(), tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_the_danger_is_real(entries: Entries, tmp_path: Path) -> None:
    """What the list keeps out does run when torch is let near it: pickle, and sizes alone."""
    pickled, sized = tmp_path / "pickled", tmp_path / "sized"
    crafted = {**entries, SAMPLES: torch_saved(((Touch(pickled),), {}))}
    with contextlib.suppress(Exception):  # whether it then loads is not the point
        torch.export.load(write(tmp_path / "a.pt2", crafted)).module()(0)
    assert pickled.exists()
    crafted = with_graph(entries, lambda g: set_everywhere(g, "expr_str", expression(sized)))
    torch.export.load(write(tmp_path / "b.pt2", crafted))
    assert sized.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (SAMPLES, None),
        ("data/weights/model.pt", None),
        ("data/constants/model.pt", None),
        ("data/constants/custom_obj_0", None),
        ("data/constants/opaque_obj_0", None),
        ("data/aotinductor/model/model.so", b"\x7fELF"),
        ("serialized_state_dict.pt", None),
        ("code.py", b"import os"),
    ],
)
def test_an_entry_that_is_not_ours_is_refused_by_name(
    entries: Entries, tmp_path: Path, marker: Path, name: str, content: bytes | None
) -> None:
    crafted = {**entries, name: content or torch_saved(Touch(marker))}
    path = write(tmp_path / "model.pt2", crafted)
    with pytest.raises(Damaged, match="refused before loading") as error:
        check_archive(path)
    assert name in str(error.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target", "torch.os.system"),
        ("target", "torch.ops.load_library.__call__.__call__"),
        ("target", "torch.ops.aten.__class__.default"),
        ("target", "torch.ops.aten.relu.__init__"),
        ("target", "torch.ops.aten.from_file.default"),
        ("target", "torch.ops.other.thing.default"),
        ("target", "_operator.methodcaller"),
        ("target", "#ext:thing"),
        ("expr_str", "print(1)"),
        ("expr_str", "Symbol('s0').__class__"),
        ("expr_str", "(lambda: 2)()"),
        ("expr_str", "[1][0]"),
        ("expr_str", "Symbol('os.system')"),
        ("expr_str", "sympify('1')"),
        ("expr_str", "Max"),
        ("expr_str", "2 if 1 else 3"),
        ("expr_str", "1 +"),
        ("guards_code", ["print(1)"]),
        ("metadata", {"stack_trace": "/home/me/model.py"}),
        ("custom_obj_values", {"a": {"name": "a", "class_fqn": "b"}}),
        ("name", "x=print(1)"),
        ("name", 'x"]'),
        ("forward_arg_names", ["x\nprint(1)"]),
        ("in_spec", '[1, {"type": "other.Kind", "context": "null", "children_spec": []}]'),
        ("in_spec", '[1, {"type": null, "context": {"__enum__": 1}, "children_spec": []}]'),
        ("out_spec", "print(1)"),
    ],
)
def test_a_graph_with_more_than_known_operators_is_refused(
    entries: Entries, tmp_path: Path, key: str, value: Any
) -> None:
    crafted = with_graph(entries, lambda graph: set_everywhere(graph, key, value))
    assert crafted[GRAPH] != json.dumps(json.loads(entries[GRAPH])).encode()
    with pytest.raises(Damaged, match="refused before loading"):
        check_archive(write(tmp_path / "model.pt2", crafted))


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s77', positive=True, integer=True)",
        "Add(Mul(Integer(2), Symbol('s0', integer=True)), Integer(-1))",
        "Max(Integer(1), FloorDiv(Symbol('u3'), Integer(2)))",
        "Float('1.5', precision=53)",
        "2*s0 + 1",
        "s0 >= 2",
    ],
)
def test_sizes_that_are_arithmetic_are_accepted(
    entries: Entries, tmp_path: Path, text: str
) -> None:
    crafted = with_graph(entries, lambda graph: set_everywhere(graph, "expr_str", text))
    check_archive(write(tmp_path / "model.pt2", crafted))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"use_pickle": True}, "pickled"),
        ({"use_pickle": 0}, "pickled"),
        ({"path_name": "weight_99"}, "no raw entry"),
        ({"path_name": "../constants/tensor_0"}, "no raw entry"),
    ],
)
def test_a_weight_that_is_not_raw_is_refused(
    entries: Entries, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    table = json.loads(entries[WEIGHTS])
    next(iter(table["config"].values())).update(change)
    crafted = {**entries, WEIGHTS: json.dumps(table).encode()}
    with pytest.raises(Damaged, match=told):
        check_archive(write(tmp_path / "model.pt2", crafted))


def test_a_zip_that_could_be_read_two_ways_is_refused(entries: Entries, tmp_path: Path) -> None:
    path = write(tmp_path / "model.pt2", entries)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(f"model/{GRAPH}", entries[GRAPH])
    with pytest.raises(Damaged, match="twice"):
        check_archive(path)
    with pytest.raises(Damaged, match="compressed"):
        check_archive(write(path, entries, zipfile.ZIP_DEFLATED))


def test_a_truncated_archive_is_refused(eager_artifact: Artifact, tmp_path: Path) -> None:
    whole = (eager_artifact.folder / "model.pt2").read_bytes()
    path = tmp_path / "model.pt2"
    for length in (0, 4, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:length])
        with pytest.raises(Damaged, match=r"model\.pt2"):
            check_archive(path)
    with pytest.raises(Damaged, match="missing"):
        check_archive(tmp_path / "gone.pt2")


def test_a_worker_refuses_and_nothing_is_executed(
    entries: Entries, eager_artifact: Artifact, tmp_path: Path, marker: Path
) -> None:
    crafted = {**entries, SAMPLES: pickle.dumps(Touch(marker))}
    write(tmp_path / "model.pt2", crafted)
    artifact = Artifact(tmp_path, "eager", "float32", ("model.pt2",), models.INPUTS, models.OUTPUTS)
    with pytest.raises(Damaged, match=SAMPLES):
        Worker(artifact)
    assert not marker.exists()


class Nested(torch.nn.Module):
    """Two inputs, one by keyword, a dict of outputs, a switched-off gradient, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)
        self.constant = torch.arange(3.0)

    def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> dict[str, Any]:
        with torch.no_grad():
            shifted = self.layer(x) + self.constant
        half = shifted[: x.shape[0] // 2 + 1]
        return {"all": shifted * scale, "some": (half, x.mean(0))}


def test_a_program_with_structure_comes_back_whole(tmp_path: Path) -> None:
    model = Nested().eval()
    batch = torch.export.Dim.DYNAMIC
    example = {"x": torch.ones(4, 3), "scale": torch.ones(4, 1)}
    program = torch.export.export(
        model,
        (example["x"],),
        {"scale": example["scale"]},
        dynamic_shapes={"x": {0: batch}, "scale": {0: batch}},
    )
    save_program(program, tmp_path / "model.pt2")
    inputs = (
        Port("x", "float32", ("batch", 3)),
        Port("scale", "float32", ("batch", 1)),
    )
    outputs = tuple(Port(name, "float32", ("n",)) for name in ("all", "half", "mean"))
    artifact = Artifact(tmp_path, "eager", "float32", ("model.pt2",), inputs, outputs)
    with Worker(artifact) as worker:
        for size in (1, 6):
            x, scale = torch.randn(size, 3), torch.randn(size, 1)
            got = worker.run({"scale": scale.numpy(), "x": x.numpy()})
            with torch.no_grad():
                want = model(x, scale=scale)
            for ours, theirs in zip(got, (want["all"], *want["some"]), strict=True):
                np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5)


def test_a_program_that_cannot_be_stored_safely_is_unsupported(tmp_path: Path) -> None:
    @torch.library.custom_op("strange_namespace::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @twice.register_fake
    def _(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x)

    class Strange(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = twice(x)
            return result

    program = torch.export.export(Strange(), (torch.ones(2),))
    with pytest.raises(Unsupported, match="strange_namespace"):
        save_program(program, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []
