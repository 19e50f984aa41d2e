"""Which numbers a training computes with: autocast, and the scaling that float16 needs.

The weights stay in float32. Inside autocast, matrix products and convolutions run in the small
type, and what is delicate (sums, normalisation, losses) in float32: torch's own lists say which
(Micikevicius et al., 2018). bfloat16 has float32's range and needs nothing else. float16 has not:
small gradients vanish. So the loss is multiplied by a scale before the backward pass and the
gradients divided by it afterwards; where one overflows, that step is skipped and the scale halved,
and after `growth_interval` steps without an overflow it is doubled.

Autocast and the scaler are torch's, on CPU and CUDA alike. accelerate, which does devices and
processes here, offers both as well, and is not used for them: on a CPU its "fp16" is silently
float32 (1.15), and its precision is fixed for the whole process by whoever asks first.

Left out: training with weights that are themselves 16-bit, and 8-bit floats. Whether bfloat16 is
any faster is the machine's business: without instructions for it, it is much slower.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.amp import GradScaler

from burnish.errors import InvalidInput, Unsupported

# What torch and oneDNN say of an LSTM in float16 on a CPU, and of operators without such a kernel.
_NO_KERNEL = ("could not create a primitive", "not implemented for")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """What a training computes in.

    Args:
        dtype: "float32", "bfloat16" or "float16".
        initial_scale: of the loss in float16; the first steps are skipped where it is too high.
        growth_interval: steps without an overflow after which the scale is doubled, in float16.

    Raises:
        InvalidInput: another dtype, or a setting out of range.
    """

    dtype: str = "float32"
    initial_scale: float = 65536.0
    growth_interval: int = 2000

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise InvalidInput(f"Precision({self.dtype!r}): one of {', '.join(sorted(_DTYPES))}")
        if not (self.initial_scale >= 1 and math.isfinite(self.initial_scale)):
            raise InvalidInput(
                f"Precision(initial_scale={self.initial_scale}): a finite number, 1 or more"
            )
        if self.growth_interval < 1:
            raise InvalidInput(f"Precision(growth_interval={self.growth_interval}): at least 1")

    @contextmanager
    def autocast(self, device: torch.device) -> Iterator[None]:
        """The context in which the model and its loss are computed.

        Raises:
            Unsupported: the device has no kernel of this type for one of the model's layers.
        """
        small = self.dtype != "float32"
        try:
            with torch.autocast(device.type, dtype=_DTYPES[self.dtype], enabled=small):
                yield
        except RuntimeError as error:
            if small and any(words in str(error) for words in _NO_KERNEL):
                raise Unsupported(
                    f"this {device.type} cannot compute a layer of the model in {self.dtype} "
                    f"({error}): train in float32, or in bfloat16 where you took float16"
                ) from error
            raise

    def scaler(self, device: torch.device) -> GradScaler:
        """The scaler of the loss; for other types than float16 it does nothing."""
        return GradScaler(
            device.type,
            init_scale=self.initial_scale,
            growth_interval=self.growth_interval,
            enabled=self.dtype == "float16",
        )


def as_precision(value: Precision | str | Mapping[str, Any]) -> Precision:
    """A precision from itself, from its dtype, or from the settings a history holds."""
    if isinstance(value, Mapping):
        return Precision(**value)
    if isinstance(value, str):
        return Precision(value)
    if not isinstance(value, Precision):
        raise InvalidInput(
            f"precision is a {type(value).__name__}: one of {', '.join(sorted(_DTYPES))}, or a "
            "burnish.train.Precision"
        )
    return value
