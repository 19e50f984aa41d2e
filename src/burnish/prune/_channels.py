"""Channel pruning: whole channels removed from every tensor that has them.

    trace → groups of coupled channels → a score for each → how many each group loses → shrink

The groups, and why some channels must stay, are `graph.channel_groups`' doing. What is removed is
exactly what masking it would have silenced (`graph.mask_channels`), so quality can be judged before
or after. The result is the user's own class where its code allows that (`_module`), else a graph,
called like the model it came from; either trains, exports and quantizes.

Left out: each group by what its cut does to the outputs, and targets in milliseconds (`PruneTo`);
heads and their width at once (prune twice).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from burnish.core import Choices, Rewrite
from burnish.errors import NoEffect
from burnish.goal import Goal, Inputs
from burnish.graph import (
    ChannelGroup,
    Channels,
    Traced,
    channel_groups,
    retrace,
    shrink_channels,
)
from burnish.prune._allocate import SCOPES, SHARES, Asked, allocate, saved_share
from burnish.prune._evidence import evidence_for, evidence_from
from burnish.prune._given import calls_of, check_calibration, traced_for
from burnish.prune._gradients import Gradient
from burnish.prune._importance import (
    FROM_LOSS,
    WITH_CALIBRATION,
    check_criterion,
    importance,
)
from burnish.prune._module import GRAPH, MODULE, form_of, shrink_module
from burnish.prune._parts import OfWhatIsLeft
from burnish.prune._report import ONE_CHANNEL, SINGLE, rows
from burnish.prune._settings import (
    check_multiple,
    check_ratio,
    check_words,
    left_alone,
    settle_ignore,
)


@dataclass(frozen=True)
class PruneChannels(OfWhatIsLeft, Rewrite):
    """A copy of the model with a share of its channels removed.

    Args:
        ratio: how much to remove, from 0 up to, not including, 1.
        of: what the ratio is a share of: "channels", "parameters", "bytes" or "macs".
        criterion: which channels matter: "random", "l1", "l2", "batch_norm", "fpgm", "lamp"; with
            calibration data, without labels, "hessian" or "wanda"; with training data and a loss
            "taylor" or "fisher".
        scope: "uniform" (each group loses the share), "global" (one order for all) or "isomorphic"
            (one order for groups of the same kind).
        heads: attention loses "whole" heads, or "width" of each.
        ignore: layers that keep their channels: names of the table of layers, module paths, or
            patterns of them.
        round_to: kept counts are rounded up to a multiple of it.

    Raises:
        InvalidInput: a setting out of range.
    """

    ratio: float = 0.3
    of: str = "channels"
    criterion: str = "l2"
    scope: str = "uniform"
    heads: str = "whole"
    ignore: tuple[str, ...] = ()
    round_to: int = 1

    def __post_init__(self) -> None:
        check_ratio(self)
        check_criterion("PruneChannels", self.criterion)
        check_words(self, {"of": SHARES, "scope": SCOPES, "heads": ("whole", "width")})
        check_multiple(self)
        settle_ignore(self)

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        """Score the channels, on the goal's data where the criterion needs any, and decide.

        Raises:
            InvalidInput: a criterion without the data, or the loss, that it needs; otherwise as
                `choose_from`.
        """
        traced = traced_for(model, goal.task.inputs)
        evidence = evidence_for("PruneChannels", self.criterion, traced, goal)
        choices = self.choose_from(traced, evidence.gradients, goal.seed, evidence.norms)
        return with_form(model, traced, goal.task.inputs, choices)

    def choose_from(
        self,
        traced: Traced,
        gradients: Iterable[Gradient] = (),
        seed: int = 0,
        norms: Mapping[str, torch.Tensor] | None = None,
    ) -> Choices:
        """Decide for a traced model, with gradients or norms of inputs where they are needed.

        Raises:
            InvalidInput: no gradients or norms where the criterion needs them, or such as are not
                finite, an entry of `ignore` that matches nothing.
            NoEffect: no group may lose a channel, or the ratio removes none.
            Infeasible: so much cannot be removed; `result` is the share that can.
        """
        channels = channel_groups(traced, self.heads)  # type: ignore[arg-type]
        ignored = ignored_groups(channels, self.ignore)
        free = free_groups(channels, ignored)
        scores = importance(channels, self.criterion, gradients, seed, norms)
        asked = Asked(self.ratio, self.of, self.scope, self.round_to)
        removed = allocate(channels, free, scores, asked)
        if not removed:
            widest = max(free, key=lambda group: group.num_channels)
            raise NoEffect(
                f"ratio={self.ratio:g} of the {self.of} with round_to={self.round_to} removes no "
                f"channel: the widest group, {widest.name!r}, has {widest.num_channels}"
            )
        return Choices(
            {
                "call": traced.call,
                "heads": self.heads,
                "removed": removed,
                "saved": saved_share(channels, free, removed, self.of),
                "layers": rows(channels, ignored, removed),
                "form": GRAPH,
                "form because": "it was chosen for a graph",
            }
        )

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        """The model without the chosen channels, in the form that was chosen: module or graph.

        Pure: equal choices give equal models.

        Raises:
            InvalidInput: the plan names groups the model does not have.
        """
        plan = choices.plan
        traced = model if isinstance(model, Traced) else retrace(model, plan["call"])
        small = shrink_channels(channel_groups(traced, plan["heads"]), plan["removed"])
        in_module = plan["form"] == MODULE and not isinstance(model, Traced)
        return shrink_module(model, small) if in_module else small


def with_form(model: nn.Module, traced: Traced, inputs: Inputs, choices: Choices) -> Choices:
    """The choices, for the user's own class where that computes what the graph does."""
    if isinstance(model, Traced):
        return choices
    plan = choices.plan
    small = shrink_channels(channel_groups(traced, plan["heads"]), plan["removed"])
    form = form_of(lambda: shrink_module(model, small), small, inputs)
    return Choices(dict(plan) | form, choices.tensors)


