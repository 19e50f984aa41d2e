"""The recovery ladder: what each rung gives, when it stops, and what it never does."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.auto import Recover, _ladder, _ladder_rungs, recover
from burnish.core import Applied, Candidate, Choices
from burnish.distill import KD
from burnish.errors import Diverged, InvalidInput, NoEffect, Unsupported
from burnish.goal import Budget, Goal
from burnish.graph import Traced, trace
from burnish.quantize import quantize_static
from burnish.recipe import replay
from burnish.train import Train, evaluate
from tests.auto.made_up import batches, data, one_thread, task

NOISE = 2.5
QUICK = {
    "distilling": Train(epochs=4, learning_rate=5e-3),
    "finetuning": Train(epochs=1, learning_rate=5e-3),
}


class Net(nn.Module):
    """Images [n, 1, 8, 8] to logits [n, 4], with batch-norms."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.last = nn.Conv2d(8, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = F.relu(self.last(self.second(x)))
        logits: torch.Tensor = self.head(x.flatten(1))
        return logits


@functools.cache
def original() -> Net:
    """Trained for a second, on images so noisy that it is not always right."""
    with torch.random.fork_rng(devices=[]), one_thread(), torch.enable_grad():
        torch.manual_seed(1)
        net = Net()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for images, labels in batches(data("train", 1024, NOISE), 128) * 6:
            optimizer.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            optimizer.step()
    return net.eval()


@functools.cache
def wanted(n: int = 600, **changes: Any) -> Goal:
    """A goal on such images; `changes` are of the budget."""
    found = task(
        calibration=batches(data("calibration", 128, NOISE), 32),
        validation=batches(data("validation", n, NOISE), 200),
        train=batches(data("train", 256, NOISE), 64),
        test=None,
        loss=F.cross_entropy,
    )
    return Goal(found, budget=Budget(**{"max_drop": 0.02, "minutes": None, **changes}))


@torch.no_grad()
def masked(share: float = 0.8) -> Net:
    found = copy.deepcopy(original())
    for weight in (found.first.weight, found.second.weight, found.head.weight):
        size = weight.abs()
        weight[size <= size.flatten().kthvalue(int(share * size.numel())).values] = 0.0
    return found


@torch.no_grad()
def rounded(bits: int = 2) -> Net:
    found = copy.deepcopy(original())
    for weight in (found.first.weight, found.second.weight, found.head.weight):
        flat = weight.flatten(1)
        scale = flat.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        weight.copy_(((flat / scale).round() * scale).reshape(weight.shape))
    return found


def figure(model: nn.Module) -> float:
    return evaluate(model, wanted().task, "validation").figure


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def climb(model: nn.Module, goal: Goal | None = None, **settings: Any) -> Any:
    with one_thread():
        return recover(Candidate(model), original(), goal or wanted(), **{**QUICK, **settings})


# --- whole runs


def test_a_masked_network_is_recovered_and_stays_masked() -> None:
    damaged = masked()
    before = state_of(damaged)
    found = climb(damaged, wanted(max_drop=0.0))  # so that every rung is tried
    names = [rung.name for rung in found.rungs]
    assert names == ["as given", "batch_norm", "repair", "distill", "finetune"]
    model = found.candidate.model
    assert figure(model) > figure(damaged) + 0.05
    for name, tensor in model.state_dict().items():
        if tensor.dim() > 1:
            assert torch.equal(tensor == 0, before[name] == 0), name
    assert all(torch.equal(t, before[name]) for name, t in damaged.state_dict().items())
    best = found.rungs[0].figure
    for rung in found.rungs[1:]:
        assert rung.seconds > 0
        assert rung.figure is not None
        assert rung.gain == pytest.approx(rung.figure - best)
        assert rung.state == ("kept" if rung.figure > best else "taken back")
        best = max(best, rung.figure)
    assert figure(model) == best
    assert found.original == figure(original())
    assert "repair" in str(found)
    assert f"{best:.4f}" in str(found)


def test_rounded_weights_stay_on_their_grid_where_that_is_asked_for() -> None:
    damaged = rounded()
    found = climb(damaged, wanted(max_drop=0.0), keep="grid")
    assert not found.notes
    model = found.candidate.model
    assert figure(model) > figure(damaged)
    for name in ("first", "second"):  # the norm behind took what was to be changed
        now, then = getattr(model, name).weight, getattr(damaged, name).weight
        assert torch.equal(now, then), name
    ratio = model.head.weight / damaged.head.weight
    for row in ratio:
        kept = row[row.isfinite()]
        torch.testing.assert_close(kept, kept[:1].expand_as(kept))
    assert all(parameter.requires_grad for parameter in model.parameters())
    free = climb(damaged, rungs=("batch_norm",))
    (note,) = free.notes
    assert note.startswith("the weights of ")
    assert 'keep="grid"' in note


