"""Columns: which of a table's columns enter `x`, which become labels, and what is refused."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from reticent.data.columns import MOST_CATEGORIES, from_columns
from reticent.data.task import Kind
from reticent.errors import ConfigError, DataError, InputError

N = 6


def columns(**changes: Any) -> dict[str, Any]:
    """Six loans; `changes` replace or add columns, None takes one away."""
    table: dict[str, Any] = {
        "amount": np.array([1.5, 2.5, 3.5, 4.5, 5.5, 6.5]),
        "town": np.array(["b", "a", "c", "a", "b", "c"]),
        "owner": np.array([True, False, True, False, True, False]),
        "sex": np.array(["f", "m", "f", "m", "f", "m"]),
        "age": np.array([20.5, 31.0, 44.0, 25.0, 38.0, 52.0]),
        "user": np.array([1, 1, 2, 2, 3, 3]),
        "repaid": np.array(["yes", "no", "no", "yes", "no", "yes"]),
    }
    return {name: values for name, values in (table | changes).items() if values is not None}


def test_numbers_enter_as_they_are_and_text_one_hot_in_sorted_order() -> None:
    task = from_columns(columns(), public="repaid", private=("sex",), drop=("age",))
    assert task.x.dtype == np.float32
    amount, town, owner = task.x[:, 0], task.x[:, 1:4], task.x[:, 4]
    assert task.x.shape == (N, 5)
    assert amount.tolist() == [1.5, 2.5, 3.5, 4.5, 5.5, 6.5]
    assert town.argmax(axis=1).tolist() == [1, 0, 2, 0, 1, 2]
    assert town.sum(axis=1).tolist() == [1] * N
    assert owner.tolist() == [1, 0, 1, 0, 1, 0]
    assert (task.public.tolist(), task.class_names) == ([1, 0, 0, 1, 0, 1], ("no", "yes"))
    assert task.private["sex"].tolist() == [0, 1, 0, 1, 0, 1]
    assert task.attribute_names == {"sex": ("f", "m")}
    assert task.users is not None
    assert task.users.tolist() == [0, 0, 1, 1, 2, 2]
    assert (task.kind, task.label, task.recordings) == (Kind.CLASSIFICATION, "repaid", None)


def test_the_private_column_enters_only_if_asked() -> None:
    without = from_columns(columns(age=None), public="repaid", private=("sex",))
    kept = from_columns(columns(age=None), public="repaid", private="sex", keep_private=True)
    assert kept.x.shape[1] == without.x.shape[1] + 2
    sex = kept.x[:, 5:7]
    assert sex.argmax(axis=1).tolist() == kept.private["sex"].tolist()
    user = from_columns(columns(age=None), public="repaid", private=("sex", "user"))
    assert user.x.shape == without.x.shape
    assert user.private["user"].tolist() == [0, 0, 1, 1, 2, 2]


def test_one_private_name_alone_is_a_name() -> None:
    assert set(from_columns(columns(), public="repaid", private="sex").private) == {"sex"}


def test_users_and_recordings_are_found_by_their_usual_names_or_given() -> None:
    table = columns(recording=np.array([10, 10, 20, 20, 30, 31]), client=np.array(list("aabbcc")))
    usual = from_columns(table, public="repaid", private=("sex",))
    assert usual.recordings is not None
    assert usual.recordings.tolist() == [0, 0, 1, 1, 2, 3]
    given = from_columns(table, public="repaid", private=("sex",), user="client", unit="user")
    assert given.users is not None
    assert given.users.tolist() == [0, 0, 1, 1, 2, 2]
    # The usual name, not used as the user, is an ordinary column.
    assert given.x.shape[1] == usual.x.shape[1] + 1 - 3
    dropped = from_columns(table, public="repaid", private=("sex",), drop=("user", "recording"))
    assert dropped.users is None
    assert dropped.recordings is None


def test_bands_and_their_names() -> None:
    task = from_columns(columns(), public="repaid", private=("age",), bins={"age": 2})
    assert task.private["age"].tolist() == [0, 0, 1, 0, 1, 1]
    assert task.attribute_names["age"] == ("20.5 to 31", "38 to 52")


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (np.array(["yes", "no"] * 3), None, Kind.CLASSIFICATION),
        (np.array([3, 1] * 3), None, Kind.CLASSIFICATION),
        (np.array([1.0, 0.0] * 3), None, Kind.CLASSIFICATION),
        (np.array([True, False] * 3), None, Kind.CLASSIFICATION),
        (np.array([0.1, 0.2, 0.3] * 2), None, Kind.REGRESSION),
        (np.array([1.0, 0.0] * 3), "regression", Kind.REGRESSION),
        (np.array([1, 0] * 3), "anomaly", Kind.ANOMALY),
        (np.array([True, False] * 3), Kind.ANOMALY, Kind.ANOMALY),
    ],
)
def test_the_kind_is_guessed_or_given(values: Any, kind: Any, expected: Kind) -> None:
    task = from_columns(columns(repaid=values), public="repaid", private=("sex",), kind=kind)
    assert task.kind is expected
    if expected is Kind.REGRESSION:
        assert task.public.dtype == np.float32
        assert np.array_equal(task.public, values.astype(np.float32))


def test_many_whole_floats_are_a_quantity() -> None:
    table = {"f": np.arange(60.0), "days": np.arange(60.0), "s": np.arange(60) % 2}
    assert from_columns(table, public="days", private=("s",)).kind is Kind.REGRESSION


def test_rows_with_missing_values_are_refused_or_dropped() -> None:
    table = columns(amount=np.array([1.5, np.nan, 3, 4, 5, 6]), town=np.array([*"bacab", None]))
    with pytest.raises(DataError, match=r"'amount' has 1 missing values, first in row=1"):
        from_columns(table, public="repaid", private=("sex",))
    task = from_columns(table, public="repaid", private=("sex",), missing="drop")
    assert len(task) == 4
    assert task.x[:, 0].tolist() == [1.5, 3, 4, 5]
    assert task.users is not None
    assert task.users.tolist() == [0, 1, 1, 2]


def test_users_of_a_table_with_gaps_are_floats_and_still_users() -> None:
    n = 90
    table = {
        "f": np.where(np.arange(n) == 3, np.nan, np.arange(n) + 0.5),
        "user": np.where(np.arange(n) == 4, np.nan, np.arange(n) // 2 * 1.0),
        "s": np.arange(n) % 2,
        "y": np.arange(n) % 3,
    }
    task = from_columns(table, public="y", private=("s",), missing="drop")
    assert task.users is not None
    assert len(np.unique(task.users)) == 45
    assert len(task) == 88


@pytest.mark.parametrize(
    "mixed",
    [
        np.array([1, 2.5, None, 4, 5, 6], dtype=object),
        np.array([Decimal("1"), Decimal("2.5"), None, Decimal(4), Decimal(5), 6], dtype=object),
    ],
)
def test_python_numbers_among_gaps_stay_numbers(mixed: Any) -> None:
    table = columns(amount=mixed)
    task = from_columns(table, public="repaid", private=("sex",), missing="drop")
    assert task.x[:, 0].tolist() == [1, 2.5, 4, 5, 6]


MANY = 300
WIDE = {
    "code": np.array([f"c{index}" for index in range(MANY)]),
    "f": np.arange(MANY) * 0.5,
    "s": np.arange(MANY) % 2,
    "y": np.arange(MANY) % 3,
}


def test_text_of_many_values_is_refused_as_a_feature_and_as_a_label() -> None:
    assert MANY > MOST_CATEGORIES
    with pytest.raises(DataError, match=r"'code' has 300 distinct texts.*drop=\['code'\]"):
        from_columns(WIDE, public="y", private=("s",))
    with pytest.raises(DataError, match=r"'code' has 300 distinct values.*kind="):
        from_columns(WIDE, public="code", private=("s",))
    assert from_columns(WIDE, public="y", private=("s",), drop=("code",)).x.shape == (MANY, 1)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no such public": ({}, {"public": "repayed"}, r"'repayed', found none. Did you mean 'repaid'"),
    "no such private": ({}, {"private": ("zzz",)}, r"'zzz', found none. Columns: \['amount'"),
    "no such user": ({}, {"user": "client"}, "'client', found none"),
    "no such recording": ({}, {"recording": "take"}, "'take', found none"),
    "no such drop": ({}, {"drop": ("ages",)}, "'ages', found none. Did you mean 'age'"),
    "public is private": ({}, {"private": ("repaid",)}, "both public and private"),
    "public is dropped": ({}, {"drop": ("repaid",)}, "leaves out a label"),
    "private is dropped": ({}, {"drop": ("sex",)}, "leaves out a label"),
    "given user is dropped": ({}, {"user": "user", "drop": ("user",)}, "leaves out a label"),
    "real-valued private": ({}, {"private": ("age",)}, r"bins=\{'age': 3\}"),
    "infinite private": (
        {"age": np.array([1, 2, 1, 2, 1, np.inf])},
        {"private": ("age",)},
        "'age', got 3 distinct real",
    ),
    "bins of text": ({}, {"bins": {"sex": 2}}, "numbers in 'sex' to cut"),
    "bins of no private": ({}, {"bins": {"age": 2}}, r"bins for private columns \['sex'\]"),
    "one class": ({"repaid": np.full(N, "no")}, {}, "'public' has one class only"),
    "one private class": ({"sex": np.full(N, "f")}, {}, "'sex' has one class only"),
    "dates": ({"town": np.array(["2020-01-01"] * N, "M8[D]")}, {}, "'town' holds dates or times"),
    "infinite feature": (
        {"amount": np.array([1, 2, 3, 4, 5, np.inf])},
        {},
        "NaN or infinity, first in row=5",
    ),
    "unequal lengths": ({"amount": np.arange(4.0)}, {}, "columns of equal length"),
    "two-dimensional": ({"amount": np.zeros((N, 2))}, {}, "one value a row in column 'amount'"),
    "lists": (
        {"amount": np.array([[1, 2], [3]] * 3, dtype=object)},
        {},
        "one value a row in column 'amount'",
    ),
    "all missing": (
        {"amount": np.full(N, np.nan)},
        {"missing": "drop"},
        "Every row has a missing value",
    ),
    "unknown kind": ({}, {"kind": "ranking"}, "kind='ranking'"),
    "unknown missing": ({}, {"missing": "ignore"}, "missing='ignore'"),
    "text as a quantity": ({}, {"kind": "regression"}, "numbers in 'repaid' for regression"),
    "three kinds of anomaly": (
        {"repaid": np.array([0, 1, 2] * 2)},
        {"kind": "anomaly"},
        "0 .normal. and 1 .anomaly.",
    ),
    "words for anomalies": ({}, {"kind": "anomaly"}, "0 .normal. and 1 .anomaly."),
    "unit without users": ({"user": None}, {"unit": "user"}, "needs the field 'users'"),
}


@pytest.mark.parametrize(("changes", "options", "words"), REFUSED.values(), ids=REFUSED)
def test_bad_tables_are_refused_in_words(
    changes: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        from_columns(columns(**changes), **({"public": "repaid", "private": ("sex",)} | options))
    assert isinstance(caught.value, (DataError, ConfigError))


def test_a_table_of_labels_alone_is_refused() -> None:
    table = {name: columns()[name] for name in ("sex", "user", "repaid")}
    with pytest.raises(DataError, match="at least one feature column"):
        from_columns(table, public="repaid", private=("sex",))
