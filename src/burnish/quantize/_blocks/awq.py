"""AWQ: input channels that activations make important get finer steps, by scaling them up.

    Q(W diag(s)) diag(s)⁻¹ x  instead of  Q(W) x,      s_j = mean|x_j|^α, the mean of log s zero

A weight multiplied by s before it is rounded errs 1/s as much afterwards, as long as its block's
step stays what it was. Which α in [0, 1] is best the error of the layer's output says, exactly,
since with the second moment H of what it reads

    E|Ŵ x − W x|²  =  tr(Δ H Δᵀ) / rows,      Δ = Q(W diag(s)) diag(s)⁻¹ − W

After Lin, Tang, Tang, Yang, Chen, Wang, Xiao, Dang, Gan and Han, 2023, *AWQ: activation-aware
weight quantization for LLM compression and acceleration*: the grid of α, the mean magnitude, α
alone searched. There the error is taken on kept rows of one block of the network.

Left out: their second search, which clips the range of each block. Rounding codes by H as well
(that is GPTQ).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from burnish.errors import InvalidInput
from burnish.quantize._blocks.round import BlockSpec, dequantize_rounded, round_nearest

ALPHAS = tuple(step / 20 for step in range(1, 21))
LARGEST = 1e4


@dataclass(frozen=True, eq=False)
class Scaling:
    """Factors of the input channels [in]; the squared output error with and without them.

    Without gain `alpha` is 0 and the factors are 1.
    """

    factor: torch.Tensor
    alpha: float
    error: float
    error_off: float


@torch.no_grad()
def awq_scales(
    weight: torch.Tensor,
    spec: BlockSpec,
    second_moment: torch.Tensor,
    magnitude: torch.Tensor,
) -> Scaling:
    """The factors of the input channels with which a matrix rounds best.

    Args:
        weight: [out, in]; of layers that read one value, one under the other.
        spec: bits and size of the blocks.
        second_moment: [in, in], the sum or the mean of x xᵀ over what they read.
        magnitude: [in], the mean of |x|. Channels that are to have one factor have one magnitude.

    Raises:
        InvalidInput: shapes that do not fit.
    """
    weight = weight.detach().float()
    width = weight.shape[1]
    if tuple(second_moment.shape) != (width, width) or tuple(magnitude.shape) != (width,):
        raise InvalidInput(
            f"awq: the layer reads {width} inputs; the second moment is "
            f"{list(second_moment.shape)} and the magnitude {list(magnitude.shape)}: "
            f"[{width}, {width}] and [{width}] are wanted"
        )
    moment = second_moment.float()
    off = _error(weight, torch.ones(width), spec, moment)
    best = Scaling(torch.ones(width), 0.0, off, off)
    for alpha in ALPHAS:
        factor = factors(magnitude, alpha)
        error = _error(weight, factor, spec, moment)
        if error < best.error:
            best = Scaling(factor, alpha, error, off)
    return best


def factors(magnitude: torch.Tensor, alpha: float) -> torch.Tensor:
    """mean|x|^α for each channel, float32 [in], with a geometric mean of 1.

    A channel that was always zero keeps 1.
    """
    alive = magnitude > 0
    if not bool(alive.any()):
        return torch.ones_like(magnitude, dtype=torch.float32)
    logs = magnitude.double().clamp_min(1e-30).log()
    centred = (logs - logs[alive].mean()) * alpha
    found = centred.exp().clamp(1 / LARGEST, LARGEST)
    return torch.where(alive, found, 1.0).float()


def _error(
    weight: torch.Tensor, factor: torch.Tensor, spec: BlockSpec, moment: torch.Tensor
) -> float:
    rounded = dequantize_rounded(round_nearest(weight * factor, spec), spec)
    off = rounded.div_(factor).sub_(weight)
    return float(((off @ moment) * off).sum(dtype=torch.float64))
