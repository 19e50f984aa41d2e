"""Width and depth chosen by time: what is learnt of times, and the search on a made-up machine.

The machine's times are a formula over the layers of the exported file: channels are computed by
eight, and each layer costs a fixed time besides. So it is known what the search should find out.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from burnish.auto import STEPS, prune_to_latency
from burnish.auto._width_model import Network, Seen, fit
from burnish.bench import Race, race
from burnish.bundle import Artifact, OpTime
from burnish.errors import Infeasible, InvalidInput
from burnish.goal import Goal, Inputs, Target, Task
from burnish.metrics import top1
from burnish.prune import PruneTo
from burnish.recipe import replay


def test_the_block_and_the_times_are_learnt() -> None:
    """Times by a block of 16 with fixed costs; networks of other widths are told exactly."""
    draw = np.random.default_rng(0)

    def network() -> Network:
        seen = []
        for _ in range(12):
            family = ("conv", str(draw.integers(2)))
            widths = tuple(int(w) for w in draw.integers(1, 65, 2))
            blocks = [math.ceil(width / 16) * 16 for width in widths]
            price = (1 + int(family[1])) * (2e-6 + 3e-9 * blocks[0] * blocks[1])
            seen.append(Seen(family, widths, price))
        total = 1.1 * sum(item.seconds for item in seen) + len(seen) * 1e-6 + 2e-5
        return Network(tuple(seen), total)

    model = fit([network() for _ in range(12)])
    assert model.block == 16
    assert model.spread < 1e-6
    unseen = network()
    assert model.whole(unseen.operators) == pytest.approx(unseen.seconds, rel=1e-6)
    assert model.operator("never seen", (3, 4)) == 0.0


def test_a_block_is_not_made_up() -> None:
    """Times that fall with every channel are told with a block of 1."""
    draw = np.random.default_rng(1)
    sets = [tuple(int(w) for w in draw.integers(1, 40, 2)) for _ in range(30)]
    networks = [
        Network(tuple(Seen("f", w, 1e-9 * w[0] * w[1]) for w in sets[i : i + 3]), 1e-5 * (i + 1))
        for i in range(0, 30, 3)
    ]
    assert fit(networks).block == 1


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 16, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.two(F.relu(self.one(x))))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.Sequential(*(Block() for _ in range(4)))
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))
        return out


@dataclasses.dataclass
class Machine:
    """A `Bench` whose times are a formula over the convolutions of a file."""

    fixed: float
    block: int = 8

    def layers(self, artifact: Artifact) -> dict[str, float]:
        model = onnx.load(str(next(artifact.folder.glob("*.onnx"))))
        shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        found = {}
        for node in model.graph.node:
            if node.op_type == "Conv":
                outputs, inputs = shapes[node.input[1]][:2]
                cells = math.prod(math.ceil(width / self.block) for width in (outputs, inputs))
                found[node.name] = self.fixed + 1e-5 * cells
        return found

    def race(
        self,
        artifacts: Mapping[str, Artifact],
        inputs: Any,
        terms: Any,
        progress: Callable[[float], None],
    ) -> Race:
        def clock(artifact: Artifact, _: Any, runs: int) -> np.ndarray[Any, Any]:
            total = 1e-5 + sum(self.layers(artifact).values())
            times: np.ndarray[Any, Any] = np.full(runs, total) * (1 + 1e-4 * np.arange(runs))
            return times

        return race(
            artifacts, inputs, seconds=0.05, seed=0, batch=1, progress=progress, clock=clock
        )

    def op_times(self, artifact: Artifact, inputs: Any) -> tuple[OpTime, ...]:
        return tuple(OpTime(name, "Conv", s) for name, s in self.layers(artifact).items())

    def preflight(self, *_: Any) -> None:
        return None

    def profile(self, *_: Any) -> None:
        return None

    def now(self) -> float:
        return 0.0


@pytest.fixture(scope="module")
def goal() -> Goal:
    torch.manual_seed(0)
    images = [torch.randn(16, 3, 6, 6) for _ in range(2)]
    labelled = [(x, torch.zeros(16, dtype=torch.int64)) for x in images]
    task = Task(inputs=Inputs(images[0][:2]), metric=top1, calibration=images, validation=labelled)
    return Goal(task, Target(threads=1))


def _search(goal: Goal, folder: Path, machine: Machine, **settings: Any) -> Any:
    torch.manual_seed(0)
    model = Net().eval()
    with torch.no_grad():
        for parameter in model.blocks[2].two.parameters():  # type: ignore[union-attr]
            parameter.mul_(1e-3)
    found = prune_to_latency(
        model,
        goal,
        runtime="onnxruntime",
        step=PruneTo(criterion="l2"),
        folder=folder,
        bench=machine,
        console=Console(file=io.StringIO()),
        **settings,
    )
    return model, found


@pytest.mark.slow
def test_where_width_buys_time_the_target_is_met(goal: Goal, tmp_path: Path) -> None:
    model, found = _search(goal, tmp_path / "a", Machine(fixed=0.0), speedup=2.0)
    assert 0.45 < found.measured.value <= 0.5 * 1.01  # the next wider one would take 0.52
    assert len(found.attempts) == 1  # times are told exactly
    assert found.block == 8
    plan = found.candidate.history[-1].choices.plan
    assert "blocks.2:add" in plan["dropped"]  # it adds next to nothing
    assert found.candidate.history[-1].settings["of"] == "milliseconds"
    assert "x as fast" in str(found)
    again = replay(model, found.candidate.history, STEPS)
    x = torch.randn(3, 3, 6, 6)
    assert torch.equal(again(x), found.candidate.model(x))


@pytest.mark.slow
def test_where_width_buys_nothing_blocks_go_and_it_says_so(goal: Goal, tmp_path: Path) -> None:
    """Each layer takes as long whatever its width."""
    _, found = _search(goal, tmp_path / "b", Machine(fixed=1e-4, block=64), speedup=1.6)
    plan = found.candidate.history[-1].choices.plan
    assert len(plan["dropped"]) == 2
    assert plan["removed"] == {}
    assert any("width alone would be 1.0" in note for note in found.notes)
    with pytest.raises(Infeasible, match="times is foreseen") as caught:
        _search(goal, tmp_path / "c", Machine(fixed=1e-4, block=64), speedup=40.0)
    assert 5 < float(caught.value.result) < 10  # type: ignore[arg-type]


def test_what_is_asked_is_checked_before_any_work(goal: Goal) -> None:
    model = Net().eval()
    for settings, message in (
        ({}, "one limit"),
        ({"speedup": 2.0, "latency_ms": 1.0}, "one limit"),
        ({"speedup": 1.0}, "above 1"),
        ({"latency_ms": 0.0}, "above 0"),
        ({"speedup": math.nan}, "finite"),
        ({"speedup": 2.0, "precision": "int4"}, "precision='int4'"),
    ):
        with pytest.raises(InvalidInput, match=message):
            prune_to_latency(model, goal, **settings)
