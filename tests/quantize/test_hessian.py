"""Second moments layer by layer: sums of x xᵀ, shared weights, and what is let go."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from burnish.errors import InvalidInput
from burnish.graph import Traced, operator_names
from burnish.quantize._blocks.hessian import Passage
from burnish.quantize._smooth.smooth import sampled
from tests.quantize.quick import folded


class Network(nn.Module):
    """Two layers that read one value, a product with a stored matrix, a layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 12)
        self.a, self.b = nn.Linear(12, 8), nn.Linear(12, 8)
        self.matrix = nn.Parameter(torch.randn(8, 6))
        self.twice = nn.Linear(6, 6)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        x = torch.relu(self.a(x)) * self.b(x)
        x = x @ self.matrix
        out: torch.Tensor = self.twice(torch.tanh(self.twice(x)))
        return out


NAMES = ("a:linear", "b:linear", "matmul", "twice:linear", "twice:linear#2")


def network(seed: int = 0) -> tuple[Network, Traced, torch.Tensor]:
    torch.manual_seed(seed)
    model, ids = Network().eval(), torch.randint(0, 10, (20, 5))
    return model, folded(model, ids), ids


def test_layers_that_read_one_value_come_together() -> None:
    _, traced, ids = network()
    passage = Passage(traced, sampled(traced, [(ids,)]), ("embedding", *NAMES)[1:], "gptq")
    assert list(passage.groups()) == [NAMES[:2], NAMES[2:3], NAMES[3:4], NAMES[4:]]


def test_moments_are_sums_over_all_rows() -> None:
    model, traced, ids = network()
    # Equal samples count once.
    rows = torch.unique(ids, dim=0)
    passage = Passage(traced, sampled(traced, [(ids[:7],), (ids[7:],)]), NAMES, "gptq")
    x = model.table(rows).double()
    second = torch.relu(x @ model.a.weight.double().T + model.a.bias)
    second = second * (x @ model.b.weight.double().T + model.b.bias)
    for group, value in zip(passage.groups(), (x, second), strict=False):
        moment = passage.moment(group)
        flat = value.reshape(-1, value.shape[-1]).detach()
        torch.testing.assert_close(moment.total.double(), flat.T @ flat, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(
            moment.magnitude.double(), flat.abs().mean(0), rtol=1e-5, atol=1e-6
        )
        assert (moment.layers, moment.num_rows) == (group, len(flat))
        assert not moment.note


def test_what_is_put_in_place_is_what_follows_reads() -> None:
    model, traced, ids = network()
    row = (model.a.bias.relu() * model.b.bias).detach()
    wanted = torch.outer(row, row) * len(torch.unique(ids, dim=0)) * ids.shape[1]
    passage = Passage(traced, sampled(traced, [(ids,)]), NAMES, "gptq")
    groups = list(passage.groups())
    passage.moment(groups[0])
    for name in groups[0]:
        passage.replace(name, torch.zeros_like(passage.weight(name)))
    torch.testing.assert_close(passage.moment(groups[1]).total, wanted, rtol=1e-4, atol=1e-5)


def test_a_product_takes_its_matrix_as_it_gives_it() -> None:
    model, traced, ids = network()
    passage = Passage(traced, sampled(traced, [(ids,)]), NAMES, "gptq")
    assert torch.equal(passage.weight("matmul"), model.matrix.t())
    passage.moment(("matmul",))
    passage.replace("matmul", torch.zeros(6, 8))
    assert float(passage.moment(("twice:linear",)).total.abs().max()) == 0.0


def test_weights_are_shared_and_those_put_in_place_are_let_go() -> None:
    _, traced, ids = network()
    before = {name: t.clone() for name, t in traced.graph_module.named_parameters()}
    passage = Passage(traced, sampled(traced, [(ids,)]), NAMES, "gptq")
    for name, tensor in traced.graph_module.named_parameters():
        assert passage.module.get_parameter(name).data_ptr() == tensor.data_ptr()
    groups = list(passage.groups())
    passage.moment(groups[0])
    put = torch.zeros_like(passage.weight("a:linear"))
    passage.replace("a:linear", put)
    gone = weakref.ref(put)
    del put
    gc.collect()
    assert gone() is not None
    passage.moment(groups[1])
    gc.collect()
    assert gone() is None
    assert torch.equal(passage.weight("a:linear"), before["model.a.weight"])
    for name, tensor in traced.graph_module.named_parameters():
        assert torch.equal(tensor, before[name])


def test_a_layer_called_twice_keeps_what_was_put_in_place() -> None:
    _, traced, ids = network()
    passage = Passage(traced, sampled(traced, [(ids,)]), NAMES, "gptq")
    assert passage.shared("twice:linear")
    assert passage.shared("a:linear") is None
    passage.moment(("twice:linear",))
    passage.replace("twice:linear", torch.zeros(6, 6))
    passage.moment(("twice:linear#2",))
    assert float(passage.weight("twice:linear#2").abs().max()) == 0.0


def test_an_embedding_can_be_put_in_place() -> None:
    _, traced, ids = network()
    names = [name for name in operator_names(traced.graph_module).values() if "embedding" in name]
    passage = Passage(traced, sampled(traced, [(ids,)]), [*names, *NAMES], "gptq")
    passage.advance(names[0])
    passage.replace(names[0], torch.zeros(10, 12))
    assert float(passage.moment(NAMES[:2]).total.abs().max()) == 0.0


def test_few_rows_are_said() -> None:
    _, traced, ids = network()
    passage = Passage(traced, sampled(traced, [(ids[:2],)]), NAMES, "gptq")
    assert "10 rows for 12 inputs" in passage.moment(NAMES[:2]).note


def test_values_that_are_not_finite_are_named() -> None:
    class Overflows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.layer(x * 1e38)
            return out

    x = torch.randn(8, 4)
    traced = folded(Overflows(), x)
    passage = Passage(traced, sampled(traced, [(x * 10,)]), ["layer:linear"], "gptq")
    with pytest.raises(InvalidInput, match="what layer:linear reads is not finite"):
        passage.moment(("layer:linear",))


def test_no_data_is_refused() -> None:
    _, traced, _ = network()
    with pytest.raises(InvalidInput, match="gptq: the calibration data is empty"):
        Passage(traced, sampled(traced, []), NAMES, "gptq")
