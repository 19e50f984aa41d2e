"""What decides the example's figures: the split, the metric, the pixels, the claims."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from burnish.errors import InvalidInput

PATH = Path(__file__).resolve().parents[2] / "examples" / "efficientnet_lite0.py"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("efficientnet_lite0_example", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up while the class is made
    spec.loader.exec_module(module)
    return module


example: Any = _load()


@given(n=st.integers(140, 5000), seed=st.integers(0, 2**31))
def test_the_split_shares_no_photo_and_forgets_none(n: int, seed: int) -> None:
    parts = example.split(n, seed)
    together = [index for part in parts for index in part]
    assert sorted(together) == list(range(n))
    assert len(parts[0]) == 128
    assert parts == example.split(n, seed)


def test_880_photos_split_as_documented() -> None:
    assert [len(part) for part in example.split(880)] == [128, 440, 312]


@pytest.mark.parametrize("n", [0, 128, 131])
def test_too_few_photos_are_refused(n: int) -> None:
    with pytest.raises(InvalidInput, match="too few"):
        example.split(n)


@given(seed=st.integers(0, 2**31), n=st.integers(1, 20))
def test_the_metric_is_membership_of_the_argmax(seed: int, n: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 9, generator=generator)
    accepted = torch.randint(-1, 9, (n, 3), generator=generator)
    expected = [
        float(int(row.argmax()) in wanted)
        for row, wanted in zip(logits, accepted.tolist(), strict=True)
    ]
    assert example.hits(logits, accepted).tolist() == expected


def test_padding_never_counts_as_right() -> None:
    logits = torch.eye(4)
    assert example.hits(logits, torch.full((4, 2), example.NOBODY)).tolist() == [0.0] * 4


def test_the_metric_takes_what_a_runtime_gives() -> None:
    assert example.hits(np.eye(3, dtype=np.float32), torch.tensor([[0], [2], [2]])).tolist() == [
        1.0,
        0.0,
        1.0,
    ]


def _folder(tmp_path: Path, size: tuple[int, int]) -> Path:
    image = pytest.importorskip("PIL.Image", reason="needs pillow, of the extra 'examples'")
    (tmp_path / "cat").mkdir()
    image.new("RGB", size, (127, 255, 0)).save(tmp_path / "cat" / "a.jpg", quality=100)
    return tmp_path


@pytest.mark.parametrize("size", [(300, 200), (40, 90), (224, 224)])
def test_a_photo_becomes_multiples_of_one_128th(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = example.preprocess(_folder(tmp_path, size) / "cat" / "a.jpg")
    assert pixels.shape == (3, 224, 224)
    assert torch.equal(pixels * 128, (pixels * 128).round())
    # JPEG moves a colour by a level or two.
    levels = pixels.mean((1, 2)) * 128
    assert (levels - torch.tensor([0.0, 128.0, -127.0])).abs().max() <= 3


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("[1]", "object of lists"),
        ('{"cat": []}', "object of lists"),
        ('{"cat": [1000]}', "object of lists"),
        ("{", "JSON"),
        ('{"dog": [3]}', "'dog'"),
    ],
)
def test_a_wrong_map_is_refused(tmp_path: Path, labels: str, message: str) -> None:
    (tmp_path / "map.json").write_text(labels)
    with pytest.raises(InvalidInput, match=message):
        example.find_photos(tmp_path, tmp_path / "map.json")


def test_accepted_classes_are_filled_to_one_length(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").touch()
    (tmp_path / "map.json").write_text(json.dumps({"dog": [7], "cat": [1, 2]}))
    photos = example.find_photos(tmp_path, tmp_path / "map.json")
    assert [path.parent.name for path in photos.paths] == ["cat", "dog"]
    assert photos.accepted.tolist() == [[1, 2], [7, example.NOBODY]]


def _report(**changes: Any) -> dict[str, Any]:
    ratio = {"value": 0.5, "low": 0.48, "high": 0.52, "reference": "float", "unreliable": False}
    verdict = {"state": "holds", "n": 440, "needed": None}
    row = {
        "label": "int8",
        "precision": "int8",
        "agreement": 0.98,
        "ratio": ratio,
        "verdict": verdict,
    }
    return {"candidates": [{**row, **changes}], "pick": {"label": "int8"}}


def test_claims_that_are_met() -> None:
    assert [item["met"] for item in example.claims(_report())] == [True] * 3


@pytest.mark.parametrize(
    ("changes", "met"),
    [
        ({"agreement": 0.969}, [True, False, True]),
        ({"agreement": None}, [True, False, True]),
        ({"precision": "float32"}, [True, True, False]),
        ({"ratio": {"value": 0.67, "low": 0.6, "high": 0.7}}, [True, True, False]),
        ({"verdict": {"state": "cannot tell", "n": 9, "needed": 500}}, [True] * 3),
        ({"verdict": {"state": "cannot tell", "n": 9, "needed": None}}, [False, True, True]),
        ({"verdict": {"state": "fails", "n": 9, "needed": None}}, [False, True, True]),
    ],
)
def test_a_missed_claim_is_written_as_missed(changes: dict[str, Any], met: list[bool]) -> None:
    assert [item["met"] for item in example.claims(_report(**changes))] == met


def test_without_a_pick_every_claim_is_missed() -> None:
    report = {**_report(), "pick": None}
    assert [item["met"] for item in example.claims(report)] == [False] * 3


@pytest.mark.slow
def test_the_network_can_be_profiled_from_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    command = [sys.executable, "-m", "burnish", "profile", f"{PATH}:model", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert "_conv_head:conv2d" in done.stdout
    record = json.loads((tmp_path / "profile.json").read_text())
    # MACs are torch's own count (FlopCounterMode, halved), parameters those of the published model.
    assert (record["macs"], record["num_parameters"]) == (385_187_552, 4_652_008)
    assert [run["failed"] for run in record["runtimes"]] == [None] * 3
    assert (tmp_path / "profile.html").is_file()
