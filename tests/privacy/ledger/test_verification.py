"""Whatever is altered in a ledger is found: each cell, each row, the order, the end, the bytes."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from reticent.errors import ConfigError, EvidenceError
from reticent.privacy.ledger import (
    Cap,
    Ledger,
    Receipt,
    SigningKey,
    SQLiteStore,
    gaussian,
    pure_dp,
    verify,
)
from reticent.privacy.ledger.chain import entry_hash

TABLES = ("log", "head", "dataset", "block", "token", "quota", "charge")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with every kind of entry, at rest."""
    path = tmp_path_factory.mktemp("original") / "budget.db"
    ledger = Ledger.create(path)
    ledger.grant("people", ["a", "b"], cap=Cap(epsilon=1.0, delta=1e-5))
    ledger.grant("more", ["b", "c"], cap=Cap(epsilon=1.0, delta=1e-5))
    ledger.limit("people", "eve", cap=Cap(epsilon=0.5, delta=0.0))
    with ledger.spending("people", pure_dp(epsilon=0.1), key="one", analyst="eve"):
        pass
    ledger.reserve("more", gaussian(noise_multiplier=30), key="two", event={"query": "mean"})
    ledger.cancel(ledger.reserve("people", pure_dp(epsilon=0.1), key="three").id)
    ledger.close()
    return path


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    shutil.copy(original, tmp_path / "budget.db")
    shutil.copy(f"{original}.key", tmp_path / "budget.db.key")
    return tmp_path / "budget.db"


def public(path: Path) -> str:
    return SigningKey.load(Path(f"{path}.key")).public


def check(path: Path, receipts: tuple[Receipt, ...] = ()) -> int:
    store = SQLiteStore(path)
    try:
        return verify(store, public(path), receipts=receipts).entries
    finally:
        store.close()


def alter(path: Path, *statements: str) -> int:
    """Rows changed by somebody who can write the file but has no key."""
    connection = sqlite3.connect(path)
    changed = sum(connection.execute(statement).rowcount for statement in statements)
    connection.commit()
    connection.close()
    return changed


def dump(path: Path) -> dict[str, list[tuple[object, ...]]]:
    connection = sqlite3.connect(path)
    try:
        return {t: sorted(connection.execute(f"SELECT * FROM {t}").fetchall()) for t in TABLES}
    finally:
        connection.close()


def cells(path: Path) -> list[tuple[str, int, str, object]]:
    connection = sqlite3.connect(path)
    found = []
    for table in TABLES:
        cursor = connection.execute(f"SELECT rowid, * FROM {table}")
        names = [item[0] for item in cursor.description][1:]
        for rowid, *values in cursor:
            found += [(table, rowid, n, v) for n, v in zip(names, values, strict=True)]
    connection.close()
    return found


def test_a_sound_ledger_passes_and_its_receipt_fits(path: Path) -> None:
    assert check(path) == 10
    ledger = Ledger.open(path)
    receipt = verify(ledger.store, ledger.key.public).receipt
    ledger.reserve("people", pure_dp(epsilon=0.01), key="later")
    assert check(path, (receipt,)) == 11


def test_one_flipped_bit_in_any_cell_is_found(original: Path, path: Path) -> None:
    rng = random.Random(0)
    everything = cells(original)
    assert {(table, name) for table, _, name, _ in everything} >= {
        ("log", "body"),
        ("head", "signature"),
        ("block", "spent"),
        ("token", "position"),
    }
    for table, rowid, name, value in everything:
        if isinstance(value, int):
            flipped: object = value ^ (1 << rng.randrange(8))
        else:
            raw = bytearray(str(value).encode())
            raw = raw or bytearray(b"\x00")
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(5)
            flipped = raw.decode("latin-1")
        shutil.copy(original, path)
        connection = sqlite3.connect(path)
        try:
            connection.execute(f"UPDATE {table} SET {name} = ? WHERE rowid = ?", (flipped, rowid))
            connection.commit()
        except sqlite3.IntegrityError:
            continue  # the schema itself refuses it
        finally:
            connection.close()
        with pytest.raises(EvidenceError, match="faults="):
            check(path)


@pytest.mark.parametrize("table", TABLES)
def test_a_removed_or_copied_row_is_found(table: str, original: Path, path: Path) -> None:
    rows = {rowid for name, rowid, _, _ in cells(original) if name == table}
    for rowid in rows:
        shutil.copy(original, path)
        assert alter(path, f"DELETE FROM {table} WHERE rowid = {rowid}") == 1
        with pytest.raises(EvidenceError, match="faults="):
            check(path)


def test_two_entries_that_change_places_are_found(path: Path) -> None:
    alter(
        path,
        "UPDATE log SET position = -1 WHERE position = 5",
        "UPDATE log SET position = 5 WHERE position = 6",
        "UPDATE log SET position = 6 WHERE position = -1",
    )
    with pytest.raises(EvidenceError, match="entry 5 is altered"):
        check(path)


