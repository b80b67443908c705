"""What an attack's errors say about epsilon: lower bounds, their power, the verdict on a claim.

An (epsilon, delta)-differentially private mechanism keeps every attacker that tells neighbouring
data sets apart within TPR <= e^epsilon FPR + delta and 1 - FPR <= e^epsilon (1 - TPR) + delta
(Wasserman & Zhou 2010; Kairouz et al. 2015, theorem 2.1). Rates above that refute the claim.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from reticent.attacks.finding import Finding
from reticent.audit.rates import roc
from reticent.audit.scorecard import Status
from reticent.audit.statistics import CONFIDENCE
from reticent.errors import ConfigError
from reticent.guarantee import DifferentialPrivacy, Guarantee, Pillar

METRIC = "epsilon lower bound"
_LARGEST = 1e6
_CANDIDATES = 64


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Right and wrong decisions at a threshold that these records had no part in choosing."""

    tp: int
    fn: int
    fp: int
    tn: int

    def __post_init__(self) -> None:
        if min(self.tp, self.fn, self.fp, self.tn) < 0 or not (self.members and self.non_members):
            raise ConfigError(f"Expected counts >= 0 of members and non-members, got {self}.")

    @classmethod
    def at(cls, scores: ArrayLike, truth: ArrayLike, threshold: float) -> Confusion:
        """The decisions "member where the score is `threshold` or more"."""
        point = roc(scores, truth).at_threshold(threshold)
        return cls(
            tp=point.tpr.k,
            fn=point.tpr.n - point.tpr.k,
            fp=point.fpr.k,
            tn=point.fpr.n - point.fpr.k,
        )

    @property
    def members(self) -> int:
        """How many members were judged."""
        return self.tp + self.fn

    @property
    def non_members(self) -> int:
        """How many non-members were judged."""
        return self.fp + self.tn

    def epsilon_lower_bound(self, *, delta: float, confidence: float = CONFIDENCE) -> float:
        """See the function of this name."""
        return epsilon_lower_bound(
            self.tp, self.fn, self.fp, self.tn, delta=delta, confidence=confidence
        )


