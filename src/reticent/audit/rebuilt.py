"""When a rebuilt record counts: nearer to the truth than anything the adversary had before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from reticent.attacks.finding import Finding, Interval
from reticent.attacks.spec import Labelled
from reticent.audit.similarity import psnr, ssim
from reticent.audit.statistics import CONFIDENCE, clopper_pearson
from reticent.errors import DataError
from reticent.guarantee import Pillar

METRIC = "records rebuilt"
SHARE = 0.1
"""A record counts as rebuilt when its squared error is below this share of the best prior guess's.

The best prior guess is an oracle's: of all records that the adversary has, and of their class
means, the one nearest to the truth (Balle, Cherubin and Hayes 2022, section 5, take the nearest
record). A tenth leaves no doubt which one was meant.
"""
_CEILING = 200.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Prior:
    """What the adversary has before it attacks: records (n, d) and the means of their classes."""

    records: NDArray[np.float64]
    means: Mapping[int, NDArray[np.float64]]

    @classmethod
    def of(cls, known: Labelled) -> Prior:
        """The prior that labelled records give."""
        flat = known.x.reshape(len(known), -1).astype(np.float64)
        labels = np.unique(known.y)
        return cls(
            records=flat,
            means={int(label): flat[known.y == label].mean(axis=0) for label in labels},
        )

    def guess(self, label: int) -> NDArray[np.float64]:
        """The class mean (d,), or the mean of all records for a class that is unknown."""
        found = self.means.get(label)
        return self.records.mean(axis=0) if found is None else found

    def reach(self, truth: NDArray[np.floating]) -> NDArray[np.float64]:
        """The squared error (n,) of the best prior guess at each true record (n, ...).

        Raises `DataError` where the adversary already has the record.
        """
        flat = truth.reshape(len(truth), -1).astype(np.float64)
        guesses = np.vstack([self.records, *self.means.values()])
        squared = (flat**2).sum(axis=1)[:, None] + (guesses**2).sum(axis=1)[None]
        nearest = (squared - 2 * flat @ guesses.T).argmin(axis=1)
        least = ((flat - guesses[nearest]) ** 2).sum(axis=1)
        if (least == 0).any():
            raise DataError(
                f"Expected records that the adversary doesn't have, but {int((least == 0).sum())} "
                "of them are among its own. Remove duplicates from the public records."
            )
        return np.asarray(least)


def pair(guess: NDArray[np.floating], truth: NDArray[np.floating]) -> NDArray[np.float64]:
    """The guesses (m, ...) in the order of the true records (n, ...) that they fit best, (n, d).

    One guess per record, by least total squared error; a record without a guess gets NaN.
    """
    flat, goal = guess.reshape(len(guess), -1), truth.reshape(len(truth), -1)
    placed = np.full(goal.shape, np.nan)
    if len(flat):
        apart = ((flat[:, None] - goal[None].astype(np.float64)) ** 2).sum(axis=2)
        rows, columns = linear_sum_assignment(apart)
        placed[columns] = flat[rows]
    return placed


def rebuilt(
    guess: NDArray[np.floating], truth: NDArray[np.floating], reach: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which guesses (n, ...) count against the truth (n, ...); one that is NaN never does."""
    apart = (guess.reshape(len(guess), -1) - truth.reshape(len(truth), -1).astype(np.float64)) ** 2
    return np.asarray(apart.sum(axis=1) < SHARE * reach)


def chance(
    guess: NDArray[np.floating], truth: NDArray[np.floating], reach: NDArray[np.float64]
) -> float:
    """The share of guesses that would count against a wrong truth, over all wrong pairings.

    Raises `DataError` for one record alone, which has no wrong pairing.
    """
    flat, goal = guess.reshape(len(guess), -1), truth.reshape(len(truth), -1).astype(np.float64)
    if len(flat) < 2:
        raise DataError("Expected two records or more, so that a wrong pairing exists, got 1.")
    counted = sum(
        int((((one[None] - goal) ** 2).sum(axis=1) < SHARE * reach).sum()) for one in flat
    )
    right = int(rebuilt(guess, truth, reach).sum())
    return (counted - right) / (len(flat) * (len(flat) - 1))


def independent_excess(
    hits: NDArray[np.bool_], others: NDArray[np.bool_]
) -> tuple[float, Interval]:
    """The share of hits minus the share among other records, with its interval.

    Conservative: Clopper-Pearson for each share at half the error (Bonferroni).
    """
    half = 1 - (1 - CONFIDENCE) / 2
    mine, theirs = (
        clopper_pearson(int(part.sum()), len(part), confidence=half) for part in (hits, others)
    )
    value = float(hits.mean() - others.mean())
    return value, (mine[0] - theirs[1], mine[1] - theirs[0])


def share_finding(
    hits: NDArray[np.bool_],
    *,
    floor: float,
    attack: str,
    adversary: str,
    ceiling: float | None,
    details: Mapping[str, Any],
) -> Finding:
    """The finding of an attack that rebuilt `hits` (n,), where chance gives `floor`.

    The floor is an average over n - 1 times as many pairings, so its own error is left out.
    """
    value, ci = float(hits.mean()), clopper_pearson(int(hits.sum()), len(hits))
    return Finding(
        attack=attack,
        pillar=Pillar.TRAINING_DATA,
        adversary=adversary,
        target="training record",
        metric=METRIC,
        value=value,
        ci=ci,
        floor=floor,
        excess=value - floor,
        excess_ci=(ci[0] - floor, ci[1] - floor),
        n=len(hits),
        ceiling=ceiling,
        details={"criterion": f"squared error below {SHARE} of the best prior guess's", **details},
    )


def closeness(
    guess: NDArray[np.floating], truth: NDArray[np.floating], *, spread: float
) -> dict[str, float]:
    """Medians of squared error, PSNR (dB, at most 200) and, for images, SSIM over the guesses."""
    flat = guess.reshape(truth.shape).astype(np.float64)
    there = np.isfinite(flat.reshape(len(flat), -1)).all(axis=1)
    found = {"guessed": float(there.mean())}
    if not there.any():
        return found
    mine, true = flat[there], truth[there].astype(np.float64)
    errors = ((mine - true) ** 2).reshape(len(mine), -1).mean(axis=1)
    found["median squared error per value"] = float(np.median(errors))
    peaks = np.minimum(psnr(mine, true, data_range=spread), _CEILING)
    found["median PSNR"] = float(np.median(peaks))
    found["worst PSNR"] = float(peaks.min())
    if truth.ndim == 4:
        found["median SSIM"] = float(np.median(ssim(mine, true, data_range=spread)))
    return found
