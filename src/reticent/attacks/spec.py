"""What an attack is: its goal, the access it needs, and the two steps it takes.

An attack first fits on what its adversary may know, then scores candidates. It never sees the
truth about them; an evaluator in `reticent.audit` does, and says what the scores are worth.
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from reticent.errors import ConfigError, DataError
from reticent.guarantee import Pillar

Scores = NDArray[np.float64]
"""One number per candidate, (n,), higher where more leaked."""


class Access(IntEnum):
    """How much of the target an adversary sees; each level includes those before it."""

    BLIND = 0
    """Nothing but public facts: shape of a record, number of classes."""
    LABEL = 1
    """The predicted class."""
    SCORES = 2
    """The class probabilities."""
    SHADOW = 3
    """How the target was trained, and records to train models like it."""
    INTERNALS = 4
    """Gradients, features, what crossed the wire."""
    WEIGHTS = 5
    """Everything: the model's parameters."""

    @classmethod
    def parse(cls, text: str) -> Access:
        """The level that "L2", "2" or "scores" names. Raises `ConfigError` for anything else."""
        cleaned = text.strip().lower()
        number = cleaned.removeprefix("l")
        if number.isdigit() and int(number) < len(cls):
            return cls(int(number))
        named = {level.name.lower(): level for level in cls}
        if cleaned not in named:
            raise ConfigError(
                f"Expected an access level from L0 to L{len(cls) - 1} or one of {list(named)}, "
                f"got access={text!r}."
            )
        return named[cleaned]

    def __str__(self) -> str:
        return f"L{self.value} ({self.name.lower()})"


@dataclass(frozen=True, kw_only=True)
class AttackSpec:
    """What stands on an attack's label.

    `auxiliary` says in words what the adversary must have besides access; `queries` is the most
    records that it asks the target about (None: as many as there are candidates); `reference` is
    the paper, with its section or algorithm.
    """

    name: str
    pillar: Pillar
    goal: str
    access: Access
    auxiliary: str
    reference: str
    queries: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """Records with their public labels: x (n, ...) float32, y (n,) classes 0..C-1, users (n,).

    Raises `DataError` for NaN, wrong types, or lengths that differ.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    users: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if len(self.x) == 0 or self.x.ndim < 2:
            raise DataError(
                f"Expected x of shape (records, features...), got shape={self.x.shape}."
            )
        for name, values in (("y", self.y), ("users", self.users)):
            if values is None:
                continue
            if values.shape != (len(self.x),) or not np.issubdtype(values.dtype, np.integer):
                raise DataError(
                    f"Expected {name} as integers of shape ({len(self.x)},), "
                    f"got shape={values.shape}, dtype={values.dtype}."
                )
        if not np.isfinite(self.x).all():
            raise DataError("Expected finite records, got NaN or infinity in x. Drop those rows.")
        if self.y.min() < 0:
            raise DataError(f"Expected classes 0..C-1 in y, got {int(self.y.min())}.")

    def __len__(self) -> int:
        return len(self.x)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The records of all parts, in their order; with users where every part has them.

        Raises `DataError` for records of different shapes.
        """
        shapes = [part.x.shape[1:] for part in parts]
        if len(set(shapes)) > 1:
            raise DataError(f"Expected records of one shape, got {' and '.join(map(str, shapes))}.")
        users = [part.users for part in parts if part.users is not None]
        return cls(
            x=np.concatenate([part.x for part in parts]),
            y=np.concatenate([part.y for part in parts]),
            users=np.concatenate(users) if len(users) == len(parts) else None,
        )

    def take(self, rows: NDArray[Any]) -> Self:
        """The records at `rows` (indices, or a mask)."""
        users = None if self.users is None else self.users[rows]
        return type(self)(x=self.x[rows], y=self.y[rows], users=users)


Handle = TypeVar("Handle", contravariant=True)
Auxiliary = TypeVar("Auxiliary", contravariant=True)
Candidates = TypeVar("Candidates", bound=Sized, contravariant=True)
Verdicts = TypeVar("Verdicts", covariant=True)


class Fitted(Protocol[Handle, Candidates, Verdicts]):
    """An attack that has learnt what it can; it keeps no truth about candidates."""

    def score(self, target: Handle, candidates: Candidates) -> Verdicts:
        """What the attack says about each candidate."""


class Attack(Protocol[Handle, Auxiliary, Candidates, Verdicts]):
    """One attack: a statement (`spec`), and `fit`, which trains shadows or decoders.

    `Handle` is the class of `reticent.attacks.target` that gives the level `spec.access` and no
    more, so a peek above the level is a type error.
    """

    @property
    def spec(self) -> AttackSpec:
        """What stands on the label."""

    def fit(
        self, target: Handle, auxiliary: Auxiliary, *, seed: int
    ) -> Fitted[Handle, Candidates, Verdicts]:
        """The attack, ready to score; `seed` makes it repeatable."""
