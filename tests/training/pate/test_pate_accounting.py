"""Costs against exact divergences of tiny histograms, dp-accounting and sums by hand."""

from __future__ import annotations

import itertools
import math
import warnings

import pate_exact as exact
import pytest

from reticent.errors import ConfigError
from reticent.privacy.ledger import ORDERS, epsilon_at, gaussian
from reticent.training.pate import accounting
from reticent.training.pate.mechanisms import (
    ConfidentGNMax,
    GNMax,
    InteractiveGNMax,
    Mechanism,
    Questions,
)

CONFIDENT = ConfidentGNMax(sigma=40, threshold=200, check_sigma=150)


def questions(mechanism: Mechanism, asked: int, answered: int) -> Questions:
    return Questions(mechanism=mechanism, asked=asked, answered=answered)


@pytest.mark.parametrize(("teachers", "classes"), [(4, 2), (3, 3), (4, 3)])
@pytest.mark.parametrize("sigma", [1.0, 2.5])
def test_no_pair_of_tiny_histograms_exceeds_the_cost(
    teachers: int, classes: int, sigma: float
) -> None:
    """All histograms, all neighbours: Renyi divergences and hockey sticks of the label."""
    mechanism, worst = GNMax(sigma=sigma), 0.0
    law = {
        counts: exact.outcome_log_probabilities(counts, sigma)
        for counts in exact.histograms(teachers, classes)
    }
    for counts, own in law.items():
        assert abs(sum(math.exp(value) for value in own) - 1) < 1e-9
        for other in exact.neighbours(counts):
            for order in (1.25, 2.0, 8.0, 32.0):
                ratio = exact.renyi(own, law[other], order) / (
                    order * accounting.answer_rho(mechanism)
                )
                worst = max(worst, ratio)
            for epsilon in (0.1, 1.0):
                allowed = accounting.gaussian_delta(2 * accounting.answer_rho(mechanism), epsilon)
                assert exact.hockey_stick(own, law[other], epsilon) <= allowed + 1e-12
    assert worst <= 1.0
    # The bound is one on the noisy votes. A label alone, at most two votes from a tie, tells less.
    assert worst > 0.4


def test_the_enumeration_would_catch_half_the_noise() -> None:
    claimed = 8.0 * accounting.answer_rho(GNMax(sigma=2.0))
    law = [exact.outcome_log_probabilities((8 - top, top), 1.0) for top in range(9)]
    assert max(exact.renyi(a, b, 8.0) for a, b in itertools.permutations(law, 2)) > claimed
    neighbouring = [exact.renyi(b, a, 8.0) for a, b in itertools.pairwise(law)]
    assert max(neighbouring) > claimed


@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_no_check_exceeds_its_cost(sigma: float) -> None:
    mechanism = ConfidentGNMax(sigma=10, threshold=3, check_sigma=sigma)
    for surplus, order in itertools.product(range(-4, 5), (2.0, 16.0)):
        own = exact.check_log_probabilities(surplus, sigma)
        for moved in (-1, 1):
            other = exact.check_log_probabilities(surplus + moved, sigma)
            assert exact.renyi(own, other, order) <= order * accounting.check_rho(mechanism)


def test_the_sums_by_hand() -> None:
    """300 labels at sigma 40 and 1,000 checks at 150: 300 / 1600 + 1000 / 45000."""
    asked = questions(CONFIDENT, 1000, 300)
    assert accounting.rho(asked) == pytest.approx(0.1875 + 0.0222222, rel=1e-5)
    assert accounting.check_rho(GNMax(sigma=5)) == 0.0
    gnmax = questions(GNMax(sigma=40), 300, 300)
    assert accounting.rho(gnmax) == pytest.approx(0.1875)
    # One label is a Gaussian of multiplier sigma / sqrt(2): what the ledger is charged.
    one = accounting.cost(questions(GNMax(sigma=40), 1, 1))
    same = gaussian(noise_multiplier=40 / math.sqrt(2))
    for mine, theirs in zip(one.curve, same.curve, strict=True):
        assert mine is not None
        assert theirs is not None
        assert abs(mine - theirs) <= 2
    order_2 = accounting.cost(asked).curve[ORDERS.index(2.0)]
    assert order_2 == pytest.approx(2 * accounting.rho(asked) * 1e12, rel=1e-9)


@pytest.mark.parametrize(
    "asked",
    [
        questions(GNMax(sigma=40), 300, 300),
        questions(CONFIDENT, 1000, 300),
        questions(InteractiveGNMax(sigma=20, threshold=100, check_sigma=100), 400, 100),
    ],
)
def test_epsilon_agrees_with_the_closed_form_and_stays_below_renyi(asked: Questions) -> None:
    """Gaussians compose to a Gaussian: Balle and Wang's delta at the accountant's epsilon."""
    pytest.importorskip("dp_accounting")
    found = accounting.epsilon(asked, 1e-5)
    squared = 2 * accounting.rho(asked)
    assert accounting.gaussian_delta(squared, found) <= 1e-5
    assert accounting.gaussian_delta(squared, found - 0.005) > 1e-5
    assert found <= epsilon_at(accounting.cost(asked), 1e-5)


def test_the_event_says_what_was_done() -> None:
    dp = pytest.importorskip("dp_accounting")
    event = accounting.event(questions(CONFIDENT, 1000, 300))
    labels, checks = event.events
    assert labels == dp.SelfComposedDpEvent(dp.GaussianDpEvent(40 / math.sqrt(2)), 300)
    assert checks == dp.SelfComposedDpEvent(dp.GaussianDpEvent(150), 1000)


def test_as_many_labels_as_the_budget_pays_for_and_not_one_more() -> None:
    pytest.importorskip("dp_accounting")
    made = accounting.affordable(CONFIDENT, most=2.0, delta=1e-5, asked=1000)
    assert accounting.epsilon(made, 1e-5) <= 2.0
    more = questions(CONFIDENT, 1000, made.answered + 1)
    assert accounting.epsilon(more, 1e-5) > 1.999
    plain = accounting.affordable(GNMax(sigma=40), most=1.0, delta=1e-5, asked=1000)
    assert plain.asked == plain.answered
    with pytest.raises(ConfigError, match="Expected a budget for one label"):
        accounting.affordable(GNMax(sigma=1), most=0.1, delta=1e-5, asked=10)


def test_few_teachers_are_warned_of_with_the_figure() -> None:
    with pytest.warns(accounting.FewTeachersWarning, match="cost epsilon=25.9") as seen:
        made = accounting.warn_of_few(40, 25.9, 1e-5)
    assert made is seen[0].message
    assert (made.teachers, made.epsilon, made.delta) == (40, 25.9, 1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert accounting.warn_of_few(250, 25.9, 1e-5) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: questions(GNMax(sigma=5), 10, 5), "Expected answered=asked for GNMax"),
        (lambda: questions(CONFIDENT, 5, 10), "Expected 1 <= answered <= asked"),
        (lambda: GNMax(sigma=0.5), "Expected 1 <= sigma"),
        (lambda: ConfidentGNMax(sigma=5, threshold=0, check_sigma=5), "Expected a threshold"),
        (
            lambda: InteractiveGNMax(sigma=5, threshold=9, check_sigma=5, confidence=1.0),
            "Expected 0 < confidence < 1",
        ),
        (lambda: accounting.epsilon(questions(GNMax(sigma=5), 1, 1), 0.0), "Expected 0 < delta"),
    ],
)
def test_what_means_nothing_is_refused(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]
