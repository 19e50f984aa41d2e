"""Figures are readable, and say no more than is known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.report._ratio import Ratio
from burnish.report._record import Verdict
from burnish.report._words import (
    Scale,
    duration,
    flatten,
    large,
    moment,
    percent,
    significant,
    size,
    speed,
    verdict_sentence,
)

PERCENT = Scale("top1", True, True)
PLAIN = Scale("mse", False, False)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "unknown"),
        (0.0, "0"),
        (1.0, "1.00"),
        (0.012345, "0.0123"),
        (9.999, "10.0"),
        (99.96, "100"),
        (-1.2345, "−1.23"),
        (12345.0, "12,300"),
        (1.2e-7, "1.20e−07"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
    ],
)
def test_three_significant_digits(value: float | None, text: str) -> None:
    assert significant(value) == text


@given(st.floats(min_value=1e-4, max_value=9e6))
def test_what_is_written_is_within_half_a_unit_of_the_third_digit(value: float) -> None:
    written = float(significant(value).replace(",", ""))
    assert abs(written - value) <= 0.5001 * 10.0 ** (math.floor(math.log10(value)) - 2)


@pytest.mark.parametrize(
    ("value", "text"), [(0.9996, "99.96 %"), (0.99999, "100.00 %"), (1.0, "100.0 %")]
)
def test_a_share_is_not_rounded_up_to_perfection_at_the_first_digit(
    value: float, text: str
) -> None:
    assert PERCENT.value(value) == text


def test_a_ratio_is_turned_over_with_its_interval() -> None:
    fast = speed(Ratio(0.5, 0.4, 0.625, "r", False))
    assert (fast.text, fast.ends, fast.state) == ("2.00×", "1.60 to 2.50", "faster")
    assert speed(Ratio(2.0, 1.9, 2.1, "r", False)).state == "slower"
    assert speed(Ratio(0.97, 0.9, 1.04, "r", False)).note == "no difference shown"


def test_an_unreliable_ratio_is_marked_even_when_its_interval_looks_clear() -> None:
    fast = speed(Ratio(0.5, 0.4, 0.6, "r", True))
    assert fast.state == "unreliable"
    assert fast.text.startswith("≈")
    assert "unreliable" in fast.note
    assert speed(Ratio(0.5, None, None, "r", False)).state == "unreliable"


@pytest.mark.parametrize("ratio", [None, Ratio(None, None, None, None, False)])
def test_no_ratio_is_unknown(ratio: Ratio | None) -> None:
    assert not speed(ratio).known


def _verdict(state: str, needed: int | None = None, reason: str | None = None) -> Verdict:
    bounds = (-0.01, -0.03, 0.01, 0.02)
    return Verdict(state, *bounds, False, 0.95, 440, needed, None, reason)


def test_verdicts_in_plain_words() -> None:
    assert verdict_sentence(_verdict("holds"), PERCENT) == (
        "Quality holds: top1 changed by −1.00 point (95 % interval −3.00 to +1.00); "
        "up to 2 points may be lost, n = 440."
    )
    assert "only 2 points may be lost" in verdict_sentence(_verdict("fails"), PERCENT)
    told = verdict_sentence(_verdict("cannot tell", 1460), PERCENT)
    assert "440 samples were looked at; about 1,460 would decide" in told


def test_an_open_verdict_without_a_deciding_n_says_so_and_why() -> None:
    told = verdict_sentence(_verdict("cannot tell", None, "fewer than 30 samples"), PERCENT)
    assert "how many would decide is unknown (fewer than 30 samples)" in told


def test_where_lower_is_better_the_sign_is_explained() -> None:
    assert "a positive change being better" in verdict_sentence(_verdict("holds"), PLAIN)


def test_settings_are_flattened_with_units() -> None:
    record = {
        "machine": {"memory_bytes": 8_000_000_000, "isa": ["avx2", "amx_int8"]},
        "versions": {"openvino": None},
        "inputs": [{"key": "x"}],
        "limits": {},
        "accept": False,
    }
    assert flatten(record) == [
        ("machine · memory bytes", "8.00 GB"),
        ("machine · isa", "avx2, amx_int8"),
        ("versions · openvino", "not installed"),
        ("inputs 1 · key", "x"),
        ("limits", "none"),
        ("accept", "no"),
    ]


def test_times() -> None:
    assert [duration(s) for s in (None, 4.21, 185.0, 3720.0)] == [
        "unknown",
        "4.21 s",
        "3 min 5 s",
        "1 h 2 min",
    ]
    assert moment("2026-05-04T10:31:07+00:00") == "2026-05-04 10:31 UTC"
    assert moment("last Monday") == "last Monday"


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, "unknown"),
        (0.0, "0 %"),
        (0.0004, "under 0.1 %"),
        (0.012, "1.2 %"),
        (0.0994, "9.9 %"),
        (0.0999, "10 %"),
        (0.994, "99 %"),
        (1.27, "127 %"),
        (-0.3, "−30 %"),
    ],
)
def test_shares_have_two_digits(share: float | None, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("value", "number", "amount"),
    [
        (None, "unknown", "unknown"),
        (0, "0", "0 B"),
        (999, "999", "999 B"),
        (1000, "1.00 k", "1.00 kB"),
        (999_600, "1.00 M", "1.00 MB"),
        (385_000_000, "385 M", "385 MB"),
        (25_769_803_776, "25.8 G", "25.8 GB"),
    ],
)
def test_large_numbers_and_bytes_have_three(value: int | None, number: str, amount: str) -> None:
    assert large(value) == number
    assert size(value) == amount
