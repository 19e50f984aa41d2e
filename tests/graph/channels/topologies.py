"""Small models, each with one thing that has broken channel pruners."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.graph.channels.computed import CountedPixels, FoldedBatch, Standardized

Call = Callable[..., Any]


@dataclass(frozen=True)
class Topology:
    """A model, the shapes of its inputs, and how many groups it has that may lose channels."""

    name: str
    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    free: int


class Around(nn.Module):
    """Layers by name, and a function that calls them."""

    def __init__(self, call: Call, **layers: Any) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self._call = call

    def forward(self, *args: torch.Tensor) -> Any:
        return self._call(self, *args)


def _conv(inputs: int, outputs: int, size: int = 3, **more: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **more)


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def _padded_shortcut() -> nn.Module:
    """ResNet's shortcut without weights: every second pixel, zeros for the new channels."""

    def call(m: Any, x: torch.Tensor) -> Any:
        x = F.relu(m.stem(x))
        wide = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 3, 3))
        y = m.norm(m.second(F.relu(m.first(x))))
        return m.head(F.relu(wide + y).mean((2, 3)))

    return Around(
        call,
        stem=_conv(3, 6),
        first=nn.Conv2d(6, 12, 3, stride=2, padding=1),
        second=_conv(12, 12),
        norm=_norm(12),
        head=nn.Linear(12, 4),
    )


def _res2net() -> nn.Module:
    """Parts of one convolution's channels, each after adding the one before."""

    def call(m: Any, x: torch.Tensor) -> Any:
        x = m.norm(m.stem(x))
        parts = list(torch.split(x, [4, 4, 4], dim=1))
        y = F.relu(m.one(parts[0]))
        z = F.relu(m.two(y + parts[1]))
        return m.head(torch.cat([y, z, parts[2]], 1).mean((2, 3)))

    return Around(
        call, stem=_conv(3, 12), norm=_norm(12), one=_conv(4, 4), two=_conv(4, 4),
        head=nn.Linear(12, 4),
    )  # fmt: skip


