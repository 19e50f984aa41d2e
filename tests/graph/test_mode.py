"""Modes: a graph trains as the module does, comes back to eval mode, and says what it lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from burnish.errors import Unsupported
from burnish.graph import Traced, set_mode, trace

X = torch.randn(12, 8, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randint(0, 4, (12, 8), generator=torch.Generator().manual_seed(1))


class Small(nn.Module):
    """Batch-norm twice, a residual, dropout of two kinds."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.again = nn.BatchNorm2d(5, momentum=0.3)
        self.drop = nn.Dropout(dropout)
        self.channels = nn.Dropout2d(dropout)
        self.out = nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> Any:
        x = F.relu(self.norm(self.conv(x)))
        x = self.channels(x + self.again(x))
        return self.out(self.drop(x.mean((2, 3))))


def small(dropout: float = 0.0) -> Small:
    torch.manual_seed(3)
    return Small(dropout).double()


def train(model: nn.Module) -> list[float]:
    """Twelve steps of momentum, seeded."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(9)
        for x, y in zip(X, Y, strict=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return losses


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """By the names the user knows, but for the counters."""
    return {
        name.removeprefix("graph_module.").removeprefix("model."): tensor
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def assert_the_same(one: nn.Module, two: nn.Module) -> None:
    first, second = tensors(one), tensors(two)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize(
    ("traced", "dropout"),
    [
        (lambda: set_mode(trace(small().eval(), (X[0],)), True), 0.0),
        (lambda: trace(small().eval(), (X[0],), training=True), 0.0),
        (lambda: trace(small(0.3).eval(), (X[0],), training=True), 0.3),
    ],
    ids=["set", "traced so", "traced so, with dropout"],
)
def test_it_trains_as_the_module_does(traced: Callable[[], Traced], dropout: float) -> None:
    """Bit for bit, over twelve steps in float64: losses, weights and running statistics."""
    graph, eager = traced(), small(dropout).train()
    assert graph.training
    assert train(graph) == train(eager)
    assert_the_same(graph, eager)
    back = set_mode(graph, False)
    assert not back.training
    assert torch.equal(back(X[0]), eager.eval()(X[0]))
    assert torch.equal(back(X[0][:1]), eager(X[0][:1])), "the batch is dynamic"


def nodes(traced: Traced) -> list[Any]:
    return [node for node in traced.graph_module.graph.nodes if node.op == "call_function"]


def test_the_graph_it_is_given_stays_as_it_was() -> None:
    traced = trace(small().eval(), (X[0],))
    before = {name: t.clone() for name, t in traced.state_dict().items()}
    wanted = traced(X[0])
    train(set_mode(traced, True))
    assert not traced.training
    assert torch.equal(traced(X[0]), wanted)
    assert all(torch.equal(t, before[name]) for name, t in traced.state_dict().items())


def test_shared_tensors_are_trained_with_it() -> None:
    traced = trace(small().eval(), (X[0],))
    losing = set_mode(traced, True, share=True)
    train(losing)
    assert_the_same(traced, losing)
    assert torch.equal(traced(X[0]), set_mode(losing, False, share=True)(X[0]))


def test_there_and_back_is_the_same_graph() -> None:
    traced = trace(small().eval(), (X[0],))
    back = set_mode(set_mode(traced, True), False)
    assert [written(node) for node in nodes(back)] == [written(node) for node in nodes(traced)]
    assert torch.equal(back(X[0]), traced(X[0]))


def written(node: Any) -> str:
    return f"{node.target}{node.args}{node.kwargs}"


def test_the_mode_is_refused_elsewhere() -> None:
    traced = trace(small().eval(), (X[0],))
    assert traced.eval() is traced
    with pytest.raises(Unsupported, match=r"stays in eval mode.*graph.set_mode\(traced, True\)"):
        traced.train()
    training = set_mode(traced, True)
    assert training.train() is training
    assert training.copy().training
    with pytest.raises(Unsupported, match=r"stays in train mode.*graph.set_mode\(traced, False\)"):
        training.eval()


class Attentive(nn.Module):
    """Whatever drops: modules, attention, stochastic depth."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.linear = nn.Linear(8, 8)
        self.drop = nn.Dropout(0.3)
        self.off = nn.Dropout(0.0)
        self.drop_prob = 0.4

    def forward(self, x: torch.Tensor) -> Any:
        y = self.off(self.drop(self.linear(self.attention(x, x, x, need_weights=False)[0])))
        if self.training:
            y = y * torch.bernoulli(torch.full_like(y[:, :1, :1], 1 - self.drop_prob))
        return x + y


