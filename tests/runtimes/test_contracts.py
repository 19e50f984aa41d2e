"""Every runtime of ours owes what every runtime owes, on every model of the catalogue."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from burnish.runtimes import Runtime, runtime
from burnish.testing import RuntimeContract, Tiny, catalogue

# One of each kind of call; the rest of the catalogue runs with the slow tests.
FEW = ("separable", "encoder", "gru", "nested_output")


def few() -> list[Tiny]:
    return [tiny for tiny in catalogue() if tiny.name in FEW]


def rest() -> list[Tiny]:
    return [tiny for tiny in catalogue() if tiny.name not in FEW]


class TestEager(RuntimeContract):
    def runtime(self) -> Runtime:
        return runtime("eager")

    def tinies(self) -> Iterable[Tiny]:
        return few()[:2]  # its worker imports torch, which takes as long as all else


class TestOnnxRuntime(RuntimeContract):
    def runtime(self) -> Runtime:
        return runtime("onnxruntime")

    def tinies(self) -> Iterable[Tiny]:
        return few()


class TestOpenVino(RuntimeContract):
    def runtime(self) -> Runtime:
        return runtime("openvino")

    def tinies(self) -> Iterable[Tiny]:
        return few()


@pytest.mark.slow
class TestEagerOnTheRest(RuntimeContract):
    def runtime(self) -> Runtime:
        return runtime("eager")

    def tinies(self) -> Iterable[Tiny]:
        return few()[2:] + rest()


@pytest.mark.slow
class TestOnnxRuntimeOnTheRest(RuntimeContract):
    def runtime(self) -> Runtime:
        return runtime("onnxruntime")

    def tinies(self) -> Iterable[Tiny]:
        return rest()


@pytest.mark.slow
class TestOpenVinoOnTheRest(RuntimeContract):
    def runtime(self) -> Runtime:
        return runtime("openvino")

    def tinies(self) -> Iterable[Tiny]:
        return rest()
