"""An exact test whether two error rates lie in the region of a claim, sharper than a rectangle.

`epsilon_lower_bound` bounds TPR and FPR each by itself, as if both were at their worst at once.
Here the two counts are tested together: the p-value is the greatest chance, over all pairs of rates
on the region's border, of counts at least as telling (Barnard 1945), the false-positive rate being
confined to an interval that is paid for (Berger & Boos 1994).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from reticent.audit.epsilon import Confusion
from reticent.audit.statistics import CONFIDENCE
from reticent.errors import ConfigError

Form = Literal["direct", "mirrored", "both"]
_CELLS = 256
_CONFINED = 0.02  # share of the error spent on confining the false-positive rate
_NEGLIGIBLE = 1e-9  # share of the error added for counts that are left out


def stronger_form(tpr: float, fpr: float, *, delta: float = 0.0) -> Form:
    """The form that shows the greater epsilon at these rates, which other records must give."""
    direct = max(tpr - delta, 0.0) * (1 - tpr)
    mirrored = max(1 - fpr - delta, 0.0) * fpr
    return "direct" if direct >= mirrored else "mirrored"


def sharp_epsilon_lower_bound(
    confusion: Confusion,
    *,
    delta: float = 0.0,
    confidence: float = CONFIDENCE,
    form: Form = "both",
) -> float:
    """The epsilon that the counts show at least, with `confidence`; 0 where they show nothing.

    `form` says what is tested: TPR <= e^epsilon FPR + delta ("direct"), 1 - FPR <= e^epsilon
    (1 - TPR) + delta ("mirrored"), or both at half the error each. Choose it, like the threshold,
    on other records: `epsilon_lower_bounds` there shows which form is the stronger. Valid for any
    sample size: the discretisation only errs towards a lower bound. Takes up to a second or two of
    CPU time.
    """
    if not 0 <= delta < 1 or not 0 < confidence < 1:
        raise ConfigError(
            f"Expected 0 <= delta < 1 and 0 < confidence < 1, got {delta=}, {confidence=}."
        )
    members, others = confusion.members, confusion.non_members
    level = (1 - confidence) / (2 if form == "both" else 1)
    tests = []
    if form != "mirrored":
        tests.append((confusion.tp, members, confusion.fp, others))
    if form != "direct":
        tests.append((confusion.tn, others, confusion.fn, members))
    return max(_BorderTest.of(*counts, delta, level).bound() for counts in tests)


@dataclass(frozen=True, kw_only=True, eq=False)
class _BorderTest:
    """Tests of hit rate <= e^epsilon * alarm rate + delta for every epsilon, at `level`.

    `needed[i]` hits are as telling beside `alarms[i]` alarms as the observed counts are.
    `edges` (cells + 1,) part the alarm rates that are taken into account.
    """

    trials: int
    quiet_trials: int
    delta: float
    level: float
    alarms: NDArray[np.int64]
    needed: NDArray[np.int64]
    edges: NDArray[np.float64]

    @classmethod
    def of(
        cls, hits: int, trials: int, alarms: int, quiet_trials: int, delta: float, level: float
    ) -> _BorderTest:
        """The test for `hits` of `trials` beside `alarms` of `quiet_trials`.

        Counts are ordered by the rectangle's own bound, which rises with hits and falls with
        alarms.
        """
        low, high = _limits(alarms, quiet_trials, _CONFINED * level)
        least, most = _window(low, high, quiet_trials, _NEGLIGIBLE * level)
        seen = np.arange(least, most + 1)
        lower = special.betaincinv(np.arange(1, trials + 1), np.arange(trials, 0, -1), level)
        lower = np.concatenate([[0.0], lower])
        upper = np.ones(len(seen))
        inside = seen < quiet_trials
        upper[inside] = special.betaincinv(seen[inside] + 1, quiet_trials - seen[inside], 1 - level)
        own = (
            1.0
            if alarms == quiet_trials
            else float(special.betaincinv(alarms + 1, quiet_trials - alarms, 1 - level))
        )
        ratio = max(0.0, float(lower[hits]) - delta) / own
        # A hair lower, so that rounding never leaves the observed counts out of their own tail.
        wanted = delta + ratio * upper * (1 - 1e-12)
        needed = np.searchsorted(lower, wanted, side="left") if ratio > 0 else np.zeros(len(seen))
        return cls(
            trials=trials,
            quiet_trials=quiet_trials,
            delta=delta,
            level=level,
            alarms=seen,
            needed=needed.astype(np.int64),
            edges=np.linspace(low, high, _CELLS + 1),
        )

    def bound(self) -> float:
        """The greatest epsilon that is refuted, to four digits; 0 where none is."""
        if not self.refutes(0.0):
            return 0.0
        low, high = 0.0, 1.0
        while self.refutes(high):
            low, high = high, 2 * high
        while high - low > 1e-4:
            middle = (low + high) / 2
            low, high = (middle, high) if self.refutes(middle) else (low, middle)
        return low

    def refutes(self, epsilon: float) -> bool:
        """Whether so telling counts have a chance of at most `level` under every pair of rates.

        In a cell of alarm rates the fewest alarms come from its lower end, the most hits from its
        upper end, so each cell's chance is over-, never understated.
        """
        rare, frequent = self.edges[:-1], self.edges[1:]
        rates = np.minimum(1.0, math.exp(min(epsilon, 700.0)) * frequent + self.delta)
        chances = _binomial_pmf(self.alarms, self.quiet_trials, rare)
        reached = _binomial_tail(self.needed, self.trials, rates)
        worst = float((chances * reached).sum(axis=1).max())
        return worst + (_CONFINED + 2 * _NEGLIGIBLE) * self.level <= self.level


def _limits(count: int, trials: int, error: float) -> tuple[float, float]:
    """The Clopper-Pearson interval of error `error` for `count` of `trials`."""
    low = 0.0 if count == 0 else float(special.betaincinv(count, trials - count + 1, error / 2))
    high = 1.0
    if count < trials:
        high = float(special.betaincinv(count + 1, trials - count, 1 - error / 2))
    return low, high


def _window(low: float, high: float, trials: int, error: float) -> tuple[int, int]:
    """The counts that rates from `low` to `high` give, but for a chance of `error` on each side."""
    counts = np.arange(trials + 1)
    below = _binomial_cdf(counts, trials, low)
    above = _binomial_cdf(counts, trials, high)
    least = int(np.searchsorted(below, error, side="right"))
    most = int(np.searchsorted(above, 1 - error, side="left"))
    return min(least, trials), min(most, trials)


def _binomial_cdf(counts: NDArray[np.int64], trials: int, rate: float) -> NDArray[np.float64]:
    return np.asarray(special.bdtr(counts, trials, rate), dtype=np.float64)


def _binomial_pmf(
    counts: NDArray[np.int64], trials: int, rates: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Chances (rates, counts)."""
    ways = special.gammaln(trials + 1) - special.gammaln(counts + 1)
    ways -= special.gammaln(trials - counts + 1)
    logs = ways + special.xlogy(counts, rates[:, None])
    logs += special.xlog1py(trials - counts, -rates[:, None])
    return np.asarray(np.exp(logs), dtype=np.float64)


def _binomial_tail(
    needed: NDArray[np.int64], trials: int, rates: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Chances (rates, needed) of `needed` or more; 1 where none is needed, 0 above `trials`."""
    counts, place = np.unique(needed, return_inverse=True)
    inner = np.clip(counts, 1, trials)
    tails = special.betainc(inner, trials - inner + 1, rates[:, None])
    tails = np.where(counts < 1, 1.0, np.where(counts > trials, 0.0, tails))
    return np.asarray(tails[:, place], dtype=np.float64)
