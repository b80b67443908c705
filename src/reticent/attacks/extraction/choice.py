"""Which records to ask about next: the pool's own order, doubt of the copy, or coverage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.extraction.copy import LogProbabilities

Choice = Callable[
    [NDArray[np.int64], LogProbabilities, int, np.random.Generator],
    NDArray[np.int64],
]
"""(rows not asked yet, votes (members, rows, C) on them, count, rng) to `count` of the rows."""


def at_random(
    unasked: NDArray[np.int64],
    votes: LogProbabilities,
    count: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Uniform, without replacement (Orekondy et al. 2019, "random")."""
    return np.asarray(rng.choice(unasked, count, replace=False))


def by_entropy(
    unasked: NDArray[np.int64],
    votes: LogProbabilities,
    count: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """The records whose mean vote has the greatest entropy (Pal et al. 2020, "uncertainty")."""
    mean = np.exp(votes).mean(axis=0)
    entropy = -(mean * np.log(np.maximum(mean, 1e-300))).sum(axis=1)
    return _thinned(unasked, entropy, count, rng)


def by_margin(
    unasked: NDArray[np.int64],
    votes: LogProbabilities,
    count: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """The records whose two likeliest classes are closest in the mean vote."""
    top = np.sort(np.exp(votes).mean(axis=0), axis=1)
    return _thinned(unasked, top[:, -2] - top[:, -1], count, rng)


def by_coverage(
    unasked: NDArray[np.int64],
    votes: LogProbabilities,
    count: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Greedy k-center in the space of all votes (Sener & Savarese 2018, algorithm 1).

    From the record of most doubt on, each is as far as possible from those chosen before it.
    """
    mean = np.exp(votes).mean(axis=0)
    first = int(mean.max(axis=1).argmin())
    chosen = [first]
    distance = ((mean - mean[first]) ** 2).sum(axis=1)
    for _next in range(count - 1):
        distance[chosen[-1]] = -1.0
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((mean - mean[chosen[-1]]) ** 2).sum(axis=1))
    return np.asarray(unasked[chosen])


CHOICES: dict[str, Choice] = {
    "random": at_random,
    "entropy": by_entropy,
    "margin": by_margin,
    "k-center": by_coverage,
}


def _thinned(
    unasked: NDArray[np.int64],
    doubt: NDArray[np.float64],
    count: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """`count` of the 3 * count most doubtful: neighbours in doubt are often alike."""
    top = np.argsort(-doubt, kind="stable")[: 3 * count]
    return np.asarray(unasked[rng.choice(top, min(count, len(top)), replace=False)])
