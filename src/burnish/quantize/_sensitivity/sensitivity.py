"""How sensitive a network is to each of its quantized operators: a table from one pass.

*By output error* (the default, no gradients): the float graph is run once for each call, keeping
its values; then, for each group (an operator with its quantizers, `alone`), the value the group
changes is computed with only this group quantized, and the graph is run again from there on, only
where it changes. What comes out differs from the float outputs by what this group alone does:
exactly, not to first order. With a score, the change of the metric is taken from the same outputs.

*By gradient*: one forward and one backward pass for each sample and draw. With v random signs on
the outputs, g = Jᵀv is the gradient at the group's value and d what quantizing the group does to
it there, (g·d)² has |Jd|² for its mean: the squared output error to first order (the Gauss-Newton
or Fisher weighting of Hassibi and Stork 1993 and of HAWQ, Dong et al. 2019, its trace taken as
Hutchinson 1990 does). With a loss, g is its gradient, and the row holds the mean of |g·d|.

The first costs about half a forward pass for each group and sample, the second one backward pass
for all groups together. Both see one group at a time: what two do together is in neither.

Left out: groups of several operators; the change of a metric that needs the whole set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import fx

from burnish.core import Choices
from burnish.errors import InvalidInput
from burnish.graph import Traced, operator, unflatten
from burnish.quantize._calibration.batches import chunks, num_samples
from burnish.quantize._calibration.calibrate import calibrate, check_call
from burnish.quantize._sensitivity.alone import Group, groups
from burnish.quantize._sensitivity.one_pass import (
    Call,
    Reruns,
    power,
    prepared,
    squared_error,
)
from burnish.quantize._sensitivity.table import Sensitivity, SensitivityRow
from burnish.quantize._static.insert import insert
from burnish.quantize._static.static import QuantizeStatic

Method = Literal["output error", "gradient"]
Score = Callable[[Any, Any], Any]


def sensitivity(
    folded: Traced,
    choices: Choices | QuantizeStatic,
    calls: Iterable[Call],
    *,
    method: Method = "output error",
    targets: Iterable[Any] | None = None,
    score: Score | None = None,
    loss: Score | None = None,
    seed: int = 0,
    watch: Callable[[Iterable[Any], str], Iterable[Any]] | None = None,
) -> Sensitivity:
    """The sensitivity of every quantized operator.

    Args:
        folded: the float graph, its batch-norms folded; left as it was.
        choices: of `QuantizeStatic` for it; or the step, which then decides from the same calls.
        calls: flat calls, as `Statistics.sample.batches()` gives them. All values of one call are
            held at once: 8 samples each is a good size.
        method: "output error", or "gradient".
        targets: one for each call, for `score` or `loss`.
        score: (outputs as the model returns them, target) to one score for each sample; with
            "output error".
        loss: the same to a scalar; with "gradient", whose rows then hold the change of the loss.
        seed: of the random signs of "gradient".
        watch: wraps an iterable with a title, as a progress bar does.

    Raises:
        InvalidInput: no calls, calls that do not fit the model, choices of another model, settings
            that do not go together, or a graph that is quantized.
        Unsupported: an operator writes into its input.
    """
    _check(method, targets, score, loss)
    floats = prepared(folded)
    if isinstance(choices, QuantizeStatic):
        calls = list(calls)
        choices = choices.choose_from(folded, calibrate(folded, calls))
    if not {"operators", "quantizers", "runtime"} <= set(choices.plan):
        raise InvalidInput("sensitivity: these choices are not those of a QuantizeStatic")
    found, left_out = groups(floats, choices)
    reruns = Reruns(floats, found)
    pairs = _pairs(folded, calls, targets)
    if watch is not None:
        pairs = iter(watch(pairs, "sensitivity"))
    sums = [_Sums(group) for group in found]
    if method == "gradient":
        totals = _by_gradient(reruns, sums, pairs, loss, seed)
    else:
        totals = _by_output(reruns, sums, pairs, score, insert(floats.copy(), choices))
    return _table(sums, totals, _title(method, loss), left_out)


def _title(method: str, loss: Score | None) -> str:
    return method if loss is None else "gradient of the loss"


def _check(method: str, targets: Any, score: Score | None, loss: Score | None) -> None:
    if method not in get_args(Method):
        known = ", ".join(map(repr, get_args(Method)))
        raise InvalidInput(f"sensitivity(method={method!r}): one of {known}")
    if score is not None and method == "gradient":
        raise InvalidInput("sensitivity: a score has no gradient; give it with 'output error'")
    if loss is not None and method != "gradient":
        raise InvalidInput("sensitivity: a loss is for method='gradient'; give a score instead")
    if (targets is None) != (score is None and loss is None):
        raise InvalidInput("sensitivity: targets go with a score or a loss, and those with targets")


_END = object()


def _pairs(
    traced: Traced, calls: Iterable[Call], targets: Iterable[Any] | None
) -> Iterator[tuple[Call, Any]]:
    given = None if targets is None else iter(targets)
    for tensors in calls:
        check_call(traced, tensors)
        target = None if given is None else next(given, _END)
        if target is _END:
            raise InvalidInput("sensitivity: there are fewer targets than calls")
        yield tensors, target
    if given is not None and next(given, _END) is not _END:
        raise InvalidInput("sensitivity: there are more targets than calls")


@dataclass
class _Sums:
    """What is added up for one group."""

    group: Group
    error: float = 0.0
    metric: float = 0.0
    weights: float = 0.0
    activations: float = 0.0
    own: float = 0.0

    def locally(self, floats: dict[fx.Node, Any]) -> torch.Tensor:
        """Add the errors of the operator's own result; its value with all of it quantized."""
        wanted = [floats[self.group.end]]
        self.own += power(wanted)
        if self.group.stored:
            self.weights += squared_error([self.group.value(floats, activations=False)], wanted)
        self.activations += squared_error([self.group.value(floats, weights=False)], wanted)
        return self.group.value(floats)


