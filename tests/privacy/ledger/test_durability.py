"""Crashes, races, forks and power cuts: no schedule overspends, loses or releases uncharged."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import threading
from collections import Counter
from pathlib import Path

import crash
import pytest

from reticent.errors import BudgetExhaustedError, ReticentError
from reticent.privacy.ledger import Cap, Ledger, SQLiteStore, pure_dp, verify


def run_schedules(folder: Path, seeds: range) -> Counter[str]:
    template = crash.template(folder)
    seen: Counter[str] = Counter()
    for seed in seeds:
        path = crash.copy(template, folder / "run.db")
        seen.update(crash.run_schedule(path, seed))
        for file in folder.glob("run.*"):
            file.unlink()
    return seen


def test_no_schedule_of_kills_and_races_overspends(tmp_path: Path) -> None:
    seen = run_schedules(tmp_path, range(200))
    # The schedules did something: children were killed, with and without having read data.
    assert seen["killed"] > 50
    assert seen["charges"] > seen["read"] > 50


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_schedule_overspends_in_thousands(tmp_path: Path) -> None:
    count = int(os.environ.get("RETICENT_SCHEDULES", "1000"))
    seen = run_schedules(tmp_path, range(1000, 1000 + count))
    assert seen["killed"] > 0.25 * count


def test_a_ledger_that_forgets_the_lock_is_caught_by_the_same_schedules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test of the test: sums read before the transaction begins get lost in races."""
    import reticent.privacy.ledger.ledger as module

    real = module.Ledger._debit
    stale: dict[str, object] = {}

    def forgetful(self, transaction, blocks, analyst, cost):  # type: ignore[no-untyped-def]
        for block in blocks:
            row = transaction.run("SELECT cap, spent FROM block WHERE id = ?", block)[0]
            row = stale.setdefault(block, row)
            total = module._admitted("block", row, cost)  # never sees what others spent
            transaction.run("UPDATE block SET spent = ? WHERE id = ?", total, block)

    assert real is not forgetful
    monkeypatch.setattr(module.Ledger, "_debit", forgetful)
    with pytest.raises((AssertionError, ReticentError)):
        run_schedules(tmp_path, range(5))


def test_two_processes_share_one_budget_to_the_last_slice(tmp_path: Path) -> None:
    path = crash.template(tmp_path)

    def spend() -> None:
        ledger = Ledger.open(path)
        for number in range(crash.SLICES + 1):
            try:
                key = f"{os.getpid()}-{number}"
                with ledger.spending("people", crash.SLICE, key=key):
                    pass
            except BudgetExhaustedError:
                return

    for pid in [crash.child(spend) for _ in range(2)]:
        assert os.waitpid(pid, 0)[1] == 0
    ledger = Ledger.open(path)
    assert ledger.balances()[0].spent.pure == crash.SLICES * crash.SLICE.pure
    verify(ledger.store, ledger.key.public)


def test_many_processes_can_make_the_same_ledger_at_once(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / f"new{number}.db"
        gate, start = os.pipe()

        def make(path: Path = path, gate: int = gate, start: int = start) -> None:
            os.close(start)
            os.read(gate, 1)
            Ledger.create(path).grant("people", ["a"], cap=crash.CAP)

        pids = [crash.child(make) for _ in range(4)]
        os.close(start)
        os.close(gate)
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0, 0]
        ledger = Ledger.open(path)
        assert len(ledger.balances()) == 1
        assert [entry["kind"] for entry in ledger.history()] == ["open", "grant"]
        verify(ledger.store, ledger.key.public)


def test_a_ledger_survives_a_fork_in_both_halves_and_amid_threads(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "budget.db")
    ledger.grant("people", ["a"], cap=Cap(epsilon=100.0, delta=0.0))
    cost = pure_dp(epsilon=0.01)

    def spend(who: str, times: int) -> None:
        for number in range(times):
            ledger.reserve("people", cost, key=f"{who}-{number}")

    thread = threading.Thread(target=spend, args=("thread", 30))
    thread.start()
    pids = [crash.child(lambda i=i: spend(f"child{i}", 10)) for i in range(4)]  # type: ignore[misc]
    spend("parent", 10)
    thread.join()
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    assert ledger.balances()[0].spent.pure == 80 * cost.pure
    verify(ledger.store, ledger.key.public)


def test_a_connection_carried_over_by_a_hidden_fork_is_refused(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "budget.db")
    store = ledger.store
    assert isinstance(store, SQLiteStore)
    store._process -= 1
    with pytest.raises(ReticentError, match="Open the ledger again"):
        ledger.datasets()


def test_a_busy_ledger_says_so_and_charges_nothing(tmp_path: Path) -> None:
    path = crash.template(tmp_path)
    ledger = Ledger.open(path)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    impatient = Ledger(SQLiteStore(path, patience=0.05), ledger.key)
    with pytest.raises(ReticentError, match="nothing was charged"):
        impatient.reserve("people", crash.SLICE, key="k")
    holder.execute("ROLLBACK")
    impatient.reserve("people", crash.SLICE, key="k")


def test_every_transaction_waits_for_the_disk(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "budget.db")
    with ledger.store.writing() as transaction:
        assert transaction.run("PRAGMA synchronous") == [(2,)]
        assert transaction.run("PRAGMA journal_mode") == [("wal",)]


def test_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """What is on disk: all that was synced before the last answer, and any part of what follows."""
    path = crash.template(tmp_path)
    wal = Path(f"{path}-wal")
    ledger = Ledger.open(path)
    images = []
    for number in range(6):
        ledger.reserve("people", crash.SLICE, key=f"k{number}")
        images.append((path.read_bytes(), wal.read_bytes()))
    rng = random.Random(0)
    for number, (main, log) in enumerate(images[:-1]):
        later = images[number + 1][1]
        assert main == images[number + 1][0]
        assert later[: len(log)] == log
        for _ in range(12):
            torn = bytearray(later[: rng.randrange(len(log), len(later) + 1)])
            for _ in range(rng.randrange(3)):
                if len(torn) > len(log):
                    start = rng.randrange(len(log), len(torn))
                    length = min(512, len(torn) - start)
                    torn[start : start + length] = bytes(length)
            found = revive(tmp_path / "cut", main, bytes(torn), path)
            assert found in (number + 1, number + 2)


def revive(folder: Path, main: bytes, log: bytes, original: Path) -> int:
    """Charges in a ledger that a power cut left in this state, after verifying it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = folder / "budget.db"
    path.write_bytes(main)
    Path(f"{path}-wal").write_bytes(log)
    shutil.copy(f"{original}.key", f"{path}.key")
    ledger = Ledger.open(path)
    count = verify(ledger.store, ledger.key.public).charges
    assert ledger.balances()[0].spent.pure == count * crash.SLICE.pure
    ledger.close()
    return count
