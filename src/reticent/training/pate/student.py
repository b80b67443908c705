"""PATE from data to a student and its guarantee: charged, parted, taught, asked, trained."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from reticent.errors import ConfigError, DataError
from reticent.guarantee import Adversary, DifferentialPrivacy, Guarantee, Pillar
from reticent.privacy.ledger import Cost, Ledger, epsilon_at
from reticent.training.pate import accounting
from reticent.training.pate.accounting import FewTeachersWarning, warn_of_few
from reticent.training.pate.aggregation import Aggregator, ask_all
from reticent.training.pate.mechanisms import InteractiveGNMax, Questions
from reticent.training.pate.parts import Parting, units_of
from reticent.training.pate.sanitised import Publication, PublishedLoss, publish
from reticent.training.pate.teachers import TeacherPlan, Teachers, train_teachers
from reticent.training.pate.votes import PrivateVotes
from reticent.training.plain import descend, forward

RELATION = "add or remove one"

READER = Adversary(
    name="student's owner",
    sees="every label that was released, the student, and which questions were refused",
    knows="all records but those of one unit, all public inputs, the networks and the plan",
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything fixed before the data are looked at.

    `rounds` is for interactive GNMax: the student is trained anew between them. `publication`
    publishes the data-dependent loss too, and is charged for.
    """

    parting: Parting
    questions: Questions
    teachers: TeacherPlan = field(default_factory=TeacherPlan)
    publication: Publication | None = None
    rounds: int = 4
    student_epochs: int = 12
    student_learning_rate: float = 3e-3
    student_batch: int = 32
    student_seed: int = 0

    def cost(self) -> Cost:
        """What the ledger is charged: all questions, and the publication."""
        asked = accounting.cost(self.questions)
        return asked if self.publication is None else asked + self.publication.cost()

    def epsilon(self, delta: float) -> float:
        """What is claimed at `delta`, whatever the votes.

        By privacy loss distributions; with a publication, which has none, by Rényi divergences.
        """
        if self.publication is None:
            return accounting.epsilon(self.questions, delta)
        return epsilon_at(self.cost(), delta)


@dataclass(frozen=True, kw_only=True)
class Student:
    """A student in evaluation mode, and what its labels cost.

    `labels` (questions,) are the labels it learnt from, -1 where none was released. `guarantee` is
    None for an experiment, whose noise a seed repeats. `few` is the warning where there were fewer
    than 250 teachers.
    """

    model: nn.Module
    labels: NDArray[np.int64]
    asked: int
    answered: int
    epsilon: float
    delta: float
    guarantee: Guarantee | None
    charge: str | None
    few: FewTeachersWarning | None
    published: PublishedLoss | None


def train_student(
    student: nn.Module,
    teacher: nn.Module,
    x: NDArray[np.float32],
    y: NDArray[np.integer],
    public_x: NDArray[np.float32],
    *,
    plan: Plan,
    delta: float,
    users: NDArray[np.integer] | list[str] | None = None,
    ledger: Ledger | None = None,
    dataset: str = "",
    key: str = "",
    seed: int | None = None,
    experiment: bool = False,
) -> Student:
    """A copy of `student`, trained on `public_x` (questions, ...) by labels bought from teachers.

    `teacher` is the teachers' network, trained on parts of the private records x (n, ...) and
    y (n,), parted by `users` or else by record. The whole plan is charged to `dataset` of `ledger`
    under `key` before a record is read; `BudgetExhaustedError` where it does not fit, and then
    nothing is trained. Without a ledger nothing guards the budget: that takes `experiment=True`
    and a `seed`, which voids the guarantee. Public inputs are asked in their order, as many as
    planned and no more. `FewTeachersWarning` below 250 teachers.
    """
    _check(x, y, public_x, ledger=ledger, experiment=experiment)
    epsilon = plan.epsilon(delta)
    few = warn_of_few(plan.parting.teachers, epsilon, delta)
    charge = None
    if ledger is not None:
        charge = _reserved(ledger, dataset, key, plan, users is not None)
    aggregator = Aggregator(plan.questions, seed=seed, experiment=experiment)
    rows = plan.parting.rows(units_of(x, y, users))
    teachers = train_teachers(teacher, x, y, rows, plan=plan.teachers)
    model, labels = _taught(student, teachers, aggregator, public_x[: plan.questions.asked], plan)
    published = _published(aggregator, plan, delta, epsilon)
    if ledger is not None and charge is not None:
        ledger.commit(charge)
    return Student(
        model=model,
        labels=labels,
        asked=aggregator.asked,
        answered=aggregator.answered,
        epsilon=epsilon,
        delta=delta,
        guarantee=guarantee(epsilon, delta, is_by_user=users is not None)
        if aggregator.is_private
        else None,
        charge=charge,
        few=few,
        published=published,
    )


