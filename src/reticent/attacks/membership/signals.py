"""What a model's answers say about a record: margin, confidence, loss, all in float64.

The margin is log p_y - log(sum of the other classes' p), the scaled logit of LiRA (Carlini et al.
2022, section V.C). It is computed from log-probabilities by log-sum-exp: as log(p / (1 - p)) of
float32 probabilities every confident answer would collapse to infinity.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from reticent.errors import DataError

FLOOR = -60.0
"""Log-probabilities below this count as this. Trees answer 0, whose logarithm says nothing."""

Rows = NDArray[np.int64]
_ELEMENTS = 4_000_000


class Bank(Protocol):
    """Answers (N, n + z, C) of N models to pool and population, with who trained on what (N, n)."""

    @property
    def log_probabilities(self) -> NDArray[np.float32]:
        """Log-probabilities (N, n + z, C)."""

    @property
    def member(self) -> NDArray[np.bool_]:
        """Which pool rows each model trained on, (N, n)."""

    @property
    def y(self) -> NDArray[np.int64]:
        """Labels (n + z,) of pool, then population."""


def log_confidence(log_probabilities: NDArray[Any], y: Rows) -> NDArray[np.float64]:
    """The log-probability (..., n) of each record's label, from answers (..., n, C).

    Raises `DataError` where labels and answers don't fit or an answer is NaN.
    """
    _check(log_probabilities, y)
    picked = np.take_along_axis(log_probabilities, _index(log_probabilities, y), axis=-1)[..., 0]
    return np.maximum(picked.astype(np.float64), FLOOR)


def margin(log_probabilities: NDArray[Any], y: Rows) -> NDArray[np.float64]:
    """log p_y - log(sum over the other classes of p), (..., n) from answers (..., n, C)."""
    _check(log_probabilities, y)
    logs = log_probabilities.astype(np.float64)
    index = _index(logs, y)
    own = np.maximum(np.take_along_axis(logs, index, axis=-1)[..., 0], FLOOR)
    np.put_along_axis(logs, index, -np.inf, axis=-1)
    top = logs.max(axis=-1)
    logs -= top[..., None]
    others = top + np.log(np.exp(logs, out=logs).sum(axis=-1))
    return np.asarray(own - np.maximum(others, FLOOR))


@dataclass(frozen=True, kw_only=True, eq=False)
class Signals:
    """Margins and log-confidences (..., n + z) of one model or several on pool, then population.

    `pool` is n, the number of candidates; the other columns are records z that no model trained on.
    """

    margin: NDArray[np.float64]
    log_confidence: NDArray[np.float64]
    pool: int

    @classmethod
    def of_answers(cls, log_probabilities: NDArray[Any], y: Rows, *, pool: int) -> Self:
        """The signals of answers (..., n + z, C) to records labelled y (n + z,)."""
        if not 0 < pool <= len(y):
            raise DataError(f"Expected a pool of 1 to {len(y)} records, got pool={pool}.")
        if log_probabilities.ndim == 2:
            made = margin(log_probabilities, y), log_confidence(log_probabilities, y)
            return cls(margin=made[0], log_confidence=made[1], pool=pool)
        shape = log_probabilities.shape[:2]
        margins, confidences = np.empty(shape), np.empty(shape)
        step = max(1, _ELEMENTS // max(1, int(np.prod(log_probabilities.shape[1:]))))
        for start in range(0, shape[0], step):
            part = log_probabilities[start : start + step]
            margins[start : start + step] = margin(part, y)
            confidences[start : start + step] = log_confidence(part, y)
        return cls(margin=margins, log_confidence=confidences, pool=pool)

    @property
    def candidates(self) -> NDArray[np.float64]:
        """Margins on the pool (..., n)."""
        return self.margin[..., : self.pool]


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Count, mean and sum of squared deviations per record: row 0 trained without it, 1 with it."""

    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64], member: NDArray[np.bool_]) -> Self:
        """The moments (2, n) of values (N, n); a mean without values is NaN."""
        inside = member.astype(np.float64)
        count = np.empty((2, values.shape[1]))
        total = np.empty_like(count)
        count[1] = inside.sum(axis=0)
        count[0] = len(values) - count[1]
        total[1] = np.einsum("ij,ij->j", values, inside)
        total[0] = values.sum(axis=0) - total[1]
        mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
        apart = np.where(member, mean[1], mean[0])
        np.subtract(values, apart, out=apart)
        np.square(apart, out=apart)
        squares = np.empty_like(count)
        squares[1] = np.einsum("ij,ij->j", apart, inside)
        squares[0] = np.einsum("ij,ij->j", apart, 1 - inside)
        return cls(count=count, mean=mean, squares=squares)


