"""The frequency oracles that several test files ask, at small and at ordinary sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from reticent.release.local.hadamard import HadamardResponse
from reticent.release.local.hashing import LocalHashing
from reticent.release.local.oracle import FrequencyOracle
from reticent.release.local.rappor import Rappor
from reticent.release.local.response import RandomisedResponse
from reticent.release.local.subset import SubsetSelection
from reticent.release.local.unary import UnaryEncoding

Make = Callable[[int, float], FrequencyOracle]

SMALL: Mapping[str, Make] = {
    "response": lambda k, e: RandomisedResponse(categories=k, epsilon=e),
    "optimised unary": lambda k, e: UnaryEncoding(categories=k, epsilon=e),
    "symmetric unary": lambda k, e: UnaryEncoding(categories=k, epsilon=e, symmetric=True),
    "local hashing": lambda k, e: LocalHashing(categories=k, epsilon=e, prime=7),
    "hadamard": lambda k, e: HadamardResponse(categories=k, epsilon=e),
    "subset": lambda k, e: SubsetSelection(categories=k, epsilon=e),
}
RAPPOR: Make = lambda k, e: Rappor(  # noqa: E731
    categories=k, epsilon=e, bits=8, hashes=1, cohorts=3
)
ORDINARY: Mapping[str, Make] = {
    **SMALL,
    "local hashing": lambda k, e: LocalHashing(categories=k, epsilon=e),
    "rappor": RAPPOR,
}


def exp_above(epsilon: float) -> Fraction:
    """A rational just above e**epsilon, by another route than the mechanisms take."""
    with localcontext() as context:
        context.prec = 80
        return Fraction(Decimal(epsilon).exp()) * (1 + Fraction(1, 10**75))


class Scripted:
    """A source that hands out the given bytes, then fails."""

    is_secure = False

    def __init__(self, *parts: NDArray[np.uint8]) -> None:
        self.rest = np.concatenate(parts) if parts else np.empty(0, dtype=np.uint8)

    def bytes(self, count: int) -> NDArray[np.uint8]:
        assert count <= len(self.rest), "the script ran out"
        given, self.rest = self.rest[:count].copy(), self.rest[count:]
        return given
