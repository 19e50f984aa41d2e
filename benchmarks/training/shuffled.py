"""Train batches in an order drawn anew each epoch, from a seed and the epoch's number alone.

So two trainings with one seed see the same samples, augmented alike, in the same batches, whatever
else differs between them; what a teacher says of an epoch can be kept and used again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

Batch = tuple[torch.Tensor, ...]
Take = Callable[[torch.Tensor, torch.Generator], Batch]


class Shuffled:
    """Batches of `size` of the samples below `num`; what is left over at an epoch's end is dropped.

    `take(indices, generator)` makes a batch of samples, and draws its augmentation from the
    generator. `lengths` [num], where given, brings samples of like length together.
    """

    def __init__(
        self, num: int, size: int, seed: int, take: Take, lengths: torch.Tensor | None = None
    ) -> None:
        self.num, self.size, self.seed = num, size, seed
        self._take, self._lengths = take, lengths
        self._epoch = 0

    def __len__(self) -> int:
        return self.num // self.size

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next pass is."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self._epoch)
        for indices in self._order(generator):
            yield self._take(indices, generator)

    def _order(self, generator: torch.Generator) -> list[torch.Tensor]:
        order = torch.randperm(self.num, generator=generator)[: len(self) * self.size]
        if self._lengths is None:
            return list(order.split(self.size))
        near = order.split(NEIGHBOURS * self.size)
        sorted_ = [part[self._lengths[part].argsort(stable=True)] for part in near]
        batches = [batch for part in sorted_ for batch in part.split(self.size)]
        mixed = torch.randperm(len(batches), generator=generator).tolist()
        return [batches[index] for index in mixed]


NEIGHBOURS = 20  # batches among which samples are sorted by length
