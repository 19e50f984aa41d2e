"""Batch-norm statistics measured again: what they are, and what stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from burnish.errors import InvalidInput, NoEffect
from burnish.goal import Inputs, Task
from burnish.graph import Traced, fold_batch_norm, trace
from burnish.metrics import top1
from burnish.train import reestimate_batch_norm, settle_batch_norm

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = [3 * torch.randn(8, 3, 6, 6, generator=GENERATOR) + 1 for _ in range(3)]


class Net(nn.Module):
    """A convolution, a batch-norm, dropout, another of each; logits [n, 2]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.second, self.last = nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5)
        self.head = nn.Linear(5, 2)
        for norm in (self.norm, self.last):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(torch.relu(self.norm(self.first(x))))
        x = torch.relu(self.last(self.second(x)))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


def task(calibration: Any = IMAGES, **changes: Any) -> Task:
    return Task(Inputs(IMAGES[0][:2]), top1, **{"calibration": calibration, **changes})


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("graph_module.model."): tensor
        for name, tensor in model.state_dict().items()
        if "running" in name
    }


def test_one_batch_leaves_what_a_training_pass_with_momentum_1_does() -> None:
    net = Net().eval()
    wanted = Net().train()
    for module in wanted.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    wanted.drop.eval()
    wanted(IMAGES[0])
    found = statistics(reestimate_batch_norm(net, task(IMAGES[:1])))
    for name, tensor in statistics(wanted).items():
        torch.testing.assert_close(found[name], tensor, msg=name)


def test_several_batches_give_the_statistics_of_all_that_was_read() -> None:
    """The first norm reads all images as one; the second what the first made batch by batch."""
    net = Net().eval()
    found = statistics(reestimate_batch_norm(net, task()))
    before, behind = [], []
    for images in IMAGES:
        x = net.first(images).double()
        before.append(x)
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
        gain, shift = (p.double().reshape(1, -1, 1, 1) for p in (net.norm.weight, net.norm.bias))
        x = (x - mean) / (var + net.norm.eps).sqrt() * gain + shift
        behind.append(net.second(torch.relu(x).float()).double())
    for name, read in (("norm", before), ("last", behind)):
        values = torch.cat(read).movedim(1, 0).flatten(1)
        torch.testing.assert_close(found[f"{name}.running_mean"].double(), values.mean(1))
        torch.testing.assert_close(found[f"{name}.running_var"].double(), values.var(1))


def test_nothing_else_changes_and_the_model_is_left_alone() -> None:
    net = Net()
    net.head.eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    flags = [module.training for module in net.modules()]
    found: Any = reestimate_batch_norm(net, task())
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert [module.training for module in found.modules()] == flags
    assert found.norm.track_running_stats
    assert found.norm.momentum == net.norm.momentum
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, before[name]) == ("running" not in name), name
    assert not found.norm._forward_pre_hooks


def test_a_graph_is_measured_as_the_module_it_came_from() -> None:
    net = Net().eval()
    traced = trace(net, (IMAGES[0][:2],))
    before = traced(IMAGES[0])
    found = reestimate_batch_norm(traced, task())
    assert isinstance(found, Traced)
    wanted = reestimate_batch_norm(net, task())
    for name, tensor in statistics(wanted).items():
        torch.testing.assert_close(statistics(found)[name], tensor, msg=name)
    torch.testing.assert_close(found(IMAGES[0]), wanted(IMAGES[0]))
    assert torch.equal(traced(IMAGES[0]), before)


def test_a_channel_that_never_changes_keeps_its_variance() -> None:
    net: Any = Net().eval()
    with torch.no_grad():
        net.first.weight[2] = 0.0
        net.norm.running_var[2] = 7.0
    found: Any = reestimate_batch_norm(net, task())
    assert found.norm.running_var[2] == 7.0
    torch.testing.assert_close(found.norm.running_mean[2], net.first.bias[2])


def test_a_norm_called_twice_takes_both_calls_in() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            both: torch.Tensor = self.norm(x) + self.norm(2 * x + 5)
            return both.mean((2, 3))

    values = torch.cat([part for x in IMAGES for part in (x, 2 * x + 5)])
    values = values.movedim(1, 0).flatten(1).double()
    model = Twice().eval()
    for net in (model, trace(model, (IMAGES[0][:2],))):
        found = statistics(reestimate_batch_norm(net, task()))
        torch.testing.assert_close(found["norm.running_mean"].double(), values.mean(1))
        torch.testing.assert_close(found["norm.running_var"].double(), values.var(1))


def test_what_cannot_be_measured_is_refused() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
    with pytest.raises(NoEffect, match="no batch-norm with running statistics"):
        reestimate_batch_norm(plain, task())
    folded = trace(Net().eval(), (IMAGES[0][:2],))
    fold_batch_norm(folded.graph_module)
    with pytest.raises(NoEffect, match="folded into the weights"):
        reestimate_batch_norm(folded, task())
    unused = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
    unused.spare = nn.BatchNorm1d(2)
    unused.forward = lambda x: unused[1](unused[0](x))  # type: ignore[method-assign]
    with pytest.raises(NoEffect, match="calibration data reach none of the 1 batch-norms"):
        reestimate_batch_norm(unused, task())
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(108, 2), nn.BatchNorm1d(2)).eval()
    with pytest.raises(InvalidInput, match=r"'2' reads \[1, 2\], one value per channel"):
        reestimate_batch_norm(narrow, task([IMAGES[0][:1]]))
    with pytest.raises(InvalidInput, match="'norm' reads is not finite"):
        reestimate_batch_norm(Net().eval(), task([IMAGES[0] * float("nan")]))
    with pytest.raises(InvalidInput, match=r"give Task\(calibration=…\)"):
        reestimate_batch_norm(Net().eval(), task(None))


def test_it_is_watched() -> None:
    titles = []

    def watch(items, title):
        titles.append(title)
        return items

    reestimate_batch_norm(Net().eval(), task(), watch=watch)
    assert titles == ["measuring batch-norm statistics"]


@pytest.mark.parametrize("traced", [False, True])
def test_settled_norms_answer_alike_and_stand_where_training_begins(traced: bool) -> None:
    """The same answers in eval mode; running statistics of what is read; no other tensor moved."""
    net = Net().eval()
    model: nn.Module = trace(net, (IMAGES[0][:2],)) if traced else net
    settled = settle_batch_norm(model, task())
    for batch in IMAGES:
        torch.testing.assert_close(settled(batch), model(batch), rtol=1e-4, atol=1e-5)
    read: list[torch.Tensor] = []
    hook = net.first.register_forward_hook(lambda _, args, output: read.append(output))
    for batch in IMAGES:
        net(batch)
    hook.remove()
    found = statistics(settled)
    together = torch.cat(read)
    torch.testing.assert_close(found["norm.running_mean"], together.mean((0, 2, 3)))
    torch.testing.assert_close(found["norm.running_var"], together.var((0, 2, 3)))
    old, new = (dict(one.named_parameters()) for one in (model, settled))
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    assert moved
    assert all("norm" in name or "last" in name for name in moved)


def test_a_norm_without_gain_and_shift_is_left_as_it_is() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten()).eval()
    settled = settle_batch_norm(net, task())
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), settled.buffers(), strict=True))
