"""Activations as rows z (z + offset): what a stage of squares computes, and how it is read.

A quadratic a x^2 + b x + c is one row x (x + b / a); where b / a is large, rounding would drown
what a is multiplied with, and two rows x x and x (x + 1) give it without a division. Cubics and
quartics take two stages: first x x and x (x + 1), which give u = x^2 and x; then
(u + x)(u + x + s) and (u - x)(u - x + d), whose sums span u^2 and u x.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from reticent.errors import UnsupportedError
from reticent.inference.ckks.program import Polynomial, Shape, Values

_LARGEST_OFFSET = 64.0
_HIGHEST = 4


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """`weight` (out, in) and `bias` (out,)."""

    name: str
    weight: Values = field(repr=False)
    bias: Values = field(repr=False)

    def run(self, x: Values) -> Values:
        """(n, in) to (n, out)."""
        return x @ self.weight.T + self.bias


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows z (z + `offset`) of z = `before`.

    Each of `results` is a key, and weight (out, rows) and bias (out,) that give it.
    """

    name: str
    before: Matrix
    offset: Values = field(repr=False)
    results: tuple[tuple[Hashable, Values, Values], ...] = field(repr=False)


def quadratic(step: Polynomial, shape: Shape, key: Hashable, x: Matrix) -> Rows:
    """a x^2 + b x + c of the values `x`: a row each, two where b / a is large."""
    constant, linear, square = _spread(step, shape, 2)
    plain = np.abs(linear) <= _LARGEST_OFFSET * np.abs(square)
    ratio = np.where(plain, linear / np.where(square == 0, 1.0, square), 0.0)
    extra = np.flatnonzero(~plain)
    size = len(constant)
    weight = np.zeros((size, size + len(extra)))
    np.fill_diagonal(weight, np.where(plain, square, square - linear))
    weight[extra, size + np.arange(len(extra))] = linear[extra]
    picked = [*range(size), *extra]
    return Rows(
        name=step.name,
        before=Matrix(name=x.name, weight=x.weight[picked], bias=x.bias[picked]),
        offset=np.concatenate([ratio, np.ones(len(extra))]),
        results=((key, weight, constant),),
    )


def carried(key: Hashable, x: Matrix) -> Rows:
    """The values `x` themselves."""
    size = len(x.bias)
    return Rows(
        name=x.name,
        before=_stacked(x, x),
        offset=np.repeat([0.0, 1.0], size),
        results=((key, np.hstack([-np.eye(size), np.eye(size)]), np.zeros(size)),),
    )


def powers(step: Polynomial, number: int, x: Matrix) -> Rows:
    """x^2 and x, under the keys (`number`, "square") and (`number`, "x").

    Raises `UnsupportedError` for a degree above 4.
    """
    if step.degree > _HIGHEST:
        raise UnsupportedError(
            f"Not yet: layer {step.name!r} is a polynomial of degree={step.degree}; this version "
            f"encrypts degrees up to {_HIGHEST}. Fit activations of a lower degree."
        )
    passed = carried((number, "x"), x)
    size = len(x.bias)
    square = np.hstack([np.eye(size), np.zeros((size, size))])
    return Rows(
        name=step.name,
        before=passed.before,
        offset=passed.offset,
        results=(((number, "square"), square, np.zeros(size)), *passed.results),
    )


def quartic(step: Polynomial, shape: Shape, key: Hashable, square: Matrix, x: Matrix) -> Rows:
    """A polynomial of degree 3 or 4 from x^2 and x.

    k (u + x)^2 + m (u - x)^2 with k + m = a4, 2 (k - m) = a3 is a4 u^2 + a3 u x + a4 u; what is
    missing to the rest, r u + q x, goes into the offsets, or where these would be large, through
    two rows of its own.
    """
    zero, one, two, three, four = _spread(step, shape, 4)
    k, m, r = four / 2 + three / 4, four / 2 - three / 4, two - four
    size = len(zero)
    up = _combined(x.name, square, 1.0, x, 1.0)
    down = _combined(x.name, square, 1.0, x, -1.0)
    before = _stacked(up, down)
    weight = np.hstack([np.diag(k), np.diag(m)])
    wanted = np.concatenate([(r + one) / 2, (r - one) / 2])
    both = np.concatenate([k, m])
    if np.all(np.abs(wanted) <= _LARGEST_OFFSET * np.abs(both)):
        offset = wanted / np.where(both == 0, 1.0, both)
        return Rows(name=step.name, before=before, offset=offset, results=((key, weight, zero),))
    rest = carried(key, _combined(x.name, square, r, x, one))
    (_, through, _), *_ = rest.results
    return Rows(
        name=step.name,
        before=_stacked(before, rest.before),
        offset=np.concatenate([np.zeros(2 * size), rest.offset]),
        results=((key, np.hstack([weight, through]), zero),),
    )


def _spread(step: Polynomial, shape: Shape, degree: int) -> list[Values]:
    """The coefficients up to `degree`, each (values,)."""
    found = [
        np.broadcast_to(row.reshape(-1, *([1] * (len(shape) - 1))), shape).ravel()
        for row in step.coefficients
    ]
    return found + [np.zeros_like(found[0])] * (degree + 1 - len(found))


def _combined(
    name: str, left: Matrix, by: float | Values, right: Matrix, times: float | Values
) -> Matrix:
    by, times = np.asarray(by), np.asarray(times)
    return Matrix(
        name=name,
        weight=left.weight * by[..., None] + right.weight * times[..., None],
        bias=left.bias * by + right.bias * times,
    )


def _stacked(first: Matrix, second: Matrix) -> Matrix:
    return Matrix(
        name=first.name,
        weight=np.concatenate([first.weight, second.weight]),
        bias=np.concatenate([first.bias, second.bias]),
    )
