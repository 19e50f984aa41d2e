"""Rounding float32 to formats with fewer bits: half to even, and what to do beyond the largest.

float8 follows the two tables of ONNX's Cast: saturating, everything beyond the largest finite
number, infinities included, becomes it; not saturating, it becomes infinity where the format has
one (e5m2) and NaN where it has none. NaN stays NaN. torch's conversions round the same, but its
e4m3fn saturates always (torch 2.13), so that both cases are written out here.

float4 e2m1 has the magnitudes 0 0.5 1 1.5 2 3 4 6, and neither infinity nor NaN: what is beyond
becomes 6 with its sign, and NaN becomes 6, as ONNX's page on float4 says. torch has a name for two
of them in a byte and no conversion.

bfloat16 and float16 are plain IEEE conversions, infinity beyond the largest.

Left out: stochastic rounding.
"""

from __future__ import annotations

import torch

from burnish.quantize._tensors.format import Format

_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_SIGN = 8
# Halfway from 448 to 480, whose code is e4m3fn's NaN; the tie itself rounds to 448, the even one.
_E4M3FN_EDGE = 464.0


def round_float(x: torch.Tensor, form: Format, saturate: bool) -> torch.Tensor:
    """float32 to a float format's storage dtype (float4: its codes 0..15 in uint8)."""
    if form.name == "float4_e2m1":
        return _float4_codes(x)
    if form.bits == 8 and saturate:
        x = x.clamp(form.low, form.high)
    elif form.name == "float8_e4m3fn":
        x = x.masked_fill(x.abs() > _E4M3FN_EDGE, torch.nan)
    return x.to(form.storage)


def float4_values(codes: torch.Tensor) -> torch.Tensor:
    """Codes 0..15 to float32. Code 8 is negative zero."""
    table = [*_MAGNITUDES, *(-m for m in _MAGNITUDES)]
    return torch.tensor(table, device=codes.device)[codes.int()]


def _float4_codes(x: torch.Tensor) -> torch.Tensor:
    size = x.abs().nan_to_num_(nan=_MAGNITUDES[-1])
    # Four steps of 0.5 to 2, two of 1 to 4, one of 2 to 6: even multiples have even codes in each.
    code = (size.clamp(0, 2) * 2).round_()
    code += (size.clamp(2, 4) - 2).round_()
    code += ((size.clamp(4, 6) - 4) / 2).round_()
    negative = (x.view(torch.int32) < 0).logical_and_(x == x)
    return code.to(torch.uint8).add_(negative.to(torch.uint8), alpha=_SIGN)
