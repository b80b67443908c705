"""Memorisation judged: planted secrets found, unseen ones not, false controls refused."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from reticent.attacks.memorisation.canaries import Canary, Template, draw_canaries
from reticent.attacks.memorisation.recurrent import CharacterModel, train_characters
from reticent.audit.memorisation import audit_memorisation
from reticent.errors import ConfigError, DataError
from reticent.guarantee import Pillar

TOKENS = {character: index for index, character in enumerate("0123456789abcdefghijklmnopqrst ")}
NAMES = [f" {first}{second}" for first in "klmnopqrst" for second in "abcd"]
TEMPLATES = [Template.of_text(f"{name} ####", TOKENS) for name in NAMES]
PLANTED = draw_canaries(TEMPLATES[:20], seed=1)
UNSEEN = draw_canaries(TEMPLATES[20:], seed=2)


class Prior:
    """A model with tastes of its own and, for canaries it knows, less of a cost."""

    def __init__(self, known: tuple[Canary, ...] = (), less: float = 0.0) -> None:
        self.known = {canary.tokens for canary in known}
        self.less = less
        self.tastes = np.random.default_rng(0).normal(size=(40, 31))

    def __call__(self, sequences: NDArray[np.int64]) -> NDArray[np.float64]:
        costs = self.tastes[np.arange(sequences.shape[1]), sequences].sum(axis=1)
        mine = [tuple(row) in self.known for row in sequences.tolist()]
        return np.asarray(costs - self.less * np.array(mine))


def test_a_model_that_knows_the_canaries_is_found_out() -> None:
    (found,) = audit_memorisation(Prior(PLANTED, 30.0), PLANTED, UNSEEN)
    assert found.pillar is Pillar.TRAINING_DATA
    assert found.value == pytest.approx(math.log2(10_000))
    assert found.details["found whole"] == 20
    assert found.excess_ci[0] > 8
    assert found.details["p of no memorisation"] < 1e-12
    assert found.details["p of no memorisation, against controls"] < 1e-6
    json.dumps(found.to_json(), allow_nan=False)


def test_a_model_with_tastes_but_no_memory_is_not_accused() -> None:
    accused = 0
    for seed in range(40):
        planted = draw_canaries(TEMPLATES[:20], seed=100 + seed)
        unseen = draw_canaries(TEMPLATES[20:], seed=200 + seed)
        (found,) = audit_memorisation(Prior().__call__, planted, unseen, limit=1, samples=500)
        accused += found.excess_ci[0] > 0
        accused += found.details["p of no memorisation"] < 0.01
    # Two tests of at most 2.5 % and 1 % in each of 40 audits: above 6 by luck in one of 10^3.
    assert accused <= 6


def test_a_model_that_prefers_nothing_shows_no_excess() -> None:
    (found,) = audit_memorisation(lambda rows: np.zeros(len(rows)), PLANTED, UNSEEN)
    assert found.excess == 0
    assert found.details["p of no memorisation"] == 1.0


def test_controls_that_were_trained_on_or_planted_are_refused() -> None:
    with pytest.raises(DataError, match="ranks are uniform"):
        audit_memorisation(Prior(UNSEEN, 30.0), PLANTED, UNSEEN)
    with pytest.raises(DataError, match="never planted"):
        audit_memorisation(Prior(), PLANTED, PLANTED)
    with pytest.raises(ConfigError, match="10 controls"):
        audit_memorisation(Prior(), PLANTED, UNSEEN[:3])


def trained(times: int) -> CharacterModel:
    rng = np.random.default_rng(0)
    lines = rng.integers(10, 31, size=(300, 8))
    lines[:, 0] = TOKENS[" "]
    text = np.concatenate([lines, *[np.tile(c.sequence, (times, 1)) for c in PLANTED]])
    model = CharacterModel(vocabulary=31, hidden=64, seed=0)
    return train_characters(model, text, epochs=20, seed=0)


def test_a_recurrent_model_repeats_what_it_was_told_often_and_not_what_it_never_was() -> None:
    told, untold = trained(8), trained(0)
    (found,) = audit_memorisation(untold, PLANTED, UNSEEN, undefended=told)
    assert found.excess_ci[0] <= 0.5
    assert found.details["p of no memorisation"] > 0.001
    assert found.ceiling is not None
    assert found.ceiling > 8
    (found,) = audit_memorisation(told, PLANTED, UNSEEN)
    assert found.excess_ci[0] > 4
    assert found.details["method"] == ["exact"]
