"""A lower bound on epsilon from one training run: each of m canaries is in or out by a fair coin.

The auditor tosses the coins, the attacker guesses those it is sure of, and the number of right
guesses refutes every epsilon that makes so many unlikely. Two bounds: Steinke, Nasr & Jagielski
2023 (any (epsilon, delta)-private procedure), and Mahloujifar, Melis & Chaudhuri 2024 (a given
trade-off curve: that of (epsilon, delta), or a Gaussian one, stronger where it is the true one).
Both speak of adding or removing one canary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from reticent.attacks.finding import Finding
from reticent.audit.epsilon import epsilon_finding, gaussian_epsilon, judge_bound
from reticent.audit.statistics import CONFIDENCE
from reticent.errors import ConfigError, DataError
from reticent.guarantee import DifferentialPrivacy, Guarantee
from reticent.random import seeded

Train = Callable[[NDArray[np.bool_]], ArrayLike]
"""Trains with the canaries where the mask (m,) is true; returns m scores, higher where in."""
BlowUpInverse = Callable[[float], float]
"""The inverse of a mechanism's blow-up 1 - f: the least FPR at which a TPR can be reached."""

SHARES = (0.02, 0.1, 0.5)
_LIMIT = 512.0
_STEPS = 40


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """How many canaries there were, on how many the attacker staked a guess, how many were right.

    Which ones it guesses may depend on all scores; how many it guesses must not.
    """

    canaries: int
    made: int
    correct: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.made <= self.canaries or self.made < 1:
            raise ConfigError(f"Expected 0 <= correct <= made <= canaries, made >= 1, got {self}.")

    @classmethod
    def of(
        cls, scores: ArrayLike, included: NDArray[np.bool_], *, high: int, low: int = 0
    ) -> Guesses:
        """The `high` highest of m scores guessed in, the `low` lowest guessed out.

        Ties fall by position, which the coins know nothing of.
        """
        values = np.asarray(scores, dtype=np.float64)
        if values.shape != included.shape or np.isnan(values).any():
            raise DataError(
                f"Expected {included.shape[0]} scores without NaN, got shape={values.shape}, "
                f"NaN: {int(np.isnan(values).sum())}."
            )
        if min(high, low) < 0 or not 0 < high + low <= len(values):
            raise ConfigError(f"Expected 1 to {len(values)} guesses, got high={high}, low={low}.")
        order = np.argsort(-values, kind="stable")
        right = int(included[order[:high]].sum())
        right += int((~included[order[len(order) - low :]]).sum())
        return cls(canaries=len(values), made=high + low, correct=right)

    @property
    def perfect(self) -> Guesses:
        """As many guesses, all of them right."""
        return Guesses(canaries=self.canaries, made=self.made, correct=self.made)

    def p_value(self, *, epsilon: float, delta: float = 0.0) -> float:
        """How likely an (epsilon, delta)-private procedure allows so many right guesses, at most.

        The lesser of two limits of one probability, so nothing is paid for taking it. Steinke et
        al. 2023, theorem 5.2: f(v) + 2 m delta max_i (f(v - i) - f(v)) / i, where f(v) is the
        chance that Binomial(made, e^epsilon / (1 + e^epsilon)) reaches v. And `allows` for the
        trade-off curve of (epsilon, delta), far less where many canaries meet a large delta.
        """
        limit = self._tail(_binomials(self.made, self.correct), epsilon, delta)
        inverse = approximate_inverse(epsilon, delta)
        if self.allows(inverse, level=limit):
            return limit
        low, high = 0.0, limit
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.allows(inverse, level=middle) else (low, middle)
        return high

    def epsilon(self, *, delta: float = 0.0, confidence: float = CONFIDENCE) -> float:
        """The greatest epsilon that `p_value` refutes with `confidence`; 0 where it refutes none.

        The p-value is valid at every epsilon from the true one on and falls as `correct` grows, so
        the bound is above the true epsilon with probability 1 - confidence at most.
        """
        level, coefficients = 1 - confidence, _binomials(self.made, self.correct)

        def refuted_by_tail(epsilon: float) -> bool:
            return self._tail(coefficients, epsilon, delta) <= level

        def refuted_by_curve(epsilon: float) -> bool:
            return not self.allows(approximate_inverse(epsilon, delta), level=level)

        return max(_largest(refuted_by_tail), _largest(refuted_by_curve) if delta > 0 else 0.0)

    def mu(self, *, confidence: float = CONFIDENCE) -> float:
        """The greatest mu of Gaussian differential privacy that `allows` refutes, at least 0."""
        return _largest(lambda mu: not self.allows(_gaussian_inverse(mu), level=1 - confidence))

    def allows(self, inverse: BlowUpInverse, *, level: float) -> bool:
        """Whether f-differential privacy allows so many right guesses with probability `level`.

        Mahloujifar et al. 2024, theorem 9 and algorithm 3. Let W be the number of right guesses of
        c on m canaries, and take the event "canary I, drawn at random, is guessed right and
        W >= j". Turning the coin of I makes the same outputs a wrong guess on I with W >= j - 1.
        With a_j = E[W; W >= j] / m and b_j = E[c - W; W >= j] / m, f-differential privacy
        therefore says b_{j-1} >= inverse(a_j). Start from P[W >= correct] = level, take the least
        mass that each step forces on j - 1, and see whether all of it fits into 1.
        """
        a = level * self.correct / self.canaries
        b = level * (self.made - self.correct) / self.canaries
        whole = self.made / self.canaries
        for below in range(self.correct - 1, -1, -1):
            forced = inverse(a)
            if forced <= b:
                return True  # No further mass is forced, here or lower down.
            a += below / (self.made - below) * (forced - b)
            b = forced
            if a + b > whole:
                return False
        return a + b <= whole

    def _tail(self, coefficients: NDArray[np.float64], epsilon: float, delta: float) -> float:
        if epsilon < 0 or not 0 <= delta < 1:
            raise ConfigError(
                f"Expected epsilon >= 0 and 0 <= delta < 1, got epsilon={epsilon}, delta={delta}."
            )
        if self.correct == 0:
            return 1.0
        share = special.expit(epsilon)
        reached = float(special.betainc(self.correct, self.made - self.correct + 1, share))
        if delta == 0:
            return reached
        # log P[W = correct - i] for i = 1, 2, ...
        wins = np.arange(self.correct - 1, -1, -1)
        logs = coefficients - wins * np.log1p(np.exp(-epsilon))
        logs -= (self.made - wins) * np.logaddexp(0.0, epsilon)
        nearby = np.cumsum(np.exp(logs))
        slope = float((nearby / np.arange(1, len(wins) + 1)).max())
        return min(1.0, reached + 2 * self.canaries * delta * slope)


