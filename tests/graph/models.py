"""Models with one peculiarity each, for the tests of the tracer."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Pair = namedtuple("Pair", "first second")


@dataclass
class Output:
    logits: torch.Tensor
    extra: dict[str, Any]
    hidden: torch.Tensor | None = None
    twice: torch.Tensor | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.twice = self.logits * 2


class Nested(nn.Module):
    """Every kind of container, constants and None among the tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.linear(x)
        return {
            "b": [y, (y + 1, None)],
            "a": Pair(y + 2, 3.5),
            "out": Output(y + 3, {"name": "n", "flag": True, "more": y + 4}),
        }


class Nameclash(nn.Module):
    """Outputs whose paths join to one name, and to the name of an input."""

    def forward(self, x: torch.Tensor) -> Any:
        return {"a": {"b": x + 1}, "a_b": x + 2, "x": x + 3, "output": [x + 4]}


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(self.model(x))
        return normed


class Named(nn.Module):
    """Submodules named `model` as our wrapper names its own, lists, aliases, repeated calls."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
        self.modelling = nn.Linear(4, 4)
        self.last = Inner()
        self.blocks = nn.ModuleList([Inner(), self.last])
        self.alias = self.blocks[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.modelling(self.model(x))
        for block in self.blocks:
            x = block(x)
        x = self.blocks[0](x) + self.alias(x)
        x = x + self.last.model(x)
        return x.reshape(x.shape[0], 2, 2)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.embed(ids))
        return logits


class Inplace(nn.Module):
    """In-place operators of every safety: on fresh values, on views, on an input, unused."""

    counter: torch.Tensor

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(4, 4)
        self.register_buffer("counter", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> Any:
        y: torch.Tensor = self.linear(x)
        if self.kind == "plain":
            y = F.relu_(y)
            y += x
            return F.dropout(y, training=self.training, inplace=True).mul_(2)
        if self.kind == "result unused":
            y.relu_()
            y.add_(1)
            return y
        if self.kind == "read before and after":
            before = y + 1
            y.sigmoid_()
            return before, y
        if self.kind == "on a view":
            y.view(-1, 2, 2)[:, 0].relu_()
            y[:, 0] = 3.0
            return y
        if self.kind == "view taken before":
            seen = y.reshape(-1, 2, 2)
            y.relu_()
            return seen, y
        if self.kind == "on an input":
            x = x * 1
            x.add_(1)
            return x, y
        if self.kind == "on the input itself":
            return x.relu_() + y
        if self.kind == "on a buffer":
            self.counter += 1
            return y + self.counter
        assert self.kind == "narrow dtype"
        z = y.half()
        z += x
        return z


INPLACE = (
    "plain",
    "result unused",
    "read before and after",
    "on a view",
    "view taken before",
    "on an input",
    "on the input itself",
    "narrow dtype",
)


class Keywords(nn.Module):
    """Tensors by position and keyword, nested, and constants."""

    def forward(
        self,
        x: torch.Tensor,
        pair: tuple[torch.Tensor, torch.Tensor],
        *,
        scale: float = 1.0,
        table: dict[str, torch.Tensor] | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        y = x * scale + pair[0] - pair[1]
        if table is not None:
            for weight, value in enumerate(table.values()):
                y = y + weight * value
        return y if mask is None else y * mask


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:  # the culprit
            return x + 1
        return x


class FixedBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, -1) + torch.ones(2, 1)


class EvenBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0] // 2, 2, -1)


class Failing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ x  # shapes do not fit


class BatchOut(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return x + 1, x.shape[0]


class OddOutput(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor) -> Any:
        return {"first": x + 1, "odd": self.value}
