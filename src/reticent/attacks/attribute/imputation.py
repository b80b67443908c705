"""Imputation: a private attribute guessed from a person's other data, without any model.

The floor of every attribute inference from a model's outputs: what it reaches is correlation in
the population, which the adversary's own records teach (Jayaraman and Evans 2022, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.attribute.inference import AttributeScores, attack_attribute
from reticent.attacks.spec import Labelled
from reticent.attacks.view import Observed, ServerView
from reticent.errors import ConfigError, DataError
from reticent.random import seeded

FAMILIES = ("linear", "nearest", "boosting")
"""The attackers that impute; the same ones then get the model's outputs as well."""
_NAME = "attribute"


@dataclass(frozen=True, kw_only=True, eq=False)
class Sensitive:
    """Where the attribute stands in a flattened record, and what each value looks like there.

    `columns` (w,) are places in the record, `values` (k, w) their contents for value 0..k-1.
    """

    columns: tuple[int, ...]
    values: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.columns):
            raise ConfigError(
                f"Expected values of shape (values, {len(self.columns)}), got {self.values.shape}."
            )
        if len(self.values) < 2 or len(set(self.columns)) != len(self.columns):
            raise ConfigError(
                f"Expected two values or more and different columns, got {len(self.values)} "
                f"values, columns={self.columns}."
            )

    def fill(self, x: NDArray[np.float32], value: int) -> NDArray[np.float32]:
        """The records with the attribute set to `value`; the true one is overwritten."""
        flat = x.reshape(len(x), -1).copy()
        flat[:, list(self.columns)] = self.values[value]
        return flat.reshape(x.shape)

    def read(self, x: NDArray[np.float32]) -> NDArray[np.int64]:
        """The value (n,) that each record holds; `DataError` where it holds none."""
        held = x.reshape(len(x), -1)[:, list(self.columns)]
        apart = np.abs(held[:, None] - self.values[None]).max(axis=2)
        if (apart.min(axis=1) > 1e-4).any():
            raise DataError(
                f"Expected one of the {len(self.values)} stated values in columns "
                f"{self.columns} of each record, got others."
            )
        return np.asarray(apart.argmin(axis=1), dtype=np.int64)


def known_columns(people: Labelled, sensitive: Sensitive | None) -> NDArray[np.float32]:
    """What the adversary knows of each person, (n, d): the record without the attribute."""
    flat = people.x.reshape(len(people), -1)
    if sensitive is None:
        return flat
    return np.delete(flat, list(sensitive.columns), axis=1)


def impute(
    own: Labelled,
    attribute: NDArray[np.int64],
    people: Labelled,
    *,
    classes: int,
    sensitive: Sensitive | None = None,
    outputs: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None,
    families: Sequence[str] = FAMILIES,
    requests: Sequence[int] = (1,),
    seed: int,
) -> AttributeScores:
    """Scores for `people`, by attackers trained on two thirds of `own` and chosen on the rest.

    They know each person's record without the attribute, and its public label; with `outputs`
    (of `own` (n, d) and of `people` (t, d)) also what a model answered. `attribute` (n,) belongs
    to `own`. Raises `DataError` for fewer than 30 records.
    """
    if attribute.shape != (len(own),) or len(own) < 30:
        raise DataError(
            f"Expected the attribute of {len(own)} own records, and 30 of them or more, got "
            f"shape={attribute.shape}."
        )
    mixed = seeded(seed, 351).permutation(len(own))
    cut = 2 * len(own) // 3

    def part(
        records: Labelled, extra: NDArray[np.float32] | None, values: NDArray[np.int64]
    ) -> Observed:
        columns = known_columns(records, sensitive)
        if extra is not None:
            columns = np.hstack([columns, extra])
        return Observed(
            features=columns.astype(np.float32),
            predicted=records.y,
            inputs=columns,
            private={_NAME: values},
            users=records.users,
        )

    given = None if outputs is None else outputs[0]
    train, validation = (
        part(own.take(rows), None if given is None else given[rows], attribute[rows])
        for rows in (mixed[:cut], mixed[cut:])
    )
    view = ServerView(
        name="imputation" if outputs is None else "imputation with outputs",
        attacker_train=train,
        attacker_validation=validation,
        # The truth about the people is not here: nobody asks the attacked part for it.
        test=part(
            people,
            None if outputs is None else outputs[1],
            np.zeros(len(people), dtype=np.int64),
        ),
        classes=classes,
    )
    return attack_attribute(view, _NAME, seed=seed, families=families, requests=requests)
