"""What an auditor brings to a finished model: records, who was a member, what is claimed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.spec import Labelled
from reticent.attacks.target import Victim
from reticent.data.task import Kind, Task
from reticent.errors import ConfigError, DataError
from reticent.guarantee import Adversary, DifferentialPrivacy, Guarantee, Pillar

# Fewer than this on either side resolves no error rate that anybody would act on.
FEWEST = 30
ANYONE = Adversary(
    name="anyone", sees="the model or its answers", knows="all records but the one in question"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """Records by their part in the training of the model under audit.

    `members` were trained on and `non_members`, from the same population, were not; this is the
    truth that attacks never see. `population` are further records that an adversary may own: for
    reference models, transfer queries and decoders. `private` maps a private attribute to its
    values over members, non-members and population, in this order. `dropped` non-members equalled
    a member and were left out. Raises `DataError` for fewer than 30 records on either side, and for
    records that stand on both.
    """

    members: Labelled
    non_members: Labelled
    population: Labelled | None = None
    private: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    dropped: int = 0

    def __post_init__(self) -> None:
        refuse_few(self.members, self.non_members)
        shapes = {part.x.shape[1:] for part in self.parts}
        if len(shapes) > 1:
            raise DataError(f"Expected records of one shape, got {sorted(shapes)}.")
        _refuse_doubles(self.members, self.non_members)
        for name, values in self.private.items():
            if values.shape != (len(self),) or not np.issubdtype(values.dtype, np.integer):
                raise DataError(
                    f"Expected private attribute {name!r} as integers of shape ({len(self)},), "
                    f"got shape={values.shape}, dtype={values.dtype}."
                )

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def parts(self) -> tuple[Labelled, ...]:
        """Members, non-members, and the population where there is one."""
        if self.population is None:
            return (self.members, self.non_members)
        return (self.members, self.non_members, self.population)

    def attribute(self, name: str, part: int) -> NDArray[np.int64]:
        """The private attribute `name` over `parts[part]`."""
        start = sum(len(other) for other in self.parts[:part])
        return self.private[name][start : start + len(self.parts[part])]

    def fits(self, victim: Victim) -> None:
        """Raise `DataError` where the model takes other records or has fewer classes."""
        if self.members.x.shape[1:] != victim.shape:
            raise DataError(
                f"Expected records of shape {victim.shape}, which the model takes, got "
                f"{self.members.x.shape[1:]}."
            )
        most = max(int(part.y.max()) for part in self.parts)
        if most >= victim.classes:
            raise DataError(
                f"Expected labels 0..{victim.classes - 1}, one per output of the model, got {most}."
            )

    @classmethod
    def of_task(
        cls,
        task: Task,
        *,
        members: NDArray[Any],
        non_members: NDArray[Any],
        population: NDArray[Any] | None = None,
    ) -> Material:
        """The material in a task, from the rows (indices, or masks) of each part.

        Non-members that equal a member record are left out, and counted in `dropped`.
        """
        if task.kind is not Kind.CLASSIFICATION:
            raise ConfigError(
                f"Expected a classification task, got kind={task.kind.value!r}: audits of finished "
                "models attack class probabilities."
            )
        rows = {
            name: _rows(name, chosen, len(task))
            for name, chosen in (
                ("members", members),
                ("non_members", non_members),
                ("population", population),
            )
            if chosen is not None
        }
        order = np.concatenate(list(rows.values()))
        if len(np.unique(order)) < len(order):
            raise DataError("Expected disjoint rows of members, non-members and population.")
        doubled = _doubled(task.x[rows["members"]], task.x[rows["non_members"]])
        rows["non_members"] = rows["non_members"][~doubled]
        order = np.concatenate(list(rows.values()))
        parts = {name: _labelled(task, chosen) for name, chosen in rows.items()}
        private = {name: values[order] for name, values in task.private.items()}
        return cls(**parts, private=private, dropped=int(doubled.sum()))


def refuse_few(members: Labelled, non_members: Labelled) -> None:
    """Raise `DataError` for fewer than `FEWEST` records on either side."""
    for name, part in (("members", members), ("non_members", non_members)):
        if len(part) < FEWEST:
            raise DataError(
                f"Expected {FEWEST} or more records in {name}, got {len(part)}: no error rate "
                "could be resolved."
            )


def parse_claim(text: str) -> Guarantee:
    """The differential-privacy claim in "epsilon=3,delta=1e-5" (with "unit=user" where so)."""
    values = dict(part.partition("=")[::2] for part in text.replace(" ", "").split(","))
    unknown = sorted(set(values) - {"epsilon", "delta", "unit"})
    try:
        epsilon, delta = float(values["epsilon"]), float(values.get("delta", "0"))
    except (KeyError, ValueError):
        epsilon = delta = float("nan")
    if unknown or not (0 <= epsilon < float("inf") and 0 <= delta < 1):
        raise ConfigError(
            f"Expected a claim such as epsilon=3,delta=1e-5 or epsilon=3,unit=user, got "
            f"claim={text!r}."
        )
    return Guarantee(
        id="training/claimed-dp",
        pillar=Pillar.TRAINING_DATA,
        adversary=ANYONE,
        strength=DifferentialPrivacy(
            epsilon=epsilon,
            delta=delta,
            neighboring_relation="add or remove one",
            unit=values.get("unit", "record"),
        ),
        mechanism="as claimed by the provider",
        assumptions=("the training procedure is the one that was analysed",),
        source="the provider's statement",
    )


def _rows(name: str, chosen: NDArray[Any], count: int) -> NDArray[np.int64]:
    rows = np.asarray(chosen)
    if rows.dtype == np.bool_:
        if rows.shape != (count,):
            raise DataError(f"Expected {name} as a mask of shape ({count},), got {rows.shape}.")
        return np.flatnonzero(rows)
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
        raise DataError(
            f"Expected {name} as row indices or as a mask, got shape={rows.shape}, "
            f"dtype={rows.dtype}."
        )
    if len(rows) and (rows.min() < 0 or rows.max() >= count):
        raise DataError(f"Expected {name} within 0..{count - 1}, got {rows.min()}..{rows.max()}.")
    return rows.astype(np.int64)


def _labelled(task: Task, rows: NDArray[np.int64]) -> Labelled:
    users = None if task.users is None else task.users[rows]
    return Labelled(x=task.x[rows], y=task.public[rows].astype(np.int64), users=users)


def _doubled(members: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of `others` equal a member, (n,): such a record has no truth to be measured against."""
    seen = {row.tobytes() for row in np.ascontiguousarray(members)}
    return np.array([row.tobytes() in seen for row in np.ascontiguousarray(others)], dtype=np.bool_)


def _refuse_doubles(members: Labelled, non_members: Labelled) -> None:
    both = int(_doubled(members.x, non_members.x).sum())
    if both:
        raise DataError(
            f"Expected members and non-members to be different records, got {both} on both sides. "
            "Drop them from the non-members."
        )
