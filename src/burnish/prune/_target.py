"""Pruned to a target: width and depth weighed against each other by what each does to the outputs.

    trace → groups and blocks → survey: the error of each width and of each drop → solve → shrink

A share of parameters, bytes or multiply-accumulates is to go. Which groups become how narrow and
which blocks go altogether is an integer program (`_program`): the least sum of measured errors
under the limit. With `of="milliseconds"` the cost is handed in, as tables over widths measured in a
runtime; `burnish.auto.prune_to_latency` does so.

The result is one rewrite: channels first, then blocks.

Left out: what removals do together; the program's sum of errors ranks, it does not predict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from burnish.core import Choices, Rewrite
from burnish.errors import Infeasible, InvalidInput, NoEffect
from burnish.goal import Call, Goal, Inputs
from burnish.graph import (
    Traced,
    channel_groups,
    retrace,
    shrink_channels,
)
from burnish.prune._cost import COSTS, cost_of
from burnish.prune._depth import block_rows, module_without, without_blocks
from burnish.prune._evidence import Evidence, evidence_for, evidence_from
from burnish.prune._given import calls_of, traced_for
from burnish.prune._importance import check_criterion, importance
from burnish.prune._module import GRAPH, MODULE, form_of, shrink_module
from burnish.prune._parts import OfWhatIsLeft
from burnish.prune._program import Priced, Solution, solve
from burnish.prune._report import rows
from burnish.prune._residual import residual_blocks
from burnish.prune._settings import check_multiple, check_words, left_alone, settle_ignore
from burnish.prune._survey import PruningSurvey, separate, survey
from burnish.prune._terms import priced

MILLISECONDS = "milliseconds"
OF = (*COSTS, MILLISECONDS)


@dataclass(frozen=True)
class PruneTo(OfWhatIsLeft, Rewrite):
    """A copy of the model that costs a share less, by fewer channels and fewer blocks.

    Args:
        ratio: how much of the cost goes, above 0 and below 1.
        of: the cost: "macs", "parameters", "bytes", or "milliseconds", whose tables are handed in.
        criterion: which channels of a group go first, as of `PruneChannels`.
        depth: whether residual blocks may go.
        heads: attention loses "whole" heads, or "width" of each.
        ignore: layers and blocks that stay as they are: names, module paths, patterns.
        round_to: widths are multiples of it.

    Raises:
        InvalidInput: a setting out of range.
    """

    ratio: float = 0.5
    of: str = "macs"
    criterion: str = "hessian"
    depth: bool = True
    heads: str = "whole"
    ignore: tuple[str, ...] = ()
    round_to: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.ratio < 1:
            raise InvalidInput(
                f"PruneTo(ratio={self.ratio!r}): the share of the cost that goes, between 0 and 1"
            )
        check_criterion("PruneTo", self.criterion)
        check_words(self, {"of": OF, "heads": ("whole", "width")})
        check_multiple(self)
        settle_ignore(self)

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        """Survey on the goal's calibration data, then solve.

        Raises:
            InvalidInput: of="milliseconds"; no calibration data; otherwise as `survey`.
            NoEffect, Infeasible: as of `survey` and `solved`.
        """
        self._check_counted()
        traced = traced_for(model, goal.task.inputs)
        found = self.survey(traced, goal)
        return self.with_form(model, traced, goal.task.inputs, self.solved(found))

    def _check_counted(self) -> None:
        """InvalidInput for a cost that nobody can count."""
        if self.of == MILLISECONDS:
            raise InvalidInput(
                "PruneTo(of='milliseconds') needs times measured in a runtime: "
                "burnish.auto.prune_to_latency takes them"
            )

    def survey(self, traced: Traced, goal: Goal) -> PruningSurvey:
        """What each width and each drop does to the outputs.

        Raises:
            InvalidInput: data that the criterion needs is missing, an entry of `ignore` that
                matches nothing.
            NoEffect: no group and no block may lose anything.
        """
        evidence = evidence_for("PruneTo", self.criterion, traced, goal)
        calls = goal.task.calls("calibration")
        return self._survey(traced, evidence, calls, goal.seed)

    def measured(self, traced: Traced, calls: Sequence[Call], seed: int = 0) -> PruningSurvey:
        """As `survey`, from calls; a criterion that needs a loss is refused."""
        evidence = evidence_from("PruneTo", self.criterion, traced, calls, seed)
        return self._survey(traced, evidence, calls, seed)

    def _survey(
        self, traced: Traced, evidence: Evidence, calls: Iterable[Call], seed: int
    ) -> PruningSurvey:
        channels = channel_groups(traced, self.heads)  # type: ignore[arg-type]
        blocks = residual_blocks(traced)
        owners: dict[str, Sequence[str]] = {group.name: group.layers for group in channels}
        owners |= {block.name: (block.name, *block.layers) for block in blocks}
        ignored = left_alone(owners, self.ignore)
        groups = [g for g in channels.free if g.name not in ignored and g.num_channels > 1]
        free = separate([b for b in blocks if b.name not in ignored]) if self.depth else ()
        if not groups and not free:
            reasons = "\n  ".join(f"{name}: {why}" for name, why in list(ignored.items())[:8])
            raise NoEffect(f"no channel and no block of this model may be removed\n  {reasons}")
        scores = importance(channels, self.criterion, evidence.gradients, seed, evidence.norms)
        return survey(channels, groups, free, scores, calls, ignored, self.round_to)

    def solved(self, found: PruningSurvey, terms: Sequence[Priced] = ()) -> Choices:
        """The least error whose cost is what `ratio` leaves.

        Args:
            found: the survey.
            terms: the cost's tables; by default those of `of`.

        Raises:
            InvalidInput: of="milliseconds" without tables.
            Infeasible: so much cannot be removed; `result` is the share that can.
        """
        kept = {name: widths.kept for name, widths in found.widths.items()}
        if not terms:
            self._check_counted()
            terms = priced(found.channels, cost_of(found.channels, self.of), kept, found.blocks)
        whole = sum(float(term.table[(0,) * len(term.units)]) for term in terms)
        errors = {name: widths.errors for name, widths in found.widths.items()}
        try:
            best = solve(errors, found.drops, terms, (1 - self.ratio) * whole)
        except Infeasible as error:
            assert isinstance(error.result, Solution)
            share = 1 - error.result.cost / whole
            raise Infeasible(
                f"PruneTo(ratio={self.ratio:g}, of={self.of!r}) cannot be reached: with all groups "
                f"as narrow, and all blocks gone, as may be, {share:.3f} is saved",
                result=share,
            ) from None
        return Choices(self._plan(found, best, whole))

    def _plan(self, found: PruningSurvey, best: Solution, whole: float) -> dict[str, Any]:
        removed = found.removed(best.levels)
        blocks = residual_blocks(found.channels.traced)
        gone = {n for b in found.blocks if b.name in best.dropped for n in b.layers}
        # What a dropped block holds need not be narrowed before it goes.
        groups = {group.name: group for group in found.channels}
        removed = {n: c for n, c in removed.items() if not set(groups[n].layers) <= gone}
        table = rows(found.channels, found.ignored, removed)
        for row in table:
            if row["layer"] in gone:
                row |= {"after": 0, "state": "dropped", "reason": "its block was dropped"}
        return {
            "call": found.channels.traced.call,
            "heads": self.heads,
            "removed": removed,
            "dropped": list(best.dropped),
            "layers": table,
            "blocks": block_rows(blocks, found.drops, best.dropped, found.ignored),
            "saved": 1 - best.cost / whole,
            "error": best.error,
            "form": GRAPH,
            "form because": "it was chosen for a graph",
        }

    def with_form(
        self, model: nn.Module, traced: Traced, inputs: Inputs, choices: Choices
    ) -> Choices:
        """The choices, for the user's own class where that computes what the graph does."""
        if isinstance(model, Traced):
            return choices
        plan = choices.plan
        small = _shrunk(traced, plan)
        form = form_of(lambda: _module(model, traced, plan), small, inputs)
        return Choices(dict(plan) | form, choices.tensors)

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        """The smaller model, in the form that was chosen: module or graph.

        Raises:
            InvalidInput: the plan names groups or blocks the model does not have.
        """
        plan = choices.plan
        traced = model if isinstance(model, Traced) else retrace(model, plan["call"])
        if plan["form"] == MODULE and not isinstance(model, Traced):
            return _module(model, traced, plan)
        return _shrunk(traced, plan)


