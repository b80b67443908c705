"""Each new question is paid for, durably; a question asked again is not; zero is zero."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reticent.errors import BudgetExhaustedError, ConfigError
from reticent.privacy.ledger import Cap, Ledger, verify, zcdp
from reticent.privacy.ledger.cost import FREE
from reticent.privacy.ledger.store import _SQLiteTransaction
from reticent.training.pate import predictions as module
from reticent.training.pate.accounting import answer_rho, check_rho
from reticent.training.pate.mechanisms import ConfidentGNMax, GNMax, InteractiveGNMax
from reticent.training.pate.predictions import AnswerBook, PrivatePredictions
from reticent.training.pate.teachers import GivenTeachers

GNMAX = GNMax(sigma=20)
CONFIDENT = ConfidentGNMax(sigma=20, threshold=60, check_sigma=15)


def committee(count: int = 100) -> GivenTeachers:
    """All agree on the sign of the first coordinate; on the second below 0 they are split."""

    def teacher(index: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: np.where(x[:, 1] < 0, index % 2, x[:, 0] > 0).astype(np.int64)

    return GivenTeachers([teacher(index) for index in range(count)], classes=2)


def granted(folder: Path, epsilon: float = 2.0) -> Ledger:
    ledger = Ledger.create(folder / "budget.db")
    ledger.grant("people", [f"r{i}" for i in range(50)], cap=Cap(epsilon=epsilon, delta=1e-5))
    return ledger


def service(
    folder: Path, ledger: Ledger, mechanism: GNMax | ConfidentGNMax = GNMAX, name: str = "v1"
) -> PrivatePredictions:
    return PrivatePredictions(
        committee(),
        mechanism,
        ledger=ledger,
        dataset="people",
        answers=folder / "answers.db",
        name=name,
    )


def question(number: int, *, split: bool = False) -> np.ndarray:
    return np.array([1.0 + number, -1.0 if split else 1.0], dtype=np.float32)


def spent(ledger: Ledger) -> int:
    return ledger.balances()[0].spent.curve[3] or 0


LABEL, CHECK = (zcdp(rho=rho(CONFIDENT)).curve[3] or 0 for rho in (answer_rho, check_rho))


def test_each_new_question_debits_and_the_same_again_is_free(tmp_path: Path) -> None:
    ledger = granted(tmp_path)
    asked = service(tmp_path, ledger)
    first = asked.ask(question(0))
    assert (first.label, first.source) == (1, "teachers")
    assert spent(ledger) == LABEL
    assert all(asked.ask(question(0)) == first for _ in range(3))
    assert spent(ledger) == LABEL
    asked.ask(question(1))
    assert spent(ledger) == 2 * LABEL
    # A new set of teachers is asked anew; so is another mechanism.
    service(tmp_path, ledger, name="v2").ask(question(0))
    assert spent(ledger) == 3 * LABEL


def test_the_stored_answer_needs_no_teacher_and_survives_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A label that noise made is repeated as it was released, never drawn again."""
    ledger = granted(tmp_path, 20.0)
    asked = service(tmp_path, ledger, GNMax(sigma=20))
    given = [asked.ask(question(number, split=True)).label for number in range(12)]
    assert set(given) == {0, 1}
    asked.close()
    ledger.close()
    monkeypatch.setattr(module, "noisy_plurality", None)
    again = service(tmp_path, Ledger.open(tmp_path / "budget.db"), GNMax(sigma=20))
    assert [again.ask(question(number, split=True)).label for number in range(12)] == given


def test_a_refused_question_costs_its_check_alone(tmp_path: Path) -> None:
    ledger = granted(tmp_path, 8.0)
    asked = service(tmp_path, ledger, ConfidentGNMax(sigma=20, threshold=1e5, check_sigma=15))
    assert asked.ask(question(0)).label is None
    assert spent(ledger) == CHECK
    assert asked.ask(question(0)).label is None
    assert spent(ledger) == CHECK
    sure = service(tmp_path, ledger, ConfidentGNMax(sigma=20, threshold=1, check_sigma=15))
    assert sure.ask(question(0)).label == 1
    assert spent(ledger) == 2 * CHECK + LABEL
    states = Counter(entry["kind"] for entry in ledger.history())
    assert states == {
        "open": 1,
        "grant": 1,
        "reserve": 4,
        "started": 3,
        "committed": 3,
        "cancelled": 1,
    }


