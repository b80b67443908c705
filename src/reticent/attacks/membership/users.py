"""Membership of a whole user: one score from the scores of all its records."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.spec import Scores
from reticent.errors import DataError

Aggregation = Literal["sum", "mean"]


def user_scores(
    scores: Scores, users: NDArray[np.int64], *, how: Aggregation
) -> tuple[NDArray[np.int64], Scores]:
    """Users (u,) ascending, and the sum or mean of each one's scores, (u,).

    The sum of log-likelihood ratios is the best test where a user's records are independent given
    membership; the mean serves scores on other scales, and users with unequal numbers of records.
    """
    if users.shape != scores.shape:
        raise DataError(
            f"Expected one user per score, got scores={scores.shape}, users={users.shape}."
        )
    names, owner = np.unique(users, return_inverse=True)
    total = np.zeros(len(names))
    np.add.at(total, owner, scores)
    if how == "mean":
        total /= np.bincount(owner, minlength=len(names))
    return names, total
