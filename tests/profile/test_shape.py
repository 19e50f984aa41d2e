"""What identifies an operator's cost: shapes at a batch, settings, constants apart from inputs."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from burnish.errors import Damaged, InvalidInput
from burnish.profile._shape import OpShape, macs, shapes
from burnish.testing import catalogue
from tests.profile.mac_cases import Function
from tests.profile.traced import Net, traced


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return traced(Net(), torch.zeros(2, 3, 8, 8))


def test_a_convolution_is_described_by_its_shapes_and_settings(net) -> None:
    found = shapes(net, 5)["stem:conv2d"]
    assert found.kind == "conv2d"
    assert found.inputs == ((5, 3, 8, 8),)
    assert found.weights == ((4, 3, 3, 3), (4,))
    assert found.outputs == ((5, 4, 4, 4),)
    assert found.setting("stride") == (2, 2)
    assert found.setting("groups") == 1
    assert found.operands() == ((5, 3, 8, 8), (4, 3, 3, 3), (4,))
    assert found.dtype == "float32"


def test_every_operator_of_the_graph_is_there_under_its_name(net) -> None:
    assert list(shapes(net, 1)) == [
        *("stem:conv2d", "relu", "block.conv:conv2d", "block.norm:batch_norm", "block:relu"),
        *("block:add", "flatten", "head:linear", "softmax"),
    ]


def test_shapes_follow_the_batch_and_leave_the_graph_alone(net) -> None:
    before = {node.name: node.meta["val"] for node in net.graph_module.graph.nodes if node.users}
    one, many = shapes(net, 1), shapes(net, 64)
    assert one["head:linear"].outputs == ((1, 5),)
    assert many["head:linear"].outputs == ((64, 5),)
    assert macs(many["head:linear"]) == 64 * 64 * 5
    after = {node.name: node.meta["val"] for node in net.graph_module.graph.nodes if node.users}
    assert all(after[name] is value for name, value in before.items())


def test_no_memory_is_taken_for_a_batch_that_none_has_memory_for(net) -> None:
    assert shapes(net, 10**9)["stem:conv2d"].inputs[0][0] == 10**9


def test_a_weight_that_is_turned_round_is_a_weight_still() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(7, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.matmul(self.weight, x @ (2 * self.weight).t())

    found = shapes(traced(Turned(), torch.zeros(2, 4, 4)), 2)
    first, second = (found[name] for name in ("matmul", "matmul#2"))
    assert (first.inputs, first.weights) == (((2, 4, 4),), ((4, 7),))
    assert second.setting("operands") == "wi"
    assert (second.inputs, second.weights) == (((2, 4, 7),), ((7, 4),))
    assert macs(second) == 2 * 7 * 7 * 4


def test_inputs_of_one_name_and_another_size_are_another_shape(net) -> None:
    assert shapes(net, 2)["relu"] != shapes(net, 3)["relu"]
    assert shapes(net, 2)["relu"] == shapes(net, 2)["relu"]
    assert len({shapes(net, 2)["relu"], shapes(net, 2)["relu"]}) == 1


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_of_nothing_is_refused(net, batch: int) -> None:
    with pytest.raises(InvalidInput, match="at least one"):
        shapes(net, batch)


def test_a_batch_that_the_graph_does_not_take_names_the_operator() -> None:
    class Pairs(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(-1, 2, 3).sum(1)

    from burnish.graph import trace

    pairs = trace(Pairs(), (torch.zeros(4, 3),), axes={})
    assert shapes(pairs, 7)["reshape"].inputs == ((4, 3),)  # no axis is dynamic: as it was traced


def test_infinities_can_be_written_down() -> None:
    hidden = Function(lambda x: x.masked_fill(x > 0, float("-inf")))
    found = shapes(traced(hidden, torch.zeros(2, 3)), 2)["masked_fill"]
    assert found.setting("value") == "-inf"
    assert OpShape.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
settings_ = st.dictionaries(
    st.sampled_from(("stride", "groups", "eps", "padding", "transposed")),
    st.one_of(
        st.integers(0, 9),
        st.booleans(),
        st.floats(0, 1),
        st.text(max_size=4),
        st.tuples(st.integers(), st.integers()),
    ),
)


@given(inputs=st.lists(sizes, max_size=3), weights=st.lists(sizes, max_size=2), found=settings_)
def test_json_and_back_is_the_same_value(inputs, weights, found) -> None:
    shape = OpShape(
        "any", tuple(inputs), tuple(weights), (), tuple(sorted(found.items())), "float32"
    )
    again = OpShape.from_json(json.loads(json.dumps(shape.to_json())))
    assert again == shape
    assert hash(again) == hash(shape)


@pytest.mark.parametrize("record", [{}, {"kind": "add"}, [], {"inputs": 3}])
def test_a_record_of_something_else_is_damaged(record) -> None:
    with pytest.raises(Damaged, match="operator's shape"):
        OpShape.from_json(record)


@pytest.mark.parametrize("causal", [False, True])
def test_grouped_queries_and_masks_count_whole(causal: bool) -> None:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

    args = torch.zeros(2, 8, 5, 16), torch.zeros(2, 2, 7, 16), torch.zeros(2, 2, 7, 4)
    found = shapes(traced(Function(attend), *args), 2)["scaled_dot_product_attention"]
    assert macs(found) == 2 * 8 * 5 * 7 * (16 + 4)


COUNTED = [
    ("addmm", lambda a, b, c: torch.addmm(c, a, b), [(4, 6), (6, 3), (3,)], 4 * 6 * 3),
    ("bmm", torch.bmm, [(2, 4, 6), (2, 6, 3)], 2 * 4 * 6 * 3),
    ("baddbmm", lambda a, b, c: torch.baddbmm(c, a, b), [(2, 4, 6), (2, 6, 3), (2, 4, 3)], 144),
    ("vector", torch.matmul, [(4, 6), (6,)], 24),
    (
        "tensordot",
        lambda a, b: torch.tensordot(a, b, ([1, 2], [0, 1])),
        [(2, 3, 4), (3, 4, 5)],
        120,
    ),
    ("outer", lambda a, b: torch.einsum("bi,bj->bij", a, b), [(2, 3), (2, 5)], 0),
    (
        "three",
        lambda a, b, c: torch.einsum("ij,jk,kl->il", a, b, c),
        [(2, 3), (3, 4), (4, 5)],
        2 * 3 * 4 + 2 * 4 * 5,
    ),
    ("dots", lambda a, b: torch.einsum("...ij,...jk->...ik", a, b), [(2, 3, 4), (2, 4, 5)], 120),
]


@pytest.mark.parametrize(
    ("function", "sizes", "wanted"), [row[1:] for row in COUNTED], ids=[row[0] for row in COUNTED]
)
def test_products_count_what_they_sum(function, sizes, wanted: int) -> None:
    from burnish.graph import trace

    graph = trace(Function(function), tuple(torch.zeros(*size) for size in sizes), axes={})
    found = [macs(shape) for shape in shapes(graph, 1).values()]
    assert None not in found
    assert sum(filter(None, found)) == wanted


ELEMENTWISE = (
    *("add", "mul", "sub", "div", "relu", "relu_", "gelu", "silu", "hardswish", "hardtanh", "tanh"),
    *(
        "sigmoid",
        "clamp",
        "exp",
        "sqrt",
        "rsqrt",
        "pow",
        "erf",
        "abs",
        "neg",
        "where",
        "mean",
        "sum",
    ),
    *(
        "amax",
        "softmax",
        "layer_norm",
        "view",
        "reshape",
        "permute",
        "transpose",
        "slice",
        "select",
    ),
    *("unsqueeze", "squeeze", "expand", "flatten", "cat", "stack", "pad", "max_pool2d", "chunk"),
    *(
        "split",
        "unbind",
        "to",
        "clone",
        "embedding",
        "leaky_relu",
        "elu",
        "softplus",
        "hardsigmoid",
    ),
    *("adaptive_avg_pool2d", "upsample_nearest2d", "maximum", "minimum", "eq", "gt", "logical_not"),
    *("hardswish_", "hardtanh_", "silu_", "relu6", "mish", "prelu", "t", "numpy_T", "alias"),
)


@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_what_moves_or_maps_counts_nothing(kind: str) -> None:
    assert macs(OpShape(kind, ((2, 3),), (), ((2, 3),), (), "float32")) == 0


@pytest.mark.parametrize("kind", ["fft_rfft", "linalg_svd", "cdist", "_grouped_mm", "made_up"])
def test_what_is_not_known_is_not_counted_as_nothing(kind: str) -> None:
    assert macs(OpShape(kind, ((2, 3),), (), ((2, 3),), (), "float32")) is None


@pytest.mark.slow
@pytest.mark.parametrize("tiny", catalogue(), ids=str)
def test_every_topology_is_known_and_counts_twice_at_twice_the_batch(tiny) -> None:
    graph = tiny.trace()
    one, two = shapes(graph, 2), shapes(graph, 4)
    assert not [name for name, shape in one.items() if macs(shape) is None]
    assert sum(macs(s) or 0 for s in two.values()) == 2 * sum(macs(s) or 0 for s in one.values())
