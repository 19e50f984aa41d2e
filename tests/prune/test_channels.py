"""What `PruneChannels` removes, tells and refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from burnish.core import Candidate
from burnish.errors import Infeasible, InvalidInput, NoEffect
from burnish.goal import Goal, Task
from burnish.graph import channel_groups, trace
from burnish.prune import PruneChannels, prune_channels, pruned_layers
from burnish.prune._cost import cost_of
from burnish.testing import Tiny, catalogue
from tests import once
from tests.prune.deployed import runs_and_quantizes

TINY = {tiny.name: tiny for tiny in catalogue()}
IMAGE = torch.randn(2, 3, 10, 10)


def _num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("of", ["parameters", "bytes", "macs"])
def test_what_is_saved_is_what_was_asked_for(of: str) -> None:
    """The smallest share of channels that saves half: just beyond it, and no channel more."""
    traced = once.traced(TINY["residual_projection"])
    channels = channel_groups(traced)
    cost = cost_of(channels, of)
    whole = cost.at(channels.alive({}))
    for scope in ("uniform", "global", "isomorphic"):
        removed = PruneChannels(0.5, of=of, scope=scope).choose_from(traced).plan["removed"]
        saved = 1 - cost.at(channels.alive(removed)) / whole
        assert 0.5 <= saved < 0.72


def test_costs_are_those_of_the_shrunk_graph() -> None:
    """Parameters as torch counts them, MACs as a hand does, before and after."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=2), nn.Flatten())
    traced = trace(model.eval(), (IMAGE,))
    channels = channel_groups(traced)
    macs, parameters = cost_of(channels, "macs"), cost_of(channels, "parameters")
    alive = channels.alive({})
    assert parameters.at(alive) == _num_parameters(model)
    assert macs.at(alive) == 64 * 9 * 3 * 8 + 36 * 9 * 6 * 4
    encoder = once.traced(TINY["encoder"])
    step = PruneChannels(0.5)
    choices = step.choose_from(encoder)
    left = channel_groups(encoder)
    assert cost_of(left, "parameters").at(left.alive(choices.plan["removed"])) == _num_parameters(
        step.rewrite(encoder, choices)
    )


def test_uniform_takes_the_least_important_of_each() -> None:
    traced = once.traced(TINY["plain_cnn"])
    choices = PruneChannels(0.25, criterion="l1").choose_from(traced)
    assert {name: len(numbers) for name, numbers in choices.plan["removed"].items()} == {
        "0.0:conv2d": 2,
        "3.0:conv2d": 3,
    }


def test_counts_are_rounded_up_to_a_multiple() -> None:
    traced = once.traced(TINY["plain_cnn"])
    rows = pruned_layers(PruneChannels(0.5, round_to=8).choose_from(traced))
    assert {row.layer: row.after for row in rows if row.state != "frozen"} == {
        "0.0:conv2d": 8,
        "3.0:conv2d": 8,
    }


def test_every_layer_is_told_of() -> None:
    traced = once.traced(TINY["residual"])
    step = PruneChannels(0.5, ignore=("last.0",))
    rows = {row.layer: row for row in pruned_layers(step.choose_from(traced))}
    assert rows["stem.0:conv2d"].state == "pruned"
    assert (rows["stem.0:conv2d"].before, rows["stem.0:conv2d"].after) == (8, 4)
    assert rows["body.2.0:conv2d"].group == "stem.0:conv2d"
    assert rows["last.0.0:conv2d"].reason == "ignore names 'last.0'"
    assert rows["head.2:linear"].reason == "it is an output of the model"