def _narrow(traced: Traced, plan: Mapping[str, Any]) -> Traced:
    return shrink_channels(channel_groups(traced, plan["heads"]), plan["removed"])


def _shrunk(traced: Traced, plan: Mapping[str, Any]) -> Traced:
    return without_blocks(_narrow(traced, plan), plan["dropped"])


def _module(model: nn.Module, traced: Traced, plan: Mapping[str, Any]) -> nn.Module:
    narrow = shrink_module(model, _narrow(traced, plan))
    return module_without(narrow, traced, plan["dropped"]) if plan["dropped"] else narrow


def prune_to(
    model: nn.Module,
    example: Any,
    ratio: float = 0.5,
    *,
    calibration: Iterable[Any],
    seed: int = 0,
    **settings: Any,
) -> nn.Module:
    """A copy of a model that costs a share less, by fewer channels and fewer blocks.

    Args:
        model: in eval mode; left as it was.
        example: an example call, as of `prune_channels`.
        ratio: how much of the cost goes, as of `PruneTo`.
        calibration: batches, each as `example`.
        seed: of criterion="random" and "hessian".
        settings: the others of `PruneTo`.

    Returns:
        The user's own class, smaller, where its code allows that; else a graph called like it.

    Raises:
        InvalidInput, NoEffect, Infeasible: as of `PruneTo`.
        Unsupported: the model cannot be exported.
    """
    step = PruneTo(ratio, **settings)
    step._check_counted()
    inputs = Inputs.of(example)
    traced = traced_for(model, inputs)
    choices = step.solved(step.measured(traced, list(calls_of(calibration)), seed))
    return step.rewrite(model, step.with_form(model, traced, inputs, choices))
