"""The runtime contract passes a good runtime and fails each broken one, each by its own test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest import SkipTest

import numpy as np
import pytest
import torch

from burnish.bundle import Artifact, OpTime, Port
from burnish.graph import Traced
from burnish.testing import RuntimeContract, Tiny, catalogue

FEW = tuple(t for t in catalogue() if t.name in ("encoder", "gru", "nested_output", "two_inputs"))


@dataclass
class InProcess:
    """A worker that is none: it runs the traced model here."""

    artifact: Artifact
    traced: Traced
    fault: str

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        tensors = [torch.from_numpy(inputs[port.name]) for port in self.artifact.inputs]
        if self.fault == "drops samples":
            tensors = [
                t if slot.shape[0] != "batch" else t[:2]
                for t, slot in zip(tensors, self.traced.inputs, strict=True)
            ]
        with torch.no_grad():
            outputs = [t.numpy() for t in self.traced.graph_module(*tensors)]
        if self.fault == "slightly off":
            outputs[-1] = outputs[-1] + 1e-3
        if self.fault == "NaN":
            outputs[0] = outputs[0] * np.float32("nan")
        if self.fault == "half":
            outputs = [array.astype(np.float16) for array in outputs]
        if self.fault == "swaps outputs":
            outputs.reverse()
        return outputs

    def op_times(self, inputs: Mapping[str, Any], *, repeats: int = 10) -> tuple[OpTime, ...]:
        if self.fault == "no operator":
            return ()
        seconds = {"no time": 0.0, "negative time": -1.0, "NaN time": float("nan")}
        name = "" if self.fault == "nameless operator" else "conv"
        return (OpTime(name, "Conv", seconds.get(self.fault, 1e-5)), OpTime("relu", "Relu", 0.0))

    def __enter__(self) -> InProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.artifact = replace(self.artifact, files=("gone",))


@dataclass(frozen=True)
class Fake:
    """A runtime that keeps the traced model in hand, and is wrong as `fault` says."""

    fault: str = ""
    name: str = "eager"

    def available(self) -> str | None:
        missing = {"missing": "Fake is not installed: pip install fake", "mute": "no"}
        return missing.get(self.fault)

    def export(self, traced: Traced, folder: Path, *, precision: str = "float32") -> Artifact:
        (folder / "model.bin").write_bytes(b"" if self.fault == "empty file" else b"model")
        inputs, outputs = (
            tuple(Port(slot.name, slot.dtype, slot.shape) for slot in slots)
            for slots in (traced.inputs, traced.outputs)
        )
        if self.fault == "fixed batch":
            shapes = [tuple(2 if size == "batch" else size for size in p.shape) for p in inputs]
            inputs = tuple(replace(p, shape=s) for p, s in zip(inputs, shapes, strict=True))
        if self.fault == "renames":
            outputs = tuple(replace(port, name=f"{port.name}.1") for port in outputs)
        if self.fault == "says int64":
            outputs = tuple(replace(port, dtype="int64") for port in outputs)
        tree = {"kind": "tensor"} if len(outputs) == 1 else dict(traced.tree)
        if self.fault == "flat tree":
            tree = {"kind": "tuple", "items": [{"kind": "tensor"}] * len(outputs)}
        if self.fault == "changes the model":
            next(traced.parameters()).data.mul_(2.0)
        held = "int8" if self.fault == "int8" else precision
        files = ("model.bin",)
        object.__setattr__(self, "held", traced)
        return Artifact(folder, self.name, held, files, inputs, outputs, tree)

    def load(self, artifact: Artifact) -> InProcess:
        return InProcess(artifact, self.__dict__["held"], self.fault)


class TestFake(RuntimeContract):
    def runtime(self) -> Any:
        return Fake()

    def tinies(self) -> Iterable[Tiny]:
        return FEW


def contract(fault: str) -> RuntimeContract:
    """A contract class for a runtime with one fault, over a few models."""
    made = type(
        "Made",
        (RuntimeContract,),
        {"runtime": lambda self: Fake(fault), "tinies": lambda self: FEW},
    )
    one: RuntimeContract = made()
    return one


def by_name(name: str) -> Tiny:
    return next(tiny for tiny in FEW if tiny.name == name)


@pytest.mark.parametrize(
    ("fault", "test", "tiny", "words"),
    [
        (
            "slightly off",
            "agrees_with_the_traced_model",
            "encoder",
            r"'last_hidden_state' is off by up to 0.001",
        ),
        ("NaN", "agrees_with_the_traced_model", "nested_output", "is off by up to nan"),
        ("drops samples", "agrees_with_the_traced_model", "two_inputs", r"at \{'batch': 5\}"),
        ("swaps outputs", "agrees_with_the_traced_model", "nested_output", "have shapes"),
        ("fixed batch", "ports_are_the_slots", "nested_output", "the inputs of the artifact"),
        ("renames", "ports_are_the_slots", "encoder", "the outputs of the artifact"),
        ("says int64", "ports_are_the_slots", "nested_output", "the outputs of the artifact"),
        ("half", "ports_are_the_slots", "nested_output", r"gives \['float16'"),
        ("flat tree", "outputs_nest_as_the_model_returned_them", "encoder", "tuple.* instead of"),
        ("flat tree", "outputs_nest_as_the_model_returned_them", "nested_output", "nest otherwise"),
        ("no operator", "times_its_operators", "nested_output", "gave no operator"),
        ("no time", "times_its_operators", "nested_output", "took no time"),
        ("negative time", "times_its_operators", "nested_output", "took -1.0 seconds"),
        ("NaN time", "times_its_operators", "nested_output", "took nan seconds"),
        ("nameless operator", "times_its_operators", "nested_output", "has no name"),
        ("empty file", "says_what_it_holds", "nested_output", "hold nothing"),
        ("int8", "says_what_it_holds", "nested_output", "int8"),
        ("changes the model", "leaves_the_traced_model_alone", "encoder", "export.. changed"),
    ],
)
def test_a_broken_runtime_fails(fault: str, test: str, tiny: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        getattr(contract(fault), f"test_{test}")(by_name(tiny))


def test_a_missing_runtime_is_skipped_with_its_reason() -> None:
    contract("missing").test_says_whether_it_is_available()
    with pytest.raises(SkipTest, match="pip install fake"):
        contract("missing").test_times_its_operators(FEW[0])


def test_a_missing_runtime_that_gives_no_remedy_fails() -> None:
    with pytest.raises(AssertionError, match="no install line in: 'no'"):
        contract("mute").test_says_whether_it_is_available()


def test_the_tolerance_is_the_contract_s_own() -> None:
    class Loose(RuntimeContract):
        def runtime(self) -> Any:
            return Fake("slightly off")

        def tinies(self) -> Iterable[Tiny]:
            return FEW

        def tolerance(self, tiny: Tiny) -> tuple[float, float]:
            return 0.0, 1.1e-3

    Loose().test_agrees_with_the_traced_model(by_name("encoder"))
