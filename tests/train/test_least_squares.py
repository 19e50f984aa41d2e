"""The closed forms of one layer, against slow ones and against whatever else could be tried."""

from __future__ import annotations

import pytest
import torch

from burnish.train import _least_squares as closed
from burnish.train._least_squares import Moments, fit_bias, fit_factor, fit_weights, work

GROUPS, ROWS, COLUMNS, OUTPUTS = 2, 40, 5, 3


def problem(seed: int = 0):
    """Rows of inputs, wanted outputs, and a layer [groups, outputs, columns + 1] with zeros."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, GROUPS, COLUMNS, generator=generator, dtype=torch.float64) + 0.5
    y = torch.randn(ROWS, GROUPS, OUTPUTS, generator=generator, dtype=torch.float64) - 1
    v = torch.randn(GROUPS, OUTPUTS, COLUMNS + 1, generator=generator, dtype=torch.float64)
    v[0, 0, 1:3] = 0.0
    v[0, 1, 0] = 0.0
    v[1, :, 4] = 0.0
    return x, y, v


def moments(x: torch.Tensor, y: torch.Tensor) -> Moments:
    found = Moments(x.shape[1], x.shape[2], y.shape[2])
    for rows in torch.arange(len(x)).split(7):
        found.add(x[rows], y[rows])
    return found


def answers(x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.stack([x[:, g] @ v[g, :, :-1].T + v[g, :, -1] for g in range(x.shape[1])], dim=1)


def error(x: torch.Tensor, y: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return (answers(x, v) - y).square().mean(0)


def test_moments_know_the_error_and_the_variance() -> None:
    x, y, v = problem()
    torch.testing.assert_close(moments(x, y).error(v), error(x, y, v))
    torch.testing.assert_close(moments(x, y).variance(), y.var(0, correction=0))
    assert moments(x, y).finite()
    assert not moments(x * float("nan"), y).finite()


def test_the_bias_leaves_no_mean_error() -> None:
    x, y, v = problem()
    fitted = fit_bias(moments(x, y), v)
    assert torch.equal(fitted[..., :-1], v[..., :-1])
    torch.testing.assert_close(answers(x, fitted).mean(0), y.mean(0))


@pytest.mark.parametrize("bias", [True, False], ids=["with a bias", "without"])
def test_factors_are_those_of_a_regression_on_one_column(bias: bool) -> None:
    x, y, v = problem()
    y = y + 2 * answers(x, v)  # so that every factor is above 0
    fitted, factor = fit_factor(moments(x, y), v, bias)
    alone = answers(x, torch.cat([v[..., :-1], torch.zeros_like(v[..., :1])], -1))
    for g in range(GROUPS):
        for o in range(OUTPUTS):
            columns = [alone[:, g, o], torch.ones(ROWS, dtype=torch.float64)]
            if bias:
                wanted = torch.linalg.lstsq(torch.stack(columns, 1), y[:, g, o]).solution
            else:
                rest = y[:, g, o] - v[g, o, -1]
                slope = torch.linalg.lstsq(columns[0][:, None], rest).solution[0]
                wanted = torch.stack([slope, v[g, o, -1]])
            torch.testing.assert_close(torch.stack([factor[g, o], fitted[g, o, -1]]), wanted)
            torch.testing.assert_close(fitted[g, o, :-1], v[g, o, :-1] * factor[g, o])


def test_a_factor_below_zero_is_left_at_one() -> None:
    x, y, v = problem()
    fitted, factor = fit_factor(moments(x, -answers(x, v)), v, bias=True)
    assert torch.equal(factor, torch.ones_like(factor))
    assert torch.equal(fitted[..., :-1], v[..., :-1])
    dead = torch.zeros_like(v)
    _, factor = fit_factor(moments(x, y), dead, bias=True)
    assert torch.equal(factor, torch.ones_like(factor))


@pytest.mark.parametrize("bias", [True, False], ids=["with a bias", "without"])
def test_weights_are_those_of_a_damped_regression_on_what_is_not_zero(bias: bool) -> None:
    """min |X w - y|^2 + damping |w - w0|^2 as ordinary least squares with rows put below."""
    x, y, v = problem()
    fitted = fit_weights(moments(x, y), v, bias)
    for g in range(GROUPS):
        damping = closed.DAMPING * (x[:, g] - x[:, g].mean(0)).square().sum(0).mean()
        for o in range(OUTPUTS):
            kept = (v[g, o, :-1] != 0).nonzero()[:, 0]
            above = x[:, g, kept]
            rest = y[:, g, o] - (0.0 if bias else v[g, o, -1])
            below = damping.sqrt() * torch.eye(len(kept), dtype=torch.float64)
            if bias:
                above = torch.cat([above, torch.ones(ROWS, 1, dtype=torch.float64)], 1)
                below = torch.cat([below, torch.zeros(len(kept), 1, dtype=torch.float64)], 1)
            right = torch.cat([rest, damping.sqrt() * v[g, o, kept]])
            solved = torch.linalg.lstsq(torch.cat([above, below]), right[:, None]).solution[:, 0]
            torch.testing.assert_close(fitted[g, o, kept], solved[: len(kept)])
            if bias:
                torch.testing.assert_close(fitted[g, o, -1], solved[-1])
            else:
                assert fitted[g, o, -1] == v[g, o, -1]
    assert torch.equal(fitted[..., :-1] == 0, v[..., :-1] == 0)


def test_each_freedom_more_fits_better() -> None:
    x, y, v = problem(3)
    y = y + answers(x, v)
    known = moments(x, y)
    ladder = [v, fit_bias(known, v), fit_factor(known, v, True)[0], fit_weights(known, v, True)]
    errors = [float(known.error(each).sum()) for each in ladder]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.95 * errors[0]


def test_inputs_that_never_change_tell_nothing_about_weights() -> None:
    x, y, v = problem()
    known = moments(torch.ones_like(x), y)
    assert torch.equal(fit_weights(known, v, bias=True), v)


def test_work_counts_one_solution_for_each_mask() -> None:
    v = torch.ones(1, 4, 7)
    assert work(v, bias=False) == pytest.approx(6**3 / 6)
    v[0, 0, 0] = 0.0
    assert work(v, bias=False) == pytest.approx((6**3 + 5**3) / 6)
    assert work(v, bias=True) == pytest.approx((7**3 + 6**3) / 6)
