"""Canaries: records made to be remembered, the worst case that an average hides.

An attack on ordinary records understates what the least lucky record risks (Aerni et al. 2024).
Canaries go into the training set before training, each with probability 1/2; attacks then score
all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.spec import Labelled
from reticent.errors import ConfigError
from reticent.random import seeded


@dataclass(frozen=True, kw_only=True, eq=False)
class Canaries:
    """Canary records, which of them to train on, (c,), and the rows they were made from, (c,)."""

    records: Labelled
    included: NDArray[np.bool_]
    rows: NDArray[np.int64]

    @property
    def members(self) -> Labelled:
        """Those to train on."""
        return self.records.take(self.included)

    @property
    def non_members(self) -> Labelled:
        """Those to keep out."""
        return self.records.take(~self.included)


def mislabelled(records: Labelled, *, count: int, classes: int, seed: int) -> Canaries:
    """`count` of the records with a label that is wrong, uniform over the other classes.

    Nothing but memory can give such a record its label.
    """
    if classes < 2:
        raise ConfigError(f"Expected two classes or more to mislabel, got classes={classes}.")
    rng = seeded(seed, 61)
    rows = _rows(records, count, rng)
    chosen = records.take(rows)
    wrong = (chosen.y + rng.integers(1, classes, size=count)) % classes
    users = chosen.users
    made = Labelled(x=chosen.x, y=wrong.astype(np.int64), users=users)
    return Canaries(records=made, included=rng.random(count) < 0.5, rows=rows)


def out_of_distribution(records: Labelled, *, count: int, classes: int, seed: int) -> Canaries:
    """`count` records whose features are each drawn from another record, with random labels.

    Every feature keeps its own distribution, so a range check lets them pass; together they lie
    off the data. `rows` are those whose users (if any) they take.
    """
    if classes < 2:
        raise ConfigError(f"Expected two classes or more to label with, got classes={classes}.")
    rng = seeded(seed, 62)
    rows = _rows(records, count, rng)
    flat = records.x.reshape(len(records), -1)
    picked = rng.integers(len(flat), size=(count, flat.shape[1]))
    x = np.take_along_axis(flat, picked, axis=0).reshape(count, *records.x.shape[1:])
    users = None if records.users is None else records.users[rows]
    made = Labelled(x=x, y=rng.integers(classes, size=count), users=users)
    return Canaries(records=made, included=rng.random(count) < 0.5, rows=rows)


def _rows(records: Labelled, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    if not 1 <= count <= len(records):
        raise ConfigError(f"Expected 1 to {len(records)} canaries, got count={count}.")
    return np.asarray(rng.permutation(len(records))[:count], dtype=np.int64)
