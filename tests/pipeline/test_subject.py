"""What to audit: checkpoints, graphs, objects, and the records that say who was a member."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.errors import ConfigError, DataError
from reticent.inference.export import export
from reticent.models import checkpoint
from reticent.pipeline.recipe import Recipe
from reticent.pipeline.run import save_model
from reticent.pipeline.stage import by_regime, prepare
from reticent.pipeline.subject import load_model, of_checkpoint, of_file, parse_training
from reticent.pipeline.tasks import load_task

RNG = np.random.default_rng(11)


def write_npz(path: Path, member: Any, **more: Any) -> Path:
    count = len(member)
    x = RNG.normal(size=(count, 4)).astype(np.float32)
    np.savez(path, x=x, public=np.arange(count) % 3, member=member, **more)
    return path


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "models_of_mine.py").write_text(
        textwrap.dedent(
            """
            from torch import nn
            ready = nn.Linear(4, 3)
            def make():
                return nn.Sequential(nn.Linear(4, 3), nn.Dropout())
            """
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "models_of_mine"


def test_a_checkpoint_knows_its_records_and_its_training(tmp_path: Path) -> None:
    recipe = Recipe.from_dict(
        {"name": "d", "task": {"data": "digits"}, "train": {"epochs": 1, "batch_size": 128}}
    )
    task = load_task(recipe)
    stage = prepare(recipe, task, next(iter(by_regime(recipe, task))), report=lambda text: None)
    save_model(tmp_path, stage, recipe)
    found = of_checkpoint(tmp_path)
    assert np.array_equal(found.members, stage.partition.train)
    assert np.array_equal(found.non_members, stage.partition.test)
    assert found.recipe == TrainingRecipe(
        size=len(stage.partition.train), epochs=1, batch_size=128, keep="best",
        held_out=len(stage.partition.validation),
    )  # fmt: skip
    few = torch.from_numpy(task.x[:5])
    assert torch.equal(found.model(few), stage.model(few))


def test_a_checkpoint_without_recipe_asks_for_data(tmp_path: Path) -> None:
    checkpoint.save(
        tmp_path, nn.Linear(2, 2), checkpoint.Card(network="mlp", shape=(2,), outputs=2)
    )
    with pytest.raises(ConfigError, match="--data FILE"):
        of_checkpoint(tmp_path)


@pytest.mark.parametrize("words", [("0", "1", "2"), ("non-member", "member", "population")])
def test_a_file_says_who_was_a_member(words: Any, module: str, tmp_path: Path) -> None:
    which = np.arange(90) % 3
    path = write_npz(tmp_path / "r.npz", np.array(words)[which], sex=np.arange(90) // 2 % 2)
    found = of_file(f"{module}:ready", path, trained="epochs=3,optimiser=sgd,learning_rate=0.5")
    assert np.array_equal(found.members, np.flatnonzero(which == 1))
    assert np.array_equal(found.non_members, np.flatnonzero(which == 0))
    assert found.population is not None
    assert np.array_equal(found.population, np.flatnonzero(which == 2))
    assert set(found.task.private) == {"sex"}
    assert found.recipe == TrainingRecipe(size=30, epochs=3, optimiser="sgd", learning_rate=0.5)


def test_a_table_says_who_was_a_member(module: str, tmp_path: Path) -> None:
    rows = [f"{i * 0.5},{i % 7},{i % 2},{i % 2 or 0}" for i in range(70)]
    (tmp_path / "r.csv").write_text("\n".join(["a,b,y,in", *rows]) + "\n")
    found = of_file(f"{module}:ready", tmp_path / "r.csv", public="y", member="in")
    assert found.task.x.shape == (70, 2)
    assert len(found.members) == 35


@pytest.mark.parametrize("member", [np.ones(60, int), np.arange(60) % 5])
def test_members_without_non_members_are_refused(member: Any, module: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="member"):
        of_file(f"{module}:ready", write_npz(tmp_path / "r.npz", member))


def test_a_file_without_the_column_is_refused(module: str, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "r.npz", np.arange(60) % 2)
    with pytest.raises(DataError, match=r"Expected 'trained_on' in 'r\.npz'"):
        of_file(f"{module}:ready", path, member="trained_on")


def test_objects_and_factories_are_loaded_in_evaluation_mode(module: str) -> None:
    for name in ("ready", "make"):
        model = load_model(f"{module}:{name}")
        assert isinstance(model, nn.Module)
        assert not model.training


def test_an_onnx_graph_answers_like_its_network(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 3)).eval()
    x = torch.randn(6, 4)
    export(network, x[:1], tmp_path / "m.onnx")
    graph = load_model(str(tmp_path / "m.onnx"))
    assert np.allclose(graph(x.numpy()), network(x).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("name", ["nothing", "no_such_module:x", "json:no_such_name"])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name.partition(":")[0]):
        load_model(name)


@pytest.mark.parametrize("text", ["speed=3", "epochs=many", "epochs=0", "optimiser"])
def test_training_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_training(text, size=100)
