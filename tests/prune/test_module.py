"""The user's own class, smaller, where its code allows it; the graph, and why, where not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from burnish.core import Candidate
from burnish.goal import Goal, Inputs, Task
from burnish.graph import Traced
from burnish.prune import PruneChannels, prune_channels
from burnish.testing import Tiny, catalogue
from tests.graph.channels.topologies import TOPOLOGIES

TINY = {tiny.name: tiny for tiny in catalogue()}
GRAPHS = {"attention_fused", "attention_split", "encoder"}  # a number of heads in their code
PRUNABLE = [tiny for tiny in catalogue() if tiny.name != "nested_output"]
# Heads, halves and sizes that stand in the code, or a bias that is not there.
WRITTEN = {
    *("split_attention", "grouped_query", "grouped_query_stretched", "biased_attention"),
    *("einsum_attention", "multihead", "multihead_batch_first", "hard_coded", "padded_shortcut"),
    *("res2net", "shuffle_unit", "softplus_linear", "channel_shuffle"),
}
LAYERS = [topology for topology in TOPOLOGIES if topology.name not in WRITTEN]


@pytest.mark.parametrize("tiny", PRUNABLE, ids=lambda tiny: tiny.name)
def test_the_form_a_model_gets(tiny: Tiny) -> None:
    candidate = PruneChannels(0.5).apply(Candidate(tiny.build()), tiny.goal())
    plan = candidate.history[-1].choices.plan
    assert plan["form"] == ("graph" if tiny.name in GRAPHS else "module"), plan["form because"]
    assert isinstance(candidate.model, Traced) == (tiny.name in GRAPHS)


@pytest.mark.parametrize("topology", LAYERS, ids=lambda topology: topology.name)
def test_layers_keep_their_sizes_in_step_with_their_tensors(topology: Any) -> None:
    """A module that is built anew with the sizes it says it has takes the weights."""
    torch.manual_seed(0)
    model = topology.make().eval()
    (shape,) = topology.shapes
    small = prune_channels(model, _inputs(topology.name, torch.randn(shape)), 0.4)
    assert not isinstance(small, Traced)
    assert type(small) is type(model)
    for module in small.modules():
        said = _said(module)
        if said is not None:
            again = said()
            again.load_state_dict(module.state_dict())
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


def _inputs(name: str, x: torch.Tensor) -> Any:
    return Inputs(x, batch_axis=int(name in ("rnn", "lstm", "lstm_projected")))


def _said(module: Any) -> Any:
    """How torch would build the layer from what it says of itself."""
    kind: Any = type(module)
    more: dict[str, Any]
    if isinstance(module, nn.Linear):
        bias = module.bias is not None
        return lambda: nn.Linear(module.in_features, module.out_features, bias=bias)
    if isinstance(module, nn.modules.conv._ConvNd):
        more = {"groups": module.groups, "bias": module.bias is not None}
        sizes = (module.in_channels, module.out_channels, module.kernel_size)
        return lambda: kind(*sizes, **more)
    if isinstance(module, nn.modules.batchnorm._NormBase):
        more = {"affine": module.affine, "track_running_stats": module.track_running_stats}
        return lambda: kind(module.num_features, **more)
    if isinstance(module, nn.LayerNorm):
        bias = module.bias is not None
        return lambda: nn.LayerNorm(module.normalized_shape, bias=bias)
    if isinstance(module, nn.RMSNorm):
        return lambda: nn.RMSNorm(module.normalized_shape)
    if isinstance(module, nn.GroupNorm):
        return lambda: nn.GroupNorm(module.num_groups, module.num_channels)
    if isinstance(module, nn.RNNBase):
        more = {
            name: getattr(module, name) for name in ("num_layers", "bidirectional", "proj_size")
        }
        if not module.proj_size:
            del more["proj_size"]
        return lambda: kind(module.input_size, module.hidden_size, **more)
    return None


class Hidden(nn.Module):
    """A number in the code: with fewer channels the reshape works, and means another thing."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Linear(6, 8)
        self.out = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.inside(x).reshape(x.shape[0], 4, -1)
        logits: torch.Tensor = self.out(heads.softmax(2).flatten(1))
        return logits


def test_a_size_that_only_changes_what_is_computed_is_found_out() -> None:
    task = Task(torch.randn(2, 6), TINY["plain_cnn"].goal().task.metric)
    candidate = PruneChannels(0.5).apply(Candidate(Hidden().eval()), Goal(task))
    assert isinstance(candidate.model, Traced)
    assert "computes something else" in candidate.history[-1].choices.plan["form because"]


def test_the_line_that_stood_in_the_way_is_named() -> None:
    (hard,) = (topology for topology in TOPOLOGIES if topology.name == "hard_coded")
    task = Task(torch.randn(hard.shapes[0]), TINY["plain_cnn"].goal().task.metric)
    candidate = PruneChannels(0.5).apply(Candidate(hard.make().eval()), Goal(task))
    because = candidate.history[-1].choices.plan["form because"]
    assert "topologies.py:" in because
    assert "size is written into its code" in because


class Auxiliary(nn.Module):
    """A second head that only training calls."""

    def __init__(self, joined: bool) -> None:
        super().__init__()
        self.inside = nn.Linear(6, 8)
        self.out = nn.Linear(8, 4)
        self.aux = nn.Linear(8 if joined else 6, 4)
        self.joined = joined

    def forward(self, x: torch.Tensor) -> Any:
        hidden = self.inside(x).relu()
        logits: torch.Tensor = self.out(hidden)
        return (logits, self.aux(hidden if self.joined else x)) if self.training else logits


@pytest.mark.parametrize("joined", [True, False])
def test_a_head_that_only_training_reads_must_still_fit(joined: bool) -> None:
    task = Task(torch.randn(2, 6), TINY["plain_cnn"].goal().task.metric)
    candidate = PruneChannels(0.5).apply(Candidate(Auxiliary(joined).eval()), Goal(task))
    because = candidate.history[-1].choices.plan["form because"]
    assert isinstance(candidate.model, Traced) == joined, because
    assert not joined or "eval mode does not read 'aux.weight'" in because


def test_a_pruned_module_trains_on_and_loads_its_own_weights() -> None:
    tiny = TINY["residual_projection"]
    small = prune_channels(tiny.build(), tiny.inputs(), 0.5)
    assert not isinstance(small, Traced)
    assert set(small.state_dict()) == set(tiny.build().state_dict())
    small.train()
    optimizer = torch.optim.SGD(small.parameters(), 0.1)
    before = copy.deepcopy(small.state_dict())
    small(tiny.inputs(4).args[0]).square().mean().backward()
    optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in small.named_parameters())
    again = prune_channels(tiny.build(), tiny.inputs(), 0.5)
    again.load_state_dict(small.state_dict())


def test_tied_weights_stay_one() -> None:
    tiny = TINY["tied_weights"]
    small: Any = prune_channels(tiny.build(), tiny.inputs(), 0.5)
    assert small.head.weight is small.embed.weight