def test_a_shortened_log_is_found_even_with_the_head_moved_back(path: Path) -> None:
    alter(path, "DELETE FROM log WHERE position > 8")
    with pytest.raises(EvidenceError, match="head is at entry 10, the log ends at 8"):
        check(path)
    with pytest.raises(EvidenceError, match="Entries were lost"):
        Ledger.open(path).reserve("people", pure_dp(epsilon=0.01), key="k")
    alter(
        path,
        "UPDATE head SET position = 8, hash = (SELECT hash FROM log WHERE position = 8)",
    )
    with pytest.raises(EvidenceError, match="isn't signed"):
        check(path)
    with pytest.raises(EvidenceError, match="head forged"):
        Ledger.open(path)


def test_an_emptied_ledger_is_not_begun_again(path: Path) -> None:
    alter(path, *(f"DELETE FROM {table}" for table in TABLES))
    with pytest.raises(EvidenceError, match="0 entries"):
        check(path)


def test_an_entry_added_or_rewritten_without_the_key_is_found(path: Path) -> None:
    body = '{"at":0,"charge":"c-8","kind":"cancelled"}'
    previous = dump(path)["log"][-1][3]
    found = entry_hash(11, str(previous), body)
    alter(path, f"INSERT INTO log VALUES (11, '{body}', '{previous}', '{found}')")
    with pytest.raises(EvidenceError, match="faults="):
        check(path)
    forger = SigningKey(bytes(32))
    alter(
        path,
        f"UPDATE head SET position = 11, hash = '{found}', signature = '{forger.sign(11, found)}'",
    )
    with pytest.raises(EvidenceError, match="isn't signed by"):
        check(path)


def test_an_entry_rewritten_with_its_own_hash_breaks_the_next(path: Path) -> None:
    """Every hash covers the one before: re-hashing one entry is not enough, all needs the key."""
    rows = dump(path)["log"]
    forged: dict[int, tuple[str, str, str]] = {}
    previous = "0" * 64
    for position, body, _, _ in rows:
        number, text = int(str(position)), str(body).replace('"analyst":"eve"', '"analyst":"bob"')
        made = entry_hash(number, previous, text)
        forged[number] = (text, previous, made)
        previous = made
    changed = next(int(str(p)) for p, body, _, _ in rows if '"analyst":"eve"' in str(body))
    body, _, found = forged[changed]
    connection = sqlite3.connect(path)
    connection.execute(
        "UPDATE log SET body = ?, hash = ? WHERE position = ?", (body, found, changed)
    )
    connection.execute("UPDATE log SET previous = ? WHERE position = ?", (found, changed + 1))
    connection.commit()
    with pytest.raises(EvidenceError, match=f"entry {changed + 1} is altered"):
        check(path)
    for position, (text, before, made) in forged.items():
        connection.execute(
            "UPDATE log SET body = ?, previous = ?, hash = ? WHERE position = ?",
            (text, before, made, position),
        )
    connection.execute("UPDATE head SET hash = ?", (previous,))
    connection.commit()
    connection.close()
    with pytest.raises(EvidenceError, match="faults=1: the head isn't signed"):
        check(path)


def test_an_older_copy_put_back_is_found_by_a_receipt(path: Path, tmp_path: Path) -> None:
    shutil.copy(path, tmp_path / "old.db")
    ledger = Ledger.open(path)
    receipt = ledger.reserve("people", pure_dp(epsilon=0.2), key="spent").receipt
    ledger.close()
    assert check(path, (Receipt.parse(str(receipt)),)) == 11
    shutil.copy(tmp_path / "old.db", path)
    assert check(path) == 10
    with pytest.raises(EvidenceError, match="receipt 11:"):
        check(path, (receipt,))
    with pytest.raises(ConfigError, match="POSITION:HASH"):
        Receipt.parse("11")


def test_a_writer_that_overdraws_is_found_by_the_replay(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger.open(path)
    with monkeypatch.context() as patched:
        patched.setattr(Cap, "admits", lambda self, total: True)
        ledger.reserve("people", pure_dp(epsilon=5), key="too much")
    with pytest.raises(EvidenceError, match="entry 11 passes the cap"):
        check(path)


def test_a_writer_that_commits_twice_is_found_by_the_replay(path: Path) -> None:
    ledger = Ledger.open(path)
    charge = next(e["charge"] for e in ledger.history() if e["kind"] == "committed")
    ledger._move(charge, {"committed"}, "committed")
    with pytest.raises(EvidenceError, match="makes a committed charge committed"):
        check(path)


def test_a_flipped_bit_anywhere_in_the_file_is_found_or_changes_nothing(
    original: Path, path: Path
) -> None:
    rng = random.Random(1)
    clean, content = original.read_bytes(), dump(original)
    found = 0
    for _ in range(150):
        raw = bytearray(clean)
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        path.write_bytes(raw)
        for side in ("-wal", "-shm"):
            Path(f"{path}{side}").unlink(missing_ok=True)
        try:
            check(path)
        except (EvidenceError, ConfigError):
            found += 1
            continue
        assert dump(path) == content
    assert found > 15
