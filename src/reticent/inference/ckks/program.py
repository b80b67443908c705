"""A polynomial network as data: what is left of a model once it can be computed on ciphertexts.

Encrypted arithmetic knows sums and products, so every step is affine or a polynomial per value.
Values are float64; the plaintext run here is what the ciphertexts are tested against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import ConfigError

Values = NDArray[np.float64]
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Linear:
    """`weight` (out, in) times the flattened input, plus `bias` (out,)."""

    name: str
    weight: Values = field(repr=False)
    bias: Values = field(repr=False)

    def shape(self, given: Shape) -> Shape:
        """The output's shape; `ConfigError` where the input doesn't fit."""
        _fits(self.name, "values", self.weight.shape[1], int(np.prod(given)))
        return (len(self.weight),)

    def run(self, x: Values) -> Values:
        """(n, ...) to (n, out)."""
        return x.reshape(len(x), -1) @ self.weight.T + self.bias


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """Cross-correlation as PyTorch's Conv2d: `weight` (out, in / groups, kh, kw), `bias` (out,).

    Input (in, h, w); one-dimensional convolutions have h = kh = 1. Average pooling is a
    convolution with one group per channel.
    """

    name: str
    weight: Values = field(repr=False)
    bias: Values = field(repr=False)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def shape(self, given: Shape) -> Shape:
        """(out, h', w'); `ConfigError` where the input doesn't fit."""
        channels, *size = given
        _fits(self.name, "channels", self.weight.shape[1] * self.groups, channels)
        made = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(
                size, self.padding, self.dilation, self.weight.shape[2:], self.stride, strict=True
            )
        ]
        if min(made) < 1:
            raise ConfigError(
                f"Layer {self.name!r}: expected an input of at least the kernel's size "
                f"{self.weight.shape[2:]}, got shape={given}."
            )
        return (len(self.weight), *made)

    def run(self, x: Values) -> Values:
        """(n, in, h, w) to (n, out, h', w')."""
        (sy, sx), (py, px), (dy, dx) = self.stride, self.padding, self.dilation
        _, height, width = self.shape(x.shape[1:])
        padded = np.pad(x, ((0, 0), (0, 0), (py, py), (px, px)))
        each = len(self.weight) // self.groups
        made = np.broadcast_to(
            self.bias[:, None, None], (len(x), len(self.weight), height, width)
        ).copy()
        for group in range(self.groups):
            inside = self.weight.shape[1]
            channels = padded[:, group * inside : (group + 1) * inside]
            out = slice(group * each, (group + 1) * each)
            for i, j in np.ndindex(*self.weight.shape[2:]):
                rows = slice(i * dy, i * dy + sy * (height - 1) + 1, sy)
                columns = slice(j * dx, j * dx + sx * (width - 1) + 1, sx)
                made[:, out] += np.einsum(
                    "oc,nchw->nohw", self.weight[out, :, i, j], channels[:, :, rows, columns]
                )
        return made


@dataclass(frozen=True, kw_only=True)
class Polynomial:
    """sum_k `coefficients`[k] x^k, each (channels,) or (1,) for all; degree >= 1.

    Channels are the input's first axis.
    """

    name: str
    coefficients: Values = field(repr=False)

    @property
    def degree(self) -> int:
        """The highest power."""
        return len(self.coefficients) - 1

    def shape(self, given: Shape) -> Shape:
        """The input's own."""
        if self.coefficients.shape[1] != 1:
            _fits(self.name, "channels", self.coefficients.shape[1], given[0])
        return given

    def run(self, x: Values) -> Values:
        """(n, channels, ...) to the same shape, by Horner's rule."""
        each = [c.reshape(-1, *([1] * (x.ndim - 2))) for c in self.coefficients]
        made = np.broadcast_to(each[-1], x.shape).copy()
        for coefficient in each[-2::-1]:
            made = made * x + coefficient
        return made


@dataclass(frozen=True, kw_only=True)
class Add:
    """The sum of two or more earlier values of one shape: a residual connection."""

    name: str

    def shape(self, given: Shape) -> Shape:
        """The input's own."""
        return given

    def run(self, x: Values) -> Values:
        """Only ever called with the sum already made."""
        return x


Operation = Linear | Convolution | Polynomial | Add


@dataclass(frozen=True, kw_only=True)
class Step:
    """One operation on earlier values: 0 is the program's input, i the output of step i - 1."""

    operation: Operation
    sources: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Program:
    """Steps in order of computation; the last one's output is the program's.

    `bound` is the largest absolute input value that the program was checked for: a client refuses
    anything beyond it before encrypting.
    """

    input_shape: Shape
    steps: tuple[Step, ...]
    bound: float = 1.0

    def __post_init__(self) -> None:
        self.shapes()

    def shapes(self) -> list[Shape]:
        """The shape of the input and of every step's output; `ConfigError` where they don't fit."""
        made: list[Shape] = [self.input_shape]
        for step in self.steps:
            given = {made[i] for i in step.sources if 0 <= i < len(made)}
            name = step.operation.name
            several = isinstance(step.operation, Add)
            if not step.sources or max(step.sources) >= len(made) or min(step.sources) < 0:
                raise ConfigError(f"Layer {name!r}: expected earlier values, got {step.sources}.")
            if len(given) != 1 or several != (len(step.sources) > 1):
                raise ConfigError(
                    f"Layer {name!r}: expected {'inputs of one shape' if several else 'one input'}"
                    f", got shapes={sorted(given)} of {len(step.sources)} inputs."
                )
            made.append(step.operation.shape(given.pop()))
        return made

    def run(self, x: Any) -> Values:
        """The program on plaintext: x (n, *input_shape) to (n, *output shape)."""
        return self.trace(x)[-1]

    def trace(self, x: Any) -> list[Values]:
        """The input and every step's output, for ranges and for tests."""
        values = [np.asarray(x, dtype=np.float64)]
        for step in self.steps:
            summed: Values = reduce(np.add, _picked(values, step.sources))
            values.append(step.operation.run(summed))
        return values


def _picked(values: Sequence[Values], sources: tuple[int, ...]) -> list[Values]:
    return [values[i] for i in sources]


def _fits(name: str, what: str, expected: int, got: int) -> None:
    if expected != got:
        raise ConfigError(f"Layer {name!r}: expected {expected} {what}, got {got}.")
