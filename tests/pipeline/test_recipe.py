"""Recipes: every key is checked, every refusal names file, table, key, value and remedy."""

from __future__ import annotations

import inspect
import json
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reticent.errors import ConfigError, UnsupportedError
from reticent.pipeline import toml
from reticent.pipeline.recipe import (
    DEFAULT_METHOD,
    KEEPS_WEIGHTS,
    NETWORKS,
    Method,
    Recipe,
    load_recipe,
)

RECIPES = Path(__file__).parents[2] / "recipes"
SHIPPED = {
    "activity",
    "digits",
    "driver-attention",
    "door-control",
    "voice",
    "machine-health",
    "credit",
    "intrusion",
    "anomaly",
    "hospital-encrypted",
    "private-digits",
}
MINIMAL: dict[str, Any] = {"name": "small", "task": {"data": "gait", "private": ["person", "sex"]}}


def write(folder: Path, text: str, name: str = "case.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_shipped_recipes_load_state_gates_and_are_named_after_their_file(name: str) -> None:
    recipe = load_recipe(RECIPES / f"{name}.toml")
    assert recipe.name == name
    assert recipe.description
    assert {"max_excess_leakage", "max_utility_loss"} <= recipe.gates.stated().keys()
    other = {"hospital-encrypted": "ckks", "private-digits": "plain"}
    assert recipe.inference.channel == other.get(name, "split")


def test_no_other_recipe_is_shipped() -> None:
    assert {path.stem for path in RECIPES.glob("*.toml")} == SHIPPED


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_commands_in_recipe_comments_are_valid_overrides(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#   reticent run "):
            command = line.removeprefix("#   reticent run ").split()
            assert command[0] == f"recipes/{path.name}"
            assert command[1] == "--set"
            load_recipe(path, [command[2]])


def test_defaults_follow_from_the_channel() -> None:
    split = Recipe.from_dict(MINIMAL)
    assert (split.inference.method, split.scenario.computed_by) == ("adapter_code", "both")
    plain = Recipe.from_dict(MINIMAL | {"inference": {"channel": "plain"}})
    assert (plain.inference.method, plain.scenario.computed_by) == (None, "server")


def test_methods_and_their_default_agree_with_hardening() -> None:
    from reticent.inference.split.harden import harden
    from reticent.inference.split.methods import METHODS

    assert sorted(get_args(Method)) == sorted(METHODS)
    assert {name for name, made in METHODS.items() if not made.retrains} == KEEPS_WEIGHTS
    assert inspect.signature(harden).parameters["method"].default == DEFAULT_METHOD
    for name, made in METHODS.items():
        channel = "sealed" if name == "sealed" else "split"
        wish = {"inference": {"channel": channel, "method": name, "retrain": made.retrains}}
        assert Recipe.from_dict(MINIMAL | wish).inference.method == name
        with pytest.raises(ConfigError, match="retrain"):
            Recipe.from_dict(
                MINIMAL | {"inference": wish["inference"] | {"retrain": not made.retrains}}
            )


def test_networks_agree_with_the_models() -> None:
    from reticent.models import networks

    assert tuple(networks.NETWORKS) == NETWORKS


def test_training_defaults_agree_with_training() -> None:
    from reticent.training.plain import Plan

    assert Recipe.from_dict(MINIMAL).train.model_dump(exclude={"private"}) == asdict(Plan())


def test_the_name_defaults_to_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[task]\ndata = "gait"\n', "My Case.toml")
    assert load_recipe(path).name == "my-case"


# (table or top, what to merge, what the message must hold)
REFUSALS: list[tuple[dict[str, Any], list[str]]] = [
    ({"trian": {"epochs": 3}}, ["trian", "unknown key", "nearest valid key is 'train'"]),
    ({"train": {"epoch": 3}}, ["[train] epoch", "epoch=3", "nearest valid key is 'epochs'"]),
    ({"train": {"zz": 3}}, ["[train] zz", "nearest valid key", "learning_rate"]),
    ({"train": {"max_utility_loss": 0.1}}, ["[train] max_utility_loss", "table [gates]"]),
    ({"inference": {"seed": 3}}, ["[inference] seed", "top of the file"]),
    ({"train": {"epochs": "many"}}, ["[train] epochs", "epochs='many'", "without quotes"]),
    ({"train": {"epochs": True}}, ["[train] epochs", "a whole number"]),
    ({"train": {"epochs": 0}}, ["at least 1", "epochs=0"]),
    ({"train": {"learning_rate": 0.0}}, ["more than 0", "learning_rate=0.0"]),
    ({"train": {"learning_rate": "fast"}}, ["a number", "learning_rate='fast'"]),
    ({"train": {"weight_decay": -1.0}}, ["at least 0", "weight_decay=-1.0"]),
    ({"train": {"batch_size": 0}}, ["at least 1", "batch_size=0"]),
    ({"inference": {"method": "prototype"}}, ["Did you mean 'prototype_code'?"]),
    ({"inference": {"channel": "telepathy"}}, ["one of split, plain", "channel='telepathy'"]),
    ({"inference": {"cut": -1}}, ["[inference] cut", "cut=-1"]),
    ({"inference": {"cut": 1.5}}, ["[inference] cut", "cut=1.5", '"auto"']),
    ({"inference": {"codes": 1}}, ["at least 2", "codes=1"]),
    ({"inference": {"method": "ceb", "codes": 4}}, ["codes=4", "Remove codes"]),
    ({"inference": {"method": "ceb", "retrain": False}}, ["retrain=False", "adapter_code"]),
    ({"inference": {"method": "shredder", "retrain": True}}, ["retrain=True", "Remove retrain"]),
    ({"inference": {"channel": "plain", "method": "ceb"}}, ["method='ceb'", "Remove it"]),
    ({"inference": {"channel": "plain", "codes": 2}}, ["codes=2", "Remove it"]),
    ({"inference": 3}, ["inference", "a table"]),
    ({"task": {}}, ["[task] data", "got none", "Add it"]),
    ({"task": {"data": ""}}, ["[task] data", "not empty"]),
    ({"task": {"data": 3}}, ["[task] data", "a string", "quotes"]),
    ({"task": {"data": "gait", "private": "sex"}}, ["[task] private", "a list", "brackets"]),
    ({"task": {"data": "gait", "unit": "users"}}, ["Did you mean 'user'?"]),
    ({"task": {"data": "gait", "options": 1}}, ["[task] options", "a table"]),
    ({"task": {"data": "gait", "regime": "old"}}, ["[task] regime", "auto, known, unseen, both"]),
    ({"task": {"data": "gait", "regime": {"sex": 1}}}, ["[task] regime", "known, unseen"]),
    (
        {"task": {"data": "gait", "private": ["sex"], "regime": {"sexx": "known"}}},
        ["[task] regime", "regime='sexx'", "Did you mean 'sex'?"],
    ),
    ({"scenario": {"computed_by": "server"}}, ["[scenario] computed_by", "'both'"]),
    ({"scenario": {"data_held_by": "server"}}, ["[scenario] data_held_by", "client"]),
    ({"model": {"name": "resnet"}}, ["[model] name", "package.module:factory"]),
    ({"audit": {"requests": []}}, ["[audit] requests", "not empty"]),
    ({"audit": {"requests": [1, 0]}}, ["[audit] requests", "at least 1"]),
    ({"audit": {"attributes": ["sexx"]}}, ["attributes='sexx'", "Did you mean 'sex'?"]),
    ({"audit": {"attributes": ["income"]}}, ["attributes='income'", "Add it to [task] private"]),
    ({"audit": {"seeds": 0}}, ["[audit] seeds", "at least 1"]),
    ({"audit": {"quick": 1}}, ["[audit] quick", "true or false"]),
    ({"gates": {"max_excess_leakage": 1.5}}, ["at most 1", "max_excess_leakage=1.5"]),
    ({"gates": {"max_utility_loss": -0.1}}, ["at least 0", "max_utility_loss=-0.1"]),
    ({"gates": {"max_total_variation": float("nan")}}, ["[gates] max_total_variation", "finite"]),
    ({"gates": {"max_client_flops_share": "half"}}, ["[gates] max_client_flops_share", "a number"]),
    ({"seed": -1}, ["seed", "at least 0"]),
    ({"name": "No Good"}, ["name", "small letters"]),
    ({"description": 3}, ["description", "a string"]),
]


@pytest.mark.parametrize(("change", "parts"), REFUSALS, ids=lambda value: str(value)[:50])
def test_a_bad_value_is_refused_with_file_place_value_and_remedy(
    change: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        Recipe.from_dict(MINIMAL | change, source="case.toml")
    message = str(caught.value)
    assert message.startswith("case.toml: ")
    for part in parts:
        assert part in message
    assert caught.value.exit_code == 2


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Recipe.from_dict(MINIMAL | {"train": {"epochs": 0, "batchsize": 3}, "seed": -1})
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("channel", ["mpc", "enclave"])
def test_channels_of_the_design_that_are_not_built_are_not_yet(channel: str) -> None:
    with pytest.raises(UnsupportedError, match="Not yet") as caught:
        Recipe.from_dict(MINIMAL | {"inference": {"channel": channel}})
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("channel", ["split", "plain"])
def test_an_answer_hidden_from_the_server_is_not_promised(channel: str) -> None:
    wish = {"inference": {"channel": channel}, "scenario": {"output_seen_by": "client"}}
    with pytest.raises(UnsupportedError, match="the server computes the answer"):
        Recipe.from_dict(MINIMAL | wish)


def test_overrides_change_values_and_types(tmp_path: Path) -> None:
    path = write(tmp_path, 'seed = 1\n[task]\ndata = "gait"\n[task.options]\nseed = 3\n')
    recipe = load_recipe(
        path,
        [
            "train.epochs=3",
            "task.data=har_phone_watch",
            "task.options.seed = 5",
            'task.private=["sex"]',
            "gates.max_utility_loss=0.5",
            "audit.quick=true",
            "seed=9",
        ],
    )
    assert (recipe.train.epochs, recipe.task.data, recipe.seed) == (3, "har_phone_watch", 9)
    assert dict(recipe.task.options) == {"seed": 5}
    assert recipe.task.private == ("sex",)
    assert recipe.gates.stated() == {"max_utility_loss": 0.5}
    assert recipe.audit.quick is True


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("train.epochs", "train.epochs=3"),
        ("=3", "train.epochs=3"),
        ("train..epochs=3", "train.epochs=3"),
        ("seed.deep=3", "no table"),
        ("train.epoch=3", "--set: [train] epoch: unknown key"),
        ("train.epochs=many", "--set: [train] epochs"),
    ],
)
def test_a_bad_override_is_refused(tmp_path: Path, override: str, part: str) -> None:
    path = write(tmp_path, 'seed = 1\n[task]\ndata = "gait"\n')
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, [override])
    assert part in str(caught.value)