@dataclass
class _Totals:
    num_samples: int = 0
    power: float = 0.0
    together: float | None = None
    scored: bool = False


def _by_output(
    reruns: Reruns,
    sums: list[_Sums],
    pairs: Iterable[tuple[Call, Any]],
    score: Score | None,
    quantized: Traced,
) -> _Totals:
    totals = _Totals(together=0.0, scored=score is not None)
    tree = reruns.traced.tree

    def scored(outputs: list[torch.Tensor], target: Any) -> float:
        assert score is not None
        scores = torch.as_tensor(score(unflatten(tree, outputs), target))
        if scores.dim() != 1:
            raise InvalidInput(
                f"sensitivity: the score gave {list(scores.shape)}, not one number for each sample"
            )
        return float(scores.double().sum())

    with torch.inference_mode():
        for tensors, target in pairs:
            floats = reruns.floats(tensors)
            wanted = reruns.results(floats)
            totals.num_samples += num_samples(reruns.traced, tensors)
            totals.power += power(wanted)
            assert totals.together is not None
            totals.together += squared_error(quantized.graph_module(*tensors), wanted)
            base = 0.0 if score is None else scored(wanted, target)
            for one in sums:
                given = reruns.again(one.group, floats, one.locally(floats))
                one.error += squared_error(given, wanted)
                if score is not None:
                    one.metric += scored(given, target) - base
    return totals


def _by_gradient(
    reruns: Reruns,
    sums: list[_Sums],
    pairs: Iterable[tuple[Call, Any]],
    loss: Score | None,
    seed: int,
) -> _Totals:
    generator = torch.Generator().manual_seed(seed)
    totals = _Totals()
    for tensors, target in pairs:
        # A loss is of a call as it was given; signs are drawn sample by sample.
        num = num_samples(reruns.traced, tensors)
        totals.num_samples += num
        for part, _ in chunks(reruns.traced, tensors, 1 if loss is None else num):
            with torch.no_grad():
                floats = reruns.floats(part)
                changes = [one.locally(floats) - floats[one.group.end] for one in sums]
            ends = [one.group.end for one in sums]
            zeros = {node: torch.zeros_like(floats[node]).requires_grad_() for node in ends}
            with torch.enable_grad():
                wanted = reruns.results(reruns.floats(part, zeros))
                given = [w for w in wanted if w.is_floating_point() and w.requires_grad]
                if not given:
                    raise InvalidInput("sensitivity: no output has a gradient; use 'output error'")
                if loss is None:
                    signs = [_signs(w, generator) for w in given]
                    slopes = torch.autograd.grad(
                        given, list(zeros.values()), signs, allow_unused=True
                    )
                    totals.power += power(wanted)
                else:
                    value = loss(unflatten(reruns.traced.tree, wanted), target)
                    slopes = torch.autograd.grad(value, list(zeros.values()), allow_unused=True)
                    totals.power += 1.0
            for one, change, slope in zip(sums, changes, slopes, strict=True):
                product = 0.0 if slope is None else float((slope.double() * change.double()).sum())
                one.error += abs(product) if loss is not None else product**2
    return totals


def _signs(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random signs where x is finite, 0 elsewhere."""
    drawn = torch.randint(0, 2, x.shape, generator=generator).to(x.dtype) * 2 - 1
    return drawn.masked_fill(~x.isfinite(), 0.0)


def _table(
    sums: list[_Sums], totals: _Totals, method: str, left_out: tuple[str, ...]
) -> Sensitivity:
    if totals.num_samples == 0:
        raise InvalidInput("sensitivity: the calls are empty: there was no sample")

    def share(error: float, whole: float) -> float:
        return error / whole if whole else error

    rows = tuple(
        SensitivityRow(
            one.group.name,
            operator(one.group.node),
            share(one.error, totals.power),
            one.metric / totals.num_samples if totals.scored else None,
            share(one.weights, one.own),
            share(one.activations, one.own),
        )
        for one in sums
    )
    together = None if totals.together is None else share(totals.together, totals.power)
    return Sensitivity(rows, method, totals.num_samples, together, left_out)
