"""OpenDP's mechanisms for each query: calibrated before data are read, then run on columns.

OpenDP brings samplers, stability maps and noise scales: discrete Laplace and Gaussian noise on
integers (Canonne, Kamath & Steinke 2020), so that no low-order bits of floating-point numbers leak
(Mironov 2012). Every sum is one of integers: values are clamped and rounded to a public lattice of
about a million steps, record by record.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import ConfigError, MissingExtraError
from reticent.release.grammar import (
    BinnedHistogram,
    Count,
    Histogram,
    Mean,
    Quantile,
    Query,
    Sum,
    Top,
)
from reticent.release.price import Price

OTHER = "(other)"
_STEPS = 2**20
_MOST_STEPS = 2**40


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A noisy answer, the scale of the noise, and the standard error where the noise gives one."""

    value: Any
    noise: str
    scale: float
    standard_error: float | None


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """A calibrated mechanism: `run` takes the query's column (n,), in the form its kind needs.

    **Claim.** Pure or zero-concentrated DP at the price, for adding or removing one unit of at most
    `contributions` records, as OpenDP's privacy map gives it (`loss`). **Assumptions.** OpenDP's
    samplers are as proved; its entropy is the operating system's.
    """

    loss: float
    run: Callable[[NDArray[Any]], Answer]


def mechanism(query: Query, price: Price, contributions: int = 1) -> Mechanism:
    """The mechanism for a query; `ConfigError` for what can't be calibrated. No data is needed."""
    if contributions < 1:
        raise ConfigError(f"Expected contributions >= 1, got contributions={contributions}.")
    match query:
        case Count():
            return _count(price, contributions)
        case Sum():
            return _sum(query, price, contributions)
        case Mean():
            return _mean(query, price, contributions)
        case Quantile():
            return _quantile(query, price, contributions)
        case Histogram():
            return _histogram(query.categories, price, contributions)
        case BinnedHistogram():
            return _histogram(bin_names(query), price, contributions)
        case Top():
            return _top(query, price, contributions)


def edges(query: BinnedHistogram) -> NDArray[np.float64]:
    """The public edges of the bins (bins + 1,)."""
    return np.linspace(query.lower, query.upper, query.bins + 1)


def bin_names(query: BinnedHistogram) -> tuple[str, ...]:
    """The names of the bins: half-open, the last closed."""
    at = [f"{edge:g}" for edge in edges(query)]
    closing = [")"] * (query.bins - 1) + ["]"]
    return tuple(f"[{a}, {b}{c}" for a, b, c in zip(at[:-1], at[1:], closing, strict=True))


@cache
def _opendp() -> Any:
    try:
        import opendp.prelude as opendp
    except ImportError:
        raise MissingExtraError("opendp", "release") from None
    opendp.enable_features("contrib")
    return opendp


def _calibrated(
    make: Callable[[float], Any], distance: float, price: Price
) -> tuple[Any, float, float]:
    """The measurement of least scale whose loss at `distance` is within the price; scale, loss."""
    dp = _opendp()
    try:
        scale = float(
            dp.binary_search_param(make, d_in=distance, d_out=float(price.amount), T=float)
        )
    except (ValueError, dp.OpenDPException) as error:
        raise ConfigError(
            f"Expected a price that noise can be calibrated to, got {price}: "
            f"{str(error).splitlines()[0]}"
        ) from None
    made = make(scale)
    return made, scale, float(made.map(distance))


def _measure(price: Price) -> Any:
    dp = _opendp()
    return dp.max_divergence() if price.rho is None else dp.zero_concentrated_divergence()


def _noise(price: Price) -> str:
    return "discrete Laplace" if price.rho is None else "discrete Gaussian"


def _deviation(price: Price, scale: float) -> float:
    return scale * math.sqrt(2) if price.rho is None else scale


def _add(price: Price, scale: float) -> Any:
    dp = _opendp()
    return dp.m.then_laplace(scale) if price.rho is None else dp.m.then_gaussian(scale)


def _records() -> tuple[Any, Any]:
    dp = _opendp()
    return dp.vector_domain(dp.atom_domain(T="i64")), dp.symmetric_distance()