@dataclass(frozen=True, kw_only=True, eq=False)
class References:
    """Signals (N, n + z) of N reference models and which pool rows each trained on, (N, n)."""

    signals: Signals
    member: NDArray[np.bool_]

    def __post_init__(self) -> None:
        expected = (self.signals.margin.shape[0], self.signals.pool)
        if self.member.shape != expected or self.member.dtype != np.bool_:
            raise DataError(
                f"Expected member as booleans of shape {expected}, got "
                f"shape={self.member.shape}, dtype={self.member.dtype}."
            )

    @classmethod
    def of_bank(cls, bank: Bank) -> Self:
        """The signals of a bank of shadow models."""
        member = bank.member
        signals = Signals.of_answers(bank.log_probabilities, bank.y, pool=member.shape[1])
        return cls(signals=signals, member=member)

    def __len__(self) -> int:
        return len(self.member)

    @cached_property
    def moments(self) -> Moments:
        """The moments of the candidates' margins, which several scorers share."""
        return Moments.of(self.signals.candidates, self.member)

    @cached_property
    def confidences(self) -> NDArray[np.float64]:
        """Mean confidence of each candidate, (2, n): row 0 trained without it, 1 with it, or NaN.

        Exponentials are most of the work. They are taken and summed in float32, four times as
        fast and about as exact as a bank keeps its answers.
        """
        found = np.exp(self.signals.log_confidence[:, : self.signals.pool].astype(np.float32))
        inside, each = self.member.astype(np.float32), np.ones(len(self), np.float32)
        count = np.empty((2, found.shape[1]))
        total = np.empty_like(count)
        count[1] = each @ inside
        count[0] = len(self) - count[1]
        total[1] = np.einsum("ij,ij->j", found, inside)
        total[0] = each @ found - total[1]
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)

    def target(self, model: int) -> Signals:
        """Model `model` in the part of a target."""
        return Signals(
            margin=self.signals.margin[model],
            log_confidence=self.signals.log_confidence[model],
            pool=self.signals.pool,
        )

    def take(self, models: NDArray[Any]) -> References:
        """The models at `models` (indices, or a mask) only."""
        signals = Signals(
            margin=self.signals.margin[models],
            log_confidence=self.signals.log_confidence[models],
            pool=self.signals.pool,
        )
        return References(signals=signals, member=self.member[models])

    def without(self, model: int) -> References:
        """All models but `model`, the references of a shadow target."""
        return self.take(np.delete(np.arange(len(self)), model))


def _index(log_probabilities: NDArray[Any], y: Rows) -> NDArray[np.int64]:
    shape = (1,) * (log_probabilities.ndim - 2) + (len(y), 1)
    return np.broadcast_to(y.astype(np.int64).reshape(shape), (*log_probabilities.shape[:-1], 1))


def _check(log_probabilities: NDArray[Any], y: Rows) -> None:
    if log_probabilities.ndim < 2 or log_probabilities.shape[-2] != len(y):
        raise DataError(
            f"Expected answers of shape (..., {len(y)}, classes), got "
            f"shape={log_probabilities.shape}."
        )
    classes = log_probabilities.shape[-1]
    if classes < 2 or y.min() < 0 or y.max() >= classes:
        raise DataError(
            f"Expected two classes or more and labels below their number, got classes={classes}, "
            f"labels {int(y.min())}..{int(y.max())}."
        )
    if np.isnan(log_probabilities).any():
        raise DataError("Expected log-probabilities, got NaN.")
