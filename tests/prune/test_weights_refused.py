"""What `PruneWeights` refuses, and what it says then."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from burnish.errors import Infeasible, InvalidInput, NoEffect
from burnish.goal import Goal, Inputs, Task
from burnish.metrics import top1
from burnish.prune import PruneWeights, masked_weights, prune_weights, remove_masks

IMAGES = torch.randn(4, 4, 4, 4)


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(32, 6)
    ).eval()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no sparsity": ({}, "sparsity=None"),
    "all": ({"sparsity": 1.0}, "above 0 and below 1"),
    "sparsity of a pattern": ({"sparsity": 0.3, "pattern": "2:4"}, "the pattern is 0.5 zeros"),
    "global pattern": ({"pattern": "2:4", "scope": "global"}, "fixes what each layer loses"),
    "biases in blocks": ({"sparsity": 0.5, "pattern": "4x1", "biases": True}, "has no inputs"),
    "pattern": ({"sparsity": 0.5, "pattern": "4:2"}, "N:M as '2:4'"),
    "no number": ({"sparsity": float("nan")}, "sparsity=nan"),
    "a word": ({"sparsity": "0.5"}, "sparsity='0.5'"),
    "no pattern": ({"sparsity": 0.5, "pattern": None}, "pattern=None"),
    "block of one": ({"sparsity": 0.5, "pattern": "1x1"}, "blocks of outputs by inputs"),
    "no ignore": ({"sparsity": 0.5, "ignore": None}, "give a tuple"),
    "criterion": ({"sparsity": 0.5, "criterion": "beauty"}, "one of random, l1"),
    "scope": ({"sparsity": 0.5, "scope": "row"}, "one of layer, global"),
    "ignore": ({"sparsity": 0.5, "ignore": "head"}, "give a tuple"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_out_of_range_are_refused(name: str) -> None:
    settings, message = REFUSED[name]
    with pytest.raises(InvalidInput, match=message):
        PruneWeights(**settings)


def test_missing_data_is_named() -> None:
    task = Task(Inputs(IMAGES), top1)
    with pytest.raises(InvalidInput, match="needs calibration data"):
        PruneWeights(0.5, criterion="wanda").choose(_net(), Goal(task))
    with pytest.raises(InvalidInput, match="needs Task"):
        PruneWeights(0.5, criterion="taylor").choose(_net(), Goal(task))
    with pytest.raises(InvalidInput, match="needs calibration="):
        prune_weights(_net(), 0.5, criterion="wanda")
    with pytest.raises(InvalidInput, match="needs data"):
        prune_weights(_net(), 0.5, criterion="wanda", calibration=[])
    with pytest.raises(InvalidInput, match="leave calibration out"):
        prune_weights(_net(), 0.5, calibration=[IMAGES])


def test_nothing_to_mask_says_why() -> None:
    with pytest.raises(NoEffect, match="its 4 inputs are no multiple of 32"):
        prune_weights(_net(), pattern="1:32", ignore=("4",))
    with pytest.raises(NoEffect, match="no layer has one"):
        prune_weights(nn.ReLU(), 0.5)
    with pytest.raises(NoEffect, match="masks none"):
        prune_weights(nn.Linear(2, 2), 0.1)
    with pytest.raises(NoEffect, match="no weight of this model carries a mask"):
        remove_masks(_net())


def test_all_of_a_layer_is_refused_by_layer_and_told_in_one_order() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    nn.init.constant_(net.get_parameter("0.weight"), 1e-3)
    with pytest.raises(Infeasible, match=r"all of '0\.weight' \(and 1 others\)") as caught:
        prune_weights(net, 0.99)
    assert caught.value.result == "0.weight"
    rows = masked_weights(PruneWeights(0.5, scope="global").choose_from(net))
    assert {row.weight: row.note for row in rows if row.note} == {
        "0.weight": "masked whole: nothing passes this layer any more"
    }


def test_what_is_not_finite_is_named() -> None:
    net = _net()
    with torch.no_grad():
        net.get_parameter("2.weight")[0, 0] = torch.nan
    with pytest.raises(InvalidInput, match=r"scores of '2\.weight' are not finite"):
        prune_weights(net, 0.5)
    with pytest.raises(InvalidInput, match=r"scores of '0\.weight' are not finite"):
        prune_weights(_net(), 0.5, criterion="wanda", calibration=[IMAGES * torch.inf])


def test_a_layer_that_another_module_reads_is_named() -> None:
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    with pytest.raises(InvalidInput, match=r"nn\.MultiheadAttention does"):
        prune_weights(net, 0.5, criterion="wanda", calibration=[torch.randn(2, 3, 8)])


def test_an_unknown_weight_to_ignore_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'body' matches nothing"):
        prune_weights(_net(), 0.5, ignore=("body",))


def test_a_plan_of_another_model_is_refused() -> None:
    choices = PruneWeights(0.5).choose_from(_net())
    step = PruneWeights(0.5)
    with pytest.raises(InvalidInput, match="which the model does not have"):
        step.rewrite(nn.Sequential(nn.ReLU()), choices)
    other = nn.Sequential(nn.Conv2d(4, 9, 3), nn.ReLU(), nn.Conv2d(9, 8, 1))
    with pytest.raises(InvalidInput, match="belongs to another model"):
        step.rewrite(other, choices)
