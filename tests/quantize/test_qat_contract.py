"""`PrepareQat` owes what every rewrite owes; `ConvertQat` is tried in histories (test_qat)."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from burnish.core import Candidate, Choices
from burnish.quantize import PrepareQat
from burnish.testing import RewriteContract, Tiny, catalogue
from tests import once


class Contract(RewriteContract):
    def step(self) -> PrepareQat:
        return PrepareQat("onnxruntime")

    def candidate(self, tiny: Tiny) -> Candidate:
        return Candidate(once.traced(tiny))

    def names_in(self, choices: Choices) -> Iterable[str]:
        plan = choices.plan
        names = [*plan["operators"], *plan["quantizers"], *plan["groups"], *plan["frozen"]]
        return [*names, *plan["groups"].values(), *(row["operator"] for row in plan["coverage"])]


class TestFew(Contract):
    def tinies(self) -> Iterable[Tiny]:
        return [tiny for tiny in catalogue() if tiny.name == "separable"]


@pytest.mark.slow
class TestAll(Contract):
    """The other placement, and observed scales, on models that `rewrite` traces itself."""

    def step(self) -> PrepareQat:
        return PrepareQat("openvino", scales="observed")

    def candidate(self, tiny: Tiny) -> Candidate:
        return Candidate(tiny.build())
