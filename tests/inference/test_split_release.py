"""What leaves the client: the nearest code, a feature inside its radius, noise of its scale."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy import stats
from split_specimens import POINTS, RELEASES, code, noisy

from reticent.errors import BundleError
from reticent.inference.split.release import Code, Noisy, nearest, release_from_json
from reticent.random import SecureRandom

ALARM = 1e-7
N = 200_000
KS_BOUND = math.sqrt(math.log(2 / ALARM) / (2 * N))
MONSTERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def features(rows: int | st.SearchStrategy[int], size: int = 2) -> st.SearchStrategy[Any]:
    rows = st.just(rows) if isinstance(rows, int) else rows
    shape = rows.map(lambda n: (n, size))
    return shape.flatmap(lambda s: arrays.arrays(np.float32, s, elements=MONSTERS))


@given(
    st.integers(0, 10_000),
    st.integers(2, 9),
    st.integers(1, 12),
    st.sampled_from([0.0, 1.0, 1e3, 1e6]),
)
@settings(max_examples=100, deadline=None)
def test_nearest_is_what_comparing_all_distances_finds(
    seed: int, codes: int, size: int, offset: float
) -> None:
    rng = np.random.default_rng(seed)
    prototypes = (rng.normal(size=(codes, size)) + offset).astype(np.float32)
    points = (rng.normal(size=(50, size)) + offset).astype(np.float32)
    away = points[:, None].astype(np.float64) - prototypes[None]
    distances = (away**2).sum(axis=2)
    chosen = distances[np.arange(50), nearest(points, prototypes)]
    np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=1e-9, atol=1e-12)


def test_ties_go_to_the_lowest_index() -> None:
    prototypes = np.array([[1, 0], [-1, 0], [1, 0], [-1, 0]], np.float32)
    points = np.array([[0, 0], [0, 5], [1, 0], [-1, 3]], np.float32)
    assert nearest(points, prototypes).tolist() == [0, 0, 0, 1]


@given(
    features(st.integers(1, 20)),
    st.sampled_from([0.0, 1e-9, 1e-3, 0.09, 1.0, 50.0]),
    st.sampled_from([0.0, 3.0, 1e4, 1e7, 1e30]),
)
@settings(max_examples=150, deadline=None)
def test_contracted_features_never_leave_the_radius(
    points: NDArray[np.float32], radius: float, offset: float
) -> None:
    """Measured in float64, for any float32 features: huge, tiny, far from the origin."""
    shifted = (POINTS + np.float32(offset)).astype(np.float32)
    release = Noisy(scale=np.ones(1, np.float32), size=2, prototypes=shifted, radius=radius)
    kept = release.contract(points)
    assert kept.dtype == np.float32
    own = shifted[nearest(points, shifted)].astype(np.float64)
    assert (np.linalg.norm(kept - own, axis=1) <= radius).all()


def test_contraction_leaves_what_lies_inside_and_keeps_the_direction() -> None:
    release = noisy(radius=0.5)
    inside = POINTS + np.array([0.2, -0.1], np.float32)
    np.testing.assert_allclose(release.contract(inside), inside, atol=1e-6)
    outside = POINTS + np.array([1.2, 0.0], np.float32)
    away = release.contract(outside) - POINTS
    np.testing.assert_allclose(away, [[0.4995, 0.0]] * 3, atol=1e-5)
    np.testing.assert_array_equal(noisy(None).contract(outside), outside)


@given(features(st.integers(1, 40)))
@settings(max_examples=60, deadline=None)
def test_a_code_request_has_one_byte_a_record_and_stays_in_the_alphabet(
    points: NDArray[np.float32],
) -> None:
    request = code().apply(points, SecureRandom())
    assert list(request) == ["code"]
    assert request["code"].shape == (len(points), 1)
    assert request["code"].nbytes == len(points)
    assert request["code"].max() < 3


def test_an_alphabet_beyond_a_byte_takes_two() -> None:
    many = Code(prototypes=np.arange(300, dtype=np.float32)[:, None], labels=np.arange(300))
    request = many.apply(np.array([[299.2]], np.float32), SecureRandom())
    assert request["code"].dtype == np.uint16
    assert int(request["code"][0, 0]) == 299
    assert many.bits == pytest.approx(math.log2(300))


def test_nats_beyond_the_label_are_the_log_of_the_codes_that_share_one() -> None:
    assert code().nats_beyond_label == 0
    points = np.arange(5, dtype=np.float32)[:, None]
    uneven = Code(prototypes=points, labels=np.array([0, 0, 0, 1, 2]))
    assert uneven.nats_beyond_label == pytest.approx(math.log(3))


@pytest.mark.parametrize("shape", ["gaussian", "laplace"])
def test_released_noise_has_the_scale_it_says_per_coordinate(shape: Any) -> None:
    scale = np.array([0.5, 2.0], np.float32)
    release = Noisy(scale=scale, size=2, shape=shape, offset=np.array([3.0, -3.0], np.float32))
    clean = np.tile(np.array([[1.0, -7.0]], np.float32), (N, 1))
    sent = release.apply(clean, SecureRandom())["features"]
    assert sent.dtype == np.float32
    law = stats.norm if shape == "gaussian" else stats.laplace
    for column, mean in enumerate([4.0, -10.0]):
        away = sent[:, column].astype(np.float64) - mean
        for factor, fits in ((1.0, True), (0.9, False), (1.1, False)):
            found = stats.kstest(away, law(scale=factor * scale[column]).cdf).statistic
            # 3e-4 for the grid; the laws of 0.9 and 1.1 lie 0.02 apart or more (laplace: 0.018).
            assert (found < KS_BOUND + 3e-4) == fits, (column, factor, found)


def test_the_released_gaussian_does_not_betray_its_input_in_its_low_bits() -> None:
    """Sums of two nearby inputs share one grid: their supports can't be told apart."""
    release = Noisy(scale=np.ones(1, np.float32), size=1)
    for value in (0.1, 0.1 + 1e-4):
        sent = release.apply(np.full((5_000, 1), value, np.float32), SecureRandom())["features"]
        np.testing.assert_array_equal(sent * 1024, np.round(sent * 1024))


