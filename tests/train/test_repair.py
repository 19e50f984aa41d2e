"""Layers brought back to their original's outputs: how far, and what must not change meanwhile."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from burnish.errors import InvalidInput, NoEffect, Unsupported
from burnish.goal import Inputs, Task
from burnish.graph import Traced, fold_batch_norm, set_mode, trace
from burnish.metrics import top1
from burnish.testing import catalogue
from burnish.train import _repair, reestimate_batch_norm, repair
from burnish.train._least_squares import DAMPING


class Net(nn.Module):
    """Convolutions with and without a batch-norm, grouped, strided, dilated, and two linears."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding="same", groups=8)
        self.grouped, self.last = nn.Conv2d(8, 12, 3, 2, 1, groups=2), nn.BatchNorm2d(12)
        self.wide = nn.Conv2d(12, 6, 2, dilation=2)
        self.hidden = nn.Linear(6, 10)
        self.head = nn.Linear(10, 4)
        for norm in (self.norm, self.last):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.depthwise(x))
        x = F.relu(self.last(self.grouped(x)))
        x = F.relu(self.wide(x)).mean((2, 3))
        logits: torch.Tensor = self.head(F.relu(self.hidden(x)))
        return logits


def images(n: int, seed: int) -> torch.Tensor:
    """Noise with neighbours alike, as in images: what least squares can make use of."""
    generator = torch.Generator().manual_seed(seed)
    return F.avg_pool2d(torch.randn(n, 3, 10, 10, generator=generator), 3, 1) * 3


CALIBRATION = [images(24, 1), images(24, 2)]
UNSEEN = images(64, 3)


def task(calibration: Any = CALIBRATION, example: Any = UNSEEN[:2]) -> Task:
    return Task(Inputs(example), top1, calibration=calibration)


def matrices(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.dim() > 1}


@torch.no_grad()
def masked(model: nn.Module, share: float = 0.5) -> Any:
    found = copy.deepcopy(model)
    for parameter in found.parameters():
        if parameter.dim() > 1:
            size = parameter.abs()
            parameter[size <= size.flatten().kthvalue(int(share * size.numel())).values] = 0.0
    return found


@torch.no_grad()
def rounded(model: nn.Module, bits: int = 3) -> tuple[Any, dict[str, torch.Tensor]]:
    """Each channel on a grid of its own; and the integers."""
    found, integers = copy.deepcopy(model), {}
    for name, parameter in found.named_parameters():
        if parameter.dim() > 1:
            flat = parameter.flatten(1)
            scale = flat.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
            integers[name] = (flat / scale).round()
            parameter.copy_((integers[name] * scale).reshape(parameter.shape))
    return found, integers


@torch.no_grad()
def distance(model: nn.Module) -> float:
    return float((model(UNSEEN) - NET(UNSEEN)).square().mean())


NET: Any = reestimate_batch_norm(Net().eval(), task())
PLAIN: Any = nn.Sequential(nn.Linear(6, 2)).eval()
ROWS = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) + 1


@functools.cache
def graph() -> Traced:
    """The original traced once, which saves each repair half of its tracing."""
    return trace(NET, (UNSEEN[:2],))


@functools.cache
def repaired() -> Any:
    return mended(masked(NET))


def mended(damaged: nn.Module, **settings: Any) -> Any:
    """Repair of a damaged `NET`."""
    return repair(damaged, graph(), task(), **settings)


def plainly(model: nn.Module, original: nn.Module = PLAIN, **settings: Any) -> Any:
    """Repair of models on 40 rows of 6."""
    return repair(model, original, task([ROWS], ROWS[:2]), **settings)


def test_a_masked_network_comes_closer_to_its_original_and_keeps_its_zeros() -> None:
    damaged = masked(NET)
    before = {name: t.clone() for name, t in damaged.state_dict().items()}
    found = repair(damaged, NET, task())
    assert distance(found.model) < 0.3 * distance(damaged)
    assert all(torch.equal(t, before[name]) for name, t in damaged.state_dict().items())
    for name, matrix in matrices(found.model).items():
        assert torch.equal(matrix == 0, before[name] == 0), name
    assert found.samples == 48
    names = ["stem", "depthwise", "grouped", "wide", "hidden", "head"]
    assert [layer.name.split(":")[0] for layer in found.layers] == names
    for layer in found.layers:
        assert layer.before is not None
        assert layer.after is not None
        assert layer.after < layer.before
        assert layer.repaired
    assert "6 of 6 layers repaired from 48 samples" in str(found)


def test_what_a_mask_took_comes_back_where_another_input_says_the_same() -> None:
    """Two equal halves of the input: a pruned half's weights go to the other."""
    damaged = copy.deepcopy(PLAIN)
    with torch.no_grad():
        damaged[0].weight[:, 3:] = 0.0
    x = ROWS[:, :3].repeat(1, 2)
    found: Any = repair(damaged, PLAIN, task([x], x[:2]))
    wanted = PLAIN[0].weight[:, :3] + PLAIN[0].weight[:, 3:]
    torch.testing.assert_close(found.model[0].weight[:, :3], wanted, rtol=0.05, atol=0.02)
    (layer,) = found.layers
    assert layer.after is not None
    assert layer.after < 1e-3