SEQUENCE = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(2))


def test_what_tracing_lost_is_named() -> None:
    torch.manual_seed(0)
    traced = trace(Attentive().eval(), (SEQUENCE,))
    assert traced.lost == (
        "the model (Attentive, drop_prob=0.4)",
        "attention (MultiheadAttention, dropout=0.1)",
        "drop (Dropout, p=0.3)",
    )
    assert set_mode(traced, True).lost == traced.copy().lost == traced.lost
    assert trace(small().eval(), (X[0],)).lost == ()


def test_the_recurrent_network_keeps_its_dropout() -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(8, 8, 2, dropout=0.5, batch_first=True).eval()
    traced = trace(lstm, (SEQUENCE,))
    assert traced.lost == ()
    training = set_mode(traced, True)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        got = training(SEQUENCE)[0]
        torch.manual_seed(4)
        wanted = lstm.train()(SEQUENCE)[0]
    assert torch.equal(got, wanted)
    assert torch.equal(set_mode(training, False)(SEQUENCE)[0], lstm.eval()(SEQUENCE)[0])


def test_a_graph_traced_in_train_mode_loses_dropout_in_eval_mode() -> None:
    training = trace(small(0.3), (X[0],), training=True)
    assert training.lost == ()
    back = set_mode(training, False)
    assert [name.split(" ")[0] for name in back.lost] == ["channels", "drop"]
    assert not any("dropout" in str(node.target) for node in nodes(back))


def test_attention_dropout_is_switched_off() -> None:
    class Attending(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(x, x, x, dropout_p=0.5 if self.training else 0.0)

    training = trace(Attending(), (SEQUENCE,), training=True)
    assert not torch.equal(training(SEQUENCE), training(SEQUENCE))
    back = set_mode(training, False)
    torch.testing.assert_close(back(SEQUENCE), Attending().eval()(SEQUENCE))
    assert back.lost == ("scaled_dot_product_attention (attention dropout, p=0.5)",)


def test_a_random_operator_without_a_mode_is_refused() -> None:
    class Depth(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.bernoulli(torch.full_like(x[:, :1], 0.5)) if self.training else x

    training = trace(Depth(), (SEQUENCE,), training=True)
    with pytest.raises(Unsupported, match=r"'bernoulli' of .* itself in eval mode"):
        set_mode(training, False)


def test_a_norm_without_statistics_is_the_same_in_both_modes() -> None:
    norm = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).double()
    traced = trace(norm.eval(), (X[0],))
    wanted = norm(X[0])
    assert torch.equal(set_mode(traced, True)(X[0]), wanted)
    assert torch.equal(set_mode(set_mode(traced, True), False)(X[0]), wanted)


def test_a_mean_over_all_batches_is_refused() -> None:
    norm = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=None)).double()
    with pytest.raises(Unsupported, match=r"batch-norm '1' keeps a mean over all batches"):
        set_mode(trace(norm.eval(), (X[0],)), True)


def test_an_instance_norm_with_statistics_trains() -> None:
    torch.manual_seed(0)
    norm = nn.InstanceNorm2d(3, affine=True, track_running_stats=True).double()
    norm.state_dict()["running_mean"].normal_()
    training = set_mode(trace(norm.eval(), (X[0],)), True)
    got = training(X[0])
    assert torch.equal(got, norm.train()(X[0]))
    assert torch.equal(set_mode(training, False)(X[0]), norm.eval()(X[0]))
