"""`Factorize` owes what every rewrite owes; its result exports, runs and quantizes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from burnish.core import Candidate, Choices
from burnish.graph import Traced, trace
from burnish.prune import Factorize, factorize
from burnish.testing import RewriteContract, Tiny, catalogue
from tests import once
from tests.prune.deployed import runs_and_quantizes

TINY = {tiny.name: tiny for tiny in catalogue()}


class Contract(RewriteContract):
    def names_in(self, choices: Choices) -> Iterable[str]:
        return [row["layer"] for row in choices.plan["layers"]]

    def step(self) -> Factorize:
        return Factorize(0.02, of="parameters", round_to=1)


class TestFromModule(Contract):
    def tinies(self) -> Iterable[Tiny]:
        return [TINY["plain_cnn"]]


class TestFromTraced(Contract):
    def tinies(self) -> Iterable[Tiny]:
        return [TINY["tied_weights"]]

    def candidate(self, tiny: Tiny) -> Candidate:
        return Candidate(once.traced(tiny))


@pytest.mark.slow
class TestEveryModule(Contract):
    pass


@pytest.mark.slow
class TestEveryTraced(Contract):
    def step(self) -> Factorize:
        return Factorize(0.001, of="macs", criterion="weight", round_to=1)

    def candidate(self, tiny: Tiny) -> Candidate:
        return Candidate(once.traced(tiny))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain_cnn", "attention_fused", "conv1d"])
def test_a_factorized_model_exports_runs_and_quantizes(name: str, tmp_path: Path) -> None:
    tiny = TINY[name]
    module = factorize(tiny.build(), tiny.inputs(), 0.2, calibration=[tiny.inputs(8)], round_to=1)
    assert not isinstance(module, Traced)
    small = trace(module, *tiny.inputs().to_trace())
    runs_and_quantizes(small, tiny, tmp_path)
