"""Operators side by side: each is what its shape says, and real runtimes count each of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from burnish.errors import Unsupported
from burnish.graph import Traced, operator_names, trace
from burnish.profile._latency import LatencyTable
from burnish.profile._latency_clock import RuntimeClock
from burnish.profile._latency_family import is_free
from burnish.profile._latency_graph import branch_of, inputs_of, side_by_side
from burnish.profile._shape import OpShape, shapes
from tests.profile.latency_nets import small


class Mixed(nn.Module):
    """Attention, lookup, normalisation, recurrence, joining, scaling: calls of many forms."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 16)
        self.norm = nn.LayerNorm(16)
        self.lstm = nn.LSTM(16, 8, batch_first=True)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.scale = nn.Parameter(torch.ones(16))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.words(ids)) * self.scale
        heads = x.view(*ids.shape, 2, 8).transpose(1, 2)
        hidden = (1 - mask[:, None, None, :].to(x.dtype)) * -10_000.0
        mixed = F.scaled_dot_product_attention(heads, heads, heads, attn_mask=hidden)
        x = torch.cat([F.gelu(mixed.transpose(1, 2).flatten(2)), x], 2)[:, :, :16]
        states = self.gru(self.lstm(x)[0])[0]
        return F.softmax(states.mean(1), dim=-1)


@pytest.fixture(scope="module")
def mixed() -> Traced:
    ids = torch.randint(50, (2, 6))
    return trace(Mixed().eval(), (ids, torch.ones_like(ids)))


@pytest.fixture(scope="module")
def network() -> Traced:
    return small(24, 32)


def charged(model: Traced) -> list[OpShape]:
    return list(dict.fromkeys(s for s in shapes(model, 1).values() if not is_free(s)))


def test_every_operator_stands_in_the_graph_as_its_shape_says(
    mixed: Traced, network: Traced
) -> None:
    wanted = charged(mixed) + charged(network)
    model = side_by_side(wanted, 1, 0)
    found = {}
    for name, shape in shapes(model, 1).items():
        number = branch_of(name)
        assert number is not None
        if shape.kind != "getitem":
            found[number] = shape
    assert [found[number] for number in range(len(wanted))] == wanted


def test_inputs_are_such_that_nothing_is_divided_by_zero(mixed: Traced) -> None:
    inputs = inputs_of(mixed, 3)
    assert inputs["ids"].shape == (3, 6)
    assert (inputs["mask"] == 1).all()


def test_a_name_that_is_none_of_ours_has_no_branch() -> None:
    assert branch_of("branches.12:conv2d") == 12
    assert branch_of("layer.12:conv2d") is None


def test_an_operator_that_cannot_be_called_from_its_shape_is_refused_by_name() -> None:
    wrong = OpShape("add", ((1, 4), (1, 4)), (), ((9, 9),), (("operands", "ii"),), "float32")
    with pytest.raises(Unsupported, match="add of"):
        side_by_side([wrong], 1, 0)
    unknown = OpShape("frobnicate", ((1, 4),), (), ((1, 4),), (("operands", "i"),), "float32")
    with pytest.raises(Unsupported, match=r"frobnicate.*no such operator"):
        side_by_side([unknown], 1, 0)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_runtime_counts_every_operator(runtime: str, network: Traced) -> None:
    clock = RuntimeClock(runtime, "float32", 1, 1, 0.1, 0)
    wanted = [shape for shape in charged(network) if shape.kind in ("conv2d", "linear", "add")]
    seconds = clock.shapes(wanted, lambda share: None)
    assert all(1e-7 < value < 0.05 for value in seconds)


def test_a_model_in_place_adds_up(network: Traced) -> None:
    seen = RuntimeClock("onnxruntime", "float32", 1, 1, 0.1, 0).model(network)
    names = set(operator_names(network.graph_module).values())
    assert set(seen.operators) <= names
    assert seen.operators["bn1:batch_norm"] == 0.0
    assert 0 < sum(seen.operators.values()) < 3 * seen.seconds


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_real_table_predicts_a_width_it_has_not_seen(runtime: str) -> None:
    anchors = [small(64, 96), small(32, 48), small(21, 75)]
    table = LatencyTable.build(runtime, [], anchors=anchors, threads=1, seconds=0.5)
    held_out = small(48, 64)
    truth = RuntimeClock(runtime, "float32", 1, 1, 0.5, 0).model(held_out).seconds
    assert table.predict(held_out).seconds == pytest.approx(truth, rel=0.5)
