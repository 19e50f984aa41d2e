"""Closed forms for one layer: the bias, the factors or the weights that best give wanted outputs.

A layer computes V z for z = (x, 1): its weights and, as the last column, its bias. All that a least
squares fit of wanted outputs y needs to know of the data is three sums, of z zᵀ, y zᵀ and y²: the
`Moments`. From those of some samples a fit is made, by those of others it is judged.

    bias     the mean error goes to the last column
    factor   each channel's weights times one number, chosen together with the bias
    weights  every weight that is not zero, damped towards what it is: a zero stays a zero

The fit of the weights is that of He, Zhang and Sun (2017) and, with the mask held, of Hubara et al.
(2021); the damping, one hundredth of the mean variance of an input, is that of Frantar and Alistarh
(2022).

Left out: a choice of the damping by the data.
"""

from __future__ import annotations

import torch

DAMPING = 0.01


class Moments:
    """Sums over rows of z zᵀ, y zᵀ and y², float64, for each of a layer's groups.

    Args:
        groups: of the layer.
        columns: inputs of a group.
        outputs: of a group.
    """

    def __init__(self, groups: int, columns: int, outputs: int) -> None:
        wide = torch.float64
        self.rows = 0
        self.zz = torch.zeros(groups, columns + 1, columns + 1, dtype=wide)
        self.yz = torch.zeros(groups, outputs, columns + 1, dtype=wide)
        self.yy = torch.zeros(groups, outputs, dtype=wide)

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Take rows in: x [rows, groups, columns], y [rows, groups, outputs]."""
        inputs, wanted = x.double().cpu().transpose(0, 1), y.double().cpu().transpose(0, 1)
        z = torch.cat([inputs, torch.ones_like(inputs[..., :1])], 2)
        self.zz += z.mT @ z
        self.yz += wanted.mT @ z
        self.yy += wanted.square().sum(1)
        self.rows += len(x)

    def error(self, v: torch.Tensor) -> torch.Tensor:
        """The mean squared error of each output for v [groups, outputs, columns + 1]."""
        squares = ((v @ self.zz) * v).sum(-1)
        found: torch.Tensor = (self.yy - 2 * (self.yz * v).sum(-1) + squares) / self.rows
        return found.clamp_min(0)

    def variance(self) -> torch.Tensor:
        """Of each wanted output."""
        mean: torch.Tensor = self.yz[..., -1] / self.rows
        return (self.yy / self.rows - mean.square()).clamp_min(0)

    def finite(self) -> bool:
        """Whether every sum is."""
        return all(bool(torch.isfinite(part).all()) for part in (self.zz, self.yz, self.yy))


def fit_bias(moments: Moments, v: torch.Tensor) -> torch.Tensor:
    """v [groups, outputs, columns + 1] with the bias that leaves no mean error."""
    weights = v[..., :-1]
    sums = torch.einsum("gok,gk->go", weights, moments.zz[:, -1, :-1])
    bias = (moments.yz[..., -1] - sums) / moments.rows
    return torch.cat([weights, bias.unsqueeze(-1)], -1)


def fit_factor(moments: Moments, v: torch.Tensor, bias: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """v with each output's weights times the best factor, and the factors [groups, outputs].

    A factor that would be 0 or less is 1: it would take the channel away, or turn it round.

    Args:
        moments: of the data.
        v: [groups, outputs, columns + 1].
        bias: whether the bias may change with the factor.
    """
    weights = torch.cat([v[..., :-1], torch.zeros_like(v[..., :1])], -1)
    uu, uy = ((weights @ moments.zz) * weights).sum(-1), (moments.yz * weights).sum(-1)
    u, y, rows = (weights * moments.zz[:, None, -1]).sum(-1), moments.yz[..., -1], moments.rows
    if bias:
        above, below = uy - u * y / rows, uu - u * u / rows
    else:
        above, below = uy - v[..., -1] * u, uu
    usable = (below > 1e-12 * uu) & (above > 0)
    factor = torch.where(usable, above / torch.where(usable, below, 1.0), 1.0)
    scaled = torch.cat([v[..., :-1] * factor.unsqueeze(-1), v[..., -1:]], -1)
    return (fit_bias(moments, scaled) if bias else scaled), factor


def fit_weights(moments: Moments, v: torch.Tensor, bias: bool) -> torch.Tensor:
    """v with the best weights where it has weights other than zero.

    Args:
        moments: of the data.
        v: [groups, outputs, columns + 1].
        bias: whether the bias may change with the weights.
    """
    fitted = v.clone()
    free = _free(v, bias)
    for group in range(v.shape[0]):
        zz, damping = moments.zz[group], _damping(moments, group)
        if not damping.sum() > 0:
            continue  # inputs that never change: nothing tells one weight from another
        masks, owner = torch.unique(free[group], dim=0, return_inverse=True)
        for index, mask in enumerate(masks):
            rows = owner == index
            now = v[group, rows]
            fixed = torch.where(mask, 0.0, now)
            wanted = (moments.yz[group, rows] - fixed @ zz + damping * now)[:, mask]
            matrix = zz[mask][:, mask] + torch.diag(damping[mask])
            factor, failed = torch.linalg.cholesky_ex(matrix)
            if not failed:
                solved = torch.cholesky_solve(wanted.mT, factor).mT
                fitted[group, rows] = fixed.masked_scatter(mask.expand_as(fixed), solved)
    return fitted


def work(v: torch.Tensor, bias: bool) -> float:
    """Multiply-accumulates `fit_weights` takes to solve: a Cholesky for each different mask."""
    free = _free(v, bias)
    sizes = [torch.unique(free[group], dim=0).sum(1).double() for group in range(v.shape[0])]
    return sum(float((size**3).sum()) / 6 for size in sizes)


def _free(v: torch.Tensor, bias: bool) -> torch.Tensor:
    return torch.cat([v[..., :-1] != 0, torch.full_like(v[..., :1], bias, dtype=torch.bool)], -1)


def _damping(moments: Moments, group: int) -> torch.Tensor:
    """What is added to the diagonal, [columns + 1]: nothing for the bias."""
    zz = moments.zz[group]
    variances = zz.diagonal()[:-1] - zz[-1, :-1].square() / moments.rows
    damping = torch.full((len(zz),), DAMPING * float(variances.mean()), dtype=torch.float64)
    damping[-1] = 0.0
    return damping.clamp_min(0)
