"""Evaluation scores whatever answers, keeps samples in order, and refuses what would be wrong."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from burnish.errors import InvalidInput
from burnish.goal import Inputs, Task
from burnish.graph import set_mode
from burnish.metrics import Metric, f1_macro, mean_squared_error, top1
from burnish.testing import Tiny, catalogue
from burnish.train import Scores, evaluate

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(23, 4, generator=GENERATOR)
Y = torch.randint(0, 3, (23,), generator=GENERATOR)
BATCHES = [(X[:10], Y[:10]), (X[10:20], Y[10:20]), (X[20:], Y[20:])]
EXAMPLE = Inputs(X[:2])
SPLIT = "validation"


def model() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3)).eval()


def task(metric: Metric = top1, **hooks: Any) -> Task:
    return Task(EXAMPLE, metric, validation=BATCHES, **hooks)


def test_scores_are_those_of_the_samples_in_order() -> None:
    net = model()
    scores = evaluate(net, task(), SPLIT)
    wanted = (net(X).argmax(1) == Y).double().numpy()
    assert scores.values is not None
    np.testing.assert_array_equal(scores.values, wanted)
    assert (scores.n, scores.split, scores.metric) == (23, SPLIT, "top1")
    assert scores.figure == wanted.mean()
    assert scores.outputs is scores.targets is scores.groups is None


def test_batches_of_other_sizes_change_nothing() -> None:
    net = model()
    whole = Task(EXAMPLE, top1, validation=[(X, Y)])
    one, other = evaluate(net, task(), SPLIT), evaluate(net, whole, SPLIT)
    np.testing.assert_array_equal(one.values, other.values)


def test_anything_callable_is_scored() -> None:
    """As an artifact behind a worker is: numpy in and out."""
    net = model()

    def run(x: torch.Tensor) -> Any:
        return net(x).numpy()

    np.testing.assert_array_equal(
        evaluate(run, task(), SPLIT).values, evaluate(net, task(), SPLIT).values
    )


@pytest.mark.parametrize("tiny", catalogue()[::4], ids=str)
def test_models_are_called_as_their_task_says(tiny: Tiny) -> None:
    goal = tiny.goal()
    scores = evaluate(tiny.build(), goal.task, SPLIT)
    assert scores.n == 12
    assert scores.figure < 1e-9


def test_no_gradient_is_kept_and_no_flag_moved() -> None:
    net = model()
    seen: list[bool] = []

    def run(x: torch.Tensor) -> Any:
        seen.append(torch.is_inference_mode_enabled())
        return net(x)

    before = [module.training for module in net.modules()]
    evaluate(run, task(), SPLIT)
    assert seen == [True] * 3
    assert [module.training for module in net.modules()] == before
    assert not torch.is_inference_mode_enabled()


def test_a_model_in_train_mode_is_refused_and_left_in_it() -> None:
    net = model()
    net[1].train()
    with pytest.raises(InvalidInput, match=r"its module '1' is in train mode: call model.eval\(\)"):
        evaluate(net, task(), SPLIT)
    assert net[1].training
    with pytest.raises(InvalidInput, match="the model is in train mode"):
        evaluate(net.train(), task(), SPLIT)


def test_a_traced_model_in_train_mode_is_refused() -> None:
    tiny = next(tiny for tiny in catalogue() if tiny.name == "residual")
    traced = tiny.trace()
    assert evaluate(traced, tiny.goal().task, SPLIT).figure < 1e-9
    with pytest.raises(InvalidInput, match="set_mode"):
        evaluate(set_mode(traced, training=True), tiny.goal().task, SPLIT)


def test_predict_surrounds_the_network() -> None:
    """The batch is the user's own; `run` is the network alone."""
    net = model()

    def predict(run: Any, batch: Any) -> Any:
        return run(batch[0]).roll(1, dims=1)

    scores = evaluate(net, task(predict=predict), SPLIT)
    wanted = (net(X).roll(1, dims=1).argmax(1) == Y).double().numpy()
    np.testing.assert_array_equal(scores.values, wanted)
    assert scores.figure != evaluate(net, task(), SPLIT).figure


