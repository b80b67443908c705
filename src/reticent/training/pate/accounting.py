"""What questions to teachers cost whatever the data: one Gaussian event for each look at the votes.

Neighbours differ in one user (or record) added or removed, whose records all lie with one teacher:
one vote of each count vector moves from one label to another. The counts move by sqrt(2) in
Euclidean norm (GNMax); their maximum, also after subtracting public numbers, by at most 1 (check).
Papernot et al. 2018, proposition 8 and section 4.2. Replacing a user by one with another id is
two such steps, because the new id may lie with another teacher.

The bound holds for questions chosen in the light of earlier answers and for checks that decide
whether a label is bought, because the sum of squared sensitivities over noise never exceeds what
is charged (fully adaptive composition: Feldman & Zrnic 2021 for Rényi divergences, Smith &
Thakurta 2022 for Gaussian mechanisms).
"""

from __future__ import annotations

import importlib
import math
import warnings
from typing import Any

from reticent.errors import ConfigError, MissingExtraError
from reticent.privacy.ledger import Cost, zcdp
from reticent.training.pate.mechanisms import GNMax, Mechanism, Questions

FEWEST_TEACHERS = 250
"""Below this, noise that hides one teacher drowns the vote too: see `FewTeachersWarning`."""

_FINE, _COARSE = 1e-4, 1e-3


class FewTeachersWarning(UserWarning):
    """Too few teachers for a useful answer at a useful epsilon; the fields say how few."""

    def __init__(self, *, teachers: int, epsilon: float, delta: float) -> None:
        super().__init__(
            f"Expected teachers >= {FEWEST_TEACHERS}, got teachers={teachers}: these questions "
            f"cost epsilon={epsilon:.3g} at delta={delta:g}. Use more users, ask fewer questions, "
            "or train with DP-SGD, which needs fewer records."
        )
        self.teachers, self.epsilon, self.delta = teachers, epsilon, delta


def answer_rho(mechanism: Mechanism) -> float:
    """Zero-concentrated cost of one label: 2 / (2 sigma^2) (Bun & Steinke 2016, prop. 1.6)."""
    return 1.0 / mechanism.sigma**2


def check_rho(mechanism: Mechanism) -> float:
    """Zero-concentrated cost of one check: 1 / (2 sigma1^2); 0 for GNMax, which has none."""
    return 0.0 if isinstance(mechanism, GNMax) else 0.5 / mechanism.check_sigma**2


def rho(questions: Questions) -> float:
    """Zero-concentrated cost of all questions at most."""
    mechanism = questions.mechanism
    return questions.answered * answer_rho(mechanism) + questions.asked * check_rho(mechanism)


def cost(questions: Questions) -> Cost:
    """What a ledger is charged: exact for the lattice noise, see `noise`."""
    return zcdp(rho=rho(questions))


def event(questions: Questions) -> Any:
    """The questions as a `dp_accounting.ComposedDpEvent` of Gaussians."""
    accounting = _accounting()
    mechanism = questions.mechanism
    label = accounting.GaussianDpEvent(mechanism.sigma / math.sqrt(2))
    parts = [accounting.SelfComposedDpEvent(label, questions.answered)]
    if not isinstance(mechanism, GNMax):
        check = accounting.GaussianDpEvent(mechanism.check_sigma)
        parts.append(accounting.SelfComposedDpEvent(check, questions.asked))
    return accounting.ComposedDpEvent(parts)


def epsilon(questions: Questions, delta: float) -> float:
    """The epsilon of all questions at `delta`, by privacy loss distributions."""
    _check_delta(delta)
    _accounting()
    pld = importlib.import_module("dp_accounting.pld")
    # Where epsilon is in the tens, the finer grid takes seconds for a figure of no more use.
    interval = _FINE if rho(questions) < 1 else _COARSE
    accountant = pld.PLDAccountant(value_discretization_interval=interval)
    accountant.compose(event(questions))
    return float(accountant.get_epsilon(delta))


def affordable(mechanism: Mechanism, *, most: float, delta: float, asked: int) -> Questions:
    """As many labels among `asked` questions as epsilon = `most` at `delta` pays for.

    For GNMax the number asked is lowered to those answered. `ConfigError` where not even one
    label, beside the checks, can be paid for.
    """
    _check_delta(delta)
    if not most > 0 or asked < 1:
        raise ConfigError(f"Expected most > 0 and asked >= 1, got {most=}, {asked=}.")

    def questions(answered: int) -> Questions:
        only = isinstance(mechanism, GNMax)
        return Questions(mechanism=mechanism, asked=answered if only else asked, answered=answered)

    low, high = 0, asked
    while low < high:
        middle = (low + high + 1) // 2
        if gaussian_delta(2 * rho(questions(middle)), most) <= delta:
            low = middle
        else:
            high = middle - 1
    # The accountant rounds up by less than its grid: give one label back where that counts.
    while low and epsilon(questions(low), delta) > most:
        low -= 1
    if not low:
        raise ConfigError(
            f"Expected a budget for one label at least, got most={most}, asked={asked}. Add "
            "noise or ask less."
        )
    return questions(low)


def warn_of_few(teachers: int, epsilon: float, delta: float) -> FewTeachersWarning | None:
    """Warn below `FEWEST_TEACHERS`, and return the warning for the result to carry."""
    if teachers >= FEWEST_TEACHERS:
        return None
    made = FewTeachersWarning(teachers=teachers, epsilon=epsilon, delta=delta)
    warnings.warn(made, stacklevel=3)
    return made


def gaussian_delta(squared: float, epsilon: float) -> float:
    """Delta of a Gaussian whose squared sensitivity over variance is `squared` (= 2 rho).

    Balle & Wang 2018, theorem 8: Phi(m/2 - e/m) - exp(e) Phi(-m/2 - e/m), m = sqrt(squared).
    """
    special = importlib.import_module("scipy.special")
    m = math.sqrt(squared)
    second = math.exp(epsilon + float(special.log_ndtr(-m / 2 - epsilon / m)))
    return max(0.0, float(special.ndtr(m / 2 - epsilon / m)) - second)


def _accounting() -> Any:
    try:
        return importlib.import_module("dp_accounting")
    except ImportError as error:
        raise MissingExtraError("dp-accounting", "dp") from error


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ConfigError(f"Expected 0 < delta < 1, got delta={delta}. Take less than 1 / (10 n).")
