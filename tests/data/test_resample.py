"""Resampling: labels tied as much as asked, by leaving records out and never by changing one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reticent.data.generators.gait import gait
from reticent.data.generators.turbines import turbines
from reticent.data.resample import correlate
from reticent.errors import ConfigError

TASK = gait(persons=10, recordings=8)
AGREE = TASK.public % 2 == TASK.private["sex"]


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.8, 1.0])
def test_what_agrees_is_kept_and_the_rest_in_the_share_asked(strength: float) -> None:
    tied = correlate(TASK, "sex", strength=strength, seed=1)
    agree = tied.public % 2 == tied.private["sex"]
    assert agree.sum() == AGREE.sum()
    others = int((~AGREE).sum())
    spread = 5 * math.sqrt(strength * (1 - strength) * others)
    assert abs((~agree).sum() - (1 - strength) * others) <= spread
    assert tied.title == f"gait, sex tied {strength:g} (SYNTHETIC)"


def test_every_field_keeps_its_row() -> None:
    tied = correlate(TASK, "sex", strength=0.5)
    row_of = {record.tobytes(): row for row, record in enumerate(TASK.x)}
    rows = np.array([row_of[record.tobytes()] for record in tied.x])
    assert (np.diff(rows) > 0).all()
    assert TASK.users is not None
    assert TASK.recordings is not None
    assert np.array_equal(tied.public, TASK.public[rows])
    assert np.array_equal(tied.users, TASK.users[rows])
    assert np.array_equal(tied.recordings, TASK.recordings[rows])
    for name, values in TASK.private.items():
        assert np.array_equal(tied.private[name], values[rows])


def test_a_seed_reproduces_and_another_differs() -> None:
    first, again, other = (correlate(TASK, "sex", strength=0.5, seed=s).x for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_impossible_requests_are_refused() -> None:
    for attribute, strength in (("age", 0.5), ("sex", 1.5), ("sex", -0.1), ("sex", math.nan)):
        with pytest.raises(ConfigError, match=f"attribute='{attribute}', strength={strength}"):
            correlate(TASK, attribute, strength=strength)
    with pytest.raises(ConfigError, match="a task with classes"):
        correlate(turbines(machines=3), "load", strength=0.5)
