"""Learned rounding: its matrix form, what it must achieve, and that it repeats itself."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.core import Choices
from burnish.errors import InvalidInput
from burnish.graph import Traced, num_patches, operator, patches, tensor_of, window_of
from burnish.quantize import QuantizeStatic
from burnish.quantize._graphs.matrix import matrix_of, weight_of
from burnish.quantize._static import lockstep as lockstep_file
from burnish.quantize._static.grids import ends
from burnish.quantize._static.insert import equalized, insert
from burnish.quantize._static.lockstep import lockstep
from burnish.quantize._static.round import Bank, learn
from burnish.quantize._tensors.weights import FULL, grid_of, round_weight, weight_scales
from tests.quantize.quick import folded, quantized, reasons, seen

LEARNED = {"bits": 4, "rounding": "learned"}
LAYERS: dict[str, Any] = {
    "linear": (nn.Linear(6, 5), (4, 6)),
    "linear on three axes": (nn.Linear(6, 5), (2, 3, 6)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
    "conv2d": (
        nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)),
        (2, 4, 7, 9),
    ),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 7, 6)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4, padding=1), (2, 4, 5, 6)),
    "same": (nn.Conv2d(4, 6, (3, 5), padding="same"), (2, 4, 7, 6)),
    "conv3d": (nn.Conv3d(2, 3, 2, padding=1), (2, 2, 4, 5, 3)),
}


def node_of(model: Traced):
    return next(
        n
        for n in model.graph_module.graph.nodes
        if operator(n) in {"linear", "conv1d", "conv2d", "conv3d"}
    )


@pytest.mark.parametrize("kind", LAYERS)
def test_rows_times_matrix_is_the_layer(kind: str) -> None:
    layer, shape = LAYERS[kind]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    model = folded(layer, x)
    node = node_of(model)
    window, matrix = window_of(node, layer.weight), matrix_of(node, layer.weight)
    count = num_patches(x, window)
    with torch.no_grad():
        found = torch.einsum(
            "rgk,gok->rgo", patches(x, window, matrix.shape[0], torch.arange(count)), matrix
        )
        found = found.flatten(1) + layer.bias
        wanted = layer(x)
        wanted = wanted.movedim(1, -1) if window.kernel else wanted
        torch.testing.assert_close(found, wanted.reshape(count, -1), rtol=1e-4, atol=1e-5)
        part = torch.tensor([3, 0, count - 1])
        torch.testing.assert_close(
            patches(x, window, matrix.shape[0], part),
            patches(x, window, matrix.shape[0], torch.arange(count))[part],
        )
    assert torch.equal(weight_of(node, matrix, layer.weight), layer.weight)


def correlated(count: int, width: int, seed: int = 0) -> torch.Tensor:
    """Rows that vary along few directions, as activations do."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(4, width, generator=torch.Generator().manual_seed(99))
    return torch.randn(count, 4, generator=generator) @ mix + 0.1 * torch.randn(
        count, width, generator=generator
    )


@pytest.mark.parametrize(
    "clamp", [(-float("inf"), float("inf")), (0.0, 6.0)], ids=["plain", "relu6"]
)
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_learning_beats_rounding_to_nearest_on_unseen_rows(
    bits: int, clamp: tuple[float, float]
) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(1, 12, 32, generator=generator)
    bias = torch.randn(1, 1, 12, generator=generator)
    grid = grid_of(bits, half=False)
    scale = weight_scales(weight[0], 0, None, 1.0, grid).reshape(1, 12, 1)
    banks = []
    for seed in (0, 1):
        x = correlated(1500, 32, seed).unsqueeze(0)
        banks.append(Bank(x, torch.baddbmm(bias, x, weight.transpose(1, 2)).clamp(*clamp), clamp))
    found = learn(weight, scale, bias, grid, (banks[0], banks[1]), seed=0)
    assert found.error < 0.35 * found.nearest
    assert found.integers.min() >= grid.low
    assert found.integers.max() <= grid.high
    assert float((found.integers - weight / scale).abs().max()) <= 1.0 or bits < 8
    again = learn(weight, scale, bias, grid, (banks[0], banks[1]), seed=0)
    assert torch.equal(found.integers, again.integers)


