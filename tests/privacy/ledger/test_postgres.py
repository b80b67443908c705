"""The same ledger on PostgreSQL; RETICENT_POSTGRES holds the connection string of a test server.

Without psycopg or a server only the refusals are tested.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from pathlib import Path

import crash
import pytest

from reticent.errors import (
    BudgetExhaustedError,
    ConfigError,
    EvidenceError,
    MissingExtraError,
    ReticentError,
)
from reticent.privacy.ledger import Ledger, verify
from reticent.privacy.ledger.postgres import PostgresStore

WHERE = os.environ.get("RETICENT_POSTGRES", "")
HAS_DRIVER = importlib.util.find_spec("psycopg") is not None
on_server = pytest.mark.skipif(not (WHERE and HAS_DRIVER), reason="needs a PostgreSQL server")


@pytest.mark.skipif(HAS_DRIVER, reason="psycopg is installed")
def test_without_the_driver_the_extra_is_named() -> None:
    with pytest.raises(MissingExtraError, match=r"reticent\[postgres\]"):
        PostgresStore("host=nowhere")


@pytest.mark.skipif(not HAS_DRIVER, reason="needs psycopg")
def test_an_unreachable_server_is_said_without_the_password() -> None:
    with pytest.raises(ConfigError, match="reach the PostgreSQL server") as caught:
        PostgresStore("host=127.0.0.1 port=1 password=opensesame", create=True)
    assert "opensesame" not in str(caught.value)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    import psycopg  # type: ignore[import-not-found, unused-ignore]

    with psycopg.connect(WHERE, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    made = Ledger.on(PostgresStore(WHERE, create=True), tmp_path / "key")
    made.grant("people", ["a", "b"], cap=crash.CAP)
    return made


def spend(ledger: Ledger, who: str) -> None:
    for number in range(crash.SLICES + 1):
        try:
            with ledger.spending("people", crash.SLICE, key=f"{who}-{number}"):
                pass
        except BudgetExhaustedError:
            return


@on_server
def test_processes_share_one_budget_to_the_last_slice(ledger: Ledger) -> None:
    pids = [crash.child(lambda i=i: spend(ledger, str(i))) for i in range(3)]  # type: ignore[misc]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    assert ledger.balances()[0].spent.pure == crash.SLICES * crash.SLICE.pure
    verify(ledger.store, ledger.key.public)


@on_server
def test_kills_leave_a_sound_ledger_that_is_not_overspent(ledger: Ledger) -> None:
    for round_ in range(8):
        pids = [
            crash.child(lambda i=i, r=round_: spend(ledger, f"{r}-{i}"))  # type: ignore[misc]
            for i in range(3)
        ]
        time.sleep(0.02 + 0.01 * round_)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        reserved = sum(entry["kind"] == "reserve" for entry in ledger.history())
        assert ledger.balances()[0].spent.pure == reserved * crash.SLICE.pure
        assert reserved <= crash.SLICES
        verify(ledger.store, ledger.key.public)
    assert reserved > 0


@on_server
def test_cancelling_tampering_and_waiting_are_the_same_here(ledger: Ledger) -> None:
    ledger.cancel(ledger.reserve("people", crash.SLICE, key="k").id)
    assert ledger.balances()[0].spent.pure == 0
    with ledger.store.writing():
        impatient = Ledger(PostgresStore(WHERE, patience=0.05), ledger.key)
        with pytest.raises(ReticentError, match="nothing was charged"):
            impatient.reserve("people", crash.SLICE, key="k2")
    with ledger.store.writing() as transaction:
        transaction.run("UPDATE block SET cap = replace(cap, '1.2', '9.2')")
    with pytest.raises(EvidenceError, match="table block"):
        verify(ledger.store, ledger.key.public)
