"""What a metric is, the ones we ship, and the check on what a user's metric returns.

A metric gives **one score per sample** where it can: only then can two models be compared pair by
pair, which is what makes a verdict on a small difference possible. A `binary` score is 0 or 1, a
`continuous` one any finite number. A `set` metric (F1, AUC) has one figure for all samples; its
interval comes from recomputing it with samples left out.

Left out: a catalogue. Anything with the right signature is a metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from burnish.errors import InvalidInput
from burnish.metrics._arrays import num_samples, to_numpy

Kind = Literal["binary", "continuous", "set"]


@dataclass(frozen=True)
class Metric:
    """How good an output is.

    `function(output, target)` returns one score per sample, a tensor or array of shape [n], where
    `kind` is "binary" (0 or 1) or "continuous"; for "set" it is handed the outputs and targets of
    the whole set and returns one float. `version` is part of a goal's fingerprint: raise it when
    the function changes, or an old run is resumed with scores that no longer compare.

    Raises InvalidInput for another kind or an empty name.
    """

    name: str
    function: Callable[[Any, Any], Any]
    kind: Kind
    higher_is_better: bool = True
    version: str = "1"

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidInput("a metric needs a name: it labels every measurement made with it")
        if self.kind not in ("binary", "continuous", "set"):
            raise InvalidInput(
                f"metric '{self.name}': kind is {self.kind!r}, expected 'binary' (0 or 1 per "
                "sample), 'continuous' (a number per sample) or 'set' (one number for all)"
            )


def scores(metric: Metric, output: Any, target: Any) -> NDArray[np.float64]:
    """One checked score per sample, float64 [n].

    n is the first dimension of the target, or of the output where the target has none.

    Raises InvalidInput, naming the metric, when it is a set metric, when what it returns is not of
    shape [n], is not numbers, has NaN or infinity, or is other than 0 or 1 for a binary metric.
    """
    if metric.kind == "set":
        raise InvalidInput(
            f"metric '{metric.name}' has one figure for the whole set and no score per sample: "
            "use set_verdict, or give a metric of kind 'binary' or 'continuous'"
        )
    n = num_samples(target)
    if n is None:
        n = num_samples(output)
    returned = to_numpy(metric.function(output, target))
    if n is None:
        n = len(returned) if returned.ndim else 0
    if returned.shape != (n,):
        raise InvalidInput(
            f"metric '{metric.name}' returned shape {list(returned.shape)}, expected [{n}]: "
            "one score per sample, not averaged over the batch and without further dimensions"
        )
    if returned.dtype.kind not in "buif":
        raise InvalidInput(
            f"metric '{metric.name}' returned {returned.dtype} of shape {list(returned.shape)}, "
            f"expected real numbers of shape [{n}]"
        )
    values = returned.astype(np.float64)
    if not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values))
        raise InvalidInput(
            f"metric '{metric.name}' returned NaN or infinity for {bad.size} of {n} samples "
            f"(first: sample {bad[0]}), expected finite scores of shape [{n}]"
        )
    if metric.kind == "binary" and not np.isin(values, (0.0, 1.0)).all():
        bad = np.flatnonzero(~np.isin(values, (0.0, 1.0)))
        raise InvalidInput(
            f"metric '{metric.name}' is binary and returned {values[bad[0]]:g} for sample "
            f"{bad[0]}, expected 0 or 1 in each of shape [{n}]; declare kind='continuous' if "
            "other scores are meant"
        )
    return values


def _logits(output: Any, who: str) -> NDArray[Any]:
    """[n, classes] out of a tensor, the first of a tuple, or the `logits` of a dict or object."""
    found = output
    if isinstance(found, Mapping):
        if "logits" not in found and len(found) != 1:
            raise InvalidInput(
                f"metric '{who}': the output is a dict with keys {sorted(map(str, found))} and "
                "none is 'logits'; write a Metric whose function picks the right one"
            )
        found = found["logits"] if "logits" in found else next(iter(found.values()))
    elif hasattr(found, "logits"):
        found = found.logits
    elif isinstance(found, tuple | list):
        if not found:
            raise InvalidInput(f"metric '{who}': the output is empty, expected [n, classes]")
        found = found[0] if np.ndim(found[0]) >= 2 or hasattr(found[0], "detach") else found
    array = to_numpy(found)
    if array.ndim != 2 or array.shape[1] < 2:
        raise InvalidInput(
            f"metric '{who}': the output has shape {list(array.shape)}, expected [n, classes] "
            "with at least two classes; write a Metric of your own for other outputs"
        )
    return array


def _predictions(output: Any, target: Any, who: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Predicted class and true class, [n] each; -1 is predicted where a logit is NaN."""
    logits, truth = _logits(output, who), to_numpy(target)
    if truth.shape != logits.shape[:1] or truth.dtype.kind not in "iu":
        raise InvalidInput(
            f"metric '{who}': the target is {truth.dtype} of shape {list(truth.shape)}, expected "
            f"integer classes of shape [{logits.shape[0]}]"
        )
    # argmax would call a NaN the largest, and a broken model would be right by accident.
    broken = np.isnan(logits).any(axis=1)
    return np.where(broken, -1, logits.argmax(axis=1)), truth


def _top1(output: Any, target: Any) -> NDArray[np.float64]:
    predicted, truth = _predictions(output, target, "top1")
    hits: NDArray[np.float64] = (predicted == truth).astype(np.float64)
    return hits


def _mean_squared_error(output: Any, target: Any) -> NDArray[np.float64]:
    found = output[0] if isinstance(output, tuple) and output else output
    predicted, truth = to_numpy(found), to_numpy(target)
    if predicted.shape != truth.shape or predicted.ndim == 0:
        raise InvalidInput(
            f"metric 'mean_squared_error': the output has shape {list(predicted.shape)}, expected "
            f"the target's {list(truth.shape)} with samples first"
        )
    squared = (predicted.astype(np.float64) - truth.astype(np.float64)) ** 2
    means: NDArray[np.float64] = squared.reshape(len(squared), -1).mean(axis=1)
    return means


def _f1_macro(outputs: Any, targets: Any) -> float:
    predicted, truth = _predictions(outputs, targets, "f1_macro")
    if not truth.size:
        raise InvalidInput("metric 'f1_macro': there are no samples")
    classes, codes = np.unique(np.concatenate([truth, predicted]), return_inverse=True)
    of_truth, of_predicted = codes[: truth.size], codes[truth.size :]
    hits = np.bincount(of_truth[of_truth == of_predicted], minlength=classes.size)
    total = np.bincount(codes, minlength=classes.size)  # = 2 TP + FP + FN
    return float((2.0 * hits / total)[classes >= 0].mean())


top1 = Metric("top1", _top1, "binary")
"""1 where the largest logit is the target's class: output [n, classes] (or the first of a tuple,
or `logits` of a dict or dataclass), target integer [n]. A sample with a NaN logit scores 0."""

mean_squared_error = Metric("mean_squared_error", _mean_squared_error, "continuous", False)
"""The squared error of each sample, averaged over all but the first dimension; lower is better."""

f1_macro = Metric("f1_macro", _f1_macro, "set")
"""F1 averaged over the classes that occur in target or prediction; inputs as for `top1`."""
