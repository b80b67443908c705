"""The task that a recipe names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from reticent.data import load
from reticent.data.task import Task
from reticent.errors import ConfigError
from reticent.pipeline.recipe import Recipe


def load_task(recipe: Recipe) -> Task:
    """The recipe's task, with the private attributes that it names (all of the set's if none)."""
    table = recipe.task
    options = {name: value for name, value in table.options.items() if name != "levels"}
    task = load(
        table.data,
        public=table.public,
        private=tuple(table.private),
        unit=table.unit,
        root=None if table.root is None else Path(table.root),
        seed=recipe.seed,
        **options,
    )
    missing = set(table.private) - set(task.private)
    if missing:
        raise ConfigError(
            f"Expected private attributes among {sorted(task.private)}, got {sorted(missing)}."
        )
    if table.private:
        kept = {name: task.private[name] for name in table.private}
        task = replace(task, private=kept)
    if not task.private:
        raise ConfigError(
            "The task has no private attribute, so there is nothing to attack. "
            "Name one under [task] private."
        )
    return task