def test_one_linear_layer_is_the_textbook_s_ridge_regression() -> None:
    """On four fifths of the samples, towards the present weights, the bias free."""
    x = ROWS[:, :2] @ ROWS[:2] + 1  # of rank 2: what is left can say what is gone
    damaged = masked(PLAIN)
    repairing: Any = repair(damaged, PLAIN, task([x], x[:2]))
    assert repairing.layers[0].note == "weights of 2 of 2 channels"
    found = repairing.model[0]
    part = torch.arange(40) % 5 != 4
    rows, y = x[part].double(), PLAIN(x)[part].double().detach()
    damping = DAMPING * (rows - rows.mean(0)).square().sum(0).mean()
    for channel in range(2):
        now = damaged[0].weight[channel].double().detach()
        kept = (now != 0).nonzero()[:, 0]
        z = torch.cat([rows[:, kept], torch.ones(len(rows), 1, dtype=torch.float64)], 1)
        ridge = damping * torch.eye(len(kept) + 1, dtype=torch.float64)
        ridge[-1, -1] = 0.0
        towards = torch.cat([now[kept], now[:1] * 0])
        solved = torch.linalg.solve(z.T @ z + ridge, z.T @ y[:, channel] + ridge @ towards)
        torch.testing.assert_close(found.weight[channel, kept], solved[:-1].float())
        torch.testing.assert_close(found.bias[channel], solved[-1].float())


def test_factors_leave_rounded_weights_on_their_grid() -> None:
    damaged, integers = rounded(NET)
    found = mended(damaged, change="channels").model
    assert distance(found) < 0.8 * distance(damaged)
    assert not torch.equal(found.norm.weight, damaged.norm.weight)
    for name, matrix in matrices(found).items():
        if name in ("stem.weight", "grouped.weight"):
            assert torch.equal(matrix, matrices(damaged)[name]), "the norm behind takes the factor"
            continue
        flat, grid = matrix.flatten(1).double(), integers[name].double()
        scale = (flat * grid).sum(1, keepdim=True) / grid.square().sum(1, keepdim=True)
        torch.testing.assert_close(flat, scale * grid, rtol=1e-5, atol=1e-7)
        assert bool((scale > 0).all())


def test_biases_alone_leave_every_matrix_bit_for_bit() -> None:
    damaged, _ = rounded(NET)
    found = mended(damaged, change="biases").model
    assert distance(found) < distance(damaged)
    for name, tensor in damaged.state_dict().items():
        moved = not torch.equal(found.state_dict()[name], tensor)
        assert moved <= name.endswith("bias"), name
    assert not torch.equal(found.norm.bias, damaged.norm.bias), "the norm's shift is a bias, too"


def test_a_pruned_channel_is_not_brought_to_life() -> None:
    """Its shift would be a constant for the next layer, and its removal no longer exact."""
    damaged = masked(NET)
    with torch.no_grad():
        for tensor in (damaged.stem.weight, damaged.norm.bias, damaged.hidden.weight):
            tensor[2] = 0.0
        damaged.hidden.bias[2] = 0.0
    found = mended(damaged).model
    for tensor in (found.stem.weight, found.norm.bias, found.hidden.weight, found.hidden.bias):
        assert not tensor[2].any()


def test_later_layers_are_fitted_to_what_repaired_ones_hand_them() -> None:
    """The last layer, damaged once more behind repaired ones, is repaired to what it was."""
    once, damaged = repaired().model, masked(NET)
    reset = copy.deepcopy(once)
    with torch.no_grad():
        reset.head.weight.copy_(damaged.head.weight)
        reset.head.bias.copy_(damaged.head.bias)
    again = mended(reset).model
    assert distance(again) < 1.05 * distance(once)
    torch.testing.assert_close(again.head.weight, once.head.weight, rtol=0.2, atol=0.05)


def test_graphs_are_repaired_too_folded_or_not() -> None:
    wanted = repaired().model(UNSEEN)
    traced = trace(masked(NET), (UNSEEN[:2],))
    found = mended(traced).model
    assert isinstance(found, Traced)
    torch.testing.assert_close(found(UNSEEN), wanted, rtol=1e-3, atol=1e-4)
    fold_batch_norm(traced.graph_module)
    before = traced(UNSEEN)
    folded = mended(traced).model
    assert distance(folded) < 0.3 * distance(traced)
    assert torch.equal(traced(UNSEEN), before)
    with pytest.raises(InvalidInput, match="the model is a graph in train mode"):
        mended(set_mode(graph(), True))


