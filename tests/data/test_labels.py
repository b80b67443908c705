"""Labels: any values as classes, and what isn't a class is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reticent.data.labels import bands, encode_labels, find_missing
from reticent.errors import DataError


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["b", "a", "b"], ("a", "b")),
        ([30, 7, 30], ("7", "30")),
        ([-1, 1], ("-1", "1")),
        ([True, False], ("False", "True")),
        ([2.0, 1.0, 2.0], ("1", "2")),
        (np.array([b"b", b"\xc3\xa4"]), ("b", "ä")),
        (np.array(["x", 1], dtype=object), ("1", "x")),
        (np.array(["2020-01-02", "2020-01-01"], dtype="M8[D]"), ("2020-01-01", "2020-01-02")),
    ],
)
def test_values_become_classes_in_sorted_order(values: Any, names: tuple[str, ...]) -> None:
    codes, found = encode_labels(values, "field")
    assert found == names
    assert codes.dtype == np.int64
    assert [found[code] for code in codes] == [
        value.decode()
        if isinstance(value, bytes)
        else str(int(value) if isinstance(value, float) else value)
        for value in values
    ]


@given(st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=50))
def test_encoding_is_lossless(values: list[int]) -> None:
    codes, names = encode_labels(values, "field")
    assert [int(names[code]) for code in codes] == values
    assert sorted(set(codes.tolist())) == list(range(len(names)))


@pytest.mark.parametrize(
    "values",
    [
        [1.0, float("nan")],
        ["a", ""],
        ["a", None],
        ["a", float("nan")],
        np.array([b"a", b""]),
        np.array(["2020-01-01", "NaT"], dtype="M8[D]"),
    ],
)
def test_missing_values_are_refused_with_their_row(values: Any) -> None:
    with pytest.raises(DataError, match=r"'field' has 1 missing values, first in row=1.*missing="):
        encode_labels(values, "field")


@pytest.mark.parametrize("values", [[0.5, 1.5], list(np.arange(21.0)), [1.0, float("inf")]])
def test_measurements_are_no_classes(values: list[float]) -> None:
    with pytest.raises(DataError, match=r"distinct real numbers.*bins=\{'field': 3\}"):
        encode_labels(values, "field")


def test_identifiers_may_be_many_whole_floats_but_no_measurements() -> None:
    codes, _ = encode_labels(np.arange(50.0)[::-1], "user", identifiers=True)
    assert codes.tolist() == list(range(50))[::-1]
    with pytest.raises(DataError, match="distinct real numbers"):
        encode_labels([0.5, 1.5], "user", identifiers=True)


def test_bands_are_equally_full_without_ties() -> None:
    values = np.random.default_rng(0).permutation(np.arange(300.0))
    codes = bands(values)
    assert np.bincount(codes).tolist() == [100, 100, 100]
    assert values[codes == 0].max() < values[codes == 1].min()
    assert np.bincount(bands(values, 4)).tolist() == [75, 75, 75, 75]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 6))
def test_bands_keep_order_and_ties_and_leave_no_gap(values: list[int], count: int) -> None:
    codes = bands(values, count)
    assert sorted(set(codes.tolist())) == list(range(int(codes.max()) + 1))
    assert codes.max() < count
    for one, of_one in zip(values, codes, strict=True):
        for other, of_other in zip(values, codes, strict=True):
            assert (one == other) <= (of_one == of_other)
            assert (one < other) <= (of_one <= of_other)


def test_numbers_and_booleans_miss_nothing() -> None:
    for values in (np.arange(3), np.array([True, False])):
        assert not find_missing(values).any()
