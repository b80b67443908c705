"""Votes before noise: private counts in a type that neither prints nor turns into an array."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from reticent.errors import DataError


class PrivateVotes:
    """Vote counts, shape (questions, classes): what one teacher's records can move.

    They leave only through the mechanisms of `aggregation` and `sanitised`. The type guards
    against accidents (a log, a notebook, a pickle), not against code that means to look.
    """

    __slots__ = ("_counts", "classes", "teachers")

    def __init__(self, counts: NDArray[np.int64], *, teachers: int) -> None:
        counts = np.asarray(counts)
        if (
            counts.ndim != 2
            or counts.shape[1] < 2
            or counts.dtype.kind not in "iu"
            or (counts < 0).any()
            or (counts.sum(axis=1) != teachers).any()
        ):
            raise DataError(
                "Expected whole counts of shape (questions, classes >= 2) that sum to "
                f"teachers={teachers} in each row, got shape={counts.shape}, dtype={counts.dtype}."
            )
        self._counts = counts.astype(np.int64)
        self.teachers, self.classes = teachers, counts.shape[1]

    @classmethod
    def of(cls, labels: NDArray[np.integer], *, classes: int) -> PrivateVotes:
        """The counts of `labels`, shape (teachers, questions): each teacher's own choice.

        A label outside 0..classes-1 becomes class 0, so that no teacher, whatever its records,
        can stop the run or weigh more than one vote.
        """
        inside = np.where((labels >= 0) & (labels < classes), labels, 0).astype(np.int64)
        counts = np.zeros((labels.shape[1], classes), dtype=np.int64)
        for choice in inside:
            counts[np.arange(len(choice)), choice] += 1
        return cls(counts, teachers=len(labels))

    def __len__(self) -> int:
        return len(self._counts)

    def __repr__(self) -> str:
        return f"PrivateVotes(questions={len(self)}, teachers={self.teachers}, hidden)"

    def __reduce__(self) -> NoReturn:
        raise DataError("Expected private votes to stay in memory: they can't be pickled.")

    def __iter__(self) -> NoReturn:
        raise DataError("Expected votes to leave through a mechanism only: use `aggregation.ask`.")

    def one(self, row: int) -> PrivateVotes:
        """The votes on one question."""
        return PrivateVotes(self._counts[row : row + 1], teachers=self.teachers)


def counts_of(votes: PrivateVotes) -> NDArray[np.int64]:
    """The counts themselves, for the mechanisms of this package alone: private."""
    return votes._counts
