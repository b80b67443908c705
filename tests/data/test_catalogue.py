"""The catalogue: names, options and folders, and what `load` says when they don't fit."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reticent.data
from reticent.data.catalogue import ENTRIES, ROOT_VARIABLE, load, names
from reticent.data.task import Kind
from reticent.errors import ConfigError, DataError

EMBEDDED = [entry for entry in names() if not entry.needs_root]
REAL = [entry.name for entry in names() if entry.needs_root]
# Regression, and the class labels' number.
CLASSES = {
    "gait": 5, "sketch-faces": 4, "formants": 10, "turbines": 0, "intrusion": 2, "dial": 2,
    "digits": 2, "mnist5k": 2, "breast-cancer": 2, "adult": 2,
}  # fmt: skip


def test_the_sets_are_listed_once_with_what_they_are() -> None:
    listed = [entry.name for entry in names()]
    assert len(set(listed)) == len(listed) == len(ENTRIES)
    assert all(entry.about for entry in names())
    assert reticent.data.load is load
    assert reticent.data.names is names
    with pytest.raises(AttributeError, match="'lod'"):
        _ = reticent.data.lod


@pytest.mark.parametrize("entry", EMBEDDED, ids=lambda entry: entry.name)
def test_an_embedded_set_loads_by_name_and_says_whether_it_is_generated(entry: Any) -> None:
    task = load(entry.name)
    assert task.name.startswith(entry.name.partition("-")[0])
    assert task.synthetic is entry.synthetic
    assert ("SYNTHETIC" in task.title) is ("SYNTHETIC" in task.source) is entry.synthetic
    assert task.source
    assert task.private
    assert task.classes == CLASSES[entry.name]
    assert len(task.class_names) == task.classes
    default = inspect.signature(entry.make).parameters["public"].default
    assert task.label == default
    for attribute in task.private:
        assert len(task.attribute_names[attribute]) > task.private[attribute].max()
    assert (task.kind is Kind.REGRESSION) is (entry.name == "turbines")


def test_public_private_unit_seed_and_options_reach_the_set() -> None:
    task = load(
        "sketch-faces",
        public="eyes",
        private=("identity",),
        unit="user",
        seed=3,
        persons=4,
        images=30,
    )
    assert len(task) == 120
    assert (task.label, list(task.private), task.unit) == ("eyes", ["identity"], "user")
    assert "seed 3" in task.source
    same = load("sketch-faces", public="eyes", seed=3, persons=4, images=30)
    other = load("sketch-faces", public="eyes", seed=4, persons=4, images=30)
    assert np.array_equal(task.x, same.x)
    assert not np.array_equal(task.x, other.x)
    assert list(same.private) == ["identity", "pose"]


def test_one_private_name_alone_is_a_name() -> None:
    assert list(load("gait", private="sex", persons=4).private) == ["sex"]


def test_whole_numbers_pass_for_real_options() -> None:
    assert load("dial", correlation=1).name == "dial-1"


@pytest.mark.parametrize(
    ("name", "near"),
    [("gate", "gait"), ("sketch_faces", "sketch-faces"), ("minst5k", "mnist5k"), ("fssd", "fsdd")],
)
def test_an_unknown_name_gets_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"data='{name}'.*Nearest names: .*{near}"):
        load(name)


def test_a_name_like_no_other_gets_them_all() -> None:
    with pytest.raises(ConfigError, match=r"\.npz, \.csv, \.parquet.*adult, .*turbines"):
        load("qqqqq")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("gait", {"speakers": 3}, r"'gait' takes the options .*'persons'.* got \['speakers'\]"),
        ("breast-cancer", {"rows": 3}, r"takes the options \['public'\], got \['rows'\]"),
        ("gait", {"public": "mood"}, "public='mood'"),
        ("digits", {"public": "slant"}, "public='slant'"),
        ("gait", {"persons": "3"}, "'persons' of 'gait' as int, got persons='3'"),
        ("gait", {"persons": 2.5}, "'persons' of 'gait' as int, got persons=2.5"),
        ("gait", {"persons": True}, "'persons' of 'gait' as int, got persons=True"),
        ("dial", {"correlation": "half"}, "'correlation' of 'dial' as float"),
        ("adult", {"race": 2}, "'race' of 'adult' as str, got race=2"),
    ],
)
def test_unknown_and_unfit_options_are_refused(name: str, options: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(name, **options)


def test_an_option_cannot_reach_past_the_folder() -> None:
    with pytest.raises(ConfigError, match=r"got \['folder'\]"):
        load("cmu_faces", root=Path(), folder="elsewhere")


def test_unknown_attributes_and_units_are_refused() -> None:
    with pytest.raises(DataError, match=r"among \['person', 'sex'\], got \['age'\]"):
        load("gait", private=("sex", "age"))
    with pytest.raises(DataError, match="unit='person'"):
        load("gait", unit="person")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="unit='user' needs"):
        load("adult", unit="user")


@pytest.mark.parametrize("name", REAL)
def test_real_sets_say_where_they_should_be(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ROOT_VARIABLE, raising=False)
    with pytest.raises(DataError, match=f"'{name}' doesn't come with Reticent. Set RETICENT_DATA"):
        load(name)
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    for root in (None, tmp_path):
        with pytest.raises(DataError, match=f"a folder '{name}' under .*found none"):
            load(name, root=root)
    (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=r"Expected the file .* it isn't there"):
        load(name)
