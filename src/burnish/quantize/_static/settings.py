"""The settings of static quantization that are more than a name: weights, biases, ranges.

They survive JSON: a settings dict read back from a history builds the same step again.

Left out: settings for single operators; `exclude` and `include` are the only ones by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, get_args

from burnish.errors import InvalidInput
from burnish.quantize._calibration.range import METHODS, Method
from burnish.quantize._graphs.setting import one_of

Rounding = Literal["nearest", "learned"]
HalfRange = Literal["none", "first", "all"]
BiasCorrection = Literal["fast", "sequential", "none"]
Ranges = Method | Literal["per layer"]


@dataclass(frozen=True)
class Weights:
    """How weights are rounded.

    Args:
        bits: 2 to 8. Below 8 the grid is coarser and its scale chosen by squared error; storage and
            kernels stay int8, so this simulates what no runtime here has.
        rounding: "nearest", or "learned" (AdaRound).
        half_range: keep integers within -63 to 63, so that no 16-bit sum of two products saturates
            on a CPU without VNNI: in "none", the "first" convolution or linear, or "all".

    Raises:
        InvalidInput: a value that is none of these.
    """

    bits: int = 8
    rounding: Rounding = "nearest"
    half_range: HalfRange = "none"

    def __post_init__(self) -> None:
        if type(self.bits) is not int or not 2 <= self.bits <= 8:
            raise InvalidInput(f"Weights(bits={self.bits!r}): a whole number from 2 to 8")
        one_of("Weights", "rounding", self.rounding, get_args(Rounding))
        one_of("Weights", "half_range", self.half_range, get_args(HalfRange))

    @classmethod
    def of(cls, value: Weights | Mapping[str, Any]) -> Weights:
        """Itself, or built from its settings as a dict."""
        if isinstance(value, cls):
            return value
        known = [field.name for field in fields(cls)]
        if not isinstance(value, Mapping) or not set(value) <= set(known):
            raise InvalidInput(f"weights={value!r}: a Weights, or a dict of {', '.join(known)}")
        return cls(**value)


NEAREST_8 = Weights()


class Settings(Protocol):
    """The settings of `QuantizeStatic`, as the deciding files read them."""

    @property
    def runtime(self) -> str: ...
    @property
    def ranges(self) -> Ranges: ...
    @property
    def bias_correction(self) -> BiasCorrection: ...
    @property
    def equalize(self) -> bool: ...
    @property
    def exclude(self) -> tuple[str, ...]: ...
    @property
    def weights(self) -> Weights: ...
    @property
    def include(self) -> tuple[str, ...]: ...


def check_settings(settings: Settings) -> None:
    """InvalidInput for a range method or a bias correction that is not known."""
    one_of("QuantizeStatic", "ranges", settings.ranges, (*METHODS, "per layer"))
    one_of("QuantizeStatic", "bias_correction", settings.bias_correction, get_args(BiasCorrection))
