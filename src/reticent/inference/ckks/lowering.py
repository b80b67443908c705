"""A program as alternating matrices and squares, the form that slots compute.

Neighbouring affine steps become one matrix. A quadratic a x^2 + b x + c becomes x (x + b / a),
one product of ciphertexts; a and c go into the next matrix, so that they cost no level. Where a
channel is nearly linear, b / a is large, and what rounding does to a next to it grows: there x is
shrunk by the matrix before, until b / a is no more than `_LARGEST_OFFSET`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from reticent.errors import UnsupportedError
from reticent.inference.ckks.program import Add, Convolution, Linear, Polynomial, Program, Values

_LARGEST_OFFSET = 1e4
# Beyond it a shrunken x drowns in the ciphertext's own noise.
_MOST_LINEAR = 1e6


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
class Square:
    """x (x + offset), `offset` (values,)."""

    name: str
    offset: Values = field(repr=False)

    def run(self, x: Values) -> Values:
        """(n, values) to (n, values)."""
        return x * (x + self.offset)


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """Matrices with squares between them: one more matrix than squares."""

    matrices: tuple[Matrix, ...]
    squares: tuple[Square, ...]

    @property
    def levels(self) -> int:
        """Products in a row: one per matrix, one per square."""
        return len(self.matrices) + len(self.squares)

    def run(self, x: Values) -> Values:
        """(n, in) to (n, out) on plaintext."""
        for matrix, square in zip(self.matrices, self.squares, strict=False):
            x = square.run(matrix.run(x))
        return self.matrices[-1].run(x)


def lower(program: Program) -> Lowered:
    """`program` as matrices and squares; the same function of the flattened input.

    Raises `UnsupportedError` for residual connections and for polynomials that are not quadratic.
    """
    size = int(np.prod(program.input_shape))
    current = _identity(size, "input")
    matrices: list[Matrix] = []
    squares: list[Square] = []
    shapes = program.shapes()
    for index, step in enumerate(program.steps):
        operation, given = step.operation, shapes[index]
        if isinstance(operation, Add) or step.sources != (index,):
            raise UnsupportedError(
                f"Not yet: layer {operation.name!r} adds an earlier value, and this version "
                "encrypts chains of layers only. Leave out the residual connection."
            )
        if isinstance(operation, Polynomial):
            shrink, offset, scale, constant = _quadratic(operation, given)
            before = Matrix(
                name=current.name,
                weight=current.weight * shrink[:, None],
                bias=current.bias * shrink,
            )
            matrices.append(before)
            squares.append(Square(name=operation.name, offset=offset))
            current = Matrix(name=operation.name, weight=np.diag(scale), bias=constant)
        else:
            affine = _affine(operation, given)
            current = Matrix(
                name=affine.name,
                weight=affine.weight @ current.weight,
                bias=affine.weight @ current.bias + affine.bias,
            )
    return Lowered(matrices=(*matrices, current), squares=tuple(squares))


def _identity(size: int, name: str) -> Matrix:
    return Matrix(name=name, weight=np.eye(size), bias=np.zeros(size))


def _affine(operation: Linear | Convolution, shape: tuple[int, ...]) -> Matrix:
    """The matrix of an affine step; a convolution's is read off the unit vectors."""
    if isinstance(operation, Linear):
        return Matrix(name=operation.name, weight=operation.weight, bias=operation.bias)
    size = int(np.prod(shape))
    zero = operation.run(np.zeros((1, *shape)))[0].ravel()
    units = operation.run(np.eye(size).reshape(size, *shape))
    weight = (units.reshape(size, -1) - zero).T
    return Matrix(name=operation.name, weight=weight, bias=zero)


def _quadratic(step: Polynomial, shape: tuple[int, ...]) -> tuple[Values, Values, Values, Values]:
    """s, o, k, c (values,): with z = s x, a x^2 + b x + c = k z (z + o) + c."""
    if step.degree != 2:
        raise UnsupportedError(
            f"Not yet: layer {step.name!r} is a polynomial of degree={step.degree}; this version "
            "encrypts quadratics. Fit quadratic activations."
        )
    constant, linear, square = (
        np.broadcast_to(row.reshape(-1, *([1] * (len(shape) - 1))), shape).ravel()
        for row in step.coefficients
    )
    ratio = np.zeros_like(linear)
    active = linear != 0
    with np.errstate(divide="ignore"):
        ratio[active] = linear[active] / square[active]
    if not np.all(np.abs(ratio) <= _MOST_LINEAR):
        raise UnsupportedError(
            f"Not yet: layer {step.name!r} has a channel that is linear (b / a = "
            f"{np.abs(ratio).max():.3g}, at most {_MOST_LINEAR:g}). Fit its activation with a "
            "larger square, or leave it out."
        )
    shrink = np.minimum(1.0, _LARGEST_OFFSET / np.maximum(np.abs(ratio), 1e-300))
    return shrink, ratio * shrink, square / shrink**2, constant
