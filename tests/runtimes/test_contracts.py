"""Every runtime of ours owes what every runtime owes, on every model of the catalogue."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from burnish.graph import Traced
from burnish.runtimes import Runtime, runtime
from burnish.testing import RuntimeContract, Tiny, catalogue
from tests import once

# One of each kind of call; the rest of the catalogue runs with the slow tests.
FEW = ("separable", "encoder", "gru", "nested_output")


def few() -> list[Tiny]:
    return [tiny for tiny in catalogue() if tiny.name in FEW]


def rest() -> list[Tiny]:
    return [tiny for tiny in catalogue() if tiny.name not in FEW]


class Contract(RuntimeContract):
    def traced(self, tiny: Tiny) -> Traced:
        return once.traced(tiny)


class TestEager(Contract):
    def runtime(self) -> Runtime:
        return runtime("eager")

    def tinies(self) -> Iterable[Tiny]:
        return few()[:2]  # its worker imports torch, which takes as long as all else


class TestOnnxRuntime(Contract):
    def runtime(self) -> Runtime:
        return runtime("onnxruntime")

    def tinies(self) -> Iterable[Tiny]:
        return few()


class TestOpenVino(Contract):
    def runtime(self) -> Runtime:
        return runtime("openvino")

    def tinies(self) -> Iterable[Tiny]:
        return few()


@pytest.mark.slow
class TestEagerOnTheRest(Contract):
    def runtime(self) -> Runtime:
        return runtime("eager")

    def tinies(self) -> Iterable[Tiny]:
        return few()[2:] + rest()


@pytest.mark.slow
class TestInductor(Contract):
    def runtime(self) -> Runtime:
        return runtime("inductor")

    def tinies(self) -> Iterable[Tiny]:
        return catalogue()  # it compiles for seconds, several times for each


@pytest.mark.slow
class TestOnnxRuntimeOnTheRest(Contract):
    def runtime(self) -> Runtime:
        return runtime("onnxruntime")

    def tinies(self) -> Iterable[Tiny]:
        return rest()


@pytest.mark.slow
class TestOpenVinoOnTheRest(Contract):
    def runtime(self) -> Runtime:
        return runtime("openvino")

    def tinies(self) -> Iterable[Tiny]:
        return rest()
