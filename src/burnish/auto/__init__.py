"""Which steps, in which order, with which settings: from a model and a goal to a verified pick."""

from __future__ import annotations

from burnish.auto._bench import Bench, RealBench
from burnish.auto._ladder import Recover, Recovery, recover
from burnish.auto._mix import mix
from burnish.auto._mix_result import Limit, Mix, Mixed
from burnish.auto._optimize import optimize
from burnish.auto._result import Result
from burnish.auto._rewind import Rewind
from burnish.auto._sparse import TrainSparse
from burnish.auto._steps import STEPS

__all__ = [
    "STEPS",
    "Bench",
    "Limit",
    "Mix",
    "Mixed",
    "RealBench",
    "Recover",
    "Recovery",
    "Result",
    "Rewind",
    "TrainSparse",
    "mix",
    "optimize",
    "recover",
]
