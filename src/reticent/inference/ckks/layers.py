"""Steps of a program under construction, and what can be folded away when it is finished."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from reticent.inference.ckks.program import (
    Add,
    Convolution,
    Linear,
    Operation,
    Polynomial,
    Program,
    Shape,
    Step,
)


class Layers:
    """Grows step by step; `program` folds and prunes."""

    def __init__(self, input_shape: Shape) -> None:
        self._shapes = [input_shape]
        self._steps: list[Step] = []

    @property
    def is_empty(self) -> bool:
        """No step stands yet."""
        return not self._steps

    def shape(self, step: int) -> Shape:
        """The shape of value `step`; 0 is the input."""
        return self._shapes[step]

    def push(self, operation: Operation, source: int) -> int:
        """Add an operation on value `source`; the number of the value that it makes."""
        return self._append(operation, (source,))

    def add(self, name: str, sources: Sequence[int]) -> int:
        """The sum of several values."""
        return self._append(Add(name=name), tuple(sources))

    def flatten(self, source: int, name: str) -> int:
        """Value `source` as one axis: a unit matrix, which folds into a neighbour if it can."""
        if len(self.shape(source)) == 1:
            return source
        size = int(np.prod(self.shape(source)))
        return self.push(Linear(name=name, weight=np.eye(size), bias=np.zeros(size)), source)

    def program(self, output: int, *, bound: float) -> Program:
        """Everything that `output` needs, with affine steps folded into their neighbours."""
        steps = list(self._steps)
        if output == 0:
            return Program(input_shape=self._shapes[0], steps=(), bound=bound)
        steps = steps[:output]
        while (folded := _folded(_pruned(steps))) is not None:
            steps = folded
        return Program(input_shape=self._shapes[0], steps=tuple(_pruned(steps)), bound=bound)

    def _append(self, operation: Operation, sources: tuple[int, ...]) -> int:
        self._shapes.append(operation.shape(self._shapes[sources[0]]))
        self._steps.append(Step(operation=operation, sources=sources))
        return len(self._steps)


def _pruned(steps: list[Step]) -> list[Step]:
    """The steps that the last one needs, renumbered."""
    needed = {len(steps)}
    for number in range(len(steps), 0, -1):
        if number in needed:
            needed.update(steps[number - 1].sources)
    kept = sorted(needed - {0})
    renamed = {0: 0, **{old: new for new, old in enumerate(kept, start=1)}}
    return [
        replace(steps[old - 1], sources=tuple(renamed[i] for i in steps[old - 1].sources))
        for old in kept
    ]


def _folded(steps: list[Step]) -> list[Step] | None:
    """The steps with one pair of neighbours made one, or None where no pair is left."""
    uses = [source for step in steps for source in step.sources]
    for index, step in enumerate(steps):
        source = step.sources[0]
        if source == 0 or len(step.sources) > 1 or uses.count(source) > 1:
            continue
        first = steps[source - 1]
        merged = _merged(first.operation, step.operation)
        if merged is not None:
            made = list(steps)
            made[index] = Step(operation=merged, sources=first.sources)
            return made
    return None


def _merged(first: Operation, then: Operation) -> Operation | None:
    rules: dict[tuple[type, type], Callable[..., Operation | None]] = {
        (Linear, Polynomial): _scaled_rows,
        (Convolution, Polynomial): _scaled_rows,
        (Polynomial, Linear): _scaled_columns,
        (Polynomial, Convolution): _scaled_channels,
        (Linear, Linear): _product,
    }
    rule = rules.get((type(first), type(then)))
    return None if rule is None else rule(first, then)


def _scaled_rows(first: Linear | Convolution, then: Polynomial) -> Operation | None:
    if then.degree > 1:
        return None
    shift, scale = then.coefficients
    weight = first.weight * scale.reshape(-1, *([1] * (first.weight.ndim - 1)))
    return replace(first, weight=weight, bias=first.bias * scale + shift)


def _scaled_columns(first: Polynomial, then: Linear) -> Operation | None:
    if first.degree > 1:
        return None
    repeat = then.weight.shape[1] // first.coefficients.shape[1]
    shift, scale = np.repeat(first.coefficients, repeat, axis=1)
    return replace(
        then, weight=then.weight * scale, bias=then.bias + (then.weight * shift).sum(axis=1)
    )


def _scaled_channels(first: Polynomial, then: Convolution) -> Operation | None:
    shift, scale = first.coefficients[0], first.coefficients[1]
    # Zeros of the padding are added after the shift, which the kernel can't tell at the border.
    if first.degree > 1 or (then.padding != (0, 0) and np.any(shift)):
        return None
    out, inside = then.weight.shape[:2]
    channels = inside * then.groups
    table = np.broadcast_to(np.stack([shift, scale]), (2, channels))
    group = np.arange(out) // (out // then.groups)
    picked = group[:, None] * inside + np.arange(inside)
    shifted = then.weight * table[0][picked][:, :, None, None]
    return replace(
        then,
        weight=then.weight * table[1][picked][:, :, None, None],
        bias=then.bias + shifted.sum(axis=(1, 2, 3)),
    )


def _product(first: Linear, then: Linear) -> Operation | None:
    """One matrix for two, where that is no larger: a level less."""
    if len(then.weight) * first.weight.shape[1] > then.weight.size + first.weight.size:
        return None
    return replace(
        then, weight=then.weight @ first.weight, bias=then.bias + then.weight @ first.bias
    )
