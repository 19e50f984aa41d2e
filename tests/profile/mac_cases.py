"""Small models whose multiply-accumulates are written down by hand, and what counters say of them.

A case is true by arithmetic: the formula beside it is the definition, not the output of a tool.
`others` counts the same model with torch's own counter (half of its FLOPs), torchinfo and fvcore.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

B, T, E, H = 2, 5, 8, 16  # batch, steps, width, hidden


@dataclass(frozen=True)
class Case:
    """A model, the arguments of a call, its multiply-accumulates, and who counts them rightly."""

    name: str
    make: Callable[[], nn.Module]
    args: tuple[torch.Tensor, ...]
    macs: int
    right: frozenset[str]


class Function(nn.Module):
    """A function of tensors as a module."""

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        return self.function(*args)


class Tied(nn.Module):
    """An embedding whose table is the output's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, E)
        self.out = nn.Linear(E, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.out(self.embed(x))
        return result


class Twice(nn.Module):
    """One layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(E, E)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(self.layer(x).relu())
        return result


class SelfAttention(nn.Module):
    """torch's multi-head attention without its weights as a second result."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(E, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.attention(x, x, x, need_weights=False)[0]
        return result


class First(nn.Module):
    """The first of what a recurrent layer gives."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(x)[0]
        return result


def _plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False),
        nn.Flatten(),
        nn.Linear(8 * 16, 10, bias=False),
    )


def _convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1),
        nn.Flatten(),
        nn.Linear(4 * 16, 10),
    )


def _grouped() -> nn.Module:
    return nn.Sequential(nn.Conv2d(8, 16, 3, padding=1, groups=4), nn.Conv2d(16, 16, 3, groups=16))


IMAGE, PLANES = torch.zeros(B, 3, 8, 8), torch.zeros(B, 8, 6, 6)
SEQUENCE, HEADS = torch.zeros(B, T, E), torch.zeros(B, 2, T, E)
OPERATORS = frozenset({"torch", "fvcore"})  # these see operators, torchinfo sees modules
ALL = OPERATORS | {"torchinfo"}

CASES = (
    Case(
        "convolutions and linear without biases",
        _plain,
        (IMAGE,),
        B * (16 * 8 * 27 + 16 * 8 * 2 * 9 + 128 * 10),
        ALL,
    ),
    Case(
        "convolutions, batch-norm, linear",
        _convolutions,
        (IMAGE,),
        B * (16 * 8 * 27 + 16 * 4 * 8 + 64 * 10),
        OPERATORS,
    ),
    Case(
        "grouped and depthwise convolution",
        _grouped,
        (PLANES,),
        B * (36 * 16 * 2 * 9 + 16 * 16 * 9),
        OPERATORS,
    ),
    Case(
        "transposed convolution, stride 2",
        lambda: nn.ConvTranspose2d(8, 4, 3, stride=2),
        (PLANES,),
        B * 36 * 8 * 4 * 9,
        OPERATORS,
    ),
    Case("linear on a sequence", lambda: nn.Linear(E, H), (SEQUENCE,), B * T * E * H, OPERATORS),
    Case("one layer called twice", Twice, (SEQUENCE,), 2 * B * T * E * E, OPERATORS),
    Case(
        "product of two activations",
        lambda: Function(torch.matmul),
        (SEQUENCE, SEQUENCE.transpose(1, 2).contiguous()),
        B * T * T * E,
        OPERATORS,
    ),
    Case(
        "einsum",
        lambda: Function(lambda a, b: torch.einsum("bte,bse->bts", a, b)),
        (SEQUENCE, SEQUENCE),
        B * T * T * E,
        OPERATORS,
    ),
    Case(
        "scaled dot product attention",
        lambda: Function(F.scaled_dot_product_attention),
        (HEADS, HEADS, HEADS),
        B * 2 * T * T * 2 * E,
        frozenset(),
    ),
    Case(
        "nn.MultiheadAttention",
        SelfAttention,
        (SEQUENCE,),
        B * T * 4 * E * E + B * T * T * 2 * E,
        frozenset(),
    ),
    Case(
        "LSTM, two layers, both directions",
        lambda: First(nn.LSTM(E, H, 2, batch_first=True, bidirectional=True)),
        (SEQUENCE,),
        B * T * 2 * 4 * H * ((E + H) + (2 * H + H)),
        frozenset(),
    ),
    Case(
        "GRU",
        lambda: First(nn.GRU(E, H, batch_first=True)),
        (SEQUENCE,),
        B * T * 3 * H * (E + H),
        frozenset({"torch"}),
    ),
    Case(
        "tied embedding and output",
        Tied,
        (torch.zeros(B, T, dtype=torch.int64),),
        B * T * E * 11,
        OPERATORS,
    ),
)


def others(case: Case) -> dict[str, int]:
    """What torch's counter, torchinfo and fvcore say: multiply-accumulates of the case."""
    return {"torch": _torch(case), "torchinfo": _torchinfo(case), "fvcore": _fvcore(case)}


def _torch(case: Case) -> int:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        case.make().eval()(*case.args)
    return int(counter.get_total_flops()) // 2


def _torchinfo(case: Case) -> int:
    import torchinfo

    found = torchinfo.summary(case.make(), input_data=list(case.args), verbose=0, mode="eval")
    return int(found.total_mult_adds)


def _fvcore(case: Case) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses what torch deprecates
        from fvcore.nn import FlopCountAnalysis

        logging.getLogger("fvcore").setLevel(logging.ERROR)
        found = FlopCountAnalysis(case.make().eval(), case.args)
        # fvcore counts a multiply-accumulate as one, and adds norms, which are none.
        by_operator = found.unsupported_ops_warnings(False).by_operator()
    return int(
        sum(n for kind, n in by_operator.items() if kind not in ("batch_norm", "layer_norm"))
    )
