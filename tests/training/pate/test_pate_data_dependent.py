"""Data-dependent bounds against exact divergences; sensitivities against brute enumeration."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Iterator

import numpy as np
import pate_exact as exact
import pytest
from scipy import integrate, stats

from reticent.errors import ConfigError, DataError
from reticent.privacy.ledger import ORDERS
from reticent.training.pate import data_dependent, sanitised
from reticent.training.pate.data_dependent import LossTable, renyi_bound, tables
from reticent.training.pate.mechanisms import ConfidentGNMax, GNMax, Questions
from reticent.training.pate.sanitised import (
    Publication,
    loss_of,
    publish,
    smooth_gaussian_loss,
    suggested_publication,
)
from reticent.training.pate.trace import PrivateTrace, label_margin, log_disagreement


def bound(counts: tuple[int, ...], table: LossTable) -> float:
    margin = np.array([label_margin(np.array(counts), table.scale)])
    return float(table.bounds[table.cells(margin)][0])


@pytest.mark.parametrize(("teachers", "classes"), [(14, 2), (9, 3), (7, 4)])
@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.5])
def test_no_neighbour_of_any_tiny_histogram_exceeds_the_bound(
    teachers: int, classes: int, sigma: float
) -> None:
    """D(M(D) || M(D')) for all D and D', by quadrature. Many bounds lie far below the flat one."""
    law = {
        counts: exact.outcome_log_probabilities(counts, sigma)
        for counts in exact.histograms(teachers, classes)
    }
    for order in (1.5, 4.0, 12.0):
        table = LossTable(scale=sigma, order=order, outcomes=classes)
        flat, helped, tightest = order / sigma**2, 0, 0.0
        for counts, own in law.items():
            allowed = bound(counts, table)
            worst = max(exact.renyi(own, law[other], order) for other in exact.neighbours(counts))
            assert worst <= allowed + 1e-9
            helped += allowed < 0.5 * flat
            tightest = max(tightest, worst / allowed)
        assert tightest > 0.2
        if sigma == 1.0 and order < 2:
            assert helped > 0


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_no_check_exceeds_the_bound(sigma: float) -> None:
    mechanism = ConfidentGNMax(sigma=5, threshold=20, check_sigma=sigma)
    for order, surplus in itertools.product((1.5, 4.0, 12.0), range(-15, 16)):
        table = tables(mechanism, order, 3)[1]
        assert table is not None
        trace = PrivateTrace(mechanism)
        trace.add_check(surplus)
        allowed = float(table.bounds[table.cells(np.array(trace._checks))][0])
        own = exact.check_log_probabilities(surplus, sigma)
        for moved in (-1, 1):
            other = exact.check_log_probabilities(surplus + moved, sigma)
            assert exact.renyi(own, other, order) <= allowed + 1e-9
        if abs(surplus) == 15 and order < 5:
            assert allowed < 0.01 * order / (2 * sigma**2)


def test_the_bound_by_hand() -> None:
    """Theorem 6 at q = e^-20, sigma 10, order 5, worked out term by term."""
    mu2 = 10 * math.sqrt(20)
    mu1, q = mu2 + 1, math.exp(-20)
    a = (1 - q) / (1 - (q * math.exp(mu2 / 100)) ** ((mu2 - 1) / mu2))
    b = math.exp(mu1 / 100) / q ** (1 / (mu1 - 1))
    by_hand = math.log((1 - q) * a**4 + q * b**4) / 4
    assert float(renyi_bound(np.array([-20.0]), scale=10, order=5)[0]) == pytest.approx(
        by_hand, rel=1e-6
    )
    # Where its conditions fail, the flat bound: q too large, and an order above mu1.
    high = renyi_bound(np.array([-0.1]), scale=10, order=5)
    assert float(high[0]) == 0.05
    assert float(renyi_bound(np.array([-20.0]), scale=10, order=60)[0]) == 0.6


@pytest.mark.parametrize("order", [1.5, 8.0, 32.0])
@pytest.mark.parametrize("scale", [1.0, 5.0, 40.0])
def test_the_bound_rises_with_the_chance_of_another_outcome(order: float, scale: float) -> None:
    found = renyi_bound(-np.geomspace(1e-3, 700, 4000), scale=scale, order=order)
    assert (np.diff(found) <= 1e-15 * order).all()


def test_disagreement_bounds_the_lattice_noise_s_own() -> None:
    """Proposition 7 with the lattice's slack, against the quadrature."""
    for counts in ((9, 4, 2), (5, 5, 5), (15, 0, 0), (8, 7, 0)):
        lost = np.delete(np.exp(exact.outcome_log_probabilities(counts, 2.0)), np.argmax(counts))
        assert lost.sum() <= math.exp(log_disagreement(np.array(counts), 2.0))


@pytest.mark.parametrize(("teachers", "classes"), [(12, 2), (8, 3), (6, 5)])
@pytest.mark.parametrize("sigma", [1.0, 4.0])
def test_one_teacher_moves_a_margin_by_at_most_one(
    teachers: int, classes: int, sigma: float
) -> None:
    moved = [
        abs(label_margin(np.array(a), sigma) - label_margin(np.array(b), sigma))
        for a in exact.histograms(teachers, classes)
        for b in exact.neighbours(a)
    ]
    assert max(moved) <= 1 + 1e-6
    # With two labels there is one gap, and a vote that moves changes it by two.
    assert max(moved) > (0.999 if classes == 2 else 0.6)


def test_windows_are_those_stated() -> None:
    """Every cell of a small table: moves up and down at distance 0, plain maxima further away."""
    table, reach = LossTable(scale=1.0, order=1.5, outcomes=2), data_dependent.REACH
    bounds, cells = table.bounds, np.arange(len(table.bounds))
    last = len(bounds) - 1
    drops = bounds - bounds[np.minimum(cells + reach, last)]
    here = table.sensitivity(cells, 0)
    for moved in (-reach, -data_dependent.CELLS, data_dependent.CELLS, reach):
        assert (here >= np.abs(bounds - bounds[np.clip(cells + moved, 0, last)])).all()
    for away in (0, 1, 5):
        start, end = (
            np.maximum(cells - (away + 1) * reach, 0),
            np.minimum(cells + away * reach, last),
        )
        brute = [drops[a : b + 1].max() for a, b in zip(start, end, strict=True)]
        assert (table.sensitivity(cells, away) == brute).all()


State = tuple[tuple[int, int], ...]
"""What each of some teachers votes on two questions, in order of the pairs."""


def states(teachers: int) -> Iterator[State]:
    pairs = list(itertools.product(range(2), range(2)))
    return iter(itertools.combinations_with_replacement(pairs, teachers))


def distance(a: State, b: State) -> int:
    pairs = set(a) | set(b)
    return sum(abs(a.count(pair) - b.count(pair)) for pair in pairs) // 2


def trace_of(state: State, mechanism: GNMax | ConfidentGNMax) -> PrivateTrace:
    trace = PrivateTrace(mechanism)
    for question in range(2):
        votes = np.bincount([pair[question] for pair in state], minlength=2)
        if isinstance(mechanism, ConfidentGNMax):
            trace.add_check(float(votes.max()) - mechanism.threshold)
        trace.add_label(votes)
    return trace


@pytest.mark.parametrize(
    "mechanism", [GNMax(sigma=1), ConfidentGNMax(sigma=1, threshold=4, check_sigma=1)]
)
@pytest.mark.parametrize(("order", "beta"), [(1.5, 0.3), (3.0, 0.1)])
def test_smooth_sensitivity_covers_the_brute_one_and_is_smooth(
    mechanism: GNMax | ConfidentGNMax, order: float, beta: float
) -> None:
    """Two questions, nine teachers, every joint vote: max over D' of e^(-beta d) LS(D')."""
    publication = Publication(order=order, smoothness=beta)
    found = {state: loss_of(trace_of(state, mechanism), publication) for state in states(9)}
    local = {
        state: max(abs(own.total - found[b].total) for b in found if distance(state, b) == 1)
        for state, own in found.items()
    }
    assert max(local.values()) > 0.05
    looseness = []
    for state, own in found.items():
        brute = max(math.exp(-beta * distance(state, b)) * local[b] for b in found)
        assert own.sensitivity >= brute - 1e-12
        looseness.append(own.sensitivity / brute)
        for b in found:
            if distance(state, b) == 1:
                assert own.sensitivity <= math.exp(beta) * found[b].sensitivity * (1 + 1e-12)
    # Windows take questions one by one, where the enumeration knows that they move together.
    assert max(looseness) < 3.0


def test_a_window_too_small_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of the test: with a reach of half a step, some move exceeds the sensitivity."""
    publication = Publication(order=1.5, smoothness=0.3)
    line = [((0, 0),) * top + ((1, 1),) * (9 - top) for top in range(5, 10)]
    for share, is_caught in ((1, False), (2, True)):
        monkeypatch.setattr(data_dependent, "REACH", data_dependent.CELLS // share)
        tables.cache_clear()
        found = [loss_of(trace_of(state, GNMax(sigma=1)), publication) for state in line]
        pairs = list(itertools.pairwise(found))
        too_far = [abs(a.total - b.total) > min(a.sensitivity, b.sensitivity) for a, b in pairs]
        assert any(too_far) == is_caught
    tables.cache_clear()


def divergence(ratio: float, shift: float, noise: float, order: float) -> float:
    """D_order of N(shift, (ratio noise)^2) from N(0, noise^2), by quadrature."""
    p, q = stats.norm(shift, ratio * noise), stats.norm(0.0, noise)

    def integrand(x: float) -> float:
        return math.exp(order * p.logpdf(x) + (1 - order) * q.logpdf(x))

    whole, _ = integrate.quad(integrand, -60 * noise, 60 * noise, points=[0.0, shift], limit=400)
    return math.log(whole) / (order - 1)


@pytest.mark.parametrize(("order", "beta"), [(2.0, 0.1), (8.0, 0.03), (16.0, 0.0156)])
def test_the_smooth_noise_costs_no_more_than_stated(order: float, beta: float) -> None:
    """All ratios of neighbouring sensitivities, the largest shift; and the paper's looser form."""
    noise, worst = 4.0, 0.0
    for log_ratio in np.linspace(-beta, beta, 9):
        ratio = math.exp(log_ratio)
        # In units of the second sensitivity, the shift is at most the lesser of the two.
        worst = max(worst, divergence(ratio, min(1.0, ratio), noise, order))
    stated = smooth_gaussian_loss(order, beta, noise)
    assert 0.85 * stated < worst <= stated + 1e-9
    paper = order * math.exp(2 * beta) / noise**2
    paper += (beta * order - 0.5 * math.log(1 - 2 * order * beta)) / (order - 1)
    assert stated < paper


def test_its_cost_is_infinite_where_the_divergence_is() -> None:
    publication = Publication(order=8.0)
    curve = publication.cost().curve
    assert curve[ORDERS.index(8.0)] is not None
    assert curve[ORDERS.index(512.0)] is None
    with pytest.raises(ConfigError, match="Lower smoothness"):
        Publication(order=8.0, smoothness=0.1)


def agreeing(share: float, teachers: int, questions: int, sigma: float) -> PrivateTrace:
    trace = PrivateTrace(GNMax(sigma=sigma))
    top = round(share * teachers)
    for _ in range(questions):
        trace.add_label(np.array([top, teachers - top, 0]))
    return trace


def test_what_is_published_bounds_the_loss_but_for_the_stated_chance() -> None:
    """300 publications at failure 0.2: the bound lies below the truth in at most a fifth."""
    trace, publication = agreeing(0.9, 2000, 400, 100.0), Publication(order=24.0)
    loss = loss_of(trace, publication)
    truth = loss.total + publication.loss(24.0)
    found = [sanitised._released(loss, publication, 0.2) for _ in range(300)]
    below = sum(value < truth for value in found)
    # Binomial(300, 0.2) exceeds 90 with chance below 1e-5.
    assert below <= 90
    assert len(set(found)) > 20
    assert np.median(found) < 5 * truth


def test_with_thousands_of_agreeing_teachers_it_is_far_below_the_worst_case() -> None:
    questions = Questions(mechanism=GNMax(sigma=100), asked=1000, answered=1000)
    publication = suggested_publication(
        questions, teachers=5000, classes=3, delta=1e-5, agreement=0.9
    )
    found = publish(agreeing(0.9, 5000, 1000, 100.0), publication, delta=1e-5, worst_case=1.76)
    assert found.epsilon < 0.6
    few = agreeing(0.9, 40, 200, 5.0)
    assert publish(few, Publication(order=6.0), delta=1e-5, worst_case=24.0).epsilon == 24.0


def test_the_raw_loss_is_hidden() -> None:
    loss = loss_of(agreeing(0.9, 100, 3, 10.0), Publication(order=8.0))
    assert repr(loss) == "PrivateLoss(hidden)"
    with pytest.raises(DataError, match="stay in memory"):
        pickle.dumps(loss)
    with pytest.raises(DataError, match="at least one label"):
        loss_of(PrivateTrace(GNMax(sigma=2)), Publication(order=8.0))
