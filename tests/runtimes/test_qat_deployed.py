"""At every operator the runtime gives what was simulated: within one quantization step.

A model of many branches, one for each kind of operator that computes or moves integers: prepared,
trained for a few steps, converted, and exported once for each runtime. A branch is a layer, the
operator, and a layer: both layers hand their input on (identities, kept frozen), so that what is
compared is the operator alone, given the same integers. A step is the scale of the branch's last
quantizer, or 1/255 of its output's range where the runtime hands out floats.

How steps compound through a whole network is measured: benchmarks/qat_agreement.py.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from burnish.core import Choices
from burnish.goal import Goal, Inputs, Task
from burnish.graph import Traced, flatten_call
from burnish.metrics import Metric
from burnish.quantize import ConvertQat, coverage, prepare_qat
from burnish.runtimes import export, load
from burnish.train import fit

RUNTIMES = ("onnxruntime", "openvino")
CHANNELS, FEATURES = 4, 8
SHAPES = {
    "wave": (CHANNELS, 12),
    "image": (CHANNELS, 6, 6),
    "volume": (CHANNELS, 4, 4, 4),
    "rows": (FEATURES,),
    "tokens": (5, FEATURES),
}
CONVOLUTIONS = {"wave": nn.Conv1d, "image": nn.Conv2d, "volume": nn.Conv3d}


class Apply(nn.Module):
    """A function of what the layer before gave, and of the same in another order of channels."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.function(x, y)


