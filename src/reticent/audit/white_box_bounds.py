"""Lower bounds on epsilon from what an insider saw of one run, each with what it assumes.

Let c be how far a drawn canary moves the released sum along its direction, in clip norms, and tau
the noise's standard deviation there. Leaving the canary out changes the law of the release from T
draws of (1 - q) N(0, tau^2) + q N(c, tau^2) to N(0, tau^2), so the run can't be more private than
Poisson-sampled Gaussian noise of multiplier tau / c. Bounding c / tau from below bounds epsilon.

| bound | the auditor uses | assumes |
|---|---|---|
| drawn | coins, and which step drew whom | Gaussian noise of one scale, Poisson sampling at q |
| insider | coins | the same |
| guesses | coins | nothing but the coins |

The first two are exact: no limit theorem, errors added up by the union bound. What they assume is
tested on the same run by `white_box_checks`. A canary that moves the sum less than another only
lowers them. Known-scale Gaussian bounds: Nasr et al. 2023, section 4; the third: Mahloujifar et al.
2024 and Steinke et al. 2023, in `one_run`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from reticent.audit.one_run import SHARES, Guesses
from reticent.audit.white_box_canaries import Declared, Route, Sight, expected_moves
from reticent.errors import UnsupportedError
from reticent.training.dp_sgd.accountant import Mechanism, curve

_SCALE_SHARE = 0.1
_MOST_RATIO = 1.5
_LEAST_RATIO = 1e-2
_FINE, _COARSE = 400, 10
_LESS_NOISE = 0.75
_REACH = 12.0


@dataclass(frozen=True, kw_only=True)
class Bound:
    """epsilon >= `epsilon`, wrong with probability `error` at most under what it assumes.

    `power` is what the same bound comes to in a run with three quarters of the noise declared,
    without luck; for guesses, when all of them are right. `ratio` is the bound on c / tau behind
    it, None where it rests on guesses. `n` counts the independent numbers it rests on.
    """

    name: str
    epsilon: float
    power: float
    ratio: float | None
    error: float
    n: int


def sampled(declared: Declared) -> float:
    """The declared sampling probability. Raises `UnsupportedError` for any other sampling."""
    q = declared.mechanism.sampling_probability
    if q is None:
        raise UnsupportedError(
            "Not yet: a white-box audit of a run without Poisson sampling, got "
            "sampling_probability=None. Use audit_procedure from audit.one_run."
        )
    return q


def noise_limit(spare: NDArray[np.float64], error: float) -> float:
    """An upper limit of the noise's standard deviation, from directions that are noise only."""
    return float(np.sqrt(np.square(spare).sum() / stats.chi2.ppf(error, spare.size)))


def drawn_ratio(moved: NDArray[np.float64], spare: NDArray[np.float64], error: float) -> float:
    """The least c / tau, at least 0: `moved` (k,) are the sums along canaries that were drawn.

    Given who was drawn, their mean is N(c, tau^2 / k).
    """
    if not len(moved):
        return 0.0
    scale = noise_limit(spare, _SCALE_SHARE * error)
    reach = float(special.ndtri(1 - (1 - _SCALE_SHARE) * error)) * scale / math.sqrt(len(moved))
    return max(0.0, (float(moved.mean()) - reach) / scale)


def insider_ratio(
    totals: NDArray[np.float64],
    spare: NDArray[np.float64],
    error: float,
    *,
    steps: int,
    probability: float,
) -> float:
    """The least c / tau, at least 0: `totals` (k,) are the sums over `steps` of canaries in.

    Together they are drawn K ~ Binomial(k steps, q) times, so sum / (tau sqrt(k steps)) is
    K c / (tau sqrt(k steps)) + N(0, 1): a mixture over K, summed out.
    """
    coins = len(totals) * steps
    scale = noise_limit(spare, _SCALE_SHARE * error)
    seen = float(totals.sum()) / (scale * math.sqrt(coins))
    level = (1 - _SCALE_SHARE) * error
    spread = math.sqrt(coins * probability * (1 - probability))
    middle = coins * probability
    draws = np.arange(
        max(0, math.floor(middle - _REACH * spread)),
        min(coins, math.ceil(middle + _REACH * spread)) + 1,
    )
    chances = stats.binom.pmf(draws, coins, probability)

    def excess(ratio: float) -> float:
        tails = special.ndtr(ratio * draws / math.sqrt(coins) - seen)
        return float((chances * tails).sum()) - level

    if excess(0.0) >= 0:
        return 0.0
    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-10))


