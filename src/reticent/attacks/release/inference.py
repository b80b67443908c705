"""Inference: a secret column deduced from the other columns and a release.

WP29 Opinion 05/2014 (section 2.2.3): deducing an attribute's value with significant probability.
What holds for the whole population is no leak of a person's record, so the same deduction about
people who are not in the original is the control.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from reticent.attacks.release.neighbours import nearest
from reticent.attacks.release.table import Columns, Encoding

_MOST_CLASSES = 50
_ROWS = 20_000


def nearest_guess(
    release: Columns,
    targets: Columns,
    encoding: Encoding,
    *,
    secret: str,
    known: Sequence[str],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """The code of `secret` (n,) in the release row that is nearest in the `known` columns."""
    rows, _gaps = nearest(encoding.points(targets, known), encoding.points(release, known), 1, rng)
    return np.asarray(encoding.codes(release, (secret,))[rows[:, 0], 0])


def boosted_guess(
    release: Columns,
    targets: Columns,
    encoding: Encoding,
    *,
    secret: str,
    known: Sequence[str],
    rng: np.random.Generator,
) -> NDArray[np.float64] | None:
    """The code of `secret` (n,) that gradient boosting learns from the release.

    At most 20,000 rows train it. None for a secret with one value, or more than 50 categories.
    """
    goal = encoding.codes(release, (secret,))[:, 0]
    rows = np.arange(len(goal))
    if len(goal) > _ROWS:
        rows = rng.choice(len(goal), size=_ROWS, replace=False)
    goal = goal[rows]
    values = len(np.unique(goal))
    if values < 2 or (not encoding.is_numeric(secret) and values > _MOST_CLASSES):
        return None
    given, asked = encoding.codes(release, known)[rows], encoding.codes(targets, known)
    seed = int(rng.integers(2**31))
    # Categories beyond what the trees can split on are taken as ordered codes.
    kinds = [
        not encoding.is_numeric(name) and len(encoding.categories[name]) < 255 for name in known
    ]
    model: Any
    if encoding.is_numeric(secret):
        model = HistGradientBoostingRegressor(
            max_iter=60, categorical_features=kinds, early_stopping=False, random_state=seed
        )
    else:
        model = HistGradientBoostingClassifier(
            max_iter=max(8, min(60, 300 // values)),
            categorical_features=kinds,
            early_stopping=False,
            random_state=seed,
        )
    # Unknown categories are missing values to the trees.
    given = np.where(given == -1.0, np.nan, given) if any(kinds) else given
    asked = np.where((asked == -1.0) & np.array(kinds), np.nan, asked)
    model.fit(given, goal)
    return np.asarray(model.predict(asked), dtype=np.float64)


def right(
    guesses: NDArray[np.float64],
    truth: NDArray[np.float64],
    *,
    numeric: bool,
    tolerance: float,
) -> NDArray[np.bool_]:
    """Which guesses (n,) are right: equal, or (numbers) within a share `tolerance` of the truth."""
    if not numeric:
        return np.asarray(guesses == truth)
    return np.asarray(np.abs(guesses - truth) <= tolerance * np.abs(truth) + 1e-12)
