"""The triangular factor of the inverse of a second moment, which eliminates inputs one by one.

A layer reads rows x; H = Σ x xᵀ weighs what its weights err. With H⁻¹ = UᵀU, U upper triangular,
U_jj⁻² is what a unit error of weight j costs once the weights behind it have made good what they
can, and −U_jk / U_jj is how much weight k has to change for that: all that rounding (GPTQ) and
pruning (SparseGPT) need, for the inverses of all the trailing matrices at once.

U is computed from H turned back to front, H = RRᵀ with U = R⁻¹, in float64: one factorisation and
one triangular inverse instead of an inverse between two factorisations (Frantar, Ashkboos, Hoefler
and Alistarh, 2022, have the latter).
"""

from __future__ import annotations

import torch

from burnish.errors import InvalidInput


def inverse_factor(second_moment: torch.Tensor, damping: float) -> torch.Tensor:
    """U [..., in, in], upper triangular in float64, with UᵀU the inverse of the damped moment.

    Args:
        second_moment: [..., in, in]: Σ x xᵀ or its mean, of data.
        damping: times the mean of its diagonal is added to the diagonal.

    Raises:
        InvalidInput: the damped moment is not positive definite.
    """
    damped = second_moment.to(torch.float64, copy=True)
    diagonal = damped.diagonal(dim1=-2, dim2=-1)
    diagonal.add_(damping * diagonal.mean(-1, keepdim=True))
    lower, failed = torch.linalg.cholesky_ex(damped.flip(-2, -1))
    if bool(failed.any()):
        size = damped.shape[-1]
        raise InvalidInput(
            f"the second moment [{size}, {size}] with damping {damping:g} is not positive "
            "definite: give the sum of x xᵀ of data, or more damping"
        )
    eye = torch.eye(lower.shape[-1], dtype=lower.dtype)
    inverse: torch.Tensor = torch.linalg.solve_triangular(lower, eye, upper=False)
    return inverse.flip(-2, -1)
