"""Partitions: nobody learns on what is tested, under generated populations."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from reticent.data.partition import (
    DEFAULT_SHARES,
    PARTS,
    Regime,
    check_partition,
    partition,
)
from reticent.data.task import Kind, Task
from reticent.errors import DataError

SIDES = {"defender": PARTS[:2], "attacker": PARTS[2:4], "test": PARTS[4:]}


@dataclass(frozen=True, kw_only=True)
class Population:
    """How many users, recordings each, windows per recording and classes; None: no such unit."""

    users: int | None = None
    recordings: int | None = None
    windows: int = 1
    classes: int = 2
    seed: int = 0

    def task(self, *, kind: Kind = Kind.CLASSIFICATION) -> Task:
        """Every recording has one class, every user one sex; rows are in time order."""
        recordings = self.recordings or 40
        n = (self.users or 1) * recordings * self.windows
        recording = np.arange(n) // self.windows
        user = recording // recordings
        label = recording % recordings % self.classes
        rng = np.random.default_rng(self.seed)
        return Task(
            name="population",
            x=rng.standard_normal((n, 2)).astype(np.float32),
            public=label if kind is not Kind.REGRESSION else np.arange(n, dtype=np.float32),
            private={"sex": user % 2 if self.users else recording % 3 % 2},
            users=user if self.users else None,
            recordings=recording if self.recordings else None,
            kind=kind,
        )


populations = st.builds(
    Population,
    users=st.none() | st.integers(8, 14),
    recordings=st.none() | st.integers(20, 30),
    windows=st.integers(1, 3),
    classes=st.integers(2, 4),
)


def sides(task: Task, seed: int, values: NDArray[np.int64]) -> dict[str, set[int]]:
    """The distinct `values` on each side of an unseen-users partition."""
    parts = partition(task, regime="unseen", seed=seed).parts()
    return {
        side: {int(value) for name in names for value in values[parts[name]]}
        for side, names in SIDES.items()
    }


@settings(max_examples=60, deadline=None)
@given(populations, st.integers(0, 1000), st.booleans())
def test_every_row_is_in_exactly_one_part_and_no_recording_in_two(
    population: Population, seed: int, unseen: bool
) -> None:
    task = population.task()
    regime = "unseen" if unseen and task.users is not None else "known"
    made = partition(task, regime=regime, seed=seed)
    rows = np.concatenate(list(made.parts().values()))
    assert np.array_equal(np.sort(rows), np.arange(len(task)))
    assert all(len(part) > 0 for part in made.parts().values())
    check_partition(task, made)
    if task.recordings is not None:
        owners = [set(task.recordings[part].tolist()) for part in made.parts().values()]
        assert sum(map(len, owners)) == len(set(task.recordings.tolist()))


@settings(max_examples=30, deadline=None)
@given(populations.filter(lambda p: p.users is not None), st.integers(0, 1000))
def test_unseen_users_are_on_one_side_only(population: Population, seed: int) -> None:
    task = population.task()
    assert task.users is not None
    found = sides(task, seed, task.users)
    assert sum(map(len, found.values())) == len(set(task.users.tolist()))


@pytest.mark.parametrize("recordings", [None, 40])
@pytest.mark.parametrize("users", [None, 25])
def test_parts_have_their_shares_and_their_classes(
    users: int | None, recordings: int | None
) -> None:
    task = Population(users=users, recordings=recordings, windows=5, classes=4).task()
    tolerance = 0.02 if users else 0.10
    for seed in range(3):
        for name, rows in partition(task, seed=seed).parts().items():
            wanted = DEFAULT_SHARES[PARTS.index(name)]
            assert len(rows) / len(task) == pytest.approx(wanted, abs=tolerance)
            if users:
                share = np.bincount(task.public[rows], minlength=4) / len(rows)
                assert share == pytest.approx([0.25] * 4, abs=0.06), name


@settings(max_examples=60, deadline=None)
@given(
    populations.filter(lambda p: p.users is not None and p.recordings is not None),
    st.integers(0, 1000),
)
def test_few_recordings_are_shared_out_by_user_by_class_and_in_all(
    population: Population, seed: int
) -> None:
    task = population.task()
    assert task.users is not None
    made = partition(task, regime="known", seed=seed)
    for name, rows in made.parts().items():
        share = DEFAULT_SHARES[PARTS.index(name)]
        for groups, most in (
            (task.users, 2.5),
            (task.public, 2.0),
            (np.zeros_like(task.users), 1.5),
        ):
            whole, part = (np.bincount(values) for values in (groups, groups[rows]))
            padded = np.pad(part, (0, len(whole) - len(part)))
            off = np.abs(padded - share * whole) / population.windows
            assert off.max() < most, (name, most)


def test_each_known_user_has_shares_and_classes_by_whole_recordings() -> None:
    # 40 recordings, 10 of each class: 12.8 and 3.2 of each class in train; 3.2 in validation.
    task = Population(users=10, recordings=40, windows=3, classes=4).task()
    made = partition(task, regime="known", seed=2)
    assert task.users is not None
    for user in range(10):
        for name, rows in made.parts().items():
            own = rows[task.users[rows] == user]
            wanted = 40 * DEFAULT_SHARES[PARTS.index(name)]
            assert abs(len(own) / 3 - wanted) < 1, (user, name)
        train = task.public[made.train[task.users[made.train] == user]]
        counts = np.bincount(train, minlength=4) / 3
        assert (counts >= 2).all(), (user, counts)
        assert (counts <= 5).all(), (user, counts)


def test_recordings_of_several_classes_stay_whole_and_are_shared_out_by_user() -> None:
    # Which class such a recording begins with says nothing: it must not cost a user a part.
    task = Population(users=8, recordings=13, windows=4).task()
    order = np.random.default_rng(0).permuted(np.tile(np.arange(4), (8 * 13, 1)), axis=1)
    mixed = replace(task, public=order.ravel())
    assert mixed.users is not None
    assert mixed.recordings is not None
    for seed in range(5):
        made = partition(mixed, seed=seed)
        assert made.regime == "known"
        for name, rows in made.parts().items():
            assert (np.unique(mixed.recordings[rows], return_counts=True)[1] == 4).all()
            own = np.bincount(mixed.users[rows], minlength=8) / 4
            assert np.abs(own - 13 * DEFAULT_SHARES[PARTS.index(name)]).max() < 1, name


def test_known_users_without_recordings_are_split_in_time_order() -> None:
    task = Population(users=9, windows=5, classes=3).task()
    made = partition(task, regime="known", seed=4)
    assert task.users is not None
    for user in range(9):
        for label in range(3):
            spans = [
                np.sort(rows[(task.users[rows] == user) & (task.public[rows] == label)])
                for rows in made.parts().values()
            ]
            joined = np.concatenate(spans)
            assert (np.diff(joined) > 0).all(), (user, label)
            assert all(len(span) for span in spans)


def test_each_side_of_unseen_users_has_its_share_of_each_sex() -> None:
    task = Population(users=20, windows=2).task()
    assert task.users is not None
    for seed in range(10):
        women = sides(task, seed, np.where(task.private["sex"] == 0, task.users, -1))
        counts = {side: len(found - {-1}) for side, found in women.items()}
        assert counts == {"defender": 4, "attacker": 4, "test": 2}


def test_a_seed_reproduces_and_another_differs() -> None:
    task = Population(users=12, recordings=20).task()
    for regime in ("known", "unseen"):
        first, again, other = (partition(task, regime=regime, seed=s) for s in (3, 3, 4))
        for name in PARTS:
            assert np.array_equal(first.parts()[name], again.parts()[name])
        assert not np.array_equal(np.sort(first.test), np.sort(other.test))


def test_rows_within_a_part_are_shuffled() -> None:
    made = partition(Population(users=10, recordings=20, windows=3).task())
    for rows in made.parts().values():
        assert (np.diff(rows) < 0).any()


def small_faces(regime_users: int = 20) -> Task:
    """As cmu_faces: 20 people, about 31 pictures each, four poses: 8 of a kind."""
    n = regime_users * 31
    user = np.arange(n) // 31
    return Task(
        name="few",
        x=np.zeros((n, 1), np.float32),
        public=np.arange(n) % 31 % 4,
        private={"identity": user},
        users=user,
    )


@pytest.mark.parametrize("regime", ["known", "unseen"])
def test_small_groups_leave_no_part_empty(regime: str) -> None:
    task = small_faces()
    for seed in range(25):
        made = partition(task, regime=regime, seed=seed)  # type: ignore[arg-type]
        for rows in (made.validation, made.attacker_validation):
            assert len(rows) >= 40
            assert np.bincount(task.public[rows]).min() >= 5


def test_known_identities_are_there_to_learn_and_to_test() -> None:
    task = small_faces()
    assert task.users is not None
    for seed in range(10):
        made = partition(task, regime="known", seed=seed)
        for rows in made.parts().values():
            assert len(np.unique(task.users[rows])) == 20


def test_six_users_are_enough_to_keep_sides_apart_and_five_are_not() -> None:
    task = Population(users=6, windows=2).task()
    assert task.users is not None
    assert all(sides(task, 0, task.users).values())
    with pytest.raises(DataError, match="at least 6 users, got 5"):
        partition(Population(users=5).task(), regime="unseen")


def test_quantities_are_dealt_too() -> None:
    task = Population(users=8, recordings=20, windows=2).task(kind=Kind.REGRESSION)
    made = partition(task)
    assert sum(len(rows) for rows in made.parts().values()) == len(task)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"regime": "unseen"}, "needs user ids"),
        ({"regime": "knwon"}, "regime='knwon'"),
        ({"shares": (0.5, 0.5, 0.5, 0.5, 0.5)}, "sum to 1"),
        ({"shares": (0.4, 0.1, 0.4, 0.1)}, "five positive shares"),
        ({"shares": (0.4, 0.0, 0.3, 0.1, 0.2)}, "positive"),
        ({"shares": (float("nan"),) * 5}, "sum to 1"),
    ],
)
def test_impossible_requests_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(DataError, match=words):
        partition(Population().task(), **changes)  # type: ignore[arg-type]


def test_too_few_records_are_refused_with_the_part_that_lacks_them() -> None:
    task = Population(windows=1).task()
    tiny = replace(
        task, x=task.x[:4], public=task.public[:4], private={"sex": np.array([0, 1, 0, 1])}
    )
    with pytest.raises(DataError, match=r"is empty|has no record"):
        partition(tiny)


@pytest.mark.parametrize("kind", [Kind.CLASSIFICATION, Kind.ANOMALY])
def test_a_class_that_a_part_lacks_is_refused(kind: Kind) -> None:
    task = Population(windows=5).task()
    rare = np.zeros(len(task), np.int64)
    rare[7] = 1
    with pytest.raises(DataError, match="no record of public class 1"):
        partition(replace(task, public=rare, kind=kind))


TASK = Population(users=12, recordings=10, windows=2).task()


def moved(regime: str, source: str, target: str, chosen: NDArray[np.bool_]) -> None:
    """Check a partition in which the `chosen` rows of `source` lie in `target` instead."""
    made = partition(TASK, regime=regime)  # type: ignore[arg-type]
    rows = made.parts()[source]
    moving = rows[chosen[rows]]
    assert len(moving)
    changes = {
        source: rows[~chosen[rows]],
        target: np.concatenate([made.parts()[target], moving]),
    }
    check_partition(TASK, replace(made, **changes))


def test_a_user_in_two_splits_is_refused() -> None:
    assert TASK.users is not None
    assert TASK.recordings is not None
    user = TASK.users[partition(TASK, regime="unseen").test[0]]
    first = (TASK.users == user) & (TASK.recordings % 10 < 5)
    for target in ("train", "attacker_train"):
        with pytest.raises(DataError, match=f"User {user} is in two parts"):
            moved("unseen", "test", target, first)
    # Between the two parts of one side the user may move: both are the attacker's.
    user = TASK.users[partition(TASK, regime="unseen").attacker_train[0]]
    moved("unseen", "attacker_train", "attacker_validation", TASK.users == user)


def test_a_recording_in_two_splits_is_refused() -> None:
    assert TASK.recordings is not None
    recording = TASK.recordings[partition(TASK, regime="known").train[0]]
    half = (TASK.recordings == recording) & (np.arange(len(TASK)) % 2 == 0)
    for target in ("validation", "test"):
        with pytest.raises(DataError, match=f"Recording {recording} is in two parts"):
            moved("known", "train", target, half)


def test_shared_doubled_and_foreign_rows_are_refused() -> None:
    task = Population(windows=5).task()
    made = partition(task)
    for rows, words in (
        (np.append(made.test, made.train[0]), "'test' shares rows"),
        (np.append(made.test, made.test[0]), "'test' holds a row twice"),
        (np.append(made.test, len(task)), "'test' names rows outside"),
        (np.append(made.test, -1), "'test' names rows outside"),
        (made.test[:0], "'test' is empty"),
        (made.test[task.public[made.test] == 1], "no record of public class 0"),
    ):
        with pytest.raises(DataError, match=words):
            check_partition(task, replace(made, test=rows))
    with pytest.raises(DataError, match="needs user ids"):
        check_partition(task, replace(made, regime="unseen"))


def test_ids_may_be_any_integers() -> None:
    task = Population(users=8, recordings=20).task()
    assert task.users is not None
    assert task.recordings is not None
    renamed = replace(task, users=task.users * 10**12 - 5, recordings=task.recordings * 10**12 - 7)
    for regime in ("known", "unseen"):
        made, same = (partition(t, regime=regime, seed=1) for t in (renamed, task))  # type: ignore[arg-type]
        assert np.array_equal(made.test, same.test)


@pytest.mark.parametrize("regime", ["known", "unseen"])
def test_a_part_for_certificates_comes_out_of_the_defenders_training_part(regime: Regime) -> None:
    task = Population(users=12, recordings=20, windows=2).task()
    made = partition(task, regime=regime, certify=0.08)
    plain = partition(task, regime=regime)
    assert "certify" not in plain.parts()
    parts = made.parts()
    assert list(parts) == [*PARTS, "certify"]
    every = np.concatenate(list(parts.values()))
    assert np.array_equal(np.sort(every), np.arange(len(task)))
    assert len(made.certify) == pytest.approx(0.08 * len(task), rel=0.25)
    assert len(made.train) == pytest.approx(0.24 * len(task), rel=0.25)
    if regime == "unseen":
        assert task.users is not None
        own = set(task.users[made.certify].tolist())
        for name in ("attacker_train", "attacker_validation", "test"):
            assert not own & set(task.users[parts[name]].tolist())


def test_the_certificates_part_must_leave_something_to_train_on() -> None:
    with pytest.raises(DataError, match=r"certify=0\.32"):
        partition(Population().task(), certify=0.32)


def test_a_certified_row_in_another_part_is_refused() -> None:
    task = Population(recordings=20).task()
    made = partition(task, certify=0.08)
    with pytest.raises(DataError, match="shares rows"):
        check_partition(task, replace(made, certify=made.test))
