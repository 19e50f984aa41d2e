"""ResNet-56, EfficientNet-Lite0 and MiniLM-L6 with every width a setting; weights are random.

`draw(name, seed, ...)` gives one with each width drawn between a quarter of the original's and all
of it: the channels inside every block and of every stage, a transformer's inner features and its
heads in every layer. Spatial sizes, depth, strides and the number of classes are the original's.

Shortcuts of ResNet-56 pad (option A); Lite0's blocks pad unevenly before a stride of 2, as in its
TensorFlow original.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

NAMES = ("resnet56", "lite0", "minilm")
NARROWEST = 0.25
TITLES = {
    "resnet56": "ResNet-56, 3 × 32 × 32",
    "lite0": "EfficientNet-Lite0, 3 × 224 × 224",
    "minilm": "MiniLM-L6, 64 tokens",
}
_LENGTH = 64
_HEAD = 32  # features of an attention head
_WORDS, _CLASSES = 30522, 77


@dataclass(frozen=True)
class Drawn:
    """A network in eval mode, its example call at a batch of 2, and the widths that were drawn."""

    network: nn.Module
    example: tuple[torch.Tensor, ...]
    widths: tuple[int, ...]


class _Widths:
    """Gives each width in turn, the whole of it without a generator, and keeps what it gave."""

    def __init__(self, generator: random.Random | None, step: int) -> None:
        self.given: list[int] = []
        self._generator = generator
        self._step = step

    def __call__(self, whole: int, step: int | None = None) -> int:
        width, step = whole, step or self._step
        if self._generator is not None:
            drawn = self._generator.uniform(NARROWEST, 1.0) * whole
            width = max(min(step, whole), round(drawn / step) * step)
        self.given.append(width)
        return width


def draw(name: str, seed: int | None, step: int = 1) -> Drawn:
    """A network with widths drawn by `seed` in multiples of `step`; None gives the original."""
    widths = _Widths(None if seed is None else random.Random(f"{name} {seed} {step}"), step)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0 if seed is None else seed)
        network = _MAKERS[name](widths)
        example = _EXAMPLES[name]()
    return Drawn(network.eval(), example, tuple(widths.given))


class _ResNetBlock(nn.Module):
    def __init__(self, before: int, inner: int, after: int, stride: int) -> None:
        super().__init__()
        self.stride, self.added = stride, after - before
        self.conv1 = nn.Conv2d(before, inner, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            half = self.added // 2
            padding = (0, 0, 0, 0, half, self.added - half)
            x = F.pad(x[:, :, :: self.stride, :: self.stride], padding)
        return F.relu(out + x)


class _ResNet(nn.Module):
    def __init__(self, stem: int, blocks: Sequence[_ResNetBlock], last: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(last, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.blocks(F.relu(self.bn1(self.conv1(x))))
        logits: torch.Tensor = self.linear(out.mean((2, 3)))
        return logits


def _resnet56(width: _Widths) -> nn.Module:
    # A stage is as wide as the one before at least: the shortcut can add channels, not drop them.
    before = stem = width(16)
    blocks = []
    for stage, whole in enumerate((16, 32, 64)):
        after = before if stage == 0 else max(before, width(whole))
        for index in range(9):
            stride = 2 if stage > 0 and index == 0 else 1
            blocks.append(_ResNetBlock(before, width(whole), after, stride))
            before = after
    return _ResNet(stem, blocks, before)


class _Lite0Block(nn.Module):
    def __init__(self, sizes: tuple[int, int, int], kernel: int, stride: int) -> None:
        super().__init__()
        before, inner, after = sizes
        self.expand = nn.Sequential() if inner == before else _conv_norm(before, inner, 1)
        self.depthwise = _conv_norm(inner, inner, kernel, stride, inner)
        self.project = _conv_norm(inner, after, 1)
        self.has_shortcut = stride == 1 and before == after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu6(self.expand(x)) if len(self.expand) else x
        out = self.project(F.relu6(self.depthwise(out)))
        return out + x if self.has_shortcut else out


def _conv_norm(before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    layers: list[nn.Module] = []
    padding = kernel // 2
    if stride == 2:
        layers.append(nn.ZeroPad2d(((kernel - 2) // 2, (kernel - 1) // 2) * 2))
        padding = 0
    layers.append(nn.Conv2d(before, after, kernel, stride, padding, groups=groups, bias=False))
    return nn.Sequential(*layers, nn.BatchNorm2d(after, eps=1e-3))


class _Lite0(nn.Module):
    def __init__(self, stem: int, blocks: Sequence[nn.Module], last: int, head: int) -> None:
        super().__init__()
        self.stem = _conv_norm(3, stem, 3, 2)
        self.blocks = nn.Sequential(*blocks)
        self.head = _conv_norm(last, head, 1)
        self.fc = nn.Linear(head, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu6(self.head(self.blocks(F.relu6(self.stem(x)))))
        logits: torch.Tensor = self.fc(F.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


# kernel, stride, repeats, expansion, channels
_LITE0 = (
    *((3, 1, 1, 1, 16), (3, 2, 2, 6, 24), (5, 2, 2, 6, 40), (3, 2, 3, 6, 80)),
    *((5, 1, 3, 6, 112), (5, 2, 4, 6, 192), (3, 1, 1, 6, 320)),
)


def _lite0(width: _Widths) -> nn.Module:
    before = stem = width(32)
    original, blocks = 32, []
    for kernel, stride, repeats, expansion, channels in _LITE0:
        after = width(channels)
        for index in range(repeats):
            inner = before if expansion == 1 else width(original * expansion)
            sizes = (before, inner, after)
            blocks.append(_Lite0Block(sizes, kernel, stride if index == 0 else 1))
            before, original = after, channels
    return _Lite0(stem, blocks, before, width(1280))


class _Layer(nn.Module):
    def __init__(self, hidden: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(hidden, heads * _HEAD) for _ in range(3))
        self.projection = nn.Linear(heads * _HEAD, hidden)
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.grow, self.shrink = nn.Linear(hidden, inner), nn.Linear(inner, hidden)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        n, length, _ = x.shape
        query, key, value = (
            layer(x).view(n, length, self.heads, _HEAD).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        mixed = mixed.transpose(1, 2).reshape(n, length, self.heads * _HEAD)
        x = self.norm1(self.projection(mixed) + x)
        out: torch.Tensor = self.norm2(self.shrink(F.gelu(self.grow(x))) + x)
        return out


class _MiniLm(nn.Module):
    def __init__(self, hidden: int, layers: Sequence[_Layer]) -> None:
        super().__init__()
        self.words = nn.Embedding(_WORDS, hidden)
        self.positions = nn.Embedding(512, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(hidden, _CLASSES)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor = self.norm(self.words(ids) + self.positions.weight[: ids.shape[1]])
        hidden = (1 - mask[:, None, None, :].to(x.dtype)) * -10_000.0
        for layer in self.layers:
            x = layer(x, hidden)
        kept = mask[:, :, None].to(x.dtype)
        logits: torch.Tensor = self.head((x * kept).sum(1) / kept.sum(1))
        return logits


def _minilm(width: _Widths) -> nn.Module:
    hidden = width(384)
    layers = [_Layer(hidden, width(12, step=1), width(1536)) for _ in range(6)]
    return _MiniLm(hidden, layers)


def _tokens() -> tuple[torch.Tensor, ...]:
    return torch.randint(_WORDS, (2, _LENGTH)), torch.ones(2, _LENGTH, dtype=torch.int64)


_MAKERS: dict[str, Callable[[_Widths], nn.Module]] = {
    "resnet56": _resnet56,
    "lite0": _lite0,
    "minilm": _minilm,
}
_EXAMPLES: dict[str, Callable[[], tuple[torch.Tensor, ...]]] = {
    "resnet56": lambda: (torch.randn(2, 3, 32, 32),),
    "lite0": lambda: (torch.randn(2, 3, 224, 224),),
    "minilm": _tokens,
}
