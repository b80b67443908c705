"""Scores of users from scores of their records, and canaries for training sets."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from reticent.attacks.membership.canaries import mislabelled, out_of_distribution
from reticent.attacks.membership.users import user_scores
from reticent.attacks.spec import Labelled
from reticent.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
RECORDS = Labelled(
    x=RNG.normal(size=(200, 2, 3)).astype(np.float32),
    y=RNG.integers(3, size=200),
    users=np.repeat(np.arange(40), 5),
)


def test_users_get_the_sum_or_the_mean() -> None:
    users, total = user_scores(np.array([1.0, 2.0, 4.0]), np.array([7, 3, 7]), how="sum")
    assert users.tolist() == [3, 7]
    assert total.tolist() == [2.0, 5.0]
    _users, mean = user_scores(np.array([1.0, 2.0, 4.0]), np.array([7, 3, 7]), how="mean")
    assert mean.tolist() == [2.0, 2.5]
    with pytest.raises(DataError):
        user_scores(np.zeros(3), np.zeros(2, np.int64), how="sum")


def test_a_users_records_together_say_more_than_each() -> None:
    users = np.repeat(np.arange(400), 10)
    member = np.repeat(RNG.random(400) < 0.5, 10)
    scores = 0.4 * member + RNG.normal(size=4000)
    _names, total = user_scores(scores, users, how="sum")
    assert roc_auc_score(member[::10], total) > roc_auc_score(member, scores) + 0.15


def test_mislabelled_canaries_differ_in_the_label_only() -> None:
    made = mislabelled(RECORDS, count=150, classes=3, seed=1)
    assert np.array_equal(made.records.x, RECORDS.x[made.rows])
    assert np.array_equal(made.records.users, RECORDS.users[made.rows])
    assert (made.records.y != RECORDS.y[made.rows]).all()
    assert set(made.records.y) == {0, 1, 2}
    assert len(np.unique(made.rows)) == 150
    assert 50 < made.included.sum() < 100
    assert len(made.members) + len(made.non_members) == 150


def test_out_of_distribution_canaries_keep_each_features_values() -> None:
    made = out_of_distribution(RECORDS, count=200, classes=3, seed=1)
    flat, source = made.records.x.reshape(200, -1), RECORDS.x.reshape(200, -1)
    assert all(np.isin(flat[:, i], source[:, i]).all() for i in range(6))
    originals = {row.tobytes() for row in source}
    assert not any(row.tobytes() in originals for row in flat)
    # Records are drawn per feature: correlations go.
    assert made.records.x.shape == (200, 2, 3)


def test_the_same_seed_makes_the_same_canaries() -> None:
    first, again = (mislabelled(RECORDS, count=20, classes=3, seed=4) for _ in range(2))
    assert np.array_equal(first.rows, again.rows)
    assert np.array_equal(first.included, again.included)
    assert not np.array_equal(first.rows, mislabelled(RECORDS, count=20, classes=3, seed=5).rows)


@pytest.mark.parametrize("make", [mislabelled, out_of_distribution])
def test_impossible_canaries_are_refused(make) -> None:
    with pytest.raises(ConfigError, match="count"):
        make(RECORDS, count=201, classes=3, seed=0)
    with pytest.raises(ConfigError, match="classes"):
        make(RECORDS, count=2, classes=1, seed=0)
