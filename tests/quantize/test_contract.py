"""`QuantizeStatic` owes what every rewrite owes, on every model of the catalogue.

By default one model for each way in which the two runtimes' placements differ, for the first from a
traced model, for the second from the user's own, which `rewrite` traces again; the rest is slow.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from burnish.core import Candidate, Choices
from burnish.quantize import QuantizeStatic
from burnish.testing import RewriteContract, Tiny, catalogue
from tests import once

FEW = ("separable", "concat", "squeeze_excite", "attention_split", "gru")
FEWER = ("encoder", "nested_output")


def named(names: Iterable[str]) -> list[Tiny]:
    return [tiny for tiny in catalogue() if tiny.name in set(names)]


class Contract(RewriteContract):
    def names_in(self, choices: Choices) -> Iterable[str]:
        plan = choices.plan
        names = [*plan["operators"], *plan["quantizers"]]
        names += [name for entry in plan["quantizers"].values() for name in entry["readers"] or ()]
        names += [name for pair in plan["equalized"] for name in pair if name is not None]
        return [*names, *(row["operator"] for row in plan["coverage"])]


class TestFromTraced(Contract):
    def step(self) -> QuantizeStatic:
        return QuantizeStatic("onnxruntime")

    def candidate(self, tiny: Tiny) -> Candidate:
        return Candidate(once.traced(tiny))

    def tinies(self) -> Iterable[Tiny]:
        return named(FEW)


class TestFromUntraced(Contract):
    def step(self) -> QuantizeStatic:
        return QuantizeStatic("openvino", ranges="min-max", bias_correction="none", equalize=False)

    def tinies(self) -> Iterable[Tiny]:
        return named(FEWER)


@pytest.mark.slow
class TestForOnnxRuntime(Contract):
    def step(self) -> QuantizeStatic:
        return QuantizeStatic("onnxruntime", ranges="min-max")

    def tinies(self) -> Iterable[Tiny]:
        return [tiny for tiny in catalogue() if "convolution" in tiny.topologies]


@pytest.mark.slow
class TestForOpenVino(Contract):
    def step(self) -> QuantizeStatic:
        return QuantizeStatic("openvino")