def _shuffle_unit() -> nn.Module:
    """Two units of ShuffleNet v2: halves by chunk, put together shuffled."""

    def shuffle(x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return x.view(batch, -1, height, width)

    def call(m: Any, x: torch.Tensor) -> Any:
        x = F.relu(m.stem(x))
        for layer in (m.one, m.two):
            left, right = x.chunk(2, dim=1)
            x = shuffle(torch.cat([left, F.relu(layer(right))], 1))
        return m.head(x.mean((2, 3)))

    return Around(call, stem=_conv(3, 12), one=_conv(6, 6), two=_conv(6, 6), head=nn.Linear(12, 4))


def _attention(call: Call, **more: Any) -> nn.Module:
    layers = {"embed": nn.Linear(6, 16), "head": nn.Linear(16, 4), **more}
    return Around(call, **layers)


def _split_attention() -> nn.Module:
    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(x.shape[0], 5, 4, 4).transpose(1, 2)

    def call(m: Any, x: torch.Tensor) -> Any:
        x = m.embed(x)
        y = F.scaled_dot_product_attention(heads(m.q(x)), heads(m.k(x)), heads(m.v(x)))
        return m.head(x + m.out(y.transpose(1, 2).reshape(x.shape[0], 5, 16)))

    return _attention(call, **{name: nn.Linear(16, 16) for name in ("q", "k", "v", "out")})


def _grouped_query(stretch: bool) -> nn.Module:
    """Two heads of keys and values for four of queries."""

    def call(m: Any, x: torch.Tensor) -> Any:
        batch = x.shape[0]
        q = m.q(x).view(batch, 5, 4, 4).transpose(1, 2)
        k = m.k(x).view(batch, 5, 2, 4).transpose(1, 2)
        v = m.v(x).view(batch, 5, 2, 4).transpose(1, 2)
        if stretch:
            k, v = (t[:, :, None].expand(batch, 2, 2, 5, 4).reshape(batch, 4, 5, 4) for t in (k, v))
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return m.head(y.transpose(1, 2).flatten(2))

    return Around(
        call, q=nn.Linear(6, 16), k=nn.Linear(6, 8), v=nn.Linear(6, 8), head=nn.Linear(16, 4)
    )


def _biased_attention() -> nn.Module:
    """Swin's: one linear for three, a table of biases for each head, looked up by position."""

    def call(m: Any, x: torch.Tensor) -> Any:
        batch = x.shape[0]
        q, k, v = m.qkv(x).reshape(batch, 4, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        bias = m.table[m.index.view(-1)].view(4, 4, 2).permute(2, 0, 1).unsqueeze(0)
        scores = (q * 4**-0.5) @ k.transpose(-2, -1) + bias
        y = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, 4, 8)
        return m.head(m.out(y))

    model = Around(call, qkv=nn.Linear(6, 24), out=nn.Linear(8, 8), head=nn.Linear(8, 4))
    model.table = nn.Parameter(torch.randn(7, 2))
    model.register_buffer("index", torch.randint(0, 7, (4, 4)))
    return model


def _einsum_attention() -> nn.Module:
    def call(m: Any, x: torch.Tensor) -> Any:
        batch = x.shape[0]
        q, k, v = (t.reshape(batch, 5, 2, 4).permute(0, 2, 1, 3) for t in m.qkv(x).chunk(3, -1))
        scores = torch.einsum("b h i d, b h j d -> b h i j", q, k).softmax(-1)
        y = torch.einsum("bhij,bhjd->bhid", scores, v)
        return m.head(y.permute(0, 2, 1, 3).reshape(batch, 5, 8))

    return Around(call, qkv=nn.Linear(6, 24), head=nn.Linear(8, 4))


def _multihead(batch_first: bool) -> nn.Module:
    def call(m: Any, x: torch.Tensor) -> Any:
        x = m.embed(x)
        x = m.norm(x + m.attention(x, x, x, need_weights=False)[0])
        return m.head(x)

    return _attention(
        call,
        attention=nn.MultiheadAttention(16, 4, batch_first=batch_first),
        norm=nn.LayerNorm(16),
    )


def _convnext() -> nn.Module:
    def call(m: Any, x: torch.Tensor) -> Any:
        x = m.stem(x)
        y = m.norm(m.depthwise(x).permute(0, 2, 3, 1))
        y = m.down(F.gelu(m.up(y))).permute(0, 3, 1, 2)
        x = x + m.scale * y
        return m.head(x.mean((2, 3)))

    model = Around(
        call,
        stem=_conv(3, 6),
        depthwise=_conv(6, 6, groups=6),
        norm=nn.LayerNorm(6),
        up=nn.Linear(6, 12),
        down=nn.Linear(12, 6),
        head=nn.Linear(6, 4),
    )
    model.scale = nn.Parameter(torch.randn(6, 1, 1))
    return model


def _mixer() -> nn.Module:
    """Linear layers over positions, then over channels."""

    def call(m: Any, x: torch.Tensor) -> Any:
        x = m.embed(x)
        x = x + m.back(F.gelu(m.across(x.transpose(1, 2)))).transpose(1, 2)
        return m.head((x + m.down(F.gelu(m.up(x)))).mean(1))

    return _attention(
        call,
        across=nn.Linear(5, 9),
        back=nn.Linear(9, 5),
        up=nn.Linear(16, 24),
        down=nn.Linear(24, 16),
    )


def _hard_coded() -> nn.Module:
    """Sizes written out where they could have been asked for."""

    def call(m: Any, x: torch.Tensor) -> Any:
        x = F.relu(m.one(x).view(-1, 8 * 64)).reshape(-1, 8, 8, 8)
        return m.head(m.two(x).reshape(-1, 320))

    return Around(call, one=_conv(3, 8), two=_conv(8, 5), head=nn.Linear(320, 4))


def _cosine_pooled() -> nn.Module:
    def call(m: Any, x: torch.Tensor) -> Any:
        return m.two(torch.cos(m.one(x)).mean((2, 3)))

    return Around(call, one=_conv(3, 8), two=nn.Linear(8, 4))


class _Recurrent(nn.Module):
    def __init__(self, kind: Any, **more: Any) -> None:
        super().__init__()
        self.layer = kind(6, 8, **more)
        outputs = (more.get("proj_size") or 8) * (2 if more.get("bidirectional") else 1)
        self.head = nn.Linear(outputs, 4)

    def forward(self, x: torch.Tensor) -> Any:
        return self.head(self.layer(x)[0])


def _sequential(*layers: nn.Module) -> Callable[[], nn.Module]:
    """The layers, copied each time: no test gets another's."""
    return lambda: copy.deepcopy(nn.Sequential(*layers))


IMAGE = ((2, 3, 8, 8),)
STEPS = ((2, 5, 6),)

TOPOLOGIES = (
    Topology("padded_shortcut", _padded_shortcut, IMAGE, 3),
    Topology("res2net", _res2net, IMAGE, 4),
    Topology("shuffle_unit", _shuffle_unit, IMAGE, 6),
    Topology("split_attention", _split_attention, STEPS, 2),
    Topology("grouped_query", lambda: _grouped_query(False), STEPS, 1),
    Topology("grouped_query_stretched", lambda: _grouped_query(True), STEPS, 1),
    Topology("biased_attention", _biased_attention, ((2, 4, 6),), 2),
    Topology("einsum_attention", _einsum_attention, STEPS, 1),
    Topology("multihead", lambda: _multihead(False), ((5, 2, 6),), 2),
    Topology("multihead_batch_first", lambda: _multihead(True), STEPS, 2),
    Topology("convnext", _convnext, IMAGE, 2),
    Topology("counted_pixels", CountedPixels, IMAGE, 1),
    Topology("folded_batch", FoldedBatch, IMAGE, 1),
    Topology(
        "standardized_weights",
        _sequential(
            *(Standardized(3, 6, 3), nn.ReLU(), Standardized(6, 8, 3), nn.ReLU(), _conv(8, 4)),
        ),
        IMAGE,
        1,
    ),
    Topology("mixer", _mixer, STEPS, 3),
    Topology("rnn", lambda: _Recurrent(nn.RNN, num_layers=2), STEPS, 1),
    Topology("lstm", lambda: _Recurrent(nn.LSTM, num_layers=3, bidirectional=True), STEPS, 1),
    Topology("lstm_projected", lambda: _Recurrent(nn.LSTM, proj_size=4, num_layers=2), STEPS, 2),
    Topology("gru", lambda: _Recurrent(nn.GRU, num_layers=2, batch_first=True), STEPS, 1),
    Topology(
        "pixel_shuffle",
        _sequential(_conv(3, 24), nn.PixelShuffle(2), nn.ReLU(), _conv(6, 4)),
        IMAGE,
        1,
    ),
    Topology(
        "pixel_unshuffle",
        _sequential(_conv(3, 4), nn.ReLU(), nn.PixelUnshuffle(2), _conv(16, 4)),
        IMAGE,
        1,
    ),
    Topology(
        "channel_shuffle",
        _sequential(_conv(3, 12), nn.ChannelShuffle(3), nn.ReLU(), _conv(12, 4)),
        IMAGE,
        1,
    ),
    Topology(
        "group_norm",
        _sequential(_conv(3, 12), nn.GroupNorm(4, 12), nn.ReLU(), _conv(12, 4)),
        IMAGE,
        1,
    ),
    Topology(
        "group_norm_of_one",
        _sequential(_conv(3, 12), nn.GroupNorm(1, 12), nn.ReLU(), _conv(12, 4)),
        IMAGE,
        1,
    ),
    Topology(
        "instance_norm",
        _sequential(_conv(3, 8), nn.InstanceNorm2d(8, affine=True), nn.PReLU(8), _conv(8, 4)),
        IMAGE,
        1,
    ),
    Topology(
        "norms_without_weights",
        _sequential(
            *(_conv(3, 8), nn.InstanceNorm2d(8)),
            *(_conv(8, 8), nn.BatchNorm2d(8, affine=False), _conv(8, 4)),
        ),
        IMAGE,
        2,
    ),
    Topology(
        "rms_norm",
        _sequential(
            *(nn.Linear(6, 8), nn.RMSNorm(8)),
            *(nn.Linear(8, 8), nn.LayerNorm(8, bias=False), nn.Linear(8, 4)),
        ),
        STEPS,
        2,
    ),
    Topology(
        "flattened",
        _sequential(_conv(3, 6), nn.ReLU(), nn.Flatten(), nn.Linear(384, 4)),
        IMAGE,
        1,
    ),
    Topology("hard_coded", _hard_coded, IMAGE, 2),
    Topology("glu", _sequential(_conv(3, 12), nn.GLU(1), _conv(6, 4)), IMAGE, 1),
    Topology(
        "transposed_1d",
        _sequential(
            *(nn.ConvTranspose1d(3, 8, 4), nn.ReLU()),
            *(nn.ConvTranspose1d(8, 6, 3, groups=2), nn.Conv1d(6, 4, 1)),
        ),
        ((2, 3, 9),),
        2,
    ),
    Topology(
        "transposed_3d",
        _sequential(nn.Conv3d(3, 4, 1), nn.ConvTranspose3d(4, 6, 2), nn.Conv3d(6, 2, 1)),
        ((2, 3, 4, 4, 4),),
        2,
    ),
    Topology(
        "sigmoid_unpadded",
        _sequential(
            *(_conv(3, 8), nn.Sigmoid(), nn.Conv2d(8, 6, 3)), nn.ReLU(), nn.Conv2d(6, 4, 1)
        ),
        IMAGE,
        2,
    ),
    Topology("sigmoid_padded", _sequential(_conv(3, 8), nn.Sigmoid(), _conv(8, 4)), IMAGE, 1),
    Topology(
        "softplus_linear",
        _sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 4, bias=False)),
        STEPS,
        1,
    ),
    Topology("cosine_pooled", _cosine_pooled, IMAGE, 1),
)
