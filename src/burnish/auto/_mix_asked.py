"""What a call of `mix` asked for, checked before any work: the limit, the ladders, the folder.

A *ladder* is a runtime with one type for what is not quantized. OpenVINO has two, float32 and
bfloat16, since its execution type is one for a whole file; onnxruntime has no bfloat16 kernels for
convolutions and products, so it has one.

Left out: runtimes without int8 kernels that `quantize` knows how to feed.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from torch import nn

from burnish.auto._mix_result import Limit
from burnish.errors import InvalidInput, Unsupported
from burnish.goal import Goal
from burnish.hardware import detect
from burnish.runtimes import available

RUNTIMES = ("onnxruntime", "openvino")
FLOATS = ("float32", "bfloat16")
BFLOAT16 = "openvino"


def limit_of(latency_ms: float | None, size_mb: float | None, error: float | None) -> Limit:
    """The one limit. InvalidInput for none, several, or one that is no number above 0."""
    given = {"latency_ms": latency_ms, "size_mb": size_mb, "error": error}
    named = {of: most for of, most in given.items() if most is not None}
    if len(named) != 1:
        raise InvalidInput(
            f"mix() takes one limit, and was given {', '.join(named) or 'none'}: latency_ms=, "
            "size_mb= or error="
        )
    of, most = next(iter(named.items()))
    number = isinstance(most, int | float) and not isinstance(most, bool)
    if not number or not (math.isfinite(most) and most > 0):
        raise InvalidInput(f"mix({of}={most!r}): a finite number above 0")
    return Limit(of, float(most))


def check_asked(model: nn.Module, goal: Goal) -> None:
    """InvalidInput for what is no model, no goal, or a goal without the data needed."""
    if not isinstance(model, nn.Module):
        raise InvalidInput(f"the model is a {type(model).__name__}, not a torch.nn.Module")
    if not isinstance(goal, Goal):
        raise InvalidInput(f"mix() needs a Goal, not a {type(goal).__name__}: Goal(task)")
    for split in ("calibration", "validation"):
        goal.task.data(split)


def ladders_wanted(goal: Goal, asked: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    """(runtime, precisions) of each ladder. Unsupported where a format can be held nowhere."""
    named = [name for name in goal.target.runtimes if name in RUNTIMES]
    if goal.target.runtimes and not named:
        raise Unsupported(
            f"mixed precision is for {' and '.join(RUNTIMES)}; the target names "
            f"{', '.join(goal.target.runtimes)}"
        )
    reasons = available()
    runtimes = named or [name for name in RUNTIMES if reasons[name] is None]
    quantized = tuple(p for p in asked if p not in FLOATS) or (() if asked else ("int8", "int4"))
    supports = detect().supports_bfloat16
    if "bfloat16" in asked and not (BFLOAT16 in runtimes and supports):
        why = (
            "this machine has no bfloat16 instructions"
            if BFLOAT16 in runtimes
            else (f"{', '.join(runtimes)} has no bfloat16 kernels on the CPU")
        )
        raise Unsupported(f"mix(precisions={asked}): {why}; leave bfloat16 out")
    found = []
    for runtime in runtimes:
        for base in FLOATS:
            able = base == "float32" or (runtime == BFLOAT16 and supports)
            if able and (base in asked or not asked):
                found.append((runtime, (base, *quantized)))
    if not found:
        raise InvalidInput(
            f"mix(precisions={asked}): name float32 or bfloat16 for what is not quantized"
        )
    return found


def empty_folder(folder: Path | str | None) -> Path:
    """The folder, made. InvalidInput for one that holds something."""
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="burnish-mix-"))
    where = Path(folder)
    where.mkdir(parents=True, exist_ok=True)
    if any(where.iterdir()):
        raise InvalidInput(f"mix(folder={str(where)!r}) is not empty: give a new one")
    return where
