"""The data-dependent loss, published: with noise scaled to its own smooth sensitivity.

The loss that the votes themselves imply is a function of private records, and tells about them.
What leaves here is that loss plus Gaussian noise in proportion to its smooth sensitivity (GNSS:
Nissim, Raskhodnikova & Smith 2007; Papernot et al. 2018, appendix B), and the logarithm of that
sensitivity plus noise, from which an upper bound follows that fails with a stated chance. Both
releases cost privacy too, whatever they say, and are charged before.

The order is public and fixed beforehand: choosing the best one on the votes would be one more
release. `suggested_publication` chooses by an assumption about them instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from scipy import stats

from reticent.errors import ConfigError, DataError
from reticent.privacy.ledger import ORDERS, Cost, rdp
from reticent.random import SecureRandom
from reticent.training.pate.data_dependent import LossTable, tables
from reticent.training.pate.mechanisms import GNMax, Questions
from reticent.training.pate.trace import PrivateTrace, margins_of

_GRID = 2.0**-10
_LEAST_SENSITIVITY = 1e-9


@dataclass(frozen=True, kw_only=True)
class Publication:
    """How the data-dependent loss will be published: public numbers, fixed beforehand.

    `order` is the Rényi order of the analysis. `smoothness` (beta) is how slowly the sensitivity
    may fall with each teacher changed: 1 / (4 order) unless given. `noise_multiplier` scales the
    noise on the loss by its smooth sensitivity, `log_noise_multiplier` that on the sensitivity's
    logarithm by beta.
    """

    order: float
    smoothness: float | None = None
    noise_multiplier: float = 12.0
    log_noise_multiplier: float = 12.0

    def __post_init__(self) -> None:
        if not self.order > 1:
            raise ConfigError(f"Expected order > 1, got order={self.order}. Try 16.")
        if self.smoothness is None:
            object.__setattr__(self, "smoothness", 0.25 / self.order)
        if not (self.beta > 0 and self.noise_multiplier > 0 and self.log_noise_multiplier > 0):
            raise ConfigError(f"Expected smoothness and noise multipliers above 0, got {self}.")
        if math.isinf(smooth_gaussian_loss(self.order, self.beta, self.noise_multiplier)):
            raise ConfigError(
                f"Expected (order - 1) (exp(2 smoothness) - 1) < 1, got {self}. Lower smoothness."
            )

    @property
    def beta(self) -> float:
        """The smoothness as a number."""
        return float(self.smoothness or 0.0)

    def loss(self, order: float) -> float:
        """The Rényi loss of publishing, at any order, in nats."""
        return smooth_gaussian_loss(order, self.beta, self.noise_multiplier) + order / (
            2 * self.log_noise_multiplier**2
        )

    def cost(self) -> Cost:
        """What a ledger is charged for publishing."""
        return rdp(ORDERS, [self.loss(order) for order in ORDERS])


@dataclass(frozen=True, kw_only=True)
class PublishedLoss:
    """What one run gave away about one unit of *these* records, as far as may be told.

    Except with chance `failure` over the publication's noise: with probability at least 1 - `delta`
    over the run's, the privacy loss of all answers and of this publication, against any neighbour,
    is at most `epsilon`. It is a figure about one run on one data set. It is no guarantee of
    differential privacy, which has to hold for all records: that one stays at `worst_case`, and
    where the noise leaves nothing better to say, so does `epsilon`.
    """

    epsilon: float
    delta: float
    failure: float
    order: float
    worst_case: float


def smooth_gaussian_loss(order: float, beta: float, noise_multiplier: float) -> float:
    """Rényi divergence of f + S z N(0, 1), S a beta-smooth bound on f's sensitivity; nats.

    Between N(f, s^2 z^2) and N(f', s'^2 z^2) with r = s / s' within exp(+-beta) and |f - f'| at
    most the lesser of s and s', the divergence of order a is exactly (van Erven & Harremoes 2014,
    eq. 10)  a d^2 / (2 z^2 v) - log r - log(v) / (2 (a - 1)),  v = a + (1 - a) r^2,  d in units of
    s'. The first term rises with r; the rest is largest at an end. Infinity where v <= 0. Sharper
    than the closed form of Papernot et al. 2018, theorem 23.
    """
    if (order - 1) * math.expm1(2 * beta) >= 1:
        return math.inf

    def spread(ratio: float) -> float:
        return order + (1 - order) * ratio**2

    def rest(ratio: float) -> float:
        return -math.log(ratio) - math.log(spread(ratio)) / (2 * (order - 1))

    shift = order / (2 * noise_multiplier**2 * spread(math.exp(beta)))
    return shift + max(rest(math.exp(beta)), rest(math.exp(-beta)))


def publish(
    trace: PrivateTrace,
    publication: Publication,
    *,
    delta: float,
    worst_case: float,
    failure: float = 1e-3,
) -> PublishedLoss:
    """The sanitised upper bound on the data-dependent loss of all questions in `trace`.

    Call it once for each charge of `publication.cost()`. `worst_case` is the epsilon that was
    charged, repeated in the result. `DataError` where nothing was answered.
    """
    if not 0 < delta < 1 or not 0 < failure < 1:
        raise ConfigError(f"Expected delta and failure in (0, 1), got {delta=}, {failure=}.")
    bound = _released(loss_of(trace, publication), publication, failure)
    told = bound - math.log(delta) / (publication.order - 1)
    return PublishedLoss(
        epsilon=min(told, worst_case),
        delta=delta,
        failure=failure,
        order=publication.order,
        worst_case=worst_case,
    )


class PrivateLoss:
    """The raw data-dependent loss and its smooth sensitivity: private, never printed."""

    __slots__ = ("sensitivity", "total")

    def __init__(self, total: float, sensitivity: float) -> None:
        self.total, self.sensitivity = total, sensitivity

    def __repr__(self) -> str:
        return "PrivateLoss(hidden)"

    def __reduce__(self) -> NoReturn:
        raise DataError("Expected a private loss to stay in memory: it can't be pickled.")


def loss_of(trace: PrivateTrace, publication: Publication) -> PrivateLoss:
    """The sum of all questions' bounds at the publication's order, and its smooth sensitivity.

    max over d of exp(-beta d) times the sum of what one teacher can move each question's bound
    once d others were changed. For neighbours each window at d lies within the other's at d + 1,
    so this is beta-smooth and bounds the local sensitivity (Nissim et al. 2007, definition 2.1).
    """
    labels, checks = margins_of(trace)
    if trace.classes is None:
        raise DataError("Expected at least one label from the teachers, got none: nothing to tell.")
    both = tables(trace.mechanism, publication.order, trace.classes)
    parts = [
        (table, table.cells(margins))
        for table, margins in zip(both, (labels, checks), strict=True)
        if table is not None
    ]
    total = sum(float(table.bounds[cells].sum()) for table, cells in parts)
    most = sum(float(table.bounds[0] - table.bounds[-1]) * len(cells) for table, cells in parts)
    everywhere = _local(parts, 10**6)
    found, distance = _LEAST_SENSITIVITY, 0
    # No later distance can win once even the largest possible sum, discounted, is below the best.
    while math.exp(-publication.beta * distance) * most > found:
        here = _local(parts, distance)
        found = max(found, math.exp(-publication.beta * distance) * here)
        if here >= everywhere:
            break
        distance += 1
    return PrivateLoss(total, found)


def suggested_publication(
    questions: Questions, *, teachers: int, classes: int, delta: float, agreement: float = 0.8
) -> Publication:
    """The publication that would say least loss if `agreement` of the teachers always agreed.

    An assumption about the votes, to be made before they are seen. The other votes are taken to be
    spread evenly, and all questions that may be answered to be answered.
    """
    rest = round((1 - agreement) * teachers / (classes - 1))
    counts = np.array([teachers - rest * (classes - 1)] + [rest] * (classes - 1))
    assumed = PrivateTrace(questions.mechanism)
    for _ in range(questions.answered):
        assumed.add_label(counts)
    if not isinstance(questions.mechanism, GNMax):
        for _ in range(questions.asked):
            assumed.add_check(float(counts[0]) - questions.mechanism.threshold)
    found: dict[Publication, float] = {}
    for order in (4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 128.0):
        loss = loss_of(assumed, Publication(order=order))
        for noise in (3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0):
            made = Publication(order=order, noise_multiplier=noise, log_noise_multiplier=noise)
            typical = _bound(loss.total, math.log(loss.sensitivity), made, 1e-3)
            found[made] = typical - math.log(delta) / (order - 1)
    return min(found, key=lambda made: found[made])


def _released(loss: PrivateLoss, publication: Publication, failure: float) -> float:
    """The two noisy releases, and the bound that they give: from here on nothing is private."""
    first, second = SecureRandom().normal((2,), sigma=1.0)
    # Rounded upwards to a public grid: the low bits of a double would tell about its terms.
    noisy = _up(loss.total + loss.sensitivity * publication.noise_multiplier * first)
    spread = publication.beta * publication.log_noise_multiplier
    noisy_log = _up(math.log(loss.sensitivity) + spread * second)
    return _bound(noisy, noisy_log, publication, failure)


def _bound(noisy: float, noisy_log: float, publication: Publication, failure: float) -> float:
    """An upper bound on the loss from its two noisy releases, and the cost of these releases."""
    z = float(stats.norm.isf(failure / 2))
    spread = publication.beta * publication.log_noise_multiplier
    most = math.exp(noisy_log + z * spread)
    known = max(0.0, noisy + z * publication.noise_multiplier * most)
    return known + publication.loss(publication.order)


def _local(parts: list[tuple[LossTable, np.ndarray]], distance: int) -> float:
    return sum(float(table.sensitivity(cells, distance).sum()) for table, cells in parts)


def _up(value: float) -> float:
    return math.ceil(value / _GRID) * _GRID
