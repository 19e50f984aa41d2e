"""The factor of an inverse against the inverse itself, in float64."""

from __future__ import annotations

import pytest
import torch

from burnish.errors import InvalidInput
from burnish.graph import inverse_factor


@pytest.fixture
def moments() -> torch.Tensor:
    x = torch.randn(2, 100, 24, generator=torch.Generator().manual_seed(0)).double()
    return x.mT @ x


def test_it_is_of_the_damped_inverse(moments: torch.Tensor) -> None:
    kept = moments.clone()
    factors = inverse_factor(moments, 0.05)
    assert torch.equal(moments, kept)
    for moment, factor in zip(moments, factors, strict=True):
        damped = moment + 0.05 * moment.diagonal().mean() * torch.eye(24)
        assert torch.equal(factor, factor.triu())
        torch.testing.assert_close(factor.T @ factor @ damped, torch.eye(24).double())
        assert torch.equal(inverse_factor(moment, 0.05), factor)


def test_its_diagonal_is_of_the_inverses_of_what_is_left(moments: torch.Tensor) -> None:
    factor = inverse_factor(moments[0], 0.0)
    for j in (0, 7, 23):
        left = moments[0][j:, j:].inverse()
        torch.testing.assert_close(factor[j, j] ** 2, left[0, 0])
        torch.testing.assert_close(factor[j, j:] * factor[j, j], left[0])


def test_what_is_no_second_moment_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not positive definite"):
        inverse_factor(torch.eye(4) - torch.ones(4, 4), 0.01)
