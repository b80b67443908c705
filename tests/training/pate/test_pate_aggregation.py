"""Aggregators answer by their algorithm boxes; votes don't leak by print, pickle or iteration."""

from __future__ import annotations

import pickle

import numpy as np
import pate_exact as exact
import pytest

from reticent.errors import BudgetExhaustedError, ConfigError, DataError
from reticent.training.pate import aggregation
from reticent.training.pate.aggregation import Aggregator, ask_all, noisy_plurality, passes
from reticent.training.pate.mechanisms import (
    ConfidentGNMax,
    GNMax,
    InteractiveGNMax,
    Mechanism,
    Questions,
)
from reticent.training.pate.noise import STEPS, SeededVoteNoise
from reticent.training.pate.votes import PrivateVotes


class Fixed:
    """Noise that a test dictates, in votes."""

    is_secure = False

    def __init__(self, *draws: float) -> None:
        self.draws = list(draws)

    def draw(self, count: int, *, sigma: float) -> list[int]:
        taken, self.draws = self.draws[:count], self.draws[count:]
        return [round(value * STEPS) for value in taken]


def votes(*counts: int) -> PrivateVotes:
    return PrivateVotes(np.array([counts]), teachers=sum(counts))


def aggregator(mechanism: Mechanism, *, asked: int = 1, answered: int = 1) -> Aggregator:
    plan = Questions(mechanism=mechanism, asked=asked, answered=answered)
    return Aggregator(plan, seed=1, experiment=True)


def test_the_label_has_gnmax_s_law() -> None:
    """4,000 labels of one histogram against the exact integral; 1.25 sigma is told apart."""
    counts, sigma, n = (12, 8, 4), 4.0, 4000
    noise = SeededVoteNoise(4)
    drawn = [noisy_plurality(votes(*counts), sigma, noise) for _ in range(n)]
    seen = np.bincount(drawn, minlength=3) / n
    for scale, is_right in ((1.0, True), (1.25, False)):
        truth = np.exp(exact.outcome_log_probabilities(counts, scale * sigma))
        assert (np.abs(seen - truth).max() < 4.5 * (0.25 / n) ** 0.5) == is_right


def test_ties_after_the_noise_go_to_the_lowest_label() -> None:
    assert noisy_plurality(votes(3, 5, 5), 2.0, Fixed(0, 0, 0)) == 1
    assert noisy_plurality(votes(3, 5, 5), 2.0, Fixed(2, 0, 0)) == 0
    assert noisy_plurality(votes(3, 5, 5), 2.0, Fixed(0, 0, 1 / STEPS)) == 2


def test_the_check_compares_the_noisy_maximum_with_the_threshold() -> None:
    mechanism = ConfidentGNMax(sigma=2, threshold=8, check_sigma=3)
    for noise, is_passed in ((1.0, True), (1.0 - 1 / STEPS, False)):
        assert passes(votes(7, 3, 0), mechanism, Fixed(noise)) == is_passed


def test_the_check_passes_as_often_as_it_should() -> None:
    mechanism, noise = ConfidentGNMax(sigma=2, threshold=8, check_sigma=3), SeededVoteNoise(2)
    n = 4000
    share = np.mean([passes(votes(7, 3, 0), mechanism, noise) for _ in range(n)])
    truth = np.exp(exact.check_log_probabilities(-1.0, 3.0)[1])
    assert abs(share - truth) < 4.5 * (0.25 / n) ** 0.5


