"""1 - X and 1 - F: near 0 for features that spell attributes out, at the floor for noise."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from reticent.attacks.view import Observed, ServerView
from reticent.audit.latent import audit_latent
from reticent.errors import ConfigError, DataError

NAMES = ("e0", "e1", "e2")


def part(count: int, seed: int, *, telling: bool) -> Observed:
    rng = np.random.default_rng(seed)
    private: dict[str, NDArray[np.int64]] = {
        "age": rng.integers(0, 3, size=count),
        "sex": (rng.random(count) < 0.7).astype(np.int64),
    }
    for name, share in zip(NAMES, (0.6, 0.2, 0.1), strict=True):
        private[name] = (rng.random(count) < share).astype(np.int64)
    told = np.stack([values.astype(float) for values in private.values()], axis=1)
    features = 0.3 * rng.normal(size=(count, 8))
    if telling:
        features[:, :5] += told
    return Observed(
        features=features.astype(np.float32),
        predicted=rng.integers(0, 2, size=count),
        inputs=features.astype(np.float32),
        private=private,
        users=None,
    )


def view(*, telling: bool) -> ServerView:
    parts = [part(count, seed, telling=telling) for seed, count in enumerate((600, 300, 400))]
    return ServerView(
        name="made up",
        attacker_train=parts[0],
        attacker_validation=parts[1],
        test=parts[2],
        classes=2,
    )


def test_features_that_spell_attributes_out_have_little_privacy() -> None:
    x, f = audit_latent(
        view(telling=True), attributes=("age", "sex"), entities=NAMES, families=("linear",)
    )
    assert x.details["1 - X"] == pytest.approx(1 - x.value)
    assert x.value > 0.85
    assert x.excess_ci[0] > 0.2
    assert f.value > 0.8
    assert f.excess_ci[0] > 0.1
    json.dumps([x.to_json(), f.to_json()], allow_nan=False)


def test_features_that_say_nothing_are_at_the_floor() -> None:
    x, f = audit_latent(
        view(telling=False), attributes=("age", "sex"), entities=NAMES, families=("linear",)
    )
    assert x.excess_ci[0] <= 0
    # The most frequent values: a third, and seven in ten.
    assert x.floor == pytest.approx((1 / 3 + 0.7) / 2, abs=0.05)
    assert f.excess_ci[0] <= 0
    assert f.details["always claimed"] == ["e0"]


def test_nothing_to_read_and_variables_that_are_not_binary_are_refused() -> None:
    with pytest.raises(ConfigError, match="neither"):
        audit_latent(view(telling=True))
    with pytest.raises(DataError, match="'age'"):
        audit_latent(view(telling=True), entities=("age",), families=("linear",))
