"""Weight pruning: single weights set to zero, by masks that stay visible and can be taken off.

    the weights → a score for each → the lowest go, where the pattern lets them → masks

Nothing gets smaller by it: the tensors keep their shapes, and the runtimes here multiply by the
zeros. What zeros are worth on this machine is a question to the clock, and to the size of a
compressed file. Channels make a model smaller (`PruneChannels`).

A model that is masked already keeps its masks, and the sparsity asked for is what is masked in all:
0.5 and then 0.8 masks four fifths, not nine tenths.

Two criteria also bring new values for the weights that stay, as `NAME_orig` among the tensors of
the choices: SparseGPT's update, and what movement's training made of them.

Left out: recurrent layers and embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from burnish.core import Choices, Rewrite, copied_model
from burnish.errors import Infeasible, InvalidInput, NoEffect
from burnish.goal import Call, Goal, Inputs
from burnish.prune._given import calls_of, check_calibration
from burnish.prune._gradients import loss_gradients, output_gradients
from burnish.prune._mask import apply_masks, write_weights
from burnish.prune._movement import movement
from burnish.prune._pattern import GONE, UNSTRUCTURED, Pattern, masks_for, parse, units
from burnish.prune._settings import check_words, left_alone, settle_ignore
from burnish.prune._sparsegpt_layers import Decided, sparsegpt_layers
from burnish.prune._weight_layers import Weight, input_norms, weights_of
from burnish.prune._weight_scores import (
    CRITERIA,
    WITH_CALIBRATION,
    WITH_GRADIENTS,
    WITH_LOSS,
    scores,
)

SCOPES = ("layer", "global")
COLLAPSED = "masked whole: nothing passes this layer any more"


@dataclass(frozen=True)
class PruneWeights(Rewrite):
    """A copy of the model with a share of its weights masked.

    Args:
        sparsity: the share of zeros, above 0 and below 1, of all entries, those masked before
            included; an N:M pattern has its own.
        pattern: "unstructured", N:M as "2:4" (kept of every four inputs), or blocks of outputs by
            inputs as "4x1".
        criterion: "random", "l1", "l2"; with calibration data "wanda", "hessian" or "sparsegpt";
            with training data and a loss "taylor", "fisher" or "movement".
        scope: "layer" (each weight gets the share) or "global" (all entries stand in one order).
        ignore: weights that stay: names, module paths, or patterns of them.
        biases: mask biases, too (unstructured).

    Raises:
        InvalidInput: a setting out of range, or one the pattern has no use for.
    """

    sparsity: float | None = None
    pattern: str = UNSTRUCTURED
    criterion: str = "l1"
    scope: str = "layer"
    ignore: tuple[str, ...] = ()
    biases: bool = False

    def __post_init__(self) -> None:
        shape = parse(self.pattern)
        check_words(self, {"criterion": CRITERIA, "scope": SCOPES})
        if shape.share is None:
            if not isinstance(self.sparsity, int | float) or not 0 < self.sparsity < 1:
                raise InvalidInput(
                    f"PruneWeights(sparsity={self.sparsity!r}): a share above 0 and below 1"
                )
        elif self.sparsity not in (None, shape.share):
            raise InvalidInput(
                f"PruneWeights(sparsity={self.sparsity!r}, pattern={self.pattern!r}): the pattern "
                f"is {shape.share:g} zeros; leave sparsity out"
            )
        self._check_together(shape)
        settle_ignore(self)

    def _check_together(self, shape: Pattern) -> None:
        """InvalidInput for a setting that another has no use for."""
        if shape.share is not None and self.scope == "global":
            raise InvalidInput(
                f"PruneWeights(scope='global', pattern={self.pattern!r}): the pattern fixes what "
                "each layer loses; leave scope out"
            )
        if self.biases and self.pattern != UNSTRUCTURED:
            raise InvalidInput(
                f"PruneWeights(biases=True, pattern={self.pattern!r}): a bias has no inputs; only "
                "'unstructured' can take some"
            )
        if self.criterion == "sparsegpt" and (self.biases or self.scope == "global"):
            setting = "biases=True" if self.biases else "scope='global'"
            raise InvalidInput(
                f"PruneWeights({setting}, criterion='sparsegpt'): it goes through the input "
                "columns of one weight after another; leave that setting out"
            )

    @property
    def share(self) -> float:
        """What is masked in all. InvalidInput for an N:M pattern, which is not had in parts."""
        if self.sparsity is None or parse(self.pattern).share is not None:
            raise InvalidInput(
                f"PruneWeights(pattern={self.pattern!r}) has the pattern's own sparsity, which "
                "cannot be had in parts: take 'unstructured' or blocks"
            )
        return self.sparsity

    def part(self, before: float, after: float) -> PruneWeights:
        """The step that takes what is masked from one share to another: masks add up."""
        return replace(self, sparsity=after)

    def reached(self, before: float, choices: Choices) -> float:
        """What is masked in all, of the weights that may be."""
        rows = [row for row in masked_weights(choices) if row.weight in choices.plan["masked"]]
        return sum(row.masked for row in rows) / sum(row.entries for row in rows)

    def choose(self, model: nn.Module, goal: Goal) -> Choices:
        """Score the weights, on the goal's data where the criterion needs any, and decide.

        Raises:
            InvalidInput: a criterion without the data, or the loss, that it needs; otherwise as
                `choose_from`.
        """
        task = goal.task
        calls: Iterable[Call] = ()
        if self.criterion in WITH_LOSS:
            if task.loss is None:
                raise InvalidInput(f"PruneWeights(criterion={self.criterion!r}) needs Task(loss=…)")
            calls = task.calls("train")
        elif self.criterion in WITH_CALIBRATION:
            calls = task.calls("calibration")
        return self.choose_from(model, calls, goal.seed, task.loss, task.inputs)

    def choose_from(
        self,
        model: nn.Module,
        calls: Iterable[Call] = (),
        seed: int = 0,
        loss: Callable[[Any, Any], torch.Tensor] | None = None,
        inputs: Inputs | None = None,
    ) -> Choices:
        """Decide for a model, with calls of it where the criterion needs data.

        `inputs` is an example call with its dynamic axes; "sparsegpt" traces a module with it, or
        else with the first of `calls`.

        Raises:
            InvalidInput: no data, or data, weights or a loss that are not finite, no loss where
                the criterion needs one, an entry of `ignore` that matches nothing, or a sparsity
                below what is masked already.
            NoEffect: no weight may be masked, or none is that was not before.
            Infeasible: the share of a weight would be all of it; `result` is its name.
            Unsupported: "sparsegpt" cannot trace the model.
        """
        shape = parse(self.pattern)
        chosen, reasons = self._chosen(model, shape)
        self._check_more(chosen, shape)
        found = self._decided(model, chosen, calls, seed, loss, inputs)
        if all(torch.equal(found.masks[weight.name], weight.kept) for weight in chosen):
            num = sum(weight.value.numel() for weight in chosen)
            more = " more" if any(weight.mask is not None for weight in chosen) else ""
            share = shape.share if self.sparsity is None else self.sparsity
            raise NoEffect(f"sparsity={share:g} of {num} weights masks none{more}")
        self._check_left(chosen, found)
        rows = [_row(weight, found, reasons) for weight in weights_of(model)]
        updated = {f"{name}_orig": tensor for name, tensor in found.updated.items()}
        return Choices(
            {"weights": rows, "masked": sorted(found.masks), "updated": sorted(found.updated)},
            {**found.masks, **updated},
        )

    def _decided(
        self,
        model: nn.Module,
        chosen: list[Weight],
        calls: Iterable[Call],
        seed: int,
        loss: Callable[[Any, Any], torch.Tensor] | None,
        inputs: Inputs | None,
    ) -> Decided:
        """The masks, and new values where the criterion brings some."""
        shape = parse(self.pattern)
        if self.criterion == "sparsegpt":
            return sparsegpt_layers(
                model, chosen, calls, shape, self.sparsity, inputs=inputs, seed=seed
            )
        if self.criterion in WITH_LOSS and loss is None:
            raise InvalidInput(f"PruneWeights(criterion={self.criterion!r}) needs a loss")
        updated: dict[str, torch.Tensor] = {}
        if self.criterion == "movement":
            assert loss is not None
            scored, updated = movement(
                model, chosen, calls, loss, shape, self.sparsity, scope=self.scope, seed=seed
            )
        else:
            options: dict[str, Any] = {"seed": seed}
            if self.criterion == "wanda":
                options["norms"] = input_norms(model, calls)
            elif self.criterion == "hessian":
                options["gradients"] = output_gradients(model, calls, seed)
            elif self.criterion in WITH_GRADIENTS:
                assert loss is not None
                options["gradients"] = loss_gradients(model, calls, loss)
            scored = scores(chosen, self.criterion, **options)
        return Decided(masks_for(scored, shape, self.sparsity, self.scope), updated)

    def _check_more(self, chosen: list[Weight], shape: Pattern) -> None:
        """InvalidInput where more is masked already than is asked for."""
        if self.sparsity is None or shape.share is not None:
            return
        each = {w.name: units(torch.where(w.kept, 0.0, GONE), shape) for w in chosen}
        whole = {"all weights": torch.cat(list(each.values()))} if self.scope == "global" else each
        for name, marks in whole.items():
            masked, num = int((marks == GONE).sum()), marks.numel()
            if round(self.sparsity * num) < masked:
                raise InvalidInput(
                    f"sparsity={self.sparsity:g} of {name} is less than the {masked / num:.3f} "
                    "that are masked already, and masks stay: ask for more, name it in ignore, or "
                    "start from remove_masks(model)"
                )

    def _check_left(self, chosen: list[Weight], found: Decided) -> None:
        """Infeasible where a layer's own share is all of it; a note where one order took all."""
        empty = [w.name for w in chosen if not w.bias and not bool(found.masks[w.name].any())]
        if empty and self.scope == "layer":
            more = "" if len(empty) == 1 else f" (and {len(empty) - 1} others)"
            raise Infeasible(
                f"PruneWeights(sparsity={self.sparsity:g}, pattern={self.pattern!r}) would mask "
                f"all of {empty[0]!r}{more}, and nothing would pass that layer: less sparsity, or "
                f"ignore=({empty[0]!r},)",
                result=empty[0],
            )
        found.notes.update(dict.fromkeys(empty, COLLAPSED))

    def _chosen(self, model: nn.Module, shape: Pattern) -> tuple[list[Weight], dict[str, str]]:
        """The weights to mask, and why others are left alone."""
        everything = weights_of(model)
        reasons = left_alone({weight.name: (weight.name,) for weight in everything}, self.ignore)
        for weight in everything:
            misfit = None if weight.bias else shape.misfit(weight.value)
            if weight.bias and not self.biases:
                reasons.setdefault(weight.name, "a bias: biases=True masks them, too")
            elif misfit is not None:
                reasons.setdefault(weight.name, misfit)
        chosen = [weight for weight in everything if weight.name not in reasons]
        if not chosen:
            listed = "\n  ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:8])
            raise NoEffect(
                f"no weight of this model may be masked:\n  {listed or 'no layer has one'}"
            )
        return chosen, reasons

    def rewrite(self, model: nn.Module, choices: Choices) -> nn.Module:
        """A copy with the masks on. Pure: equal choices give equal models.

        Raises:
            InvalidInput: the plan masks what the model does not have.
        """
        copied, tensors = copied_model(model), choices.tensors
        new = {name: tensors[f"{name}_orig"] for name in choices.plan.get("updated", ())}
        write_weights(copied, new)
        apply_masks(copied, {name: tensors[name] for name in choices.plan["masked"]})
        return copied


