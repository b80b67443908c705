"""Resampling: the same records, chosen so that public and private labels correlate as asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from reticent.data.task import Task
from reticent.errors import ConfigError
from reticent.random import seeded


def correlate(task: Task, attribute: str, *, strength: float, seed: int = 0) -> Task:
    """Rows of `task` with `attribute` tied to the public label, for the study of the floor.

    Public class y and private value s agree when s = y mod (number of values of s). All agreeing
    rows are kept, and of the others a share 1 - strength, drawn at random: at 0 the set is as it
    was, at 1 the label tells the attribute. Raises `ConfigError` for other strengths, attributes
    that the task lacks, and tasks without classes.
    """
    if attribute not in task.private or task.classes == 0 or not 0 <= strength <= 1:
        raise ConfigError(
            f"Expected an attribute among {sorted(task.private)} of a task with classes and "
            f"0 <= strength <= 1, got attribute={attribute!r}, strength={strength}."
        )
    values = task.private[attribute]
    agree = task.public % (int(values.max()) + 1) == values
    kept = np.flatnonzero(agree | (seeded(seed, 50).uniform(size=len(task)) >= strength))
    return replace(
        task,
        name=f"{task.name}, {attribute} tied {strength:g}",
        x=task.x[kept],
        public=task.public[kept],
        private={name: column[kept] for name, column in task.private.items()},
        users=None if task.users is None else task.users[kept],
        recordings=None if task.recordings is None else task.recordings[kept],
    )
