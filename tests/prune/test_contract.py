"""`PruneChannels` owes what every rewrite owes, on every model of the catalogue."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from burnish.core import Candidate, Choices
from burnish.prune import PruneChannels
from burnish.testing import RewriteContract, Tiny, catalogue
from tests import once

FEW = ("residual", "concat", "shuffle", "grouped", "encoder", "lstm", "dict_output")


class Contract(RewriteContract):
    def names_in(self, choices: Choices) -> Iterable[str]:
        plan = choices.plan
        return [row["layer"] for row in plan["layers"]]

    def tinies(self) -> Iterable[Tiny]:
        return [tiny for tiny in catalogue() if tiny.name in FEW]


class TestFromTraced(Contract):
    def step(self) -> PruneChannels:
        return PruneChannels(0.5)

    def candidate(self, tiny: Tiny) -> Candidate:
        return Candidate(once.traced(tiny))


@pytest.mark.slow
class TestEverywhere(TestFromTraced):
    def tinies(self) -> Iterable[Tiny]:
        others = (*FEW, "nested_output")
        return [tiny for tiny in catalogue() if tiny.name not in others]


@pytest.mark.slow
class TestFromUntraced(Contract):
    def step(self) -> PruneChannels:
        return PruneChannels(0.5, criterion="hessian", scope="global", heads="width")

    def tinies(self) -> Iterable[Tiny]:
        few = ("residual", "concat", "encoder", "gru", "shared_module")
        return [tiny for tiny in catalogue() if tiny.name in few]
