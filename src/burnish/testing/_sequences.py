"""Tiny models of sequences: attention written both ways, a transformer encoder, LSTM and GRU.

The encoder is called as Hugging Face's are: `input_ids` and `attention_mask` by keyword, batch and
length both dynamic, a dataclass out. The LSTM has its batch first, the GRU second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from burnish.goal import Inputs
from burnish.testing._tiny import Sampler, Tiny

WORDS = 40
POSITIONS = 32


class Attention(nn.Module):
    """Self-attention with several heads, [batch, length, width] to the same.

    `fused` calls torch's scaled_dot_product_attention; else matmul, softmax, matmul.
    """

    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.heads = heads
        self.fused = fused

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        batch, length, width = x.shape
        split = self.query_key_value(x).reshape(batch, length, 3, self.heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        else:
            scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
            if mask is not None:
                scores = scores.masked_fill(~mask, -1e4)
            mixed = scores.softmax(-1) @ value
        joined: torch.Tensor = self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        return joined


class AttentionModel(nn.Module):
    """One attention layer with its residual and normalisation, and a head on the mean."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.attention = Attention(16, 4, fused)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        x = self.norm(x + self.attention(x))
        logits: torch.Tensor = self.head(x.mean(1))
        return logits


@dataclass
class Encoded:
    """logits [batch, classes], last_hidden_state [batch, length, width]."""

    logits: torch.Tensor
    last_hidden_state: torch.Tensor


class Encoder(nn.Module):
    """A small BERT: embeddings, two pre-norm layers with GELU, a classifier on the first token."""

    def __init__(self, width: int = 16, layers: int = 2) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, width)
        self.positions = nn.Embedding(POSITIONS, width)
        self.attentions = nn.ModuleList(Attention(width, 2, True) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * layers))
        self.feeds = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(layers)
        )
        self.final = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, 5)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Encoded:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.words(input_ids) + self.positions(positions)
        mask = attention_mask.bool()[:, None, None, :]
        for index, (attention, feed) in enumerate(zip(self.attentions, self.feeds, strict=True)):
            x = x + attention(self.norms[2 * index](x), mask)
            x = x + feed(self.norms[2 * index + 1](x))
        x = self.final(x)
        return Encoded(self.classifier(x[:, 0]), x)


class TiedWeights(nn.Module):
    """A language model's two ends: the embedding's weight is the last layer's too."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, width)
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, WORDS, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(F.gelu(self.hidden(self.embed(input_ids))))
        return logits


class Lstm(nn.Module):
    """Two LSTM layers, batch first, and a head on the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 10, num_layers=2, batch_first=True)
        self.head = nn.Linear(10, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.lstm(x)[0][:, -1])
        return logits


class Gru(nn.Module):
    """A bidirectional GRU, time first: [time, batch, features], and a head on every step."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 8, bidirectional=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.gru(x)[0])
        return logits


def _steps(length: int) -> Sampler:
    def draw(generator: torch.Generator, sizes: Mapping[str, int]) -> Inputs:
        return Inputs(torch.randn(sizes["batch"], length, 6, generator=generator))

    return draw


def _time_first(generator: torch.Generator, sizes: Mapping[str, int]) -> Inputs:
    return Inputs(torch.randn(7, sizes["batch"], 6, generator=generator), batch_axis=1)


def _masked_tokens(generator: torch.Generator, sizes: Mapping[str, int]) -> Inputs:
    """Token ids with a mask that leaves out the end of every second sample."""
    batch, length = sizes["batch"], sizes["length"]
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[1::2, (length + 1) // 2 :] = 0
    ids = torch.randint(1, WORDS, (batch, length), generator=generator) * mask
    axes = {1: "length"}
    return Inputs(
        kwargs={"input_ids": ids, "attention_mask": mask},
        dynamic={"input_ids": axes, "attention_mask": axes},
    )


def _tokens(generator: torch.Generator, sizes: Mapping[str, int]) -> Inputs:
    return Inputs(torch.randint(0, WORDS, (sizes["batch"], 6), generator=generator))


SEQUENCES = (
    Tiny(
        "attention_fused",
        lambda: AttentionModel(True),
        _steps(8),
        frozenset({"attention", "layer_norm", "residual", "fused"}),
    ),
    Tiny(
        "attention_split",
        lambda: AttentionModel(False),
        _steps(8),
        frozenset({"attention", "layer_norm", "residual", "matmul", "softmax"}),
    ),
    Tiny(
        "encoder",
        Encoder,
        _masked_tokens,
        frozenset({"attention", "layer_norm", "embedding", "gelu", "keyword_inputs", "dataclass"}),
        dynamic={"length": 6},
    ),
    Tiny("tied_weights", TiedWeights, _tokens, frozenset({"linear", "embedding", "gelu", "tied"})),
    Tiny("lstm", Lstm, _steps(6), frozenset({"lstm"}), recurrent=True),
    Tiny("gru", Gru, _time_first, frozenset({"gru", "time_first"}), recurrent=True),
)
