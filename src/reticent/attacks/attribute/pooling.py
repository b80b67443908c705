"""Groups of requests that one user sent: what a server pools."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reticent.random import seeded

_GROUPS_PER_USER = 6
_MOST_GROUPS = 6_000


@dataclass(frozen=True, kw_only=True)
class Groups:
    """`members` (g, m): row indices, m different records of one user in each row.

    `left_out` counts users with fewer than m records, whose records are in no group.
    """

    members: NDArray[np.int64]
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.members)

    @property
    def requests(self) -> int:
        """How many requests m are pooled."""
        return int(self.members.shape[1])

    def pool(self, log_posteriors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pooled log-posteriors (g, k) up to a constant, from those of single records (n, k).

        Under the uniform prior that all attackers here are trained for, adding log-posteriors
        and subtracting (m - 1) log priors is adding them: the prior is a constant.
        """
        return np.asarray(log_posteriors[self.members].sum(axis=1))


def singles(count: int) -> Groups:
    """Every record alone: m = 1."""
    return Groups(members=np.arange(count)[:, None])


def pooled(users: NDArray[np.int64], requests: int, *, seed: int) -> Groups:
    """Groups of `requests` different records per user, every record in at least one group.

    Records of a user are shuffled and cut into groups, the last one filled up with others of the
    same user; this repeats until a user has at least 6 groups (fewer where all users together
    would exceed 6,000). Never looks at labels or attributes.
    """
    if requests == 1:
        return singles(len(users))
    rng = seeded(seed, 71, requests)
    rows_of = [np.flatnonzero(users == user) for user in np.unique(users)]
    enough = [rows for rows in rows_of if len(rows) >= requests]
    most = max(1, _MOST_GROUPS // max(len(enough), 1))
    members: list[NDArray[np.int64]] = []
    for rows in enough:
        per_round = -(-len(rows) // requests)
        rounds = max(1, -(-min(_GROUPS_PER_USER, most) // per_round))
        if per_round == 1 and len(rows) == requests:
            rounds = 1
        for _ in range(rounds):
            shuffled = rng.permutation(rows)
            missing = per_round * requests - len(rows)
            filled = np.concatenate([shuffled, shuffled[:missing]])
            members.extend(filled.reshape(per_round, requests))
    stacked = np.array(members, dtype=np.int64).reshape(-1, requests)
    return Groups(members=stacked, left_out=len(rows_of) - len(enough))
