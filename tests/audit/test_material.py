"""What an auditor brings: checked before any attack is run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

from reticent.attacks.spec import Labelled
from reticent.attacks.target import Victim
from reticent.audit.material import Material, parse_claim
from reticent.data.files import from_arrays
from reticent.errors import ConfigError, DataError
from reticent.guarantee import DifferentialPrivacy, Pillar

RNG = np.random.default_rng(5)


def labelled(count: int = 40, width: int = 3, classes: int = 2) -> Labelled:
    x = RNG.normal(size=(count, width)).astype(np.float32)
    return Labelled(x=x, y=np.arange(count) % classes)


def test_rows_of_a_task_become_parts_with_their_attributes() -> None:
    x = RNG.normal(size=(120, 4)).astype(np.float32)
    sex = np.arange(120) % 3 % 2
    task = from_arrays(x, np.arange(120) % 2, {"sex": sex}, users=np.arange(120) // 4)
    rows = RNG.permutation(120)
    made = Material.of_task(task, members=rows[:40], non_members=rows[40:80], population=rows[80:])
    assert [len(part) for part in made.parts] == [40, 40, 40]
    assert np.array_equal(made.non_members.x, x[rows[40:80]])
    for part, chosen in enumerate((rows[:40], rows[40:80], rows[80:])):
        assert np.array_equal(made.attribute("sex", part), sex[chosen])
    assert made.members.users is not None


def test_masks_are_rows_too() -> None:
    task = from_arrays(RNG.normal(size=(80, 2)), np.arange(80) % 2)
    member = np.arange(80) < 35
    made = Material.of_task(task, members=member, non_members=~member)
    assert (len(made.members), len(made.non_members), made.population) == (35, 45, None)


def test_non_members_that_equal_a_member_are_dropped_and_counted() -> None:
    x = RNG.normal(size=(80, 2)).astype(np.float32)
    x[50] = x[3]
    task = from_arrays(x, np.arange(80) % 2, {"sex": np.arange(80) // 2 % 2})
    made = Material.of_task(task, members=np.arange(40), non_members=np.arange(40, 80))
    assert (len(made.non_members), made.dropped) == (39, 1)
    assert len(made.private["sex"]) == 79


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (np.arange(60), "disjoint rows"),
        (np.arange(10), "30 or more records in members"),
        (np.array([0, 999]), r"within 0\.\.79"),
        (np.ones(7, bool), r"mask of shape \(80,\)"),
        (np.linspace(0, 1, 40), "row indices or as a mask"),
    ],
)
def test_rows_that_make_no_sense_are_refused(members: Any, message: str) -> None:
    task = from_arrays(RNG.normal(size=(80, 2)), np.arange(80) % 2)
    with pytest.raises(DataError, match=message):
        Material.of_task(task, members=members, non_members=np.arange(40, 80))


def test_a_record_on_both_sides_is_refused() -> None:
    part = labelled()
    other = labelled()
    other.x[3] = part.x[7]
    with pytest.raises(DataError, match="got 1 on both sides"):
        Material(members=part, non_members=other)


def test_a_regression_is_refused() -> None:
    task = from_arrays(RNG.normal(size=(80, 2)), RNG.normal(size=80))
    with pytest.raises(ConfigError, match="kind='regression'"):
        Material.of_task(task, members=np.arange(40), non_members=np.arange(40, 80))


def test_material_must_fit_the_model() -> None:
    made = Material(members=labelled(classes=3), non_members=labelled(classes=3))
    sample = made.members.x
    made.fits(Victim.of_module(nn.Linear(3, 3).eval(), sample=sample))
    with pytest.raises(DataError, match=r"labels 0\.\.1"):
        made.fits(Victim.of_module(nn.Linear(3, 2).eval(), sample=sample))
    wide = labelled(width=5)
    with pytest.raises(DataError, match=r"records of shape \(5,\)"):
        made.fits(Victim.of_module(nn.Linear(5, 3).eval(), sample=wide.x))


def test_private_values_must_cover_every_part() -> None:
    with pytest.raises(DataError, match=r"'sex' as integers of shape \(80,\)"):
        Material(members=labelled(), non_members=labelled(), private={"sex": np.zeros(40, int)})


def test_a_claim_is_read() -> None:
    claim = parse_claim("epsilon=3, delta=1e-5, unit=user")
    assert claim.pillar is Pillar.TRAINING_DATA
    assert claim.strength == DifferentialPrivacy(
        epsilon=3.0, delta=1e-5, neighboring_relation="add or remove one", unit="user"
    )


@pytest.mark.parametrize("text", ["3", "epsilon=x", "epsilon=-1", "epsilon=1,delta=2", "k=4", ""])
def test_another_claim_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="Expected a claim such as epsilon=3"):
        parse_claim(text)
