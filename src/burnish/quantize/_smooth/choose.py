"""Which alpha, if any: the simulated error of the layers' outputs decides.

A pass over the sample keeps, for each group, the largest magnitude of every channel and some rows
of the value. For each alpha the rows are divided by the factors and rounded to uint8 (range by
least squared error), the weights are multiplied by them and rounded to int8 per output channel, and
the products are compared with the float ones. The figure of a group is the squared error over the
squared output; the figure of an alpha is the mean over the groups, those that it makes worse left
as they are.

Factors are judged on other data than they were taken from: every second batch of the sample gives
the magnitudes, the others the rows. (Judged on the same rows, a layer whose channels are all alike
seems to gain 10 to 35 %, and loses up to 29 % on new data: the factors fit those rows' maxima.)
The factors that are used in the end come from all of it.

"Off" is the simpler answer and wins unless the best alpha takes at least a tenth off the mean
(`NEEDED`). A group whose factors cost a multiplication at run time must gain more, `NEEDED_PAID`,
to get it.

Left out: one alpha for each group (seven times seven settings from a hundred samples overfit).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from burnish.errors import InvalidInput
from burnish.graph import Traced, operator_names, tensor_of
from burnish.quantize._calibration.observe import histogram
from burnish.quantize._calibration.range import choose_range
from burnish.quantize._smooth.groups import Group
from burnish.quantize._tensors.weights import round_weight, weight_scales

ALPHAS = (0.15, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85)
NEEDED = 0.9
NEEDED_PAID = 0.7
ROWS = 512
LARGEST = 100.0


@dataclass(frozen=True)
class Seen:
    """Of a value [..., channels]: the largest magnitude of each channel, and some rows.

    `reach` is that of all the data, `fitted` that of the half that `rows` are not taken from.
    """

    reach: torch.Tensor
    fitted: torch.Tensor
    rows: torch.Tensor


@dataclass(frozen=True)
class Trial:
    """One alpha: factors and error of each group it helps, and the mean over all groups."""

    alpha: float
    factors: dict[int, torch.Tensor]
    errors: dict[int, float]
    mean: float


class _Watcher(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, values: set[fx.Node]) -> None:
        super().__init__(module)
        self.values = values
        self.fitted: dict[fx.Node, torch.Tensor] = {}
        self.judged: dict[fx.Node, torch.Tensor] = {}
        self.rows: dict[fx.Node, list[torch.Tensor]] = {}
        self.halves = (True, True)
        self.most = ROWS

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self.values:
            self._see(n, value)
        return value

    def _see(self, node: fx.Node, value: torch.Tensor) -> None:
        flat = value.reshape(-1, value.shape[-1])
        if not bool(torch.isfinite(flat).all()):
            name = operator_names(self.module)[node]  # type: ignore[arg-type]
            raise InvalidInput(
                f"SmoothQuant: the value of {name} is not finite on the calibration data; the "
                "model overflows on it, or is not a number in itself"
            )
        # Seeded and without a period, which a stride would share with the sequences.
        order = torch.randperm(len(flat), generator=torch.Generator().manual_seed(len(flat)))
        half = len(flat) // 2 if all(self.halves) and len(flat) > 1 else 0
        fit, judge = self.halves
        if fit:
            self._widen(self.fitted, node, flat[order[:half]] if half else flat)
        if judge:
            self._widen(self.judged, node, flat[order[half:]])
            kept = order[half:][: self.most]
            self.rows.setdefault(node, []).append(flat[kept].clone())

    @staticmethod
    def _widen(seen: dict[fx.Node, torch.Tensor], node: fx.Node, rows: torch.Tensor) -> None:
        reach = rows.abs().amax(0)
        seen[node] = torch.maximum(seen[node], reach) if node in seen else reach


def watch(
    traced: Traced, groups: Iterable[Group], calls: Iterable[tuple[torch.Tensor, ...]]
) -> dict[fx.Node, Seen]:
    """What the sample shows of each group's value. InvalidInput for a value that is not finite."""
    batches = list(calls)
    watcher = _Watcher(traced.graph_module, {group.value for group in groups})
    watcher.most = max(1, ROWS // max(len(batches) // 2, 1))
    with torch.inference_mode():
        for index, tensors in enumerate(batches):
            if len(batches) > 1:
                watcher.halves = (index % 2 == 0, index % 2 == 1)
            watcher.run(*tensors)
    return {
        node: Seen(torch.maximum(fitted, watcher.judged[node]), fitted, torch.cat(rows))
        for (node, fitted), rows in zip(
            watcher.fitted.items(), (watcher.rows[node] for node in watcher.fitted), strict=True
        )
    }


def factors(group: Group, reach: torch.Tensor, weights: torch.Tensor, alpha: float) -> torch.Tensor:
    """s_j = max|X_j|^alpha / max|W_j|^(1 - alpha) for each channel of the value, float64.

    Their median is 1, since a common factor changes nothing, and they stay within 1/100 and 100.
    Channels that are always zero, or that no weight reads, keep 1. Channels that come from one
    channel of what takes the factors in (grouped-query attention repeats them) share theirs.
    """
    reach = reach.double()
    read = weights.abs().amax(0).double()
    if group.origin is not None:
        reach, read = _joined(reach, group.origin), _joined(read, group.origin)
    alive = (reach > 0) & (read > 0)
    if not bool(alive.any()):
        return torch.ones_like(reach)
    ratio = reach.clamp_min(1e-30) ** alpha / read.clamp_min(1e-30) ** (1 - alpha)
    ratio = ratio / ratio[alive].median()
    return torch.where(alive, ratio.clamp(1 / LARGEST, LARGEST), 1.0)


def _joined(values: torch.Tensor, origin: torch.Tensor) -> torch.Tensor:
    """The maximum over the channels of one origin, for each of them."""
    top = torch.zeros(int(origin.max()) + 1, dtype=values.dtype)
    return top.scatter_reduce(0, origin, values, "amax")[origin]


def error(rows: torch.Tensor, weights: torch.Tensor, factor: torch.Tensor | None) -> float:
    """The squared error of rows @ weights.T in int8, over the squared output."""
    wanted = rows @ weights.T
    if factor is not None:
        rows, weights = rows / factor.float(), weights * factor.float()
    params = choose_range(histogram(rows, len(rows)), "squared error", False)
    steps = (rows / params.scale).round() + params.zero_point
    rounded = (steps.clamp(0, 255) - params.zero_point) * params.scale
    scale = weight_scales(weights, 0, None, 1.0)
    coarse = round_weight(weights, scale, 0).float() * scale[:, None]
    power = float(wanted.square().sum())
    return float((rounded @ coarse.T - wanted).square().sum()) / power if power > 0 else 0.0


class Table:
    """The errors of all groups, without smoothing and for any alpha."""

    def __init__(
        self, module: fx.GraphModule, groups: list[Group], seen: dict[fx.Node, Seen]
    ) -> None:
        self.groups = groups
        self.seen = [seen[group.value] for group in groups]
        self.weights = [stacked(module, group) for group in groups]
        self.off = [error(s.rows, w, None) for s, w in zip(self.seen, self.weights, strict=True)]

    @property
    def mean_off(self) -> float:
        """The mean over the groups without smoothing."""
        return sum(self.off) / len(self.off)

    def try_alpha(self, alpha: float) -> Trial:
        """Smooth where that helps enough."""
        used: dict[int, torch.Tensor] = {}
        errors: dict[int, float] = {}
        for index, group in enumerate(self.groups):
            seen, weights = self.seen[index], self.weights[index]
            got = error(seen.rows, weights, factors(group, seen.fitted, weights, alpha))
            if got < self.off[index] * (1.0 if group.into is not None else NEEDED_PAID):
                used[index] = factors(group, seen.reach, weights, alpha)
                errors[index] = got
        total = sum(errors.get(i, off) for i, off in enumerate(self.off))
        return Trial(alpha, used, errors, total / len(self.off))

    def best(self) -> Trial:
        """The alpha of the grid with the least mean error."""
        return min((self.try_alpha(alpha) for alpha in ALPHAS), key=lambda trial: trial.mean)


def stacked(module: fx.GraphModule, group: Group) -> torch.Tensor:
    """The weights of a group's layers, one under the other: [outputs of all, channels]."""
    found = [tensor_of(module, node.args[1]) for node in group.linears]
    return torch.cat([weight.detach() for weight in found if weight is not None])
