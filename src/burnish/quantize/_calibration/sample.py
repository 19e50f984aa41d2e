"""A few calibration samples kept whole, for the methods that look at the network a second time.

At most `MOST` samples and `MOST_BYTES` of them, those with the least hashes of their contents:
every sample has the same chance whatever the order of the data (sorted by class, or alternating
between two), and the sample of two data is that of the least hashes of both, so that merging is
exact. Samples that are equal count once. (Keeping every n-th would be simpler, but sees one class
of data that alternate, and two such samples do not merge into the sample of the whole.)

After the "k minimum values" sketch of Bar-Yossef, Jayram, Kumar, Sivakumar and Trevisan, 2002.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from burnish.graph import Traced
from burnish.quantize._calibration.batches import CHUNK, batch_axes
from burnish.quantize._calibration.pages import kept

MOST = 128
MOST_BYTES = 48 << 20


@dataclass(frozen=True)
class Row:
    """One sample: the tensors of a call, batch axes of size 1, and the hash it is kept by.

    `form` tells the samples that may stand in one batch: sizes of the other axes, and the contents
    of inputs without a batch axis.
    """

    key: bytes
    tensors: tuple[torch.Tensor, ...]
    form: tuple[tuple[int, ...] | bytes, ...]

    @property
    def num_bytes(self) -> int:
        """What its tensors hold."""
        return sum(tensor.nbytes for tensor in self.tensors)


@dataclass(frozen=True)
class Sample:
    """The samples with the least hashes of the data seen, in their order; at least one.

    `axes` holds the batch axis of each input. All samples seen with a key below `limit` are here;
    None while there was room for all.
    """

    axes: tuple[int | None, ...]
    rows: tuple[Row, ...] = ()
    limit: bytes | None = None

    @property
    def num(self) -> int:
        """The number of samples kept. A call whose inputs have no batch axis is one sample."""
        return len(self.rows)

    def observe(self, tensors: tuple[torch.Tensor, ...]) -> Sample:
        """With the samples of one more call, of the tensors of a call in the model's order."""
        whole = {
            index: _hash(tensor)
            for index, (tensor, axis) in enumerate(zip(tensors, self.axes, strict=True))
            if axis is None
        }
        sizes = [t.shape[a] for t, a in zip(tensors, self.axes, strict=True) if a is not None]
        found = []
        for index in range(sizes[0] if sizes else 1):
            cut = tuple(
                t if a is None else t.narrow(a, index, 1)
                for t, a in zip(tensors, self.axes, strict=True)
            )
            hashes = [whole[i] if i in whole else _hash(t) for i, t in enumerate(cut)]
            key = hashes[0] if len(hashes) == 1 else hashlib.sha256(b"".join(hashes)).digest()
            if self.limit is None or key < self.limit:
                form = tuple(whole.get(i, tuple(t.shape)) for i, t in enumerate(cut))
                # A copy: a view would keep the whole batch alive.
                found.append(Row(key, tuple(kept(t) for t in cut), form))
        return self.merged(Sample(self.axes, tuple(sorted(found, key=_key)))) if found else self

    def merged(self, other: Sample) -> Sample:
        """The sample of both data."""
        limits = [limit for limit in (self.limit, other.limit) if limit is not None]
        limit = min(limits, default=None)
        least: dict[bytes, Row] = {}
        size = 0
        for row in heapq.merge(self.rows, other.rows, key=_key):
            if row.key in least or (limit is not None and row.key >= limit):
                continue
            size += row.num_bytes
            if least and (len(least) == MOST or size > MOST_BYTES):
                limit = row.key
                break
            least[row.key] = row
        return Sample(self.axes, tuple(least.values()), limit)

    def batches(self, size: int = CHUNK) -> Iterator[tuple[torch.Tensor, ...]]:
        """Calls of up to `size` samples, tensors in the order of the model's inputs.

        Samples whose other axes differ (sequences of several lengths) come in calls of their own.
        """
        forms: dict[tuple[tuple[int, ...] | bytes, ...], list[Row]] = {}
        for row in self.rows:
            forms.setdefault(row.form, []).append(row)
        most = size if any(axis is not None for axis in self.axes) else 1
        for rows in forms.values():
            for start in range(0, len(rows), most):
                part = [row.tensors for row in rows[start : start + most]]
                yield tuple(
                    parts[0] if axis is None else torch.cat(parts, axis)
                    for axis, parts in zip(self.axes, zip(*part, strict=True), strict=True)
                )


def empty_sample(traced: Traced) -> Sample:
    """A sample of nothing yet, for the inputs of a traced model."""
    return Sample(batch_axes(traced))


def _key(row: Row) -> bytes:
    return row.key


def _hash(tensor: torch.Tensor) -> bytes:
    """Of the shape and the elements, in logical order."""
    flat = tensor.detach().contiguous().reshape(-1)
    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(flat.view(torch.uint8).numpy().data)
    return digest.digest()
