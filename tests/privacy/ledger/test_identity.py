"""Digests of records: equal for copies, different for anything else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reticent.errors import DataError
from reticent.privacy.ledger import dataset_digest, record_digests

cell = st.one_of(st.integers(-5, 5), st.text(alphabet="ab1. ", max_size=3))


@given(st.lists(st.tuples(cell, cell, cell), min_size=1, max_size=6), st.permutations(range(3)))
def test_order_of_rows_and_columns_and_names_do_not_matter(
    rows: list[tuple[object, ...]], order: list[int]
) -> None:
    given_columns = {f"c{i}": [row[i] for row in rows] for i in range(3)}
    renamed = {f"d{i}": [row[i] for row in reversed(rows)] for i in order}
    first, second = record_digests(given_columns), record_digests(renamed)
    assert first == second[::-1]
    assert dataset_digest(first) == dataset_digest(second)


def test_multiplicity_and_every_cell_count() -> None:
    base = {"a": [1, 2, 2], "b": ["x", "y", "y"]}
    made = record_digests(base)
    assert made[1] == made[2] != made[0]
    assert dataset_digest(made) != dataset_digest(made[:2])
    for changed in ({"a": [1, 2, 3]}, {"b": ["x", "y", "z"]}, {"c": [0, 0, 0]}):
        assert record_digests(base | changed) != made


def test_numbers_are_one_whatever_their_type() -> None:
    kinds = ([0.0, 3], ["-0", "3.0"], np.array([-0.0, 3]), np.array([0, 3], dtype=np.uint8))
    assert len({tuple(record_digests({"a": kind})) for kind in kinds}) == 1
    nans = ([float("nan")], ["nan"], np.array([-np.nan], dtype=np.float32))
    assert len({tuple(record_digests({"a": kind})) for kind in nans}) == 1
    assert record_digests({"a": [""]}) == record_digests({"a": [None]})
    assert record_digests({"a": [b"1"]}) != record_digests({"a": ["1"]})


def test_images_are_told_apart_by_every_pixel() -> None:
    x = np.zeros((2, 4, 4), dtype=np.float32)
    x[1, 3, 3] = 1e-6
    first, second = record_digests({"x": x})
    assert first != second
    assert record_digests({"x": x.astype(np.float64)}) == [first, second]


@pytest.mark.parametrize("columns", [{}, {"a": []}, {"a": [1], "b": [1, 2]}])
def test_columns_that_are_no_table_are_refused(columns: dict[str, list[int]]) -> None:
    with pytest.raises(DataError, match="columns of one length"):
        record_digests(columns)
    with pytest.raises(DataError, match="dtype"):
        record_digests({"a": np.array([["x", "y"]])})
