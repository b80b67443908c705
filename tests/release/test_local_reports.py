"""Local reports of a held table: every mechanism by name, estimates, what is refused or void."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from reticent.errors import ConfigError
from reticent.privacy.ledger import Cap, Ledger, record_digests
from reticent.release.local.numeric import MeanEstimate
from reticent.release.local.oracle import Estimate
from reticent.release.reports import FREQUENCY, NUMERIC, Randomiser, category_list, release_reports

N = 3000
RNG = np.random.default_rng(2)
TABLE = {
    "job": RNG.choice(["a", "b", "c"], N, p=[0.5, 0.4, 0.1]),
    "age": RNG.uniform(20, 60, N),
    "id": np.arange(N),
}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger.create(tmp_path / "budget.db")
    made.grant("people", record_digests(TABLE), cap=Cap(epsilon=100, delta=0))
    return made


@pytest.mark.parametrize("mechanism", FREQUENCY)
def test_counts_lie_within_their_errors(mechanism: str, ledger: Ledger) -> None:
    asked = Randomiser(mechanism=mechanism, epsilon=3.0, categories=("a", "b", "c", "d"))
    made = release_reports(TABLE, "job", asked, ledger=ledger)
    assert isinstance(made.estimate, Estimate)
    true = np.array([(TABLE["job"] == name).sum() for name in asked.categories])
    # The source has no seed: a false alarm comes about once in 10^5 runs.
    assert np.abs((made.estimate.counts - true) / made.estimate.standard_errors).max() < 5
    assert len(made.reports) == N
    assert made.guarantee is not None
    strength = made.guarantee.strength
    assert strength.neighboring_relation == "replace one"  # type: ignore[union-attr]
    assert (made.epsilon_per_report, strength.epsilon) == (3.0, 3.0)  # type: ignore[union-attr]


@pytest.mark.parametrize("mechanism", NUMERIC)
def test_means_lie_within_their_errors(mechanism: str, ledger: Ledger) -> None:
    asked = Randomiser(mechanism=mechanism, epsilon=2.0, bounds=(0.0, 80.0))
    made = release_reports(TABLE, "age", asked, ledger=ledger)
    assert isinstance(made.estimate, MeanEstimate)
    error = abs(made.estimate.mean - TABLE["age"].mean())
    assert error < 5 * made.estimate.standard_error
    assert made.estimate.standard_error < 80 * 2 / math.sqrt(N)


def test_an_experiment_is_void_and_repeats(ledger: Ledger) -> None:
    asked = Randomiser(mechanism="oue", epsilon=1.0, categories=("a", "b", "c"))
    first, second = (
        release_reports(TABLE, "job", asked, ledger=None, experiment=True, seed=3) for _ in range(2)
    )
    assert np.array_equal(first.reports, second.reports)
    assert first.guarantee is None
    assert first.spent is None
    assert "experiments only" in str(first.void)
    with pytest.raises(ConfigError, match="none for an experiment"):
        release_reports(TABLE, "job", asked, ledger=ledger, experiment=True, seed=3)
    with pytest.raises(ConfigError, match="Expected a ledger"):
        release_reports(TABLE, "job", asked, ledger=None)
    with pytest.raises(ConfigError, match="Expected a seed with experiment=True"):
        release_reports(TABLE, "job", asked, ledger=ledger, seed=3)
    secret = [release_reports(TABLE, "job", asked, ledger=ledger).reports for _ in range(2)]
    assert not np.array_equal(*secret)


def test_the_catch_all_takes_missing_and_other_values() -> None:
    table = {"x": ["a", None, "zebra", "a", ""]}
    asked = Randomiser(
        mechanism="response", epsilon=20.0, categories=("a", "rest"), catch_all="rest"
    )
    made = release_reports(table, "x", asked, ledger=None, experiment=True, seed=1)
    assert made.reports.tolist() == [0, 1, 1, 0, 1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mechanism": "magic"}, "mechanism='magic'"),
        ({"categories": ()}, "categories alone"),
        ({"bounds": (0.0, 1.0)}, "categories alone"),
        ({"mechanism": "duchi"}, "bounds alone"),
        ({"mechanism": "duchi", "categories": (), "bounds": (1.0, 0.0)}, "lower < upper"),
        ({"categories": ("a", "a")}, "distinct"),
        ({"catch_all": "z"}, "Add it to them"),
        ({"epsilon": 0.0}, "epsilon <= 20"),
        ({"epsilon": math.inf}, "epsilon <= 20"),
        ({"categories": ("a",)}, "2 to"),
    ],
)
def test_what_cannot_be_randomised_is_refused(wrong: dict[str, object], message: str) -> None:
    given = {"mechanism": "oue", "epsilon": 1.0, "categories": ("a", "b")} | wrong
    with pytest.raises(ConfigError, match=message):
        Randomiser(**given)  # type: ignore[arg-type]


def test_categories_are_written_with_commas() -> None:
    assert category_list(" a, b c ,d,") == ("a", "b c", "d")
