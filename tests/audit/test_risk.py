"""Risks beyond a control: their intervals cover, and say nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from reticent.audit.risk import risk_beyond, wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 20), (7, 50), (50, 50)])
def test_the_score_interval_is_scipys(hits: int, n: int) -> None:
    rate, interval = wilson(hits, n)
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert rate == hits / n
    assert interval == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("attack", "control"), [(0.3, 0.3), (0.6, 0.2), (0.05, 0.0), (1.0, 0.2)])
def test_intervals_cover_the_true_difference_and_the_true_risk(
    attack: float, control: float
) -> None:
    rng = np.random.default_rng(0)
    covered = np.zeros(2)
    for _ in range(400):
        made = risk_beyond(rng.random(150) < attack, rng.random(120) < control)
        true = (attack - control) / (1 - control)
        covered[0] += made.excess_ci[0] <= attack - control <= made.excess_ci[1]
        covered[1] += made.risk_ci[0] <= true <= made.risk_ci[1]
    # 95 % nominal; 400 repetitions have a deviation of 1.1 points.
    assert (covered / 400 > 0.915).all(), covered


def test_all_and_nothing() -> None:
    full = risk_beyond(np.ones(300), np.zeros(300))
    assert full.risk == full.excess == 1.0
    assert 0.97 < full.risk_ci[0] < 1.0
    same = risk_beyond(np.ones(50), np.ones(50))
    assert same.risk == same.excess == 0.0
    assert same.excess_ci[0] < 0 < same.excess_ci[1]
