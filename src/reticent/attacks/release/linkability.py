"""Linkability: two parts of a person's columns that a release ties together.

WP29 Opinion 05/2014 (section 2.2.2): the ability to link at least two records of one person. The
adversary holds two lists, each with some of the columns, and links an entry of one to an entry of
the other when both lie next to the same row of the release.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.release.neighbours import nearest
from reticent.attacks.release.table import Columns, Encoding
from reticent.errors import ConfigError


def linked(
    release: Columns,
    targets: Columns,
    encoding: Encoding,
    *,
    parts: tuple[Sequence[str], Sequence[str]],
    neighbours: int,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Which targets (n,) have a release row among the nearest of both `parts` of their columns.

    Raises `ConfigError` where the parts share a column or one is empty.
    """
    first, second = (tuple(part) for part in parts)
    if not first or not second or set(first) & set(second):
        raise ConfigError(
            f"Expected two parts without a common column, got parts={(first, second)}."
        )
    found = [
        nearest(encoding.points(targets, names), encoding.points(release, names), neighbours, rng)[
            0
        ]
        for names in (first, second)
    ]
    return np.asarray((found[0][:, :, None] == found[1][:, None, :]).any(axis=(1, 2)))


def by_chance(rows: int, neighbours: int) -> float:
    """The probability that two independent draws of `neighbours` out of `rows` rows meet."""
    drawn = min(neighbours, rows)
    missed = 1.0
    for index in range(drawn):
        missed *= max(0, rows - drawn - index) / (rows - index)
    return 1.0 - missed
