"""Membership in the original: scores of how much nearer a release lies to a record than chance.

Density ratio as in van Breugel et al. 2023 ("Membership inference attacks against synthetic data
through overfitting detection", equation 2), here with nearest-neighbour densities.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.release.neighbours import nearest
from reticent.attacks.release.table import Columns, Encoding
from reticent.attacks.spec import Scores

_TINY = 1e-6


def closest_record(
    release: Columns, candidates: Columns, encoding: Encoding, *, rng: np.random.Generator
) -> Scores:
    """Minus the distance (n,) to the closest release row.

    A smoke test: it also calls records members that lie where many people do.
    """
    _rows, gaps = nearest(encoding.points(candidates), encoding.points(release), 1, rng)
    return np.asarray(-np.sqrt(gaps[:, 0]))


def density_ratio(
    release: Columns,
    reference: Columns,
    candidates: Columns,
    encoding: Encoding,
    *,
    neighbours: int = 3,
    rng: np.random.Generator,
) -> Scores:
    """The log-ratio (n,) of the release's density at each candidate to the population's.

    `reference` are records of the population that are neither candidates nor in the original. A
    density is that of the k nearest neighbours, k / (n distance^d): only the ratio of the two
    mean log-distances counts, up to a constant and the factor d. Averaging over the first k
    keeps one exact copy visible.
    """
    asked = encoding.points(candidates)
    logs: list[NDArray[np.float64]] = []
    for table in (release, reference):
        _rows, gaps = nearest(asked, encoding.points(table), neighbours, rng)
        logs.append(0.5 * np.log(gaps + _TINY).mean(axis=1))
    return np.asarray(logs[1] - logs[0])
