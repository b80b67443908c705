"""No unit in two parts; no teacher moved by another's part; the stack equals one by one."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional

from reticent.errors import ConfigError, DataError, UnsupportedError
from reticent.models.networks import Standardise, build
from reticent.random import seeded
from reticent.training.pate import teachers as module
from reticent.training.pate.parts import Parting, units_of
from reticent.training.pate.teachers import (
    GivenTeachers,
    StackedTeachers,
    TeacherPlan,
    train_teachers,
)

PLAN = TeacherPlan(steps=15, batch_size=8, seed=3)


def records(count: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 3
    x = rng.normal(size=(count, 5)) + 2.5 * np.eye(5)[y]
    return x.astype(np.float32), y


def network() -> nn.Module:
    return build("mlp", shape=(5,), outputs=3, options={"widths": (8,)})


def weights(teachers: StackedTeachers, one: int) -> Tensor:
    every = {**teachers._weights, **teachers._buffers}
    return torch.cat([value[one].flatten() for value in every.values()])


@settings(max_examples=60, deadline=None)
@given(
    users=st.lists(st.integers(-5, 30), min_size=1, max_size=80),
    teachers=st.integers(2, 12),
    salt=st.binary(min_size=8, max_size=20),
)
def test_no_user_has_two_teachers_and_every_row_has_one(
    users: list[int], teachers: int, salt: bytes
) -> None:
    x, y = np.zeros((len(users), 2)), np.zeros(len(users))
    rows = Parting(teachers=teachers, salt=salt).rows(units_of(x, y, np.array(users)))
    assert sorted(np.concatenate(rows).tolist()) == list(range(len(users)))
    homes = [{users[row] for row in own} for own in rows]
    assert sum(map(len, homes)) == len(set(users))


@settings(max_examples=40, deadline=None)
@given(gone=st.integers(0, 39), by_user=st.booleans(), order=st.randoms())
def test_a_unit_that_leaves_moves_nobody_else(gone: int, by_user: bool, order: object) -> None:
    """Also where the rows come in another order, which row numbers as names would not survive."""
    x, y = records(40)
    users = np.arange(40) // 2 if by_user else None
    parting = Parting(teachers=5, salt=b"12345678")

    def homes(rows: list[int]) -> dict[int, int]:
        names = units_of(x[rows], y[rows], None if users is None else users[rows])
        found = parting.rows(names)
        return {rows[i]: teacher for teacher, own in enumerate(found) for i in own}

    everybody = homes(list(range(40)))
    left = [row for row in range(40) if (row if users is None else users[row]) != gone]
    order.shuffle(left)  # type: ignore[attr-defined]
    assert homes(left) == {row: everybody[row] for row in left}


def test_parts_are_even_and_salts_fresh() -> None:
    rows = Parting(teachers=10, salt=b"12345678").rows([f"user {i}" for i in range(5000)])
    sizes = np.array([len(own) for own in rows])
    # Chi-square with 9 degrees of freedom exceeds 33.7 with chance 1e-4.
    assert ((sizes - 500) ** 2 / 500).sum() < 33.7
    first, second = Parting(teachers=10), Parting(teachers=10)
    assert first.salt != second.salt
    assert len(first.salt) == 16
    with pytest.raises(ConfigError, match="two teachers or more and a salt"):
        Parting(teachers=1)
    with pytest.raises(DataError, match="one user per record"):
        units_of(np.zeros((3, 1)), np.zeros(3), np.array([1]))


@pytest.mark.parametrize("change", ["contents", "size", "emptied"])
def test_a_teacher_does_not_notice_another_s_part(change: str) -> None:
    """To the bit: this is what lets one user move one vote."""
    x, y = records()
    rows = Parting(teachers=6, salt=b"12345678").rows(units_of(x, y, None))
    before = train_teachers(network(), x, y, rows, plan=PLAN)
    moved = list(rows)
    if change == "contents":
        x, y = x.copy(), y.copy()
        x[rows[2]], y[rows[2]] = 1e4, 0
    moved[2] = {"contents": rows[2], "size": rows[2][:3], "emptied": rows[2][:0]}[change]
    after = train_teachers(network(), x, y, moved, plan=PLAN)
    for teacher in (0, 1, 3, 4, 5):
        assert torch.equal(weights(before, teacher), weights(after, teacher))
    assert not torch.equal(weights(before, 2), weights(after, 2))


def test_a_diverged_or_empty_teacher_has_one_vote_like_any_other() -> None:
    x, y = records()
    rows = Parting(teachers=6, salt=b"12345678").rows(units_of(x, y, None))
    rows[1] = rows[1][:0]
    x = x.copy()
    x[rows[4]] = np.inf
    made = train_teachers(network(), x, y, rows, plan=PLAN)
    assert torch.isnan(weights(made, 4)).any()
    assert torch.isfinite(weights(made, 0)).all()
    questions, _ = records(30, seed=1)
    counts = made.votes(questions)._counts
    assert (counts.sum(1) == 6).all()


def one_by_one(
    template: nn.Module, x: np.ndarray, y: np.ndarray, rows: list[np.ndarray], plan: TeacherPlan
) -> list[nn.Module]:
    """The slow truth: a plain loop over teachers, with the same draws."""
    start, buffers = module._starting_state(template, x, rows, plan.seed)
    rng, trained = seeded(plan.seed, 2), []
    draws = [rng.random((len(rows), plan.batch_size)) for _ in range(plan.steps)]
    for index, own in enumerate(rows):
        model = copy.deepcopy(template)
        state = {name: value[index].detach() for name, value in {**start, **buffers}.items()}
        model.load_state_dict(state)
        optimiser = torch.optim.AdamW(
            model.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, plan.steps)
        for uniform in draws:
            picked = own[(uniform[index] * len(own)).astype(np.int64)]
            loss = functional.cross_entropy(
                model(torch.from_numpy(x[picked])), torch.from_numpy(y[picked])
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        trained.append(model)
    return trained


def convolutional() -> nn.Module:
    return nn.Sequential(
        Standardise(torch.zeros(1, 1, 1), torch.ones(1, 1, 1)),
        nn.Conv1d(1, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20, 3),
    )


@pytest.mark.parametrize("kind", ["mlp", "convolutional"])
def test_the_stack_equals_one_teacher_after_another(kind: str) -> None:
    x, y = records()
    if kind == "convolutional":
        x = x[:, None]
    template = network() if kind == "mlp" else convolutional()
    rows = Parting(teachers=5, salt=b"12345678").rows(units_of(x, y, None))
    stacked = train_teachers(template, x, y, rows, plan=PLAN)
    for index, model in enumerate(one_by_one(template, x, y, rows, PLAN)):
        for name, value in model.named_parameters():
            torch.testing.assert_close(
                stacked._weights[name][index], value.detach(), rtol=1e-3, atol=1e-5
            )


def test_stacked_teachers_vote_as_their_networks_do_and_learn() -> None:
    x, y = records()
    questions, truth = records(90, seed=1)
    rows = Parting(teachers=6, salt=b"12345678").rows(units_of(x, y, None))
    plan = TeacherPlan(steps=60, batch_size=8, learning_rate=0.02)
    made = train_teachers(network(), x, y, rows, plan=plan)
    counts = made.votes(questions)._counts
    expected = np.zeros_like(counts)
    for teacher in range(6):
        model = copy.deepcopy(network())
        state = {**made._weights, **made._buffers}
        model.load_state_dict({name: value[teacher] for name, value in state.items()})
        labels = model(torch.from_numpy(questions)).argmax(-1).numpy()
        expected[np.arange(90), labels] += 1
    assert (counts == expected).all()
    assert (counts.argmax(1) == truth).mean() > 0.85
    assert "hidden" in repr(made)


def test_given_teachers_are_estimators_or_functions_and_never_stop_the_vote() -> None:
    x, y = records()
    questions, truth = records(90, seed=1)
    estimators = [LogisticRegression().fit(x[i::4], y[i::4]) for i in range(4)]

    def broken(_: np.ndarray) -> np.ndarray:
        raise RuntimeError("a secret in a message")

    made = GivenTeachers([*estimators, broken, lambda q: np.full(len(q), 2)], classes=3)
    counts = made.votes(questions)._counts
    assert len(made) == 6
    assert (counts.sum(1) == 6).all()
    assert (counts[:, 0] >= 1).all()
    assert (counts[:, 2] >= 1).all()
    assert (counts.argmax(1) == truth).mean() > 0.9


def test_what_a_stack_can_t_keep_apart_is_refused() -> None:
    x, y = records(20)
    halves = [np.arange(10), np.arange(10, 20)]
    normed = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))
    with pytest.raises(UnsupportedError, match="BatchNorm1d in a stack of teachers"):
        train_teachers(normed, x, y, halves)
    with pytest.raises(DataError, match="1 rows twice"):
        train_teachers(network(), x, y, [np.arange(11), np.arange(10, 20)])

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.by

    with pytest.raises(UnsupportedError, match="can't be drawn anew"):
        train_teachers(nn.Sequential(nn.Linear(5, 3), Scale()), x, y, halves)
