"""Living activations: against arithmetic, and against what torch really holds while it runs."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from burnish.errors import Damaged
from burnish.profile._count import count
from burnish.profile._flow import flow
from burnish.profile._memory import Memory, liveness
from tests.profile.mac_cases import Function
from tests.profile.traced import Net, traced

FLOAT = 4


class Held(TorchDispatchMode):
    """Bytes of all storages that operators have made and nobody has let go; the most of them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {
            t.untyped_storage()._cdata
            for t in tree_leaves((args, kwargs))
            if isinstance(t, torch.Tensor)
        }
        for tensor in tree_leaves(result):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata in given or storage._cdata in self._seen:
                continue
            self._seen.add(storage._cdata)
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return result

    def _gone(self, which: int, size: int) -> None:
        self._seen.discard(which)
        self.now -= size


class Branches(nn.Module):
    """Two branches alive at once, views between, an operator with several results."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 16, 3, padding=1)
        self.narrow = nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = self.wide(x)
        left, right = wide.chunk(2, 1)
        both = torch.cat([right.relu(), left], 1)
        result: torch.Tensor = self.narrow(both).flatten(1).transpose(0, 1) * 2
        return result


@pytest.mark.parametrize("make", [Net, Branches])
@pytest.mark.parametrize("batch", [1, 3])
def test_as_eager_runs_it_is_what_torch_really_holds(make: type[nn.Module], batch: int) -> None:
    graph = traced(make(), torch.zeros(2, 3, 8, 8))
    x = torch.zeros(batch, 3, 8, 8)
    held = Held()
    with torch.no_grad(), held:
        graph.graph_module(x)
    found = liveness(flow(graph, batch), planned=False)
    assert found.peak_bytes == held.most + x.numel() * FLOAT


def test_a_plan_lets_elementwise_operators_write_in_place_and_inputs_go() -> None:
    image, plane = 3 * 64 * FLOAT, 4 * 16 * FLOAT
    found = liveness(flow(traced(Net(), torch.zeros(2, 3, 8, 8)), 1))
    assert dict(found.timeline) == {
        "stem:conv2d": image + plane,
        "relu": plane,
        "block.conv:conv2d": 2 * plane,
        "block.norm:batch_norm": 2 * plane,
        "block:relu": 2 * plane,
        "block:add": 2 * plane,
        "flatten": plane,
        "head:linear": plane + 5 * FLOAT,
        "softmax": 2 * 5 * FLOAT,
    }
    assert (found.peak_bytes, found.peak_at) == (image + plane, "stem:conv2d")


def test_the_callers_input_is_not_written_over() -> None:
    found = liveness(flow(traced(nn.ReLU(), torch.zeros(2, 8)), 2))
    assert found.peak_bytes == 2 * 2 * 8 * FLOAT


@pytest.mark.parametrize(
    ("pad", "kept"),
    [(nn.ZeroPad2d(2), False), (nn.ConstantPad2d(2, 1.0), True), (nn.ReflectionPad2d(2), True)],
)
def test_zeros_around_an_image_are_no_memory_and_other_borders_are(
    pad: nn.Module, kept: bool
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), pad, nn.Conv2d(4, 4, 1))
    found = liveness(flow(traced(model, torch.zeros(2, 3, 8, 8)), 1))
    plane, padded = 4 * 64 * FLOAT, 4 * 144 * FLOAT
    assert found.peak_bytes == (2 * padded if kept else plane + padded)


def test_what_is_made_of_constants_alone_is_no_activation() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.zeros(100, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.table.exp()[:4]

    graph = traced(Positions(), torch.zeros(2, 4, 8))
    row = 2 * 4 * 8 * FLOAT
    assert liveness(flow(graph, 2)).peak_bytes == 2 * row
    assert liveness(flow(graph, 2), planned=False).peak_bytes > 100 * 8 * FLOAT


def test_weights_come_on_top_and_tied_ones_count_once() -> None:
    graph = traced(Net(), torch.zeros(2, 3, 8, 8))
    found = liveness(flow(graph, 2))
    tensors = [*graph.graph_module.parameters(), *graph.graph_module.buffers()]
    assert found.weight_bytes == sum(t.numel() * t.element_size() for t in tensors)


def test_activations_grow_with_the_batch_and_weights_do_not() -> None:
    graph = traced(Net(), torch.zeros(2, 3, 8, 8))
    one, eight = (liveness(flow(graph, batch)) for batch in (1, 8))
    assert eight.peak_bytes == 8 * one.peak_bytes
    assert eight.weight_bytes == one.weight_bytes


def test_json_and_back_is_the_same_value() -> None:
    found = liveness(flow(traced(Net(), torch.zeros(2, 3, 8, 8)), 2))
    assert Memory.from_json(found.to_json()) == found
    with pytest.raises(Damaged, match="memory"):
        Memory.from_json({"peak_bytes": 1})


def test_bytes_of_an_operator_are_what_it_reads_and_writes() -> None:
    found = {item.name: item for item in count(traced(Net(), torch.zeros(2, 3, 8, 8)), 2).operators}
    stem = found["stem:conv2d"]
    assert stem.weight_bytes == (4 * 27 + 4) * FLOAT
    assert stem.input_bytes == 2 * 3 * 64 * FLOAT
    assert stem.output_bytes == 2 * 4 * 16 * FLOAT
    view = found["flatten"]
    assert (view.input_bytes, view.output_bytes) == (0, 0)


def test_a_copy_moves_what_a_view_does_not() -> None:
    turned = Function(lambda x: x.transpose(1, 2).reshape(x.shape[0], -1).exp())
    found = count(traced(turned, torch.zeros(2, 3, 4)), 2)
    moved = {item.kind: item.input_bytes for item in found.operators}
    assert moved["transpose"] == 0
    assert moved["reshape"] == 2 * 3 * 4 * FLOAT


def test_a_lookup_reads_its_rows_and_not_its_table() -> None:
    found = count(traced(nn.Embedding(1000, 8), torch.zeros(2, 3, dtype=torch.int64)), 2)
    assert found.operators[0].weight_bytes == 2 * 3 * 8 * FLOAT
    assert found.weight_bytes == 1000 * 8 * FLOAT


def test_a_fused_group_moves_only_what_crosses_its_border() -> None:
    found = count(traced(Net(), torch.zeros(2, 3, 8, 8)), 2)
    image, plane = 2 * 3 * 64 * FLOAT, 2 * 4 * 16 * FLOAT
    stem = (4 * 27 + 4) * FLOAT
    assert found.traffic(["stem:conv2d"]) == image + stem + plane
    assert found.traffic(["relu", "stem:conv2d"]) == image + stem + plane
    conv, norm = (4 * 36 + 4) * FLOAT, 4 * 4 * FLOAT
    block = ["block.conv:conv2d", "block.norm:batch_norm", "block:relu", "block:add"]
    assert found.traffic(block) == plane + conv + norm + plane
