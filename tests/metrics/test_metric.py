"""The metrics we ship, and the check on what any metric returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from burnish.errors import InvalidInput
from burnish.metrics import Metric, f1_macro, mean_squared_error, scores, top1

LOGITS = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [0.0, 1.0, 5.0], [1.0, 0.0, 0.5]])
TARGET = np.array([0, 1, 1, 2])


@dataclass
class ModelOutput:
    logits: Any
    hidden: Any = None


def test_top1_finds_the_logits_in_what_models_return():
    torch = pytest.importorskip("torch")
    tensor = torch.tensor(LOGITS)
    hidden = np.zeros((4, 7))
    for output in (
        LOGITS,
        tensor,
        tensor.bfloat16(),
        (LOGITS, hidden),
        [tensor, hidden],
        {"hidden": hidden, "logits": LOGITS},
        {"out": LOGITS},
        ModelOutput(LOGITS, hidden),
    ):
        assert scores(top1, output, torch.tensor(TARGET)).tolist() == [1, 1, 0, 0]


def test_top1_does_not_credit_a_broken_model():
    logits = LOGITS.copy()
    logits[0, 0] = np.nan  # numpy's argmax would pick it, and it would be right
    assert scores(top1, logits, TARGET).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("output", "target", "message"),
    [
        (LOGITS[0], TARGET, "shape \\[3\\], expected \\[n, classes\\]"),
        (LOGITS[:, :1], TARGET, "at least two classes"),
        (LOGITS, TARGET[:3], "int64 of shape \\[3\\], expected integer classes of shape \\[4\\]"),
        (LOGITS, TARGET.astype(float), "float64 of shape \\[4\\], expected integer"),
        ({"a": LOGITS, "b": LOGITS}, TARGET, "none is 'logits'"),
        ((), TARGET, "the output is empty"),
    ],
)
def test_top1_refuses_what_it_cannot_read(output, target, message):
    with pytest.raises(InvalidInput, match=message):
        scores(top1, output, target)


def test_mean_squared_error_is_per_sample():
    output = np.array([[[1.0, 2.0]], [[0.0, 0.0]]])
    target = np.array([[[1.0, 0.0]], [[3.0, 4.0]]])
    assert scores(mean_squared_error, output, target).tolist() == [2.0, 12.5]
    assert scores(mean_squared_error, (output, None), target).tolist() == [2.0, 12.5]
    assert not mean_squared_error.higher_is_better
    with pytest.raises(InvalidInput, match="shape \\[2, 1, 2\\], expected the target's \\[2, 2\\]"):
        scores(mean_squared_error, output, target[:, 0])


def test_f1_macro_by_hand():
    # Class 0: TP 1. Class 1: TP 1, FN 1. Class 2: FP 1, FN 1 (the last sample is called 0).
    # F1: 2*1/(2+1) for 0 (one false positive), 2/(2+1) for 1, 0 for 2.
    assert f1_macro.function(LOGITS, TARGET) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert f1_macro.function(np.eye(3)[TARGET], TARGET) == 1.0


@pytest.mark.parametrize(
    ("returned", "kind", "message"),
    [
        (np.ones((4, 2)), "continuous", "returned shape \\[4, 2\\], expected \\[4\\]"),
        (np.ones(3), "continuous", "returned shape \\[3\\], expected \\[4\\]"),
        (0.75, "continuous", "returned shape \\[\\], expected \\[4\\]"),
        (np.array([1, np.nan, 0, 1]), "binary", "NaN or infinity for 1 of 4 samples"),
        (np.array([1, 0.5, 0, 1]), "binary", "returned 0.5 for sample 1, expected 0 or 1"),
        (np.array(["a"] * 4), "continuous", "expected real numbers of shape \\[4\\]"),
        (np.ones(4) * 1j, "continuous", "expected real numbers of shape \\[4\\]"),
    ],
)
def test_a_metric_that_returns_nonsense_is_named(returned, kind, message):
    metric = Metric("mine", lambda output, target: returned, kind)
    with pytest.raises(InvalidInput, match=f"metric 'mine'.*{message}"):
        scores(metric, LOGITS, TARGET)


def test_n_comes_from_the_output_where_there_is_no_target():
    metric = Metric("confidence", lambda output, target: output.max(axis=1), "continuous")
    assert scores(metric, LOGITS, None).tolist() == [2, 3, 5, 1]
    wrong = Metric("mine", lambda output, target: np.ones(3), "continuous")
    with pytest.raises(InvalidInput, match="expected \\[4\\]"):
        scores(wrong, {"out": LOGITS}, None)


def test_set_metrics_have_no_scores():
    with pytest.raises(InvalidInput, match="'f1_macro' has one figure for the whole set"):
        scores(f1_macro, LOGITS, TARGET)


def test_a_metric_says_what_it_is():
    with pytest.raises(InvalidInput, match="kind is 'ratio'"):
        Metric("mine", max, "ratio")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="needs a name"):
        Metric("", max, "binary")
    assert Metric("mine", max, "set") == Metric("mine", max, "set", True, "1")
