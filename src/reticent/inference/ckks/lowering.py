"""A program as alternating matrices and squares, the form that slots compute.

Neighbouring affine steps become one matrix, and activations of one depth one stage of squares.
A stage computes rows z (z + offset) of its input, and every value is an affine function of such
rows, so that constants cost no level. What a stage doesn't change but a later one needs (a residual
connection) passes through as z (z + 1) - z z = z.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from reticent.inference.ckks.program import (
    Add,
    Convolution,
    Linear,
    Polynomial,
    Program,
    Shape,
    Step,
    Values,
)
from reticent.inference.ckks.rows import Matrix, Rows, carried, powers, quadratic, quartic


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

    def run(self, x: Values) -> Values:
        """(n, in) to (n, out) on plaintext."""
        for matrix, square in zip(self.matrices, self.squares, strict=False):
            x = square.run(matrix.run(x))
        return self.matrices[-1].run(x)


def lower(program: Program) -> Lowered:
    """`program` as matrices and squares; the same function of the flattened input.

    Raises `UnsupportedError` for polynomials of a degree above 4.
    """
    return _Lowering(program).run()


class _Lowering:
    """`_values` holds what is known so far, as affine functions of the last stage's rows."""

    def __init__(self, program: Program) -> None:
        self._steps, self._shapes = program.steps, program.shapes()
        self._left = _needed(program.steps)
        size = int(np.prod(program.input_shape))
        start = Matrix(name="input", weight=np.eye(size), bias=np.zeros(size))
        self._values: dict[Hashable, Matrix] = {0: start}
        self._matrices: list[Matrix] = []
        self._squares: list[Square] = []

    def run(self) -> Lowered:
        self._affine()
        while self._left:
            self._stage()
            self._affine()
        last = self._values[len(self._steps)]
        return Lowered(matrices=(*self._matrices, last), squares=tuple(self._squares))

    def _affine(self) -> None:
        """Everything that no product is needed for."""
        for number in sorted(self._left):
            step = self._steps[number - 1]
            if all(source in self._values for source in step.sources) and _is_affine(step):
                given = self._shapes[step.sources[0]]
                self._values[number] = _applied(
                    step, [self._values[s] for s in step.sources], given
                )
                self._left.discard(number)

    def _stage(self) -> None:
        """One stage of squares: each activation whose input is known, and what must pass."""
        made: list[Rows] = []
        for number in sorted(self._left):
            step = self._steps[number - 1]
            operation, source = step.operation, step.sources[0]
            if not isinstance(operation, Polynomial):
                continue
            shape, key = self._shapes[source], (number, "x")
            if key in self._values:
                pair = self._values.pop((number, "square")), self._values.pop(key)
                made.append(quartic(operation, shape, number, *pair))
                self._left.discard(number)
            elif source in self._values and operation.degree > 2:
                made.append(powers(operation, number, self._values[source]))
            elif source in self._values:
                made.append(quadratic(operation, shape, number, self._values[source]))
                self._left.discard(number)
        begun = {key[0] for rows in made for key, *_ in rows.results if isinstance(key, tuple)}
        needed = {s for n in self._left - begun for s in self._steps[n - 1].sources}
        passing = [key for key in self._values if key in needed or isinstance(key, tuple)]
        made += [carried(key, self._values[key]) for key in passing]
        self._advance(made)

    def _advance(self, made: list[Rows]) -> None:
        name = made[0].before.name
        self._matrices.append(
            Matrix(
                name=name,
                weight=np.concatenate([rows.before.weight for rows in made]),
                bias=np.concatenate([rows.before.bias for rows in made]),
            )
        )
        offset = np.concatenate([rows.offset for rows in made])
        self._squares.append(Square(name=made[0].name, offset=offset))
        self._values, at = {}, 0
        for rows in made:
            here = slice(at, at + len(rows.offset))
            for key, weight, bias in rows.results:
                wide = np.zeros((len(weight), len(offset)))
                wide[:, here] = weight
                self._values[key] = Matrix(name=rows.name, weight=wide, bias=bias)
            at = here.stop


def _needed(steps: tuple[Step, ...]) -> set[int]:
    needed = {len(steps)} - {0}
    for number in range(len(steps), 0, -1):
        if number in needed:
            needed.update(source for source in steps[number - 1].sources if source)
    return needed


def _is_affine(step: Step) -> bool:
    return not isinstance(step.operation, Polynomial) or step.operation.degree < 2


def _applied(step: Step, given: list[Matrix], shape: Shape) -> Matrix:
    operation = step.operation
    if isinstance(operation, Add):
        weight = np.sum([each.weight for each in given], axis=0)
        return Matrix(
            name=operation.name, weight=weight, bias=np.sum([each.bias for each in given], axis=0)
        )
    affine = _matrix(operation, shape)
    return Matrix(
        name=affine.name,
        weight=affine.weight @ given[0].weight,
        bias=affine.weight @ given[0].bias + affine.bias,
    )


def _matrix(operation: Linear | Convolution | Polynomial, shape: Shape) -> Matrix:
    """The matrix of an affine step; unless it is one, it is read off the unit vectors."""
    if isinstance(operation, Linear):
        return Matrix(name=operation.name, weight=operation.weight, bias=operation.bias)
    size = int(np.prod(shape))
    zero = operation.run(np.zeros((1, *shape)))[0].ravel()
    units = operation.run(np.eye(size).reshape(size, *shape))
    return Matrix(name=operation.name, weight=(units.reshape(size, -1) - zero).T, bias=zero)
