"""What is done beside plain descent, as one value: each off unless asked for.

They belong together because nothing else about a training depends on them, and a step that trains
can carry them as one setting.

Left out: stochastic weight averaging (the moving average serves), cutmix and random erasing (data
augmentation is the loader's business), and patience counted in steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from burnish.errors import InvalidInput


@dataclass(frozen=True)
class Tricks:
    """Beside plain descent.

    Args:
        accumulate: batches whose gradients are averaged for one optimizer step.
        clip: the largest norm of all gradients together; larger ones are scaled down to it.
        ema: decay of a moving average of the weights, which is then what `fit` gives back.
        label_smoothing: the share of each target spread evenly over the classes (Szegedy et al.,
            2016). Needs class indices and a loss that takes probabilities, as cross-entropy does.
        mixup: alpha of the Beta distribution by which pairs of samples and their targets are mixed
            (Zhang et al., 2018); the same needs, and inputs that are floating.
        patience: epochs without a better score on the validation data after which training stops;
            `fit` then gives back the best epoch's weights.

        keep_zeros: a weight of two dimensions or more that is zero when training starts stays
            zero, so that masks survive it.

    Raises:
        InvalidInput: a setting out of range.
    """

    accumulate: int = 1
    clip: float | None = None
    ema: float | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    patience: int | None = None
    keep_zeros: bool = False

    def __post_init__(self) -> None:
        for name in ("accumulate", "patience"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InvalidInput(f"Tricks({name}={value}): a whole number, at least 1")
        if self.clip is not None and not (self.clip > 0 and math.isfinite(self.clip)):
            raise InvalidInput(f"Tricks(clip={self.clip}): a finite number above 0, or None")
        if self.ema is not None and not 0 < self.ema < 1:
            raise InvalidInput(f"Tricks(ema={self.ema}): between 0 and 1, as 0.999, or None")
        if not 0 <= self.label_smoothing < 1:
            raise InvalidInput(
                f"Tricks(label_smoothing={self.label_smoothing}): 0 or more and below 1"
            )
        if not (self.mixup >= 0 and math.isfinite(self.mixup)):
            raise InvalidInput(f"Tricks(mixup={self.mixup}): a finite number, 0 or more")


def as_tricks(value: Tricks | Mapping[str, Any] | None) -> Tricks:
    """Tricks from themselves, or from the settings a history holds; None is none of them."""
    if value is None:
        return Tricks()
    if isinstance(value, Mapping):
        return Tricks(**value)
    if not isinstance(value, Tricks):
        raise InvalidInput(
            f"tricks is a {type(value).__name__}: give a burnish.train.Tricks, as Tricks(clip=1.0)"
        )
    return value
