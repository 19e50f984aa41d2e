"""MiniLM-L6: a BERT encoder (Devlin et al., 2018; Wang et al., 2020) with a head on its mean token.

Names of parameters are those of the published state dict below `encoder.`; its pooler is not used.
Padding is kept out of attention by adding -10,000 to its scores, as the original does.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

HIDDEN, INNER, LAYERS, HEADS = 384, 1536, 6, 12
WORDS, POSITIONS = 30522, 512
EPSILON = 1e-12
MASKED = -10_000.0


class Attention(nn.Module):
    """Self-attention of 12 heads, without its output projection."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(HIDDEN, HIDDEN)
        self.key = nn.Linear(HIDDEN, HIDDEN)
        self.value = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        n, length, _ = x.shape
        query, key, value = (
            layer(x).view(n, length, HEADS, HIDDEN // HEADS).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return mixed.transpose(1, 2).reshape(n, length, HIDDEN)


class Layer(nn.Module):
    """Attention and the two linear layers, each with its residual and normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.ModuleDict({"self": Attention(), "output": _projection(HIDDEN)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(HIDDEN, INNER)})
        self.output = _projection(INNER)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        mixed = self.attention["self"](x, mask)
        projection = self.attention["output"]
        x = projection["LayerNorm"](projection["dense"](mixed) + x)
        inner = F.gelu(self.intermediate["dense"](x))
        out: torch.Tensor = self.output["LayerNorm"](self.output["dense"](inner) + x)
        return out


class Encoder(nn.Module):
    """Token ids and their mask, int64 [n, length] each -> float32 [n, length, 384]."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(WORDS, HIDDEN),
                "position_embeddings": nn.Embedding(POSITIONS, HIDDEN),
                "token_type_embeddings": nn.Embedding(2, HIDDEN),
                "LayerNorm": nn.LayerNorm(HIDDEN, EPSILON),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer() for _ in range(LAYERS))})

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        tables = self.embeddings
        position = tables["position_embeddings"].weight[: ids.shape[1]]
        kind = tables["token_type_embeddings"].weight[0]
        x: torch.Tensor = tables["LayerNorm"](tables["word_embeddings"](ids) + position + kind)
        hidden = (1 - mask[:, None, None, :].to(x.dtype)) * MASKED
        for layer in self.encoder["layer"]:
            x = layer(x, hidden)
        return x


class Classifier(nn.Module):
    """Encoder, mean over the tokens that are none of padding, linear head: logits [n, classes]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.head = nn.Linear(HIDDEN, classes)

    def embed(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """float32 [n, 384]."""
        kept = mask[:, :, None].to(torch.float32)
        return (self.encoder(ids, mask) * kept).sum(1) / kept.sum(1)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.embed(ids, mask))
        return logits


def _projection(size: int) -> nn.ModuleDict:
    return nn.ModuleDict(
        {"dense": nn.Linear(size, HIDDEN), "LayerNorm": nn.LayerNorm(HIDDEN, EPSILON)}
    )
