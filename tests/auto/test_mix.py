"""Mixed precision on made-up times: what is picked can be foreseen, what networks answer is real.

The time of an artifact is made up from its graph: so much for each layer in its precision, so much
for each element that changes form, and a factor on what is mixed. Artifacts for OpenVINO are
exported for onnxruntime, so that they answer in this process.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import fx

from burnish.auto import Bench, Mix, mix
from burnish.auto._mix_costs import Costs, Whole, alternating
from burnish.bench import Race, race
from burnish.bundle import Artifact, OpTime
from burnish.errors import Infeasible, InvalidInput, NoEffect, RuntimeFailed, Unsupported
from burnish.goal import Budget, Goal, Target
from burnish.graph import DEQUANTIZE, DEQUANTIZE_BLOCKS, Traced, operator_names, trace
from burnish.quantize import Survey, calibrate, fold, survey
from burnish.quantize._mixed.layers import Layer
from tests.auto.made_up import OPERATORS, Exports, Here, one_thread, task, trained

MICRO = 1e-6
# Microseconds of each layer of the network by precision; bfloat16 takes what float32 takes.
LAYERS = {
    "first:conv2d": {"float32": 40.0, "int8": 30.0, "int4": 41.0},
    "second:conv2d": {"float32": 100.0, "int8": 30.0, "int4": 101.0},
    "third:conv2d": {"float32": 80.0, "int8": 35.0, "int4": 81.0},
    "head:linear": {"float32": 30.0, "int8": 12.0, "int4": 20.0},
}


def precisions_of(model: Traced) -> dict[str, str]:
    """What each layer of a graph is, by where its weight comes from."""
    found = dict.fromkeys(OPERATORS, "float32")
    for node, name in operator_names(model.graph_module).items():
        layer = node.meta.get("burnish", name)
        for source in node.all_input_nodes if layer in found else ():
            stored = source.args[0] if source.args else None
            whole = isinstance(stored, fx.Node) and stored.op == "get_attr"
            if source.target is DEQUANTIZE and whole:
                found[layer] = "int8"
            elif source.target is DEQUANTIZE_BLOCKS:
                found[layer] = "int4"
    return found


@dataclass
class MadeUp:
    """A `Bench`; `whole` makes an artifact's microseconds out of its layers' precisions."""

    whole: Callable[[str, Mapping[str, str]], float]
    known: dict[str, dict[str, str]] = field(default_factory=dict)
    failing: str = "nothing"

    def seconds(self, artifact: Artifact) -> float:
        runtime = f"openvino {artifact.options.execution}"
        where = runtime if "openvino" in artifact.folder.name else "onnxruntime"
        return MICRO * self.whole(where, self.known[artifact.folder.name])

    def race(self, artifacts: Mapping[str, Artifact], inputs: Any, terms: Any, told: Any) -> Race:
        def clock(artifact: Artifact, _: Any, runs: int) -> np.ndarray[Any, Any]:
            if self.failing in artifact.folder.name:
                raise RuntimeFailed("made up", "crashed")
            noise = np.random.default_rng(0).random(runs)
            times: np.ndarray[Any, Any] = self.seconds(artifact) * (1 + 1e-4 * noise)
            return times

        return race(artifacts, inputs, seconds=0.02, confidence=terms.confidence, clock=clock)

    def op_times(self, artifact: Artifact, inputs: Any) -> tuple[OpTime, ...]:
        """Counters that see half of each layer's time, and nothing of seams."""
        chosen = self.known[artifact.folder.name]
        return tuple(
            OpTime(name, "made up", 0.5 * MICRO * LAYERS[name][chosen[name]]) for name in OPERATORS
        )

    def exporting(self, exports: Exports) -> Callable[..., Artifact]:
        """Stands for `runtimes.export`: notes what each layer is."""

        def exported(model: Traced, runtime: str, folder: Path, *, precision: str) -> Artifact:
            self.known[folder.name] = precisions_of(model)
            word = "float32" if precision == "bfloat16" else precision
            return exports(model, "onnxruntime", folder, precision=word)

        return exported


def layers_alone(_: str, precisions: Mapping[str, str]) -> float:
    return sum(LAYERS[name][precision] for name, precision in precisions.items())


def with_seams(runtime: str, precisions: Mapping[str, str]) -> float:
    """A tenth of a nanosecond and more for an element that changes form."""
    elements = (512, 128, 128)
    pairs = itertools.pairwise(precisions[name] for name in OPERATORS)
    opened = [
        size for size, (a, b) in zip(elements, pairs, strict=True) if (a == "int8") != (b == "int8")
    ]
    return layers_alone(runtime, precisions) + 0.05 * sum(opened)


