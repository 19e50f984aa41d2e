"""`TrainSparse`: what a step owes, that channels become unequal, and that removing stays exact."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch

from burnish.auto import TrainSparse
from burnish.core import Candidate, Choices
from burnish.errors import InvalidInput
from burnish.goal import Goal
from burnish.graph import Traced, channel_groups, trace
from burnish.prune import GroupPenalty, PruneChannels, group_penalty
from burnish.testing import RewriteContract, Tiny, catalogue
from burnish.train import Train
from tests import once
from tests.graph.channels.agree import both, difference
from tests.train.small import EXAMPLE, FRESH, network, same, task

TINY = {tiny.name: tiny for tiny in catalogue()}
LONG = Train(8, 0.05, "sgd", weight_decay=0.0)


class TestContract(RewriteContract):
    def step(self) -> TrainSparse:
        return TrainSparse(Train(1, 0.01), GroupPenalty(1e-3, growth="linear"))

    def tinies(self) -> Iterable[Tiny]:
        return [TINY["residual"]]

    def candidate(self, tiny: Tiny) -> Candidate:
        return Candidate(once.traced(tiny) if tiny.name in TINY else tiny.trace())

    def names_in(self, choices: Choices) -> Iterable[str]:
        return [*choices.plan["layers"], *choices.plan["left alone"]]


@pytest.fixture(scope="module")
def traced() -> Traced:
    return trace(network(0.0), EXAMPLE.args)


def _spread(model: Any, traced: Traced) -> float:
    """How unequal the norms of the hidden channels are: their deviation over their mean."""
    (norms,) = group_penalty(traced, EXAMPLE, 1.0).norms(model).values()
    return (norms.std() / norms.mean()).item()


@pytest.fixture(scope="module")
def plain(traced: Traced) -> float:
    """How unequal they are without a penalty."""
    return _spread(LONG.apply(Candidate(traced), Goal(task())).model, traced)


@pytest.mark.parametrize(
    "penalty",
    [GroupPenalty(0.02), GroupPenalty(0.02, "norm"), GroupPenalty(0.05, "norm", "linear")],
    ids=["lasso", "norm", "growing"],
)
def test_channels_become_unequal(penalty: GroupPenalty, traced: Traced, plain: float) -> None:
    drawn = TrainSparse(LONG, penalty).apply(Candidate(traced), Goal(task()))
    assert _spread(drawn.model, traced) > 1.3 * plain
    plan = drawn.history[-1].choices.plan
    assert plan["layers"] == ["0:linear"]
    assert plan["left alone"] == {"4:linear": "it is an output of the model"}


def test_what_is_removed_then_equals_its_mask(traced: Traced) -> None:
    step = TrainSparse(Train(2, 0.05), GroupPenalty(0.01)) >> PruneChannels(0.5)
    history = step.apply(Candidate(traced), Goal(task())).history
    trained = step.steps[0].rewrite(traced, history[0].choices)  # type: ignore[attr-defined]
    double = trace(_doubled(trained), (FRESH.double(),))
    masked, shrunk = both(channel_groups(double), history[1].choices.plan["removed"])
    assert difference(masked, shrunk, (FRESH.double(),)) < 1e-12


def _doubled(model: Any) -> Any:
    """The trained weights in a module of float64."""
    assert isinstance(model, Traced)
    state = {k.removeprefix("graph_module.model."): v for k, v in model.state_dict().items()}
    net = network(0.0)
    net.load_state_dict({**net.state_dict(), **state})
    return net.double()


def test_a_module_trains_as_its_graph_does(traced: Traced) -> None:
    """The names of a module's weights are not those of its graph's."""
    step, goal = TrainSparse(Train(2, 0.01), GroupPenalty(0.01)), Goal(task())
    module, graph = (step.apply(Candidate(m), goal).model for m in (network(0.0), traced))
    for one, other in zip(module.parameters(), graph.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert not same(module, Train(2, 0.01).apply(Candidate(network(0.0)), goal).model)


def test_settings_out_of_a_history_are_values_again() -> None:
    made = TrainSparse({"epochs": 2, "learning_rate": 0.1}, {"strength": 0.2, "ignore": ["0"]})
    assert made == TrainSparse(Train(2, 0.1), GroupPenalty(0.2, ignore=("0",)))


def test_what_is_no_training_and_no_penalty_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"TrainSparse\(training=…\) is a int: give a Train"):
        TrainSparse(5, GroupPenalty(0.1))
    with pytest.raises(InvalidInput, match=r"penalty=…\) is a float: give a GroupPenalty"):
        TrainSparse(LONG, 0.1)
