"""Arithmetic on polynomials given by their coefficients, several channels at once.

Coefficients have shape (degree + 1, channels), lowest power first; one channel stands for all.
"""

from __future__ import annotations

import numpy as np

from reticent.inference.ckks.program import Values


def total(left: Values, right: Values) -> Values:
    """left + right."""
    degree = max(len(left), len(right))
    channels = max(left.shape[1], right.shape[1])
    made = np.zeros((degree, channels))
    made[: len(left)] += left
    made[: len(right)] += right
    return made


def multiply(left: Values, right: Values) -> Values:
    """left times right."""
    made = np.zeros((len(left) + len(right) - 1, max(left.shape[1], right.shape[1])))
    for power, coefficient in enumerate(left):
        made[power : power + len(right)] += coefficient * right
    return made


def substitute(outer: Values, inner: Values) -> Values:
    """outer(inner(x)), by Horner's rule."""
    made = outer[-1:]
    for coefficient in outer[-2::-1]:
        made = total(multiply(made, inner), coefficient[None])
    return made


def values(coefficients: Values, x: Values) -> Values:
    """The polynomials' values at x (n, channels)."""
    made = np.broadcast_to(coefficients[-1], x.shape).astype(np.float64)
    for coefficient in coefficients[-2::-1]:
        made = made * x + coefficient
    return made


def fitted(x: Values, y: Values, weights: Values, degree: int, *, ridge: float = 1e-9) -> Values:
    """Least squares per channel: sum_i weights_i (p(x_i) - y_i)^2 is smallest.

    All of shape (n, channels). Each channel is scaled to [-1, 1] and solved in Chebyshev's basis,
    where the normal equations stay well-conditioned; `ridge` is relative to their trace.
    """
    centre = (x.max(axis=0) + x.min(axis=0)) / 2
    reach = np.maximum((x.max(axis=0) - x.min(axis=0)) / 2, 1e-12)
    basis = np.polynomial.chebyshev.chebvander((x - centre) / reach, degree)
    gram = np.einsum("ncj,nck,nc->cjk", basis, basis, weights)
    gram += ridge * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(degree + 1)
    moments = np.einsum("ncj,nc,nc->cj", basis, y, weights)
    solved = np.linalg.solve(gram, moments[..., None])[..., 0]
    powers = np.stack([_padded(np.polynomial.chebyshev.cheb2poly(row), degree) for row in solved])
    return substitute(powers.T, np.stack([-centre / reach, 1 / reach]))


def _padded(row: Values, degree: int) -> Values:
    return np.pad(row, (0, degree + 1 - len(row)))
