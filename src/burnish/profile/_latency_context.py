"""What an operator costs where it stands, and what a whole costs beyond its parts.

The price of an operator is that of the operator alone. In a model a runtime fuses it into another
(and it costs nothing), fuses others into it (and it costs more), or finds its input in the cache
(and it costs less). All of that hangs on what stands around it, which narrowing leaves as it is.
So an operator's *context* is its kind, the kinds that feed it, and the chain of kinds behind it up
to the next layer or fork, and the classes of its widths; over the anchors, whole models in which
the runtime's counters were read, the ratio of time in place to price is taken for each context. A
ratio that few operators tell is drawn towards that of the context with any widths, this towards
that of the kind; one no anchor holds falls back on them, and in the end on 1.

What is left between the sum of the operators and the whole (dispatch, what counting costs, waiting
for threads) is a constant and a factor, fitted to the anchors' times with a slight pull to 0 and 1.
Counting slows some runtimes down, by microseconds a kernel: the constant may be below 0.

Left out: contexts that reach past the next layer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx

from burnish.errors import Damaged
from burnish.graph import Traced, operator, operator_names
from burnish.profile._latency_family import LAYERS

_CHAIN = 4
_ENDS = frozenset({*LAYERS, "matmul", "bmm", "scaled_dot_product_attention", "output"})
_PULL = (0.03, 0.3)  # of the constant and the factor
_LEAST_SHARE = 0.5  # of what counters tell: however small a model, counting no more than doubles it
_DRAWN = 1.0  # as by so many operators of its own


def contexts(model: Traced) -> dict[str, str]:
    """The context of each operator of the graph, by name."""
    names = operator_names(model.graph_module)
    return {
        name: f"{_before(node)} > {operator(node)} > {_behind(node)}"
        for node, name in names.items()
        if node.op == "call_function"
    }


def within(context: str, classes: Sequence[str]) -> str:
    """The context of an operator whose widths are of these classes."""
    return f"{context} @ {' '.join(classes)}" if classes else context


def _wider(context: str) -> str | None:
    """The next context that holds more operators: any widths, then any place; None above that."""
    if " @ " in context:
        return context.partition(" @ ")[0]
    return context.split(" > ")[1] if " > " in context else None


def _kind(node: fx.Node) -> str:
    return operator(node) if node.op == "call_function" else node.op


def _before(node: fx.Node) -> str:
    return "+".join(_kind(item) for item in node.all_input_nodes if item.op != "get_attr")


def _behind(node: fx.Node) -> str:
    chain: list[str] = []
    while len(chain) < _CHAIN:
        if len(node.users) != 1:
            chain.append("fork")
            break
        (node,) = node.users
        chain.append(_kind(node))
        if chain[-1] in _ENDS:
            break
    return " ".join(chain)


@dataclass(frozen=True)
class Part:
    """An operator of an anchor: its context, its price, its seconds in place (0: fused away)."""

    context: str
    price: float
    seconds: float


@dataclass(frozen=True)
class Anchor:
    """A whole model that was timed: its operators, and the seconds of all of it."""

    parts: tuple[Part, ...]
    seconds: float


@dataclass(frozen=True)
class Correction:
    """From prices to a whole: `constant + factor * sum(factors[context] * price)`, in seconds, and
    never below half of the sum.

    `spread` is the relative error of anchors predicted from the others (root mean square), None
    with fewer than three of them.
    """

    factors: Mapping[str, float]
    constant: float
    factor: float
    spread: float | None
    num_anchors: int

    @classmethod
    def fit(cls, anchors: Sequence[Anchor]) -> Correction:
        """Without anchors: nothing is corrected."""
        factors, constant, factor = _fit(anchors)
        errors = []
        if len(anchors) >= 3:
            for index, held_out in enumerate(anchors):
                others = _fit([*anchors[:index], *anchors[index + 1 :]])
                errors.append(_predict(*others, held_out.parts) / held_out.seconds - 1)
        spread = float(np.sqrt(np.mean(np.square(errors)))) if errors else None
        return cls(factors, constant, factor, spread, len(anchors))

    def of(self, context: str) -> float:
        """The ratio of time in place to price."""
        return _ratio(self.factors, context)

    def whole(self, operators: float) -> float:
        """Seconds of a model whose operators take so long in place."""
        return _whole(self.constant, self.factor, operators)

    def to_json(self) -> dict[str, Any]:
        """A plain dict; `Correction.from_json` is its inverse."""
        return {
            "factors": dict(self.factors),
            "constant": self.constant,
            "factor": self.factor,
            "spread": self.spread,
            "num_anchors": self.num_anchors,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Correction:
        """Read back what `to_json` wrote. Raises `Damaged` when it is something else."""
        try:
            spread = record["spread"]
            return cls(
                {str(key): float(value) for key, value in record["factors"].items()},
                float(record["constant"]),
                float(record["factor"]),
                None if spread is None else float(spread),
                int(record["num_anchors"]),
            )
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise Damaged(f"this is no correction of a latency table ({error})") from None


def _ratio(factors: Mapping[str, float], context: str) -> float:
    key: str | None = context
    while key is not None and key not in factors:
        key = _wider(key)
    return 1.0 if key is None else factors[key]


def _fit(anchors: Sequence[Anchor]) -> tuple[dict[str, float], float, float]:
    factors = _factors([part for anchor in anchors for part in anchor.parts])
    if not anchors:
        return factors, 0.0, 1.0
    sums = np.array([_predict(factors, 0.0, 1.0, anchor.parts) for anchor in anchors])
    whole = np.array([anchor.seconds for anchor in anchors])
    typical = whole.mean()
    rows = np.stack([typical / whole, sums / whole], axis=1)
    wanted = np.concatenate([np.ones(len(anchors)), [0.0, _PULL[1]]])
    found, *_ = np.linalg.lstsq(np.concatenate([rows, np.diag(_PULL)]), wanted)
    return factors, float(found[0] * typical), float(found[1])


def _factors(parts: Sequence[Part]) -> dict[str, float]:
    prices: dict[str, list[float]] = defaultdict(list)
    seconds: dict[str, float] = defaultdict(float)
    for part in parts:
        key: str | None = part.context
        while part.price > 0 and key is not None:
            prices[key].append(part.price)
            seconds[key] += part.seconds
            key = _wider(key)
    factors: dict[str, float] = {}
    # The widest first: each is drawn towards the next wider one.
    for key in sorted(prices, key=lambda name: (" > " in name) + (" @ " in name)):
        wider = _wider(key)
        total, weight = sum(prices[key]), 0.0
        if wider is not None:
            weight = _DRAWN * total / len(prices[key])
        towards = 1.0 if wider is None else factors[wider]
        factors[key] = (seconds[key] + weight * towards) / (total + weight)
    return factors


def _predict(
    factors: Mapping[str, float], constant: float, factor: float, parts: Sequence[Part]
) -> float:
    operators = sum(_ratio(factors, part.context) * part.price for part in parts)
    return _whole(constant, factor, operators)


def _whole(constant: float, factor: float, operators: float) -> float:
    return max(constant + factor * operators, _LEAST_SHARE * operators)
