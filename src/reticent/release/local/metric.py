"""Metric privacy for places and embeddings: near points are hard to tell apart, far ones are not.

This is a weaker promise than differential privacy, and never called so here: the factor that
likelihoods may differ by grows with the distance of the two inputs, without limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reticent.errors import ConfigError, DataError
from reticent.release.local.draws import Source
from reticent.release.local.oracle import chunks

_GRID_BITS = 10


@dataclass(frozen=True, kw_only=True)
class MetricPrivacy:
    """For points at Euclidean distance d, likelihoods differ by a factor of at most e**(rate d).

    `rate` is in nats per unit of distance (Chatzikokolakis et al. 2013, definition 2, "d_X-
    privacy"; Andrés et al. 2013 for places, "geo-indistinguishability").
    """

    kind: str = field(default="metric privacy, not differential privacy", init=False)
    rate: float
    dimensions: int
    unit: str = "one report of one point"
    assumptions: tuple[str, ...] = (
        "The noise is computed in float64 and rounded to a public grid: near the stated law, with "
        "no bound proved on the largest ratio.",
        "The source's bytes are uniform.",
        "Repeated reports of one point add up.",
    )

    def nats_at(self, distance: float) -> float:
        """The bound on the log-likelihood ratio for two points this far apart, in nats."""
        return self.rate * distance


@dataclass(frozen=True, kw_only=True)
class MetricLaplace:
    """Adds noise of density proportional to e**(-rate |z|) in `dimensions` dimensions.

    In two, the planar Laplace (Andrés et al. 2013, section 4); in more, as Wu et al. 2017,
    appendix, and Feyisetan et al. 2020 for word embeddings: a uniform direction times a
    gamma(dimensions) length. `radius` clips inputs to the ball of that norm beforehand, as
    embeddings have to be: then no two inputs are further than 2 radius apart.
    """

    rate: float
    dimensions: int
    radius: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf or not 1 <= self.dimensions <= 2**16:
            raise ConfigError(
                f"Expected 0 < rate < infinity and 1 to 2**16 dimensions, got rate={self.rate}, "
                f"dimensions={self.dimensions}. The rate is in nats per unit of distance."
            )
        if self.radius is not None and not 0 < self.radius < math.inf:
            raise ConfigError(f"Expected 0 < radius < infinity, got radius={self.radius}.")

    @property
    def privacy(self) -> MetricPrivacy:
        """What is claimed."""
        return MetricPrivacy(rate=self.rate, dimensions=self.dimensions)

    @property
    def mean_distance(self) -> float:
        """How far a report is from its point on average: dimensions / rate."""
        return self.dimensions / self.rate

    def randomise(self, points: ArrayLike, source: Source) -> NDArray[np.float64]:
        """One noisy point per row of (n, dimensions), on a grid of step 2**-10 / rate at most."""
        given = np.asarray(points, dtype=np.float64)
        if given.ndim != 2 or given.shape[1] != self.dimensions or not np.isfinite(given).all():
            raise DataError(
                f"Expected finite points of shape (n, {self.dimensions}), got "
                f"shape={given.shape}. Drop or repair points with missing coordinates."
            )
        if self.radius is not None:
            norms = np.linalg.norm(given, axis=1, keepdims=True)
            given = given * np.minimum(1.0, self.radius / np.maximum(norms, 1e-300))
        step = 2.0 ** math.floor(math.log2(2.0**-_GRID_BITS / self.rate))
        made = np.empty_like(given)
        for rows in chunks(len(given), self.dimensions):
            noisy = given[rows] + self._noise(len(given[rows]), source)
            made[rows] = np.round(noisy / step) * step
        return made

    def _noise(self, n: int, source: Source) -> NDArray[np.float64]:
        shape = (n, self.dimensions)
        directions = np.sqrt(-2 * np.log(_uniform(source, shape)))
        directions *= np.cos(2 * np.pi * _uniform(source, shape))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths = -np.log(_uniform(source, shape)).sum(axis=1, keepdims=True) / self.rate
        made: NDArray[np.float64] = directions * lengths
        return made


def nearest(points: NDArray[np.float64], vocabulary: ArrayLike) -> NDArray[np.int64]:
    """The row of the public `vocabulary` (v, d) nearest to each point (n, d): post-processing."""
    words = np.asarray(vocabulary, dtype=np.float64)
    squares = (words**2).sum(axis=1)
    made = np.empty(len(points), dtype=np.int64)
    for rows in chunks(len(points), len(words)):
        made[rows] = np.argmin(squares - 2 * points[rows] @ words.T, axis=1)
    return made


def _uniform(source: Source, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Midpoints of 2**52 equal cells of (0, 1)."""
    words = source.bytes(8 * math.prod(shape)).view("<u8") >> np.uint64(12)
    return ((words.astype(np.float64) + 0.5) * 2.0**-52).reshape(shape)