def approximate_inverse(epsilon: float, delta: float) -> BlowUpInverse:
    """The inverse blow-up of (epsilon, delta)-differential privacy, for `Guesses.allows`."""
    grown, shrunk = math.exp(epsilon), math.exp(-epsilon)

    def inverse(tpr: float) -> float:
        return max(0.0, (tpr - delta) * shrunk, 1 - delta - grown * (1 - tpr))

    return inverse


def audit_procedure(
    train: Train,
    canaries: int,
    *,
    adversary: str,
    target: str,
    delta: float | None = None,
    guarantee: Guarantee | None = None,
    gaussian: bool = False,
    control: Train | None = None,
    runs: int = 1,
    shares: Sequence[float] = SHARES,
    one_sided: bool = False,
    confidence: float = CONFIDENCE,
    seed: int,
) -> tuple[Finding, ...]:
    """What `train` gives away about `canaries` records that are in or out by a fair coin each.

    Only this function sees the coins; the floor is 0 because no attacker knows them. Two findings:
    the bound that holds for any procedure, and the one for a Gaussian trade-off curve, judged
    against the claim only if `gaussian` says that the claim's mechanism has one (a full-batch
    Gaussian mechanism has; DP-SGD with sampling only nearly). The attacker guesses each of
    `shares` of the canaries, the surest half of them in and half out (`one_sided`: all in), and
    keeps the best result at a confidence that pays for the choice. (Of m fair coins not exactly
    m / 2 fall "in", so a share close to 1 forces wrong guesses on the best attacker.) Further
    `runs` toss new coins and count as more canaries: independent runs are one procedure on
    disjoint records. `control` is the same training without protection, the positive control. The
    negative control judges the same scores by other coins. Raises `ConfigError` where that shows a
    leak (chance: 1 in 10^6).
    """
    delta = _delta(guarantee, delta)
    options = _options(canaries * runs, shares, one_sided)
    each = 1 - (1 - confidence) / len(options)
    scores, coins = _tossed(train, canaries, runs, seed, 1)
    staked = [Guesses.of(scores, coins, high=high, low=low) for high, low in options]
    other_coins = seeded(seed, 3).random(len(coins)) < 0.5
    by_chance = [Guesses.of(scores, other_coins, high=high, low=low) for high, low in options]
    if min(stats.binom.sf(g.correct - 1, g.made, 0.5) for g in by_chance) < 1e-6 / len(options):
        raise ConfigError(
            f"Expected chance against coins that training never saw, got {by_chance}. "
            "The scores don't come from this training."
        )
    controls = None
    if control is not None:
        shown, tossed = _tossed(control, canaries, runs, seed, 2)
        controls = [Guesses.of(shown, tossed, high=high, low=low) for high, low in options]
    shared = {
        "delta": delta,
        "confidence": confidence,
        "canaries": canaries,
        "runs": runs,
        "guesses": [[g.made, g.correct] for g in staked],
        "negative_control_guesses": [[g.made, g.correct] for g in by_chance],
        "relation": "add or remove one canary",
    }

    def distribution_free(guesses: Guesses) -> float:
        return guesses.epsilon(delta=delta, confidence=each)

    def by_gaussian(guesses: Guesses) -> float:
        return gaussian_epsilon(guesses.mu(confidence=each), delta) if delta > 0 else 0.0

    methods: list[tuple[str, Callable[[Guesses], float], str, bool]] = [
        (
            "one-run audit",
            distribution_free,
            "Steinke et al. 2023, theorem 5.2; Mahloujifar et al. 2024, algorithm 3",
            True,
        )
    ]
    if delta > 0:
        methods.append(
            (
                "one-run audit (Gaussian)",
                by_gaussian,
                "Mahloujifar et al. 2024, algorithm 3",
                gaussian,
            )
        )
    found = []
    for name, bound, source, judged in methods:
        value = max(bound(guesses) for guesses in staked)
        perfect = max(bound(guesses.perfect) for guesses in staked)
        ceiling = None if controls is None else max(bound(guesses) for guesses in controls)
        judgement = None
        if guarantee is not None and judged:
            judgement = judge_bound(
                guarantee, value, perfect=perfect, control=ceiling, confidence=confidence
            )
        found.append(
            epsilon_finding(
                value,
                attack=name,
                target=target,
                adversary=adversary,
                n=canaries * runs,
                perfect=perfect,
                control=ceiling,
                judgement=judgement,
                seeds=runs,
                details={**shared, "source": source},
            )
        )
    return tuple(found)


