"""Models for weight-only quantization, one of each kind of layer, and weights read back."""

from __future__ import annotations

import torch
from torch import nn

from burnish.graph import DEQUANTIZE_BLOCKS, Traced, tensor_of


class Tied(nn.Module):
    """An embedding whose table is the head's weight, and one hidden layer called twice."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(60, width)
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, 60, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.hidden(torch.tanh(self.hidden(self.embed(ids)))))
        return logits


class Product(nn.Module):
    """`x @ matrix`, stored [in, out], and a linear layer with one output."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(40, 24))
        self.last = nn.Linear(24, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(torch.relu(x @ self.matrix))
        return y


class Convolutional(nn.Module):
    """Convolutions of every grouping, one of them with a batch-norm, and a GRU over the rows."""

    def __init__(self, recurrent: str = "GRU") -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, padding="same")
        self.grouped = nn.Conv2d(8, 4, 3, groups=2)
        self.rows = getattr(nn, recurrent)(24, 10, batch_first=True, bidirectional=True)
        self.last = nn.Linear(20, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.grouped(torch.relu(self.depthwise(self.first(x))))
        y: torch.Tensor = self.last(self.rows(x.transpose(1, 2).flatten(2))[0])
        return y


IDS = torch.randint(0, 60, (4, 5), generator=torch.Generator().manual_seed(0))
X40 = torch.randn(4, 3, 40, generator=torch.Generator().manual_seed(1))
IMAGES = torch.randn(4, 3, 10, 10, generator=torch.Generator().manual_seed(2))


def seeded(make: type[nn.Module], *args: object) -> nn.Module:
    """The same model each time, in eval mode."""
    torch.manual_seed(0)
    return make(*args).eval()


def unpacked(graph: Traced) -> list[torch.Tensor]:
    """The float weights that a graph reads through blocks, in its order."""
    module = graph.graph_module
    found = []
    for node in module.graph.nodes:
        if node.target is DEQUANTIZE_BLOCKS:
            tensors = [tensor_of(module, arg) for arg in node.args[:3]]
            found.append(DEQUANTIZE_BLOCKS(*tensors, *node.args[3:]))
    return found


def packed_bytes(graph: Traced) -> int:
    """The bytes of all codes a graph holds."""
    return sum(t.nbytes for name, t in graph.state_dict().items() if name.endswith("_packed"))
