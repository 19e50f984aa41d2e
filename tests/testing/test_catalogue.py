"""The tiny models are what the catalogue says of them: seeded, small, unsettled, traceable."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from burnish.errors import InvalidInput
from burnish.goal import Task
from burnish.graph import flatten, operator
from burnish.metrics import scores, top1
from burnish.testing import Tiny, batches, catalogue

CATALOGUE = catalogue()

# What each topology shows up as among the operators of the traced graph.
OPERATORS = {
    "batch_norm": "batch_norm",
    "concat": "cat",
    "residual": "add",
    "max_pool": "max_pool",
    "average_pool": "avg_pool2d",
    "padding": "pad",
    "relu6": "hardtanh|relu6",
    "silu": "silu",
    "hard_swish": "hardswish",
    "gelu": "gelu",
    "multiplication": "mul",
    "shuffle": "transpose",
    "transposed": "conv_transpose2d",
    "one_dimensional": "conv1d",
    "three_dimensional": "conv3d",
    "fused": "scaled_dot_product_attention",
    "matmul": "matmul",
    "softmax": "softmax",
    "layer_norm": "layer_norm",
    "embedding": "embedding",
    "lstm": "lstm",
    "gru": "gru",
    "linear": "linear",
}


def test_names_are_unique() -> None:
    names = [tiny.name for tiny in CATALOGUE]
    assert len(set(names)) == len(names)
    assert len(names) >= 20


def test_the_catalogue_has_every_topology() -> None:
    there = set().union(*(tiny.topologies for tiny in CATALOGUE))
    calls = {"keyword_inputs", "dataclass", "dict", "nested", "several_inputs", "time_first"}
    assert there >= set(OPERATORS) | calls | {"tied", "shared", "depthwise", "grouped"}


@pytest.mark.parametrize("tiny", CATALOGUE, ids=str)
def test_builds_are_equal_and_apart(tiny: Tiny) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = tiny.build()
    assert torch.equal(torch.get_rng_state(), before), "a build moved torch's own generator"
    torch.manual_seed(6)
    two = tiny.build()
    for (name, a), (_, b) in zip(one.state_dict().items(), two.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
        assert a.data_ptr() != b.data_ptr(), f"{name} is shared by two builds"
    assert not any(module.training for module in one.modules())
    assert sum(p.numel() for p in one.parameters()) < 10_000


@pytest.mark.parametrize("tiny", CATALOGUE, ids=str)
def test_batch_norm_does_something(tiny: Tiny) -> None:
    for module in tiny.build().modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for tensor, usual in (
                (module.running_mean, 0),
                (module.running_var, 1),
                (module.weight, 1),
                (module.bias, 0),
            ):
                assert float((tensor.detach() - usual).abs().max()) > 0.05
    assert "batch_norm" not in tiny.topologies or any(
        "BatchNorm" in type(module).__name__ for module in tiny.build().modules()
    )


@pytest.mark.parametrize("tiny", CATALOGUE, ids=str)
def test_traces_with_its_dynamic_axes(tiny: Tiny) -> None:
    traced = tiny.trace()
    found = {operator(n) for n in traced.graph_module.graph.nodes if n.op == "call_function"}
    for topology in tiny.topologies & set(OPERATORS):
        wanted = OPERATORS[topology].split("|")
        assert any(name.startswith(part) for name in found for part in wanted), (topology, found)
    assert tiny.recurrent == bool(tiny.topologies & {"lstm", "gru"})
    model = tiny.build()
    for batch in (1, 3):
        inputs = tiny.inputs(
            batch, 3, **{name: size + batch for name, size in tiny.dynamic.items()}
        )
        assert inputs.batch_size() == batch
        wanted_tensors, tree = flatten(tiny.call(model, inputs))
        given_tensors, given_tree = flatten(tiny.call(traced, inputs))
        assert given_tree == tree
        for given, right in zip(given_tensors, wanted_tensors, strict=True):
            torch.testing.assert_close(given, right)


@pytest.mark.parametrize("tiny", CATALOGUE, ids=str)
def test_batches_repeat_and_fit_a_task(tiny: Tiny) -> None:
    first, again = batches(tiny, 3, 4, seed=1), batches(tiny, 3, 4, seed=1)
    other = batches(tiny, 3, 4, seed=2)
    task = Task(tiny.inputs(), top1, calibration=first)
    leaves = [
        [
            leaf.tensor
            for call in map(task.call, data)
            for leaf in tiny.inputs().bind(call.args, call.kwargs)
        ]
        for data in (first, again, other)
    ]
    assert all(map(torch.equal, leaves[0], leaves[1]))
    assert not all(map(torch.equal, leaves[0], leaves[2]))
    call = task.call(first[0])
    assert call.target is None
    assert flatten(tiny.build()(*call.args, **call.kwargs))[0]


@pytest.mark.parametrize("tiny", CATALOGUE, ids=str)
def test_its_goal_is_usable_and_the_model_is_perfect_for_it(tiny: Tiny) -> None:
    goal, model = tiny.goal(), tiny.build()
    assert [census.num_samples for census in goal.census()] == [12, 12, 12, 12]
    call = next(goal.task.calls("validation"))
    output = tiny.call(model, next(iter(goal.task.data("validation")))[0])
    assert abs(scores(goal.task.metric, output, call.target)).max() < 1e-9
    worse = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in worse.parameters():
            parameter.mul_(0.9)
    output = tiny.call(worse, next(iter(goal.task.data("validation")))[0])
    assert scores(goal.task.metric, output, call.target).min() > 1e-9
    assert goal.task.loss is not None
    assert float(goal.task.loss(output, call.target)) > 0


def test_an_unknown_axis_is_named() -> None:
    by_name = {tiny.name: tiny for tiny in CATALOGUE}
    with pytest.raises(InvalidInput, match=r"residual has no dynamic axis 'length'; it has none"):
        by_name["residual"].inputs(length=3)
    with pytest.raises(InvalidInput, match=r"no dynamic axis 'width'; it has length"):
        by_name["encoder"].inputs(width=3)
