"""Families of operators: a layer is found again from its family and its widths."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from burnish.errors import Unsupported
from burnish.graph import trace
from burnish.profile._latency_family import describe, is_free, place, resized
from burnish.profile._shape import OpShape, Setting, shapes


class Layers(nn.Module):
    """One of each layer without recurrence that a table knows."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, a, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(a, a, 5, padding=2, groups=a)
        self.grouped = nn.Conv2d(a, b, 1, groups=2, bias=False)
        self.linear = nn.Linear(b, a)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.grouped(self.depthwise(self.conv(x)))
        states: torch.Tensor = self.linear(x.flatten(2).transpose(1, 2))
        return states


def recurrent(kind: str, width: int, state: int) -> OpShape:
    """Two layers both ways, of an LSTM or a GRU over 5 steps, as `shapes` gives them."""
    gates, num_states = (4, 2) if kind == "lstm" else (3, 1)
    weights: list[tuple[int, ...]] = [(4, 1, state)] * num_states
    for reads in (width, width, 2 * state, 2 * state):
        sizes = gates * state
        weights += [(sizes, reads), (sizes, state), (sizes,), (sizes,)]
    settings: dict[str, Setting] = {
        **{"batch_first": True, "bidirectional": True, "dropout": 0.0, "has_biases": True},
        **{"num_layers": 2, "operands": "i" + "w" * len(weights), "train": False},
    }
    outputs = ((1, 5, 2 * state), *[(4, 1, state)] * num_states)
    given = tuple(sorted(settings.items()))
    return OpShape(kind, ((1, 5, width),), tuple(weights), outputs, given, "float32")


def layers(a: int, b: int) -> dict[str, OpShape]:
    traced = trace(Layers(a, b).eval(), (torch.randn(2, 3, 8, 8),))
    kinds = ("conv2d", "linear")
    found = {name: item for name, item in shapes(traced, 1).items() if item.kind in kinds}
    return {**found, "lstm:lstm": recurrent("lstm", a, b), "gru:gru": recurrent("gru", 2 * b, a)}


@pytest.fixture(scope="module")
def narrow() -> dict[str, OpShape]:
    return layers(8, 12)


@pytest.fixture(scope="module")
def wide() -> dict[str, OpShape]:
    return layers(20, 6)


def test_a_layer_is_its_family_and_its_widths(narrow: dict[str, OpShape]) -> None:
    assert len(narrow) == 6
    for shape in narrow.values():
        where = place(shape)
        assert where.is_layer
        assert resized(where.family, where.widths) == shape
        assert resized(shape, (0,) * len(where.widths)) == where.family
        assert place(where.family).family == where.family


def test_layers_that_differ_in_width_alone_are_one_family(
    narrow: dict[str, OpShape], wide: dict[str, OpShape]
) -> None:
    for name, shape in narrow.items():
        where, other = place(shape), place(wide[name])
        assert where.family == other.family
        assert where.widths != other.widths
        assert resized(shape, other.widths) == wide[name]


def test_widths_are_what_a_reader_expects(narrow: dict[str, OpShape]) -> None:
    widths = {name.split(":")[0]: place(shape).widths for name, shape in narrow.items()}
    assert widths == {
        "conv": (3, 8),
        "depthwise": (8,),
        "grouped": (8, 12),
        "linear": (12, 8),
        "lstm": (8, 12),
        "gru": (24, 8),
    }


def test_a_family_is_described_by_what_does_not_vary(narrow: dict[str, OpShape]) -> None:
    words = [describe(place(shape).family) for shape in narrow.values()]
    assert words[0] == "conv2d of 1×·×8×8 with kernel 3×3"
    assert words[1] == "depthwise conv2d of 1×·×4×4 with kernel 5×5"
    assert words[3].startswith("linear of 1×16×·")


def test_views_and_constants_are_free() -> None:
    view = OpShape("view", ((1, 4),), (), ((2, 2),), (("operands", "i"),), "float32")
    constant = OpShape("mul", (), ((4,),), ((4,),), (("operands", "w"),), "float32")
    check = OpShape("_assert_scalar", (), (), (), (), "")
    assert all(map(is_free, (view, constant, check)))
    add = OpShape("add", ((1, 4), (1, 4)), (), ((1, 4),), (("operands", "ii"),), "float32")
    assert not is_free(add)
    assert place(add).widths == (12,)


def test_what_nothing_is_known_of_is_refused_by_name() -> None:
    shape = OpShape("frobnicate", ((1, 4),), (), ((1, 4),), (("operands", "i"),), "float32")
    with pytest.raises(Unsupported, match="frobnicate"):
        place(shape)


def test_a_weight_that_is_computed_is_refused() -> None:
    shape = OpShape("linear", ((1, 4), (5, 4)), (), ((1, 5),), (("operands", "ii"),), "float32")
    with pytest.raises(Unsupported, match=r"linear.*computed"):
        place(shape)
