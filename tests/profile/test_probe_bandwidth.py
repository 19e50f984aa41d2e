"""Which levels are measured, on machines we do not have, and that caches are faster here."""

from __future__ import annotations

from dataclasses import replace

from burnish.hardware import Machine, detect
from burnish.profile._probe_bandwidth import levels, read_bandwidths

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SERVER = Machine(
    "EPYC",
    8,
    32 * GIB,
    frozenset(),
    "Linux x86_64",
    "3.11",
    caches={"L1": 32 * KIB, "L2": MIB, "L3": 32 * MIB},
)


def test_own_caches_count_once_a_thread_and_the_last_is_shared() -> None:
    found, notes = levels(SERVER, 4)
    assert [(level.name, level.bytes, level.per_thread) for level in found] == [
        ("L1", 128 * KIB, 16 * KIB),
        ("L2", 4 * MIB, 512 * KIB),
        ("L3", 32 * MIB, 4 * MIB),
        ("memory", 32 * GIB, 64 * MIB),
    ]
    assert notes == ()


def test_a_share_too_small_to_tell_is_left_out_with_a_note() -> None:
    found, (note,) = levels(SERVER, 32)
    assert [level.name for level in found] == ["L1", "L2", "memory"]
    assert note.startswith("L3 is not measured: each of 32 threads")


def test_two_caches_are_an_own_and_a_shared_one() -> None:
    board = replace(SERVER, caches={"L1": 32 * KIB, "L2": MIB}, memory_bytes=4 * GIB)
    found, _ = levels(board, 4)
    assert [(level.name, level.bytes) for level in found] == [
        ("L1", 128 * KIB),
        ("L2", MIB),
        ("memory", 4 * GIB),
    ]


def test_without_caches_the_memory_is_left() -> None:
    found, (note,) = levels(replace(SERVER, caches={}, memory_bytes=0), 2)
    assert [(level.name, level.bytes, level.per_thread) for level in found] == [
        ("memory", 64 * MIB, 32 * MIB)
    ]
    assert "caches are not told" in note


def test_little_memory_is_not_filled() -> None:
    found, notes = levels(replace(SERVER, memory_bytes=128 * MIB), 1)
    assert "memory" not in [level.name for level in found]
    assert notes[-1].startswith("the memory's bandwidth is not measured")


def test_a_cache_is_faster_than_memory_here() -> None:
    shares: list[float] = []
    rows, _ = read_bandwidths(detect(), 1, shares.append)
    assert rows[-1].level == "memory"
    assert all(row.gb_per_s > 0.1 for row in rows)
    assert shares[-1] == 1.0
    if len(rows) > 1:
        assert max(row.gb_per_s for row in rows[:-1]) > rows[-1].gb_per_s
