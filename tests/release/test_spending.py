"""Spending: charged before the table is read, and charged for good once it has been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("opendp")

from reticent.errors import (
    BudgetExhaustedError,
    ConfigError,
    DataError,
    EvidenceError,
    UnsupportedError,
)
from reticent.privacy.ledger import Cap, Ledger, verify
from reticent.privacy.ledger.files import file_digests
from reticent.release import queries, reports, spending
from reticent.release.queries import release_query
from reticent.release.reports import Randomiser, release_reports

ROWS = [("ann", 30, "F"), ("ann", 31, "F"), ("bob", 40, "M"), ("cy", "", "M"), ("di", 50, "X")]
SEX = Randomiser(mechanism="oue", epsilon=0.4, categories=("F", "M", "X"))


def write(path: Path, rows: list[tuple[object, ...]]) -> Path:
    lines = ["id,age,sex", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "people.csv", ROWS)


@pytest.fixture
def ledger(tmp_path: Path, table: Path) -> Ledger:
    made = Ledger.create(tmp_path / "budget.db")
    made.grant("people", file_digests(table), cap=Cap(epsilon=1.0, delta=1e-6))
    return made


def states(ledger: Ledger) -> list[str]:
    return [entry["kind"] for entry in ledger.history()][2:]


def spent(ledger: Ledger) -> float:
    return ledger.balances()[0].epsilon


@pytest.fixture
def no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the table was read")

    monkeypatch.setattr(spending, "read_table", fail)
    monkeypatch.setattr(spending, "file_digests", fail)


RELEASES: dict[str, Callable[..., object]] = {
    "query": lambda table, ledger, **more: release_query(
        table, "count()", ledger=ledger, epsilon=0.4, **more
    ),
    "local": lambda table, ledger, **more: release_reports(
        table, "sex", SEX, ledger=ledger, **more
    ),
}


@pytest.mark.parametrize("kind", RELEASES)
def test_each_release_is_one_committed_entry(kind: str, table: Path, ledger: Ledger) -> None:
    RELEASES[kind](table, ledger)
    assert states(ledger) == ["reserve", "started", "committed"]
    assert spent(ledger) == 0.4
    event = ledger.history()[2]["event"]
    assert event["what"] == ("query" if kind == "query" else "local reports")
    assert verify(ledger.store, ledger.key.public).charges == 1


@pytest.mark.parametrize("kind", RELEASES)
@pytest.mark.usefixtures("no_reading")
def test_over_the_cap_nothing_is_read_or_charged(kind: str, table: Path, ledger: Ledger) -> None:
    from reticent.privacy.ledger import pure_dp

    with ledger.spending("people", pure_dp(epsilon=0.7), key="before"):
        pass
    before = len(ledger.history())
    with pytest.raises(BudgetExhaustedError, match="Nothing was charged"):
        RELEASES[kind](table, ledger)
    assert len(ledger.history()) == before


@pytest.mark.parametrize("kind", RELEASES)
def test_the_charge_stands_before_the_table_is_read(
    kind: str, table: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    read = spending.read_table

    def watched(data: Path) -> object:
        seen.append(spent(ledger))
        return read(data)

    monkeypatch.setattr(spending, "read_table", watched)
    RELEASES[kind](table, ledger)
    assert seen == [0.4]


@pytest.mark.parametrize("kind", RELEASES)
def test_a_crash_in_the_mechanism_stays_charged(
    kind: str, table: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise RuntimeError("crash")

    monkeypatch.setattr(queries, "_column", crash)
    monkeypatch.setattr(reports.Randomiser, "run", crash)
    with pytest.raises(RuntimeError, match="crash"):
        RELEASES[kind](table, ledger)
    assert states(ledger) == ["reserve", "started"]
    assert spent(ledger) == 0.4


KILLED = """
import os, signal, sys
from pathlib import Path
from reticent.privacy.ledger import Ledger
from reticent.release import queries