def test_noise_is_fresh_for_every_request() -> None:
    clean = np.zeros((5, 2), np.float32)
    first, second = (noisy().apply(clean, SecureRandom())["features"] for _ in range(2))
    assert (first != second).all()
    assert len(np.unique(first)) > 5


def test_a_bound_is_claimed_only_for_gaussian_noise_with_a_radius() -> None:
    assert noisy(0.5).nats_beyond_label == pytest.approx(0.125)
    assert noisy(None).nats_beyond_label == math.inf
    laplace = Noisy(
        scale=np.ones(1, np.float32), size=2, shape="laplace", prototypes=POINTS, radius=0.5
    )
    assert laplace.nats_beyond_label == math.inf
    uneven = Noisy(scale=np.array([0.5, 4.0], np.float32), size=2, prototypes=POINTS, radius=0.5)
    assert uneven.nats_beyond_label == pytest.approx(0.5**2 / (2 * 0.5**2))


def same(first: object, second: object) -> bool:
    return all(
        np.array_equal(value, getattr(second, name)) if isinstance(value, np.ndarray)
        else value == getattr(second, name)
        for name, value in vars(first).items()
    )  # fmt: skip


ROUND_TRIPS = RELEASES | {
    "laplace": Noisy(
        scale=np.array([0.1, 0.7], np.float32),
        size=2,
        shape="laplace",
        offset=np.array([1e-8, 3.3], np.float32),
    )
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_json_restores_a_release_to_the_last_bit(name: str) -> None:
    release = ROUND_TRIPS[name]
    text = json.dumps(release.to_json(), allow_nan=False)
    assert same(release, release_from_json(json.loads(text)))


MALFORMED: list[tuple[str, dict[str, Any]]] = [
    ("code", {"kind": "morse"}),
    ("code", {"prototypes": [[1.0, 2.0], [3.0]]}),
    ("code", {"prototypes": [1.0, 2.0, 3.0]}),
    ("code", {"prototypes": [[math.nan, 0], [0, 1], [1, 1]]}),
    ("code", {"prototypes": [[math.inf, 0], [0, 1], [1, 1]]}),
    ("code", {"prototypes": "abc"}),
    ("code", {"prototypes": [[1.0, 2.0]], "labels": [0]}),
    ("code", {"labels": [0, 1]}),
    ("code", {"labels": [0, 1, -1]}),
    ("code", {"labels": [0, 1, 1.5]}),
    ("code", {"labels": None}),
    ("noisy", {"scale": [0.0]}),
    ("noisy", {"scale": [-1.0]}),
    ("noisy", {"scale": [math.nan]}),
    ("noisy", {"scale": [1.0, 1.0, 1.0]}),
    ("noisy", {"scale": 1.0}),
    ("noisy", {"scale": []}),
    ("noisy", {"size": 3}),
    ("noisy", {"size": "two"}),
    ("noisy", {"size": math.inf}),
    ("noisy", {"shape": "none"}),
    ("noisy", {"prototypes": None}),
    ("noisy", {"prototypes": []}),
    ("noisy", {"prototypes": [[1.0, 2.0, 3.0]]}),
    ("noisy", {"radius": -1.0}),
    ("noisy", {"radius": math.nan}),
    ("noisy", {"radius": math.inf}),
    ("noisy", {"radius": "wide"}),
    ("noisy", {"offset": [1.0]}),
    ("noisy", {"offset": [math.nan, 0.0]}),
    ("bare", {"size": 0}),
    ("bare", {"size": None}),
]


@pytest.mark.parametrize(("name", "change"), MALFORMED)
def test_malformed_json_is_refused(name: str, change: dict[str, Any]) -> None:
    """Above all a radius that the client couldn't enforce, but whose bound it would report."""
    with pytest.raises(BundleError):
        release_from_json(RELEASES[name].to_json() | change)


@pytest.mark.parametrize("name", RELEASES)
def test_every_field_is_needed(name: str) -> None:
    record = RELEASES[name].to_json()
    for field in record:
        with pytest.raises(BundleError):
            release_from_json({key: value for key, value in record.items() if key != field})
    with pytest.raises(BundleError):
        release_from_json([])  # type: ignore[arg-type]