@pytest.mark.parametrize("form", [list, np.asarray, torch.as_tensor])
def test_groups_are_kept_in_order(form: Any) -> None:
    groups = {id(batch): form([i // 4 for i in range(len(batch[1]))]) for batch in BATCHES}
    scores = evaluate(model(), task(groups=lambda batch: groups[id(batch)]), SPLIT)
    assert scores.groups is not None
    wanted = [i // 4 for size in (10, 10, 3) for i in range(size)]
    np.testing.assert_array_equal(scores.groups, wanted)


def test_a_wrong_number_of_groups_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"returned 2 labels for a batch of 10 samples"):
        evaluate(model(), task(groups=lambda batch: ["a", "b"]), SPLIT)


def test_what_a_set_metric_needs_is_kept() -> None:
    net = model()
    scores = evaluate(net, task(f1_macro), SPLIT)
    assert scores.values is None
    torch.testing.assert_close(scores.outputs, net(X).detach())
    torch.testing.assert_close(scores.targets, Y)
    assert scores.figure == pytest.approx(f1_macro.function(net(X), Y))
    assert scores.n == 23


Pair = namedtuple("Pair", "logits, hidden")


@dataclass
class Out:
    """As a Hugging Face model returns it."""

    logits: torch.Tensor
    hidden: torch.Tensor | None = None


@pytest.mark.parametrize(
    ("nest", "part"),
    [
        (lambda y: {"a": y, "b": (y, None)}, lambda o: o["b"][0]),
        (lambda y: Pair(y, y), lambda o: o.hidden),
        (lambda y: Out(y), lambda o: o.logits),
        (lambda y: list(y), lambda o: torch.stack(o)),
        (lambda y: y.numpy(), lambda o: torch.from_numpy(o)),
    ],
    ids=["dict", "namedtuple", "dataclass", "list of samples", "numpy"],
)
def test_nested_outputs_are_joined_along_the_samples(nest: Any, part: Any) -> None:
    net = model()
    kept: list[Any] = []

    def note(outputs: Any, targets: Any) -> float:
        kept.append(outputs)
        return 0.5

    scores = evaluate(lambda x: nest(net(x)), task(Metric("noted", note, "set")), SPLIT)
    assert (scores.n, scores.figure) == (23, 0.5)
    assert type(kept[0]) is type(nest(net(X).detach()))
    with torch.inference_mode():
        torch.testing.assert_close(part(kept[0]), net(X))


@pytest.mark.parametrize(
    ("function", "kind", "words"),
    [
        (lambda o, t: (o.argmax(1) == t).float().mean(), "binary", r"shape \[\], expected \[10\]"),
        (lambda o, t: torch.full((len(t),), float("nan")), "continuous", "NaN or infinity"),
        (lambda o, t: torch.full((len(t),), 0.5), "binary", "binary and returned 0.5"),
        (lambda o, t: float("nan"), "set", "returned nan for the validation data"),
        (lambda o, t: np.ones(23), "set", r"returned shape \[23\] for the validation data"),
        (lambda o, t: "good", "set", "expected one finite number"),
    ],
)
def test_a_bad_metric_is_refused(function: Any, kind: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        evaluate(model(), task(Metric("bad", function, kind)), SPLIT)


def test_outputs_without_samples_cannot_be_kept() -> None:
    with pytest.raises(InvalidInput, match="outputs of 4 samples and targets of 10"):
        evaluate(lambda x: torch.zeros(4, 3), task(f1_macro), SPLIT)
    with pytest.raises(InvalidInput, match="a float holds no samples"):
        evaluate(lambda x: 0.5, task(f1_macro), SPLIT)


def test_missing_and_empty_data_are_named() -> None:
    with pytest.raises(InvalidInput, match=r"give Task\(test=…\)"):
        evaluate(model(), task(), "test")
    empty = Task(EXAMPLE, top1, validation=[])
    with pytest.raises(InvalidInput, match="the validation data is empty"):
        evaluate(model(), empty, SPLIT)


def test_progress_is_watched() -> None:
    titles: list[tuple[str, int]] = []

    def watch(items: Iterable[Any], title: str) -> Iterable[Any]:
        batches = list(items)
        titles.append((title, len(batches)))
        return batches

    evaluate(model(), task(), SPLIT, watch=watch)
    assert titles == [("evaluating on validation", 3)]


def test_a_metric_where_less_is_better_keeps_its_sign() -> None:
    squared = Task(EXAMPLE, mean_squared_error, validation=[(X, X + 2.0)])
    scores = evaluate(lambda x: x, squared, SPLIT)
    assert isinstance(scores, Scores)
    assert scores.figure == pytest.approx(4.0)
