"""Batch-norm folding against eager models in float64, and where it must not be done."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.graph import (
    Traced,
    fold_batch_norm,
    operator,
    operator_names,
    scale_outputs,
    tensor_of,
    trace,
)
from burnish.testing import Tiny, catalogue


def _unsettle(model: nn.Module) -> nn.Module:
    """Running statistics and affine parts away from 0 and 1; float64; eval mode."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.running_mean, module.weight, module.bias):
                if tensor is not None:
                    tensor.data.normal_(0.4, 0.7, generator=generator)
            if module.running_var is not None:
                module.running_var.uniform_(0.3, 3.0, generator=generator)
    return model.double().eval()


def _kinds(traced: Traced) -> list[str]:
    return [operator(n) for n in traced.graph_module.graph.nodes if n.op == "call_function"]


def _fold(model: nn.Module, *args: torch.Tensor, axes: Any = None) -> tuple[Traced, list[str]]:
    """The folded copy and what was folded; the result must equal eager in float64."""
    before = copy.deepcopy(model.state_dict())
    traced = trace(model, args, axes=axes)
    folded = traced.copy()
    names = fold_batch_norm(folded.graph_module)
    for inputs in (args, tuple(x.flip(0) * 1.5 for x in args)):
        expected = model(*inputs)
        torch.testing.assert_close(folded(*inputs), expected, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(traced(*inputs), expected, rtol=1e-11, atol=1e-11)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    return folded, names


def _x(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (lambda b: nn.Conv1d(4, 6, 3, bias=b), nn.BatchNorm1d, (2, 4, 9)),
        (lambda b: nn.Conv2d(4, 6, 3, stride=2, bias=b), nn.BatchNorm2d, (2, 4, 7, 7)),
        (
            lambda b: nn.Conv2d(4, 6, 3, groups=2, padding="same", bias=b),
            nn.BatchNorm2d,
            (2, 4, 5, 5),
        ),
        (lambda b: nn.Conv2d(6, 6, 3, groups=6, bias=b), nn.BatchNorm2d, (2, 6, 5, 5)),
        (lambda b: nn.Conv3d(2, 6, 2, dilation=2, bias=b), nn.BatchNorm3d, (2, 2, 5, 5, 5)),
        (lambda b: nn.ConvTranspose1d(4, 6, 3, bias=b), nn.BatchNorm1d, (2, 4, 5)),
        (lambda b: nn.ConvTranspose1d(4, 6, 3, groups=2, bias=b), nn.BatchNorm1d, (2, 4, 5)),
        (lambda b: nn.ConvTranspose2d(4, 6, 3, stride=2, bias=b), nn.BatchNorm2d, (2, 4, 5, 5)),
        (lambda b: nn.ConvTranspose2d(4, 6, 3, groups=2, bias=b), nn.BatchNorm2d, (2, 4, 5, 5)),
        (lambda b: nn.ConvTranspose3d(4, 6, 2, groups=2, bias=b), nn.BatchNorm3d, (2, 4, 3, 3, 3)),
        (lambda b: nn.Linear(4, 6, bias=b), nn.BatchNorm1d, (3, 4)),
    ],
    ids=[
        *("conv1d", "conv2d", "grouped same", "depthwise", "conv3d"),
        *("transposed1d", "transposed1d grouped", "transposed2d", "transposed2d grouped"),
        *("transposed3d grouped", "linear"),
    ],
)
def test_folding_against_eager(
    layer: Callable[[bool], nn.Module],
    norm: Callable[..., nn.Module],
    shape: tuple[int, ...],
    bias: bool,
    affine: bool,
) -> None:
    model = _unsettle(nn.Sequential(layer(bias), norm(6, affine=affine, eps=1e-2), nn.ReLU()))
    folded, names = _fold(model, _x(*shape))
    kinds = _kinds(folded)
    assert len(names) == 1
    assert names[0].startswith("0:")
    assert "batch_norm" not in kinds
    assert len(kinds) == 2
    tensors = [*folded.graph_module.parameters(), *folded.graph_module.buffers()]
    assert len(tensors) == 2


@pytest.mark.parametrize("tiny", [t for t in catalogue() if "batch_norm" in t.topologies], ids=str)
def test_folding_over_the_catalogue(tiny: Tiny, traced: Traced) -> None:
    folded = traced.copy()
    names = fold_batch_norm(folded.graph_module)
    count = _kinds(traced).count("batch_norm")
    assert count == len(names) == len(set(names)) > 0
    assert "batch_norm" not in _kinds(folded)
    assert set(names) <= set(operator_names(folded.graph_module).values())
    inputs = tiny.inputs(3, seed=11)
    torch.testing.assert_close(
        tiny.call(folded, inputs), tiny.call(traced, inputs), rtol=1e-4, atol=1e-5
    )


class SharedConvolution(nn.Module):
    """One convolution called twice, each call with a batch-norm of its own."""

    def __init__(self, layer: nn.Module, norms: tuple[nn.Module, nn.Module]) -> None:
        super().__init__()
        self.conv = layer
        self.first, self.second = norms

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.first(self.conv(x)) + self.second(self.conv(x + 1))
        return y


