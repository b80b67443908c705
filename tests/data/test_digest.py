"""Digests: one flipped bit, and the file isn't used."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from reticent.data.digest import check_digest, check_rows, read_verified
from reticent.errors import DataError

CONTENT = b"what was hashed is what is parsed"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def test_the_right_bytes_are_returned(tmp_path: Path) -> None:
    path = tmp_path / "set.bin"
    path.write_bytes(CONTENT)
    assert read_verified(path, SHA256) == CONTENT


@pytest.mark.parametrize("bit", range(8))
@pytest.mark.parametrize("place", [0, len(CONTENT) // 2, len(CONTENT) - 1])
def test_a_flipped_bit_is_refused(tmp_path: Path, place: int, bit: int) -> None:
    spoiled = bytearray(CONTENT)
    spoiled[place] ^= 1 << bit
    path = tmp_path / "set.bin"
    path.write_bytes(spoiled)
    with pytest.raises(DataError, match=f"'set.bin' with sha256={SHA256}, got sha256="):
        read_verified(path, SHA256)


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"\n"])
def test_other_lengths_are_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="often altered"):
        check_digest(content, SHA256, "set")


def test_a_missing_file_says_where_to_put_it(tmp_path: Path) -> None:
    for path in (tmp_path / "none.bin", tmp_path):
        with pytest.raises(DataError, match=r"it isn't there.*RETICENT_DATA"):
            read_verified(path, SHA256)


def test_rows_are_counted() -> None:
    check_rows(20_631, 20_631, "train")
    with pytest.raises(DataError, match="Expected 20631 rows in 'train', got rows=18380"):
        check_rows(18_380, 20_631, "train")
