"""A setting that may change while training goes on: a number, or a `Schedule` of numbers.

Temperatures and the weights of losses take either, and are checked when the signal is made: a
number as it is, a schedule at both ends.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import TypeAlias

from burnish.errors import InvalidInput
from burnish.train import Moment, Schedule

Setting: TypeAlias = float | Schedule


def at(value: Setting, moment: Moment) -> float:
    """The number a setting stands for at a moment of the training."""
    return value.at(moment.progress) if isinstance(value, Schedule) else value


def check_number(owner: str, name: str, value: object, *, zero: bool = False) -> None:
    """InvalidInput unless a finite number above 0 (or 0 itself, with `zero`)."""
    if type(value) is not bool and isinstance(value, Real):
        number = float(value)
        if math.isfinite(number) and (number > 0 or (zero and number == 0)):
            return
    least = "0 or more" if zero else "above 0"
    raise InvalidInput(f"{owner}({name}={value!r}): a finite number {least}")


def check_setting(owner: str, name: str, value: object, *, zero: bool = False) -> None:
    """The same of a number, and of what a `Schedule` starts and ends with."""
    if not isinstance(value, Schedule):
        check_number(owner, name, value, zero=zero)
        return
    for end in (0.0, 1.0):
        check_number(owner, f"{name} at progress {end:g}", value.at(end), zero=zero)
