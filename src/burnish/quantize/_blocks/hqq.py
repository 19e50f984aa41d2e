"""HQQ: a block's scale and zero point fitted to its weights by half-quadratic splitting; no data.

Rounding to nearest covers the range of a block, so that its largest weight sets the step of all.
Here the step and the zero point are fitted in a norm with p < 1, which lets a few weights err much
so that most err little:

    minimise over s, z    Σ |w − s (q − z)|^p,    q = clip(round(w / s) + z)

The error gets a variable of its own, e, and the two are solved in turn:

    e    ← shrink(w − s (q − z)),   shrink(x) = sign(x) max(|x| − |x|^(p − 1) / β, 0)
    z, s ← least squares of s (q − z) against w − e
    β    ← κ β

Of the s and z a block goes through it keeps those with the least mean of |w − ŵ|; it starts from
those of rounding to nearest, so that it never ends with a larger mean than that.

After Badri and Shaji, 2023, *Half-quadratic quantization of large machine learning models*, with
three departures. Zero points stay integers, as both runtimes pack them, and the scale is fitted
along: with integer zero points alone there is little to fit. Errors are measured in steps, so that
β means the same for all weights (a model times two gives scales times two). Each block keeps its
best of all steps, where the original stops all blocks of a matrix as soon as their common mean of
|w − ŵ| rises. (Keeping by the norm itself, or by squares, was worse for the network.) Of the 20
steps there, 10 are taken: ten more changed the squared error by less than a thousandth.

Left out: other norms than p = 0.7; float zero points, which onnxruntime's packed kernel refuses.
"""

from __future__ import annotations

import torch

from burnish.errors import InvalidInput
from burnish.quantize._blocks.round import BlockSpec, Rounded, block_scales, round_to

P = 0.7
BETA = 10.0
KAPPA = 1.01
STEPS = 10
_AT_ONCE = 1 << 16  # weights: what a step touches stays in cache
_TINY = 1e-8


@torch.no_grad()
def round_hqq(weight: torch.Tensor, spec: BlockSpec) -> Rounded:
    """Round a matrix by half-quadratic quantization.

    Args:
        weight: [out, in].
        spec: bits and size of the blocks.

    Returns:
        Codes, scales and zero points, as `round_nearest` gives them.

    Raises:
        InvalidInput: a symmetric spec, which has no zero points to fit.
    """
    if spec.symmetric:
        raise InvalidInput(
            "hqq fits zero points, and symmetric=True has none: take symmetric=False, or the "
            'method "nearest" or "gptq"'
        )
    weight = weight.detach().float()
    scale, zero = block_scales(weight, spec)
    assert zero is not None
    whole = weight.shape[1] // spec.block_size
    for columns, blocks in ((slice(0, whole), whole), (slice(whole, None), 1)):
        part = weight[:, columns.start * spec.block_size :][:, : blocks * spec.block_size]
        if part.numel():
            fitted = _fit_all(part, scale[:, columns], zero[:, columns], spec)
            scale[:, columns], zero[:, columns] = fitted
    return round_to(weight, scale, zero, spec), scale, zero


def _fit_all(
    weight: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, spec: BlockSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit all blocks of a matrix [out, in] that has whole ones only, or one shorter."""
    blocks = weight.reshape(scale.numel(), -1)
    scales, zeros = scale.reshape(-1), zero.reshape(-1)
    many = max(1, _AT_ONCE // blocks.shape[1])
    for start in range(0, len(blocks), many):
        part = slice(start, start + many)
        scales[part], zeros[part] = fit(blocks[part], scales[part], zeros[part], spec)
    return scales.reshape(scale.shape), zeros.reshape(zero.shape)


def fit(
    blocks: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, spec: BlockSpec
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fit the scale [n] and the zero point [n] of each of some blocks [n, weights]."""
    best_scale, best_zero = scale, zero
    least = torch.full_like(scale, float("inf"))
    scale, zeros, beta = scale.unsqueeze(1), zero.float().unsqueeze(1), BETA
    for _ in range(STEPS):
        steps = blocks / scale
        codes = steps.round().add_(zeros).clamp_(0, spec.high)
        error = (steps - codes).add_(zeros)
        size = error.abs()
        loss = size.sum(1) * scale.squeeze(1)
        better = loss < least
        least = torch.where(better, loss, least)
        best_scale = torch.where(better, scale.squeeze(1), best_scale)
        best_zero = torch.where(better, zeros.squeeze(1).to(zero.dtype), best_zero)
        # What is erred beyond the threshold is taken off the target of the fit.
        threshold = size.clamp_min(_TINY).pow_(P - 1).div_(beta)
        kept = size.sub_(threshold).clamp_min_(0).copysign_(error)
        target = steps.sub_(kept)
        zeros = (codes - target).mean(1, True).round_().clamp_(0, spec.high)
        centred = codes.sub_(zeros)
        ratio = (centred * target).sum(1, True) / centred.square().sum(1, True)
        # All codes on the zero point (0 / 0), or a step turned round: the scale stays.
        scale = scale * torch.where(ratio > 0, ratio, 1.0)
        beta *= KAPPA
    return best_scale, best_zero
