"""Kernel times given to operators: nothing is lost, and every operator is accounted for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from burnish.bundle import Counts, OpTime, Worker
from burnish.graph import Traced, operator_names, trace
from burnish.quantize import QuantizeStatic, calibrate, fold
from burnish.runtimes import Attributed, attribute, export

NAMES = ["view", "stem:conv2d", "stem:batch_norm", "stem:relu", "add", "add#2", "head:linear"]


def times(*kernels: OpTime) -> Attributed:
    return attribute(kernels, NAMES)


def test_a_fused_kernel_belongs_to_what_multiplies_in_it() -> None:
    found = times(
        OpTime("fused", "Conv", 2.0, ("stem:relu", "stem:conv2d", "stem:batch_norm")),
        OpTime("more", "Conv", 1.0, ("stem:conv2d~2",)),
        OpTime("sum", "Add", 0.5, ("view", "add")),
    )
    assert found.seconds == {"stem:conv2d": 3.0, "add": 0.5}
    assert found.fused == {
        "stem:batch_norm": "stem:conv2d",
        "stem:relu": "stem:conv2d",
        "view": "add",
    }
    assert found.rest == ()


def test_an_operator_with_a_kernel_of_its_own_is_not_fused() -> None:
    found = times(
        OpTime("one", "Conv", 2.0, ("stem:conv2d", "stem:relu")),
        OpTime("two", "Relu", 1.0, ("stem:relu",)),
    )
    assert found.seconds == {"stem:conv2d": 2.0, "stem:relu": 1.0}
    assert found.fused == {}


def test_what_moves_data_is_given_to_what_wants_it() -> None:
    reorder = OpTime("add_nChw16c_head", "Reorder", 1.0, feeds=("head:linear", "view"))
    output = OpTime("ReorderOutput", "Reorder", 0.25)
    found = times(reorder, output)
    assert found.seconds == {"head:linear": 1.0}
    assert found.fused == {}
    assert found.rest == (output,)


def test_quantizers_belong_to_nobody() -> None:
    quantizer = OpTime("node_QuantizeLinear_3", "QuantizeLinear", 1.0, ("node_QuantizeLinear_3",))
    assert times(quantizer).rest == (quantizer,)
    inside = OpTime("conv", "QLinearConv", 1.0, ("node_QuantizeLinear_3", "stem:conv2d"))
    assert times(inside).seconds == {"stem:conv2d": 1.0}


@pytest.mark.parametrize("appended", ["_quant", "~2", "/WithoutBiases", ".1", ":0"])
def test_a_name_with_something_appended_is_that_name(appended: str) -> None:
    assert times(OpTime("k", "K", 1.0, (f"add#2{appended}",))).seconds == {"add#2": 1.0}
    assert times(OpTime(f"add#2{appended}", "K", 1.0)).seconds == {"add#2": 1.0}


def test_a_name_that_only_begins_alike_is_another() -> None:
    strange = OpTime("adder", "Add", 1.0)
    other = OpTime("add#21", "Add", 1.0)
    assert times(strange, other).rest == (strange, other)


_texts = st.sampled_from([*NAMES, "add~2", "node_3", "reorder_1"])
_kernels = st.builds(
    OpTime,
    name=_texts,
    kind=st.just("k"),
    seconds=st.floats(0, 1),
    members=st.lists(_texts, max_size=3).map(tuple),
    feeds=st.lists(_texts, max_size=2).map(tuple),
)


@given(st.lists(_kernels, max_size=12))
def test_nothing_is_dropped_and_nothing_counted_twice(kernels: list[OpTime]) -> None:
    found = attribute(kernels, NAMES)
    parts = [*found.seconds.values(), *(item.seconds for item in found.rest)]
    assert math.isclose(math.fsum(parts), math.fsum(item.seconds for item in kernels), abs_tol=1e-9)
    assert set(found.seconds) <= set(NAMES)
    assert not set(found.fused) & set(found.seconds)
    assert set(found.fused.values()) <= set(found.seconds)


# --- on the runtimes themselves


class Net(nn.Module):
    """What runtimes fuse, rename and reorder: [n, 3, 16, 16] to [n, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.project = nn.Conv2d(16, 16, 1)
        self.widen = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.norm = nn.LayerNorm(8)
        self.hidden = nn.Linear(8, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.stem(x))
        x = x + self.project(F.relu6(self.depthwise(x)))
        x = F.relu(self.widen(x)).mean((2, 3))
        x = F.gelu(self.hidden(self.norm(x)))
        logits: torch.Tensor = self.head(x)
        return logits


MULTIPLY = [
    *("stem.0:conv2d", "depthwise:conv2d", "project:conv2d", "widen:conv_transpose2d"),
    *("hidden:linear", "head:linear"),
]


# OpenVINO makes one kernel of a linear layer, a GELU and the next, where sizes are fixed.
JOINED = {"head:linear": "hidden:linear"}


def joined(found: Attributed) -> dict[str, str]:
    """Layers that another layer's kernel computes, with that one."""
    return {name: found.fused[name] for name in MULTIPLY if name in found.fused}


@dataclass(frozen=True)
class Counted:
    """A network's operators, what a worker counted, and to whom it was given."""

    names: tuple[str, ...]
    counts: Counts
    given: Attributed


def count(model: Traced, runtime: str, folder: Path, precision: str = "float32") -> Counted:
    artifact = export(model, runtime, folder, precision=precision).with_options(threads=1)
    with Worker(artifact) as worker:
        pairs = zip(model.inputs, model.example(), strict=True)
        inputs = {slot.name: tensor.numpy() for slot, tensor in pairs}
        counts = worker.count(inputs, repeats=20)
    names = tuple(operator_names(model.graph_module).values())
    return Counted(names, counts, attribute(counts.times, names))


@pytest.fixture(scope="module")
def traced() -> Traced:
    torch.manual_seed(0)
    return trace(Net().eval(), (torch.randn(2, 3, 16, 16),))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("attribution")


@pytest.fixture(scope="module")
def floats(traced: Traced, folder: Path) -> Mapping[str, Counted]:
    runtimes = ("eager", "onnxruntime", "openvino")
    return {name: count(traced, name, folder / name) for name in runtimes}


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime", "openvino"])
def test_each_layer_has_its_own_time(floats: Mapping[str, Counted], runtime: str) -> None:
    found = floats[runtime].given
    assert joined(found) == (JOINED if runtime == "openvino" else {})
    assert set(MULTIPLY) <= set(found.seconds) | set(joined(found))
    assert all(seconds >= 0 for seconds in found.seconds.values())


def test_eager_has_a_kernel_for_each_operator(floats: Mapping[str, Counted]) -> None:
    found = floats["eager"]
    operators = {name for name in found.names if not name.startswith("input:")}
    assert set(found.given.seconds) == operators
    assert found.given.rest == ()
    (conv,) = (item for item in found.counts.times if item.members == ("stem.0:conv2d",))
    assert conv.kind.startswith("aten.conv2d.default:aten::")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_what_a_runtime_fuses_is_told(floats: Mapping[str, Counted], runtime: str) -> None:
    fused = floats[runtime].given.fused
    assert fused["stem.1:batch_norm"] == "stem.0:conv2d"
    assert fused["relu6" if "relu6" in floats[runtime].names else "hardtanh"] == "stem.0:conv2d"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_rest_is_the_outputs_copy_at_most(floats: Mapping[str, Counted], runtime: str) -> None:
    found = floats[runtime]
    spent = math.fsum(item.seconds for item in found.given.rest)
    assert spent < 0.1 * math.fsum(item.seconds for item in found.counts.times)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_int8_kernels_are_given_to_their_layers(traced: Traced, folder: Path, runtime: str) -> None:
    folded, step = fold(traced), QuantizeStatic(runtime)
    choices = step.choose_from(folded, calibrate(folded, [(torch.randn(4, 3, 16, 16),)]))
    graph = step.rewrite(folded, choices)
    assert isinstance(graph, Traced)
    found = count(graph, runtime, folder / f"{runtime}-int8", "int8")
    names = list(operator_names(folded.graph_module).values())
    given = attribute(found.counts.times, names)
    layers = set(MULTIPLY) - set(joined(given))
    assert layers <= set(given.seconds)
