"""Screens without shadow models of the candidates: loss, difficulty, quantile."""

from __future__ import annotations

import numpy as np
import pytest
from membership_worlds import planted
from sklearn.metrics import roc_auc_score

from reticent.attacks.membership.screens import difficulty_scores, loss_scores, quantile_scores
from reticent.attacks.membership.signals import Signals
from reticent.attacks.spec import Labelled
from reticent.errors import DataError


def test_the_loss_is_the_log_confidence_of_the_candidates() -> None:
    world = planted(models=2, rows=30, effect=1)
    target = world.target(0)
    assert np.array_equal(loss_scores(target), target.log_confidence[:30])


def test_one_reference_already_removes_how_hard_a_record_is() -> None:
    world = planted(models=2, rows=8000, effect=1.5)
    target, rest = world.target(0), world.without(0)
    plain = roc_auc_score(world.member[0], loss_scores(target))
    calibrated = roc_auc_score(world.member[0], difficulty_scores(target, rest))
    assert calibrated > plain + 0.02


def test_the_quantile_screen_learns_hardness_from_the_population() -> None:
    """Hardness and scale follow a feature: the loss mixes it in, the screen takes it out."""
    rng = np.random.default_rng(0)
    n, z = 1500, 1500
    x = rng.normal(size=(n + z, 5)).astype(np.float32)
    member = rng.random(n) < 0.5
    margin = 4 * x[:, 0] + np.exp(0.5 * x[:, 1]) * rng.normal(size=n + z)
    margin[:n] += 1.5 * member * np.exp(0.5 * x[:n, 1])
    signals = Signals(margin=margin, log_confidence=-np.logaddexp(0, -margin), pool=n)
    y = np.zeros(n + z, np.int64)
    pool, population = Labelled(x=x[:n], y=y[:n]), Labelled(x=x[n:], y=y[n:])
    screened = quantile_scores(signals, pool, population)
    assert roc_auc_score(member, screened) > roc_auc_score(member, loss_scores(signals)) + 0.1
    clean = Signals(
        margin=margin - 1.5 * np.pad(member, (0, z)) * np.exp(0.5 * x[:, 1]),
        log_confidence=signals.log_confidence,
        pool=n,
    )
    assert abs(roc_auc_score(member, quantile_scores(clean, pool, population)) - 0.5) < 0.05


def test_signals_of_other_records_are_refused() -> None:
    target = planted(models=1, rows=30, effect=1, population=60).target(0)
    records = Labelled(x=np.zeros((30, 2), np.float32), y=np.zeros(30, np.int64))
    with pytest.raises(DataError, match="population"):
        quantile_scores(target, records, records)
