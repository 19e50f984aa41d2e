"""Weight pruning: single weights set to zero, by masks that stay visible and can be taken off.

    the weights → a score for each → the lowest go, where the pattern lets them → masks

Nothing gets smaller by it: the tensors keep their shapes, and the runtimes here multiply by the
zeros. What zeros are worth on this machine is a question to the clock, and to the size of a
compressed file. Channels make a model smaller (`PruneChannels`).

A model that is masked already keeps its masks, and the sparsity asked for is what is masked in all:
0.5 and then 0.8 masks four fifths, not nine tenths.

Left out: an update of the weights that stay (SparseGPT); movement; recurrent layers and embeddings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from burnish.core import Choices, Rewrite, copied_model
from burnish.errors import InvalidInput, NoEffect
from burnish.goal import Call, Goal, Inputs
from burnish.graph import matching
from burnish.prune._gradients import loss_gradients, output_gradients
from burnish.prune._mask import apply_masks
from burnish.prune._pattern import (
    UNSTRUCTURED,
    Pattern,
    lowest,
    mask_from_units,
    n_of_m,
    parse,
    units,
)
from burnish.prune._weight_layers import Weight, input_norms, weights_of
from burnish.prune._weight_scores import CRITERIA, GONE, WITH_GRADIENTS, scores

SCOPES = ("layer", "global")
Scores = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class PruneWeights(Rewrite):
    """A copy of the model with a share of its weights masked.

    Args:
        sparsity: the share of zeros, above 0 and below 1, of all entries, those masked before
            included; an N:M pattern has its own.
        pattern: "unstructured", N:M as "2:4" (kept of every four inputs), or blocks of outputs by
            inputs as "4x1".
        criterion: "random", "l1", or with calibration data "wanda" or "hessian", or with training
            data and a loss "taylor".
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
        if shape.share is None:
            if self.sparsity is None or not 0 < self.sparsity < 1:
                raise InvalidInput(
                    f"PruneWeights(sparsity={self.sparsity!r}): a share above 0 and below 1"
                )
        elif self.sparsity not in (None, shape.share):
            raise InvalidInput(
                f"PruneWeights(sparsity={self.sparsity!r}, pattern={self.pattern!r}): the pattern "
                f"is {shape.share:g} zeros; leave sparsity out"
            )
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
        for name, values in (("criterion", CRITERIA), ("scope", SCOPES)):
            if getattr(self, name) not in values:
                raise InvalidInput(
                    f"PruneWeights({name}={getattr(self, name)!r}): one of {', '.join(values)}"
                )
        given: Any = self.ignore
        if isinstance(given, str):
            raise InvalidInput(f"PruneWeights(ignore={given!r}): give a tuple, ({given!r},)")
        object.__setattr__(self, "ignore", tuple(given))

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
            InvalidInput: "taylor" without training data or a loss, "wanda" or "hessian" without
                calibration data; otherwise as `choose_from`.
        """
        task = goal.task
        if self.criterion == "taylor" and task.loss is None:
            raise InvalidInput("PruneWeights(criterion='taylor') needs Task(loss=…)")
        split = "train" if self.criterion == "taylor" else "calibration"
        calls = task.calls(split) if self.criterion not in ("random", "l1") else ()
        return self.choose_from(model, calls, goal.seed, task.loss)

    def choose_from(
        self, model: nn.Module, calls: Iterable[Call] = (), seed: int = 0, loss: Any = None
    ) -> Choices:
        """Decide for a model, with calls of it where the criterion needs data.

        Raises:
            InvalidInput: no data, an entry of `ignore` that matches nothing, or a sparsity below
                what is masked already.
            NoEffect: no weight may be masked, or none is that was not before.
        """
        shape = parse(self.pattern)
        chosen, reasons = self._chosen(model, shape)
        options: dict[str, Any] = {"seed": seed}
        if self.criterion == "wanda":
            options["norms"] = input_norms(model, calls)
        elif self.criterion in WITH_GRADIENTS:
            found = (
                loss_gradients(model, calls, loss)
                if self.criterion == "taylor"
                else output_gradients(model, calls, seed)
            )
            options["gradients"] = found
        scored = scores(chosen, self.criterion, **options)
        masks = _masks(chosen, scored, shape, self.sparsity, self.scope)
        if all(torch.equal(masks[weight.name], _kept(weight)) for weight in chosen):
            num = sum(weight.value.numel() for weight in chosen)
            more = " more" if any(weight.mask is not None for weight in chosen) else ""
            share = shape.share if self.sparsity is None else self.sparsity
            raise NoEffect(f"sparsity={share:g} of {num} weights masks none{more}")
        rows = [_row(weight, masks.get(weight.name), reasons) for weight in weights_of(model)]
        return Choices({"weights": rows, "masked": sorted(masks)}, masks)

    def _chosen(self, model: nn.Module, shape: Pattern) -> tuple[list[Weight], dict[str, str]]:
        """The weights to mask, and why others are left alone."""
        everything = weights_of(model)
        reasons: dict[str, str] = {}
        named = matching([weight.name for weight in everything], self.ignore, "ignore")
        for entry, names in named.items():
            reasons = {**dict.fromkeys(names, f"ignore names {entry!r}"), **reasons}
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
        copied = copied_model(model)
        apply_masks(copied, {name: choices.tensors[name] for name in choices.plan["masked"]})
        return copied


def _masks(
    weights: list[Weight], scored: Scores, shape: Pattern, sparsity: float | None, scope: str
) -> dict[str, torch.Tensor]:
    """What stays of each weight."""
    if shape.share is not None:
        return {w.name: n_of_m(scored[w.name], shape) & _kept(w) for w in weights}
    assert sparsity is not None
    each = {weight.name: units(scored[weight.name], shape) for weight in weights}
    _check_more(each, sparsity, scope)
    if scope == "layer":
        kept = {name: lowest(own, round(sparsity * own.numel())) for name, own in each.items()}
    else:
        together = torch.cat(list(each.values()))
        sizes = [own.numel() for own in each.values()]
        whole = lowest(together, round(sparsity * together.numel()))
        parts = torch.split(whole, sizes)
        kept = dict(zip(each, parts, strict=True))
    return {
        w.name: mask_from_units(kept[w.name], scored[w.name], shape) & _kept(w) for w in weights
    }


def _kept(weight: Weight) -> torch.Tensor:
    """What an earlier mask keeps; everything where there is none."""
    if weight.mask is None:
        return torch.ones(weight.value.shape, dtype=torch.bool)
    return weight.mask.cpu() != 0


def _check_more(each: Mapping[str, torch.Tensor], sparsity: float, scope: str) -> None:
    """InvalidInput where more is masked already than is asked for."""
    together = {"all weights": torch.cat(list(each.values()))} if scope == "global" else each
    for name, scored in together.items():
        masked, num = int((scored == GONE).sum()), scored.numel()
        if round(sparsity * num) < masked:
            raise InvalidInput(
                f"sparsity={sparsity:g} of {name} is less than the {masked / num:.3f} that are "
                "masked already, and masks stay: ask for more, name it in ignore, or start from "
                "remove_masks(model)"
            )


@dataclass(frozen=True)
class WeightSparsity:
    """A weight's entries, how many are masked, and why it was left alone, if it was."""

    weight: str
    entries: int
    masked: int
    reason: str

    @property
    def sparsity(self) -> float:
        """The share that is masked."""
        return self.masked / self.entries


