"""SparseGPT: weights removed one input column after another, the rest making up for each.

The squared error of a layer's outputs on what it reads, X [rows, in], is that of its weights
weighed with H = XᵀX. With H⁻¹ = UᵀU, U upper triangular, removing w_j costs (w_j / U_jj)² once the
weights behind it have made good what they can, and for that they change by

    w_k ← w_k − (w_j / U_jj) U_jk    for k > j

which is the optimal brain surgeon's update (Hassibi and Stork, 1993) among the columns not passed
yet. What goes is chosen `BLOCK` columns at a time, from the weights as they are when their turn
comes: the cheapest of all outputs and columns of the block together; for N:M in every M columns;
for blocks by the sum of the costs of a block. Columns are updated at once inside a block and behind
it in one product. All in float64.

To H's diagonal 0.01 of its mean is added. The outputs of a convolution's group have a moment of
their own. N:M compares neighbouring channels at one place of the window, so there the columns are
ordered by place first.

After Frantar and Alistarh, 2023, *SparseGPT: massive language models can be accurately pruned in
one-shot*. Departure: an input that was always zero keeps its place in the damped moment and its
weights go first; the original sets all of them to zero, whatever sparsity was asked for.

Left out: rounding in the same pass; an order of columns by their power.
"""

from __future__ import annotations

import torch

from burnish.graph import inverse_factor
from burnish.prune._pattern import GONE, Pattern, lowest, mask_from_units, n_of_m, units

DAMPING = 0.01
BLOCK = 128


@torch.no_grad()
def prune_sparsegpt(
    weight: torch.Tensor,
    moments: torch.Tensor,
    pattern: Pattern,
    sparsity: float | None,
    alive: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mask of a weight, and the weight with what stays updated.

    Args:
        weight: [out, in / groups, ...window].
        moments: [groups, in / groups * window, the same], of what each group reads: the sum or the
            mean of x xᵀ, x in the order of the weight's flattened inputs; not all zero.
        pattern: where zeros may stand.
        sparsity: the share of zeros; N:M has its own.
        alive: where an earlier mask has no zeros, bool, as the weight; None: there is none.

    Returns:
        The mask, bool, and the weight with zeros where the mask is False; both as the weight.

    Raises:
        InvalidInput: moments that are of no data.
    """
    order = _columns(weight, pattern)
    back = order.argsort()
    if alive is None:
        alive = torch.ones(weight.shape, dtype=torch.bool)
    rest = weight.detach().double().cpu().flatten(1)[:, order]
    factor = inverse_factor(_livened(moments)[:, order][:, :, order], DAMPING)
    kept = _column_by_column(rest, factor, pattern, sparsity, alive.flatten(1)[:, order])
    updated = rest[:, back].reshape(weight.shape).to(weight)
    return kept[:, back].reshape(weight.shape), updated


def _columns(weight: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    """The order of the flattened inputs: for N:M neighbouring channels come together."""
    inputs, window = weight.shape[1], weight[0, 0].numel()
    numbers = torch.arange(inputs * window)
    return numbers.reshape(inputs, window).t().flatten() if pattern.of else numbers


def _livened(moments: torch.Tensor) -> torch.Tensor:
    """With a little on the diagonals of groups that read nothing but zeros."""
    means = moments.diagonal(dim1=-2, dim2=-1).mean(-1)
    dead = torch.where(means > 0, 0.0, DAMPING * means.mean())
    return moments + dead[:, None, None] * torch.eye(moments.shape[-1], dtype=moments.dtype)


def _column_by_column(
    rest: torch.Tensor,
    factor: torch.Tensor,
    pattern: Pattern,
    sparsity: float | None,
    alive: torch.Tensor,
) -> torch.Tensor:
    """What stays, [out, columns]; `rest` [out, columns] becomes the updated weight."""
    num_out, width = rest.shape
    unit = pattern.of or pattern.columns
    block = max(BLOCK // unit, 1) * unit
    # A group's outputs lie together: the same numbers as [groups, out / groups, columns].
    each = rest.reshape(len(factor), -1, width)
    kept = torch.ones(num_out, width, dtype=torch.bool)
    for start in range(0, width, block):
        stop = min(start + block, width)
        if not pattern.of:
            costs = _costs(each[:, :, start:stop], factor, start, alive)
            kept[:, start:stop] = _cheapest_gone(costs, pattern, sparsity or 0.0, start)
        errors = torch.zeros(*each.shape[:2], stop - start, dtype=each.dtype)
        for at in range(start, stop):
            if pattern.of and at % pattern.of == 0:
                group = slice(at, at + pattern.of)
                kept[:, group] = n_of_m(_costs(each[:, :, group], factor, at, alive), pattern)
            kept[:, at] &= alive[:, at]
            stays = kept[:, at].reshape(each.shape[:2])
            now = each[:, :, at]
            error = torch.where(stays, 0.0, now) / factor[:, None, at, at]
            errors[:, :, at - start] = error
            each[:, :, at] = torch.where(stays, now, 0.0)
            ahead = factor[:, None, at, at + 1 : stop]
            each[:, :, at + 1 : stop] -= error.unsqueeze(-1) * ahead
        each[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    return kept


def _costs(
    each: torch.Tensor, factor: torch.Tensor, start: int, alive: torch.Tensor
) -> torch.Tensor:
    """What removing each of some columns' weights costs, [out, columns]; -inf for what is gone."""
    stop = start + each.shape[-1]
    diagonal = factor.diagonal(dim1=-2, dim2=-1)[:, None, start:stop]
    costs = (each / diagonal).square().reshape(-1, stop - start)
    return torch.where(alive[:, start:stop], costs, GONE)


def _cheapest_gone(
    costs: torch.Tensor, pattern: Pattern, sparsity: float, start: int
) -> torch.Tensor:
    """What stays of the columns from `start` on once their share is gone.

    Shares are counted from the first column of the weight, so that rounding does not add up.
    """
    num_out, width = costs.shape
    size = pattern.rows * pattern.columns
    before, after = (round(sparsity * num_out * at / size) for at in (start, start + width))
    return mask_from_units(lowest(units(costs, pattern), after - before), costs, pattern)
