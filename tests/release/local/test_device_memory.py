"""Memory: a repeated value costs nothing, a new one does, and averaging wins nothing."""

from __future__ import annotations

import numpy as np
import pytest

from reticent.errors import BudgetExhaustedError, ConfigError
from reticent.release.local.draws import ExperimentSource
from reticent.release.local.memory import Device
from reticent.release.local.rappor import Rappor
from reticent.release.local.response import RandomisedResponse


def test_the_same_value_gets_the_same_report_and_each_new_one_is_charged() -> None:
    oracle = RandomisedResponse(categories=1000, epsilon=0.5)
    device = Device(oracle, most_values=2)
    first = device.report(3)
    assert all(np.array_equal(device.report(3), first) for _ in range(20))
    assert device.epsilon == 0.5
    device.report(4)
    assert device.epsilon == 1.0
    with pytest.raises(BudgetExhaustedError, match="Nothing was sent"):
        device.report(5)
    assert np.array_equal(device.report(3), first)
    first[:] = 999
    assert device.report(3)[0] != 999 or oracle.epsilon < 0


def test_rappor_reports_vary_but_average_to_the_permanent_bits_alone() -> None:
    oracle = Rappor(categories=4, epsilon=2.0, bits=32, hashes=2, cohorts=8)
    device = Device(oracle, most_values=4, source=ExperimentSource(1))
    reports = np.concatenate([device.report(1) for _ in range(4000)])
    assert len(np.unique(reports[:, :2], axis=0)) == 1
    assert len(np.unique(reports, axis=0)) > 1000
    means = np.unpackbits(reports[:, 2:], axis=1, count=32).mean(axis=0)
    kept = np.abs(means - 0.75) < np.abs(means - 0.5)
    assert np.abs(means - np.where(kept, 0.75, 0.5)).max() < 0.04
    cohort = int(reports[0, 0]) * 256 + int(reports[0, 1])
    # What an averager learns still differs from the filter where bits were flipped for good.
    assert (kept != oracle.filters[cohort, 1]).any()
    assert np.array_equal(device.report(2)[0, :2], reports[0, :2])
    assert device.epsilon == 4.0


def test_a_device_that_may_report_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="most_values=0"):
        Device(RandomisedResponse(categories=2, epsilon=1.0), most_values=0)