def ratio_epsilon(ratio: float, declared: Declared, delta: float) -> float:
    """The epsilon at `delta` of the declared steps and sampling with noise multiplier 1 / ratio.

    The ratio is cut at one and a half times the declared one and rounded down, to 1/400 of that
    one, or to a tenth where it is larger by a tenth: a lower bound still, of few values.
    """
    noise = declared.mechanism.noise_multiplier
    relative = min(ratio * noise, _MOST_RATIO)
    if relative < _LEAST_RATIO:
        return 0.0
    grid = _FINE if relative < 1 + 1 / _COARSE else _COARSE
    rounded = math.floor(relative * grid) / grid
    return _epsilon(noise / rounded, declared.mechanism.steps, sampled(declared), delta)


@functools.lru_cache(maxsize=256)
def _epsilon(noise: float, steps: int, probability: float, delta: float) -> float:
    made = Mechanism(noise_multiplier=noise, steps=steps, sampling_probability=probability)
    return max(0.0, curve(made, (delta,))[0])


def sharpest_drawn_ratio(sight: Sight, error: float) -> float:
    """`drawn_ratio` over all canaries together, and over those of each route by themselves.

    Two thirds of the error go to the former, the rest in equal parts to the latter.
    """
    drawn = sight.drawn
    groups = [(drawn, error * 2 / 3)]
    groups += [(drawn & (sight.routes == route), error / 3 / len(Route)) for route in Route]
    return max(drawn_ratio(sight.scores[own], sight.spare, share) for own, share in groups)


def drawn_bound(sight: Sight, declared: Declared, *, delta: float, error: float) -> Bound:
    """The sharpest: the auditor knows which step drew whom."""
    ratio = sharpest_drawn_ratio(sight, error)
    less = sharpest_drawn_ratio(_with_less_noise(sight, declared), error)
    return Bound(
        name="drawn",
        epsilon=ratio_epsilon(ratio, declared, delta),
        power=ratio_epsilon(less, declared, delta),
        ratio=ratio,
        error=error,
        n=int(sight.drawn.sum()),
    )


def insider_bound(sight: Sight, declared: Declared, *, delta: float, error: float) -> Bound:
    """What the adversary's own view shows, who doesn't learn which step drew whom."""

    def least(seen: Sight) -> float:
        return insider_ratio(
            seen.scores[:, seen.included].sum(axis=0),
            seen.spare,
            error,
            steps=len(seen.scores),
            probability=sampled(declared),
        )

    ratio = least(sight)
    return Bound(
        name="insider",
        epsilon=ratio_epsilon(ratio, declared, delta),
        power=ratio_epsilon(least(_with_less_noise(sight, declared)), declared, delta),
        ratio=ratio,
        error=error,
        n=int(sight.included.sum()),
    )


def _with_less_noise(sight: Sight, declared: Declared) -> Sight:
    """The same draws in a run with three quarters of its noise, each number at its mean."""
    noise = _LESS_NOISE * declared.mechanism.noise_multiplier
    return dataclasses.replace(
        sight,
        scores=np.where(sight.drawn, expected_moves(sight, declared), 0.0),
        spare=np.full_like(sight.spare, noise),
    )


def likelihoods(sight: Sight, declared: Declared) -> NDArray[np.float64]:
    """Each canary's log likelihood ratio of in against out, shape (m,), by the declared law."""
    q, z = sampled(declared), declared.mechanism.noise_multiplier
    drawn = (2 * sight.scores - 1) / (2 * z * z)
    with np.errstate(divide="ignore"):
        either = np.logaddexp(np.log1p(-q), np.log(q) + drawn)
    return np.asarray(either.sum(axis=0), dtype=np.float64)


def guess_bound(sight: Sight, declared: Declared, *, delta: float, error: float) -> Bound:
    """The twin that trusts the coins only: right guesses refute what makes them too unlikely."""
    scores, count = likelihoods(sight, declared), len(sight.included)
    stakes = sorted({max(2, round(share * count)) for share in SHARES})
    best = perfect = 0.0
    for stake in stakes:
        made = Guesses.of(scores, sight.included, high=stake - stake // 2, low=stake // 2)
        sure = 1 - error / len(stakes)
        best = max(best, made.epsilon(delta=delta, confidence=sure))
        perfect = max(perfect, made.perfect.epsilon(delta=delta, confidence=sure))
    return Bound(name="guesses", epsilon=best, power=perfect, ratio=None, error=error, n=count)
