"""A Bayesian likelihood ratio: each record's margins borrow strength from all other records'.

The idea is BaVarIA's (arXiv 2603.11799, 2026): a normal-inverse-gamma prior on each record's mean
and variance, so that the predictive density is a Student t and few references don't need a
pooled variance. The prior here is an own reading, estimated from the references themselves:

- variance: a scaled inverse chi-squared whose degrees of freedom and scale fit the log-variances'
  mean and spread (Smyth 2004, "Linear models and empirical Bayes methods", section 6.2);
- OUT mean: normal around the mean of all records, its variance by moments;
- IN mean: normal around a line in the posterior OUT mean, fitted over the records, because a record
  that is hard without itself is pulled further by training on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from reticent.attacks.membership.signals import Moments, References, Signals
from reticent.attacks.spec import Scores

OUT, IN = 0, 1
_MOST_FREEDOM = 200.0
_FREEDOM = 4.0
_ENOUGH = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Posterior:
    """Student-t predictive of one side's margin: location, scale and degrees of freedom, (n,)."""

    location: NDArray[np.float64]
    scale: NDArray[np.float64]
    freedom: NDArray[np.float64]

    def log_density(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The log-density of values (n,)."""
        half = self.freedom / 2
        constant = special.gammaln(half + 0.5) - special.gammaln(half)
        standard = ((values - self.location) / self.scale) ** 2 / self.freedom
        return np.asarray(
            constant
            - 0.5 * np.log(np.pi * self.freedom)
            - np.log(self.scale)
            - (half + 0.5) * np.log1p(standard)
        )


def bavaria(target: Signals, references: References) -> Scores:
    """log t(margin; IN posterior) - log t(margin; OUT posterior), (n,)."""
    outside, inside = posteriors(references)
    values = target.candidates
    return np.asarray(inside.log_density(values) - outside.log_density(values))


def posteriors(references: References) -> tuple[Posterior, Posterior]:
    """The OUT and the IN predictive of every record."""
    moments = references.moments
    freedom, scale = zip(*(_variance_prior(moments, side) for side in (OUT, IN)), strict=True)
    known = moments.count[OUT] > 0
    centre = np.full(known.shape, float(moments.mean[OUT, known].mean()))
    outside, mean = _posterior(moments, OUT, centre, freedom[OUT], scale[OUT])
    inside, _mean = _posterior(moments, IN, _line(moments, mean), freedom[IN], scale[IN])
    return outside, inside


def variance_prior(
    variances: NDArray[np.float64], freedom: NDArray[np.float64]
) -> tuple[float, float]:
    """Degrees of freedom and scale of the prior that made sample `variances` with `freedom` each.

    By moments of the log-variances: their mean and variance less what sampling alone gives.
    """
    # Freedoms are few different numbers, and polygamma functions are slow.
    kinds, place = np.unique(freedom / 2, return_inverse=True)
    logs = np.log(variances) - (special.digamma(kinds) - np.log(kinds))[place]
    spread = float(logs.var(ddof=1) - special.polygamma(1, kinds)[place].mean())
    nu = _MOST_FREEDOM if spread <= 0 else min(_MOST_FREEDOM, 2 * _inverse_trigamma(spread))
    return nu, float(np.exp(logs.mean() + special.digamma(nu / 2) - np.log(nu / 2)))


def _variance_prior(moments: Moments, side: int) -> tuple[float, float]:
    freedom = moments.count[side] - 1
    usable = (freedom > 0) & (moments.squares[side] > 0)
    if usable.sum() >= _ENOUGH:
        return variance_prior(moments.squares[side, usable] / freedom[usable], freedom[usable])
    # Too few repeats on this side: the other side's scale, or else the spread between records.
    freedoms = np.maximum(moments.count - 1, 0).sum()
    if freedoms > 0 and moments.squares.sum() > 0:
        return _FREEDOM, float(moments.squares.sum() / freedoms)
    return _FREEDOM, max(float(np.nanvar(moments.mean)), 1e-12)


def _posterior(
    moments: Moments, side: int, centre: NDArray[np.float64], nu: float, scale: float
) -> tuple[Posterior, NDArray[np.float64]]:
    """The predictive, and the posterior mean, around prior means `centre` (n,)."""
    count = moments.count[side]
    mean = np.where(count > 0, moments.mean[side], centre)
    known = count > 0
    apart = (mean - centre)[known]
    between = float(np.mean(apart**2 - scale / count[known])) if known.any() else scale
    kappa = scale / max(between, 1e-3 * scale)
    certain = kappa + count
    location = (kappa * centre + count * mean) / certain
    freedom = nu + count
    squares = nu * scale + moments.squares[side] + kappa * count / certain * (mean - centre) ** 2
    width = np.sqrt(squares / freedom * (1 + 1 / certain))
    return Posterior(location=location, scale=width, freedom=freedom), location


def _line(moments: Moments, outside: NDArray[np.float64]) -> NDArray[np.float64]:
    """The prior IN means: a weighted line in the OUT posterior means over the records with both."""
    weight = np.where(moments.count[OUT] > 0, moments.count[IN], 0.0)
    if weight.sum() == 0:
        return outside
    observed = np.where(moments.count[IN] > 0, moments.mean[IN], 0.0)
    weight = weight / weight.sum()
    x, y = float(weight @ outside), float(weight @ observed)
    spread = float(weight @ (outside - x) ** 2)
    slope = float(weight @ ((outside - x) * (observed - y))) / spread if spread > 0 else 1.0
    return np.asarray(y + slope * (outside - x))


def _inverse_trigamma(value: float) -> float:
    """The x > 0 whose trigamma is `value`, by Newton's method on 1 / trigamma (Smyth 2004)."""
    x = 0.5 + 1 / value
    for _step in range(50):
        slope = float(special.polygamma(1, x))
        step = slope * (1 - slope / value) / float(special.polygamma(2, x))
        x += step
        if -step / x < 1e-10:
            break
    return x
