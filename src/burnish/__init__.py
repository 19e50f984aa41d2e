"""Burnish: a trained model in, the fastest artifact that provably keeps its quality out.

This file is the front door and nothing else. A name is looked up in its room when it is first asked
for (PEP 562), so that `import burnish` loads neither torch nor any runtime, and `burnish --help`
answers at once. The table below is written out by hand: what is public here can be read here.
Left out: every technique's settings; those are in the technique's own room, `burnish.quantize` say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from burnish import auto as auto
    from burnish import bench as bench
    from burnish import bundle as bundle
    from burnish import cli as cli
    from burnish import core as core
    from burnish import demo as demo
    from burnish import distill as distill
    from burnish import errors as errors
    from burnish import goal as goal
    from burnish import graph as graph
    from burnish import hardware as hardware
    from burnish import metrics as metrics
    from burnish import profile as profile
    from burnish import quantize as quantize
    from burnish import recipe as recipe
    from burnish import report as report
    from burnish import runtimes as runtimes
    from burnish import testing as testing
    from burnish import train as train
    from burnish.auto import mix as mix
    from burnish.auto import optimize as optimize
    from burnish.auto import recover as recover
    from burnish.distill import distillation_loss as distillation_loss
    from burnish.goal import Budget as Budget
    from burnish.goal import Goal as Goal
    from burnish.goal import Inputs as Inputs
    from burnish.goal import Measurement as Measurement
    from burnish.goal import Target as Target
    from burnish.goal import Task as Task
    from burnish.quantize import convert_qat as convert_qat
    from burnish.quantize import prepare_qat as prepare_qat
    from burnish.quantize import quantize_dynamic as quantize_dynamic
    from burnish.quantize import quantize_static as quantize_static
    from burnish.quantize import quantize_weights as quantize_weights

__version__ = "0.1.0"

_ROOMS = (
    "auto",
    "bench",
    "bundle",
    "cli",
    "core",
    "demo",
    "distill",
    "errors",
    "goal",
    "graph",
    "hardware",
    "metrics",
    "profile",
    "quantize",
    "recipe",
    "report",
    "runtimes",
    "testing",
    "train",
)

_ROOM_OF = {
    "Budget": "goal",
    "Goal": "goal",
    "Inputs": "goal",
    "Measurement": "goal",
    "Target": "goal",
    "Task": "goal",
    "convert_qat": "quantize",
    "distillation_loss": "distill",
    "mix": "auto",
    "optimize": "auto",
    "prepare_qat": "quantize",
    "quantize_dynamic": "quantize",
    "quantize_static": "quantize",
    "quantize_weights": "quantize",
    "recover": "auto",
}


def __dir__() -> list[str]:
    return sorted([*_ROOMS, *_ROOM_OF, "__version__"])


if not TYPE_CHECKING:  # a type checker that sees this function stops reporting misspelt names

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name in _ROOMS:
            return import_module(f"burnish.{name}")
        if name in _ROOM_OF:
            found = getattr(import_module(f"burnish.{_ROOM_OF[name]}"), name)
            globals()[name] = found
            return found
        known = ", ".join([*_ROOM_OF, *_ROOMS])
        raise AttributeError(f"burnish has no {name!r}; it has: {known}")