def test_a_shared_convolution_with_two_batch_norms() -> None:
    norms = (nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    model = _unsettle(SharedConvolution(nn.Conv2d(4, 4, 1), norms))
    folded, names = _fold(model, _x(2, 4, 3, 3))
    assert names == ["conv:conv2d", "conv:conv2d#2"]
    assert "batch_norm" not in _kinds(folded)


def test_a_block_called_twice() -> None:
    norm = nn.BatchNorm2d(4)
    model = _unsettle(SharedConvolution(nn.Conv2d(4, 4, 1), (norm, norm)))
    folded, names = _fold(model, _x(2, 4, 3, 3))
    assert len(names) == 2
    assert "batch_norm" not in _kinds(folded)


class OneForTwo(nn.Module):
    """One call of a convolution read by two batch-norms, or by a batch-norm and the output."""

    def __init__(self, read_bare: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.first, self.second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.read_bare = read_bare

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        z: torch.Tensor = self.first(y) + (y if self.read_bare else self.second(y))
        return z


@pytest.mark.parametrize("read_bare", [True, False])
def test_a_convolution_with_several_readers_is_left(read_bare: bool) -> None:
    folded, names = _fold(_unsettle(OneForTwo(read_bare)), _x(2, 4, 3, 3))
    assert names == []
    assert _kinds(folded).count("batch_norm") == 2 - read_bare


def test_tied_weights_are_not_touched_by_folding_one_of_them() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 4)
            self.other = nn.Linear(4, 4)
            self.other.weight = self.one.weight
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.other(self.norm(self.one(x)))
            return y

    model = _unsettle(Model())
    folded, names = _fold(model, _x(3, 4))
    assert names == ["one:linear"]
    module = folded.graph_module
    by_name = {name: node for node, name in operator_names(module).items()}
    tied = tensor_of(module, by_name["other:linear"].args[1])
    own = tensor_of(module, by_name["one:linear"].args[1])
    assert tied is not None
    assert own is not None
    original = model.get_parameter("other.weight")
    assert torch.equal(tied, original)
    assert not torch.equal(own, original)


class Custom(nn.Module):
    """Batch-norm by hand, so that what is folded can be odd."""

    mean: torch.Tensor
    var: torch.Tensor

    def __init__(self, forward: Callable[[Custom, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.linear = nn.Linear(4, 4)
        self.gamma = nn.Parameter(torch.rand(4) + 0.5)
        self.register_buffer("mean", torch.randn(4))
        self.register_buffer("var", torch.rand(4) + 0.5)
        self.run = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(self, x)


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: F.batch_norm(m.conv(x), m.mean, m.var, m.gamma.exp()),
        lambda m, x: F.batch_norm(m.conv(x), m.mean, m.var, m.gamma, m.gamma * 2),
        lambda m, x: F.batch_norm(m.conv(x), m.mean * 2, m.var, m.gamma),
        lambda m, x: F.batch_norm(F.conv2d(x, m.conv.weight * 2), m.mean, m.var),
        lambda m, x: F.batch_norm(F.conv2d(x, m.conv.weight, m.gamma.exp()), m.mean, m.var),
        lambda m, x: F.batch_norm(m.conv(x), None, None, m.gamma, training=True),
        lambda m, x: F.batch_norm(m.conv(x).relu(), m.mean, m.var),
        lambda m, x: F.batch_norm(x, m.mean, m.var),
        # A linear layer has its channels last, batch-norm takes axis 1.
        lambda m, x: F.batch_norm(m.linear(x), m.mean, m.var),
    ],
    ids=[
        *("gamma", "beta", "mean", "weight", "bias"),
        *("batch statistics", "relu between", "no convolution", "channels last"),
    ],
)
def test_what_cannot_be_folded_stays_and_is_right(run: Any) -> None:
    model = Custom(run).double().eval()
    folded, names = _fold(model, _x(2, 4, 4, 4))
    assert names == []
    assert "batch_norm" in _kinds(folded)


def test_a_convolution_without_a_batch_is_not_folded() -> None:
    """[4, 5, 4] without a batch: batch-norm's channels are axis 1, the convolution's axis 0."""
    model = _unsettle(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm1d(5)))
    _, names = _fold(model, _x(4, 5, 4), axes={"0": {}})
    assert names == []


def test_folding_keeps_the_precision_of_the_weights() -> None:
    model = _unsettle(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))).float()
    traced = trace(model, (_x(2, 4, 3, 3).float(),))
    fold_batch_norm(traced.graph_module)
    assert {b.dtype for b in traced.graph_module.buffers()} == {torch.float32}


def test_dropout_is_gone_and_dropout_that_is_always_on_stays() -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = F.dropout2d(F.alpha_dropout(x, training=False), training=False)
            return F.dropout(F.dropout(x, training=False) + 1, 0.5, training=True)

    assert _kinds(trace(Model().eval(), (_x(2, 4, 3, 3),))) == ["add", "dropout"]


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_scale_outputs_scales_what_comes_out(groups: int) -> None:
    factor = _x(6)
    x = _x(2, 6, 5)
    conv = nn.Conv1d(6, 6, 3, groups=groups, bias=False).double()
    scaled = scale_outputs(conv.weight, factor, False, groups)
    torch.testing.assert_close(F.conv1d(x, scaled, groups=groups), conv(x) * factor[None, :, None])
    transposed = nn.ConvTranspose1d(6, 6, 3, groups=groups, bias=False).double()
    scaled = scale_outputs(transposed.weight, factor, True, groups)
    torch.testing.assert_close(
        F.conv_transpose1d(x, scaled, groups=groups), transposed(x) * factor[None, :, None]
    )
