"""What every runtime owes: what was traced is what runs, at any size of its dynamic axes.

    class TestMyRuntime(RuntimeContract):
        def runtime(self):
            return MyRuntime()

Each model of the catalogue is exported and loaded once; its worker answers batches of 1, 2 and 5
(and as many sizes of every further dynamic axis), is asked for its time per operator, and is
closed. The tests then look at what was recorded. Where the runtime is not available they skip, and
give its reason.

Left out: speed, and how a worker dies; those are for the rooms that measure and load.
"""

from __future__ import annotations

import math
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import SkipTest

import numpy as np
import torch

from burnish.goal import Inputs
from burnish.graph import Slot, Traced, flatten, flatten_call, unflatten
from burnish.testing._catalogue import catalogue
from burnish.testing._fingerprint import differences, fingerprint
from burnish.testing._tiny import Tiny

if TYPE_CHECKING:
    from burnish.runtimes import Runtime

BATCHES = (1, 2, 5)
Array = np.ndarray[Any, Any]


class RuntimeContract(ABC):
    """Inherit, give `runtime`, and pytest runs the rest."""

    @abstractmethod
    def runtime(self) -> Runtime:
        """The runtime under test."""

    def tinies(self) -> Iterable[Tiny]:
        """The models to try: the whole catalogue."""
        return catalogue()

    def traced(self, tiny: Tiny) -> Traced:
        """What is exported: override to trace a model once for several contracts."""
        return tiny.trace()

    def tolerance(self, tiny: Tiny) -> tuple[float, float]:
        """Largest relative and absolute difference of a float32 artifact from the traced model."""
        del tiny
        return 1e-4, 1e-5

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """pytest's own hook: one test for each model."""
        if "tiny" in metafunc.fixturenames:
            metafunc.parametrize("tiny", list(self.tinies()), ids=str)

    def test_says_whether_it_is_available(self) -> None:
        """A name, and either None or a reason with something to do about it."""
        runtime = self.runtime()
        reason = runtime.available()
        assert runtime.name, "a runtime has a name"
        assert reason is None or "install" in reason, f"no install line in: {reason!r}"

    def test_agrees_with_the_traced_model(self, tiny: Tiny) -> None:
        """Every output, at batches of 1, 2 and 5 and other sizes of further dynamic axes."""
        relative, absolute = self.tolerance(tiny)
        for answer in recorded(type(self), tiny).answers:
            wanted = [tensor.numpy() for tensor in flatten(answer.wanted)[0]]
            shapes = [array.shape for array in answer.given]
            assert shapes == [array.shape for array in wanted], (
                f"at {answer.sizes} the outputs have shapes {shapes}, "
                f"the traced model's {[array.shape for array in wanted]}"
            )
            for name, given, right in zip(answer.names, answer.given, wanted, strict=True):
                worst = float(np.abs(given.astype(np.float64) - right).max(initial=0.0))
                close = np.allclose(given, right, rtol=relative, atol=absolute)
                assert close, f"output {name!r} is off by up to {worst:.3g} at {answer.sizes}"

    def test_ports_are_the_slots(self, tiny: Tiny) -> None:
        """Names, dtypes and shapes with their dynamic axes, as traced."""
        record = recorded(type(self), tiny)
        for side, given, wanted in (
            ("inputs", record.inputs, record.traced.inputs),
            ("outputs", record.outputs, record.traced.outputs),
        ):
            assert given == wanted, f"the {side} of the artifact are {given}, traced {wanted}"
        for answer in record.answers:
            dtypes = [array.dtype.name for array in answer.given]
            said = [slot.dtype for slot in record.outputs]
            assert dtypes == said, f"the worker gives {dtypes}, the artifact says {said}"

    def test_outputs_nest_as_the_model_returned_them(self, tiny: Tiny) -> None:
        """The artifact's tree and the worker's flat outputs make what the model returns."""
        record = recorded(type(self), tiny)
        answer = record.answers[-1]
        output = unflatten(record.tree, [torch.from_numpy(array) for array in answer.given])
        original = tiny.call(tiny.build(), answer.inputs)
        assert type(output) is type(original), f"{type(output)} instead of {type(original)}"
        assert flatten(output)[1] == flatten(original)[1], "the outputs nest otherwise"

    def test_times_its_operators(self, tiny: Tiny) -> None:
        """At least one operator, each with a name, a kind and a time, which add up."""
        times = recorded(type(self), tiny).op_times
        assert times, "op_times() gave no operator"
        for name, kind, seconds in times:
            assert name, "an operator has no name"
            assert kind, f"{name!r} has no kind"
            assert math.isfinite(seconds), f"{name!r} took {seconds} seconds"
            assert seconds >= 0, f"{name!r} took {seconds} seconds"
        assert sum(seconds for _, _, seconds in times) > 0, "all operators took no time"

    def test_says_what_it_holds(self, tiny: Tiny) -> None:
        """The artifact names its runtime and precision, and its files are there."""
        record = recorded(type(self), tiny)
        said, asked = (record.runtime, record.precision), (self.runtime().name, "float32")
        assert said == asked, f"the artifact says it is {said}, asked for was {asked}"
        assert record.size_bytes > 0, "the artifact's files hold nothing"

    def test_leaves_the_traced_model_alone(self, tiny: Tiny) -> None:
        """Exporting changes nothing of what is exported."""
        changed = recorded(type(self), tiny).changed
        assert not changed, f"export() changed the traced model: {changed}"


