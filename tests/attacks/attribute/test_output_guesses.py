"""Guesses from answers alone, case by case as their papers state them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from reticent.attacks.attribute.imputation import Sensitive, impute, known_columns
from reticent.attacks.attribute.outputs import (
    Answers,
    ask,
    confidence_guess,
    label_guess,
    posterior_guess,
)
from reticent.attacks.spec import Access, Labelled
from reticent.attacks.target import Victim
from reticent.errors import BudgetExhaustedError, ConfigError, DataError

ONE_HOT = Sensitive(columns=(1, 2), values=np.eye(2, dtype=np.float32))


def records(n: int, seed: int) -> tuple[Labelled, np.ndarray]:
    """SYNTHETIC records: a number, the attribute one-hot, a number that hints at it."""
    rng = np.random.default_rng(seed)
    s = rng.integers(2, size=n)
    x = np.column_stack([rng.normal(size=n), s == 0, s == 1, rng.normal(size=n) + s])
    y = (x[:, 0] + 2 * s - 1 > 0).astype(np.int64)
    return Labelled(x=x.astype(np.float32), y=y), s


def test_the_attribute_is_read_filled_and_hidden_where_it_stands() -> None:
    people, s = records(50, 0)
    np.testing.assert_array_equal(ONE_HOT.read(people.x), s)
    flipped = ONE_HOT.fill(people.x, 1)
    assert (ONE_HOT.read(flipped) == 1).all()
    np.testing.assert_array_equal(flipped[:, [0, 3]], people.x[:, [0, 3]])
    np.testing.assert_array_equal(known_columns(people, ONE_HOT), people.x[:, [0, 3]])
    np.testing.assert_array_equal(ONE_HOT.read(people.x), s)
    with pytest.raises(DataError, match="stated values"):
        ONE_HOT.read(people.x * 0.5)
    with pytest.raises(ConfigError, match="shape"):
        Sensitive(columns=(1,), values=np.eye(2, dtype=np.float32))


def test_every_value_is_asked_and_the_true_one_never_shows() -> None:
    people, _s = records(60, 1)
    model = LogisticRegression().fit(people.x, people.y)
    victim = Victim.of_estimator(model, sample=people.x)
    target = victim.at_scores(budget=240)
    answers = ask(target, people, ONE_HOT)
    other = Labelled(x=ONE_HOT.fill(people.x, 0), y=people.y)
    np.testing.assert_array_equal(answers.logs, ask(target, other, ONE_HOT).logs)
    assert target.queries == 240
    with pytest.raises(BudgetExhaustedError):
        ask(target, people, ONE_HOT)
    expected = model.predict_log_proba(ONE_HOT.fill(people.x, 1))
    np.testing.assert_allclose(answers.logs[:, 1], expected, atol=1e-6)
    labels = ask(victim.at_label(), people, ONE_HOT, access=Access.LABEL)
    np.testing.assert_array_equal(labels.logs.argmax(axis=2), answers.logs.argmax(axis=2))
    with pytest.raises(DataError, match="gives scores"):
        ask(victim.at_label(), people, ONE_HOT)


def test_confidence_picks_the_value_of_each_of_the_papers_three_cases() -> None:
    probabilities = np.array(
        [
            [[0.9, 0.1], [0.3, 0.7]],  # only value 1 gives label 1
            [[0.4, 0.6], [0.1, 0.9]],  # both do: value 1 is surer
            [[0.2, 0.8], [0.45, 0.55]],  # neither gives label 0: value 1 is less sure
        ]
    )
    answers = Answers(logs=np.log(probabilities), graded=True)
    assert confidence_guess(answers, np.array([1, 1, 0])).tolist() == [1, 1, 1]
    prior = np.log([0.95, 0.05])
    assert posterior_guess(answers, np.array([1, 1, 0]), prior).tolist() == [0, 0, 0]
    assert posterior_guess(answers, np.array([1, 1, 0]), np.zeros(2)).tolist() == [1, 1, 1]


def test_labels_alone_teach_a_guess_for_those_they_leave_open() -> None:
    people, s = records(3000, 2)
    victim = Victim.of_function(
        lambda x: (
            np.stack([x[:, 0] + 2 * x[:, 2] - 1 <= 0, x[:, 0] + 2 * x[:, 2] - 1 > 0], axis=1) * 0.8
            + 0.1
        ),
        sample=people.x,
    )
    answers = ask(victim.at_label(), people, ONE_HOT, access=Access.LABEL)
    guesses = label_guess(answers, people, ONE_HOT, seed=0)
    open_ = (answers.logs.argmax(axis=2) == people.y[:, None]).sum(axis=1) != 1
    assert (guesses[~open_] == s[~open_]).all()
    assert 0.1 < open_.mean() < 0.5
    # Column 3 hints at the attribute: the best guess from it is right in 69 %.
    assert (guesses[open_] == s[open_]).mean() > 0.62


def test_imputation_knows_the_population_and_not_the_person() -> None:
    own, s = records(1500, 3)
    people, truth = records(1500, 4)
    scores = impute(own, s, people, classes=2, sensitive=ONE_HOT, seed=0)
    hits = scores.pooled(1).argmax(axis=1) == truth
    oracle = LogisticRegression().fit(np.column_stack([known_columns(own, ONE_HOT), own.y]), s)
    best = oracle.score(np.column_stack([known_columns(people, ONE_HOT), people.y]), truth)
    assert hits.mean() == pytest.approx(best, abs=0.03)
    with pytest.raises(DataError, match="30"):
        impute(own.take(np.arange(20)), s[:20], people, classes=2, seed=0)
