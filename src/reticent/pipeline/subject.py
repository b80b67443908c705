"""What to audit, from what a user names: a checkpoint, an ONNX graph, or an object in a module."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reticent.attacks.finding import Finding
from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.data.files import from_file
from reticent.data.task import Task
from reticent.errors import ConfigError, DataError
from reticent.guarantee import Guarantee
from reticent.inference.graph import Graph
from reticent.models import checkpoint
from reticent.pipeline.private_audit import audit_private_training
from reticent.pipeline.private_training import mechanism_of
from reticent.pipeline.recipe import Recipe, load_recipe
from reticent.pipeline.stage import Report, Stage, by_regime, parts_of
from reticent.pipeline.tasks import load_task

RECIPE_FILE = "recipe.toml"
_PARTS = {
    "members": ("1", "member", "members", "true"),
    "non_members": ("0", "non-member", "non-members", "non_member", "false"),
    "population": ("2", "population"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A model under audit with its task, and which rows it was trained on.

    `inside` attacks its training where that can be run again: private training, by a recipe.
    """

    model: Any
    task: Task
    members: NDArray[np.int64]
    non_members: NDArray[np.int64]
    population: NDArray[np.int64] | None = None
    recipe: TrainingRecipe | None = None
    claims: tuple[Guarantee, ...] = ()
    inside: Callable[[Report], list[Finding]] = lambda report: []


def of_checkpoint(folder: Path, overrides: Sequence[str] = ()) -> Subject:
    """What `reticent train` wrote: the recipe beside the weights says data, rows and training."""
    if not (folder / RECIPE_FILE).is_file():
        raise ConfigError(
            f"The checkpoint {folder.name!r} carries no {RECIPE_FILE} that says what it was "
            "trained on. Give its records with --data FILE, or train it again."
        )
    recipe = load_recipe(folder / RECIPE_FILE, overrides)
    model, card = checkpoint.load(folder)
    task = load_task(recipe)
    parts = parts_of(recipe, task, next(iter(by_regime(recipe, task))))
    claims = checkpoint.load_guarantees(folder)
    return Subject(
        model=model,
        task=task,
        members=parts.train,
        non_members=parts.test,
        population=parts.attacker_train,
        recipe=training_of(recipe, len(parts.train), len(parts.validation)),
        claims=claims,
        inside=lambda report: audit_private_training(
            recipe,
            model,
            claims,
            shape=card.shape,
            outputs=card.outputs,
            size=len(parts.train),
            report=report,
        ),
    )


def of_file(
    name: str,
    data: Path,
    *,
    public: str | None = None,
    private: Sequence[str] = (),
    member: str = "member",
    trained: str | None = None,
) -> Subject:
    """The model that `name` names, with the records in `data`.

    Column or array `member` says which part each record had: 1 or "member", 0 or "non-member",
    2 or "population". `trained` describes the training (see `parse_training`).
    """
    task, parts = _with_members(data, public=public, private=private, member=member)
    model = _checkpoint(Path(name)) if Path(name).is_dir() else load_model(name)
    recipe = None if trained is None else parse_training(trained, size=len(parts["members"]))
    return Subject(
        model=model,
        task=task,
        members=parts["members"],
        non_members=parts["non_members"],
        population=parts.get("population"),
        recipe=recipe,
    )


def load_model(name: str) -> Any:
    """The model in an ONNX file, or the object in "package.module:name" (which is code that runs).

    An object that is a class or a function without a `predict` method is called without arguments
    to make the model. Networks are put into evaluation mode.
    """
    if name.endswith(".onnx"):
        return Graph(Path(name))
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError(
            f"Expected a bundle, a checkpoint folder, a file ending in .onnx, or "
            f"package.module:object, got {name!r}."
        )
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"Expected an importable object, got {name!r}: {error}.") from error
    is_factory = isinstance(found, type) or not (
        isinstance(found, nn.Module) or hasattr(found, "predict")
    )
    model = found() if is_factory and callable(found) else found
    return model.eval() if isinstance(model, nn.Module) else model


def parse_training(text: str, *, size: int) -> TrainingRecipe:
    """The recipe in "epochs=20,optimiser=sgd,learning_rate=0.1", for `size` training records."""
    hints: Mapping[str, Any] = get_type_hints(TrainingRecipe)
    values: dict[str, Any] = {"size": size}
    for part in filter(None, text.replace(" ", "").split(",")):
        key, _, given = part.partition("=")
        if key not in hints:
            raise ConfigError(
                f"Expected trained=KEY=VALUE,... with keys among {sorted(hints)}, got {part!r}."
            )
        kind = hints[key]
        try:
            values[key] = int(given) if kind is int else given if _is_text(kind) else float(given)
        except ValueError:
            raise ConfigError(f"Expected a number for {key!r}, got {part!r}.") from None
    return TrainingRecipe(**values)


def training_of(recipe: Recipe, size: int, held_out: int) -> TrainingRecipe:
    """How `reticent train` trains: AdamW with a cosine, keeping the best validation epoch.

    With [train.private]: as that says, but for its averaging and its views.
    """
    train, private = recipe.train, recipe.train.private
    if private is not None:
        batches = -(-size // private.expected_batch)
        return TrainingRecipe(
            size=size,
            epochs=max(1, round(private.steps / batches)),
            batch_size=private.expected_batch,
            optimiser="sgd",
            learning_rate=private.learning_rate,
            momentum=private.momentum,
            weight_decay=0.0,
            schedule="constant",
            clip_norm=private.clipping_norm,
            noise_multiplier=mechanism_of(private, size).noise_multiplier,
        )
    return TrainingRecipe(
        size=size,
        epochs=train.epochs,
        batch_size=train.batch_size,
        optimiser="adamw",
        learning_rate=train.learning_rate,
        weight_decay=train.weight_decay,
        schedule="cosine",
        keep="best",
        held_out=held_out,
    )


def imitated(recipe: Recipe, stage: Stage) -> TrainingRecipe | None:
    """How to train models like the stage's, where its training claims something."""
    if not stage.guarantees or recipe.train.private is None:
        return None
    return training_of(recipe, len(stage.partition.train), len(stage.partition.validation))


def _is_text(kind: Any) -> bool:
    return getattr(kind, "__args__", (None,))[0] in ("sgd", "constant", "last")


def _checkpoint(folder: Path) -> nn.Module:
    return checkpoint.load(folder)[0]


def _with_members(
    data: Path, *, public: str | None, private: Sequence[str], member: str
) -> tuple[Task, dict[str, NDArray[np.int64]]]:
    wanted = (*private, member) if private or data.suffix.lower() != ".npz" else ()
    task = from_file(data, public=public, private=wanted)
    if member not in task.private:
        raise DataError(
            f"Expected {member!r} in {data.name!r}: 1 for records that the model was trained on, "
            "0 for others, 2 for records that an attacker may own."
        )
    codes = task.private[member]
    names = [name.lower() for name in task.attribute_names[member]]
    parts: dict[str, NDArray[np.int64]] = {}
    for part, words in _PARTS.items():
        chosen = [code for code, name in enumerate(names) if name in words]
        rows = np.flatnonzero(np.isin(codes, chosen))
        if len(rows):
            parts[part] = rows
    known = {word for words in _PARTS.values() for word in words}
    strange = sorted(set(names) - known)
    if strange or not {"members", "non_members"} <= parts.keys():
        raise DataError(
            f"Expected {member!r} to hold 1 (members) and 0 (non-members), and perhaps 2 "
            f"(population), got {names}."
        )
    rest = {name: values for name, values in task.private.items() if name != member}
    return replace(task, private=rest), parts
