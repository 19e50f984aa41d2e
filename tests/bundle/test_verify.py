"""Verifying and timing: a good bundle passes, each kind of bad one fails at its own check."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from burnish.bundle import Artifact, Bundle, Port, verify
from burnish.bundle._batch import with_batch
from burnish.bundle._bundle import CHECK, MANIFEST
from burnish.errors import InvalidInput, MissingExtra
from tests.bundle import models


def bundled(folder: Path, artifact: Artifact, *, shift: float = 0.0, count: int = 3) -> Path:
    """A bundle of `artifact` whose recorded outputs are `shift` away from what it gives."""
    inputs = models.samples(count)
    outputs = [(models.expected(inputs) + shift).astype(np.float32)]
    Bundle.write(
        folder,
        artifact,
        check_inputs=inputs,
        check_outputs=outputs,
        expected={},
        history=[],
        environment={},
        tolerance=0.01,
    )
    return folder


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, onnx_artifact: Artifact) -> Path:
    return bundled(tmp_path_factory.mktemp("good") / "bundle", onnx_artifact)


def states(folder: Path) -> dict[str, bool]:
    result = verify(folder)
    found = {check.name: check.ok for check in result.checks}
    assert result.ok == all(found.values())
    return found


@pytest.mark.parametrize("runtime", ["onnx", "openvino", "eager"])
def test_a_good_bundle_passes(runtime: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    artifact = request.getfixturevalue(f"{runtime}_artifact")
    folder = bundled(tmp_path / "bundle", artifact)
    result = verify(folder)
    assert result.ok
    details = {check.name: check.detail for check in result.checks}
    assert list(details) == ["files", "loads", "outputs", "batch"]
    assert "3 samples twice over, as 6" in details["batch"]


def test_other_outputs_fail_and_the_difference_is_told(
    tmp_path: Path, onnx_artifact: Artifact
) -> None:
    folder = bundled(tmp_path / "bundle", onnx_artifact, shift=0.5)
    result = verify(folder)
    found = {check.name: check for check in result.checks}
    assert not result.ok
    assert not found["outputs"].ok
    assert "largest difference 0.5" in found["outputs"].detail
    assert "same largest class in 100.0%" in found["outputs"].detail


def test_a_difference_within_the_tolerance_passes(tmp_path: Path, onnx_artifact: Artifact) -> None:
    folder = bundled(tmp_path / "bundle", onnx_artifact, shift=1e-3)
    detail = verify(folder).checks[2].detail
    assert states(folder)["outputs"]
    assert "largest difference 0.001" in detail


def test_samples_that_depend_on_their_neighbours_fail(tmp_path: Path) -> None:
    """One sample is right alone; the second of two also gets the first's output."""
    artifact = models.onnx_artifact(tmp_path / "artifact", mix=True)
    found = states(bundled(tmp_path / "bundle", artifact, count=1))
    assert found == {"files": True, "loads": True, "outputs": True, "batch": False}


def test_a_batch_that_was_baked_in_fails(tmp_path: Path) -> None:
    """The record says the batch is dynamic, the file takes three samples only."""
    import onnx

    artifact = models.onnx_artifact(tmp_path / "artifact")
    model = onnx.load(artifact.folder / "model.onnx")
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, artifact.folder / "model.onnx")
    found = states(bundled(tmp_path / "bundle", artifact))
    assert found == {"files": True, "loads": True, "outputs": True, "runs": False}


def test_damage_fails_before_anything_is_loaded(tmp_path: Path, good: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for path in good.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / CHECK).write_bytes(b"")
    assert states(folder) == {"files": False}
    assert "truncated" in verify(folder).checks[0].detail
    (folder / MANIFEST).unlink()
    assert "missing" in verify(folder).checks[0].detail
    with pytest.raises(InvalidInput, match="no folder"):
        verify(tmp_path / "nowhere")


def test_a_runtime_that_crashes_fails_the_check(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", models.fake_onnxruntime(tmp_path, load="os.abort()"))
    assert states(good) == {"files": True, "loads": False}


def test_a_missing_runtime_is_told(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "raise ModuleNotFoundError('no', name='onnxruntime')"
    monkeypatch.setenv("PYTHONPATH", models.fake_onnxruntime(tmp_path, top=missing))
    with pytest.raises(MissingExtra, match="pip install"):
        verify(good)


def test_another_processor_is_mentioned(tmp_path: Path, good: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for path in good.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    record = json.loads((folder / MANIFEST).read_text())
    record["check"]["cpu"] = "Zilog Z80"
    (folder / MANIFEST).write_text(json.dumps(record))
    detail = verify(folder).checks[2].detail
    assert "recorded on Zilog Z80" in detail
    assert "small differences are expected" in detail


def test_verifying_needs_no_torch(good: Path) -> None:
    """In an interpreter where importing torch (or onnx, or scipy) fails."""
    script = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'scipy'): sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from burnish.bundle import verify\n"
        "assert verify(Path(sys.argv[1])).ok\n"
        "print('done')\n"
    )
    command = [sys.executable, "-c", script, str(good)]
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == "done\n", done.stderr


def test_samples_are_repeated_or_cut_on_the_axis_that_is_the_batch() -> None:
    ports = (Port("x", "float32", ("time", "batch")), Port("constant", "float32", (2,)))
    arrays = {"x": np.arange(6.0).reshape(2, 3), "constant": np.ones(2)}
    more = with_batch(ports, arrays, 5)
    np.testing.assert_array_equal(more["x"], [[0, 1, 2, 0, 1], [3, 4, 5, 3, 4]])
    np.testing.assert_array_equal(more["constant"], arrays["constant"])
    np.testing.assert_array_equal(with_batch(ports, arrays, 1)["x"], [[0], [3]])
    with pytest.raises(InvalidInput, match="no dynamic dimension"):
        with_batch(ports[1:], arrays, 2)


def test_a_bundle_gives_as_many_samples_as_asked(good: Path) -> None:
    bundle = Bundle.open(good)
    recorded, _ = bundle.check_arrays()
    assert bundle.takes_any_batch
    np.testing.assert_array_equal(bundle.samples(5)["x"], recorded["x"][[0, 1, 2, 0, 1]])
    with pytest.raises(InvalidInput, match="batch is 0"):
        bundle.samples(0)