@dataclass(frozen=True)
class WeightSparsity:
    """A weight's entries, how many are masked, and why it was left alone, if it was.

    `note` says where a weight was masked whole (in one order for all), or not by the criterion
    that was asked for, and why.
    """

    weight: str
    entries: int
    masked: int
    reason: str
    note: str = ""

    @property
    def sparsity(self) -> float:
        """The share that is masked."""
        return self.masked / self.entries


def _row(weight: Weight, found: Decided, reasons: dict[str, str]) -> dict[str, Any]:
    mask = found.masks.get(weight.name, weight.kept)
    return {
        "weight": weight.name,
        "entries": weight.value.numel(),
        "masked": int((~mask).sum()),
        "reason": reasons.get(weight.name, ""),
        "note": found.notes.get(weight.name, ""),
    }


def masked_weights(choices: Choices) -> tuple[WeightSparsity, ...]:
    """The table of a masking: every weight's entries and zeros, or why it has none."""
    return tuple(WeightSparsity(**row) for row in choices.plan["weights"])


def prune_weights(
    model: nn.Module,
    sparsity: float | None = None,
    *,
    calibration: Iterable[Any] | None = None,
    seed: int = 0,
    **settings: Any,
) -> nn.Module:
    """A copy of a model with a share of its weights masked, as `weight_orig` and `weight_mask`.

    Args:
        model: left as it was.
        sparsity: the share of zeros, as of `PruneWeights`.
        calibration: batches, each a tensor, a tuple of positional arguments, a dict of keyword ones
            or `Inputs`, for criterion="wanda", "hessian" and "sparsegpt".
        seed: of criterion="random", "hessian" and "sparsegpt".
        settings: the others of `PruneWeights`.

    Returns:
        A model like the given one: `remove_masks` makes the zeros part of its weights.

    Raises:
        InvalidInput, NoEffect, Infeasible, Unsupported: as of `PruneWeights`.
    """
    step = PruneWeights(sparsity, **settings)
    if step.criterion in WITH_LOSS:
        raise InvalidInput(
            f"prune_weights(criterion={step.criterion!r}) needs a loss: apply PruneWeights for a "
            f"goal, or take one of {', '.join(WITH_CALIBRATION)}, which need neither loss nor "
            "labels"
        )
    needs = step.criterion in WITH_CALIBRATION
    check_calibration("prune_weights", step.criterion, needs, calibration)
    batches = list(calibration or ())
    example = Inputs.of(batches[0]) if batches else None
    calls = list(calls_of(batches))
    return step.rewrite(model, step.choose_from(model, calls, seed, inputs=example))
