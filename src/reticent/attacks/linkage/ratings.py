"""Sparse ratings: who rated which item how, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from reticent.errors import DataError
from reticent.random import seeded


@dataclass(frozen=True, kw_only=True, eq=False)
class Ratings:
    """One row per user, compressed: user u's entries are `starts[u]` to `starts[u + 1]`.

    `items` (z,) int64, `values` (z,) float64 and `days` (z,) int64 (None where times are not
    known); `width` is the number of items. Made by `of_triplets`.
    """

    starts: NDArray[np.int64]
    items: NDArray[np.int64]
    values: NDArray[np.float64]
    days: NDArray[np.int64] | None
    width: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    @classmethod
    def of_triplets(
        cls,
        users: NDArray[np.integer[Any]],
        items: NDArray[np.integer[Any]],
        values: NDArray[Any],
        days: NDArray[np.integer[Any]] | None = None,
        *,
        count: int | None = None,
        width: int | None = None,
    ) -> Self:
        """Ratings from parallel arrays (z,), for `count` users and `width` items.

        Raises `DataError` for lengths that differ, negative indices, values that are not finite,
        or two ratings of one item by one user.
        """
        lengths = {len(part) for part in (users, items, values, days) if part is not None}
        if len(lengths) != 1 or 0 in lengths:
            raise DataError(f"Expected arrays of one length >= 1, got lengths={sorted(lengths)}.")
        high, wide = int(users.max()) + 1, int(items.max()) + 1
        count, width = high if count is None else count, wide if width is None else width
        if min(int(users.min()), int(items.min())) < 0 or high > count or wide > width:
            raise DataError(
                f"Expected users in 0..{count - 1} and items in 0..{width - 1}, got users up to "
                f"{high - 1}, items up to {wide - 1}, least {min(users.min(), items.min())}."
            )
        if not np.isfinite(values).all():
            raise DataError("Expected finite ratings, got NaN or infinity.")
        keys = users.astype(np.int64) * width + items
        order = np.argsort(keys, kind="stable")
        if (np.diff(keys[order]) == 0).any():
            raise DataError("Expected one rating an item and user, got several. Keep the last.")
        return cls(
            starts=np.concatenate([[0], np.cumsum(np.bincount(users, minlength=count))]),
            items=items[order].astype(np.int64),
            values=np.asarray(values, dtype=np.float64)[order],
            days=None if days is None else days[order].astype(np.int64),
            width=width,
        )

    def take(self, users: NDArray[np.int64]) -> Self:
        """The ratings of `users` (indices), in that order."""
        sizes = np.diff(self.starts)[users]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        rows = np.arange(starts[-1]) + np.repeat(self.starts[:-1][users] - starts[:-1], sizes)
        return type(self)(
            starts=starts,
            items=self.items[rows],
            values=self.values[rows],
            days=None if self.days is None else self.days[rows],
            width=self.width,
        )

    def support(self) -> NDArray[np.int64]:
        """How many users rated each item, (width,)."""
        return np.bincount(self.items, minlength=self.width)


def synthetic_ratings(
    users: int, items: int, *, mean: float = 60.0, days: int = 2_000, seed: int = 0
) -> Ratings:
    """SYNTHETIC ratings 1 to 5 with days: popular and rare items, busy and idle users.

    Items are rated in proportion to 1 / (rank + 10), users rate a log-normal number of them
    (`mean` on average before repeats are dropped), in a stretch of their own, by taste.
    """
    rng = seeded(seed, 311)
    popularity = 1.0 / (np.arange(items) + 10.0)
    counts = rng.lognormal(np.log(mean) - 0.5, 1.0, size=users).astype(np.int64)
    counts = np.clip(counts, 3, items // 2)
    owner = np.repeat(np.arange(users), counts)
    item = np.searchsorted(
        np.cumsum(popularity) / popularity.sum(), rng.random(len(owner)), side="right"
    )
    keys = np.unique(owner * items + np.minimum(item, items - 1))
    owner, item = np.divmod(keys, items)
    taste, nature = rng.normal(size=(users, 3)), rng.normal(size=(items, 3))
    liking = 3.5 + 0.6 * np.einsum("ij,ij->i", taste[owner], nature[item])
    liking += 0.7 * rng.normal(size=len(keys))
    first, span = rng.integers(days, size=users), rng.integers(30, days, size=users)
    when = (first[owner] + (span[owner] * rng.random(len(keys))).astype(np.int64)) % days
    return Ratings.of_triplets(
        owner, item, np.clip(np.round(liking), 1, 5), when, count=users, width=items
    )
