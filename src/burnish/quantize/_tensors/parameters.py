"""Checking a scale and a zero point against a spec: what is refused, and the form they are kept in.

A scale must be a positive finite number. ONNX does not say so, but a scale of zero makes every
element 0/0 or infinite and dequantizes to zeros, an infinite one to NaN; both come of a range that
was chosen wrong, and are better refused where they appear.

Left out: zero points of float formats, which ONNX's formula would allow and its float8 text,
its reference and its kernels each treat in another way. A zero one is taken as none.
"""

from __future__ import annotations

import torch

from burnish.errors import InvalidInput
from burnish.quantize._tensors.spec import QSpec

SCALES = (torch.float32, torch.float16, torch.bfloat16)


def as_parameters(
    scale: torch.Tensor | float,
    zero_point: torch.Tensor | int | None,
    spec: QSpec,
    shape: tuple[int, ...],
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scale and zero point as tensors of the spec's shape, on a device.

    A number becomes a float32 scale; no zero point, zeros. A tensor of one element does for one
    scale whatever its shape.

    Raises:
        InvalidInput: dtype, shape or value.
    """
    wanted = spec.scale_shape(shape)
    scales = torch.as_tensor(scale, dtype=None if _is_tensor(scale) else torch.float32)
    scales = _shaped("scale", scales.detach().to(device), wanted, spec, shape)
    if scales.dtype not in SCALES:
        raise InvalidInput(
            f"the scale is {scales.dtype}: one of {', '.join(map(str, SCALES))}; convert it first"
        )
    scales = scales.clone()  # the caller may go on to change theirs
    check_scale(scales, "")
    zeros = torch.zeros(wanted, dtype=torch.int64) if zero_point is None else zero_point
    zeros = torch.as_tensor(zeros).detach().to(device)
    zeros = _shaped("zero point", zeros, wanted, spec, shape)
    if not spec.format.is_integer:
        if bool((zeros.float() != 0).any()):
            raise InvalidInput(f"{spec.dtype} is a float format: it has no zero point but 0")
        return scales, None
    return scales, _as_integers(zeros, spec)


def check_scale(scale: torch.Tensor, where: str) -> None:
    """InvalidInput for a scale that is not positive and finite; `where` ends the sentence."""
    bad = ~(torch.isfinite(scale) & (scale > 0))
    if bool(bad.any()):
        index = bad.nonzero()[0].tolist()
        what = f"at {index} of {list(scale.shape)} " if index else ""
        raise InvalidInput(
            f"the scale {what}is {float(scale[tuple(index)])}{where}: a scale is positive and "
            f"finite ({int(bad.sum())} of {scale.numel()} are not); choose_scale gives such"
        )


def _as_integers(zeros: torch.Tensor, spec: QSpec) -> torch.Tensor:
    form = spec.format
    if zeros.is_floating_point() or zeros.dtype == torch.bool:
        raise InvalidInput(f"the zero point is {zeros.dtype}: {form.name} wants integers")
    wide = zeros.to(torch.int64)
    if bool(((wide < form.low) | (wide > form.high)).any()):
        raise InvalidInput(
            f"zero points from {wide.min()} to {wide.max()}: {form.name} holds {form.low:.0f} to "
            f"{form.high:.0f}"
        )
    if spec.symmetric and bool((wide != form.middle).any()):
        raise InvalidInput(
            f"QSpec({form.name!r}, symmetric=True) has the zero point {form.middle}, and another "
            "was given; set symmetric=False"
        )
    return wide.to(form.storage)


def _shaped(
    name: str, value: torch.Tensor, wanted: tuple[int, ...], spec: QSpec, shape: tuple[int, ...]
) -> torch.Tensor:
    if value.numel() == 1 and not wanted:
        return value.reshape(())
    if tuple(value.shape) == wanted:
        return value
    blocks = "" if spec.block_size is None else f" of {spec.block_size}"
    axis = "" if spec.granularity == "tensor" else f"{blocks} along axis {spec.axis}"
    raise InvalidInput(
        f"a tensor of shape {list(shape)} quantized per {spec.granularity}{axis} has a {name} of "
        f"shape {list(wanted)}, not {list(value.shape)}"
    )


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)