def test_interactive_gnmax_asks_only_where_teachers_surely_disagree() -> None:
    mechanism = InteractiveGNMax(sigma=1, threshold=50, check_sigma=1, confidence=0.9)
    made = aggregator(mechanism, asked=4, answered=4)
    agree, apart = np.array([0.95, 0.05]), np.array([0.5, 0.5])
    found = [
        made.ask(votes(100, 0), expected=expected)
        for expected in (agree, apart, np.array([0.0, 1.0]))
    ]
    # 5 votes of surplus: the sure student keeps its label. 50: a coin. 100: the teachers speak.
    assert (found[0].label, found[0].source) == (0, "student")
    assert (found[2].label, found[2].source) == (0, "teachers")
    unsure = made.ask(votes(50, 50), expected=apart)
    assert (unsure.label, unsure.source) == (None, "nobody")
    # The surplus is of votes over what the student expects, not the votes themselves.
    assert passes(votes(100, 0), mechanism, Fixed(0.0), expected=apart)
    assert not passes(votes(99, 1), mechanism, Fixed(0.0), expected=apart)


def test_nothing_is_answered_beyond_the_plan() -> None:
    made = aggregator(ConfidentGNMax(sigma=1, threshold=10, check_sigma=1), asked=5, answered=2)
    seen = PrivateVotes(np.array([[100, 0], [0, 100], [100, 0], [100, 0]]), teachers=100)
    assert ask_all(made, seen).tolist() == [0, 1, -1, -1]
    assert (made.asked, made.answered) == (2, 2)
    with pytest.raises(BudgetExhaustedError, match="2 of 5 questions, 2 of 2 labels") as raised:
        made.ask(seen.one(2))
    assert raised.value.exit_code == 4
    refused = aggregator(ConfidentGNMax(sigma=1, threshold=99, check_sigma=1), asked=2, answered=2)
    even = PrivateVotes(np.full((3, 2), 50), teachers=100)
    assert ask_all(refused, even).tolist() == [-1, -1, -1]
    assert (refused.asked, refused.answered) == (2, 0)


def test_a_seed_needs_the_word_experiment() -> None:
    plan = Questions(mechanism=GNMax(sigma=2), asked=1, answered=1)
    assert Aggregator(plan).is_private
    assert not Aggregator(plan, seed=1, experiment=True).is_private
    for options in ({"seed": 1}, {"experiment": True}):
        with pytest.raises(ConfigError, match="experiment=True, which voids"):
            Aggregator(plan, **options)  # type: ignore[arg-type]


def test_votes_count_each_teacher_once_whatever_it_says() -> None:
    labels = np.array([[0, 2], [1, 2], [9, -4]])
    made = PrivateVotes.of(labels, classes=3)
    assert made._counts.tolist() == [[2, 1, 0], [1, 0, 2]]
    with pytest.raises(DataError, match="sum to teachers=4"):
        PrivateVotes(np.array([[1, 2]]), teachers=4)


def test_private_values_don_t_show() -> None:
    seen = votes(37, 63)
    made = aggregator(GNMax(sigma=2))
    made.ask(seen)
    for value in (seen, made.trace):
        assert "37" not in repr(value)
        assert "hidden" in repr(value)
        with pytest.raises(DataError, match="stay in memory"):
            pickle.dumps(value)
        assert not hasattr(value, "__dict__")
    with pytest.raises(DataError, match="through a mechanism only"):
        list(seen)  # type: ignore[call-overload]
    with pytest.raises(DataError, match="votes on one question"):
        aggregator(GNMax(sigma=2)).ask(PrivateVotes(np.array([[1, 2], [2, 1]]), teachers=3))


def test_the_student_s_distribution_goes_to_interactive_gnmax_alone() -> None:
    interactive = InteractiveGNMax(sigma=1, threshold=5, check_sigma=1)
    with pytest.raises(ConfigError, match="student's distribution"):
        aggregator(interactive).ask(votes(3, 4))
    with pytest.raises(ConfigError, match="student's distribution"):
        aggregator(GNMax(sigma=2)).ask(votes(3, 4), expected=np.array([0.5, 0.5]))
    with pytest.raises(DataError, match=r"distribution of shape \(2,\)"):
        aggregator(interactive).ask(votes(3, 4), expected=np.array([0.5, 0.5, 0.0]))
    assert aggregation.Answer(label=None, source="nobody").label is None