def _count(price: Price, contributions: int) -> Mechanism:
    dp = _opendp()
    counted = _records() >> dp.t.then_count(TO="i64")
    made, scale, loss = _calibrated(
        lambda scale: counted >> _add(price, scale), contributions, price
    )

    def run(rows: NDArray[Any]) -> Answer:
        return Answer(
            value=int(made(np.zeros(len(rows), dtype=np.int64))),
            noise=_noise(price),
            scale=scale,
            standard_error=_deviation(price, scale),
        )

    return Mechanism(loss=loss, run=run)


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """Whole steps between public bounds: a power of two, so that whole bounds are met exactly."""

    lower: float
    upper: float

    @property
    def step(self) -> float:
        """The largest power of two that cuts the range into 2**20 steps or more."""
        made: float = 2.0 ** math.floor(math.log2((self.upper - self.lower) / _STEPS))
        return made

    @property
    def ends(self) -> tuple[int, int]:
        """The steps nearest to the bounds."""
        return round(self.lower / self.step), round(self.upper / self.step)

    def steps(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Values (n,), clamped and rounded."""
        clamped = np.clip(values, self.lower, self.upper)
        return np.clip(np.rint(clamped / self.step).astype(np.int64), *self.ends)


def _lattice(query: Sum | Mean) -> Lattice:
    made = Lattice(lower=query.lower, upper=query.upper)
    if max(map(abs, made.ends)) > _MOST_STEPS:
        raise ConfigError(
            f"Expected bounds no further from 0 than a million times their distance, got "
            f"lower={query.lower}, upper={query.upper}. Ask about the column less a constant."
        )
    return made


def _sum(query: Sum, price: Price, contributions: int) -> Mechanism:
    dp = _opendp()
    lattice = _lattice(query)
    summed = _records() >> dp.t.then_clamp(lattice.ends) >> dp.t.then_sum()
    made, scale, loss = _calibrated(
        lambda scale: summed >> _add(price, scale), contributions, price
    )

    def run(values: NDArray[Any]) -> Answer:
        return Answer(
            value=int(made(lattice.steps(values))) * lattice.step,
            noise=_noise(price),
            scale=scale * lattice.step,
            standard_error=_deviation(price, scale) * lattice.step,
        )

    return Mechanism(loss=loss, run=run)


def _mean(query: Mean, price: Price, contributions: int) -> Mechanism:
    """The mean from two noisy sums: how far above the lower bound, how far below the upper.

    Both together have the L1 (and L2) sensitivity of one range, where a sum and a count released
    apart have two: half the variance or less (Kulesza, Suresh & Wang 2024, transformed noise, arXiv
    2312.06658). One record adds (a, G - a), 0 <= a <= G, so the sums of the
    records of one unit are at most `contributions` G apart in either norm.
    """
    dp = _opendp()
    lattice = _lattice(query)
    low, high = lattice.ends
    domain = dp.vector_domain(dp.atom_domain(T="i64"))
    distance: float = contributions * (high - low)
    if price.rho is None:
        metric = dp.l1_distance(T="i64")
    else:
        metric, distance = dp.l2_distance(T=float), float(distance)
    made, scale, loss = _calibrated(
        lambda scale: (domain, metric) >> _add(price, scale), distance, price
    )

    def run(values: NDArray[Any]) -> Answer:
        above = lattice.steps(values) - low
        sums = np.array([above.sum(), ((high - low) - above).sum()], dtype=np.int64)
        first, second = made(sums)
        total = first + second
        share = min(1.0, max(0.0, first / total)) if total > 0 else 0.5
        spread = math.hypot(1 - share, share) * _deviation(price, scale) / max(total, 1)
        width = (high - low) * lattice.step
        return Answer(
            value=float(np.clip(low * lattice.step + share * width, query.lower, query.upper)),
            noise=_noise(price),
            scale=scale * lattice.step,
            standard_error=min(spread, 1.0) * width,
        )

    return Mechanism(loss=loss, run=run)


def _quantile(query: Quantile, price: Price, contributions: int) -> Mechanism:
    """The candidate whose ranks fit best, by noisy maximum (Smith 2011; McKenna & Sheldon 2020)."""
    dp = _opendp()
    domain = dp.vector_domain(dp.atom_domain(T=float, nan=False))
    candidates = np.linspace(query.lower, query.upper, query.candidates).tolist()
    made, scale, loss = _calibrated(
        lambda scale: dp.m.make_private_quantile(
            domain, dp.symmetric_distance(), _measure(price), candidates, query.at, scale
        ),
        contributions,
        price,
    )

    def run(values: NDArray[Any]) -> Answer:
        clamped = np.clip(values.astype(np.float64), query.lower, query.upper)
        return Answer(
            value=float(made(clamped)),
            noise="noisy maximum of ranks",
            scale=scale,
            standard_error=None,
        )

    return Mechanism(loss=loss, run=run)


def _histogram(names: tuple[str, ...], price: Price, contributions: int) -> Mechanism:
    dp = _opendp()
    metric = "L1Distance<i64>" if price.rho is None else "L2Distance<f64>"
    counted = _records() >> dp.t.then_count_by_categories(
        list(range(len(names))), null_category=True, MO=metric, TOA="i64"
    )
    made, scale, loss = _calibrated(
        lambda scale: counted >> _add(price, scale), contributions, price
    )

    def run(codes: NDArray[Any]) -> Answer:
        counts: Mapping[str, int] = dict(
            zip((*names, OTHER), map(int, made(codes.astype(np.int64))), strict=True)
        )
        return Answer(
            value=counts,
            noise=_noise(price),
            scale=scale,
            standard_error=_deviation(price, scale),
        )

    return Mechanism(loss=loss, run=run)


def _top(query: Top, price: Price, contributions: int) -> Mechanism:
    """Noisy top-k of the counts (McKenna & Sheldon 2020).

    One unit more raises counts only, one less lowers them only,
    each by at most `contributions`: what OpenDP calls a monotonic L-infinity distance.
    """
    dp = _opendp()
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.linf_distance(T="i64", monotonic=True)
    made, scale, loss = _calibrated(
        lambda scale: dp.m.make_noisy_top_k(*space, _measure(price), query.most, scale),
        contributions,
        price,
    )

    def run(codes: NDArray[Any]) -> Answer:
        counts = np.bincount(codes[codes >= 0], minlength=len(query.categories))
        chosen = made(counts.astype(np.int64))
        return Answer(
            value=[query.categories[place] for place in chosen],
            noise="noisy top k",
            scale=scale,
            standard_error=None,
        )

    return Mechanism(loss=loss, run=run)
