"""One pass over a split, before any work: is it usable, and what is it?

A run of an hour must not end on a NaN in its first batch. The pass checks every tensor against the
example call (number, dtype, rank, fixed axes), looks for NaN and infinity, counts samples and
hashes each, so that test data overlapping validation data is seen. The hashes of the first and
last sample and the count go into the goal's fingerprint.

A second look at the first batch tells data that comes out otherwise each time (shuffled, augmented,
used up). Validation and test data may not: two models are compared sample by sample. Calibration
and training data may; then their fingerprint is their length alone.

Left out: near-duplicates. Only samples whose input tensors are equal bit for bit are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from burnish.errors import InvalidInput
from burnish.goal._inputs import Inputs, Leaf, batch_size, items_of
from burnish.goal._task import Task

PAIRED = ("validation", "test")


@dataclass(frozen=True)
class Census:
    """What a split holds: number of samples and batches, and a hash of each sample's inputs.

    `repeats` says that its first batch was the same both times.
    """

    split: str
    num_samples: int
    num_batches: int
    hashes: tuple[str, ...]
    repeats: bool = True

    def summary(self) -> tuple[str, int, str, str]:
        """What the fingerprint of a goal takes from it."""
        first, last = (self.hashes[0], self.hashes[-1]) if self.repeats else ("", "")
        return (self.split, self.num_samples, first, last)


def take_census(
    task: Task, split: str, watch: Callable[[Iterable[Any], str], Iterable[Any]] | None = None
) -> Census:
    """Pass once over a split of `task`, checking every batch.

    Raises:
        InvalidInput: no batches, or none the second time; a batch that does not match the example
            call; NaN or infinity; validation or test data that changes from pass to pass.
    """
    hashes: list[str] = []
    num_batches = 0
    data = task.data(split)
    for number, batch in enumerate(data if watch is None else watch(data, f"checking {split}")):
        hashes += _hashes(task, batch, f"{split} batch {number}")
        num_batches += 1
    if not num_batches:
        raise InvalidInput(f"the {split} data is empty: it gave no batch")
    again = next(iter(data), None)
    if again is None:
        raise InvalidInput(
            f"the {split} data gave batches once and none the second time: give something that "
            "can be iterated again, as a list or a DataLoader"
        )
    second = _hashes(task, again, f"{split} batch 0, second pass")
    repeats = second == hashes[: len(second)]
    if split in PAIRED and not repeats:
        raise InvalidInput(
            f"the {split} data begins with other samples on its second pass, so that two models "
            "cannot be compared sample by sample: switch shuffling and random augmentation off"
        )
    return Census(split, len(hashes), num_batches, tuple(hashes), repeats)


def _hashes(task: Task, batch: Any, where: str) -> list[str]:
    try:
        call = task.call(batch)
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error}") from error
    return sample_hashes(check_call(task.inputs, call.args, call.kwargs, where))


def check_call(inputs: Inputs, args: tuple[Any, ...], kwargs: Any, where: str) -> tuple[Leaf, ...]:
    """Compare a call with the example call; the tensors of the call, with their axes."""
    expected = inputs.leaves()
    got = inputs.bind(args, kwargs)
    if [leaf.key for leaf in got] != [leaf.key for leaf in expected]:
        raise InvalidInput(
            f"{where} calls the model with {[leaf.key for leaf in got]}, the example call with "
            f"{[leaf.key for leaf in expected]}: give Task(unpack=…) or mend the data"
        )
    sizes: dict[str, tuple[str, int]] = {}
    for want, have in zip(expected, got, strict=True):
        _check_leaf(want, have, where)
        for axis, name in want.axes.items():
            size = int(have.tensor.shape[axis])
            first, known = sizes.setdefault(name, (have.key, size))
            if size != known:
                raise InvalidInput(
                    f"{where}: {name!r} is {known} in input {first!r} and {size} in {have.key!r}; "
                    "axes of one name have one size"
                )
    _check_constants(inputs, args, kwargs, where)
    return got


def _check_constants(inputs: Inputs, args: tuple[Any, ...], kwargs: Any, where: str) -> None:
    expected = {k: v for k, v in inputs.constants().items() if v is not None}
    items = items_of(args, kwargs)
    got = {k: v for k, v in items if v is not None and not isinstance(v, torch.Tensor)}
    for key in sorted(expected.keys() | got.keys()):
        if key not in expected or key not in got or expected[key] != got[key]:
            raise InvalidInput(
                f"{where}: argument {key!r} is {got.get(key)!r}, and {expected.get(key)!r} in the "
                "example call; only tensors may change from call to call"
            )


def _check_leaf(want: Leaf, have: Leaf, where: str) -> None:
    name, tensor = have.key, have.tensor
    if tensor.dtype != want.tensor.dtype:
        raise InvalidInput(
            f"{where}: input {name!r} has dtype {tensor.dtype}, the example call "
            f"{want.tensor.dtype}; convert the data or the example"
        )
    fixed = [(axis, size) for axis, size in enumerate(want.tensor.shape) if axis not in want.axes]
    if tensor.dim() != want.tensor.dim() or any(tensor.shape[a] != size for a, size in fixed):
        raise InvalidInput(
            f"{where}: input {name!r} has shape {tuple(tensor.shape)}, the example call "
            f"{tuple(want.tensor.shape)} with dynamic axes {dict(want.axes)}; mend the data, or "
            "name the axis in Inputs(dynamic=…)"
        )
    if 0 in tensor.shape:
        raise InvalidInput(f"{where}: input {name!r} has shape {tuple(tensor.shape)}: no element")
    inexact = tensor.is_floating_point() or tensor.is_complex()
    if inexact and not bool(torch.isfinite(tensor).all()):
        what = "NaN" if bool(torch.isnan(tensor).any()) else "infinity"
        raise InvalidInput(f"{where}: input {name!r} holds {what}; clean the data first")


def sample_hashes(leaves: tuple[Leaf, ...]) -> list[str]:
    """What tells samples apart: a hash of each one's inputs, cut out along the batch axes.

    `leaves` are the tensors of a call, as `Inputs.bind` gives them. A tensor without a batch axis
    is part of every sample; a call without any is one sample.
    """
    hashers = [hashlib.blake2b(digest_size=12) for _ in range(batch_size(leaves))]
    for leaf in leaves:
        axis = leaf.batch_axis()
        for index, hasher in enumerate(hashers):
            sample = leaf.tensor if axis is None else leaf.tensor.select(axis, index)
            raw = sample.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            hasher.update(str(tuple(sample.shape)).encode())
            hasher.update(raw.numpy().data)
    return [hasher.hexdigest() for hasher in hashers]