@pytest.fixture
def mixing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, exported: Exports
) -> Callable[..., Mix]:
    def run(bench: MadeUp, runtimes: tuple[str, ...] = ("onnxruntime",), **asked: Any) -> Mix:
        monkeypatch.setattr("burnish.auto._mix_shop.export", bench.exporting(exported))
        monkeypatch.setattr("burnish.auto._mix_shop.load", Here)
        goal = Goal(task(n=100), Target(runtimes=runtimes, threads=1), Budget(max_drop=0.05))
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        console = Console(file=io.StringIO())
        with one_thread():
            clock = cast(Bench, bench)  # of a bench, `mix` asks these two alone
            return mix(trained(), goal, folder=folder, bench=clock, console=console, **asked)

    return run


@functools.cache
def surveyed(precisions: tuple[str, ...] = ("float32", "int8", "int4")) -> Survey:
    wanted = Goal(task(n=100))
    model = fold(trace(trained(), *wanted.task.inputs.to_trace()))
    calls = [(batch[0],) for batch in wanted.task.data("calibration")]
    with one_thread():
        return survey(model, calibrate(model, calls), "onnxruntime", precisions)


def every(
    whole: Callable[[str, Mapping[str, str]], float],
) -> Iterator[tuple[float, float, dict[str, str]]]:
    """Microseconds, summed losses and precisions of all allocations of float32 and int8."""
    seen = surveyed(("float32", "int8"))
    for combination in itertools.product(("float32", "int8"), repeat=len(OPERATORS)):
        precisions = dict(zip(OPERATORS, combination, strict=True))
        loss = sum(seen.losses[name][precision] for name, precision in precisions.items())
        yield whole("", precisions), loss, precisions


# --- the search


def test_the_pick_is_the_best_of_all_allocations(mixing: Callable[..., Mix]) -> None:
    """Counters see half of each layer and no seam; whole artifacts tell the rest."""
    found = mixing(MadeUp(with_seams), latency_ms=0.19, precisions=("float32", "int8"))
    wanted = min(
        (loss, list(precisions.items()))
        for time, loss, precisions in every(with_seams)
        if time <= 190
    )[1]
    assert not found.pick.uniform
    assert found.pick.precisions == dict(wanted)
    assert found.met
    assert found.pick.latency_ms == pytest.approx(1e-3 * with_seams("", dict(wanted)), rel=1e-3)
    assert found.beaten_by == ()


def test_a_whole_that_is_slower_than_its_parts_is_corrected(mixing: Callable[..., Mix]) -> None:
    """Whatever is mixed takes a quarter more than anything tells of it."""

    def slower(runtime: str, precisions: Mapping[str, str]) -> float:
        mixed = len(set(precisions.values())) > 1
        return with_seams(runtime, precisions) * (1.25 if mixed else 1.0)

    found = mixing(MadeUp(slower), latency_ms=0.2, precisions=("float32", "int8"))
    assert found.met
    assert not found.pick.uniform
    fit = [item for item in every(slower) if item[0] <= 200]
    assert found.pick.error <= 1.5 * min(loss for _, loss, _ in fit)


def test_the_better_runtime_is_kept(mixing: Callable[..., Mix]) -> None:
    def faster(runtime: str, precisions: Mapping[str, str]) -> float:
        return with_seams(runtime, precisions) * {"onnxruntime": 1.0}.get(runtime, 0.6)

    both = ("onnxruntime", "openvino")
    found = mixing(MadeUp(faster), both, latency_ms=0.14, precisions=("float32", "int8"))
    assert found.pick.runtime == "openvino"
    tried = {item.runtime for item in found.candidates if not item.uniform}
    assert "openvino" in tried
    assert found.pick.error == min(i.error for i in found.candidates if i.latency_ms <= 0.147)


def test_a_uniform_artifact_that_is_faster_and_better_is_the_pick(
    mixing: Callable[..., Mix],
) -> None:
    """int8 that is slower than float: nothing is won by it."""

    def pointless(runtime: str, precisions: Mapping[str, str]) -> float:
        return 100.0 + 10 * sum(precision == "int8" for precision in precisions.values())

    found = mixing(MadeUp(pointless), latency_ms=0.2, precisions=("float32", "int8"))
    assert found.pick.label == "onnxruntime float32"
    assert any("again" in note for note in found.notes)


