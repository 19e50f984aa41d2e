"""int8 artifacts compute what was simulated, near the float model, and really in int8.

The last is read off the runtimes' own counters: an operator that the coverage table calls int8 must
be computed by an int8 kernel. This is what placement is for.
"""

from __future__ import annotations

import numpy as np
import pytest

from burnish.testing import Tiny, catalogue
from tests.runtimes.built import Built, built, is_int8
from tests.runtimes.corners import CORNERS

MODELS = {tiny.name: tiny for tiny in (*catalogue(), *CORNERS)}
RUNTIMES = ("onnxruntime", "openvino")
# One model of each topology by default; the rest is slow.
FEW = {
    *("plain_cnn", "residual", "separable", "concat", "two_inputs"),
    *("attention_split", "split_in_float", "activations"),
}
CASES = [
    pytest.param(
        MODELS[name],
        runtime,
        id=f"{name}-{runtime}",
        marks=() if name in FEW else pytest.mark.slow,
    )
    for name in MODELS
    for runtime in RUNTIMES
]


def steps(found: Built) -> list[np.ndarray]:
    """How far the artifact is from the simulation, in steps of each output."""
    return [
        np.abs(given.astype(np.float64) - simulated) / (np.ptp(floats) / 255 + 1e-12)
        for given, simulated, floats in zip(found.given, found.simulated, found.floats, strict=True)
    ]


@pytest.mark.parametrize(("tiny", "runtime"), CASES)
def test_gives_what_was_simulated(tiny: Tiny, runtime: str) -> None:
    """Within two steps anywhere, within a tenth of one in 99 of 100 elements."""
    found = built(tiny, runtime)
    for given, simulated in zip(found.given, found.simulated, strict=True):
        assert given.shape == simulated.shape
        assert given.dtype == simulated.dtype
    for apart in steps(found):
        assert apart.max(initial=0.0) <= 2.0
        assert np.mean(apart > 0.1) <= 0.01


@pytest.mark.parametrize(("tiny", "runtime"), CASES)
def test_is_near_the_float_model(tiny: Tiny, runtime: str) -> None:
    """On data that calibration saw: at most 4 % of the output's spread, and not the same."""
    found = built(tiny, runtime)
    for given, floats in zip(found.given, found.floats, strict=True):
        if given.dtype.kind == "f":
            error = np.sqrt(np.mean((given.astype(np.float64) - floats) ** 2))
            assert error <= 0.04 * floats.std()
    assert not np.array_equal(found.given[0], found.floats[0])


@pytest.mark.parametrize(("tiny", "runtime"), CASES)
def test_what_is_called_int8_runs_in_int8(tiny: Tiny, runtime: str) -> None:
    found = built(tiny, runtime)
    for row in found.coverage:
        if row.state != "int8":
            continue
        assert found.in_int8(row.operator), f"{row.operator} runs as {found.kinds(row.operator)}"


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "exclude", [("b", "e"), pytest.param(("c", "d"), marks=pytest.mark.slow)], ids=str
)
def test_what_is_excluded_runs_in_float(exclude: tuple[str, ...], runtime: str) -> None:
    """Reverting a layer is of use only if the runtime does not quantize it all the same."""
    found = built(MODELS["float_between"], runtime, exclude)
    excluded = [row.operator for row in found.coverage if row.reason == "excluded"]
    assert len(excluded) == 2
    for row in found.coverage:
        kinds = found.kinds(row.operator)
        if row.state == "int8":
            assert found.in_int8(row.operator), f"{row.operator} runs as {kinds}"
        if row.operator in excluded:
            assert kinds
            assert not any(is_int8(kind) for kind in kinds), f"{row.operator} runs as {kinds}"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_float_layers_between_are_exact(runtime: str) -> None:
    """No runtime may round a float layer's weights: its output is that of the simulation."""
    found = built(MODELS["float_between"], runtime, ("b", "e"))
    assert max(apart.max() for apart in steps(found)) <= 1.0