queries._column = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
queries.release_query(
    Path(sys.argv[1]), "count()", ledger=Ledger.open(sys.argv[2]), epsilon=0.4
)
"""


def test_a_killed_process_stays_charged(table: Path, ledger: Ledger, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, str(table), str(tmp_path / "budget.db")],
        env=os.environ,
        timeout=120,
    )
    assert ran.returncode == -signal.SIGKILL
    assert states(ledger) == ["reserve", "started"]
    assert spent(ledger) == 0.4


def test_refusals_that_tell_of_records_stay_charged(table: Path, ledger: Ledger) -> None:
    with pytest.raises(DataError, match=r"the charge stays.*missing='drop'"):
        release_query(table, "mean(age, 0, 100)", ledger=ledger, epsilon=0.2)
    assert spent(ledger) == 0.2
    made = release_query(table, "sum(age, 0, 100)", ledger=ledger, epsilon=0.2, missing="drop")
    assert made.answer.value != 0
    narrow = Randomiser(mechanism="response", epsilon=0.1, categories=("F", "M"))
    with pytest.raises(DataError, match=r"a charge stays.*catch-all"):
        release_reports(table, "sex", narrow, ledger=ledger)
    ages = Randomiser(mechanism="hybrid", epsilon=0.1, bounds=(0.0, 100.0))
    with pytest.raises(DataError, match=r"a charge stays.*fixed number"):
        release_reports(table, "age", ages, ledger=ledger)
    assert spent(ledger) == pytest.approx(0.6)


def test_mistakes_that_tell_nothing_cost_nothing(table: Path, ledger: Ledger) -> None:
    with pytest.raises(DataError, match="Did you mean 'age'"):
        release_query(table, "mean(agee, 0, 100)", ledger=ledger, epsilon=0.2)
    assert states(ledger) == ["reserve", "cancelled"]
    for query, message in (("mean(age, 9, 0)", "known without"), ("mean(", "Expected")):
        with pytest.raises(ConfigError, match=message):
            release_query(table, query, ledger=ledger, epsilon=0.2)
    with pytest.raises(DataError, match="it isn't there"):
        release_query(table.with_name("no.csv"), "count()", ledger=ledger, epsilon=0.2)
    assert spent(ledger) == 0


def test_another_table_under_the_same_name_is_refused(table: Path, ledger: Ledger) -> None:
    write(table, [*ROWS, ("eve", 60, "F")])
    with pytest.raises(EvidenceError, match=r"its records differ\. Nothing was charged"):
        release_query(table, "count()", ledger=ledger, epsilon=0.2)
    assert states(ledger) == ["reserve", "cancelled"]
    assert spent(ledger) == 0


def test_a_renamed_reordered_copy_spends_the_same_budget(table: Path, ledger: Ledger) -> None:
    copy = write(table.with_name("other.csv"), ROWS[::-1])
    release_query(copy, "count()", ledger=ledger, epsilon=0.4)
    columns = {"a": [row[0] for row in ROWS], "b": [row[1] for row in ROWS]}
    columns["c"] = [row[2] for row in ROWS]
    release_query(columns, "histogram(c, [F, M])", ledger=ledger, epsilon=0.4)
    assert spent(ledger) == 0.8
    with pytest.raises(BudgetExhaustedError):
        release_query(copy, "count()", ledger=ledger, epsilon=0.4)
    stranger = write(table.with_name("stranger.csv"), ROWS[:2])
    with pytest.raises(DataError, match="reticent budget grant"):
        release_query(stranger, "count()", ledger=ledger, epsilon=0.1)


def test_a_parquet_copy_too(table: Path, ledger: Ledger) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    ages = [None if row[1] == "" else row[1] for row in ROWS]
    content = {"id": [r[0] for r in ROWS], "age": ages, "sex": [r[2] for r in ROWS]}
    path = table.with_name("people.parquet")
    parquet.write_table(pyarrow.table(content), path)
    made = release_query(
        path, "count() where sex = M", ledger=ledger, epsilon=0.4, dataset="people"
    )
    assert spent(ledger) == 0.4
    assert made.guarantee.strength.unit == "record"  # type: ignore[union-attr]


def test_a_retry_is_charged_once_and_never_runs_twice(
    table: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "start", lambda *_: (_ for _ in ()).throw(RuntimeError("cut")))
        with pytest.raises(RuntimeError, match="cut"):
            release_query(table, "count()", ledger=ledger, epsilon=0.4, key="may")
    release_query(table, "count()", ledger=ledger, epsilon=0.4, key="may")
    assert spent(ledger) == 0.4
    with pytest.raises(ConfigError, match="reserve another"):
        release_query(table, "count()", ledger=ledger, epsilon=0.4, key="may")
    assert states(ledger) == ["reserve", "started", "committed"]


def test_budgets_per_user_need_users_and_bound_their_records(table: Path, tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "users.db")
    cap = Cap(epsilon=1e6, delta=1e-6)
    ledger.grant("people", file_digests(table, user="id"), cap=cap, unit="user")
    for contributions, count in ((1, 4), (2, 5)):
        made = release_query(
            table,
            "count()",
            ledger=ledger,
            epsilon=1e4,
            user="id",
            contributions=contributions,
        )
        assert made.answer.value == count
        assert made.guarantee.strength.unit == "user"  # type: ignore[union-attr]
    before = spent(ledger)
    local = release_reports(table, "sex", SEX, ledger=ledger, user="id", contributions=2)
    assert spent(ledger) - before == pytest.approx(0.8)
    assert local.guarantee is not None
    assert local.guarantee.strength.epsilon == 0.8  # type: ignore[union-attr]
    assert len(local.reports) == 5
    with pytest.raises(ConfigError, match="Give user=COLUMN"):
        release_query(table, "count()", ledger=ledger, epsilon=1.0)
    with pytest.raises(ConfigError, match="Name the column of user ids"):
        release_query(table, "count()", ledger=ledger, epsilon=1.0, contributions=2)


def test_columns_of_users_have_the_identity_of_their_file(table: Path, tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "users.db")
    cap = Cap(epsilon=1.0, delta=1e-6)
    ledger.grant("people", file_digests(table, user="id"), cap=cap, unit="user")
    columns = {n: [row[i] for row in ROWS] for i, n in enumerate(("id", "age", "sex"))}
    release_query(columns, "count()", ledger=ledger, epsilon=0.5, user="id")
    assert spent(ledger) == 0.5


def test_users_are_for_budgets_of_users_and_other_neighbours_for_later(
    table: Path, ledger: Ledger, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="Leave user out"):
        release_query(table, "count()", ledger=ledger, epsilon=0.1, user="id")
    other = Ledger.create(tmp_path / "other.db")
    other.grant("people", file_digests(table), cap=Cap(epsilon=1, delta=0), relation="replace one")
    with pytest.raises(UnsupportedError, match="Not yet"):
        release_query(table, "count()", ledger=other, epsilon=0.1)


def test_quotas_of_analysts_hold(table: Path, ledger: Ledger) -> None:
    ledger.limit("people", "eve", cap=Cap(epsilon=0.3, delta=1e-6))
    with pytest.raises(BudgetExhaustedError, match="analyst 'eve'"):
        release_query(table, "count()", ledger=ledger, epsilon=0.4, analyst="eve")
    release_query(table, "count()", ledger=ledger, epsilon=0.4)


def test_a_file_that_changes_while_it_is_read_is_refused(
    table: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = spending.read_table

    def changing(data: Path) -> object:
        made = read(data)
        write(table, ROWS[:2])
        return made

    monkeypatch.setattr(spending, "read_table", changing)
    with pytest.raises(EvidenceError, match="changed meanwhile"):
        release_query(table, "count()", ledger=ledger, epsilon=0.4)
    assert spent(ledger) == 0


def test_arrays_need_no_file(tmp_path: Path) -> None:
    from reticent.privacy.ledger import record_digests

    columns = {"x": np.array([1.0, 2.0, np.nan]), "y": np.array([1, 1, 2])}
    ledger = Ledger.create(tmp_path / "arrays.db")
    ledger.grant("arrays", record_digests(columns), cap=Cap(epsilon=1e6, delta=0))
    made = release_query(columns, "sum(x, 0, 5)", ledger=ledger, epsilon=1e5, missing="drop")
    assert made.answer.value == pytest.approx(3.0, abs=0.01)
    made = release_query(columns, "histogram(y, ['1', 2.0])", ledger=ledger, epsilon=1e5)
    assert made.answer.value == {"1": 2, "2": 1, "(other)": 0}