def test_a_size_budget_buys_int4_and_is_measured_on_the_file(mixing: Callable[..., Mix]) -> None:
    found = mixing(MadeUp(layers_alone), size_mb=0.0105)
    assert found.met
    assert found.pick.size_mb == found.pick.artifact.size_bytes() / 1e6
    assert "int4" in found.pick.precisions.values()
    floats = next(item for item in found.candidates if item.label == "onnxruntime float32")
    assert floats.size_mb > found.pick.size_mb


def test_under_a_limit_on_the_error_the_fastest_is_picked(mixing: Callable[..., Mix]) -> None:
    bench = MadeUp(layers_alone)
    found = mixing(bench, error=2e-5, precisions=("float32", "int8"))
    assert found.met
    assert found.pick.error <= 1.05 * 2e-5
    kept = [item.latency_ms for item in found.candidates if item.error <= 1.05 * 2e-5]
    assert found.pick.latency_ms == min(kept)


def test_an_artifact_that_fails_costs_no_more_than_itself(mixing: Callable[..., Mix]) -> None:
    bench = MadeUp(layers_alone, failing="mixed-1")
    found = mixing(bench, latency_ms=0.19, precisions=("float32", "int8"))
    assert "made up" in dict(found.failures or {})["onnxruntime float32, mixed 1"]
    assert found.met


def test_the_table_says_which_layer_got_what_and_why(mixing: Callable[..., Mix]) -> None:
    found = mixing(MadeUp(with_seams), latency_ms=0.19, precisions=("float32", "int8"))
    rows = {row["layer"]: row for row in found.pick.rows}
    assert set(rows) == set(OPERATORS)
    assert {name: row["precision"] for name, row in rows.items()} == dict(found.pick.precisions)
    text = str(found)
    for name, row in rows.items():
        assert f"{name}" in text
        assert row["why"] in text
    assert "ms for" in text
    record = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert record["pick"] == found.pick.label
    assert found.pick.applied is not None
    assert found.pick.applied.step == "MixedPrecision"
    json.dumps(found.pick.applied.to_json(), allow_nan=False)


# --- what is refused


def test_a_budget_that_nothing_keeps_tells_the_nearest(mixing: Callable[..., Mix]) -> None:
    with pytest.raises(Infeasible, match=r"the least that was measured is 0\.107") as refusal:
        mixing(MadeUp(layers_alone), latency_ms=0.05, precisions=("float32", "int8"))
    nearest = refusal.value.result
    assert isinstance(nearest, Mix)
    assert nearest.pick.label == "onnxruntime int8"
    assert any("the least foreseen is 0.107" in note for note in nearest.notes)
    assert not nearest.met


def test_one_limit_is_asked_for(mixing: Callable[..., Mix]) -> None:
    bench = MadeUp(layers_alone)
    for asked in ({}, {"latency_ms": 1.0, "size_mb": 1.0}):
        with pytest.raises(InvalidInput, match="one limit"):
            mixing(bench, **asked)
    for wrong in (math.nan, 0.0, -1.0, math.inf, "3", True):
        with pytest.raises(InvalidInput, match="latency_ms"):
            mixing(bench, latency_ms=wrong)


def test_a_format_that_no_runtime_holds_is_refused_by_name(mixing: Callable[..., Mix]) -> None:
    bench = MadeUp(layers_alone)
    with pytest.raises(Unsupported, match="onnxruntime has no bfloat16 kernels"):
        mixing(bench, latency_ms=1.0, precisions=("bfloat16", "int8"))
    with pytest.raises(Unsupported, match="the target names eager"):
        mixing(bench, ("eager",), latency_ms=1.0)
    with pytest.raises(InvalidInput, match="name float32 or bfloat16"):
        mixing(bench, latency_ms=1.0, precisions=("int8", "int4"))
    with pytest.raises(InvalidInput, match="some of float32"):
        mixing(bench, latency_ms=1.0, precisions=("float32", "int3"))


def test_a_network_without_layers_has_nothing_to_mix(tmp_path: Path) -> None:
    wanted = Goal(task(n=100), Target(runtimes=("onnxruntime",)))
    net = torch.nn.Sequential(torch.nn.Flatten(1), torch.nn.Softmax(1)).eval()
    with pytest.raises(NoEffect, match="no layer can have another precision"):
        mix(net, wanted, latency_ms=1.0, folder=tmp_path, console=Console(file=io.StringIO()))
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match="is not empty"):
        mix(net, wanted, latency_ms=1.0, folder=tmp_path)
    with pytest.raises(InvalidInput, match="needs a Goal"):
        mix(net, wanted.task, latency_ms=1.0)  # type: ignore[arg-type]


