"""Adult: the census table as its authors published it, and how the shipped copy was made.

Becker and Kohavi 1996, UCI Machine Learning Repository, data set 2 (doi 10.24432/C5XW20),
CC BY 4.0; extracted from the 1994 census of the United States.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.data.digest import check_rows, read_verified
from reticent.errors import MissingExtraError

_FILES = (
    ("adult.data.gz", "79d673241aeed099ca33f8cfca8928cf5223509841c9857b1af0d5d6326467ab", 32561),
    ("adult.test.gz", "cf86718d77ed3ab47d59b5277fff2b14b2c2fae24e14d4b09a365d006fb1025e", 16281),
)
_FIELDS = (
    "age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation",
    "relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week",
    "native-country", "income",
)  # fmt: skip
NUMERIC = ("age", "education-num", "capital-gain", "capital-loss", "hours-per-week")
# fnlwgt is the census office's sampling weight, not a fact about the person; education repeats
# education-num in words.
_LEFT_OUT = ("fnlwgt", "education")
COMPLETE_ROWS = 45222


def columns_from_uci(folder: Path) -> dict[str, NDArray[Any]]:
    """The complete rows of both parts, training part first, column by column (45,222,).

    Numbers as int32, the rest as text; `part` says "train" or "test" as published.
    """
    rows: list[list[str]] = []
    for (name, sha256, expected), part in zip(_FILES, ("train", "test"), strict=True):
        text = gzip.decompress(read_verified(folder / name, sha256)).decode()
        lines = [line.rstrip(".") for line in text.splitlines() if "," in line]
        check_rows(len(lines), expected, name)
        rows += [[*line.split(", "), part] for line in lines if "?" not in line]
    check_rows(len(rows), COMPLETE_ROWS, "adult, complete rows")
    columns = dict(zip((*_FIELDS, "part"), zip(*rows, strict=True), strict=True))
    return {
        field: np.array(values, dtype=np.int32 if field in NUMERIC else np.str_)
        for field, values in columns.items()
        if field not in _LEFT_OUT
    }


def write_parquet(columns: dict[str, NDArray[Any]], path: Path) -> None:
    """Write the shipped copy: text as dictionaries, zstd, no metadata that varies by machine."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data") from error
    table = pyarrow.table(
        {
            field: pyarrow.array(values).dictionary_encode()
            if values.dtype.kind == "U"
            else pyarrow.array(values)
            for field, values in columns.items()
        }
    )
    parquet.write_table(table, path, compression="zstd", compression_level=19, store_schema=False)
