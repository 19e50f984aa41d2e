"""Where zeros may stand: anywhere, N of every M inputs, or in whole blocks.

A pattern turns scores into a mask. "unstructured" takes the lowest scores wherever they are. "2:4"
keeps the two highest of every four weights along the input dimension, for each output and each
place in a window. "4x2" cuts the weight [outputs, inputs · window] into blocks of four outputs and
two inputs, and takes whole blocks by the sum of their scores.

A score of -inf is an entry that is masked already: it goes first.

Ties go as in torch.nn.utils.prune: what `topk` of torch takes first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from burnish.errors import InvalidInput

UNSTRUCTURED = "unstructured"


@dataclass(frozen=True)
class Pattern:
    """`keep` of every `of` inputs, or blocks of `rows` outputs and `columns` inputs; else free."""

    keep: int = 0
    of: int = 0
    rows: int = 1
    columns: int = 1

    @property
    def share(self) -> float | None:
        """The sparsity of an N:M pattern, which is its own; None for the others."""
        return 1 - self.keep / self.of if self.of else None

    def misfit(self, weight: torch.Tensor) -> str | None:
        """Why a weight has no such pattern; None where it has one."""
        outputs, inputs, all_inputs = weight.shape[0], weight.shape[1], weight[0].numel()
        if self.of and inputs % self.of:
            return f"its {inputs} inputs are no multiple of {self.of}"
        if outputs % self.rows:
            return f"its {outputs} outputs are no multiple of {self.rows}"
        if all_inputs % self.columns:
            return f"its {all_inputs} inputs are no multiple of {self.columns}"
        return None


def parse(pattern: str) -> Pattern:
    """A pattern as it is written. InvalidInput for anything else."""
    if pattern == UNSTRUCTURED:
        return Pattern()
    found = re.fullmatch(r"(\d+):(\d+)", pattern)
    if found and 0 < int(found[1]) < int(found[2]):
        return Pattern(keep=int(found[1]), of=int(found[2]))
    found = re.fullmatch(r"(\d+)x(\d+)", pattern)
    if found and int(found[1]) * int(found[2]) > 1:
        return Pattern(rows=int(found[1]), columns=int(found[2]))
    raise InvalidInput(
        f"pattern={pattern!r}: 'unstructured', N:M as '2:4' (two of every four inputs are kept), "
        "or blocks of outputs by inputs as '4x1'"
    )


def units(scores: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """One score for each thing that comes or goes: an entry, or a block."""
    if pattern.rows * pattern.columns == 1:
        return scores.flatten()
    outputs, inputs = scores.shape[0], scores[0].numel()
    blocks = scores.reshape(
        outputs // pattern.rows, pattern.rows, inputs // pattern.columns, pattern.columns
    )
    gone = blocks == -torch.inf
    whole = gone.all(3).all(1)
    # A block of which some is masked already counts what is left of it.
    return blocks.masked_fill(gone, 0.0).sum((1, 3)).masked_fill(whole, -torch.inf).flatten()


def mask_from_units(kept: torch.Tensor, like: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """The mask of a weight from what is kept of its units."""
    if pattern.rows * pattern.columns == 1:
        return kept.reshape(like.shape)
    outputs, inputs = like.shape[0], like[0].numel()
    blocks = kept.reshape(outputs // pattern.rows, 1, inputs // pattern.columns, 1)
    whole = blocks.expand(-1, pattern.rows, -1, pattern.columns)
    return whole.reshape(like.shape)


def n_of_m(scores: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """The mask that keeps the highest `keep` of every `of` inputs."""
    moved = scores.movedim(1, -1)
    groups = moved.reshape(*moved.shape[:-1], -1, pattern.of)
    highest = groups.topk(pattern.keep, dim=-1).indices
    kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, highest, True)
    return kept.reshape(moved.shape).movedim(-1, 1)


def lowest(scores: torch.Tensor, number: int) -> torch.Tensor:
    """Which of some scores stay once the lowest `number` are gone."""
    kept = torch.ones(scores.numel(), dtype=torch.bool)
    if number:
        kept[scores.topk(number, largest=False).indices] = False
    return kept
