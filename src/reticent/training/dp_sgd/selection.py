"""What it costs to try several candidates and release the best: a random number of runs.

Trying a fixed number of candidates and releasing the best can give away as much as releasing them
all. With a number of runs that is drawn from the right distribution and stays secret, the price is
a small factor (Papernot and Steinke 2022, arXiv 2110.03620: Theorem 2 for the truncated negative
binomial, Theorem 6 for Poisson). The bound is dp-accounting's, `RepeatAndSelectDpEvent`, by Renyi
divergences; privacy loss distributions don't know selection.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy import optimize

from reticent.errors import ConfigError, UnsupportedError
from reticent.random import SecureRandom
from reticent.training.dp_sgd.accountant import Mechanism, event

ORDERS: tuple[float, ...] = (
    *(float(order) for order in range(2, 65)),
    *(80.0, 96.0, 128.0, 192.0, 256.0, 512.0, 1024.0),
)
"""Whole orders, whose sums are finite; each is a choice of the theorem's second order too."""

_MOST_NOISE = 1e6


@dataclass(frozen=True, kw_only=True)
class Runs:
    """How many runs: `mean` on average, drawn from a distribution of `shape`.

    `shape` 1 is geometric, 0 logarithmic (cheaper, and often a single run), any other finite one a
    truncated negative binomial; infinity is Poisson, which clusters about its mean, and where no
    run at all leaves the model as it was.
    """

    mean: float = 10.0
    shape: float = 1.0

    def __post_init__(self) -> None:
        # Within these, no probability that matters is lost to float64.
        if not (1.001 <= self.mean <= 200 and (0 <= self.shape <= 100 or self.shape == math.inf)):
            raise ConfigError(
                "Expected from 1.001 to 200 runs on average, and shape from 0 to 100 or infinite, "
                f"got mean={self.mean}, shape={self.shape}."
            )

    def draw(self, source: SecureRandom) -> int:
        """A number of runs. It must stay secret: who knows it knows how much was given away."""
        return self.at(float(source.uniform((1,))[0]))

    def at(self, quantile: float) -> int:
        """The number of runs at `quantile` in (0, 1).

        Summed in float64: probabilities are off by a few units of 2^-53, and numbers whose whole
        tail is rarer than that don't occur.
        """
        below = 0.0
        for count, probability in self.probabilities():
            below += probability
            if quantile < below or (count > self.mean and probability < 2.0**-60):
                return count
        raise AssertionError("The probabilities never end.")

    def probabilities(self) -> Iterator[tuple[int, float]]:
        """(number, its probability), without end (Papernot and Steinke 2022, definition 1)."""
        if math.isinf(self.shape):
            count, probability = 0, math.exp(-self.mean)
            while True:
                yield count, probability
                count += 1
                probability *= self.mean / count
        gamma, shape = self.gamma, self.shape
        # (gamma^-shape - 1) / shape, and its limit.
        whole = -math.log(gamma)
        whole = math.expm1(shape * whole) / shape if shape else whole
        count, probability = 1, (1 - gamma) / whole
        while True:
            yield count, probability
            probability *= (1 - gamma) * (count + shape) / (count + 1)
            count += 1

    @property
    def gamma(self) -> float:
        """The parameter that gives a truncated negative binomial its mean."""

        def excess(log_gamma: float) -> float:
            odds = math.expm1(-log_gamma)
            if self.shape == 0:
                return odds / -log_gamma - self.mean
            return self.shape * odds / -math.expm1(self.shape * log_gamma) - self.mean

        return math.exp(float(optimize.brentq(excess, -100.0, -1e-9, xtol=1e-15, rtol=1e-15)))


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The best of `runs` runs of `mechanism`, by a score that costs nothing, or has noise.

    `score_noise` is the standard deviation of the noise on a count that one record moves by one;
    None where the score reads no private record.
    """

    mechanism: Mechanism
    runs: Runs
    score_noise: float | None = None

    def event(self) -> Any:
        """The selection as a `dp_accounting.DpEvent`."""
        one = event(self.mechanism)
        events = importlib.import_module("dp_accounting.dp_event")
        if self.score_noise is not None:
            one = events.ComposedDpEvent([one, events.GaussianDpEvent(self.score_noise)])
        return events.RepeatAndSelectDpEvent(one, self.runs.mean, self.runs.shape)

    def curve(self, orders: Sequence[float]) -> tuple[float, ...]:
        """The Renyi divergence between neighbours' outputs, at most, at each of `orders`."""
        grid = tuple(sorted({*ORDERS, *orders}))
        found = dict(zip(grid, _composed(self, grid).rdp, strict=True))
        return tuple(float(found[order]) * (1 + 1e-9) + 1e-12 for order in orders)

    def epsilon(self, delta: float) -> float:
        """The epsilon reported at `delta`, under adding or removing one record."""
        return float(_composed(self, ORDERS).get_epsilon(delta))


@functools.lru_cache(maxsize=64)
def calibrate_selection(epsilon: float, delta: float, *, selection: Selection) -> Selection:
    """`selection` with the least noise in training, within 0.1 %, that keeps (epsilon, delta).

    Raises `ConfigError` where none does, `UnsupportedError` where the mechanism has no Renyi
    analysis here (several records per user, batches cut to a capacity).
    """
    if not (0 < epsilon < math.inf and 0 < delta < 1):
        raise ConfigError(f"Expected epsilon > 0 and 0 < delta < 1, got {epsilon=}, {delta=}.")

    def spent(log_noise: float) -> float:
        return _with(selection, math.exp(log_noise)).epsilon(delta)

    low, high = 0.0, math.log(_MOST_NOISE)
    if spent(high) > epsilon:
        raise ConfigError(
            f"No noise in training keeps epsilon={epsilon} at delta={delta} for {selection.runs} "
            f"with score_noise={selection.score_noise}. Plan fewer runs, more score noise, or "
            "score on public records."
        )
    while spent(low) <= epsilon:
        high, low = low, low - 0.5
        if low < -4:
            raise ConfigError(f"Expected a target that needs noise, got epsilon={epsilon}.")
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (low, middle) if spent(middle) <= epsilon else (middle, high)
    return _with(selection, math.exp(high))


def _with(selection: Selection, noise: float) -> Selection:
    return replace(selection, mechanism=replace(selection.mechanism, noise_multiplier=noise))


def _composed(selection: Selection, orders: Sequence[float]) -> Any:
    made = selection.event()
    accountant = importlib.import_module("dp_accounting.rdp").RdpAccountant(list(orders))
    if not accountant.supports(made):
        raise UnsupportedError(
            f"Not yet: no Renyi analysis of {selection.mechanism} under selection. Keep one record "
            "per user, and don't cut batches (constant_time)."
        )
    accountant.compose(made)
    return accountant
