"""Verdicts on figures that a whole set has."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from burnish.errors import InvalidInput
from burnish.metrics import Metric, f1_macro, set_verdict, verdict

RNG = np.random.default_rng(4)
Nested = namedtuple("Nested", "logits extra")


@dataclass
class Output:
    logits: Any
    extra: Any = None


def accuracy(outputs: Any, targets: Any) -> float:
    return float((outputs == targets).mean())


ACCURACY = Metric("accuracy", accuracy, "set")


def answers(n: int, wrong: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    truth = RNG.integers(0, 3, n)
    baseline = np.where(RNG.random(n) < 0.9, truth, (truth + 1) % 3)
    candidate = np.where(RNG.random(n) < wrong, (truth + 2) % 3, baseline)
    return truth, baseline, candidate


def same(one: Any, two: Any) -> bool:
    fields = ("difference", "low", "high", "max_drop")
    return one.state == two.state and all(
        getattr(one, field) == pytest.approx(getattr(two, field), abs=1e-9) for field in fields
    )


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_mean_in_disguise_gets_the_verdict_of_its_scores(relative, grouped):
    truth, baseline, candidate = answers(300, 0.02)
    groups = np.sort(RNG.integers(0, 60, 300)) if grouped else None
    shared = {"max_drop": 0.05, "relative": relative, "groups": groups}
    of_set = set_verdict(ACCURACY, truth, baseline, candidate, **shared)
    of_scores = verdict(
        (baseline == truth).astype(float),
        (candidate == truth).astype(float),
        kind="continuous",
        **shared,
    )
    assert same(of_set, of_scores)


def test_blocks_are_seeded_and_agree_with_single_samples():
    truth, baseline, candidate = answers(4000, 0.02)
    calls = []

    def counted(outputs: Any, targets: Any) -> float:
        calls.append(len(targets))
        return accuracy(outputs, targets)

    metric = Metric("accuracy", counted, "set")
    one, again, other = (
        set_verdict(metric, truth, baseline, candidate, max_drop=0.03, seed=seed)
        for seed in (1, 1, 2)
    )
    assert one == again
    assert other != one
    assert len(calls) == 3 * 1002
    assert one.state == "holds"
    assert "blocks of samples" in one.method
    single = verdict(baseline == truth, candidate == truth, max_drop=0.03)
    assert one.high - one.low == pytest.approx(single.high - single.low, rel=0.35)


def test_states_of_f1():
    truth = RNG.integers(0, 4, 600)
    logits = np.eye(4)[np.where(RNG.random(600) < 0.85, truth, (truth + 1) % 4)]
    worse = logits.copy()
    worse[:120] = np.eye(4)[(truth[:120] + 2) % 4]
    kept = set_verdict(f1_macro, truth, logits, logits + 0.1, max_drop=0.03)
    lost = set_verdict(f1_macro, truth, logits, worse, max_drop=0.03)
    assert (kept.state, lost.state) == ("holds", "fails")
    assert kept.difference == 0
    assert kept.low < 0 < kept.high
    expected = f1_macro.function(worse, truth) - f1_macro.function(logits, truth)
    assert lost.difference == pytest.approx(expected)
    few = set_verdict(f1_macro, truth[:100], logits[:100], logits[:100], max_drop=0.01)
    assert few.state == "cannot tell"
    assert few.needed is not None
    assert few.needed > 100


def test_direction_is_the_metrics_own():
    error = Metric("error", lambda o, t: 1 - accuracy(o, t), "set", higher_is_better=False)
    truth, baseline, candidate = answers(300, 0.05)
    of_error = set_verdict(error, truth, baseline, candidate, max_drop=0.02)
    assert same(of_error, set_verdict(ACCURACY, truth, baseline, candidate, max_drop=0.02))


def test_outputs_keep_their_nesting_and_their_library():
    torch = pytest.importorskip("torch")
    truth = torch.tensor(RNG.integers(0, 3, 60))
    logits = torch.nn.functional.one_hot(truth, 3).float()
    plain = set_verdict(f1_macro, truth, logits, logits, max_drop=0.1)
    for wrap in (
        lambda x: Output(x),
        lambda x: Nested(x, x),
        lambda x: {"logits": x, "more": (x, None)},
        lambda x: (x, x),
    ):
        assert set_verdict(f1_macro, truth, wrap(logits), wrap(logits), max_drop=0.1) == plain
    kinds = set()

    def of_lists(outputs: Any, targets: Any) -> float:
        kinds.add((type(outputs), type(targets)))
        return float(np.mean([len(boxes) for boxes in outputs]))

    boxes = [[0] * (i % 3) for i in range(60)]
    set_verdict(Metric("boxes", of_lists, "set"), truth, boxes, boxes, max_drop=0.1)
    assert kinds == {(list, torch.Tensor)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": Metric("m", accuracy, "binary")}, "'m' is of kind 'binary'"),
        ({"candidate_outputs": np.ones(39)}, "candidate_outputs holds an array of 39 samples"),
        ({"baseline_outputs": (np.ones(40), np.ones(2))}, "baseline_outputs holds an array of 2"),
        ({"targets": np.ones(0)}, "targets hold no samples"),
        ({"targets": 3.0}, "targets hold no samples"),
        ({"groups": np.zeros(40)}, "there is 1 of the groups"),
        ({"metric": Metric("m", lambda o, t: np.nan, "set")}, "'m' returned nan for the whole set"),
        ({"metric": Metric("m", lambda o, t: o, "set")}, "'m' returned shape \\[40\\]"),
        (
            {"metric": Metric("m", lambda o, t: 1.0 if len(o) == 40 else np.inf, "set")},
            "'m' returned inf for 39 samples",
        ),
        ({"confidence": 0.3}, "confidence is 0.3"),
        ({"max_drop": -1}, "max_drop is -1"),
    ],
)
def test_bad_input_is_named(change, message):
    given = {
        "metric": ACCURACY,
        "targets": np.ones(40),
        "baseline_outputs": np.ones(40),
        "candidate_outputs": np.ones(40),
        "max_drop": 0.1,
    }
    with pytest.raises(InvalidInput, match=message):
        set_verdict(**{**given, **change})
