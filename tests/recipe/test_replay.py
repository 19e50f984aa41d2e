"""A candidate built again from its history: the same model, bit for bit, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from burnish.auto import STEPS
from burnish.core import Applied, Candidate, Choices, Rewrite, model_hash, tensor_hash
from burnish.errors import Damaged, InvalidInput
from burnish.goal import Goal
from burnish.graph import Traced
from burnish.recipe import load_history, replay, save_history
from burnish.testing import Tiny, catalogue
from tests import once

BY_NAME = {tiny.name: tiny for tiny in catalogue()}


@dataclass(frozen=True)
class Shift(Rewrite):
    """Adds a chosen tensor to every bias of a linear layer."""

    by: float = 1.0

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        return Choices({"layer": "0"}, {"bias": torch.full((3,), self.by)})

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        changed = nn.Sequential(nn.Linear(2, 3))
        changed.load_state_dict(model.state_dict())
        with torch.no_grad():
            layer = changed.get_submodule(choices.plan["layer"])
            assert isinstance(layer, nn.Linear)
            layer.bias.add_(choices.tensors["bias"])
        return changed


TABLE: Mapping[str, Callable[..., Rewrite]] = {"Shift": Shift}


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3))


def history(goal: Goal) -> tuple[nn.Module, Candidate]:
    """A model and what two shifts made of it."""
    model = small()
    candidate = Shift(0.3).apply(Candidate(model), goal)
    return model, Shift(0.1).apply(candidate, goal)


@pytest.fixture(scope="module")
def goal() -> Goal:
    return BY_NAME["lstm"].goal()


def test_replay_gives_the_same_model_bit_for_bit(goal: Goal) -> None:
    model, candidate = history(goal)
    before = model_hash(model)
    again = replay(model, candidate.history, TABLE)
    assert model_hash(again) == model_hash(candidate.model) != before
    assert model_hash(model) == before


def test_an_empty_history_gives_a_copy() -> None:
    model = small()
    again = replay(model, (), TABLE)
    assert model_hash(again) == model_hash(model)
    assert again is not model
    assert next(again.parameters()).data_ptr() != next(model.parameters()).data_ptr()


def test_through_the_disk(goal: Goal, tmp_path: Path) -> None:
    model, candidate = history(goal)
    save_history(tmp_path, candidate.history)
    loaded = load_history(tmp_path)
    assert [item.to_json() for item in loaded] == [item.to_json() for item in candidate.history]
    assert model_hash(replay(model, loaded, TABLE)) == model_hash(candidate.model)


@pytest.mark.parametrize("name", ["residual", "depthwise"])
def test_a_quantized_model_through_the_disk(name: str, tmp_path: Path) -> None:
    tiny: Tiny = next(item for item in catalogue() if name in (item.name, *item.topologies))
    traced, goal = once.traced(tiny), tiny.goal()
    step = STEPS["QuantizeStatic"](runtime="onnxruntime")
    candidate = step.apply(Candidate(traced), goal)
    save_history(tmp_path, candidate.history)
    again = replay(traced, load_history(tmp_path), STEPS)
    assert isinstance(again, Traced)
    assert isinstance(candidate.model, Traced)
    first, second = candidate.model.graph_module, again.graph_module
    assert str(first.graph) == str(second.graph)
    kept, built = first.state_dict(), second.state_dict()
    assert {k: tensor_hash(v) for k, v in kept.items()} == {
        k: tensor_hash(v) for k, v in built.items()
    }


def test_tensors_that_share_memory_are_saved(tmp_path: Path) -> None:
    base = torch.arange(8.0)
    tensors = {"first": base[:4], "last": base[4:], "again": base[:4], "turned": base.view(2, 4).T}
    save_history(tmp_path, [Applied("Shift", {}, Choices({}, tensors))])
    (loaded,) = load_history(tmp_path)
    for name, tensor in tensors.items():
        assert torch.equal(loaded.choices.tensors[name], tensor)


def test_a_step_that_is_not_in_the_table_is_refused() -> None:
    stranger = Applied("os.system", {"command": "true"}, Choices())
    with pytest.raises(InvalidInput, match=r"'os\.system'; known are Shift"):
        replay(small(), [stranger], TABLE)


def test_settings_a_step_does_not_have_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"step 'Shift' in the history.*'twice'"):
        replay(small(), [Applied("Shift", {"twice": True}, Choices())], TABLE)


def test_the_table_of_steps_holds_steps_under_their_own_names() -> None:
    needed: dict[str, dict[str, Any]] = {  # settings without a default
        "Distill": {"teacher": {"teachers": []}, "training": {}},
        "MixedPrecision": {"limit": 1.0},
        "PruneWeights": {"sparsity": 0.5},
        "Recover": {"rung": "repair", "keep": "zeros", "original": "0"},
        "Rewind": {"original": "0"},
        "Train": {"epochs": 1, "learning_rate": 1e-3},
        "TrainSparse": {
            "training": {"epochs": 1, "learning_rate": 1e-3},
            "penalty": {"strength": 0.1},
        },
    }
    assert STEPS.keys() > needed.keys()
    for name, step in STEPS.items():
        made = step(**needed.get(name, {}))
        assert isinstance(made, Rewrite)
        assert type(made).__name__ == name


# --- damage


@pytest.fixture
def saved(goal: Goal, tmp_path: Path) -> Path:
    save_history(tmp_path, history(goal)[1].history)
    return tmp_path


def test_a_tensor_that_is_not_what_its_hash_says(saved: Path) -> None:
    path = saved / "weights.safetensors"
    tensors = safetensors.torch.load_file(path)
    key = sorted(tensors)[0]
    safetensors.torch.save_file({**tensors, key: tensors[key] + 1}, path)
    with pytest.raises(Damaged, match=f"{key} is not what its hash says"):
        load_history(saved)


def test_a_flipped_bit_in_the_weights(saved: Path) -> None:
    path = saved / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Damaged, match="not what its hash says"):
        load_history(saved)


def test_a_missing_tensor(saved: Path) -> None:
    path = saved / "weights.safetensors"
    tensors = safetensors.torch.load_file(path)
    key = sorted(tensors)[0]
    safetensors.torch.save_file({k: v for k, v in tensors.items() if k != key}, path)
    with pytest.raises(Damaged, match=f"{key}.*missing"):
        load_history(saved)


@pytest.mark.parametrize("file", ["history.json", "weights.safetensors"])
@pytest.mark.parametrize("how", ["absent", "cut short", "empty"])
def test_a_file_that_does_not_read(saved: Path, file: str, how: str) -> None:
    path = saved / file
    data = path.read_bytes()
    path.unlink()
    if how != "absent":
        path.write_bytes(data[: len(data) // 2] if how == "cut short" else b"")
    with pytest.raises(Damaged, match="the history in"):
        load_history(saved)


@pytest.mark.parametrize(
    "records",
    [
        {"step": "Shift"},
        [1],
        ["Shift"],
        [{"step": "Shift"}],
        [{"step": "Shift", "settings": {}, "choices": []}],
        [{"step": "Shift", "settings": {}, "choices": {"plan": {}, "tensors": []}}],
    ],
)
def test_json_that_is_no_history(saved: Path, records: Any) -> None:
    (saved / "history.json").write_text(json.dumps(records))
    with pytest.raises(Damaged, match="the history in"):
        load_history(saved)
