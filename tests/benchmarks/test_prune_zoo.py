"""The zoo's checks on a small network: they pass, they can fail, and the page is the JSON."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "prune_zoo.json"
PAGE = ROOT / "docs" / "methods" / "prune_zoo.md"


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 9, 3, bias=False),
        nn.BatchNorm2d(9),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(9, 4),
    )


@pytest.fixture(scope="module")
def subject(load: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    entry = load("zoo.entry").Entry("small", "here", 8, _network)
    found = load("zoo.checks")._Subject(entry, tmp_path_factory.mktemp("zoo"), {})
    found.prune()
    return found


def test_no_weight_of_the_zoo_is_constant(load: Any) -> None:
    entry = load("zoo.entry").Entry("small", "here", 8, _network)
    one, other = entry.build().state_dict(), entry.build().state_dict()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name])
        assert tensor.numel() == 1 or tensor.unique().numel() > 1, name


def test_a_model_passes_until_it_is_tampered_with(load: Any, subject: Any) -> None:
    assert subject.reload() is None
    assert subject.train() >= 0.5
    model, twin = copy.deepcopy(subject._model), copy.copy(subject)
    assert twin.exact() < 1e-12
    subject._model = model
    with torch.no_grad():
        subject._pruned[0].weight.mul_(1 + 1e-6)
    with pytest.raises(load("zoo.checks").Failed, match="replayed, the outputs differ by"):
        subject.reload()
    for parameter in subject._pruned.parameters():
        parameter.requires_grad_(False)
    subject._pruned[5].bias.requires_grad_(True)
    with pytest.raises(load("zoo.checks").Failed, match="a step changed 1 of 5 parameters"):
        subject.train()
    with pytest.raises(load("zoo.checks").Failed, match="masked and shrunk differ by"):
        subject.exact()


@pytest.mark.slow
def test_a_whole_row(load: Any, tmp_path: Path) -> None:
    entry = load("zoo.entry").Entry("small", "here", 8, _network)
    rows: list[str] = []
    row = load("zoo.checks").examine(entry, tmp_path, lambda row: rows.append(json.dumps(row)))
    assert load("zoo.page").passes(row), row
    assert json.loads(rows[-1]) == row
    assert [json.loads(text).get("doing") for text in rows] == [*row["checks"], None]


def test_the_committed_page_is_the_committed_result(load: Any) -> None:
    if not RESULT.exists():
        pytest.skip("no result of prune_zoo.py is committed")
    document = json.loads(RESULT.read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == load("zoo.page").page(document)