@dataclass(frozen=True)
class Answer:
    """What a worker gave for one call, and what the traced model gives."""

    sizes: Mapping[str, int]
    inputs: Inputs
    names: tuple[str, ...]
    given: tuple[Array, ...]
    wanted: Any


@dataclass(frozen=True)
class Record:
    """One export, one worker, and all that was seen of them."""

    traced: Traced
    changed: str
    runtime: str
    precision: str
    size_bytes: int
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    tree: Any
    answers: tuple[Answer, ...]
    op_times: tuple[tuple[str, str, float], ...]


@lru_cache(maxsize=32)
def recorded(contract: type[RuntimeContract], tiny: Tiny) -> Record:
    """Export and run a model once, for all tests of a contract."""
    runtime = contract().runtime()
    reason = runtime.available()
    if reason is not None:
        raise SkipTest(reason)
    traced = contract().traced(tiny)
    before = fingerprint(traced)
    with tempfile.TemporaryDirectory() as folder:
        artifact = runtime.export(traced, Path(folder), precision="float32")
        changed = differences(before, fingerprint(traced))
        with runtime.load(artifact) as worker:
            answers = tuple(_answer(worker, traced, tiny, batch) for batch in BATCHES)
            arrays = _arrays(traced, tiny.inputs(2, seed=9))
            times = tuple((op.name, op.kind, op.seconds) for op in worker.op_times(arrays))
        return Record(
            traced,
            changed,
            artifact.runtime,
            artifact.precision,
            artifact.size_bytes(),
            tuple(Slot(port.name, port.dtype, tuple(port.shape)) for port in artifact.inputs),
            tuple(Slot(port.name, port.dtype, tuple(port.shape)) for port in artifact.outputs),
            artifact.tree,
            answers,
            times,
        )


def _answer(worker: Any, traced: Traced, tiny: Tiny, batch: int) -> Answer:
    sizes = {name: size + batch for name, size in tiny.dynamic.items()}
    inputs = tiny.inputs(batch, seed=batch, **sizes)
    given = tuple(np.asarray(array) for array in worker.run(_arrays(traced, inputs)))
    names = tuple(slot.name for slot in traced.outputs)
    return Answer({"batch": batch, **sizes}, inputs, names, given, tiny.call(traced, inputs))


def _arrays(traced: Traced, inputs: Inputs) -> dict[str, Array]:
    tensors = flatten_call(inputs.args, inputs.kwargs)
    return {slot.name: tensor.numpy() for slot, tensor in zip(traced.inputs, tensors, strict=True)}
