"""The bar: what a person sees of a training."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from burnish.errors import Diverged
from burnish.train import Bar, Tricks, fit
from tests.train.small import plain, task


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=120, color_system=None), text


def test_it_shows_epoch_steps_loss_rate_and_the_time_left() -> None:
    shown, text = console(True)
    bar = Bar(shown)
    fit(plain(), task(), epochs=3, learning_rate=0.02, tricks=Tricks(patience=9), watch=bar)
    seen = text.getvalue()
    assert "18/18" in seen
    assert "training, epoch 3 of 3" in seen or "evaluating on validation" in seen
    assert "loss 0." in seen
    assert "rate 0.0" in seen
    assert "0:00:00" in seen


def test_it_is_silent_where_nobody_looks() -> None:
    shown, text = console(False)
    fit(plain(), task(), epochs=1, learning_rate=0.02, watch=Bar(shown))
    assert text.getvalue() == ""


def test_it_ends_with_the_training_and_serves_the_next() -> None:
    shown, text = console(True)
    bar = Bar(shown)
    broken = task(loss=lambda o, t: o.mean() * float("nan"))
    with pytest.raises(Diverged):
        fit(plain(), broken, epochs=1, learning_rate=0.02, watch=bar)
    fit(plain(), task(), epochs=1, learning_rate=0.02, watch=bar)
    assert "6/6" in text.getvalue()


def test_it_hands_on_what_it_wraps() -> None:
    assert list(Bar(console(False)[0])([1, 2], "evaluating")) == [1, 2]