def guarantee(epsilon: float, delta: float, *, is_by_user: bool) -> Guarantee:
    """The claim for labels from PATE, and for whatever is made of them."""
    return Guarantee(
        id="pate",
        pillar=Pillar.TRAINING_DATA,
        adversary=READER,
        strength=DifferentialPrivacy(
            epsilon=epsilon,
            delta=delta,
            neighboring_relation=RELATION,
            unit="user" if is_by_user else "record",
        ),
        mechanism="PATE: teachers on disjoint parts, Gaussian noise on their votes",
        assumptions=(
            "the number of teachers, the plan, the networks and the public inputs are public and "
            "were fixed before the data were looked at",
            "a unit has one name, and all its records carry it",
            "teachers, votes and part sizes stay with the trusted trainer; nobody times it",
            "the operating system's source is uniform",
        ),
        source="Papernot et al. 2018; Canonne, Kamath & Steinke 2020; dp-accounting",
    )


def _check(
    x: NDArray[Any],
    y: NDArray[Any],
    public_x: NDArray[Any],
    *,
    ledger: Ledger | None,
    experiment: bool,
) -> None:
    if len(x) != len(y) or not len(x) or not len(public_x):
        raise DataError(
            f"Expected one label per record and public inputs, got {len(x)} records, {len(y)} "
            f"labels, {len(public_x)} public inputs."
        )
    if (ledger is None) != experiment:
        raise ConfigError(
            "Expected a ledger to charge, or experiment=True without one, got "
            f"ledger={ledger is not None}, experiment={experiment}. Grant a budget first."
        )


def _reserved(ledger: Ledger, dataset: str, key: str, plan: Plan, is_by_user: bool) -> str:
    """Reserve and start the plan's charge, on a data set of the same unit and relation."""
    known, unit = ledger.dataset(dataset), "user" if is_by_user else "record"
    if known.unit != unit or known.relation != RELATION:
        raise ConfigError(
            f"Expected a data set granted with unit={unit!r}, relation={RELATION!r}, got "
            f"unit={known.unit!r}, relation={known.relation!r} of dataset={dataset!r}."
        )
    about = {"mechanism": "pate", "questions": repr(plan.questions)}
    charge = ledger.reserve(dataset, plan.cost(), key=key, event=about)
    return ledger.start(charge.id).id


def _taught(
    student: nn.Module,
    teachers: Teachers,
    aggregator: Aggregator,
    questions: NDArray[np.float32],
    plan: Plan,
) -> tuple[nn.Module, NDArray[np.int64]]:
    votes = teachers.votes(questions)
    if not isinstance(plan.questions.mechanism, InteractiveGNMax):
        labels = ask_all(aggregator, votes)
        return fit_student(student, questions, labels, plan), labels
    labels = np.full(len(questions), -1, dtype=np.int64)
    model: nn.Module | None = None
    for rows in np.array_split(np.arange(len(questions)), plan.rounds):
        labels[rows] = _round(aggregator, votes, rows, _expected(model, questions[rows], votes))
        if (labels >= 0).any():
            model = fit_student(student, questions, labels, plan)
    return model or fit_student(student, questions, labels, plan), labels


def _round(
    aggregator: Aggregator,
    votes: PrivateVotes,
    rows: NDArray[np.int64],
    expected: NDArray[np.float64],
) -> list[int]:
    labels = []
    for row, own in zip(rows, expected, strict=True):
        if aggregator.is_spent:
            labels.append(-1)
            continue
        label = aggregator.ask(votes.one(int(row)), expected=own).label
        labels.append(-1 if label is None else label)
    return labels


def _expected(
    model: nn.Module | None, x: NDArray[np.float32], votes: PrivateVotes
) -> NDArray[np.float64]:
    """The student's distribution for each input; a student that knows nothing expects all alike."""
    if model is None:
        return np.full((len(x), votes.classes), 1.0 / votes.classes)
    made: NDArray[np.float64] = forward(model, torch.from_numpy(x)).softmax(-1).double().numpy()
    return made


def fit_student(
    student: nn.Module, x: NDArray[np.float32], labels: NDArray[np.integer], plan: Plan
) -> nn.Module:
    """A copy of `student` trained on the inputs that have a label (-1: none); post-processing.

    `DataError` where fewer than two have one.
    """
    kept = np.flatnonzero(labels >= 0)
    if len(kept) < 2:
        raise DataError(
            f"Expected two labels or more to train a student, got labels={len(kept)}: the teachers "
            "agreed too rarely. The charge stands. Lower the threshold, or use more records."
        )
    inputs, targets = torch.from_numpy(x[kept]), torch.from_numpy(labels[kept])
    model = copy.deepcopy(student)
    descend(
        model,
        [{"params": list(model.parameters()), "lr": plan.student_learning_rate}],
        loss=lambda rows: functional.cross_entropy(model(inputs[rows]), targets[rows]),
        count=len(kept),
        epochs=plan.student_epochs,
        batch_size=plan.student_batch,
        generator=torch.Generator().manual_seed(plan.student_seed),
    )
    return model


def _published(
    aggregator: Aggregator, plan: Plan, delta: float, epsilon: float
) -> PublishedLoss | None:
    if plan.publication is None or not aggregator.is_private or not aggregator.answered:
        return None
    return publish(aggregator.trace, plan.publication, delta=delta, worst_case=epsilon)