def test_the_plain_function_gives_a_smaller_model_and_leaves_the_users_alone() -> None:
    tiny = TINY["residual"]
    model = tiny.build()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    small = prune_channels(model, tiny.inputs(), 0.5)
    assert _num_parameters(small) < 0.4 * _num_parameters(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    logits = small(*tiny.inputs(3).args)
    assert logits.shape == (3, 5)


def test_two_criteria_take_the_goals_loss_and_two_no_labels() -> None:
    tiny = TINY["plain_cnn"]
    images = [tiny.inputs(8, seed=seed).args[0] for seed in range(2)]
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
    metric, loss = tiny.goal().task.metric, nn.CrossEntropyLoss()
    batches = [(batch, labels) for batch in images]
    task = Task(tiny.inputs(), metric, train=batches, calibration=images, loss=loss)
    candidate = Candidate(once.traced(tiny))
    for criterion in ("taylor", "fisher", "hessian", "wanda"):
        labelled = criterion in ("taylor", "fisher")
        unused: Any = {"calibration": None} if labelled else {"train": None, "loss": None}
        goal = Goal(replace(task, **unused))
        step = PruneChannels(0.5, criterion=criterion)
        one, other = (step.apply(candidate, goal).history[-1].choices for _ in range(2))
        assert one.plan["removed"] == other.plan["removed"]
    bare: Any = replace(task, loss=None)
    for criterion in ("taylor", "fisher"):
        with pytest.raises(InvalidInput, match="needs Task\\(loss=…\\)"):
            PruneChannels(0.5, criterion=criterion).choose(candidate.model, Goal(bare))
    bare = replace(task, calibration=None)
    for criterion in ("hessian", "wanda"):
        with pytest.raises(InvalidInput, match="needs calibration data"):
            PruneChannels(0.5, criterion=criterion).choose(candidate.model, Goal(bare))


def test_data_that_is_missing_or_of_no_use_is_refused() -> None:
    tiny = TINY["plain_cnn"]
    with pytest.raises(InvalidInput, match="'wanda'\\) needs calibration="):
        prune_channels(tiny.build(), tiny.inputs(), criterion="wanda")
    with pytest.raises(InvalidInput, match="'l2'\\) looks at no data"):
        prune_channels(tiny.build(), tiny.inputs(), calibration=[tiny.inputs()])
    with pytest.raises(InvalidInput, match="'fisher'\\) needs a loss"):
        prune_channels(tiny.build(), tiny.inputs(), criterion="fisher")


def _one_channel() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU(), nn.Conv2d(1, 2, 1))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "ratio of 1": ({"ratio": 1.0}, "from 0 up to but not including 1"),
    "negative ratio": ({"ratio": -0.1}, "from 0 up to but not including 1"),
    "of": ({"of": "watts"}, "one of channels, parameters, bytes, macs"),
    "criterion": ({"criterion": "beauty"}, "one of random, l1, l2"),
    "scope": ({"scope": "local"}, "one of uniform, global, isomorphic"),
    "heads": ({"heads": "both"}, "one of whole, width"),
    "round_to": ({"round_to": 0}, "a number from 1 up"),
    "ignore": ({"ignore": "head"}, "give a tuple"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_out_of_range_are_refused(name: str) -> None:
    settings, message = REFUSED[name]
    with pytest.raises(InvalidInput, match=message):
        PruneChannels(**settings)


def test_more_than_can_go_names_what_can() -> None:
    with pytest.raises(Infeasible, match="with one channel left") as refused:
        PruneChannels(0.999, of="macs").choose_from(once.traced(TINY["plain_cnn"]))
    assert isinstance(refused.value.result, float)
    assert 0 < refused.value.result < 0.999


def test_doing_nothing_is_an_error() -> None:
    traced = once.traced(TINY["plain_cnn"])
    with pytest.raises(NoEffect, match=r"the widest group, '3\.0:conv2d', has 12"):
        PruneChannels(0.01).choose_from(traced)
    with pytest.raises(NoEffect, match="ratio=0 "):
        PruneChannels(0.0).choose_from(traced)


def test_a_model_without_free_channels_says_why() -> None:
    with pytest.raises(NoEffect, match="first:conv2d: it is an output of the model"):
        prune_channels(TINY["nested_output"].build(), TINY["nested_output"].inputs())
    with pytest.raises(NoEffect, match="0:conv2d: it has one channel"):
        prune_channels(_one_channel(), IMAGE)


def test_an_unknown_layer_to_ignore_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"'body\.9' matches nothing"):
        PruneChannels(ignore=("body.9",)).choose_from(once.traced(TINY["residual"]))


def test_wrappers_are_named() -> None:
    with pytest.raises(InvalidInput, match=r"DataParallel: give the model itself, \.module"):
        prune_channels(nn.DataParallel(TINY["plain_cnn"].build()), IMAGE)


def test_a_plan_of_another_model_is_refused() -> None:
    choices = PruneChannels().choose_from(once.traced(TINY["residual"]))
    with pytest.raises(InvalidInput, match="no group of channels is called"):
        PruneChannels().rewrite(once.traced(TINY["plain_cnn"]), choices)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("squeeze_excite", "lstm")]


@pytest.mark.parametrize("name", ["shuffle", "attention_fused", *SLOW])
def test_a_pruned_model_exports_runs_and_quantizes(name: str, tmp_path: Path) -> None:
    tiny: Tiny = TINY[name]
    small = trace(prune_channels(tiny.build(), tiny.inputs(), 0.5), *tiny.inputs().to_trace())
    runs_and_quantizes(small, tiny, tmp_path)


def test_an_example_task_is_enough() -> None:
    """`l2` asks for no data at all."""
    tiny = TINY["plain_cnn"]
    task = Task(tiny.inputs(), tiny.goal().task.metric)
    candidate = PruneChannels(0.5).apply(Candidate(tiny.build()), Goal(task))
    assert candidate.history[-1].step == "PruneChannels"
