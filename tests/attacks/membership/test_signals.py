"""Signals: exact where float32 probabilities saturate; moments equal their plain form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from membership_worlds import planted

from reticent.attacks.membership.signals import (
    FLOOR,
    Moments,
    References,
    Signals,
    log_confidence,
    margin,
)
from reticent.errors import DataError


def logs(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_the_margin_is_the_logit_less_the_log_sum_of_the_others() -> None:
    rng = np.random.default_rng(0)
    logits, y = rng.normal(size=(3, 5, 4)), np.array([0, 3, 1, 2, 2])
    slow = [
        [
            row[label] - math.log(sum(math.exp(v) for c, v in enumerate(row) if c != label))
            for row, label in zip(model, y, strict=True)
        ]
        for model in logits
    ]
    assert np.allclose(margin(logs(logits), y), slow, rtol=0, atol=1e-12)


def test_two_classes_give_the_difference_of_logits() -> None:
    logits = np.array([[3.0, -1.0], [0.5, 2.0]])
    assert np.allclose(margin(logs(logits), np.array([0, 1])), [4.0, 1.5])


def test_float32_answers_keep_margins_that_float32_probabilities_lose() -> None:
    gaps = np.array([10.0, 20.0, 30.0, 40.0])
    answers = np.stack([-np.log1p(np.exp(-gaps)), -gaps - np.log1p(np.exp(-gaps))], axis=1)
    y = np.zeros(4, dtype=np.int64)
    assert np.allclose(margin(answers.astype(np.float32), y), gaps, rtol=1e-6)
    naive = np.exp(answers[:, 0]).astype(np.float32)
    with np.errstate(divide="ignore"):
        assert not np.isfinite(np.log(naive / (1 - naive))).all()


def test_a_probability_of_zero_stays_finite_on_either_side() -> None:
    answers = np.array([[0.0, -708.0], [-708.0, 0.0]])
    assert np.array_equal(margin(answers, np.array([0, 0])), [-FLOOR, FLOOR])


def test_blocks_of_models_give_what_one_model_gives() -> None:
    rng = np.random.default_rng(1)
    answers, y = logs(rng.normal(size=(6, 8, 3))).astype(np.float32), rng.integers(3, size=8)
    many = Signals.of_answers(answers, y, pool=5)
    one = Signals.of_answers(answers[4], y, pool=5)
    assert np.array_equal(many.margin[4], one.margin)
    assert np.array_equal(many.log_confidence[4], one.log_confidence)
    assert many.candidates.shape == (6, 5)


@pytest.mark.parametrize(
    ("answers", "y"),
    [
        (np.zeros((4, 2)), np.zeros(3, np.int64)),
        (np.zeros((4, 2)), np.full(4, 2)),
        (np.full((4, 2), np.nan), np.zeros(4, np.int64)),
        (np.zeros((4, 1)), np.zeros(4, np.int64)),
    ],
)
def test_answers_that_do_not_fit_are_refused(answers: np.ndarray, y: np.ndarray) -> None:
    with pytest.raises(DataError):
        margin(answers, y)
    with pytest.raises(DataError):
        log_confidence(answers, y)


def test_moments_equal_the_loop() -> None:
    world = planted(models=9, rows=30, effect=1)
    values = world.signals.candidates
    found = Moments.of(values, world.member)
    for row in range(30):
        for side in (0, 1):
            own = values[world.member[:, row] == bool(side), row]
            assert found.count[side, row] == len(own)
            if len(own):
                assert found.mean[side, row] == pytest.approx(own.mean(), abs=1e-12)
                squares = ((own - own.mean()) ** 2).sum()
                assert found.squares[side, row] == pytest.approx(squares, abs=1e-10)


def test_references_without_a_model_keep_the_others_in_order() -> None:
    world = planted(models=5, rows=7, effect=1)
    left = world.without(2)
    assert np.array_equal(left.member, world.member[[0, 1, 3, 4]])
    assert np.array_equal(left.signals.margin, world.signals.margin[[0, 1, 3, 4]])
    assert np.array_equal(world.target(2).margin, world.signals.margin[2])


def test_membership_of_another_shape_is_refused() -> None:
    world = planted(models=5, rows=7, effect=1)
    with pytest.raises(DataError, match="member"):
        References(signals=world.signals, member=world.member[:, :-1])
