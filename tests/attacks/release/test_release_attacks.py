"""The attacks on a release, against slow oracles and on tables that leak all or nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import hypergeom

from reticent.attacks.release import singling_out
from reticent.attacks.release.inference import boosted_guess, nearest_guess, right
from reticent.attacks.release.linkability import by_chance, linked
from reticent.attacks.release.membership import closest_record, density_ratio
from reticent.attacks.release.neighbours import nearest
from reticent.attacks.release.table import Encoding, equivalence_classes, take
from reticent.errors import ConfigError, DataError

CITIES = np.array(["Bern", "Oslo", "Riga", "Rome"])


def people(n: int, seed: int) -> dict[str, np.ndarray]:
    """SYNTHETIC people: two numbers, two categories, a secret that depends on one of them."""
    rng = np.random.default_rng(seed)
    city = rng.integers(4, size=n)
    return {
        "age": rng.integers(18, 90, size=n),
        "income": rng.lognormal(10, 1, size=n),
        "city": CITIES[city],
        "smokes": rng.random(n) < 0.3,
        "ill": np.where(rng.random(n) < 0.2 + 0.15 * city, "yes", "no"),
    }


def test_points_put_numbers_and_categories_on_one_scale() -> None:
    table = {"a": np.array([0.0, 2.0, 4.0]), "b": np.array(["x", "y", "y"])}
    encoding = Encoding.of(table)
    other = {"a": np.array([0.0, 0.0]), "b": np.array(["x", "never seen"])}
    apart = ((encoding.points(other)[:, None] - encoding.points(table)[None]) ** 2).sum(axis=2)
    spread = np.std([0, 2, 4])
    expected = np.array([[0, 2, 4], [0, 2, 4]]) ** 2 / (4 * spread**2)
    expected += np.array([[0, 1, 1], [1, 1, 1]])
    np.testing.assert_allclose(apart, expected, rtol=1e-5)


def test_many_categories_take_no_more_room_and_stay_apart() -> None:
    postcodes = {"zip": np.array([f"{code:05d}" for code in range(3000)])}
    points = Encoding.of(postcodes).points(postcodes)
    assert points.shape == (3000, 128)
    apart = ((points[:200, None] - points[None, 200:400]) ** 2).sum(axis=2)
    assert 0.5 < apart.min() < apart.max() < 1.6
    rows, gaps = nearest(points[:50], points, 1, np.random.default_rng(0))
    np.testing.assert_array_equal(rows[:, 0], np.arange(50))
    assert (gaps == 0).all()


def test_tables_that_cannot_be_compared_are_refused() -> None:
    table = people(20, 0)
    with pytest.raises(DataError, match="columns"):
        Encoding.of(table, names=("age", "height"))
    with pytest.raises(DataError, match="length"):
        Encoding.of({"a": np.arange(3), "b": np.arange(4)})
    with pytest.raises(DataError, match="finite"):
        Encoding.of({"a": np.array([1.0, np.nan])})


def test_equivalence_classes_are_those_of_whole_rows() -> None:
    table = {**people(300, 1), "income": np.repeat([1, 2, 3], 100)}
    codes = Encoding.of(table).codes(table, ("city", "smokes", "ill", "income"))
    oracle = np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)
    made = equivalence_classes(codes)
    assert len(set(zip(oracle, made, strict=True))) == len(set(oracle)) == len(set(made))


@pytest.mark.parametrize(("points", "count"), [(5, 3), (64, 1), (1000, 4), (1000, 40)])
def test_nearest_is_what_sorting_all_distances_gives(points: int, count: int) -> None:
    rng = np.random.default_rng(0)
    known = rng.normal(size=(points, 6)).astype(np.float32)
    asked = rng.normal(size=(70, 6)).astype(np.float32)
    rows, gaps = nearest(asked, known, count, rng)
    apart = ((asked[:, None].astype(float) - known[None].astype(float)) ** 2).sum(axis=2)
    np.testing.assert_array_equal(rows, np.argsort(apart, axis=1)[:, :count])
    np.testing.assert_allclose(gaps, np.sort(apart, axis=1)[:, :count])


def test_equally_near_points_are_chosen_evenly() -> None:
    rng = np.random.default_rng(3)
    known = np.repeat(np.eye(2, dtype=np.float32), 50, axis=0)
    asked = np.tile(np.eye(2, dtype=np.float32)[:1], (100, 1))
    chosen = np.concatenate([nearest(asked, known, 1, rng)[0][:, 0] for _ in range(50)])
    assert chosen.max() < 50
    counts = np.bincount(chosen, minlength=50)
    # 100 a point; 5 binomial deviations.
    assert abs(counts - 100).max() < 60


def test_predicates_match_what_a_plain_loop_counts_and_isolate_in_the_release() -> None:
    table = people(400, 5)
    encoding = Encoding.of(table)
    codes = encoding.codes(table)
    rng = np.random.default_rng(0)
    for exact in (False, True):
        made = singling_out.multivariate(codes, encoding, count=40, width=3, rng=rng, exact=exact)
        assert len(made) == 40
        assert (made.matches(codes) == 1).all()
        other = encoding.codes(people(400, 6))
        oracle = []
        for columns, kinds, values in zip(made.columns, made.kinds, made.values, strict=True):
            holds = np.ones(400, dtype=bool)
            for column, kind, value in zip(columns, kinds, values, strict=True):
                seen = other[:, column]
                holds &= [seen == value, seen <= value, seen >= value][kind]
            oracle.append(holds.sum())
        np.testing.assert_array_equal(made.matches(other), oracle)
    alone = singling_out.univariate(codes, encoding, count=10_000, rng=rng)
    assert (alone.matches(codes) == 1).all()
    assert any("income" in alone.describe(i, encoding) for i in range(5))


def test_rows_that_are_all_alike_leave_nothing_to_single_out() -> None:
    table = {"a": np.zeros(50), "b": np.repeat(["x"], 50)}
    encoding = Encoding.of(table)
    codes, rng = encoding.codes(table), np.random.default_rng(0)
    assert len(singling_out.univariate(codes, encoding, count=9, rng=rng)) == 0
    assert len(singling_out.multivariate(codes, encoding, count=9, width=2, rng=rng)) == 0
    with pytest.raises(DataError, match="width=3"):
        singling_out.multivariate(codes, encoding, count=9, width=3, rng=rng)


def test_isolation_in_a_sample_is_hypergeometric() -> None:
    matches = np.array([0, 1, 2, 7])
    np.testing.assert_array_equal(singling_out.isolation(matches, 50, 50), [0, 1, 0, 0])
    made = singling_out.isolation(matches, 50, 20)
    np.testing.assert_allclose(made, [0, 0.4, hypergeom.pmf(1, 50, 2, 20), made[3]])
    rng = np.random.default_rng(0)
    drawn = [(rng.permutation(50)[:20] < 7).sum() == 1 for _ in range(4000)]
    assert made[3] == pytest.approx(np.mean(drawn), abs=0.03)


def test_a_copy_links_its_people_and_strangers_link_by_chance() -> None:
    table, others = people(800, 7), people(800, 8)
    encoding = Encoding.of(table)
    parts = (("income",), ("age", "city", "smokes", "ill"))
    rng = np.random.default_rng(0)
    hits = linked(table, table, encoding, parts=parts, neighbours=1, rng=rng)
    classes = equivalence_classes(encoding.codes(table, parts[1]))
    alone = (1 / np.bincount(classes)[classes]).mean()
    assert hits.mean() == pytest.approx(alone, abs=0.06)
    missed = linked(table, others, encoding, parts=parts, neighbours=20, rng=rng)
    assert missed.mean() == pytest.approx(by_chance(800, 20), abs=0.06)
    with pytest.raises(ConfigError, match="common column"):
        linked(table, table, encoding, parts=(("age",), ("age",)), neighbours=1, rng=rng)


def test_the_chance_of_meeting_is_what_drawing_gives() -> None:
    rng = np.random.default_rng(0)
    met = [bool(set(rng.permutation(30)[:4]) & set(rng.permutation(30)[:4])) for _ in range(4000)]
    assert by_chance(30, 4) == pytest.approx(np.mean(met), abs=0.03)
    assert by_chance(5, 9) == 1.0


def test_a_copy_tells_the_secret_and_a_fresh_table_what_the_population_does() -> None:
    table, fresh = people(1500, 9), people(1500, 10)
    encoding = Encoding.of(table)
    rng = np.random.default_rng(0)
    known = ("age", "income", "city", "smokes")
    truth = encoding.codes(table, ("ill",))[:, 0]
    copied = nearest_guess(table, table, encoding, secret="ill", known=known, rng=rng)
    assert (copied == truth).mean() == 1.0
    guessed = boosted_guess(fresh, table, encoding, secret="ill", known=known, rng=rng)
    assert guessed is not None
    best = np.where(np.isin(table["city"], CITIES[2:]), 1.0, 0.0)
    assert (guessed == truth).mean() == pytest.approx((best == truth).mean(), abs=0.06)
    constant = {**table, "ill": np.repeat(["no"], 1500)}
    flat = Encoding.of(constant)
    assert boosted_guess(constant, table, flat, secret="ill", known=known, rng=rng) is None


def test_numbers_are_right_within_a_share() -> None:
    guesses, truth = np.array([100.0, 106.0, 0.0]), np.array([104.0, 100.0, 0.0])
    assert right(guesses, truth, numeric=True, tolerance=0.05).tolist() == [True, False, True]
    assert right(guesses, truth, numeric=False, tolerance=0.05).tolist() == [False, False, True]


def test_the_density_ratio_sees_a_sample_where_distance_alone_sees_crowds() -> None:
    """A release of exactly copied outliers: distance ranks the crowd high, the ratio doesn't."""
    table, reference, others = people(1000, 11), people(1000, 12), people(1000, 13)
    encoding = Encoding.of(table)
    rng = np.random.default_rng(0)
    released = take(table, np.arange(500))
    scores = density_ratio(released, reference, table, encoding, rng=rng)
    assert (scores[:500] > np.median(scores[500:])).mean() > 0.98
    none = density_ratio(people(1000, 14), reference, others, encoding, rng=rng)
    assert abs(none.mean()) < 0.05
    assert (closest_record(released, table, encoding, rng=rng)[:500] == 0).all()