@pytest.mark.slow  # a trace or two for each model
@pytest.mark.parametrize("tiny", catalogue(), ids=str)
def test_every_tiny_model_is_repaired_or_says_why_not(tiny) -> None:
    original, goal = tiny.build(), tiny.goal()
    damaged = masked(original, 0.3)
    state = {key: value.clone() for key, value in damaged.state_dict().items()}
    try:
        found = repair(damaged, original, goal.task)
    except NoEffect as refusal:
        pytest.skip(str(refusal))
    assert all(torch.equal(t, state[key]) for key, t in damaged.state_dict().items())
    assert all(layer.note for layer in found.layers)
    for key, value in matrices(found.model).items():
        assert not bool(((state[key] == 0) & (value != 0)).any())
    for layer in found.layers:
        if layer.repaired:
            assert layer.after is not None
            assert layer.before is not None
            assert layer.after < layer.before


def test_layers_left_alone_are_named_with_the_reason() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.turned = nn.ConvTranspose1d(6, 6, 1)
            self.last = nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(torch.relu(self.first(x)))
            x = self.turned(x.unsqueeze(2)).squeeze(2)
            logits: torch.Tensor = self.last(torch.relu(x))
            return logits

    torch.manual_seed(4)
    original = Mixed().eval()
    found = plainly(masked(original), original)
    told = {layer.name: layer.note for layer in found.layers if not layer.repaired}
    assert told["first:linear"].startswith("its weight is read by several layers")
    assert told["turned:conv_transpose1d"].endswith("no conv_transpose1d")
    wide = nn.Sequential(nn.Linear(6, 3)).eval()
    with pytest.raises(
        NoEffect, match=r"0:linear: its weight is \[3, 6\], the original's \[2, 6\]"
    ):
        plainly(wide)
    other = nn.Sequential(nn.Identity(), nn.Linear(6, 2)).eval()
    with pytest.raises(NoEffect, match="1:linear: the original has no layer of that name"):
        plainly(other)
    with pytest.raises(NoEffect, match="the model has no convolution or linear layer"):
        plainly(nn.Sequential(nn.Softmax(1)).eval())


def test_a_layer_without_a_bias_has_none_to_change() -> None:
    original = nn.Sequential(nn.Linear(6, 2, bias=False)).eval()
    with pytest.raises(NoEffect, match="0:linear: it has no bias"):
        plainly(masked(original), original, change="biases")
    assert plainly(masked(original), original).layers[0].repaired


def test_a_mask_that_is_applied_at_each_call_is_told() -> None:
    class Masked(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight * (weight.abs() > 0.1)

    damaged = copy.deepcopy(PLAIN)
    parametrize.register_parametrization(damaged[0], "weight", Masked())
    with pytest.raises(NoEffect, match="its weight is computed in the graph"):
        plainly(damaged)


def test_the_same_network_has_nothing_to_repair() -> None:
    with pytest.raises(NoEffect, match="no channel got better on held-out samples"):
        mended(graph())


def test_the_number_of_samples_is_bounded_by_the_setting_and_by_memory(monkeypatch) -> None:
    assert plainly(masked(PLAIN), samples=30).samples == 30
    monkeypatch.setattr(_repair, "FRONTIER", 1000)
    assert plainly(masked(PLAIN)).samples == 1000 // (4 * (6 + 2))


def test_a_layer_too_large_to_solve_for_gets_factors_and_biases(monkeypatch) -> None:
    monkeypatch.setattr(_repair, "MOST_WORK", 0.0)
    (layer,) = plainly(masked(PLAIN)).layers
    assert layer.repaired
    assert layer.note.endswith("too many to solve for: factors and biases alone were tried")
    assert not layer.note.startswith("weights")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"change": "all"}, r"change='all'\): one of weights, channels, biases"),
        ({"samples": 7}, r"samples=7\): a whole number, at least 8"),
        ({"samples": True}, "samples=True"),
        ({"split": "train"}, r"give Task\(train=…\)"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        plainly(masked(PLAIN), **settings)


def test_data_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(InvalidInput, match="8 samples at least, and the calibration data has 5"):
        repair(masked(PLAIN), PLAIN, task([ROWS[:5]], ROWS[:2]))
    with pytest.raises(InvalidInput, match="'0:linear', or comes out of it in the original, is"):
        repair(masked(PLAIN), PLAIN, task([ROWS * float("nan")], ROWS[:2]))


def test_a_network_that_cannot_be_traced_is_refused() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(x)
            return logits if x.sum() > 0 else -logits

    original = Branches().eval()
    with pytest.raises(Unsupported, match="export"):
        plainly(masked(original), original)


def test_equal_seeds_repair_alike(monkeypatch) -> None:
    monkeypatch.setattr(_repair, "ROWS", 20)
    damaged = masked(PLAIN)
    one, two, other = (plainly(damaged, seed=seed).model[0].weight for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
