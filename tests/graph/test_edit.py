"""Names and edits of exported graphs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx, nn

from burnish.graph import (
    Traced,
    add_tensor,
    finish,
    operator,
    operator_names,
    set_weight,
    tensor_of,
    trace,
)
from burnish.graph._edit import module_path
from burnish.testing import Tiny
from tests.graph import models


def test_names_are_unique_deterministic_and_paths_of_the_users_modules(
    tiny: Tiny, traced: Traced
) -> None:
    names = operator_names(traced.graph_module)
    nodes = [n for n in traced.graph_module.graph.nodes if n.op in ("call_function", "placeholder")]
    assert list(names) == nodes
    assert len(set(names.values())) == len(names)
    assert list(operator_names(tiny.trace().graph_module).values()) == list(names.values())
    assert list(operator_names(traced.copy().graph_module).values()) == list(names.values())
    known = {name for name, _ in tiny.build().named_modules(remove_duplicate=False)}
    for node in nodes:
        assert module_path(node) in known
        assert "_empty_nn_module_stack" not in str(node.meta.get("nn_module_stack"))
    assert [names[n] for n in nodes if n.op == "placeholder"] == [
        f"input:{i}" for i in range(len(traced.inputs))
    ]


def test_paths_of_modules_named_as_our_wrapper_names_its_own() -> None:
    model = models.Named().eval()
    traced = trace(model, (torch.randn(3, 4),))
    paths = [module_path(n) for n in traced.graph_module.graph.nodes if n.op == "call_function"]
    known = {name for name, _ in model.named_modules(remove_duplicate=False)}
    assert set(paths) <= known
    assert {"model.0", "model.1", "modelling", "blocks.0.model", "alias.norm"} <= set(paths)
    names = list(operator_names(traced.graph_module).values())
    assert {"model.0:linear", "blocks.0.model:linear#2", "blocks.1.norm:batch_norm"} <= set(names)
    assert names[-1] == "reshape"


def _linear(traced: Traced) -> fx.Node:
    found: fx.Node = next(n for n in traced.graph_module.graph.nodes if operator(n) == "linear")
    return found


def test_set_weight_gives_tensors_of_its_own() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.linear(self.linear(x))
            return y

    model = Twice()
    traced = trace(model, (torch.randn(3, 4),)).copy()
    weight, bias = torch.randn(4, 4), torch.randn(4)
    set_weight(traced.graph_module, _linear(traced), weight, bias)
    finish(traced.graph_module)
    weight_given = weight.clone()
    weight.zero_()
    x = torch.randn(3, 4)
    torch.testing.assert_close(
        traced(x), F.linear(F.linear(x, weight_given, bias), model.linear.weight)
    )
    set_weight(traced.graph_module, _linear(traced), weight_given, None)
    finish(traced.graph_module)
    torch.testing.assert_close(
        traced(x), F.linear(F.linear(x, weight_given, bias), model.linear.weight)
    )


def test_added_tensors_have_names_of_their_own() -> None:
    traced = trace(nn.Linear(4, 4), (torch.randn(3, 4),)).copy()
    module = traced.graph_module
    with module.graph.inserting_before(_linear(traced)):
        nodes = [add_tensor(module, "a.b:c#2", torch.full((2,), float(i))) for i in range(3)]
    assert len({node.target for node in nodes}) == 3
    values = [tensor_of(module, node) for node in nodes]
    assert [float(v[0]) for v in values if v is not None] == [0.0, 1.0, 2.0]
    assert tensor_of(module, _linear(traced)) is None
    assert tensor_of(module, 3.0) is None


def test_finish_drops_what_is_not_read_and_nothing_else() -> None:
    traced = trace(models.Tied(), (torch.tensor([[1, 2], [3, 4]]),)).copy()
    module = traced.graph_module
    ids = torch.tensor([[0, 6, 5]])
    expected = traced(ids)
    with module.graph.inserting_before(_linear(traced)):
        add_tensor(module, "unread", torch.zeros(3))
    module.register_buffer("stray", torch.zeros(2))
    module.add_module("stray_module", nn.Linear(2, 2))
    finish(module)
    assert len(module.state_dict()) == 1
    assert torch.equal(traced(ids), expected)


def test_finish_drops_every_name_of_an_unread_tied_tensor() -> None:
    traced = trace(nn.Linear(4, 4), (torch.randn(3, 4),)).copy()
    module = traced.graph_module
    tied = nn.Parameter(torch.zeros(2))
    module.register_parameter("one", tied)
    module.register_parameter("other", tied)
    finish(module)
    assert sorted(name.split(".")[-1] for name in module.state_dict()) == ["bias", "weight"]


def test_finish_keeps_the_tensors_of_branches() -> None:
    class Choosing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            chosen: torch.Tensor = torch.cond(
                x.shape[0] > 4,
                lambda t: t * torch.tensor([1.0, 2.0, 3.0]),
                lambda t: t + torch.tensor([5.0, 6.0, 7.0]),
                (x,),
            )
            return chosen

    traced = trace(Choosing(), (torch.randn(2, 3),)).copy()
    for name, branch in traced.graph_module.named_children():
        if name.startswith(("true", "false")):
            branch.register_buffer("kept", torch.zeros(1))
    finish(traced.graph_module)
    assert sum(name.endswith("kept") for name, _ in traced.graph_module.named_buffers()) == 2
    for batch in (2, 6):
        x = torch.randn(batch, 3)
        assert torch.equal(traced(x), Choosing()(x))
