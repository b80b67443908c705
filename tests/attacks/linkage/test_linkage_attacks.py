"""Linkage against slow oracles: the scoreboard's formula, and classes of equal rows."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from reticent.attacks.linkage.ratings import Ratings, synthetic_ratings
from reticent.attacks.linkage.records import class_sizes, exact_links, k_map, nearest_links
from reticent.attacks.linkage.scoreboard import Scoreboard
from reticent.data.embedded import adult_columns
from reticent.errors import ConfigError, DataError


def slow_scores(released: Ratings, known: Ratings, target: int) -> np.ndarray:
    """Narayanan and Shmatikov 2008, section 5, written as it stands there."""
    support = released.support()

    def entries(ratings: Ratings, user: int) -> dict[int, tuple[float, float]]:
        span = range(ratings.starts[user], ratings.starts[user + 1])
        days = ratings.days if ratings.days is not None else np.zeros(len(ratings.items))
        return {int(ratings.items[i]): (ratings.values[i], float(days[i])) for i in span}

    scores = []
    for user in range(len(released)):
        theirs, total = entries(released, user), 0.0
        for item, (value, day) in entries(known, target).items():
            if item in theirs:
                fit = math.exp(-abs(value - theirs[item][0]) / 1.5)
                if released.days is not None:
                    fit += math.exp(-abs(day - theirs[item][1]) / 30)
                total += fit / math.log(max(support[item], 2))
        scores.append(total)
    return np.array(scores)


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("lineup", [2, 7])
def test_the_scoreboard_is_the_papers_formula(timed: bool, lineup: int) -> None:
    released = synthetic_ratings(80, 60, mean=15, seed=1)
    if not timed:
        owner = np.repeat(np.arange(80), np.diff(released.starts))
        released = Ratings.of_triplets(owner, released.items, released.values, count=80, width=60)
    known = released.take(np.array([3, 40, 77]))
    links = Scoreboard(released).match(known, lineup=lineup)
    for target in range(3):
        oracle = slow_scores(released, known, target)
        ordered = np.sort(oracle)[::-1]
        np.testing.assert_allclose(links.scores[target], ordered[:lineup])
        np.testing.assert_allclose(oracle[links.candidates[target]], ordered[:lineup])
        lead = (ordered[0] - ordered[1]) / oracle.std()
        assert links.eccentricity[target] == pytest.approx(lead)
    assert links.candidates[:, 0].tolist() == [3, 40, 77]


def test_items_that_nobody_rated_say_nothing() -> None:
    released = Ratings.of_triplets(
        np.array([0, 1]), np.array([0, 1]), np.array([1.0, 2.0]), count=3, width=4
    )
    known = Ratings.of_triplets(np.array([0]), np.array([3]), np.array([5.0]), width=4)
    links = Scoreboard(released).match(known)
    assert links.scores.tolist() == [[0.0, 0.0]]
    assert not links.accepted().any()


def test_taking_users_keeps_their_ratings() -> None:
    ratings = synthetic_ratings(50, 40, mean=8, seed=2)
    few = ratings.take(np.array([7, 7, 0]))
    assert len(few) == 3
    for place, user in enumerate((7, 7, 0)):
        mine = slice(few.starts[place], few.starts[place + 1])
        theirs = slice(ratings.starts[user], ratings.starts[user + 1])
        np.testing.assert_array_equal(few.items[mine], ratings.items[theirs])
        np.testing.assert_array_equal(few.values[mine], ratings.values[theirs])


def test_ratings_that_are_none_are_refused() -> None:
    one = np.array([0, 0])
    with pytest.raises(DataError, match="several"):
        Ratings.of_triplets(one, one, np.array([1.0, 2.0]))
    with pytest.raises(DataError, match="finite"):
        Ratings.of_triplets(one, np.array([0, 1]), np.array([1.0, np.nan]))
    with pytest.raises(DataError, match="length"):
        Ratings.of_triplets(one, np.array([0]), np.array([1.0]))
    with pytest.raises(DataError, match="items in"):
        Ratings.of_triplets(one, np.array([0, 5]), np.array([1.0, 1.0]), width=3)
    ratings = synthetic_ratings(50, 40, mean=8)
    with pytest.raises(ConfigError, match="scale"):
        Scoreboard(ratings, day_scale=0.0)
    with pytest.raises(DataError, match="items"):
        Scoreboard(ratings).match(synthetic_ratings(5, 30, mean=8))


def people(n: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "birth": rng.integers(1930, 2010, size=n),
        "sex": np.array(["f", "m"])[rng.integers(2, size=n)],
        "zip": rng.integers(20, size=n).astype(str),
    }


def test_exact_links_are_what_comparing_all_rows_gives() -> None:
    release, register = people(300, 0), people(200, 1)
    names = ("birth", "sex", "zip")
    links = exact_links(release, register, names)
    same = np.ones((200, 300), dtype=bool)
    for name in names:
        same &= register[name][:, None] == release[name][None, :]
    np.testing.assert_array_equal(links.candidates, same.sum(axis=1))
    np.testing.assert_array_equal(links.targets[:, None] == links.released[None, :], same)
    np.testing.assert_array_equal(k_map(release, register, names), same.sum(axis=0))
    within = np.ones((300, 300), dtype=bool)
    for name in names:
        within &= release[name][:, None] == release[name][None, :]
    np.testing.assert_array_equal(class_sizes(release, names), within.sum(axis=1))


def test_the_nearest_row_survives_perturbation_where_equality_does_not() -> None:
    rng = np.random.default_rng(0)
    register = {f"m{i}": rng.normal(size=400) for i in range(5)}
    release = {name: values + 0.01 * rng.normal(size=400) for name, values in register.items()}
    assert exact_links(release, register, tuple(register)).candidates.sum() == 0
    rows = nearest_links(release, register, tuple(register), rng=rng)
    assert (rows == np.arange(400)).mean() > 0.99


def test_nearly_half_of_the_census_training_rows_are_unique_on_eight_columns() -> None:
    """Adult's eight usual quasi-identifiers, beside a plain count of equal rows."""
    columns = adult_columns()
    part = columns["part"] == "train"
    names = (
        "age", "workclass", "education-num", "marital-status", "occupation", "race", "sex",
        "native-country",
    )  # fmt: skip
    sizes = class_sizes({name: columns[name][part] for name in names}, names)
    rows = list(zip(*(columns[name][part].tolist() for name in names), strict=True))
    counted = Counter(rows)
    assert sizes.tolist() == [counted[row] for row in rows]
    assert (sizes == 1).mean() == pytest.approx(0.465, abs=0.0005)
