"""What bounds an operator, by the three least times it can take."""

from __future__ import annotations

import pytest

from burnish.errors import Damaged
from burnish.profile._roof import Roof, roof
from tests.profile.probes import made_up

PROBE = made_up()  # openvino: 100 GMAC/s, 1 µs a dispatch; L1 64 KB at 300 GB/s, memory at 20 GB/s


@pytest.mark.parametrize(
    ("macs", "num_bytes", "seconds", "share", "bound"),
    [
        (10**9, 10**6, 0.02, 0.5, "compute"),  # 10 ms of computing, 7 µs of moving
        (10**6, 40 * 10**6, 0.004, 0.5, "memory"),  # 2 ms from memory
        (0, 3 * 10**4, 2e-5, 0.005, "overhead"),  # 0.1 µs from the first cache
        (0, 0, 1e-6, 0.0, "overhead"),
    ],
)
def test_the_longest_of_the_three_times_bounds(
    macs: int, num_bytes: int, seconds: float, share: float, bound: str
) -> None:
    found = roof(macs, num_bytes, seconds, PROBE, "openvino")
    assert found.bound == bound
    assert found.share_of_peak == pytest.approx(share)


def test_a_nearer_memory_gives_a_higher_roof() -> None:
    near, far = (
        roof(0, size, 1.0, PROBE, "openvino").share_of_peak or 0 for size in (2**20, 2**22)
    )
    assert far / near == pytest.approx(4 * 150 / 20)


@pytest.mark.parametrize("seconds", [None, 0.0])
def test_without_a_time_there_is_a_bound_and_no_share(seconds: float | None) -> None:
    assert roof(10**9, 10**6, seconds, PROBE, "openvino") == Roof(None, "compute")


def test_without_a_peak_nothing_is_claimed() -> None:
    assert roof(10**9, 10**6, 1.0, PROBE, "onnxruntime") == Roof(None, None)


def test_json_and_back_is_the_same_value() -> None:
    for one in (Roof(0.5, "memory"), Roof(None, None)):
        assert Roof.from_json(one.to_json()) == one
    for record in ({}, {"share_of_peak": 1, "bound": "luck"}):
        with pytest.raises(Damaged, match="roof"):
            Roof.from_json(record)