def joint_bounds(
    tp: ArrayLike, fn: ArrayLike, fp: ArrayLike, tn: ArrayLike, *, confidence: float = CONFIDENCE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least TPR and the greatest FPR that hold together with `confidence`, any shape.

    Each is a one-sided Clopper-Pearson limit at half the error (Bonferroni).
    """
    tail = (1 - confidence) / 2
    hits, misses, alarms, quiet = (np.asarray(part, dtype=float) for part in (tp, fn, fp, tn))
    with np.errstate(invalid="ignore"):
        tpr = np.where(hits > 0, special.betaincinv(hits, misses + 1, tail), 0.0)
        fpr = np.where(quiet > 0, special.betaincinv(alarms + 1, quiet, 1 - tail), 1.0)
    return np.asarray(tpr, dtype=np.float64), np.asarray(fpr, dtype=np.float64)


def epsilon_lower_bounds(
    tp: ArrayLike,
    fn: ArrayLike,
    fp: ArrayLike,
    tn: ArrayLike,
    *,
    delta: float = 0.0,
    confidence: float = CONFIDENCE,
) -> NDArray[np.float64]:
    """`epsilon_lower_bound` of many counts at once, in any shape that broadcasts."""
    _check_delta(delta)
    tpr, fpr = joint_bounds(tp, fn, fp, tn, confidence=confidence)
    with np.errstate(divide="ignore", invalid="ignore"):
        forms = np.stack(
            np.broadcast_arrays(
                np.log(np.maximum(tpr - delta, 0.0)) - np.log(fpr),
                np.log(np.maximum(1 - fpr - delta, 0.0)) - np.log1p(-tpr),
            )
        )
    return np.asarray(np.maximum(forms.max(axis=0), 0.0), dtype=np.float64)


def epsilon_lower_bound(
    tp: int, fn: int, fp: int, tn: int, *, delta: float = 0.0, confidence: float = CONFIDENCE
) -> float:
    """The epsilon that the attack shows at least, with `confidence`; 0 where it shows nothing.

    The greater of ln((TPR - delta) / FPR) and ln((1 - FPR - delta) / (1 - TPR)), TPR at its lower
    and FPR at its upper limit. Both limits hold together, so taking the greater costs nothing.
    Valid only for a threshold fixed on other records (`best_threshold`).
    """
    made = Confusion(tp=tp, fn=fn, fp=fp, tn=tn)
    bound = epsilon_lower_bounds(
        made.tp, made.fn, made.fp, made.tn, delta=delta, confidence=confidence
    )
    return float(bound)


def max_certifiable_epsilon(
    members: int, non_members: int, *, delta: float = 0.0, confidence: float = CONFIDENCE
) -> float:
    """The lower bound that an attack without any error would show: the power of the sample."""
    return epsilon_lower_bound(members, 0, 0, non_members, delta=delta, confidence=confidence)


def best_threshold(
    scores: ArrayLike, truth: ArrayLike, *, delta: float = 0.0, confidence: float = CONFIDENCE
) -> float:
    """The threshold with the greatest epsilon lower bound on these scores.

    Use it on other records than those that chose it. Where no threshold shows anything, the one
    of greatest advantage.
    """
    curve = roc(scores, truth)
    hits, alarms = curve.true_positives, curve.false_positives
    # Exact limits are dear, so they only decide among the best by approximate ones.
    rough = _wilson_forms(curve.tpr, curve.members, curve.fpr, curve.non_members, delta, confidence)
    best = np.argsort(-rough, kind="stable")[:_CANDIDATES]
    bounds = epsilon_lower_bounds(
        hits[best],
        curve.members - hits[best],
        alarms[best],
        curve.non_members - alarms[best],
        delta=delta,
        confidence=confidence,
    )
    if bounds.max() > 0:
        return float(curve.thresholds[best[int(np.argmax(bounds))]])
    return float(curve.thresholds[int(np.argmax(curve.tpr - curve.fpr))])


def dp_region(fpr: ArrayLike, *, epsilon: float, delta: float = 0.0) -> NDArray[np.float64]:
    """The greatest TPR that (epsilon, delta)-differential privacy allows at each FPR."""
    rate = np.asarray(fpr, dtype=np.float64)
    mirrored = 1 - math.exp(-epsilon) * (1 - delta - rate)
    steep = np.exp(np.minimum(epsilon + np.log(np.maximum(rate, 1e-300)), 1.0))
    direct = np.where(rate > 0, steep, 0.0) + delta
    return np.asarray(np.clip(np.minimum(direct, mirrored), 0.0, 1.0), dtype=np.float64)


def gaussian_delta(mu: float, epsilon: float) -> float:
    """The delta of mu-Gaussian differential privacy at `epsilon` (Balle & Wang 2018, theorem 8).

    mu is sensitivity over standard deviation.
    """
    if mu <= 0:
        return 0.0
    first = special.ndtr(mu / 2 - epsilon / mu)
    second = math.exp(min(700.0, epsilon + special.log_ndtr(-mu / 2 - epsilon / mu)))
    return max(0.0, float(first - second))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The epsilon of mu-Gaussian differential privacy at `delta`; 0 where even 0 suffices."""
    _check_delta(delta, least=1e-300)
    if gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    top = mu * mu / 2 + mu * math.sqrt(2 * math.log(1 / delta)) + 1.0
    return float(
        optimize.brentq(lambda e: gaussian_delta(mu, e) - delta, 0.0, top, xtol=1e-10, rtol=1e-12)
    )


def gaussian_mu(epsilon: float, delta: float) -> float:
    """The greatest mu that keeps (epsilon, delta): 1 / mu is the analytic noise multiplier.

    Balle & Wang 2018, algorithm 1, by bisection of theorem 8.
    """
    _check_delta(delta, least=1e-300)
    if not 0 <= epsilon < _LARGEST:
        raise ConfigError(f"Expected 0 <= epsilon < {_LARGEST:g}, got epsilon={epsilon}.")
    high = 1.0
    while gaussian_delta(high, epsilon) < delta:
        high *= 2
    return float(
        optimize.brentq(
            lambda m: gaussian_delta(m, epsilon) - delta, 0.0, high, xtol=1e-12, rtol=1e-12
        )
    )


def mu_lower_bound(tp: int, fn: int, fp: int, tn: int, *, confidence: float = CONFIDENCE) -> float:
    """The least mu of Gaussian differential privacy that the attack shows, at least 0.

    Phi^-1(TPR) - Phi^-1(FPR) at the joint limits (Dong et al. 2022, section 2.2; Nasr et al. 2023,
    section 4). It speaks only about mechanisms whose trade-off curve is a Gaussian one.
    """
    made = Confusion(tp=tp, fn=fn, fp=fp, tn=tn)
    tpr, fpr = joint_bounds(made.tp, made.fn, made.fp, made.tn, confidence=confidence)
    if tpr <= 0 or fpr >= 1:
        return 0.0
    return max(0.0, float(special.ndtri(tpr) - special.ndtri(fpr)))


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What an epsilon lower bound says about a claim.

    `power` is the epsilon that this audit could have shown: of a perfect attack on this sample,
    and no more than the positive control showed where there was one.
    """

    status: Status
    claim: str
    claimed: float
    delta: float
    epsilon: float
    perfect: float
    control: float | None
    confidence: float
    reason: str

    @property
    def power(self) -> float:
        """The greatest epsilon that this audit could have shown."""
        return self.perfect if self.control is None else min(self.perfect, self.control)

    @property
    def contradicts(self) -> str | None:
        """The claim's id where it is violated."""
        return self.claim if self.status is Status.VIOLATED else None

    def details(self) -> dict[str, Any]:
        """What a finding keeps of this, ready for JSON; `max_epsilon` is the power."""
        return {
            "tests": self.claim,
            "status": self.status.value,
            "claimed_epsilon": self.claimed,
            "delta": self.delta,
            "epsilon_lower_bound": self.epsilon,
            "max_epsilon": self.power,
            "perfect_attack_epsilon": self.perfect,
            "control_epsilon": self.control,
            "confidence": self.confidence,
            "reason": self.reason,
        }


def judge(
    guarantee: Guarantee,
    confusion: Confusion,
    *,
    control: Confusion | None = None,
    confidence: float = CONFIDENCE,
) -> Judgement:
    """Whether the attack's errors violate an (epsilon, delta) claim, or could have.

    Violated where the rates at their joint limits lie outside the claim's region. Consistent only
    with power: a perfect attack on as many records would have been outside, and so was the
    `control`, the same attack on a model without the protection. Else inconclusive. Members and
    non-members must differ as the claim's neighbouring relation says. Raises `ConfigError` for a
    claim that isn't differential privacy.
    """
    strength = _claim(guarantee)
    bound = confusion.epsilon_lower_bound(delta=strength.delta, confidence=confidence)
    perfect = max_certifiable_epsilon(
        confusion.members, confusion.non_members, delta=strength.delta, confidence=confidence
    )
    shown = None
    if control is not None:
        shown = control.epsilon_lower_bound(delta=strength.delta, confidence=confidence)
    return judge_bound(guarantee, bound, perfect=perfect, control=shown, confidence=confidence)


def judge_bound(
    guarantee: Guarantee,
    epsilon: float,
    *,
    perfect: float,
    control: float | None = None,
    confidence: float = CONFIDENCE,
) -> Judgement:
    """`judge` for a lower bound at the claim's delta that another method gave.

    `perfect` is what a perfect attack would have shown, `control` what this attack shows on an
    unprotected model.
    """
    strength = _claim(guarantee)
    claimed = strength.epsilon
    if epsilon > claimed:
        status = Status.VIOLATED
        reason = f"shown: epsilon >= {epsilon:.3g}, claimed: {claimed:.3g}"
    elif perfect <= claimed:
        status = Status.INCONCLUSIVE
        reason = (
            f"a perfect attack on this sample shows epsilon >= {perfect:.3g} at most, "
            f"claimed: {claimed:.3g}"
        )
    elif control is not None and control <= claimed:
        status = Status.INCONCLUSIVE
        reason = (
            f"the same attack shows epsilon >= {control:.3g} on an unprotected model, "
            f"claimed: {claimed:.3g}"
        )
    else:
        status = Status.CONSISTENT
        reason = f"shown: epsilon >= {epsilon:.3g}, claimed: {claimed:.3g}, which was refutable"
    return Judgement(
        status=status,
        claim=guarantee.id,
        claimed=claimed,
        delta=strength.delta,
        epsilon=epsilon,
        perfect=perfect,
        control=control,
        confidence=confidence,
        reason=reason,
    )


def epsilon_finding(
    epsilon: float,
    *,
    attack: str,
    target: str,
    adversary: str,
    n: int,
    perfect: float,
    control: float | None = None,
    judgement: Judgement | None = None,
    seeds: int = 1,
    details: dict[str, Any] | None = None,
) -> Finding:
    """A lower bound as a finding about the training data.

    The floor is 0. The interval is one-sided: from the bound up to what a perfect attack would
    have shown, which is no upper limit for the mechanism's own epsilon.
    """
    power = perfect if control is None else min(perfect, control)
    told: dict[str, Any] = {
        "epsilon_lower_bound": epsilon,
        "max_epsilon": power,
        "perfect_attack_epsilon": perfect,
        "control_epsilon": control,
        **(judgement.details() if judgement else {}),
        **(details or {}),
    }
    return Finding(
        attack=attack,
        pillar=Pillar.TRAINING_DATA,
        adversary=adversary,
        target=target,
        metric=METRIC,
        value=epsilon,
        ci=(epsilon, max(epsilon, perfect)),
        floor=0.0,
        excess=epsilon,
        excess_ci=(epsilon, max(epsilon, perfect)),
        n=n,
        seeds=seeds,
        ceiling=control,
        contradicts=judgement.contradicts if judgement else None,
        details=told,
    )


def _wilson_forms(
    tpr: NDArray[np.float64],
    members: int,
    fpr: NDArray[np.float64],
    non_members: int,
    delta: float,
    confidence: float,
) -> NDArray[np.float64]:
    """The lower bounds with Wilson's limits (Wilson 1927) in place of the exact ones."""
    z = float(special.ndtri(1 - (1 - confidence) / 2))

    def limit(rate: NDArray[np.float64], n: int, side: int) -> NDArray[np.float64]:
        reach = z * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
        made = (rate + z * z / (2 * n) + side * reach) / (1 + z * z / n)
        return np.asarray(np.clip(made, 1e-300, 1 - 1e-15), dtype=np.float64)

    low, high = limit(tpr, members, -1), limit(fpr, non_members, 1)
    direct = np.log(np.maximum(low - delta, 1e-300)) - np.log(high)
    mirrored = np.log(np.maximum(1 - high - delta, 1e-300)) - np.log1p(-low)
    return np.asarray(np.maximum(direct, mirrored), dtype=np.float64)


def _claim(guarantee: Guarantee) -> DifferentialPrivacy:
    if not isinstance(guarantee.strength, DifferentialPrivacy):
        raise ConfigError(
            f"Expected a claim of differential privacy, got strength={guarantee.strength.kind!r} "
            f"in guarantee {guarantee.id!r}."
        )
    return guarantee.strength


def _check_delta(delta: float, *, least: float = 0.0) -> None:
    if not least <= delta < 1:
        raise ConfigError(f"Expected {least:g} <= delta < 1, got delta={delta}.")