def test_it_stops_at_the_first_rung_that_meets_the_budget() -> None:
    found = climb(masked(), wanted(max_drop=0.3))
    states = [(rung.name, rung.state) for rung in found.rungs]
    assert found.met
    assert states[0] == ("as given", "given")
    assert states[-1][1] in ("kept", "given")
    assert len(states) < 5
    assert found.stopped == f"the budget is met: {states[-1][0]}"
    assert found.rungs[-1].verdict.state == "holds"


def test_a_history_replays_what_was_kept() -> None:
    damaged = masked()
    found = climb(damaged, wanted(max_drop=0.0), rungs=("batch_norm", "repair", "distill"))
    kept = [rung.name for rung in found.rungs if rung.state == "kept"]
    history = found.candidate.history
    assert [applied.settings["rung"] for applied in history] == kept
    json.dumps([applied.to_json() for applied in history])
    again = replay(damaged, history, {"Recover": Recover})
    for name, tensor in found.candidate.model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    with pytest.raises(Unsupported, match="is decided by"):
        Recover(**history[0].settings).choose(damaged, wanted())


def test_a_graph_is_recovered_too() -> None:
    damaged = trace(masked(), (data("calibration", 128, NOISE)[0][:2],))
    found = climb(damaged, wanted(max_drop=0.0))
    assert [rung.state for rung in found.rungs[1:]].count("skipped") == 0
    assert isinstance(found.candidate.model, Traced)
    assert figure(found.candidate.model) > figure(damaged) + 0.05


def test_of_a_quantized_graph_every_rung_says_why_it_does_not_apply() -> None:
    found = climb(
        quantize_static(original(), [x for x, _ in wanted().task.data("calibration")]),
        wanted(max_drop=0.0),
        keep="grid",
    )
    told = {rung.name: rung.note for rung in found.rungs[1:] if rung.state == "skipped"}
    assert "folded into the weights" in told["batch_norm"]
    assert "its weight is computed in the graph (stored as integers" in told["repair"]
    assert "quantize operators, which pass no gradients on" in told["distill"]
    assert told["distill"] == told["finetune"]
    assert not found.met or found.rungs[-1].state == "given"


def test_what_is_missing_for_a_rung_is_told() -> None:
    goal = wanted(max_drop=0.0)
    bare = Goal(
        dataclasses.replace(goal.task, train=None, loss=None),
        budget=goal.budget,
    )
    found = climb(masked(), bare, rungs=("finetune",))
    assert "give Task(train=…)" in found.rungs[1].note
    frozen = masked().requires_grad_(False)
    found = climb(frozen, rungs=("distill", "finetune"))
    assert all("no parameter of the model takes gradients" in r.note for r in found.rungs[1:])
    rescaled = Applied("SmoothQuant", {}, Choices())
    with one_thread():
        found = recover(Candidate(masked(), (rescaled,)), original(), goal, rungs=["repair"])
    assert found.rungs[1].note.startswith("SmoothQuant rescaled what lies between layers")


def test_train_data_stands_in_for_calibration_data() -> None:
    goal = wanted(max_drop=0.0)
    without = dataclasses.replace(goal, task=dataclasses.replace(goal.task, calibration=None))
    seen: dict[str, int] = {}

    def watch(items: Any, title: str) -> Any:
        seen[title] = len(list(items))
        return items

    climb(masked(), without, rungs=("batch_norm",), watch=watch)
    assert seen["measuring batch-norm statistics"] == 4


def test_signals_are_the_callers_to_choose() -> None:
    found = climb(masked(), wanted(max_drop=0.0), rungs=("distill",), signals=(KD(),))
    assert found.rungs[1].figure is not None


# --- the climbing alone, with made-up rungs


def made_up(*changes: float) -> dict[str, Callable[..., Any]]:
    """Rungs that restore a share of what the damage took, named "0", "1", …"""

    def rung(share: float) -> Callable[..., Any]:
        def attempt(model: nn.Module, climb: Any) -> tuple[nn.Module, str]:
            found, goal = copy.deepcopy(model), original().state_dict()
            with torch.no_grad():
                for name, tensor in found.state_dict().items():
                    if tensor.is_floating_point():
                        tensor.lerp_(goal[name], share)
            return found, f"moved by {share}"

        return attempt

    return {str(index): rung(share) for index, share in enumerate(changes)}


def raising(error: Exception) -> Callable[..., Any]:
    def attempt(model: nn.Module, climb: Any) -> tuple[nn.Module, str]:
        raise error

    return attempt


def climbing(
    monkeypatch: pytest.MonkeyPatch, rungs: dict[str, Any], goal: Goal | None = None
) -> Any:
    monkeypatch.setattr(_ladder, "RUNGS", rungs)
    return climb(masked(0.8), goal or wanted(max_drop=0.0), rungs=tuple(rungs))


def states(found: Any) -> Sequence[str]:
    return [rung.state for rung in found.rungs]


