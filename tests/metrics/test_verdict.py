"""What a verdict says, and what it refuses to be asked."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from burnish.errors import InvalidInput
from burnish.metrics import Verdict, verdict
from burnish.metrics._mean import Spread

RNG = np.random.default_rng(11)
ONES = np.ones(100)


def flipped(n: int, gains: int, losses: int) -> tuple[np.ndarray, np.ndarray]:
    """0/1 scores of n samples, half of them right."""
    baseline = np.arange(n) % 2
    candidate = baseline.copy()
    candidate[np.flatnonzero(baseline == 0)[:gains]] = 1
    candidate[np.flatnonzero(baseline == 1)[:losses]] = 0
    return baseline, candidate


def test_three_states():
    holds = verdict(*flipped(2000, 10, 10), max_drop=0.01)
    fails = verdict(*flipped(2000, 10, 90), max_drop=0.01)
    cannot = verdict(*flipped(2000, 10, 30), max_drop=0.01)
    assert [answer.state for answer in (holds, fails, cannot)] == ["holds", "fails", "cannot tell"]
    assert holds.low > -0.01
    assert fails.high < -0.01
    assert cannot.low <= -0.01 <= cannot.high
    assert holds.needed is None
    assert fails.needed is None


@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_identical_scores_do_not_hold_until_there_are_enough(kind):
    few = verdict(*flipped(50, 0, 0), max_drop=0.01, kind=kind)
    assert few.state == "cannot tell"
    assert few.needed == 368  # the first n with 0.99^n < 2.5 %
    assert verdict(*flipped(367, 0, 0), max_drop=0.01, kind=kind).state == "cannot tell"
    assert verdict(*flipped(368, 0, 0), max_drop=0.01, kind=kind).state == "holds"


@pytest.mark.parametrize(
    ("n", "gains", "losses", "expected"),
    [(400, 4, 6, "holds"), (300, 3, 12, "fails"), (500, 1, 4, "holds")],
)
def test_needed_samples_of_the_same_sort_decide(n, gains, losses, expected):
    answer = verdict(*flipped(n, gains, losses), max_drop=0.015)
    assert answer.state == "cannot tell"
    assert answer.needed is not None
    assert answer.needed > n

    def state(size: int) -> str:
        rates = (round(gains * size / n), round(losses * size / n))
        return verdict(*flipped(size, *rates), max_drop=0.015).state

    # Whole numbers of discordant pairs make the way there a staircase: hence the 30 %.
    assert state(answer.needed * 13 // 10) == expected
    assert state(answer.needed * 7 // 10) == "cannot tell"


def test_needed_of_continuous_scores_decides():
    pattern = np.array([0.0, 0.3, -0.25, -0.11] * 25)
    base = np.linspace(0, 1, 100)
    answer = verdict(base, base + pattern, max_drop=0.03, kind="continuous")
    assert answer.state == "cannot tell"
    assert answer.needed is not None
    times = answer.needed // 100 + 1
    again = verdict(
        np.tile(base, times), np.tile(base + pattern, times), max_drop=0.03, kind="continuous"
    )
    assert again.state == "holds"


@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_on_the_margin_no_number_of_samples_would_decide(kind):
    answer = verdict(*flipped(500, 0, 5), max_drop=0.01, kind=kind)
    assert answer.state == "cannot tell"
    assert answer.needed is None
    assert "on the margin" in answer.reason


def test_lower_is_better_turns_the_sign():
    loss = RNG.gamma(2, 1, 300)
    better, worse = loss * 0.9, loss * 1.1
    kept = verdict(loss, better, max_drop=0.05, kind="continuous", higher_is_better=False)
    assert kept.difference == pytest.approx(0.1 * loss.mean())
    lost = verdict(loss, worse, max_drop=0.05, kind="continuous", higher_is_better=False)
    assert lost.difference < 0
    turned = verdict(-loss, -worse, max_drop=0.05, kind="continuous")
    assert (lost.low, lost.high) == (turned.low, turned.high)
    errors = verdict(*flipped(400, 20, 5), max_drop=0.01, higher_is_better=False)
    assert errors.difference == pytest.approx(-15 / 400)


@pytest.mark.parametrize("sign", [1, -1])
def test_relative_drops_are_told_in_the_scores_unit(sign):
    loss = 4 + RNG.normal(0, 0.1, 400)
    other = loss * (1 - sign * 0.02)
    settings = {"kind": "continuous", "higher_is_better": sign > 0}
    answer = verdict(loss, other, max_drop=0.05, relative=True, **settings)
    assert answer.relative
    assert answer.max_drop == pytest.approx(0.05 * loss.mean())
    assert answer.difference == pytest.approx(-0.02 * loss.mean())
    assert answer.state == "holds"
    assert verdict(loss, other, max_drop=0.01, relative=True, **settings).state == "fails"
    binary = verdict(*flipped(1000, 0, 5), max_drop=0.1, relative=True)
    assert binary.max_drop == pytest.approx(0.05)
    assert binary.state == "holds"


def test_large_normal_differences_get_the_t_interval():
    base = RNG.uniform(0, 1, 20_000)
    candidate = base + RNG.normal(0, 0.3, 20_000)
    answer = verdict(base, candidate, max_drop=0.1, kind="continuous")
    t = stats.ttest_1samp(candidate - base, 0).confidence_interval(0.95)
    width = t.high - t.low
    assert width < answer.high - answer.low < 1.03 * width


def test_spread_reads_jumps_of_one_size_as_that_size():
    spread = Spread.of(-0.5 * (np.arange(1000) % 100 == 0), span=1.0)
    assert spread.jump_down == pytest.approx(0.5, rel=0.03)
    assert spread.jump_up < 0.01


difference_lists = st.lists(st.floats(-1, 1), min_size=2, max_size=60)


@given(difference_lists, st.floats(0.6, 0.98))
@settings(max_examples=80, deadline=None)
def test_continuous_interval_properties(differences, confidence):
    base = np.linspace(0, 1, len(differences))
    after = base + np.array(differences)

    def asked(one: np.ndarray, two: np.ndarray, at: float) -> Verdict:
        return verdict(one, two, confidence=at, max_drop=0.1, kind="continuous")

    answer, swapped = asked(base, after, confidence), asked(after, base, confidence)
    wider = asked(base, after, confidence + 0.01)
    assert answer.low <= answer.difference <= answer.high
    assert (swapped.low, swapped.high) == pytest.approx((-answer.high, -answer.low), abs=1e-12)
    assert wider.low <= answer.low
    assert wider.high >= answer.high


@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_too_few_to_ever_decide(kind):
    people = np.repeat(np.arange(10), 50)
    base = np.tile([1.0, 0.0, 1.0, 1.0, 0.0], 100)
    answer = verdict(base, base, max_drop=0.5, kind=kind, groups=people)
    assert answer.state == "cannot tell"
    assert "10 groups are too few" in answer.reason
    assert answer.needed == 1000  # 20 groups of 50
    short = verdict(np.arange(20.0), np.arange(20.0) + 5, max_drop=1, kind="continuous")
    assert short.state == "cannot tell"
    assert "20 samples are too few" in short.reason


def test_groups_of_one_are_no_groups():
    scores = flipped(500, 3, 9)
    grouped = verdict(*scores, max_drop=0.02, groups=[f"person {i}" for i in range(500)])
    assert grouped == verdict(*scores, max_drop=0.02)


def test_groups_widen_the_interval_when_their_samples_agree():
    person = np.repeat(np.arange(40), 25)
    base = np.ones(1000)
    candidate = np.repeat((np.arange(40) % 10 > 0).astype(float), 25)
    alone = verdict(base, candidate, max_drop=0.05)
    together = verdict(base, candidate, max_drop=0.05, groups=person)
    assert together.difference == pytest.approx(alone.difference)
    assert together.high - together.low > 3 * (alone.high - alone.low)
    assert "groups" in together.method


def test_order_does_not_matter():
    base, candidate = flipped(300, 5, 9)
    person = np.arange(300) // 6
    order = RNG.permutation(300)
    one = verdict(base, candidate, max_drop=0.02, groups=person)
    two = verdict(base[order], candidate[order], max_drop=0.02, groups=person[order])
    assert two.low == pytest.approx(one.low)
    assert two.state == one.state


def test_tensors_and_bools_are_scores():
    torch = pytest.importorskip("torch")
    base, candidate = flipped(400, 3, 5)
    expected = verdict(base, candidate, max_drop=0.05)
    assert verdict(torch.tensor(base), torch.tensor(candidate), max_drop=0.05) == expected
    assert verdict(base == 1, candidate == 1, max_drop=0.05) == expected
    half = torch.tensor(base, dtype=torch.bfloat16, requires_grad=True)
    assert verdict(half, candidate, max_drop=0.05) == expected


@pytest.mark.parametrize(
    ("baseline", "candidate", "changes", "message"),
    [
        (ONES, ONES[:99], {}, "100 scores and candidate 99"),
        ([], [], {}, "baseline is float64 of shape \\[0\\]"),
        (ONES.reshape(10, 10), ONES, {}, "shape \\[10, 10\\], expected numbers of shape \\[n\\]"),
        (ONES, ONES * np.nan, {}, "candidate has NaN"),
        (ONES, ONES / 2, {}, "candidate has scores other than 0 and 1"),
        (["a"] * 100, ONES, {}, "baseline is <U1"),
        (ONES, ONES, {"max_drop": -0.01}, "max_drop is -0.01"),
        (ONES, ONES, {"max_drop": float("nan")}, "max_drop is nan"),
        (ONES, ONES, {"confidence": 0.5}, "confidence is 0.5"),
        (ONES, ONES, {"confidence": 1.0}, "confidence is 1.0"),
        (ONES, ONES, {"confidence": 95}, "confidence is 95"),
        (ONES, ONES, {"kind": "set"}, "use set_verdict"),
        (ONES, ONES, {"groups": np.zeros(99)}, "groups has shape \\[99\\], expected \\[100\\]"),
        (ONES, ONES, {"groups": np.zeros(100)}, "there is 1 of the groups"),
        (ONES, ONES, {"groups": np.full(100, np.nan)}, "groups has NaN"),
        ([0.5], [0.5], {"kind": "continuous"}, "there is 1 of the samples"),
        (ONES * 0, ONES * 0, {"relative": True}, "baseline's mean score is 0"),
        (ONES * 0, ONES * 0, {"relative": True, "kind": "continuous"}, "mean score is 0"),
    ],
)
def test_bad_input_is_named(baseline, candidate, changes, message):
    with pytest.raises(InvalidInput, match=message):
        verdict(baseline, candidate, **{"max_drop": 0.01, **changes})


@pytest.mark.parametrize("n", [1, 2, 3])
def test_tiny_binary_sets_get_an_answer(n):
    for gains, losses in ((0, 0), (n // 2, 0), (0, (n + 1) // 2 - 1)):
        answer = verdict(*flipped(n, gains, losses), max_drop=0.01)
        assert answer.state == "cannot tell"
        assert -1 <= answer.low <= answer.high <= 1


def test_a_binary_verdict_on_5000_samples_takes_milliseconds():
    scores = flipped(5000, 40, 70)
    verdict(*scores, max_drop=0.01)
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        answer = verdict(*scores, max_drop=0.01)
        taken.append(time.perf_counter() - start)
    assert answer.state in ("holds", "cannot tell")
    assert min(taken) < 0.02


def test_a_verdict_is_a_value():
    one, two = (verdict(*flipped(100, 1, 1), max_drop=0.2) for _ in range(2))
    assert one == two
    assert isinstance(one, Verdict)
    with pytest.raises(AttributeError):
        one.state = "fails"  # type: ignore[misc]


def test_the_card_runs():
    card = Path(__file__).parents[2] / "docs" / "methods" / "verdict.md"
    (code,) = re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
    names: dict[str, Verdict] = {}
    exec(code, names)
    assert names["answer"].state == "holds"


def test_the_room_does_not_import_torch():
    code = "import sys, burnish.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
