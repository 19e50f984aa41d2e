"""The best layer of a given rank: on which directions of its outputs a layer may be projected.

A layer makes y = W x + b. Of all affine maps of rank r, the one whose outputs have the least
squared error over the data is U Uᵀ (W x − m) + m + b, with m the mean of W x and U the r leading
eigenvectors of the covariance of the outputs (principal components; Zhang et al., 2016). So no
matrix is inverted, and W becomes U, [out, r], times Uᵀ W, [r, in], with a new bias. It is the same
matrix that whitening the inputs by a root of their covariance and cutting the singular values
gives (Wang et al., 2024); the error is the sum of the eigenvalues that were cut. Without data the
covariance of the inputs is taken for the identity: the singular value decomposition of W.

The covariance is summed over the outputs, or over the inputs of a linear layer where those are
fewer. Where the data say nothing (directions in which they do not vary), the weights decide: a
millionth of W Wᵀ is added.

Each component's size is shared evenly between the two layers, so that neither is on another scale.

Left out: solving layer after layer on what the layers before really give (Zhang et al.'s
asymmetric reconstruction), and nonlinearities; holding one covariance at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from burnish.errors import InvalidInput
from burnish.goal import Call
from burnish.graph import Traced, flatten_call, operator
from burnish.prune._gradients import MOST_SAMPLES
from burnish.prune._low_rank_layers import Layer

DAMPING = 1e-6
_ROWS = 1 << 15  # converted to float64 at a time


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What a layer's outputs are made of.

    Args:
        directions: orthonormal, [out, full rank], float64, the most important first.
        shares: of the outputs' variance, along each, [full rank]; without data of the weight's
            squares.
        mean: of W x, [out]; None without data.
        num_rows: how many vectors the layer was seen to multiply; 0 without data.
    """

    directions: torch.Tensor
    shares: torch.Tensor
    mean: torch.Tensor | None = None
    num_rows: int = 0

    @property
    def note(self) -> str:
        """Where there are fewer rows than a covariance needs."""
        width = len(self.directions)
        if self.mean is None or self.num_rows >= width:
            return ""
        return (
            f"few data: {self.num_rows} rows for {width} outputs; the weights decided where they "
            "say nothing"
        )

    def error(self, rank: int) -> float:
        """The share that a layer of this rank loses: squared error by variance of the outputs."""
        return float(self.shares[rank:].sum())


@dataclass(eq=False)
class _Moment:
    """Sums over the rows of a value, in float64."""

    total: torch.Tensor
    squares: torch.Tensor
    num_rows: int = 0

    def add(self, rows: torch.Tensor) -> None:
        """Count further rows, [rows, width]."""
        for part in torch.split(rows, _ROWS):
            double = part.double()
            self.total += double.sum(0)
            self.squares.addmm_(double.t(), double)
        self.num_rows += len(rows)

    @property
    def mean(self) -> torch.Tensor:
        """[width]."""
        return self.total / self.num_rows

    @property
    def covariance(self) -> torch.Tensor:
        """[width, width]."""
        return self.squares / self.num_rows - self.mean.outer(self.mean)


def weight_spectra(layers: Sequence[Layer]) -> dict[str, Spectrum]:
    """By the weights alone, for each layer by name."""
    return {layer.name: _of_weight(matrix(layer)) for layer in layers}


def activation_spectra(
    traced: Traced, layers: Sequence[Layer], calls: Iterable[Call]
) -> dict[str, Spectrum]:
    """By what the layers compute in some calls, for each layer by name.

    Raises:
        InvalidInput: there are no calls, or what a layer computes is not finite.
    """
    noting = _Noting(traced.graph_module, layers)
    seen = 0
    with torch.no_grad():
        for call in calls:
            tensors = flatten_call(call.args, call.kwargs)
            noting.run(*tensors)
            seen += max((len(tensor) for tensor in tensors if tensor.dim()), default=1)
            if seen >= MOST_SAMPLES:
                break
    if not seen:
        raise InvalidInput(
            "criterion='activation' needs calibration data, and there is no batch: give some, or "
            "take criterion='weight'"
        )
    return {layer.name: _of_outputs(layer, noting.moments[layer.node]) for layer in layers}


def matrix(layer: Layer) -> torch.Tensor:
    """Its weight in float64, [out, in · kernel], on the CPU.

    Raises:
        InvalidInput: it is not finite.
    """
    weight = layer.weight.detach().double().cpu().flatten(1)
    if not bool(torch.isfinite(weight).all()):
        raise InvalidInput(f"the weight of {layer.name} is not finite: it cannot be decomposed")
    return weight