def test_a_rung_that_did_harm_is_taken_back(monkeypatch) -> None:
    """The next one starts from the model before it."""
    found = climbing(monkeypatch, made_up(0.5, -3.0, 0.0))
    assert states(found) == ["given", "kept", "taken back", "taken back"]
    assert found.rungs[2].gain < 0
    assert found.rungs[3].gain == 0
    assert found.rungs[3].figure == found.rungs[1].figure
    assert len(found.candidate.history) == 1
    assert found.stopped == "every rung was tried, and the budget is not met"
    assert not found.met


def test_a_rung_that_brings_all_back_meets_the_budget(monkeypatch) -> None:
    found = climbing(monkeypatch, made_up(0.01, 1.0, 0.5), wanted(max_drop=0.02))
    assert states(found)[-1] == "kept"
    assert len(found.rungs) == 3
    assert found.met
    assert found.stopped == "the budget is met: 1"


def test_rungs_that_do_not_apply_or_diverge_are_told_and_passed_over(monkeypatch) -> None:
    rungs = {
        "a": raising(NoEffect("nothing to do")),
        "b": raising(Unsupported("not this one")),
        "c": raising(Diverged("the loss is nan", 3, 0.1, None)),
        **made_up(1.0),
    }
    found = climbing(monkeypatch, rungs, wanted(max_drop=0.02))
    assert states(found) == ["given", "skipped", "skipped", "failed", "kept"]
    assert [rung.note for rung in found.rungs[1:4]] == [
        "nothing to do",
        "not this one",
        "the loss is nan",
    ]
    assert "not this one" in str(found)


def test_what_the_user_did_wrong_is_not_swallowed(monkeypatch) -> None:
    with pytest.raises(InvalidInput, match="mend this"):
        climbing(monkeypatch, {"a": raising(InvalidInput("mend this"))})


def test_time_is_asked_before_each_rung(monkeypatch) -> None:
    clock = itertools.count(0, 45)
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    found = climbing(monkeypatch, made_up(0.1, 0.1, 0.1, 0.1), wanted(max_drop=0.0, minutes=3.0))
    assert 1 < len(found.rungs) < 5
    assert found.stopped == f"the 3 minutes of the budget are over before {len(found.rungs) - 1}"


def test_undecided_is_enough_only_where_the_budget_says_so(monkeypatch) -> None:
    for accept in (False, True):
        goal = wanted(60, max_drop=0.03, accept_undecided=accept)
        found = climbing(monkeypatch, made_up(1.0), goal)
        if found.rungs[-1].verdict.state == "cannot tell":
            assert found.met == accept
    given = climb(copy.deepcopy(original()), rungs=("0",))
    assert states(given) == ["given"]
    assert given.met
    assert not given.candidate.history


# --- bad input


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"keep": "all"}, r"keep='all'\): one of zeros, grid"),
        ({"rungs": ("repair", "pray")}, "some of batch_norm, repair, distill, finetune"),
        ({"rungs": ()}, "some of batch_norm"),
        ({"rungs": "repair"}, "some of batch_norm"),
        ({"finetuning": 3}, r"finetuning=…\) is a int: give how to train"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        climb(masked(), **settings)


def test_the_wrong_models_are_refused() -> None:
    net = masked()
    with pytest.raises(InvalidInput, match=r"was given a Net: Candidate\(model\)"):
        recover(net, original(), wanted())  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="the teacher is the candidate's own model"):
        recover(Candidate(net), net, wanted())
    with pytest.raises(InvalidInput, match=r"teacher=…\) is a str: give the original"):
        recover(Candidate(net), "teacher", wanted())  # type: ignore[arg-type]
    other = copy.deepcopy(net)
    other.head = nn.Linear(8 * 16, 7)
    with pytest.raises(InvalidInput, match=r"the shapes \[\[2, 4\]\], the teacher's \[\[2, 7\]\]"):
        recover(Candidate(net), other, wanted())


def test_data_that_judge_must_not_teach() -> None:
    found = wanted().task
    bare = dataclasses.replace(found, calibration=None, train=None)
    for fitted in ("calibration", "train"):
        judged: Any = {fitted: found.validation}
        both = dataclasses.replace(bare, **judged)
        with pytest.raises(InvalidInput, match=f"the {fitted} data is also the validation data"):
            climb(masked(), Goal(both))
    with pytest.raises(InvalidInput, match=r"give Task\(calibration=…\), which needs no labels"):
        climb(masked(), Goal(bare))
    with pytest.raises(InvalidInput, match=r"give Task\(validation=…\)"):
        climb(masked(), Goal(dataclasses.replace(found, validation=None)))


def test_looking_rounded() -> None:
    assert _ladder_rungs.looks_rounded(rounded())
    assert not _ladder_rungs.looks_rounded(original())
    assert not _ladder_rungs.looks_rounded(masked(0.9))
