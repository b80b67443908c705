"""A program as alternating matrices and squares, the form that slots compute.

Neighbouring affine steps become one matrix. A quadratic a x^2 + b x + c becomes x (x + b / a),
one product of ciphertexts; a and c go into the next matrix, so that they cost no level.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from reticent.errors import UnsupportedError
from reticent.inference.ckks.program import Add, Convolution, Linear, Polynomial, Program, Values

# Beyond it, x (x + b / a) is a difference of large numbers and loses what precision there is.
_MOST_OFFSET = 1e3


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
            scale, offset, constant = _quadratic(operation, given)
            matrices.append(current)
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


def _quadratic(step: Polynomial, shape: tuple[int, ...]) -> tuple[Values, Values, Values]:
    """(a, b / a, c) for each value of `shape`."""
    if step.degree != 2:
        raise UnsupportedError(
            f"Not yet: layer {step.name!r} is a polynomial of degree={step.degree}; this version "
            "encrypts quadratics. Fit quadratic activations."
        )
    each = [
        np.broadcast_to(row.reshape(-1, *([1] * (len(shape) - 1))), shape).ravel()
        for row in step.coefficients
    ]
    constant, linear, square = each
    with np.errstate(divide="ignore", invalid="ignore"):
        offset = linear / square
    if not np.all(np.abs(offset) <= _MOST_OFFSET):
        worst = float(np.nanmax(np.where(np.isfinite(offset), np.abs(offset), np.inf)))
        raise UnsupportedError(
            f"Not yet: layer {step.name!r} has a channel that is all but linear (b / a = "
            f"{worst:.3g}, at most {_MOST_OFFSET:g}). Fit its activation with a larger square."
        )
    return square, offset, constant
