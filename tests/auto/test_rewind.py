"""`Rewind`: which weights come back, what stays removed, replay without data, and refusals."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from burnish.auto import STEPS, Rewind
from burnish.core import Applied, Candidate, Choices, model_hash
from burnish.errors import InvalidInput, NoEffect, Unsupported
from burnish.goal import Goal
from burnish.graph import Traced, trace
from burnish.prune import PruneChannels, PruneWeights, masks_of
from burnish.recipe import load_history, replay, save_history
from burnish.testing import RewriteContract, Tiny, catalogue
from burnish.train import Train
from tests import once
from tests.train.small import EXAMPLE, FRESH, network, same, task

TINY = {tiny.name: tiny for tiny in catalogue()}
GOAL = Goal(task())
TRAIN = Train(2, 0.05)


class TestContract(RewriteContract):
    def step(self) -> Rewind:
        return Rewind(once.traced(TINY["plain_cnn"]))

    def tinies(self) -> Iterable[Tiny]:
        return [TINY["plain_cnn"]]

    def candidate(self, tiny: Tiny) -> Candidate:
        if tiny.name not in TINY:
            return Candidate(tiny.build())
        return Train(1, 0.01).apply(Candidate(once.traced(tiny)), tiny.goal())

    def names_in(self, choices: Choices) -> Iterable[str]:
        return {name.rpartition(".")[0] for name in choices.tensors}

    def known_names(self, tiny: Tiny, model: nn.Module) -> set[str]:
        return {name for name, _ in model.named_modules()}


@pytest.fixture(scope="module")
def traced() -> Traced:
    return trace(network(0.0), EXAMPLE.args)


def _replayed(net: nn.Module, candidate: Candidate, folder: Path) -> nn.Module:
    save_history(folder, candidate.history)
    return replay(net, load_history(folder), STEPS)


def test_masks_stay_and_the_first_weights_come_back(tmp_path: Path) -> None:
    net = network()
    trained = (TRAIN >> PruneWeights(0.75)).apply(Candidate(net), GOAL)
    ticket = Rewind(net).apply(trained, GOAL)
    masks, early = masks_of(ticket.model), net.state_dict()
    for name, mask in masks_of(trained.model).items():
        assert torch.equal(masks[name], mask)
        assert torch.equal(ticket.model.get_parameter(f"{name}_orig"), early[name])
    for name in ("0.bias", "1.running_mean", "1.num_batches_tracked"):
        assert torch.equal(ticket.model.state_dict()[name], early[name])
    assert same(ticket.model, PruneWeights(0.75).rewrite(net, trained.history[-1].choices))
    assert ticket.history[-1].settings == {"original": model_hash(net), "to": 0}
    assert ticket.history[-1].choices.plan == {
        "after": "the original",
        "kept": ["PruneWeights"],
        "undone": ["Train"],
    }
    again = _replayed(net, TRAIN.apply(ticket, GOAL), tmp_path)
    assert model_hash(again) == model_hash(TRAIN.apply(ticket, GOAL).model)


def test_late_rewinding_goes_back_to_a_little_training(tmp_path: Path) -> None:
    net = network()
    early = Train(1, 0.05).apply(Candidate(net), GOAL)
    late = (TRAIN >> PruneWeights(0.5) >> TRAIN).apply(early, GOAL)
    ticket = Rewind(net, to=1).apply(late, GOAL)
    for name in ("0.weight", "4.weight"):
        assert torch.equal(
            ticket.model.get_parameter(f"{name}_orig"), early.model.get_parameter(name)
        )
    plan = ticket.history[-1].choices.plan
    assert (plan["after"], plan["undone"]) == ("Train", ["Train", "Train"])
    assert same(_replayed(net, ticket, tmp_path), ticket.model)
    twice = Rewind(net).apply((PruneWeights(0.75) >> TRAIN).apply(ticket, GOAL), GOAL)
    assert torch.equal(twice.model.get_parameter("0.weight_orig"), net.get_parameter("0.weight"))


def test_channels_are_cut_out_of_the_early_weights(traced: Traced, tmp_path: Path) -> None:
    trained = (TRAIN >> PruneChannels(0.5) >> TRAIN).apply(Candidate(traced), GOAL)
    ticket = Rewind(traced).apply(trained, GOAL)
    removed = trained.history[1].choices
    assert same(ticket.model, PruneChannels(0.5).rewrite(traced, removed))
    assert len(ticket.history[-1].choices.tensors) == 8  # with mean and variance
    assert same(_replayed(traced, ticket, tmp_path), ticket.model)
    assert not torch.equal(ticket.model(FRESH), trained.model(FRESH))


def test_another_original_is_refused() -> None:
    net, other = network(), network()
    with torch.no_grad():
        other.get_parameter("0.weight").add_(1)
    trained = (PruneWeights(0.5) >> TRAIN).apply(Candidate(net), GOAL)
    with pytest.raises(InvalidInput, match="history does not lead from this model"):
        Rewind(other).apply(trained, GOAL)


def test_where_there_is_nothing_to_go_back_to() -> None:
    net = network()
    pruned = PruneWeights(0.5).apply(Candidate(net), GOAL)
    with pytest.raises(NoEffect, match="nothing was trained since"):
        Rewind(net).apply(pruned, GOAL)
    with pytest.raises(NoEffect, match="nothing was trained since"):
        Rewind(net, to=1).apply(pruned, GOAL)
    with pytest.raises(InvalidInput, match=r"to=2\): the history has 1 steps, PruneWeights"):
        Rewind(net, to=2).apply(pruned, GOAL)
    with pytest.raises(NoEffect, match="the history is empty"):
        Rewind(net).apply(Candidate(net), GOAL)


def test_other_steps_and_other_uses_are_refused() -> None:
    net = network()
    cast = Candidate(net, (Applied("Cast", {}, Choices()),))
    with pytest.raises(Unsupported, match="in a history with Cast: it knows what Distill, Drop"):
        Rewind(net).apply(cast, GOAL)
    with pytest.raises(InvalidInput, match="read from a history, which holds the early weights"):
        Rewind("00ff").apply(PruneWeights(0.5).apply(Candidate(net), GOAL), GOAL)
    with pytest.raises(Unsupported, match=r"Rewind\(original\)\.apply\(candidate, goal\)"):
        Rewind(net).choose(net, GOAL)
    bad: list[tuple[Any, Any, str]] = [(3, 0, "is a int: give the model"), (net, -1, "0 or more")]
    for original, to, message in bad:
        with pytest.raises(InvalidInput, match=message):
            Rewind(original, to)
