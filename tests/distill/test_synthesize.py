"""Inputs without data: nearer to what batch-norm remembers, and good enough to distil from."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from burnish.distill import distill, synthesize
from burnish.distill._synthesize import divergence
from burnish.errors import InvalidInput, NoEffect, Unsupported
from burnish.goal import Inputs
from burnish.graph import trace
from tests.distill.small import same_state, state, student, task

MEAN, SPREAD = torch.tensor([2.0, -1.0, 0.0, 4.0]), torch.tensor([3.0, 0.5, 1.0, 2.0])


def trained() -> nn.Sequential:
    """A network whose batch-norms have seen data far from normal noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.BatchNorm1d(4), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
        )
        for _ in range(40):
            net(MEAN + SPREAD * torch.randn(64, 4))
    return net.eval()


def test_the_divergence_is_that_of_two_normal_distributions() -> None:
    """KL(seen || remembered) of each channel, integrated on a grid in float64."""
    layer = nn.BatchNorm2d(2).eval()
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(torch.tensor([0.5, -1.0]))
    layer.running_var.copy_(torch.tensor([2.0, 0.3]))
    values = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(2))
    grid = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    total = 0.0
    for channel in range(2):
        seen = values[:, channel].double().flatten()
        m, v = float(seen.mean()), float(((seen - seen.mean()) ** 2).mean()) + layer.eps
        known_m = float(layer.running_mean[channel])
        known_v = float(layer.running_var[channel]) + layer.eps
        log_p = -((grid - m) ** 2) / (2 * v) - 0.5 * math.log(2 * math.pi * v)
        log_q = -((grid - known_m) ** 2) / (2 * known_v) - 0.5 * math.log(2 * math.pi * known_v)
        total += float((log_p.exp() * (log_p - log_q)).sum() * (grid[1] - grid[0]))
    assert float(divergence(values, layer)) == pytest.approx(total / 2, rel=1e-4)


def test_inputs_come_to_have_the_statistics_of_the_data() -> None:
    made = synthesize(trained(), Inputs(torch.zeros(2, 4)), num_batches=2, batch=32, steps=120)
    before, after = made.mismatch
    assert after < 0.05 * before
    assert [tuple(batch.shape) for batch in made.batches] == [(32, 4)] * 2
    inputs = torch.cat(made.batches)
    assert torch.allclose(inputs.mean(0), MEAN, atol=0.6)
    assert torch.allclose(inputs.std(0), SPREAD, rtol=0.3)
    assert not torch.equal(*made.batches)


def test_the_seed_decides_and_nothing_else_is_touched() -> None:
    net = trained().train()
    before, generator = state(net), torch.get_rng_state()
    few: dict[str, Any] = {"num_batches": 1, "batch": 16, "steps": 5}
    example = Inputs(torch.zeros(2, 4))
    one, two, other = (synthesize(net, example, **few, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.batches[0], two.batches[0])
    assert not torch.equal(one.batches[0], other.batches[0])
    assert same_state(before, state(net))
    assert net.training
    assert torch.equal(generator, torch.get_rng_state())
    assert all(p.grad is None for p in net.parameters())


def test_images_by_keyword_come_back_as_a_dict() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).eval()

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.net(image)
            return found

    example = Inputs(kwargs={"image": torch.zeros(2, 2, 5, 5)})
    made = synthesize(Named(), example, num_batches=1, batch=8, steps=20)
    assert made.batches[0]["image"].shape == (8, 2, 5, 5)


def test_a_student_learns_from_made_up_inputs() -> None:
    net = trained()
    made = synthesize(net, Inputs(torch.zeros(2, 4)), num_batches=2, batch=128, steps=60)
    on = task(train=list(made.batches), loss=None)
    fitted = distill(student(), net, on, labels=None, epochs=25, learning_rate=0.02)
    real = MEAN + SPREAD * torch.randn(256, 4, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        wanted = net(real).argmax(1)
        before, after = ((one(real).argmax(1) == wanted).float().mean() for one in
                         (student(), fitted.model))  # fmt: skip
    assert after > max(0.85, float(before))


def test_what_it_refuses() -> None:
    example = Inputs(torch.zeros(2, 4))
    with pytest.raises(Unsupported, match="no batch-norm with running statistics"):
        synthesize(student(), example)
    with pytest.raises(Unsupported, match="traced"):
        synthesize(trace(trained(), (torch.zeros(2, 4),)), example)
    with pytest.raises(InvalidInput, match="steps=0"):
        synthesize(trained(), example, steps=0)
    with pytest.raises(InvalidInput, match=r"'0' is torch\.int64"):
        synthesize(trained(), Inputs(torch.zeros(2, 4, dtype=torch.int64)))
    with pytest.raises(Unsupported, match="positional and keyword"):
        synthesize(trained(), Inputs(torch.zeros(2, 4), kwargs={"mask": torch.zeros(2)}))
    broken = trained()
    broken.get_buffer("0.running_mean").fill_(torch.nan)
    with pytest.raises(InvalidInput, match="nan"):
        synthesize(broken, example)
    settled = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)).eval()
    with pytest.raises(NoEffect, match="no nearer"):
        synthesize(settled, example, num_batches=1, batch=1024, steps=1)
