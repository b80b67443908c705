"""From private records to a student: charged first, private by default, and it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from reticent.data.embedded import digits
from reticent.errors import BudgetExhaustedError, ConfigError, DataError
from reticent.guarantee import DifferentialPrivacy
from reticent.models.networks import build
from reticent.privacy.ledger import Cap, Ledger, epsilon_at, record_digests
from reticent.training.pate import student as module
from reticent.training.pate.accounting import FewTeachersWarning, epsilon
from reticent.training.pate.mechanisms import (
    ConfidentGNMax,
    GNMax,
    InteractiveGNMax,
    Mechanism,
    Questions,
)
from reticent.training.pate.parts import Parting
from reticent.training.pate.sanitised import Publication
from reticent.training.pate.student import Plan, fit_student, train_student
from reticent.training.pate.teachers import TeacherPlan

DELTA = 1e-5


def records(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = rng.normal(size=(count, 5)) + 2.5 * np.eye(5)[y]
    return x.astype(np.float32), y


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build("mlp", shape=(5,), outputs=3, options={"widths": (8,)})


def plan(mechanism: Mechanism, *, asked: int = 60, answered: int = 60, **options: Any) -> Plan:
    return Plan(
        parting=Parting(teachers=20, salt=b"12345678"),
        questions=Questions(mechanism=mechanism, asked=asked, answered=answered),
        teachers=TeacherPlan(steps=30, batch_size=8, learning_rate=0.02),
        student_epochs=4,
        **options,
    )


def taught(made: Plan, **options: Any) -> module.Student:
    x, y = records(600, 0)
    public, _ = records(80, 1)
    return train_student(network(), network(), x, y, public, plan=made, delta=DELTA, **options)


def ledger(folder: Path, cap: float) -> Ledger:
    x, y = records(600, 0)
    made = Ledger.create(folder / "budget.db")
    made.grant("people", record_digests({"x": x, "y": y}), cap=Cap(epsilon=cap, delta=DELTA))
    return made


def accuracy(model: nn.Module) -> float:
    x, y = records(600, 2)
    return float((model(torch.from_numpy(x)).argmax(-1).numpy() == y).mean())


@pytest.mark.filterwarnings("ignore::reticent.training.pate.accounting.FewTeachersWarning")
@pytest.mark.parametrize(
    "made",
    [
        plan(GNMax(sigma=3)),
        plan(ConfidentGNMax(sigma=3, threshold=12, check_sigma=3), answered=40),
        plan(InteractiveGNMax(sigma=3, threshold=12, check_sigma=3), answered=40),
    ],
)
def test_a_student_learns_from_noisy_labels(made: Plan) -> None:
    """Three classes whose best rule is right for 96 %; guessing, for 33 %."""
    found = taught(made, seed=1, experiment=True)
    assert accuracy(found.model) > 0.8
    assert not found.model.training
    assert found.guarantee is None
    assert found.charge is None
    assert found.epsilon == made.epsilon(DELTA)
    assert found.answered <= made.questions.answered
    assert found.asked <= made.questions.asked == len(found.labels)
    again = taught(made, seed=1, experiment=True)
    assert (found.labels == again.labels).all()


@pytest.mark.filterwarnings("ignore::reticent.training.pate.accounting.FewTeachersWarning")
def test_the_whole_plan_is_charged_and_the_claim_is_that_of_the_plan(tmp_path: Path) -> None:
    books, made = ledger(tmp_path, 500.0), plan(GNMax(sigma=3))
    found = taught(made, ledger=books, dataset="people", key="student")
    (balance,) = books.balances()
    assert balance.spent == made.cost()
    assert books.charge(str(found.charge)).state == "committed"
    assert found.guarantee is not None
    strength = found.guarantee.strength
    assert isinstance(strength, DifferentialPrivacy)
    assert (strength.epsilon, strength.unit) == (epsilon(made.questions, DELTA), "record")
    # The key pays for one student: the same charge can't be started again.
    with pytest.raises(ConfigError, match="in state reserved"):
        taught(made, ledger=books, dataset="people", key="student")
    assert books.balances()[0].spent == made.cost()


def test_over_the_cap_no_teacher_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("data were read before the charge")

    for name in ("train_teachers", "units_of"):
        monkeypatch.setattr(module, name, never)
    with (
        pytest.warns(FewTeachersWarning) as seen,
        pytest.raises(BudgetExhaustedError) as raised,
    ):
        taught(plan(GNMax(sigma=3)), ledger=ledger(tmp_path, 1.0), dataset="people", key="s")
    assert raised.value.exit_code == 4
    assert isinstance(seen[0].message, FewTeachersWarning)
    assert seen[0].message.epsilon == epsilon(plan(GNMax(sigma=3)).questions, DELTA)


@pytest.mark.filterwarnings("ignore::reticent.training.pate.accounting.FewTeachersWarning")
def test_a_crash_after_the_data_were_read_stays_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    books, made = ledger(tmp_path, 500.0), plan(GNMax(sigma=3))

    def crash(*_: object, **__: object) -> None:
        assert books.charge("c-3").state == "started"
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train_teachers", crash)
    with pytest.raises(KeyboardInterrupt):
        taught(made, ledger=books, dataset="people", key="s")
    assert books.balances()[0].spent == made.cost()


@pytest.mark.filterwarnings("ignore::reticent.training.pate.accounting.FewTeachersWarning")
def test_publishing_the_loss_is_charged_and_never_says_more_than_the_worst_case(
    tmp_path: Path,
) -> None:
    books = ledger(tmp_path, 500.0)
    bare = plan(GNMax(sigma=3))
    made = plan(GNMax(sigma=3), publication=Publication(order=4.0))
    found = taught(made, ledger=books, dataset="people", key="s")
    assert books.balances()[0].spent == bare.cost() + Publication(order=4.0).cost()
    assert found.epsilon == epsilon_at(made.cost(), DELTA) > bare.epsilon(DELTA)
    assert found.published is not None
    assert found.published.epsilon <= found.published.worst_case == found.epsilon
    assert taught(made, seed=1, experiment=True).published is None


@pytest.mark.filterwarnings("ignore::reticent.training.pate.accounting.FewTeachersWarning")
def test_terms_that_don_t_fit_are_refused(tmp_path: Path) -> None:
    made, users = plan(GNMax(sigma=3)), np.arange(600)
    with pytest.raises(ConfigError, match="granted with unit='user'"):
        taught(made, ledger=ledger(tmp_path, 500), dataset="people", key="s", users=users)
    with pytest.raises(DataError, match="two labels or more"):
        fit_student(network(), np.zeros((3, 5), np.float32), np.array([-1, 2, -1]), made)
    with pytest.raises(ConfigError, match="Expected a ledger to charge"):
        taught(made)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::reticent.training.pate.accounting.FewTeachersWarning")
def test_digits_from_sixty_teachers(tmp_path: Path) -> None:
    """1,200 private records, 200 public ones, noise that 60 teachers can bear: above 80 %.

    Guessing gives 10 %. What this costs in epsilon, far too much, is what the warning says.
    """
    task = digits(public="digit")
    order = np.random.default_rng(0).permutation(len(task))
    x, y = task.x[order], task.public[order]
    template = build("mlp", shape=(1, 8, 8), outputs=10, options={"widths": ()})
    made = Plan(
        parting=Parting(teachers=60, salt=b"12345678"),
        questions=Questions(mechanism=GNMax(sigma=6), asked=200, answered=200),
        teachers=TeacherPlan(steps=150, learning_rate=0.01),
    )
    books = Ledger.create(tmp_path / "budget.db")
    people = record_digests({"x": x[:1200], "y": y[:1200]})
    books.grant("digits", people, cap=Cap(epsilon=60, delta=DELTA))
    found = train_student(
        template,
        template,
        x[:1200],
        y[:1200],
        x[1200:1400],
        plan=made,
        delta=DELTA,
        ledger=books,
        dataset="digits",
        key="student",
    )
    test_x, test_y = torch.from_numpy(x[1400:]), y[1400:]
    assert (found.model(test_x).argmax(-1).numpy() == test_y).mean() > 0.8
    assert found.few is not None
    assert found.few.epsilon == found.epsilon > 15
