"""Pruning in rounds, end to end: each run is built again from its history, without data."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from burnish.auto import STEPS, Rewind, TrainSparse, recover
from burnish.core import Candidate, Step, model_hash
from burnish.distill import Distill, LogitMSE
from burnish.goal import Goal
from burnish.graph import Traced, trace
from burnish.prune import DropBlocks, GroupPenalty, PruneChannels, PruneTo, PruneWeights, masks_of
from burnish.recipe import gradual, load_history, repeat, replay, save_history
from burnish.train import Train
from tests.train.small import EXAMPLE, network, task

GOAL = Goal(task())
TRAIN = Train(2, 0.02)


@pytest.fixture(scope="module")
def traced() -> Traced:
    return trace(network(0.0), EXAMPLE.args)


class Block(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.inside(x))


def _run(step: Step, model: nn.Module, folder: Path) -> Candidate:
    """Apply, and hold the replay out of a file against it."""
    before = model_hash(model)
    candidate = step.apply(Candidate(model), GOAL)
    save_history(folder, candidate.history)
    again = replay(model, load_history(folder), STEPS)
    assert model_hash(again) == model_hash(candidate.model) != before == model_hash(model)
    x = EXAMPLE.args[0]
    assert torch.equal(again(x), candidate.model(x))
    return candidate


def _names(candidate: Candidate) -> list[str]:
    return [applied.step for applied in candidate.history]


def _width(candidate: Candidate) -> int:
    return len(candidate.model.state_dict()["graph_module.model.0.weight"])


def test_channels_again_and_again(traced: Traced, tmp_path: Path) -> None:
    candidate = _run(repeat(PruneChannels(0.25) >> TRAIN, 3), traced, tmp_path)
    assert _names(candidate) == ["PruneChannels", "Train"] * 3
    assert _width(candidate) == 7  # 16, 12, 9, 7


def test_channels_by_a_schedule(traced: Traced, tmp_path: Path) -> None:
    step = gradual(PruneChannels(0.5), recover=TRAIN, rounds=3)
    candidate = _run(step, traced, tmp_path)
    assert _width(candidate) == 8
    shares = [a.choices.plan["saved"] for a in candidate.history if a.step == "PruneChannels"]
    assert shares == pytest.approx([6 / 16, 2 / 10])
    assert _names(candidate).count("Train") == 3


@pytest.mark.parametrize("of", ["macs", "parameters"])
def test_a_share_of_the_cost_is_reached_in_rounds(of: str, traced: Traced) -> None:
    """Each round asks for what is still missing, so that too much of one is made up for."""
    step = gradual(PruneChannels(0.6, of=of), recover=TRAIN, rounds=3)
    history = step.apply(Candidate(traced), GOAL).history
    left = 1.0
    for applied in history:
        if applied.step == "PruneChannels":
            left *= 1 - applied.choices.plan["saved"]
    assert 0.6 <= 1 - left < 0.6 + 1 / 16


def test_blocks_by_a_schedule_and_their_early_weights() -> None:
    """A removal of another kind: four blocks go one after another, then what is left goes back."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), *(Block() for _ in range(8)), nn.Linear(8, 2)).eval()
    graph = trace(net, EXAMPLE.args)
    dropping = DropBlocks(0.5, criterion="random")
    rounds = gradual(dropping, recover=TRAIN, rounds=4, schedule="linear")
    candidate = (rounds >> Rewind(graph)).apply(Candidate(graph), GOAL)
    dropped = [a.choices.plan["dropped"] for a in candidate.history if a.step == "DropBlocks"]
    assert [len(names) for names in dropped] == [1] * 4
    early = dict(graph.named_parameters())
    left = dict(candidate.model.named_parameters())
    assert len(left) == len(early) - 8
    assert all(torch.equal(value, early[name]) for name, value in left.items())


def test_width_and_depth_by_a_schedule_and_their_early_weights() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), *(Block() for _ in range(4)), nn.Linear(8, 2)).eval()
    graph = trace(net, EXAMPLE.args)
    rounds = gradual(PruneTo(0.6), recover=TRAIN, rounds=3)
    goal = Goal(dataclasses.replace(task(), calibration=[EXAMPLE.args]))
    pruned = rounds.apply(Candidate(graph), goal)
    steps = [applied for applied in pruned.history if applied.step == "PruneTo"]
    assert len(steps) > 1
    left = math.prod(1 - applied.choices.plan["saved"] for applied in steps)
    assert 0.6 <= 1 - left < 0.85
    again = Rewind(graph).apply(pruned, goal).model
    small: nn.Module = graph
    for applied in steps:
        small = PruneTo(0.6).rewrite(small, applied.choices)
    assert model_hash(again) == model_hash(small)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_masks_by_a_schedule(scope: str, tmp_path: Path) -> None:
    step = gradual(PruneWeights(0.75, scope=scope), recover=TRAIN, rounds=3)
    candidate = _run(step, network(), tmp_path)
    assert _names(candidate) == ["PruneWeights", "Train"] * 3
    zeros = [int((mask == 0).sum()) for mask in masks_of(candidate.model).values()]
    assert sum(zeros) == 48
    assert zeros == [24, 24] or scope == "global"


def test_recovery_from_the_original_needs_no_labels(tmp_path: Path) -> None:
    net = network()
    distilling = Distill(net, (LogitMSE(),), training=TRAIN, labels=None)
    step = gradual(PruneWeights(0.5), recover=distilling, rounds=2, schedule="linear")
    candidate = _run(step, net, tmp_path)
    assert _names(candidate) == ["PruneWeights", "Distill"] * 2


def test_sparse_training_then_removal(traced: Traced, tmp_path: Path) -> None:
    step = TrainSparse(TRAIN, GroupPenalty(0.01)) >> PruneChannels(0.5) >> TRAIN
    assert _width(_run(step, traced, tmp_path)) == 8


def test_the_lottery_by_iterated_pruning(tmp_path: Path) -> None:
    net = network()
    rounds = gradual(
        PruneWeights(0.75), recover=Rewind(net) >> TRAIN, rounds=2, schedule="geometric"
    )
    candidate = _run(TRAIN >> rounds, net, tmp_path)
    assert _names(candidate) == ["Train", *["PruneWeights", "Rewind", "Train"] * 2]
    tickets = [a.choices.tensors for a in candidate.history if a.step == "Rewind"]
    assert all(torch.equal(t["0.weight_orig"], net.get_parameter("0.weight")) for t in tickets)


class Ladder:
    """The recovery ladder as a step, as the card has it."""

    def __init__(self, original: nn.Module) -> None:
        self.original = original

    def apply(self, candidate: Candidate, goal: Goal) -> Candidate:
        return recover(candidate, self.original, goal, rungs=("batch_norm", "repair")).candidate


@pytest.mark.slow
@pytest.mark.parametrize("form", ["whole", "ladder", "module"])
def test_modules_in_rounds(form: str, tmp_path: Path) -> None:
    """The user's own class, whose every round traces anew."""
    net = TRAIN.apply(Candidate(network()), GOAL).model
    heal: Any = Ladder(net) if form == "ladder" else TRAIN
    step: Step = gradual(PruneChannels(0.5), recover=heal, rounds=3)
    if form == "whole":
        step = TRAIN >> TrainSparse(TRAIN, GroupPenalty(0.01)) >> step >> Rewind(net) >> TRAIN
    candidate = _run(step, net, tmp_path)
    assert not isinstance(candidate.model, Traced)
    assert candidate.model.get_parameter("0.weight").shape == (8, 2)
