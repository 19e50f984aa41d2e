"""What a model will take on this machine, from a table of what its operators take.

A latency table is built once for a runtime, number of threads and batch: every operator shape it is
given is timed inside that runtime (`_latency_clock`), every layer at a grid of widths
(`_latency_grid`), and a few whole models, the anchors, correct the sum for what fusing and
neighbours change (`_latency_context`). From then on a price is a look-up of microseconds, which is
what a search over widths or precisions spends. It is worth what it was measured with: a table is
written with its machine and versions and refused on another, and `predict` tells an interval.

Left out: precisions that change the graph (int8, float16): their operators are other ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

from burnish.bench import Environment
from burnish.errors import InvalidInput, Unsupported
from burnish.graph import Traced
from burnish.profile._latency_clock import Clock, Progress, RuntimeClock
from burnish.profile._latency_context import Anchor, Correction, Part, contexts, within
from burnish.profile._latency_family import Place, describe, is_free, place, resized
from burnish.profile._latency_file import Curves, Grids, Header, read_table, write_table
from burnish.profile._latency_grid import Classes, Curve, Grid, classes, widths_to_measure
from burnish.profile._shape import OpShape
from burnish.profile._shape import shapes as shapes_of

PRECISIONS = ("float32", "bfloat16")
_MOST_WORK = 6  # measured amounts of work of one kind
_CONFIDENCE = 0.95
_UNKNOWN_SPREAD = 0.25  # of a prediction, with fewer than three anchors
_BLOCKS = {"avx512f": 16, "avx2": 8}


@dataclass(frozen=True)
class Prediction:
    """A predicted latency, in seconds: value, interval at 95 %, and what each operator takes.

    `operators` are by name, as the runtime's counters would tell them, 0 where one is fused into
    another; `seconds` holds what no operator owns, too, and not what counting costs.
    `extrapolated` names operators narrower or wider than what was measured.
    """

    seconds: float
    low: float
    high: float
    operators: Mapping[str, float]
    extrapolated: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class LatencyTable:
    """Seconds of operators by their shape, on one machine, runtime, number of threads and batch."""

    header: Header
    grids: Grids
    curves: Curves
    correction: Correction

    @classmethod
    def build(
        cls,
        runtime: str,
        shapes: Iterable[OpShape],
        *,
        anchors: Sequence[Traced] = (),
        batch: int = 1,
        precision: str = "float32",
        threads: int | None = None,
        seconds: float = 2.0,
        seed: int = 0,
        progress: Progress | None = None,
        clock: Clock | None = None,
    ) -> LatencyTable:
        """Time operators and anchors: some minutes for the shapes of a network.

        Args:
            runtime: its name.
            shapes: of operators at `batch`; each layer among them is measured at widths from a
                quarter of the narrowest in its family to the widest.
            anchors: whole models that correct the sum, best some of other widths than the model
                at hand: without any, a prediction is a sum of parts, three tell its interval. Their
                own shapes are measured with the others.
            batch: samples a call.
            precision: "float32", or "bfloat16" where the runtime computes a float32 file in it.
            threads: of the runtime; None takes every core this process may use.
            seconds: for each anchor.
            seed: of the weights, and of the order of measuring.
            progress: is called with the share that is done.
            clock: tells times in place of a runtime.

        Raises:
            Unsupported: a kind of operator or a precision it does not know, by name.
            InvalidInput: no shapes at all.
            RuntimeFailed: the runtime fails.
        """
        if precision not in PRECISIONS:
            raise Unsupported(f"latency tables come in {', '.join(PRECISIONS)}, not {precision!r}")
        environment = Environment.capture()
        header = Header(environment, runtime, precision, threads, batch, _block(environment))
        if clock is None:
            clock = RuntimeClock(runtime, precision, threads, batch, seconds, seed)
        tell = progress or (lambda share: None)
        found = [shapes_of(anchor, batch) for anchor in anchors]
        wanted = [*shapes, *(item for own in found for item in own.values())]
        examples = {place(item): item for item in wanted if not is_free(item)}
        if not examples:
            raise InvalidInput("no operator to measure: give the shapes of a model")
        share = 1 / (1 + len(anchors) / 10)
        grids, curves = _measured(examples, header.block, clock, lambda done: tell(share * done))
        table = cls(header, grids, curves, Correction.fit(()))
        observed = []
        for index, anchor in enumerate(anchors):
            observed.append(table._anchor(anchor, found[index], clock))
            tell(share + (1 - share) * (index + 1) / len(anchors))
        return dataclasses.replace(table, correction=Correction.fit(observed))

    def seconds(self, shape: OpShape) -> float:
        """What an operator takes alone, 0 for one that a runtime does not compute.

        It never falls as a width grows among widths of one class (`_latency_grid`).

        Raises:
            Unsupported: an operator of a kind or family that was not measured.
            InvalidInput: a layer wider or narrower than what was measured.
        """
        price, inside = self._price(shape)
        if not inside:
            raise InvalidInput(self._outside(shape))
        return price

    def predict(self, model: Traced, batch: int | None = None) -> Prediction:
        """The latency of a whole model in seconds, operators corrected for what they stand in.

        A layer beyond the measured widths has the price of the nearest measured one and is named
        in `extrapolated`.

        Raises:
            Unsupported: operators that were not measured, all of them by name.
            InvalidInput: another batch than the table's.
        """
        if batch is not None and batch != self.header.batch:
            raise InvalidInput(
                f"batch={batch}: this table was measured at {self.header.batch}; build another"
            )
        found, standing = shapes_of(model, self.header.batch), contexts(model)
        prices, outside, unknown = {}, [], []
        for name, shape in found.items():
            try:
                price, inside = self._price(shape)
            except Unsupported as error:
                unknown.append(f"{name} ({error})")
                continue
            prices[name] = self.correction.of(self._context(standing[name], shape)) * price
            if not inside:
                outside.append(name)
        if unknown:
            raise Unsupported(f"not in this table: {'; '.join(unknown)}")
        correction = self.correction
        value = correction.whole(sum(prices.values()))
        margin = _margin(correction)
        return Prediction(value, value / margin, value * margin, prices, tuple(outside))

    @property
    def num_measured(self) -> int:
        """How many operator shapes were timed."""
        points = [grid.seconds.size for grids in self.grids.values() for grid in grids.values()]
        return sum(points) + sum(len(curve.work) for curve in self.curves.values())

    def save(self, path: Path) -> None:
        """Write the table as JSON, whole or not at all."""
        write_table(Path(path), self.header, self.grids, self.curves, self.correction)

    @classmethod
    def open(cls, path: Path) -> LatencyTable:
        """Read what `save` wrote.

        Raises:
            Damaged: a file that is none of ours, or cut off, or of another schema.
            InvalidInput: it was measured on another machine, or with other versions.
        """
        return cls(*read_table(Path(path)))

    def _price(self, shape: OpShape) -> tuple[float, bool]:
        """Seconds, and whether they lie within what was measured."""
        if is_free(shape):
            return 0.0, True
        where = place(shape)
        if not where.is_layer:
            curve = self.curves.get(where.family)
            if curve is None:
                raise Unsupported(f"no {shape.kind} of this form was measured")
            return curve.at(where.widths[0]), True
        grids = self.grids.get(where.family)
        if grids is None:
            raise Unsupported(f"no {describe(where.family)} was measured")
        grid = grids.get(classes(where.widths, self.header.block))
        if grid is not None:
            return grid.at(where.widths), grid.holds(where.widths)
        # Classes that do not occur within the measured widths.
        return max(other.at(where.widths) for other in grids.values()), False

    def _outside(self, shape: OpShape) -> str:
        where = place(shape)
        grids = self.grids[where.family].values()
        ends = [
            f"{min(grid.axes[axis][0] for grid in grids)} to "
            f"{max(grid.axes[axis][-1] for grid in grids)}"
            for axis in range(len(where.widths))
        ]
        return (
            f"{describe(where.family)} with widths {list(where.widths)}: measured were "
            f"{' and '.join(ends)}; build the table with this shape among its shapes"
        )

    def _anchor(self, model: Traced, found: Mapping[str, OpShape], clock: Clock) -> Anchor:
        observed, standing = clock.model(model), contexts(model)
        parts = tuple(
            Part(
                self._context(standing[name], shape),
                self._price(shape)[0],
                observed.operators.get(name, 0.0),
            )
            for name, shape in found.items()
        )
        return Anchor(parts, observed.seconds)

    def _context(self, context: str, shape: OpShape) -> str:
        if is_free(shape) or not place(shape).is_layer:
            return context
        return within(context, classes(place(shape).widths, self.header.block))


def _block(environment: Environment) -> int:
    isa = environment.machine.isa
    return next((size for name, size in _BLOCKS.items() if name in isa), 4)


def _margin(correction: Correction) -> float:
    """The factor on either side of a prediction."""
    if correction.spread is None:
        return 1 + _UNKNOWN_SPREAD
    freedom = correction.num_anchors - 1
    quantile = float(stats.t.ppf((1 + _CONFIDENCE) / 2, freedom))
    return math.exp(quantile * correction.spread)


def _measured(
    examples: Mapping[Place, OpShape], block: int, clock: Clock, progress: Progress
) -> tuple[dict[OpShape, dict[Classes, Grid]], dict[OpShape, Curve]]:
    by_family: dict[OpShape, list[Place]] = {}
    for where in examples:
        by_family.setdefault(where.family, []).append(where)
    wanted: dict[Place, OpShape] = {}
    for family, members in by_family.items():
        if members[0].is_layer:
            groups = int(family.setting("groups", 1))
            step = (max(1, groups),) * len(members[0].widths)
            seen = [member.widths for member in members]
            for widths in widths_to_measure(seen, block, step):
                wanted[Place(family, widths)] = resized(family, widths)
        else:
            for member in _spread_out(members):
                wanted[member] = examples[member]
    seconds = dict(zip(wanted, clock.shapes(list(wanted.values()), progress), strict=True))
    grids: dict[OpShape, dict[Classes, Grid]] = {}
    curves: dict[OpShape, Curve] = {}
    for family, members in by_family.items():
        own = {item.widths: value for item, value in seconds.items() if item.family == family}
        if not members[0].is_layer:
            curves[family] = Curve.fit({widths[0]: value for widths, value in own.items()})
            continue
        by_class: dict[Classes, dict[tuple[int, ...], float]] = {}
        for widths, value in own.items():
            by_class.setdefault(classes(widths, block), {})[widths] = value
        grids[family] = {kinds: Grid.fit(values) for kinds, values in by_class.items()}
    return grids, curves


def _spread_out(members: Sequence[Place]) -> list[Place]:
    """A few of the amounts of work that occur, the least and the most among them."""
    ordered = sorted(members, key=lambda member: member.widths)
    if len(ordered) <= _MOST_WORK:
        return ordered
    last = len(ordered) - 1
    return [ordered[round(index * last / (_MOST_WORK - 1))] for index in range(_MOST_WORK)]
