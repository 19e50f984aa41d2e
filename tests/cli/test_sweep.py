"""`burnish sweep`: what it prints and writes, and how it ends when there is no answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from burnish.bench import Sweep
from burnish.bundle import Bundle
from burnish.cli import _sweep
from burnish.cli._app import app
from burnish.errors import InvalidInput
from tests.bundle import models


def run(bundle: Path, out: Path, *options: object) -> Any:
    common = ("--batches", "1,4", "--threads", 1, "--streams", 1, "--seconds", 0.2, "--out", out)
    given = ["sweep", bundle, *common, *options]
    return CliRunner().invoke(app, [str(one) for one in given])


def test_the_table_the_record_and_the_page_without_torch(bundle: Path, tmp_path: Path) -> None:
    """Where importing torch (or onnx, or scipy) is an error, in the workers too."""
    for name in ("torch", "onnx", "scipy"):
        (tmp_path / "absent" / name).mkdir(parents=True)
        missing = f"raise ModuleNotFoundError('absent', name={name!r})"
        (tmp_path / "absent" / name / "__init__.py").write_text(missing)
    paths = [str(tmp_path / "absent"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    options = ["--batches", "1,8", "--threads", "1", "--streams", "1", "--seconds", "0.2"]
    command = [sys.executable, "-m", "burnish", "sweep", str(bundle), *options, "--price", "0.5"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "burnish-runs" / "digits-sweep"
    record = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert [item["batch"] for item in record["points"]] == [1, 8]
    assert record["best"] is None
    assert len(record["cost"]["per_million"]) == 2
    assert (folder / "sweep.html").is_file()
    told = " ".join(done.stdout.split())
    for part in ("batch threads streams", "cost per million", "lowest latency", "energy: "):
        assert part in told
    assert "highest throughput" in told


def test_the_best_under_a_limit_is_named(bundle: Path, tmp_path: Path) -> None:
    done = run(bundle, tmp_path, "--max-p99", 1000)
    assert done.exit_code == 0
    record = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    best = Sweep.from_json(record).best(max_p99=1.0)
    assert record["points"][record["best"]["point"]]["batch"] == best.batch
    assert f"best   {best}: highest throughput of 2 combinations" in done.stdout


def test_a_limit_nobody_meets_ends_with_3_after_the_table(bundle: Path, tmp_path: Path) -> None:
    done = run(bundle, tmp_path, "--min-throughput", 1e12)
    assert done.exit_code == 3
    assert "samples/s" in done.stdout
    assert "The best that was found:\nbatch=4, threads=1, streams=1: p50" in done.stdout
    assert "none of 2 combinations" in done.stderr
    record = json.loads((tmp_path / "sweep.json").read_text(encoding="utf-8"))
    assert record["best"]["nearest"] == 1


def test_where_none_ran_it_is_an_error(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies = models.fake_onnxruntime(tmp_path, load="os.abort()")
    monkeypatch.setenv("PYTHONPATH", dies)
    done = run(bundle, tmp_path / "out")
    assert done.exit_code == 2
    assert "no combination ran; batch=1" in done.stderr
    assert "failed" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max-p99", 5, "--min-throughput", 10), "give one of them"),
        (("--max-p99", 0), "--max-p99 0.0: use a number above 0"),
        (("--price", -1), "--price -1.0: use a number above 0"),
        (("--batches", "1;2"), "--batches '1;2': say whole numbers with commas between"),
        (("--batches", "0"), "batches is [0]"),
        (("--threads", "4096"), "nothing to try"),
    ],
)
def test_what_makes_no_sense_is_refused(
    bundle: Path, tmp_path: Path, options: tuple[object, ...], said: str
) -> None:
    done = run(bundle, tmp_path / "out", *options)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_the_folder_is_named_after_the_run() -> None:
    runs = Path("burnish-runs")
    assert _sweep.folder_of(Path("/a/digits/bundle")) == runs / "digits-sweep"
    assert _sweep.folder_of(Path("/a/out")) == runs / "out-sweep"
    with pytest.raises(InvalidInput, match="--threads"):
        _sweep.numbers("--threads", "1,,2")


def test_a_fixed_batch_is_run_as_it_is(tmp_path: Path) -> None:
    from dataclasses import replace

    artifact = models.onnx_artifact(tmp_path / "model")
    inputs = models.samples(4)
    fixed = replace(
        artifact,
        inputs=tuple(replace(port, shape=(4, *port.shape[1:])) for port in artifact.inputs),
        outputs=tuple(replace(port, shape=(4, *port.shape[1:])) for port in artifact.outputs),
    )
    outputs = [models.expected(inputs).astype(np.float32)]
    folder = tmp_path / "fixed"
    Bundle.write(
        folder, fixed, check_inputs=inputs, check_outputs=outputs, expected={}, history=None,
        environment=None,
    )  # fmt: skip
    listed = {"batches": None, "threads": "1", "streams": "1"}
    found = _sweep.run(folder, listed, 0.2)
    assert [point.batch for point in found.points] == [1]
    with pytest.raises(InvalidInput, match="no dynamic dimension named 'batch'"):
        _sweep.run(folder, {**listed, "batches": "2"}, 0.2)
