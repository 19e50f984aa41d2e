"""Bias correction: taking the mean error that rounded weights put on each output off the bias.

*Fast*: E[W'x] - E[Wx] = (W' - W) E[x], with E[x] per input channel from calibration; a closed form,
layer by layer, that takes each layer's input for the float network's.

*Sequential*: the layer's input is what the network quantized and corrected so far really hands it,
and the correction is the difference of the mean outputs, E[W'x'] - E[Wx]. Both layers are linear,
so each mean output is the layer applied to the mean input, exactly, borders included: a pass over
the data per layer is not needed. A channel whose difference is larger than `ABSURD` times the
root mean square of its float output keeps its bias: something else is wrong there (a range that
saturates, a channel that died), which a constant does not mend.

After Nagel, van Baalen, Blankevoort and Welling, 2019, section 4.2, with empirical means in place
of those of batch-norm; Finkelstein, Almog and Grobman, 2019; the guard as in NNCF.

Left out: a second round (the corrections of later layers do not change those of earlier ones).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from burnish.graph import operator
from burnish.quantize._calibration.calibrate import input_axis
from burnish.quantize._graphs.node import groups_of

ABSURD = 2.0


def bias_shift(
    weight: torch.Tensor, rounded: torch.Tensor, mean: torch.Tensor, kind: str, groups: int
) -> torch.Tensor:
    """(W' - W) E[x] for each output channel, float64.

    Args:
        weight: [out, in/groups, ...] ([in, out/groups, ...] transposed).
        rounded: the same, quantized and dequantized.
        mean: [in], the mean of each input channel.
        kind: the operator's name.
        groups: its groups.
    """
    error = (rounded - weight).double()
    error = error.reshape(*error.shape[:2], -1).sum(-1)
    if kind.startswith("conv_transpose"):
        grouped = error.reshape(groups, -1, error.shape[1])
        return torch.einsum("gio,gi->go", grouped, mean.reshape(groups, -1)).reshape(-1)
    grouped = error.reshape(groups, -1, error.shape[1])
    return torch.einsum("goi,gi->go", grouped, mean.reshape(groups, -1)).reshape(-1)


def fast_shift(
    node: fx.Node, weight: torch.Tensor, rounded: torch.Tensor, mean: torch.Tensor
) -> torch.Tensor:
    """`bias_shift` of an operator whose input channels have the means `mean` [in]."""
    return bias_shift(weight, rounded, mean, operator(node), groups_of(node))


def mean_output(
    node: fx.Node, inputs: Sequence[torch.Tensor], weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """The mean over all of `inputs` of each output channel of a convolution or linear, float64.

    Calls of other sizes (sequences of several lengths) weigh in by their outputs.
    """
    total, count = torch.zeros((), dtype=torch.float64), 0
    groups: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for x in inputs:
        shape = tuple(x.shape[1:]) if operator(node) != "linear" else ()
        groups.setdefault(shape, []).append(x)
    for members in groups.values():
        flat = [m.reshape(-1, m.shape[-1]) if operator(node) == "linear" else m for m in members]
        num = sum(m.shape[0] for m in flat)
        mean = sum((m.sum(0, dtype=torch.float64) for m in flat), start=torch.zeros(())) / num
        out = apply(node, mean.float().unsqueeze(0), weight, bias)
        by_channel = out.double().movedim(input_axis(node, out.dim()), 0).flatten(1)
        total = total + by_channel.sum(1) * num
        count += by_channel.shape[1] * num
    return total / count


def sequential_shift(
    node: fx.Node,
    real: Sequence[torch.Tensor],
    int8: Sequence[torch.Tensor],
    weights: tuple[torch.Tensor, torch.Tensor],
    bias: torch.Tensor | None,
) -> tuple[torch.Tensor, int]:
    """What to take off the bias of an operator, and for how many channels it was absurd.

    Args:
        node: a convolution or linear of the float graph.
        real: its inputs there, call by call.
        int8: its inputs in the quantized network, dequantized.
        weights: its float weights, and the rounded ones.
        bias: its float bias.

    Returns:
        [out] float64, zero where the difference was absurd, and the number of those channels.
    """
    shift = mean_output(node, int8, weights[1], bias) - mean_output(node, real, weights[0], bias)
    out = apply(node, real[0], weights[0], bias)
    by_channel = out.double().movedim(input_axis(node, out.dim()), 0).flatten(1)
    absurd = shift.abs() > ABSURD * by_channel.square().mean(1).sqrt() + 1e-12
    return torch.where(absurd, torch.zeros_like(shift), shift), int(absurd.sum())


def apply(
    node: fx.Node, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """The operator of a node on another input, with another weight and bias."""
    out = node.target(x, weight, bias, *node.args[3:], **node.kwargs)  # type: ignore[operator]
    assert isinstance(out, torch.Tensor)
    return out