def _of(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    """A layer reads the first alone."""

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = make()

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.layer(x)
            return result

    return First


def _call(function: Callable[[Any, Any], torch.Tensor]) -> Callable[[], nn.Module]:
    return lambda: Apply(function)


class Matrix(nn.Module):
    """A product with a stored matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(FEATURES, FEATURES) / 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x @ self.matrix


C, K = CHANNELS, FEATURES
# kind: what it reads, and what computes it.
KINDS: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "conv1d": ("wave", _of(lambda: nn.Conv1d(C, C, 3, padding=1))),
    "conv2d": ("image", _of(lambda: nn.Conv2d(C, C, 3, stride=2, padding=1))),
    "conv3d": ("volume", _of(lambda: nn.Conv3d(C, C, 3, padding=1))),
    "depthwise": ("image", _of(lambda: nn.Conv2d(C, C, 3, padding=1, groups=C))),
    "grouped": ("image", _of(lambda: nn.Conv2d(C, C, 3, groups=2))),
    "transposed": ("image", _of(lambda: nn.ConvTranspose2d(C, C, 2, stride=2))),
    "relu": ("image", _of(lambda: nn.Sequential(nn.Conv2d(C, C, 1), nn.ReLU()))),
    "relu6": ("image", _of(lambda: nn.Sequential(nn.Conv2d(C, C, 1), nn.ReLU6()))),
    "hardswish": ("image", _of(lambda: nn.Sequential(nn.Conv2d(C, C, 1), nn.Hardswish()))),
    "leaky_relu": ("image", _of(lambda: nn.Sequential(nn.Conv2d(C, C, 1), nn.LeakyReLU()))),
    "sigmoid": ("image", _of(lambda: nn.Sequential(nn.Conv2d(C, C, 1), nn.Sigmoid()))),
    "batch_norm": ("image", _of(lambda: nn.Sequential(nn.Conv2d(C, C, 3), nn.BatchNorm2d(C)))),
    "add": ("image", _call(lambda x, y: x + y)),
    "mul": ("image", _call(lambda x, y: x * y)),
    "cat": ("image", _call(lambda x, y: torch.cat([x[:, :2], y[:, 2:]], 1))),
    "avg_pool": ("image", _call(lambda x, y: F.avg_pool2d(x, 2))),
    "adaptive_avg_pool": ("image", _call(lambda x, y: F.adaptive_avg_pool2d(x, 1))),
    "mean": ("image", _call(lambda x, y: x.mean((2, 3), keepdim=True))),
    "max_pool": ("image", _call(lambda x, y: F.max_pool2d(x, 2))),
    "upsample": ("image", _call(lambda x, y: F.interpolate(x, scale_factor=2.0))),
    "pad": ("image", _call(lambda x, y: F.pad(x, (1, 0, 0, 1)))),
    "transpose": ("image", _call(lambda x, y: x.transpose(2, 3))),
    "linear": ("rows", _of(lambda: nn.Linear(K, K))),
    "linear_relu": ("rows", _of(lambda: nn.Sequential(nn.Linear(K, K), nn.ReLU()))),
    "linear_product": ("tokens", _of(lambda: nn.Linear(K, K))),
    "matrix": ("tokens", Matrix),
    "matmul": ("tokens", _call(lambda x, y: x @ (y.transpose(1, 2) @ x))),
}

TWO = {"add", "mul", "cat", "matmul"}
FEW = ("conv2d", "relu6", "add", "cat", "mean", "linear", "matmul")
REST = tuple(kind for kind in KINDS if kind not in FEW)
CASES = [
    pytest.param(runtime, kind, kinds, id=f"{kind}-{runtime}", marks=marks)
    for kinds, marks in ((FEW, ()), (REST, pytest.mark.slow))
    for runtime in RUNTIMES
    for kind in kinds
]


def _identity(source: str, turned: bool = False) -> nn.Module:
    """A frozen layer that hands its input on, or its channels in reverse order."""
    convolution = CONVOLUTIONS.get(source)
    layer = convolution(C, C, 1) if convolution else nn.Linear(K, K)
    eye = torch.eye(layer.weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_((eye.flip(0) if turned else eye).reshape(layer.weight.shape))
        assert layer.bias is not None
        layer.bias.zero_()
    return layer.requires_grad_(False)


class Branches(nn.Module):
    """One branch for each kind; a dict of their outputs."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        super().__init__()
        self.kinds = kinds
        self.before, self.turned, self.middle, self.behind = (nn.ModuleDict() for _ in range(4))
        for kind in kinds:
            source, make = KINDS[kind]
            self.before[kind] = _identity(source)
            if kind in TWO:
                self.turned[kind] = _identity(source, turned=True)
            self.middle[kind] = make()
            self.behind[kind] = _identity(source)

    def forward(self, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = {}
        for kind in self.kinds:
            source, _ = KINDS[kind]
            x = self.before[kind](given[source])
            y = self.turned[kind](given[source]) if kind in TWO else x
            found[kind] = self.behind[kind](self.middle[kind](x, y))
        return found


@dataclass(frozen=True)
class Deployed:
    """What was simulated and what the runtime gave for the same inputs, by kind."""

    choices: Choices
    simulated: dict[str, np.ndarray]
    given: dict[str, np.ndarray]

    def step(self, kind: str) -> float:
        """The scale of the branch's last quantizer, or 1/255 of what came out."""
        named = [name for name in self.choices.plan["quantizers"] if f"behind.{kind}:" in name]
        if named:
            return float(self.choices.plan["quantizers"][named[-1]]["scale"])
        return float(np.ptp(self.simulated[kind])) / 255

    def states(self, kind: str) -> set[str]:
        """What became of the operators of the branch's middle."""
        rows = coverage(self.choices)
        return {row.state for row in rows if row.operator.startswith(f"middle.{kind}")}


def _drawn(kinds: tuple[str, ...], size: int, seed: int) -> dict[str, torch.Tensor]:
    """A call: a tensor for each source the kinds read."""
    generator = torch.Generator().manual_seed(seed)
    read = {KINDS[kind][0] for kind in kinds}
    return {
        source: torch.randn(size, *shape, generator=generator)
        for source, shape in SHAPES.items()
        if source in read
    }


def _loss(outputs: dict[str, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
    return torch.stack([(out - target[0]).square().mean() for out in outputs.values()]).sum()


@functools.cache
def deployed(runtime: str, kinds: tuple[str, ...]) -> Deployed:
    """Prepare, train, convert, export, run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Branches(kinds).eval()
    task = Task(
        inputs=Inputs((_drawn(kinds, 2, 0),)),
        metric=Metric("none", lambda output, target: target, "continuous"),
        train=[(_drawn(kinds, 4, seed), torch.ones(4)) for seed in range(1, 5)],
        loss=_loss,
        unpack=lambda batch: (Inputs((batch[0],)), batch[1]),
    )
    calibration = [Inputs((_drawn(kinds, 8, seed),)) for seed in (9, 10)]
    prepared = prepare_qat(network, calibration, runtime=runtime)
    trained = fit(prepared, task, epochs=1, learning_rate=1e-2).model
    choices = ConvertQat().choose(trained, Goal(task))
    converted = ConvertQat().rewrite(trained, choices)
    assert isinstance(converted, Traced)
    inputs = _drawn(kinds, 6, 11)
    with torch.no_grad():
        simulated = {kind: value.numpy() for kind, value in converted(inputs).items()}
    with tempfile.TemporaryDirectory() as folder:
        artifact = export(converted, runtime, Path(folder), precision="int8")
        tensors = flatten_call((inputs,), {})
        names = [port.name for port in artifact.inputs]
        with load(artifact) as worker:
            given = worker.run({n: t.numpy() for n, t in zip(names, tensors, strict=True)})
            outputs = [np.array(array) for array in given]
    order = [slot.name for slot in converted.outputs]
    assert sorted(order) == sorted(kinds)
    return Deployed(choices, simulated, dict(zip(order, outputs, strict=True)))


@pytest.mark.parametrize(("runtime", "kind", "kinds"), CASES)
def test_the_runtime_is_within_one_step_of_the_simulation(
    runtime: str, kind: str, kinds: tuple[str, ...]
) -> None:
    """And the operator is quantized, but for what the runtime has no kernel for."""
    found = deployed(runtime, kinds)
    assert found.given[kind].shape == found.simulated[kind].shape
    apart = np.abs(found.given[kind].astype(np.float64) - found.simulated[kind])
    assert apart.max() <= 1.001 * found.step(kind)
    float_there = {"onnxruntime": {"transposed", "hardswish"}, "openvino": set()}[runtime]
    assert found.states(kind) - {"float"} or kind in float_there