def ignored_groups(channels: Channels, ignore: Sequence[str]) -> dict[str, str]:
    """Why a group is left alone at the user's wish, by its name."""
    return left_alone({group.name: group.layers for group in channels}, ignore)


def free_groups(channels: Channels, ignored: Mapping[str, str]) -> list[ChannelGroup]:
    """The groups that may lose channels. NoEffect, with the reasons, where none may."""
    free = [g for g in channels.free if g.name not in ignored and g.num_channels > 1]
    if free:
        return free
    reasons = dict.fromkeys(
        f"{group.name}: {group.frozen or ignored.get(group.name) or ONE_CHANNEL}"
        for group in channels
    )
    reasons |= dict.fromkeys(f"{layer}: {SINGLE}" for layer in channels.single)
    listed = "\n  ".join(list(reasons)[:8]) or "no layer with channels was found"
    raise NoEffect(f"no channel of this model may be removed:\n  {listed}")


def prune_channels(
    model: nn.Module,
    example: Any,
    ratio: float = 0.3,
    *,
    calibration: Iterable[Any] | None = None,
    seed: int = 0,
    **settings: Any,
) -> nn.Module:
    """A copy of a model with a share of its channels removed, really smaller.

    Args:
        model: in eval mode; left as it was.
        example: an example call: a tensor, a tuple of positional arguments, a dict of keyword ones,
            or `Inputs`, which can say which axes are dynamic.
        ratio: how much to remove, as of `PruneChannels`.
        calibration: batches, each as `example`, for criterion="hessian" and "wanda".
        seed: of criterion="random" and "hessian".
        settings: the others of `PruneChannels`.

    Returns:
        The user's own class, smaller, where its code allows that; else a graph called like it.

    Raises:
        InvalidInput, NoEffect, Infeasible: as of `PruneChannels`.
        Unsupported: the model cannot be exported.
    """
    step = PruneChannels(ratio, **settings)
    needs = step.criterion in WITH_CALIBRATION
    if step.criterion not in FROM_LOSS:
        check_calibration("prune_channels", step.criterion, needs, calibration)
    inputs = Inputs.of(example)
    traced = traced_for(model, inputs)
    found = evidence_from("prune_channels", step.criterion, traced, calls_of(calibration), seed)
    choices = step.choose_from(traced, found.gradients, seed, found.norms)
    choices = with_form(model, traced, inputs, choices)
    return step.rewrite(model, choices)