@pytest.mark.parametrize("mechanism", [GNMAX, CONFIDENT])
def test_at_zero_it_stops_and_reads_nothing(
    tmp_path: Path, mechanism: GNMax | ConfidentGNMax, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = granted(tmp_path, 1.0)
    asked = service(tmp_path, ledger, mechanism)

    def answers_given() -> int:
        for number in range(1000):
            try:
                asked.ask(question(number))
            except BudgetExhaustedError:
                return number
        return 1000

    assert 3 < answers_given() < 100
    before = spent(ledger)
    monkeypatch.setattr(PrivatePredictions, "_votes", None)
    with pytest.raises(BudgetExhaustedError, match="Nothing was charged") as raised:
        asked.ask(question(5000))
    assert raised.value.exit_code == 4
    assert spent(ledger) == before
    # What was released stays released.
    assert asked.ask(question(0)).source in ("teachers", "nobody")


def test_the_answer_leaves_only_once_its_charge_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = granted(tmp_path)
    asked = service(tmp_path, ledger)

    def refuse(_: str) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(ledger, "commit", refuse)
    with pytest.raises(OSError, match="disk is full"):
        asked.ask(question(0))
    assert spent(ledger) == LABEL
    monkeypatch.undo()
    asked.ask(question(0))
    assert spent(ledger) == 2 * LABEL


def test_threads_share_one_budget(tmp_path: Path) -> None:
    ledger = granted(tmp_path, 50.0)
    asked = service(tmp_path, ledger)
    got: list[int | None] = []

    def work() -> None:
        got.extend(asked.ask(question(number)).label for number in range(5))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(got) == 20
    assert spent(ledger) == 5 * LABEL


def killed_asker(folder: Path, seed: int) -> None:
    """In a child: ask until refused, note each answer, die at a random statement or between."""
    rng = random.Random(seed)
    journal = os.open(folder / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    fuse = rng.randrange(10, 400)

    def maybe_die() -> None:
        nonlocal fuse
        fuse -= 1
        if fuse <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    run, keep = _SQLiteTransaction.run, AnswerBook.keep

    def dying(self: _SQLiteTransaction, statement: str, *parameters: object) -> object:
        maybe_die()
        rows = run(self, statement, *parameters)
        maybe_die()
        return rows

    def keeping(self: AnswerBook, *given: object) -> object:
        maybe_die()
        return keep(self, *given)  # type: ignore[arg-type]

    _SQLiteTransaction.run = dying  # type: ignore[assignment, method-assign]
    AnswerBook.keep = keeping  # type: ignore[assignment, method-assign]
    ledger = Ledger.open(folder / "budget.db")
    asked = service(folder, ledger, CONFIDENT)
    try:
        while True:
            number = rng.randrange(40)
            answer = asked.ask(question(number, split=number % 3 == 0))
            os.write(journal, f"{number} {answer.label} {answer.source}\n".encode())
            maybe_die()
    except BudgetExhaustedError:
        pass


def kill_schedule(folder: Path, seed: int, children: int = 3) -> Counter[str]:
    """Children ask at once and are killed; then every answer given must have been paid for."""
    granted(folder, 1.5).close()
    pids = []
    for child in range(children):
        pid = os.fork()
        if not pid:
            code = 1
            try:
                killed_asker(folder, 100 * seed + child)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    status = [os.waitpid(pid, 0)[1] for pid in pids]
    assert all(os.WIFSIGNALED(code) or os.WEXITSTATUS(code) == 0 for code in status)
    ledger = Ledger.open(folder / "budget.db")
    verify(ledger.store, ledger.key.public)
    seen = Counter(killed=sum(os.WIFSIGNALED(code) for code in status))
    state: dict[str, str] = {}
    cost: dict[str, dict[str, object]] = {}
    for entry in ledger.history():
        if entry["kind"] == "reserve":
            state[entry["charge"]], cost[entry["charge"]] = "reserved", entry["cost"]
        elif "charge" in entry:
            state[entry["charge"]] = entry["kind"]
    standing = [ledger.charge(name).cost for name, last in state.items() if last != "cancelled"]
    (balance,) = ledger.balances()
    assert balance.spent == sum(standing, FREE)
    assert balance.cap.admits(balance.spent)
    journal = folder / "journal"
    told = [line.split() for line in journal.read_text().splitlines()] if journal.exists() else []
    # One question, one answer, whoever asked and after however many deaths.
    assert len({tuple(line) for line in told}) == len({line[0] for line in told})
    label = zcdp(rho=answer_rho(CONFIDENT)).to_json()
    committed = Counter(cost[n] == label for n, last in state.items() if last == "committed")
    answered = {line[0] for line in told if line[2] == "teachers"}
    assert committed[True] >= len(answered)
    assert committed[False] >= len({line[0] for line in told})
    ledger.close()
    seen.update(told=len(told), stood=len(standing))
    return seen


def schedules(folder: Path, seeds: range) -> Counter[str]:
    seen: Counter[str] = Counter()
    for seed in seeds:
        (folder / str(seed)).mkdir()
        seen.update(kill_schedule(folder / str(seed), seed))
    return seen


def test_no_kill_gives_an_answer_away(tmp_path: Path) -> None:
    seen = schedules(tmp_path, range(15))
    assert seen["killed"] > 10
    assert seen["told"] > 30


@pytest.mark.slow
def test_no_kill_gives_an_answer_away_in_hundreds(tmp_path: Path) -> None:
    assert schedules(tmp_path, range(100, 250))["killed"] > 100


def test_a_service_that_answers_before_it_commits_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test of the test: labels that are never charged."""

    def free(self: PrivatePredictions, votes: object, label: object, check: object) -> object:
        self._ledger.cancel(label.id)  # type: ignore[attr-defined]
        return module.Answer(label=1, source="teachers")

    monkeypatch.setattr(PrivatePredictions, "_answered", free)
    with pytest.raises(AssertionError):
        schedules(tmp_path, range(4))


def test_what_can_t_answer_is_refused(tmp_path: Path) -> None:
    ledger = granted(tmp_path)
    with pytest.raises(ConfigError, match="which need no student"):
        service(tmp_path, ledger, InteractiveGNMax(sigma=2, threshold=5, check_sigma=2))  # type: ignore[arg-type]
    (tmp_path / "answers.db").write_text("this is no database, whatever its name says" * 9)
    with pytest.raises(ConfigError, match="Expected a book of answers"):
        service(tmp_path, ledger)
