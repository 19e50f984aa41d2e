"""Batches: counting, seeding, sharing among processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

from burnish.errors import InvalidInput
from burnish.train import fit
from burnish.train._data import Batches
from tests.train.small import BATCHES, X, Y, network, task


def numbers(num: int) -> list[Any]:
    """Batches told apart by their first value."""
    return [(torch.full((4, 2), float(i)), torch.zeros(4, dtype=torch.long)) for i in range(num)]


def taken(num: int, rank: int, processes: int) -> list[tuple[int, int]]:
    batches = Batches(task(train=numbers(num)), 0, rank, processes)
    found = [(index, int(call.args[0][0, 0])) for index, call in batches.epoch("", None)]
    assert len(found) == batches.per_process
    return found


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("num", [1, 2, 6, 7])
def test_each_process_takes_its_share(num: int, processes: int) -> None:
    """Every batch is taken once; the last round is filled up with the first batches."""
    shares = [taken(num, rank, processes) for rank in range(processes)]
    rounds = list(zip(*shares, strict=True))
    flat = [pair for one in rounds for pair in one]
    assert [index for index, _ in flat] == list(range(len(flat)))
    values = [value for _, value in flat]
    assert values[:num] == list(range(num))
    first = min(num, processes - 1) or 1
    assert values[num:] == [i % first for i in range(len(values) - num)]
    assert len(values) - num < processes


class Changing:
    """One batch more, or fewer, from the second pass on."""

    def __init__(self, by: int) -> None:
        self.by, self.passes = by, 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return iter(numbers(4 if self.passes < 3 else 4 + self.by))

    def __len__(self) -> int:
        return 4


def test_another_number_of_batches_is_refused() -> None:
    given: dict[str, Any] = {"epochs": 3, "learning_rate": 0.01}
    with pytest.raises(InvalidInput, match=r"gave more than the 4 it has: .* the same num"):
        fit(network(), task(train=Changing(1)), **given)
    with pytest.raises(InvalidInput, match="gave 3 batches, not the 4 it has"):
        fit(network(), task(train=Changing(-1)), **given)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(zip(X, Y, strict=True))


def test_a_stream_without_a_length_is_counted() -> None:
    assert Batches(task(train=DataLoader(Stream(), batch_size=32)), 0).num_batches == 3


def test_a_loader_that_shares_out_itself_is_refused_among_several() -> None:
    data = TensorDataset(X, Y)
    sampler: DistributedSampler[Any] = DistributedSampler(data, num_replicas=2, rank=0)
    loader = DataLoader(data, batch_size=16, sampler=sampler)
    assert Batches(task(train=loader), 0).num_batches == 3
    with pytest.raises(InvalidInput, match="has a DistributedSampler, and fit"):
        Batches(task(train=loader), 0, 0, 2)


def test_a_draw_depends_on_seed_epoch_and_the_data_s_own_generator() -> None:
    with torch.random.fork_rng():
        plain = Batches(task(), 0)
        assert plain.begin(1) == plain.begin(1) != plain.begin(2)
        assert plain.begin(1) != Batches(task(), 1).begin(1)
        generator = torch.Generator().manual_seed(1)
        loader = DataLoader(TensorDataset(X, Y), shuffle=True, generator=generator)
        own = Batches(task(train=loader), 0)
        before = own.begin(1)
        next(iter(loader))
        assert own.begin(1) != before
        generator.manual_seed(1)
        assert own.begin(1) == before


def test_a_look_at_the_first_batch_moves_no_generator_of_the_data() -> None:
    generator = torch.Generator().manual_seed(1)
    loader = DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True, generator=generator)
    batches, before = Batches(task(train=loader), 0), generator.get_state()
    assert batches.first().args[0].shape == (8, 2)
    assert torch.equal(generator.get_state(), before)
    assert len(BATCHES) == Batches(task(), 0).num_batches