def test_an_override_cannot_smuggle_in_a_second_key(tmp_path: Path) -> None:
    path = write(tmp_path, '[task]\ndata = "gait"\n')
    assert load_recipe(path, ['task.data="x"\nseed = 3']).seed == 0


def test_files_that_are_no_recipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_recipe(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match=r"case\.toml: expected TOML.*line 1"):
        load_recipe(write(tmp_path, "data = gait\n"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_recipe(tmp_path / "binary.toml")


def test_regimes_per_attribute() -> None:
    given = {"data": "gait", "private": ["person", "sex"], "regime": {"sex": "unseen"}}
    recipe = Recipe.from_dict({"name": "a", "task": given})
    assert recipe.task.regime_of("sex") == "unseen"
    assert recipe.task.regime_of("person") == "auto"
    assert Recipe.from_dict(MINIMAL).task.regime_of("sex") == "auto"


def test_recipes_are_frozen_through_and_through() -> None:
    options = {"persons": 3, "inner": {"list": [1]}}
    recipe = Recipe.from_dict(MINIMAL | {"task": {"data": "gait", "options": options}})
    with pytest.raises(ValidationError):
        recipe.seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        recipe.train.epochs = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        recipe.task.options["persons"] = 4  # type: ignore[index]
    with pytest.raises(TypeError):
        recipe.task.options["inner"]["list"] = []
    options["persons"] = 5
    assert recipe.task.options["persons"] == 3


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_toml_and_json_restore_the_recipe(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path, ["task.options.deep.list=[1, 2.5]", 'task.regime={sex="unseen"}'])
    again = load_recipe(write(tmp_path, recipe.to_toml()))
    assert again == recipe
    assert again.digest() == recipe.digest()
    assert Recipe.from_dict(json.loads(recipe.to_json())) == recipe


def test_the_digest_ignores_spelling_and_sees_every_value(tmp_path: Path) -> None:
    base = load_recipe(write(tmp_path, 'seed = 0\n[task]\ndata = "gait"\n'))
    spelt = load_recipe(
        write(tmp_path, '[train]\nweight_decay = 1e-4\nepochs = 12\n[task]\ndata = "gait"\n')
    )
    assert base.digest() == spelt.digest()
    changes = ["seed=1", "train.epochs=13", "task.options.a=1", "gates.max_utility_loss=0"]
    digests = {load_recipe(tmp_path / "case.toml", [change]).digest() for change in changes}
    assert len(digests | {base.digest()}) == 5


VALUES = st.recursive(
    st.text() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_written_toml_reads_back_equal(table: dict[str, Any]) -> None:
    assert tomllib.loads(toml.dumps(table)) == table


def test_toml_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(TypeError, match="NoneType=None"):
        toml.dumps({"key": None})