# --- the table of costs


def small() -> Survey:
    """Three layers in a row; the second and third of them can be int8."""
    losses = {"a": {"float32": 0.0}} | {n: {"float32": 0.0, "int8": 1.0} for n in ("b", "c")}
    layers = tuple(
        Layer(name, "conv2d", (f"{name}:relu",), (1, 1), {"int8": "no"} if name == "a" else {})
        for name in losses
    )
    num_bytes = {n: {p: 4.0 if p == "float32" else 1.0 for p in mine} for n, mine in losses.items()}
    between = {("a", "b"): 100, ("b", "c"): 300}
    return Survey("onnxruntime", ("float32", "int8"), layers, losses, num_bytes, between)


def wholes(fused: Mapping[str, str] | None = None) -> dict[str, Whole]:
    floats = {"a": 1.0, "a:relu": 1.0, "b": 4.0, "c": 2.0}
    int8 = {"a": 1.0, "a:relu": 1.0, "b": 1.0, "c": 1.0}
    return {"float32": Whole(16.0, floats, fused or {}), "int8": Whole(4.0, int8, {})}


def test_layers_add_up_to_what_the_whole_took() -> None:
    costs = Costs.of_times(small(), wholes())
    floats = dict.fromkeys("abc", "float32")
    assert costs.predict(floats) == pytest.approx(16.0)
    assert costs.layers["a"] == {"float32": pytest.approx(4.0)}, "its follower's time is its own"
    assert costs.layers["b"] == {"float32": pytest.approx(8.0), "int8": pytest.approx(1.0)}


def test_a_probe_tells_what_an_element_costs_that_changes_form() -> None:
    costs = Costs.of_times(small(), wholes())
    probe = alternating(costs)
    assert probe == {"a": "float32", "b": "int8", "c": "float32"}
    told = costs.predict(probe)
    probed = costs.observed(probe, told + 8.0)
    assert probed.rate == pytest.approx(0.02)
    assert probed.predict(probe) == pytest.approx(told + 8.0)
    assert probed.predict(dict.fromkeys("abc", "float32")) == pytest.approx(16.0)
    faster = costs.observed(probe, told - 1.0)
    assert faster.rate == 0.0
    assert faster.predict(probe) == pytest.approx(told - 1.0)


def test_two_mixed_wholes_tell_the_seams_from_what_mixing_costs() -> None:
    costs = Costs.of_times(small(), wholes())
    probe = {"a": "float32", "b": "int8", "c": "float32"}
    other = {"a": "float32", "b": "float32", "c": "int8"}
    truth = replace(costs, rate=0.01, scale=1.25)
    found = costs
    for mixed in (probe, other):
        found = found.observed(mixed, truth.predict(mixed))
        assert found.predict(mixed) == pytest.approx(truth.predict(mixed))
    assert [found.rate, found.scale] == pytest.approx([0.01, 1.25])
    odd = found.observed(probe, 3.0)
    assert odd.predict(probe) == pytest.approx(3.0), "the last one counts, whatever came before"


def test_bytes_have_a_rest_and_no_seams() -> None:
    mixed = {"a": "float32", "b": "int8", "c": "float32"}
    sized = Costs.of_bytes(small(), 50.0, {"float32", "int8"})
    assert sized.predict(dict.fromkeys("abc", "float32")) == 50.0
    again = sized.observed(mixed, 49.0)
    assert again.predict(mixed) == pytest.approx(49.0)
    assert (again.rest, again.rate) == (38.0, 0.0)


def test_layers_of_one_kernel_get_one_precision() -> None:
    costs = Costs.of_times(small(), wholes({"c": "b"}))
    assert costs.groups == (("a",), ("b", "c"))
    found, options = costs.solve(10.0)
    assert found.chosen == {"a": "float32", "b": "int8", "c": "int8"}
    assert set(options) == {"a", "b", "c"}
    apart, _ = Costs.of_times(small(), wholes()).solve(10.0)
    assert apart.chosen == {"a": "float32", "b": "int8", "c": "float32"}


def test_a_precision_without_an_artifact_is_no_option() -> None:
    only = {"float32": wholes()["float32"]}
    costs = Costs.of_times(small(), only)
    with pytest.raises(Infeasible) as refusal:
        costs.solve(1.0)
    assert set(refusal.value.result.chosen.values()) == {"float32"}  # type: ignore[attr-defined]
