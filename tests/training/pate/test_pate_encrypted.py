"""Teachers in processes of their own: encrypted votes, one opened sum, a student, a paid budget."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from reticent.errors import BudgetExhaustedError, ConfigError, EvidenceError
from reticent.privacy.ledger import Cap, Ledger
from reticent.privacy.threshold.votes import VotePlan
from reticent.training.pate.encrypted import TeacherParty, ask_encrypted

pytest.importorskip("dp_accounting")
PLAN = VotePlan(teachers=4, holders=4, questions=6, classes=3, sigma=3.0)


def records(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    x = rng.normal(0, 0.5, (n, 3)) + 2 * np.eye(3)[y]
    return x.astype(np.float32), y


def _serve(pipe: Connection, seed: int, plan: VotePlan, session: str) -> None:
    """A teacher's process: it trains on its own records and answers calls until it is closed."""
    x, y = records(seed)
    party = TeacherParty(LogisticRegression().fit(x, y).predict, plan=plan, session=session)
    while (call := pipe.recv()) is not None:
        name, given = call
        pipe.send(getattr(party, name)(*given))


class Remote:
    """A party at the other end of a pipe; it counts what crossed."""

    def __init__(self, seed: int, plan: VotePlan, session: str) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process
        self._process = process(target=_serve, args=(theirs, seed, plan, session))
        self._process.start()

    def _call(self, name: str, *given: Any) -> Any:
        self._pipe.send((name, given))
        return self._pipe.recv()

    def commit(self) -> bytes:
        return self._call("commit")

    def part(self) -> bytes:
        return self._call("part")

    def join(self, parts: dict[str, bytes], commitments: dict[str, bytes]) -> None:
        self._call("join", parts, commitments)

    def vote(self, x: np.ndarray) -> bytes:
        return self._call("vote", x)

    def share(self, votes: dict[str, bytes]) -> bytes:
        return self._call("share", votes)

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join(timeout=10)
        self._process.kill()


def granted(folder: Path, *, epsilon: float) -> Ledger:
    ledger = Ledger.create(folder / "ledger.db")
    users = [f"u{number}" for number in range(1200)]
    ledger.grant("people", users, cap=Cap(epsilon=epsilon, delta=1e-4), unit="user")
    return ledger


def fixed(votes: list[int], session: str, plan: VotePlan = PLAN) -> dict[str, TeacherParty]:
    """Parties in this process that all vote alike."""
    answers = np.array(votes)
    return {
        f"t{number}": TeacherParty(lambda x: answers, plan=plan, session=session)
        for number in range(plan.teachers)
    }


def spent(ledger: Ledger) -> float:
    (balance,) = ledger.balances("people")
    return float(balance.epsilon)


def test_labels_are_the_noisy_plurality_and_are_paid_for(tmp_path: Path) -> None:
    quiet = VotePlan(teachers=40, holders=40, questions=6, classes=3, sigma=4.0)
    ledger = granted(tmp_path, epsilon=40.0)
    votes = [0, 1, 2, 2, 1, 0]
    made = ask_encrypted(
        np.zeros((6, 3), np.float32),
        fixed(votes, "one", quiet),
        plan=quiet, session="one", delta=1e-5, ledger=ledger, dataset="people", key="a",
    )  # fmt: skip
    # Forty votes against noise of four: a label is wrong once in 10^10.
    assert made.labels.tolist() == votes
    assert "unaudited" in made.notice
    assert ledger.charge(made.charge).state == "committed"
    assert 0 < spent(ledger) <= made.guarantees[0].strength.epsilon
    assert not (made.counts == 40 * np.eye(3, dtype=int)[votes]).all()  # there is noise


def test_over_the_cap_no_teacher_is_asked(tmp_path: Path) -> None:
    ledger = granted(tmp_path, epsilon=0.1)

    def unasked(x: np.ndarray) -> np.ndarray:
        raise AssertionError("a teacher was asked")

    parties = {f"t{i}": TeacherParty(unasked, plan=PLAN, session="s") for i in range(4)}
    with pytest.raises(BudgetExhaustedError):
        ask_encrypted(
            np.zeros((6, 3), np.float32), parties, plan=PLAN, session="s", delta=1e-5,
            ledger=ledger, dataset="people", key="a",
        )  # fmt: skip
    assert spent(ledger) == 0


def test_a_vote_that_is_swapped_or_opened_twice_is_refused(tmp_path: Path) -> None:
    parties = fixed([0, 1, 2, 2, 1, 0], "swap")
    commitments = {name: party.commit() for name, party in parties.items()}
    parts = {name: party.part() for name, party in parties.items()}
    for party in parties.values():
        party.join(parts, commitments)
    votes = {name: party.vote(np.zeros((6, 3), np.float32)) for name, party in parties.items()}
    swapped = {**votes, "t0": votes["t1"]}
    with pytest.raises(EvidenceError):
        parties["t0"].share(swapped)
    parties["t0"].share(votes)
    with pytest.raises(BudgetExhaustedError, match="opened round"):
        parties["t0"].share(votes)
    with pytest.raises(ConfigError, match="one vote"):
        parties["t0"].vote(np.zeros((6, 3), np.float32))
    with pytest.raises(EvidenceError, match="committed"):
        fixed([0] * 6, "swap")["t0"].join({**parts, "t0": parts["t1"]}, commitments)
    with pytest.raises(ConfigError, match="hold a share"):
        TeacherParty(
            lambda x: x,
            plan=VotePlan(teachers=4, holders=2, questions=6, classes=3, sigma=3.0),
            session="few",
        )


@pytest.mark.slow
def test_four_processes_teach_a_student(tmp_path: Path) -> None:
    plan = VotePlan(teachers=4, holders=4, questions=18, classes=3, sigma=1.5)
    ledger = granted(tmp_path, epsilon=100.0)  # four teachers buy no privacy: this is wiring
    x, y = records(99, n=18)
    parties = {f"t{i}": Remote(i, plan, "wiring") for i in range(4)}
    try:
        made = ask_encrypted(
            x, parties, plan=plan, session="wiring", delta=1e-5,
            ledger=ledger, dataset="people", key="wiring",
        )  # fmt: skip
    finally:
        for party in parties.values():
            party.close()
    assert (made.labels == y).mean() > 0.7
    test_x, test_y = records(100)
    student = LogisticRegression().fit(x, made.labels)
    assert student.score(test_x, test_y) > 0.7