def _delta(guarantee: Guarantee | None, delta: float | None) -> float:
    """The delta to audit at: the claim's own, or the one given where there is no claim."""
    claimed = None
    if guarantee is not None:
        if not isinstance(guarantee.strength, DifferentialPrivacy):
            raise ConfigError(
                "Expected a claim of differential privacy, got "
                f"strength={guarantee.strength.kind!r} in guarantee {guarantee.id!r}."
            )
        claimed = guarantee.strength.delta
    if delta is None and claimed is None:
        raise ConfigError("Expected delta where there is no claim, got delta=None.")
    if delta is not None and claimed is not None and delta != claimed:
        raise ConfigError(f"Expected the claim's delta={claimed}, got delta={delta}.")
    chosen = claimed if claimed is not None else delta
    if chosen is None or not 0 <= chosen < 1:
        raise ConfigError(f"Expected 0 <= delta < 1, got delta={chosen}.")
    return chosen


def _options(canaries: int, shares: Sequence[float], one_sided: bool) -> list[tuple[int, int]]:
    """How many highest and lowest scores to guess on, for each share."""
    if not shares or not all(0 < share <= 1 for share in shares):
        raise ConfigError(f"Expected shares of the canaries in (0, 1], got shares={shares}.")
    counts = sorted({max(1, round(share * canaries)) for share in shares})
    return [(count, 0) if one_sided else (count - count // 2, count // 2) for count in counts]


def _tossed(
    train: Train, canaries: int, runs: int, seed: int, stream: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores and coins of all runs, (runs * canaries,) each."""
    if canaries < 1 or runs < 1:
        raise ConfigError(f"Expected canaries >= 1 and runs >= 1, got {canaries=}, {runs=}.")
    rng = seeded(seed, stream)
    scores, coins = [], []
    for _ in range(runs):
        included = rng.random(canaries) < 0.5
        made = np.asarray(train(included.copy()), dtype=np.float64)
        if made.shape != (canaries,):
            raise DataError(
                f"Expected one score per canary, shape=({canaries},), got shape={made.shape}."
            )
        scores.append(made)
        coins.append(included)
    return np.concatenate(scores), np.concatenate(coins)


def _largest(refuted: Callable[[float], bool]) -> float:
    """The greatest parameter that is refuted, to nine digits; 0 where none is."""
    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high):
        low, high = high, 2 * high
        if low >= _LIMIT:
            return low
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _binomials(made: int, correct: int) -> NDArray[np.float64]:
    """log C(made, w) for w = correct - 1 down to 0."""
    wins = np.arange(correct - 1, -1, -1)
    return np.asarray(
        special.gammaln(made + 1) - special.gammaln(wins + 1) - special.gammaln(made - wins + 1),
        dtype=np.float64,
    )


def _gaussian_inverse(mu: float) -> BlowUpInverse:
    ndtr: Any = special.ndtr
    ndtri: Any = special.ndtri

    def inverse(tpr: float) -> float:
        return float(ndtr(ndtri(min(tpr, 1.0)) - mu))

    return inverse
