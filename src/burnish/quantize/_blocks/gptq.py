"""GPTQ: weights rounded one input column after another, the rest making up for each error.

The squared error of a layer's outputs on what it reads, X [rows, in], is that of its weights
weighed with H = XᵀX. Columns are rounded in turn. What column j errs is made good, as far as that
goes, by the columns not rounded yet:

    e_j = (w_j − ŵ_j) / U_jj,    w_k ← w_k − e_j U_jk for k > j,    H⁻¹ = UᵀU, U upper triangular

A block's scale is chosen when its turn comes, from its weights as they are by then. Columns are
updated at once within `LAZY` of them and behind those in one product.

To H's diagonal `damping` times its mean is added. An input that was always zero couples with
nothing: its column is rounded to nearest (the original sets it to zero, which would lose what the
calibration data did not show).

With `order`, inputs of much power come first, while there are columns left to make good their
errors. The blocks of the file have to be of neighbouring columns, so that whole blocks are ordered,
by the sum of their diagonal, and columns inside each.

After Frantar, Ashkboos, Hoefler and Alistarh, 2022, *GPTQ: accurate post-training quantization for
generative pre-trained transformers*. U is computed in float64 (`graph.inverse_factor`).

Left out: columns in any order, whose blocks the runtimes could not store.
"""

from __future__ import annotations

import torch

from burnish.errors import InvalidInput
from burnish.graph import inverse_factor
from burnish.quantize._blocks.round import BlockSpec, Rounded, block_scales, round_nearest

DAMPING = 0.01
LAZY = 128  # what block sizes divide or are multiples of


@torch.no_grad()
def round_gptq(
    weight: torch.Tensor,
    spec: BlockSpec,
    second_moment: torch.Tensor,
    *,
    damping: float = DAMPING,
    order: bool = True,
) -> Rounded:
    """Round a matrix so that its products with what it reads change least.

    Args:
        weight: [out, in].
        spec: bits and size of the blocks.
        second_moment: [in, in], the sum or the mean of x xᵀ over what the layer reads.
        damping: times the mean of its diagonal is added to the diagonal; above 0.
        order: blocks and columns of much power first.

    Returns:
        Codes, scales and zero points, as `round_nearest` gives them; exactly those where the second
        moment is all zero.

    Raises:
        InvalidInput: a second moment of another shape, not finite, or not that of any data.
    """
    weight = weight.detach().float()
    width = weight.shape[1]
    _check(width, second_moment, damping)
    diagonal = second_moment.diagonal()
    if not bool(diagonal.any()):
        return round_nearest(weight, spec)
    turns = _turns(diagonal, spec.block_size) if order else torch.arange(width)
    factor = inverse_factor(second_moment[turns][:, turns], damping).float()
    codes, scales, zeros = _column_by_column(weight.t()[turns].contiguous(), factor, spec)
    places = turns[:: spec.block_size] // spec.block_size
    found = codes.new_empty(codes.shape).index_copy_(0, turns, codes).t().contiguous()
    scale = scales.new_empty(scales.shape).index_copy_(0, places, scales).t().contiguous()
    if spec.symmetric:
        return found, scale, None
    zero = zeros.new_empty(zeros.shape).index_copy_(0, places, zeros).t().to(torch.uint8)
    return found, scale, zero.contiguous()


def _column_by_column(
    rest: torch.Tensor, factor: torch.Tensor, spec: BlockSpec
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes [in, out], scales and zero points [blocks, out] of a weight [in, out]; it is used up.

    A column of the weight is a row here, so that it lies together.
    """
    width, num_out = rest.shape
    codes = torch.empty(width, num_out, dtype=torch.uint8)
    scales = torch.empty(spec.num_blocks(width), num_out)
    zeros = torch.full_like(scales, spec.middle)
    for start in range(0, width, LAZY):
        stop = min(start + LAZY, width)
        errors = torch.empty(stop - start, num_out)
        for at in range(start, stop):
            block = at // spec.block_size
            if at % spec.block_size == 0:
                scale, zero = block_scales(rest[at : at + spec.block_size].t(), spec)
                scales[block] = scale[:, 0]
                if zero is not None:
                    zeros[block] = zero[:, 0].float()
            now, scale, zero = rest[at], scales[block], zeros[block]
            code = (now / scale).round_().add_(zero).clamp_(0, spec.high)
            codes[at] = code.to(torch.uint8)
            error = now.sub_(code.sub_(zero).mul_(scale)).div_(factor[at, at])
            errors[at - start] = error
            rest[at + 1 : stop].addr_(factor[at, at + 1 : stop], error, alpha=-1)
        rest[stop:].addmm_(factor[start:stop, stop:].t(), errors, alpha=-1)
    return codes, scales, zeros


def _turns(diagonal: torch.Tensor, block_size: int) -> torch.Tensor:
    """The columns in the order of their turns; a last block that is shorter stays the last."""
    whole = len(diagonal) // block_size
    blocks = diagonal[: whole * block_size].reshape(whole, block_size)
    inside = blocks.argsort(dim=1, descending=True, stable=True)
    turns = inside + torch.arange(whole).unsqueeze(1) * block_size
    turns = turns[blocks.sum(1).argsort(descending=True, stable=True)].reshape(-1)
    tail = diagonal[whole * block_size :].argsort(descending=True, stable=True)
    return torch.cat([turns, tail + whole * block_size])


def _check(width: int, second_moment: torch.Tensor, damping: float) -> None:
    if tuple(second_moment.shape) != (width, width):
        raise InvalidInput(
            f"gptq: the layer reads {width} inputs and the second moment is "
            f"{list(second_moment.shape)}: [{width}, {width}] is wanted"
        )
    if not bool(torch.isfinite(second_moment).all()):
        raise InvalidInput("gptq: the second moment holds infinities or NaN")
    if not damping > 0:
        raise InvalidInput(f"gptq: damping={damping!r}: above 0, {DAMPING} for one")
