"""Traced models give what the originals give, and leave them alone."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from typing import Any

import pytest
import torch
from torch import fx, nn

from burnish.errors import InvalidInput, Unsupported
from burnish.graph import Traced, flatten, operator, trace
from burnish.testing import Tiny
from tests.graph import models

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def _assert_same(actual: Any, expected: Any) -> None:
    given, form = flatten(actual)
    wanted, wanted_form = flatten(expected)
    assert form == wanted_form
    for left, right in zip(given, wanted, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


def _storages(module: nn.Module) -> set[int]:
    tensors = [*module.parameters(), *module.buffers()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


@pytest.mark.parametrize(("batch", "scale"), [(1, 1), (3, 2)])
def test_equal_to_eager_at_other_sizes(tiny: Tiny, traced: Traced, batch: int, scale: int) -> None:
    inputs = tiny.inputs(batch, seed=7, **{name: scale * n for name, n in tiny.dynamic.items()})
    _assert_same(tiny.call(traced, inputs), tiny.call(tiny.build(), inputs))


def test_storage_is_not_shared_with_the_users_model(tiny: Tiny) -> None:
    model, inputs = tiny.build(), tiny.inputs()
    before = copy.deepcopy(model.state_dict())
    traced = trace(
        model, inputs.args, inputs.kwargs, {leaf.key: leaf.axes for leaf in inputs.leaves()}
    )
    assert not _storages(model) & _storages(traced)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_graph_is_plain_and_pure(traced: Traced) -> None:
    module = traced.graph_module
    assert isinstance(module, fx.GraphModule)
    names = [str(node.target) for node in module.graph.nodes if node.op == "get_attr"]
    assert sorted(names) == sorted(
        [name for name, _ in [*module.named_parameters(), *module.named_buffers()]]
    )
    for node in module.graph.nodes:
        assert node.op in ("get_attr", "placeholder", "call_function", "output")
        assert not operator(node).endswith("_")
        assert "val" in node.meta or node.op in ("get_attr", "output")


def test_slots_describe_what_goes_in_and_out(tiny: Tiny, traced: Traced) -> None:
    inputs = tiny.inputs(3)
    tensors = [leaf.tensor for leaf in inputs.leaves()]
    sizes = {"batch": 3, **tiny.dynamic}
    out = flatten(tiny.call(traced, inputs))[0]
    slots = [*zip(traced.inputs, tensors, strict=True), *zip(traced.outputs, out, strict=True)]
    for slot, tensor in slots:
        assert getattr(torch, slot.dtype) == tensor.dtype
        assert [sizes.get(s, s) if isinstance(s, str) else s for s in slot.shape] == list(
            tensor.shape
        )
    names = [slot.name for slot in (*traced.inputs, *traced.outputs)]
    assert len(set(names)) == len(names)
    assert "batch" in traced.inputs[0].shape


def test_the_example_runs(traced: Traced) -> None:
    for batch in (2, 5):
        with torch.no_grad():
            outputs = traced.graph_module(*traced.example(batch))
        assert len(outputs) == len(traced.outputs)


def test_a_copy_is_independent_and_silent(tiny: Tiny, traced: Traced) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copied = traced.copy()
        again = copy.deepcopy(traced)
    assert not _storages(copied) & _storages(traced)
    for parameter in copied.parameters():
        parameter.data.zero_()
    inputs = tiny.inputs(2, seed=3)
    _assert_same(tiny.call(again, inputs), tiny.call(traced, inputs))


def test_a_traced_model_is_given_back() -> None:
    traced = trace(nn.Linear(4, 2), (X,))
    assert trace(traced, (X,)) is traced


def test_a_model_in_train_mode_is_traced_in_eval_mode_and_stays_in_train_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    model[1].eval()
    flags = [module.training for module in model.modules()]
    before = copy.deepcopy(model.state_dict())
    traced = trace(model, (X,))
    assert [module.training for module in model.modules()] == flags == [True, True, False, True]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    _assert_same(traced(X), copy.deepcopy(model).eval()(X))


def test_a_model_that_counts_its_calls_is_left_alone() -> None:
    model = models.Inplace("on a buffer").eval()
    trace(model, (X,))
    assert model.counter.item() == 0


def test_what_a_model_keeps_from_call_to_call_is_not_built_in() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shape: Any = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.shape is None:
                self.shape = x.shape
            return x.new_ones(self.shape) + x

    model = Caching()
    traced = trace(model, (X,))
    assert model.shape is None
    assert torch.equal(traced(X[:2]), X[:2] + 1)


def test_a_traced_model_stays_in_eval_mode() -> None:
    traced = trace(nn.Sequential(nn.Linear(4, 4), nn.Dropout()), (X,))
    assert not any(module.training for module in traced.modules())
    assert traced.eval() is traced
    assert torch.equal(traced(X), traced(X))
    with pytest.raises(Unsupported, match="stays in eval mode"):
        traced.train()


def test_outputs_of_every_kind_are_built_again() -> None:
    model = models.Nested()
    traced = trace(model, (X[:, :3],))
    output = traced(X[:, :3])
    _assert_same(output, model(X[:, :3]))
    assert isinstance(output["a"], models.Pair)
    assert isinstance(output["out"], models.Output)
    assert output["out"].twice is not None
    assert output["out"].hidden is None
    assert (output["a"].second, output["out"].extra["name"]) == (3.5, "n")
    assert [slot.name for slot in traced.outputs] == [
        "b_output_0",
        "b_output_1_output_0",
        "a_first",
        "out_logits",
        "out_extra_more",
        "out_twice",
    ]


def test_output_names_are_unique_and_no_inputs() -> None:
    traced = trace(models.Nameclash(), (X,))
    names = [slot.name for slot in (*traced.inputs, *traced.outputs)]
    assert names == ["x", "a_b", "a_b_2", "x_2", "output_output_0"]
    _assert_same(traced(X), models.Nameclash()(X))


@pytest.mark.parametrize("kind", models.INPLACE)
def test_in_place_operators_change_nothing(kind: str) -> None:
    model = models.Inplace(kind).eval()
    traced = trace(model, (X.clone(),))
    _assert_same(traced(X.clone()), model(X.clone()))
    copied = traced.copy()
    copied.graph_module.graph.eliminate_dead_code()
    copied.graph_module.recompile()
    _assert_same(copied(X.clone()), model(X.clone()))


@pytest.mark.parametrize("kind", ["plain", "result unused", "read before and after", "on an input"])
def test_in_place_operators_become_functional_where_that_is_safe(kind: str) -> None:
    traced = trace(models.Inplace(kind).eval(), (X.clone(),))
    kinds = [operator(n) for n in traced.graph_module.graph.nodes if n.op == "call_function"]
    assert kinds
    assert not [name for name in kinds if name.endswith("_")]


def test_the_users_example_is_not_written_to() -> None:
    x = X.clone()
    trace(models.Inplace("on the input itself").eval(), (x,))
    assert torch.equal(x, X)


def test_tied_weights_stay_tied() -> None:
    traced = trace(models.Tied(), (torch.tensor([[1, 2], [3, 4]]),))
    for each in (traced, traced.copy()):
        assert len(list(each.parameters())) == 1
        readers = {id(parameter) for _, parameter in each.named_parameters(remove_duplicate=False)}
        assert len(readers) == 1


def test_keywords_nesting_and_constants() -> None:
    args = (X, (X + 1, X + 2))
    kwargs = {"table": {"z": X, "a": X * 3}, "scale": 2.0, "mask": X > 0}
    model = models.Keywords()
    traced = trace(model, args, kwargs)
    names = [slot.name for slot in traced.inputs]
    assert names == ["x", "pair_0", "pair_1", "mask", "table_a", "table_z"]
    expected = model(*args, **kwargs)
    _assert_same(traced(*args, **kwargs), expected)
    turned = dict(reversed(kwargs.items()))
    _assert_same(traced(*args, **turned), expected)
    _assert_same(traced(X, [X + 1, X + 2], **kwargs), expected)


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        ((X, (X, X)), {"scale": 3.0}, "scale=2.0 and is called with scale=3.0"),
        ((X, (X, X)), {}, "scale=2.0 and is called with scale=None"),
        ((X, (X, X)), {"scale": 2.0, "mask": X > 0}, "'0', '1.0', '1.1' and.*'mask'"),
        ((X,), {"pair": (X, X), "scale": 2.0}, "'0', '1.0', '1.1' and.*'pair.0'"),
        ((), {}, "is called with none"),
    ],
)
def test_another_call_than_traced_is_refused(
    args: tuple[Any, ...], kwargs: dict[str, Any], said: str
) -> None:
    traced = trace(models.Keywords(), (X, (X, X)), {"scale": 2.0, "mask": None})
    with pytest.raises(InvalidInput, match=said):
        traced(*args, **kwargs)


def test_none_is_the_same_as_not_given() -> None:
    traced = trace(models.Keywords(), (X, (X, X)), {"mask": None})
    assert torch.equal(traced(X, (X, X)), traced(X, (X, X), table=None))


def test_batch_on_axis_1_and_a_dynamic_length() -> None:
    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 5)

        def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> Any:
            y = self.linear(x) * h
            return y, y.sum(0) + c

    model = TimeFirst().eval()
    axes = {"0": {0: "time", 1: "batch"}, "1": {1: "batch"}, "2": {1: "batch"}}

    def call(time: int, batch: int) -> tuple[torch.Tensor, ...]:
        return torch.randn(time, batch, 4), torch.randn(1, batch, 5), torch.zeros(1, batch, 5)

    traced = trace(model, call(3, 2), axes=axes)
    assert [slot.shape for slot in traced.inputs] == [
        ("time", "batch", 4),
        (1, "batch", 5),
        (1, "batch", 5),
    ]
    assert traced.outputs[0].shape == ("time", "batch", 5)
    for time, batch in [(1, 1), (6, 4)]:
        example = call(time, batch)
        _assert_same(traced(*example), model(*example))


def test_a_scalar_input_has_no_batch_axis() -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
            return x * by

    traced = trace(Scaled(), (X, torch.tensor(2.0)))
    assert [slot.shape for slot in traced.inputs] == [("batch", 4), ()]
    assert torch.equal(traced(X[:1], torch.tensor(3.0)), X[:1] * 3)


def test_a_parameter_and_an_input_may_be_outputs() -> None:
    class Passing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x: torch.Tensor) -> Any:
            return x, self.weight, x * self.weight

    traced = trace(Passing(), (X,))
    assert [slot.shape for slot in traced.outputs] == [("batch", 4), (4,), ("batch", 4)]
    _assert_same(traced(X), Passing()(X))


def test_a_branch_on_a_size_keeps_both_branches() -> None:
    class Choosing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            chosen: torch.Tensor = torch.cond(
                x.shape[0] > 4, lambda t: self.linear(t), lambda t: t + 1, (x,)
            )
            return chosen

    model = Choosing()
    traced = trace(model, (X,))
    for batch in (3, 6):
        x = torch.randn(batch, 4)
        _assert_same(traced(x), model(x))


def test_with_graph_keeps_the_signature(tiny: Tiny, traced: Traced) -> None:
    other = traced.with_graph(traced.copy().graph_module)
    for part in ("inputs", "outputs", "tree", "call"):
        assert getattr(other, part) == getattr(traced, part)


def test_dataclasses_of_hugging_face_come_back_whole() -> None:
    """Theirs are ordered dicts and dataclasses at once."""
    from collections import OrderedDict

    @dataclasses.dataclass
    class ModelOutput(OrderedDict):
        logits: torch.Tensor
        loss: torch.Tensor | None = None

        def __post_init__(self) -> None:
            self["logits"] = self.logits

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> ModelOutput:
            return ModelOutput(x + 1)

    output = trace(Model(), (X,))(X)
    assert isinstance(output, ModelOutput)
    assert torch.equal(output["logits"], X + 1)