def test_scales_of_few_bits_round_with_less_error_than_those_of_the_largest() -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    errors = []
    for bits in (2, 3, 4, 5, 6, 7):
        grid = grid_of(bits, half=False)
        scale = weight_scales(weight, 0, None, 1.0, grid)[:, None]
        error = (round_weight(weight, scale[:, 0], 0, grid) * scale - weight).square().sum()
        widest = torch.maximum(weight.amax(1) / grid.high, weight.amin(1) / grid.low)[:, None]
        plain = (weight / widest).round().clamp(grid.low, grid.high) * widest - weight
        assert error <= plain.square().sum()
        errors.append(float(error))
    assert all(b < 0.5 * a for a, b in pairwise(errors))
    assert grid_of(8, half=False) == FULL
    assert grid_of(8, half=True).high == 63
    assert grid_of(7, half=True).low == -63


class Net(nn.Module):
    """A small network with every kind of layer that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depthwise = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 12, 3, groups=12)
        self.middle, self.last = nn.Conv2d(12, 12, 1), nn.Linear(12, 5)
        self.grouped = nn.Conv2d(12, 12, 3, groups=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.depthwise(F.relu6(self.first(x))))
        x = F.relu(self.grouped(F.relu(self.middle(x))))
        out: torch.Tensor = self.last(x.mean((2, 3)))
        return out


def net(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model: Any = Net().eval()
    for layer in model.children():
        nn.init.kaiming_normal_(layer.weight)
    return model


def images(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 3, 3, generator=generator)
    fine = torch.randn(count, 3, 12, 12, generator=generator)
    return F.interpolate(coarse, 12) + 0.3 * fine


def logit_error(result: Traced, model: Traced, x: torch.Tensor) -> float:
    with torch.no_grad():
        return float((result(x) - model(x)).square().mean())


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_learned_rounding_recovers_most_of_what_few_bits_lose(runtime: str) -> None:
    model, unseen = folded(net(), images(2, 0)), images(64, 5)
    statistics = seen(model, *((part,) for part in images(64, 1).split(16)))
    full, _ = quantized(model, statistics, runtime)
    coarse, plain = quantized(model, statistics, runtime, weights={"bits": 4})
    result, choices = quantized(model, statistics, runtime, weights=LEARNED)
    errors = [logit_error(m, model, unseen) for m in (full, coarse, result)]
    assert errors[2] - errors[0] < 0.5 * (errors[1] - errors[0])
    weights = {n: t for n, t in choices.tensors.items() if n.startswith("weight:")}
    assert set(weights) == {
        f"weight:{name}" for name in plain.plan["operators"] if "mean" not in name
    }
    for name, integers in weights.items():
        assert integers.dtype == torch.int8
        small = "first" not in name and "last" not in name
        assert int(integers.abs().max()) <= (8 if small else 127)
    said = reasons(choices)
    assert said["middle:conv2d"].startswith("4-bit weights")
    assert said["first:conv2d"].startswith("8-bit weights, the first or last layer")


def test_the_seed_decides_and_nothing_else() -> None:
    model = folded(net(), images(2, 0))
    statistics = seen(model, (images(32, 1),))
    step = QuantizeStatic(weights=LEARNED)  # type: ignore[arg-type]
    hashes = []
    for seed in (3, 3, 4):
        torch.rand(1)
        hashes.append(step.choose_from(model, statistics, seed).to_json()["tensors"])
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_what_was_learned_on_is_what_is_rewritten(runtime: str, monkeypatch) -> None:
    """The graph that the walk wrote its integers into gives what `rewrite` makes of the choices."""
    from burnish.quantize._static import refine

    walked: list[Traced] = []

    def spy(real, int8, layers, sample):
        walked.append(int8)
        return lockstep(real, int8, layers, sample)

    monkeypatch.setattr(refine, "lockstep", spy)
    draw = torch.Generator().manual_seed(3)
    # Linear layers over sequences become products with a transposed weight, square or not.
    square = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 16))
    sequences = [torch.randn(n, 5, 16, generator=draw) for n in (2, 32, 16)]
    pictures = [images(2, 0), images(32, 1), images(16, 2)]
    for network, (example, calibration, x) in ((net(), pictures), (square, sequences)):
        model = folded(network, example)
        statistics = seen(model, (calibration,))
        for weights in (LEARNED, {}):
            result, _ = quantized(
                model, statistics, runtime, weights=weights, bias_correction="sequential"
            )
            with torch.no_grad():
                assert torch.equal(walked[-1](x), result(x))
                assert F.mse_loss(result(x), model(x)) < 0.1 * model(x).var()


def test_the_walk_shows_what_each_network_computes(monkeypatch) -> None:
    """Inputs met in lockstep are those of running both networks whole, however cut."""
    model, x = folded(net(), images(2, 0)), images(20, 1)
    statistics = seen(model, (x,))
    result, choices = quantized(model, statistics)
    layers = [name for name in choices.plan["operators"] if "mean" not in name]
    sample = torch.cat([tensors[0] for tensors in statistics.sample.batches()])
    met = {}
    real = model.copy()
    equalized(real, choices)
    for meeting in lockstep(real, insert(model.copy(), choices), layers, statistics.sample):
        met[meeting.name] = (torch.cat(meeting.real), torch.cat(meeting.int8))
    assert list(met) == layers
    for index, network in enumerate((real, result)):
        weight = tensor_of(real.graph_module, node_last(real).args[1])
        assert weight is not None
        inputs = input_of_last(network, sample)
        torch.testing.assert_close(met[layers[-1]][index], inputs, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(lockstep_file, "FRONTIER", 60_000)
    small = next(iter(lockstep(real, insert(model.copy(), choices), layers, statistics.sample)))
    assert 1 <= sum(len(part) for part in small.real) < 20


def node_last(model: Traced):
    return [n for n in model.graph_module.graph.nodes if operator(n) == "linear"][-1]


def input_of_last(model: Traced, x: torch.Tensor) -> torch.Tensor:
    """What the last linear layer reads."""
    kept = []

    class Watch(torch.fx.Interpreter):
        def run_node(self, n):
            value = super().run_node(n)
            kept.append((n, value))
            return value

    with torch.no_grad():
        Watch(model.graph_module).run(x)
    wanted = node_last(model).args[0]
    found: torch.Tensor = next(value for node, value in kept if node is wanted)
    return found


def test_first_and_last_layers_are_found_by_the_graph() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.c, self.d, self.e = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
            z = self.c(self.a(x) + self.b(y))
            return self.d(z), self.e(z)

    model = folded(TwoHeads(), torch.randn(2, 4), torch.randn(2, 4))
    first, last = ends(model.graph_module)
    names = [n.meta["nn_module_stack"] for n in model.graph_module.graph.nodes if n in first | last]
    assert (len(first), len(last), len(names)) == (2, 2, 4)


def test_too_few_samples_and_bits_for_nothing_are_refused() -> None:
    model = folded(net(), images(2, 0))
    statistics = seen(model, (images(3, 1),))
    with pytest.raises(InvalidInput, match="8 different calibration samples"):
        quantized(model, statistics, weights=LEARNED)
    single = folded(nn.Linear(4, 3), torch.randn(2, 4))
    with pytest.raises(InvalidInput, match="applies to no layer"):
        quantized(single, seen(single, (torch.randn(8, 4),)), weights={"bits": 4})


def test_where_learning_does_not_help_the_nearest_integers_stay() -> None:
    """Inputs of pure noise and one weight a row: nearest is best, and the table says so."""
    layers = [nn.Conv2d(4, 4, 1, groups=4, bias=False) for _ in range(3)]
    model = folded(nn.Sequential(*layers), torch.randn(2, 4, 3, 3))
    statistics = seen(model, (torch.randn(32, 4, 3, 3),))
    _, choices = quantized(model, statistics, weights={"rounding": "learned"})
    assert any("nearest: learning did not" in reason for reason in reasons(choices).values())


def stored(choices: Choices) -> set[str]:
    return {name.split(":", 1)[0] for name in choices.tensors}


def test_plain_eight_bits_store_no_weights() -> None:
    model = folded(net(), images(2, 0))
    statistics = seen(model, (images(16, 1),))
    for settings in ({}, {"weights": {"half_range": "all"}}, {"bias_correction": "sequential"}):
        _, choices = quantized(model, statistics, **settings)
        assert "weight" not in stored(choices)
