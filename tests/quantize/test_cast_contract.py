"""`Cast` owes what every rewrite owes; a few models by default, the whole catalogue slowly."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from burnish.core import Candidate, Choices
from burnish.quantize import Cast
from burnish.testing import RewriteContract, Tiny
from tests import once
from tests.quantize.test_contract import named

FEW = ("separable", "encoder", "tied_weights", "lstm", "dict_output")


class Contract(RewriteContract):
    def names_in(self, choices: Choices) -> Iterable[str]:
        plan = choices.plan
        stored = [name.rpartition("[")[0] for name in plan["stored"]]
        return [*plan["operators"], *stored, *(row["operator"] for row in plan["coverage"])]


class TestFloat16(Contract):
    def step(self) -> Cast:
        return Cast("float16")

    def candidate(self, tiny: Tiny) -> Candidate:
        return Candidate(once.traced(tiny))

    def tinies(self) -> Iterable[Tiny]:
        return named(FEW)


@pytest.mark.slow
class TestBfloat16(Contract):
    def step(self) -> Cast:
        return Cast("bfloat16")