def _row(weight: Weight, mask: torch.Tensor | None, reasons: dict[str, str]) -> dict[str, Any]:
    return {
        "weight": weight.name,
        "entries": weight.value.numel(),
        "masked": int((~(_kept(weight) if mask is None else mask)).sum()),
        "reason": reasons.get(weight.name, ""),
    }


def masked_weights(choices: Choices) -> tuple[WeightSparsity, ...]:
    """The table of a masking: every weight's entries and zeros, or why it has none."""
    return tuple(WeightSparsity(**row) for row in choices.plan["weights"])


def prune_weights(
    model: nn.Module,
    sparsity: float | None = None,
    *,
    calibration: Iterable[Any] = (),
    seed: int = 0,
    **settings: Any,
) -> nn.Module:
    """A copy of a model with a share of its weights masked, as `weight_orig` and `weight_mask`.

    Args:
        model: left as it was.
        sparsity: the share of zeros, as of `PruneWeights`.
        calibration: batches, each a tensor, a tuple of positional arguments, a dict of keyword ones
            or `Inputs`, for criterion="wanda" and "hessian".
        seed: of criterion="random" and "hessian".
        settings: the others of `PruneWeights`.

    Returns:
        A model like the given one: `remove_masks` makes the zeros part of its weights.

    Raises:
        InvalidInput, NoEffect: as of `PruneWeights`.
    """
    step = PruneWeights(sparsity, **settings)
    if step.criterion == "taylor":
        raise InvalidInput(
            "prune_weights(criterion='taylor') needs a loss: apply PruneWeights for a goal, or "
            "take 'hessian' or 'wanda', which need neither loss nor labels"
        )
    inputs = (Inputs.of(batch) for batch in calibration)
    calls = (Call(call.args, call.kwargs, None) for call in inputs)
    return step.rewrite(model, step.choose_from(model, calls, seed))
