"""Label-only attacks: exact distances where the boundary is known, queries as stated."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from reticent.attacks.membership.label_only import boundary_distances, gap_scores, noise_scores
from reticent.attacks.spec import Labelled
from reticent.attacks.target import Victim
from reticent.errors import BudgetExhaustedError, ConfigError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 6)).astype(np.float32)
Y = (X @ np.ones(6, np.float32) > 0).astype(np.int64)
RECORDS = Labelled(x=X, y=Y)


def half_spaces(x: np.ndarray) -> np.ndarray:
    side = 5 * (x @ np.ones(6))
    return np.stack([np.zeros(len(x)), side], axis=1)


VICTIM = Victim.of_function(half_spaces, sample=X, outputs="logits")


def test_the_gap_is_whether_the_label_is_right() -> None:
    wrong = Labelled(x=X, y=np.where(np.arange(120) < 10, 1 - Y, Y))
    target = VICTIM.at_label()
    assert np.array_equal(gap_scores(target, wrong), np.arange(120) >= 10)
    assert target.queries == 120


def test_the_distance_to_a_plane_is_found() -> None:
    target = VICTIM.at_label()
    found = boundary_distances(target, RECORDS, queries=400)
    true = np.abs(X @ np.ones(6)) / np.sqrt(6)
    assert (found >= true - 1e-4).all()
    assert np.median(found / true) < 1.05
    assert np.corrcoef(found, true)[0, 1] > 0.98
    assert target.queries <= 400 * 120


def test_more_queries_come_closer() -> None:
    true = np.abs(X @ np.ones(6)) / np.sqrt(6)
    excess = [
        np.mean(boundary_distances(VICTIM.at_label(), RECORDS, queries=queries) / true)
        for queries in (40, 120, 400)
    ]
    assert excess[0] > excess[1] > excess[2]


def test_a_wrong_label_is_at_distance_nought() -> None:
    wrong = Labelled(x=X, y=np.where(np.arange(120) < 10, 1 - Y, Y))
    found = boundary_distances(VICTIM.at_label(), wrong, queries=60)
    assert (found[:10] == 0).all()
    assert (found[10:] > 0).all()
    none = Labelled(x=X, y=1 - Y)
    assert not boundary_distances(VICTIM.at_label(), none, queries=60).any()


def test_a_model_with_one_answer_gives_equal_finite_distances() -> None:
    constant = Victim.of_function(
        lambda x: np.tile([2.0, 0.0], (len(x), 1)), sample=X, outputs="logits"
    )
    records = Labelled(x=X, y=np.zeros(120, np.int64))
    found = boundary_distances(constant.at_label(), records, queries=60)
    assert np.isfinite(found).all()
    assert len(np.unique(found)) == 1


def test_the_share_of_noisy_copies_follows_the_distance() -> None:
    target = VICTIM.at_label()
    found = noise_scores(target, RECORDS, copies=20)
    assert np.corrcoef(found, np.abs(X @ np.ones(6)))[0, 1] > 0.7
    assert target.queries == 120 * (1 + 20 * 4)
    assert ((found >= 0) & (found <= 1)).all()


def test_islands_around_members_are_found_from_labels_alone() -> None:
    """A model that remembers: near a member it answers the member's label, elsewhere class 0."""
    members = X[:60]

    def remembers(x: np.ndarray) -> np.ndarray:
        near = np.linalg.norm(x[:, None, :] - members[None], axis=2).min(axis=1)
        return np.stack([np.zeros(len(x)), np.where(near < 1.5, 5.0, -5.0)], axis=1)

    victim = Victim.of_function(remembers, sample=X, outputs="logits")
    edge = members + RNG.normal(size=members.shape) * 0.4
    x = np.concatenate([members, edge]).astype(np.float32)
    records = Labelled(x=x, y=np.ones(120, np.int64))
    truth = np.arange(120) < 60
    others = Labelled(x=np.concatenate([x, 9 + X]), y=np.ones(240, np.int64))
    noise = noise_scores(victim.at_label(), records, levels=(0.4, 0.6, 0.8))
    walked = boundary_distances(victim.at_label(), others, queries=150)[:120]
    assert roc_auc_score(truth, noise) > 0.65
    assert roc_auc_score(truth, walked) > 0.65


def test_budgets_hold() -> None:
    with pytest.raises(BudgetExhaustedError):
        boundary_distances(VICTIM.at_label(budget=1000), RECORDS, queries=100)
    with pytest.raises(ConfigError, match="queries"):
        boundary_distances(VICTIM.at_label(), RECORDS, queries=10)
    with pytest.raises(ConfigError, match="copies"):
        noise_scores(VICTIM.at_label(), RECORDS, copies=0)
