"""The best layers of a rank, against the same said otherwise in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from burnish.errors import InvalidInput
from burnish.goal import Call
from burnish.graph import Traced, trace
from burnish.prune._low_rank_layers import Layer, layers_of
from burnish.prune._low_rank_spectrum import (
    Spectrum,
    activation_spectra,
    factors,
    matrix,
    weight_spectra,
)

X = torch.randn(40, 3, 7, 7, generator=torch.Generator().manual_seed(1)).double()


class Net(nn.Module):
    """A wide convolution (more outputs than inputs), a narrow one, and a linear layer of each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.narrow = nn.Conv2d(32, 6, 3, bias=False)
        self.expand = nn.Linear(6, 20)
        self.reduce = nn.Linear(20, 9, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.narrow(self.stem(x).relu()).flatten(2).transpose(1, 2)
        y: torch.Tensor = self.reduce(self.expand(x + 1).relu())
        return y


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().double().eval()


@pytest.fixture(scope="module")
def traced(net: Net) -> Traced:
    return trace(net, (X[:2],))


@pytest.fixture(scope="module")
def layers(traced: Traced) -> dict[str, Layer]:
    found = layers_of(traced, ())
    assert not any(layer.reason for layer in found)
    return {layer.path: layer for layer in found}


@pytest.fixture(scope="module")
def inputs(net: Net) -> dict[str, torch.Tensor]:
    """What each layer's matrix is multiplied with, as vectors [rows, in · kernel]."""
    seen: dict[str, torch.Tensor] = {}
    for path, module in net.named_children():
        module.register_forward_pre_hook(
            lambda module, args, path=path: seen.update({path: _vectors(module, args[0])})
        )
    with torch.no_grad():
        net(X)
    for module in net.children():
        module._forward_pre_hooks.clear()
    return seen


def _vectors(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    if isinstance(module, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    assert isinstance(module, nn.Conv2d)
    size: tuple[int, ...] = module.kernel_size
    padding: tuple[int, ...] = module.padding  # type: ignore[assignment]
    patches = nn.functional.unfold(x, size, padding=padding, stride=module.stride)
    return patches.transpose(1, 2).flatten(0, 1)


@pytest.fixture(scope="module")
def spectra(traced: Traced, layers: dict[str, Layer]) -> dict[str, Spectrum]:
    calls = [Call((X[:15],), {}, None), Call((X[15:],), {}, None)]
    found = activation_spectra(traced, tuple(layers.values()), calls)
    return {path: found[layer.name] for path, layer in layers.items()}


PATHS = ("stem", "narrow", "expand", "reduce")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("criterion", ["weight", "activation"])
def test_full_rank_is_the_layer(
    path: str, criterion: str, layers: dict[str, Layer], spectra: dict[str, Spectrum]
) -> None:
    layer = layers[path]
    spectrum = spectra[path] if criterion == "activation" else weight_spectra([layer])[layer.name]
    part = factors(layer, spectrum, layer.full_rank)
    product = part.second.flatten(1) @ part.first.flatten(1)
    assert torch.allclose(product, matrix(layer), rtol=0, atol=1e-10)
    before = torch.zeros(layer.outputs).double() if layer.bias is None else layer.bias
    after = torch.zeros_like(before) if part.bias is None else part.bias
    assert torch.allclose(before, after, rtol=0, atol=1e-10)
    assert spectrum.error(layer.full_rank) == 0


@pytest.mark.parametrize("path", PATHS)
def test_the_error_is_what_whitening_gives_and_no_more_than_plain(
    path: str,
    layers: dict[str, Layer],
    spectra: dict[str, Spectrum],
    inputs: dict[str, torch.Tensor],
) -> None:
    """Wang et al.: the singular values of W times a root of the inputs' covariance."""
    layer, spectrum, x = layers[path], spectra[path], inputs[path].numpy()
    weight = matrix(layer).numpy()
    covariance = np.cov(x.T, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(values.clip(0))
    singular = np.linalg.svd(weight @ root, compute_uv=False)
    plain = weight_spectra([layer])[layer.name]
    assert spectrum.num_rows == len(x)
    for rank in (1, 3, layer.full_rank - 1):
        told = spectrum.error(rank)
        assert told == pytest.approx((singular[rank:] ** 2).sum() / (singular**2).sum(), rel=1e-4)
        assert told == pytest.approx(_lost(layer, spectrum, rank, x), rel=1e-6)
        assert told <= _lost(layer, plain, rank, x)


def _lost(layer: Layer, spectrum: Spectrum, rank: int, x: np.ndarray) -> float:
    """The squared error of the layer's outputs, by their variance."""
    part = factors(layer, spectrum, rank)
    y = x @ matrix(layer).numpy().T
    told = x @ (part.second.flatten(1) @ part.first.flatten(1)).numpy().T
    shift = np.zeros(layer.outputs) if part.bias is None else part.bias.detach().numpy()
    if layer.bias is not None:
        shift = shift - layer.bias.detach().numpy()
    lost: float = ((y - told - shift) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()
    return lost


def test_without_data_the_error_is_that_of_singular_values(layers: dict[str, Layer]) -> None:
    layer = layers["narrow"]
    spectrum = weight_spectra([layer])[layer.name]
    singular = torch.linalg.svdvals(matrix(layer)).square()
    part = factors(layer, spectrum, 4)
    lost = (matrix(layer) - part.second.flatten(1) @ part.first.flatten(1)).square().sum()
    assert part.bias is None
    assert spectrum.error(4) == pytest.approx(float(singular[4:].sum() / singular.sum()))
    assert spectrum.error(4) == pytest.approx(float(lost / singular.sum()))


def test_the_two_layers_share_the_scale(
    layers: dict[str, Layer], spectra: dict[str, Spectrum]
) -> None:
    part = factors(layers["narrow"], spectra["narrow"], 5)
    rows, columns = part.first.flatten(1).norm(dim=1), part.second.flatten(1).norm(dim=0)
    assert torch.allclose(rows, columns)


def test_where_the_data_say_nothing_the_weights_decide() -> None:
    """Three rows for eight inputs: the fourth direction on is the weight's own."""
    torch.manual_seed(3)
    model = nn.Linear(8, 8).double()
    traced = trace(model, (torch.randn(3, 8).double(),))
    layers = layers_of(traced, ())
    (spectrum,) = activation_spectra(
        traced, layers, [Call((torch.randn(3, 8).double(),), {}, None)]
    ).values()
    assert spectrum.error(2) == pytest.approx(0, abs=1e-9)
    assert spectrum.note == (
        "few data: 3 rows for 8 outputs; the weights decided where they say nothing"
    )
    weight = matrix(layers[0])
    rest = weight - spectrum.directions[:, :2] @ spectrum.directions[:, :2].t() @ weight
    best = torch.linalg.svd(rest).U[:, 0]
    assert abs(float(best @ spectrum.directions[:, 2])) > 1 - 1e-4


def test_a_layer_that_gives_nothing_has_no_error() -> None:
    model = nn.Linear(4, 3)
    nn.init.zeros_(model.weight)
    traced = trace(model, (torch.randn(2, 4),))
    layers = layers_of(traced, ())
    calls = [Call((torch.randn(5, 4),), {}, None)]
    for found in (weight_spectra(layers), activation_spectra(traced, layers, calls)):
        (spectrum,) = found.values()
        assert spectrum.error(1) == 0
        part = factors(layers[0], spectrum, 1)
        assert bool(torch.isfinite(part.first).all())
        assert not (part.second.flatten(1) @ part.first).any()


def test_what_is_not_finite_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    traced = trace(model, (torch.randn(2, 4),))
    layers = layers_of(traced, ())
    bad = torch.full((2, 4), torch.inf)
    with pytest.raises(InvalidInput, match=r"what 0:linear reads or gives is not finite"):
        activation_spectra(traced, layers, [Call((bad,), {}, None)])
    with pytest.raises(InvalidInput, match="there is no batch"):
        activation_spectra(traced, layers, [])
    nn.init.constant_(model[0].weight, torch.nan)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="the weight of 0:linear is not finite"):
        weight_spectra(layers_of(trace(model, (torch.randn(2, 4),)), ()))