def _of_weight(weight: torch.Tensor) -> Spectrum:
    left, sizes, _ = torch.linalg.svd(weight, full_matrices=False)
    return Spectrum(left, _shares(sizes.square()))


def _of_outputs(layer: Layer, moment: _Moment) -> Spectrum:
    weight, covariance = matrix(layer), moment.covariance
    if not bool(torch.isfinite(covariance).all()):
        raise InvalidInput(
            f"calibration: what {layer.name} reads or gives is not finite, or so large that its "
            "square is not: the model overflows on this data, or is not a number in itself"
        )
    if _by_inputs(layer):
        variance = (weight @ covariance * weight).sum()
        damped = covariance + _damping(variance, weight) * torch.eye(len(covariance)).double()
        # A covariance has no negative eigenvalues but by rounding.
        values, vectors = torch.linalg.eigh(damped)
        root = vectors * values.clamp(min=0).sqrt()
        left, _, _ = torch.linalg.svd(weight @ root, full_matrices=False)
        mean, reduced = weight @ moment.mean, left.t() @ weight
        along = (reduced @ covariance * reduced).sum(1)
    else:
        bias = _bias(layer)
        mean = moment.mean if bias is None else moment.mean - bias
        damped = covariance + _damping(covariance.trace(), weight) * (weight @ weight.t())
        _, vectors = torch.linalg.eigh(damped)
        left = vectors.flip(1)[:, : layer.full_rank]
        along = (covariance @ left * left).sum(0)
    return Spectrum(left, _shares(along), mean, moment.num_rows)


def _shares(sizes: torch.Tensor) -> torch.Tensor:
    total = sizes.sum()
    return sizes.clamp(min=0) / total if total > 0 else torch.zeros_like(sizes)


def _damping(variance: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    squares = weight.square().sum()
    return DAMPING * variance / squares if squares > 0 else squares


def _bias(layer: Layer) -> torch.Tensor | None:
    return None if layer.bias is None else layer.bias.detach().double().cpu()


def _by_inputs(layer: Layer) -> bool:
    """Whether inputs are noted, and not outputs."""
    return operator(layer.node) == "linear" and layer.inputs < layer.outputs


class _Noting(fx.Interpreter):
    """Runs a graph and sums what layers read or give."""

    def __init__(self, module: fx.GraphModule, layers: Sequence[Layer]) -> None:
        super().__init__(module)
        self.layers = {layer.node: layer for layer in layers}
        self.moments: dict[fx.Node, _Moment] = {}

    def run_node(self, n: fx.Node) -> Any:
        """The node's value, noted where it is a layer's."""
        value = super().run_node(n)
        layer = self.layers.get(n)
        if layer is not None:
            args, _ = self.fetch_args_kwargs_from_env(n)
            rows = _rows(args[0] if _by_inputs(layer) else value, layer)
            if n not in self.moments:
                zeros = rows.new_zeros(rows.shape[1], dtype=torch.float64)
                self.moments[n] = _Moment(zeros, zeros.new_zeros(len(zeros), len(zeros)))
            self.moments[n].add(rows)
        return value


def _rows(value: torch.Tensor, layer: Layer) -> torch.Tensor:
    """A value as vectors of channels."""
    if operator(layer.node) != "linear":
        value = value.movedim(value.dim() - layer.weight.dim() + 1, -1)
    return value.detach().cpu().reshape(-1, value.shape[-1])


@dataclass(frozen=True, eq=False)
class Factors:
    """Two layers for one.

    Args:
        first: [rank, in, ...kernel].
        second: [out, rank, 1, ...].
        bias: of the second, [out], or None.
    """

    first: torch.Tensor
    second: torch.Tensor
    bias: torch.Tensor | None


def factors(layer: Layer, spectrum: Spectrum, rank: int) -> Factors:
    """The best two layers of a rank for one, in the type of its weight."""
    weight, kind = matrix(layer), layer.weight.dtype
    second = spectrum.directions[:, :rank]
    first = second.t() @ weight
    bias, mean = _bias(layer), spectrum.mean
    if mean is not None:
        rest = mean - second @ (second.t() @ mean)
        bias = rest if bias is None else bias + rest
    size = first.norm(dim=1)
    size = torch.where(size > 0, size, 1.0).sqrt()
    kernel = layer.weight.shape[2:]
    # Contiguous, as they come back from a file: another layout is multiplied in another order.
    return Factors(
        (first / size[:, None]).reshape(rank, -1, *kernel).to(kind).contiguous(),
        (second * size).reshape(-1, rank, *[1] * len(kernel)).to(kind).contiguous(),
        None if bias is None else bias.to(kind),
    )
