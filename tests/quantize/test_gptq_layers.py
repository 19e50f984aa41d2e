"""GPTQ over a network: sequential, every layer once, better than to nearest on unseen data."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from burnish.graph import Traced, operator_names
from burnish.quantize._blocks import gptq_layers as gptq_layers_file
from burnish.quantize._blocks.gptq import round_gptq
from burnish.quantize._blocks.gptq_layers import gptq_layers
from burnish.quantize._blocks.round import BlockSpec, dequantize_rounded, round_nearest
from burnish.quantize._calibration.sample import Sample
from burnish.quantize._smooth.smooth import sampled
from tests.quantize.quick import folded

SPEC = BlockSpec(4, 16)


class Stack(nn.Module):
    """Layers one behind another, the second and the third beside each other."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 32)
        self.first = nn.Linear(32, 48)
        self.left, self.right = nn.Linear(48, 32), nn.Linear(48, 32)
        self.last = nn.Linear(32, 30, bias=False)
        if tied:
            self.last.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.first(self.table(ids)))
        out: torch.Tensor = self.last(torch.tanh(self.left(x)) + self.right(x))
        return out


LAYERS = ("first:linear", "left:linear", "right:linear", "last:linear")


def stack(tied: bool = False) -> tuple[Stack, Traced, Sample, torch.Tensor]:
    torch.manual_seed(0)
    model = Stack(tied).eval()
    with torch.no_grad():
        # A few directions of the table carry most, as in trained ones.
        model.table.weight.copy_(torch.randn(30, 5) @ torch.randn(5, 32))
    ids = torch.randint(0, 30, (120, 6))
    traced = folded(model, ids[:2])
    return model, traced, sampled(traced, [(ids[:60],), (ids[60:],)]), ids


def with_weights(model: Stack, found: dict[str, torch.Tensor]) -> Stack:
    other = Stack()
    other.load_state_dict(model.state_dict())
    for name, matrix in found.items():
        with torch.no_grad():
            getattr(other, name.partition(":")[0]).weight.copy_(matrix)
    return other.eval()


def test_each_layer_is_rounded_for_what_the_rounded_ones_give_it() -> None:
    model, traced, sample, _ = stack()
    decided = list(gptq_layers(traced, sample, LAYERS[::-1], SPEC))
    assert [item.layer for item in decided] == list(LAYERS)
    rows = torch.cat([batch[0] for batch in sample.batches()])
    done: dict[str, torch.Tensor] = {}
    for item in decided:
        rounded = with_weights(model, done)
        read: dict[str, torch.Tensor] = {}
        layer = getattr(rounded, item.layer.partition(":")[0])
        layer.register_forward_pre_hook(lambda _, args, read=read: read.update(x=args[0]))
        with torch.no_grad():
            rounded(rows)
        x = read["x"].flatten(0, 1)
        weight = getattr(model, item.layer.partition(":")[0]).weight
        assert item.rounded is not None
        assert not item.note
        wanted = dequantize_rounded(round_gptq(weight, SPEC, x.T @ x), SPEC)
        found = dequantize_rounded(item.rounded, SPEC)
        # Sums in another order may tip a value over an edge.
        assert float(((found - wanted).abs() > 1e-6).float().mean()) < 0.05
        done[item.layer] = found


def test_the_network_errs_less_than_to_nearest_on_unseen_data() -> None:
    model, traced, sample, _ = stack()
    gptq = {
        item.layer: dequantize_rounded(item.rounded, SPEC)
        for item in gptq_layers(traced, sample, LAYERS, SPEC)
        if item.rounded is not None
    }
    nearest = {
        name: dequantize_rounded(
            round_nearest(getattr(model, name.partition(":")[0]).weight, SPEC), SPEC
        )
        for name in LAYERS
    }
    ids = torch.randint(0, 30, (200, 6), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        wanted = model(ids)
        errors = [
            float((with_weights(model, found)(ids) - wanted).square().sum())
            for found in (gptq, nearest)
        ]
    assert errors[0] < 0.7 * errors[1]


def test_a_weight_that_is_read_twice_is_left_at_nearest() -> None:
    _, traced, sample, _ = stack(tied=True)
    table = next(n for n in operator_names(traced.graph_module).values() if "embedding" in n)
    decided = {
        item.layer: item for item in gptq_layers(traced, sample, LAYERS, SPEC, nearest=[table])
    }
    assert set(decided) == set(LAYERS)
    assert decided["last:linear"].rounded is None
    assert "is read by another operator, too" in decided["last:linear"].note
    assert decided["first:linear"].rounded is not None


def test_what_is_rounded_to_nearest_in_front_counts() -> None:
    model, traced, sample, _ = stack()
    table = next(n for n in operator_names(traced.graph_module).values() if "embedding" in n)
    first = next(iter(gptq_layers(traced, sample, LAYERS, SPEC, nearest=[table])))
    rows = torch.cat([batch[0] for batch in sample.batches()])
    coarse = dequantize_rounded(round_nearest(model.table.weight, SPEC), SPEC)
    x = F.embedding(rows, coarse).flatten(0, 1)
    wanted = round_gptq(model.first.weight, SPEC, x.T @ x)
    assert first.rounded is not None
    off = dequantize_rounded(first.rounded, SPEC) - dequantize_rounded(wanted, SPEC)
    assert float((off.abs() > 1e-6).float().mean()) < 0.05


def test_the_model_stays_as_it_was() -> None:
    model, traced, sample, ids = stack()
    before = model(ids[:3]), traced(ids[:3])
    list(gptq_layers(traced, sample, LAYERS, SPEC))
    assert torch.equal(model(ids[:3]), before[0])
    assert torch.equal(traced(ids[:3]), before[1])


def test_one_second_moment_is_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    _, traced, sample, _ = stack()
    seen: list[weakref.ref[torch.Tensor]] = []

    def watched(weight: torch.Tensor, spec: BlockSpec, moment: torch.Tensor):
        gc.collect()
        assert all(earlier() is None for earlier in seen)
        seen.append(weakref.ref(moment))
        return round_gptq(weight, spec, moment)

    monkeypatch.setattr(gptq_layers_file, "round_gptq", watched)
    assert len(list(gptq_layers(traced, sample, LAYERS, SPEC))) == 4
    assert len(seen) == 3  # two layers share one


def test_too_few_rows_are_said() -> None:
    _, traced, _, ids = stack()
    few = sampled(traced, [(ids[:2],)])
    decided = list(gptq_layers(traced, few, LAYERS, SPEC))
    assert all("12 rows for" in item.note for item in decided)
    assert all(item.rounded is not None for item in decided)
