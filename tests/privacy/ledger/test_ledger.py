"""The ledger's rules: one budget per record, charged before use, once, and never given back."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import numpy as np
import pytest

from reticent.errors import BudgetExhaustedError, ConfigError, DataError, EvidenceError
from reticent.privacy.ledger import (
    Cap,
    Ledger,
    SQLiteStore,
    approximate_dp,
    gaussian,
    pure_dp,
    record_digests,
    verify,
)

CAP = Cap(epsilon=1.0, delta=1e-5)
PEOPLE = record_digests({"age": np.arange(40), "sex": np.arange(40) % 2})
TENTH = pure_dp(epsilon=0.1)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger.create(tmp_path / "budget.db")
    made.grant("people", PEOPLE, cap=CAP)
    return made


def spend(ledger: Ledger, epsilon: float, key: str, data: str = "people", who: str = "") -> None:
    with ledger.spending(data, pure_dp(epsilon=epsilon), key=key, analyst=who):
        pass


def check(ledger: Ledger) -> int:
    return verify(ledger.store, ledger.key.public).entries


def test_a_budget_is_spent_down_to_the_cap_and_no_further(ledger: Ledger) -> None:
    for number in range(10):
        spend(ledger, 0.1, f"q{number}")
    before = ledger.history()
    with pytest.raises(BudgetExhaustedError, match=r"epsilon=1, .*Nothing was charged"):
        ledger.reserve("people", pure_dp(epsilon=0.5), key="one more")
    assert ledger.history() == before
    (balance,) = ledger.balances("people")
    assert balance.epsilon <= 1.0
    check(ledger)


def test_a_refused_body_never_runs(ledger: Ledger) -> None:
    read = []
    with (
        pytest.raises(BudgetExhaustedError),
        ledger.spending("people", pure_dp(epsilon=1.01), key="big"),
    ):
        read.append("data")
    assert not read


def test_a_failing_mechanism_stays_charged_and_its_key_is_used_up(ledger: Ledger) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        ledger.spending("people", TENTH, key="once") as charge,
    ):
        _ = 1 / 0
    assert ledger.charge(charge.id).state == "started"
    assert ledger.balances()[0].spent == TENTH
    with pytest.raises(ConfigError, match="state='started'"):
        spend(ledger, 0.1, "once")
    with pytest.raises(ConfigError, match="stays charged"):
        ledger.cancel(charge.id)


def test_a_retry_with_the_same_key_is_the_same_charge(ledger: Ledger) -> None:
    first = ledger.reserve("people", TENTH, key="k", event={"query": "mean"})
    again = ledger.reserve("people", TENTH, key="k", event={"query": "mean"})
    assert first.id == again.id
    assert ledger.balances()[0].spent == TENTH
    for changed in (
        {"cost": pure_dp(epsilon=0.05)},
        {"event": {"query": "sum"}},
        {"analyst": "eve"},
    ):
        request = {"cost": TENTH, "event": {"query": "mean"}} | changed
        with pytest.raises(ConfigError, match="new key"):
            ledger.reserve("people", key="k", **request)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="key=''"):
        ledger.reserve("people", TENTH, key="")


def test_each_step_is_taken_once_and_in_order(ledger: Ledger) -> None:
    charge = ledger.reserve("people", TENTH, key="k").id
    with pytest.raises(ConfigError, match="state='reserved'"):
        ledger.commit(charge)
    ledger.start(charge)
    with pytest.raises(ConfigError, match="state='started'"):
        ledger.start(charge)
    ledger.commit(charge)
    for step in (ledger.start, ledger.commit, ledger.cancel):
        with pytest.raises(ConfigError, match="state='committed'"):
            step(charge)
    with pytest.raises(DataError, match="charge='c-999'"):
        ledger.commit("c-999")


def test_only_what_never_started_can_be_cancelled_and_its_key_is_spent(ledger: Ledger) -> None:
    # An infinite pure cost too: no subtraction could take it out again.
    noise = gaussian(noise_multiplier=20)
    kept = ledger.reserve("people", TENTH, key="a")
    gone = ledger.reserve("people", noise, key="b")
    ledger.cancel(gone.id)
    assert ledger.balances()[0].spent == kept.cost
    with pytest.raises(ConfigError, match="cancelled charge"):
        ledger.reserve("people", noise, key="b")
    check(ledger)


def test_a_renamed_reordered_or_retyped_copy_has_the_same_budget(ledger: Ledger) -> None:
    spend(ledger, 0.9, "k")
    order = np.random.default_rng(0).permutation(40)
    copies = [
        {"sex": (np.arange(40) % 2)[order], "alter": np.arange(40)[order].astype(float)},
        {"x": [f" {i} " for i in range(40)], "y": [str(i % 2) for i in range(40)]},
    ]
    for columns in copies:
        copy = ledger.grant("another name", record_digests(columns), cap=CAP)
        assert copy.id == ledger.datasets()[0].id
        with pytest.raises(BudgetExhaustedError):
            ledger.reserve(copy.id, pure_dp(epsilon=0.5), key="more")
    assert len(ledger.balances()) == 1


@pytest.mark.parametrize("rows", [PEOPLE[:7], [*PEOPLE, "new"], [*PEOPLE[5:], *PEOPLE[:5] * 2]])
def test_a_part_or_superset_pays_from_the_old_block(ledger: Ledger, rows: list[str]) -> None:
    spend(ledger, 0.9, "k")
    other = ledger.grant("other", rows, cap=CAP)
    assert set(ledger.datasets()[0].blocks) & set(other.blocks)
    with pytest.raises(BudgetExhaustedError):
        ledger.reserve(other.id, pure_dp(epsilon=0.5), key="more")
    # All or nothing: the fresh block of a refused charge is untouched.
    assert sorted(b.spent.pure or 0 for b in ledger.balances())[:-1] == [0] * (
        len(other.blocks) - 1
    )
    check(ledger)


def test_disjoint_blocks_compose_in_parallel(ledger: Ledger) -> None:
    ledger.grant("others", [f"r{i}" for i in range(9)], cap=CAP)
    spend(ledger, 0.9, "a")
    spend(ledger, 0.9, "b", "others")
    both = ledger.grant("both", [*PEOPLE, *(f"r{i}" for i in range(9))], cap=CAP)
    assert len(both.blocks) == 2
    spend(ledger, 0.1, "c", "both")
    assert {b.spent.pure for b in ledger.balances()} == {10**12}


def test_users_are_followed_through_any_of_their_records(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path / "budget.db")
    ledger.grant("may", [("ann", "r1", "r2"), ("bob", "r3")], cap=CAP, unit="user")
    june = ledger.grant("june", [("ann", "r9"), ("cid", "r7")], cap=CAP, unit="user")
    late = ledger.grant("july", [("ann2", "r9")], cap=CAP, unit="user")
    assert len(june.blocks) == 2
    assert late.blocks == ledger.dataset("may").blocks
    with pytest.raises(DataError, match="unit=0 in 2"):
        ledger.grant("mixed", [("r1", "r7")], cap=CAP, unit="user")
    assert check(ledger) == 4


def test_terms_never_change_once_granted(ledger: Ledger) -> None:
    for terms in (
        {"cap": Cap(epsilon=2.0, delta=1e-5)},
        {"cap": CAP, "unit": "user"},
        {"cap": CAP, "relation": "replace one"},
    ):
        with pytest.raises(ConfigError, match="Terms don't change"):
            ledger.grant("people", PEOPLE, **terms)  # type: ignore[arg-type]
    for bad in ([], [""], [()]):
        with pytest.raises(DataError, match="per unit"):
            ledger.grant("none", bad, cap=CAP)


def test_the_same_terms_written_otherwise_are_the_same(ledger: Ledger) -> None:
    same = Cap(epsilon=1, delta=np.float64(1e-5), direct_delta=5e-6)
    assert ledger.grant("people", PEOPLE, cap=same).blocks == ledger.dataset("people").blocks


def test_an_analysts_quota_binds_within_the_blocks_cap(ledger: Ledger) -> None:
    ledger.limit("people", "eve", cap=Cap(epsilon=0.3, delta=0.0))
    spend(ledger, 0.3, "a", who="eve")
    with pytest.raises(BudgetExhaustedError, match="analyst 'eve'"):
        spend(ledger, 0.1, "b", who="eve")
    # Many analysts, one cap.
    spend(ledger, 0.7, "c", who="bob")
    with pytest.raises(BudgetExhaustedError, match="block"):
        spend(ledger, 0.5, "d", who="cid")
    with pytest.raises(ConfigError, match="before the first charge"):
        ledger.limit("people", "bob", cap=CAP)
    with pytest.raises(ConfigError, match="Quotas don't change"):
        ledger.limit("people", "eve", cap=CAP)
    check(ledger)


def test_a_cancelled_charge_frees_its_analysts_quota_too(ledger: Ledger) -> None:
    ledger.limit("people", "eve", cap=Cap(epsilon=0.3, delta=0.0))
    charge = ledger.reserve("people", pure_dp(epsilon=0.3), key="a", analyst="eve")
    ledger.cancel(charge.id)
    spend(ledger, 0.3, "b", who="eve")
    check(ledger)


def test_direct_deltas_are_capped_too(ledger: Ledger) -> None:
    ledger.reserve("people", approximate_dp(epsilon=0.01, delta=5e-6), key="a")
    with pytest.raises(BudgetExhaustedError):
        ledger.reserve("people", approximate_dp(epsilon=0.01, delta=1e-9), key="b")


def test_threads_racing_for_the_last_tenth_share_one(ledger: Ledger) -> None:
    spend(ledger, 0.9, "k")
    won, lost = [], []

    def race(number: int) -> None:
        try:
            spend(ledger, 0.1, f"t{number}")
            won.append(number)
        except BudgetExhaustedError:
            lost.append(number)

    ledger.balances()
    threads = [threading.Thread(target=race, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (balance,) = ledger.balances()
    assert len(won) + len(lost) == 8
    # Rényi composition makes room for a few more than basic composition would.
    assert balance.spent.pure == (9 + len(won)) * 10**11
    assert CAP.admits(balance.spent)
    check(ledger)


def test_the_files_are_the_owners_alone_and_hold_no_digest_of_a_record(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "budget.db"
    ledger = Ledger.create(path)
    ledger.grant("people", PEOPLE, cap=CAP)
    ledger.close()
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert PEOPLE[0].encode() not in path.read_bytes()
    assert repr(ledger.key) == f"SigningKey(public={ledger.key.public!r})"


def test_without_its_own_closed_key_a_ledger_is_not_charged(tmp_path: Path) -> None:
    path, key = tmp_path / "budget.db", tmp_path / "budget.db.key"
    Ledger.create(path).close()
    Ledger.open(path).close()
    key.chmod(0o640)
    with pytest.raises(EvidenceError, match="mode=0640"):
        Ledger.open(path)
    other = Ledger.create(tmp_path / "other.db")
    with pytest.raises(EvidenceError, match="another ledger's"):
        Ledger.open(path, key=tmp_path / "other.db.key")
    other.close()
    key.unlink()
    with pytest.raises(EvidenceError, match="isn't there"):
        Ledger.open(path)
    with pytest.raises(EvidenceError, match="isn't there"):
        Ledger.create(path)
    key.write_text("no key")
    key.chmod(0o600)
    with pytest.raises(EvidenceError, match="readable key"):
        Ledger.open(path)


def test_a_lost_ledger_is_not_replaced_by_a_fresh_one(tmp_path: Path) -> None:
    path = tmp_path / "budget.db"
    Ledger.create(path).close()
    path.unlink()
    with pytest.raises(EvidenceError, match="grant spent budgets again"):
        Ledger.create(path)
    with pytest.raises(ConfigError, match="isn't there"):
        Ledger.open(path)


def test_what_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "budget.db"
    path.write_text("not a database, and long enough to be read as one" * 40)
    with pytest.raises(EvidenceError, match="whole database"):
        Ledger.create(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Choose another path"):
        SQLiteStore(tmp_path / "file" / "x.db", create=True)


def test_unknown_and_ambiguous_data_sets_are_refused(ledger: Ledger) -> None:
    with pytest.raises(DataError, match="0 match"):
        ledger.reserve("nobody", TENTH, key="k")
    ledger.grant("people", ["x"], cap=CAP)
    with pytest.raises(DataError, match="2 match"):
        ledger.reserve("people", TENTH, key="k")


def test_events_that_json_cannot_hold_are_refused_before_the_debit(ledger: Ledger) -> None:
    with pytest.raises(ConfigError, match="JSON"):
        ledger.reserve("people", TENTH, key="k", event={"sigma": float("nan")})
    assert not ledger.balances()[0].spent.pure
