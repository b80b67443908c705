"""What a bank of shadow models was made from, as digests: what differs can be named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reticent.attacks.shadow.estimators import is_estimator
from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.spec import Labelled

Identity = Mapping[str, str]
"""Digest by what it is of: architecture, recipe, pool, population, masks, seed."""


def identity_of(
    architecture: Any,
    recipe: TrainingRecipe,
    pool: Labelled,
    population: Labelled | None,
    member: NDArray[np.bool_],
    seed: int,
) -> Identity:
    """The digests of everything that decides what the shadow models answer."""
    return {
        "architecture": _sha256(*_architecture(architecture)),
        "recipe": recipe.digest(),
        "pool": _sha256(pool.x, pool.y),
        "population": _sha256() if population is None else _sha256(population.x, population.y),
        "masks": _sha256(member),
        "seed": str(seed),
    }


def digest_of(identity: Identity) -> str:
    """One SHA-256 over all of it, in hexadecimal."""
    return _sha256(json.dumps(dict(identity), sort_keys=True))


def _architecture(architecture: Any) -> list[Any]:
    """What makes two architectures the same: layers, and the values that training leaves alone."""
    if is_estimator(architecture):
        states = {
            name: repr(value)
            for name, value in architecture.get_params().items()
            if name.split("__")[-1] != "random_state"
        }
        return [type(architecture).__qualname__, json.dumps(states, sort_keys=True)]
    if not isinstance(architecture, nn.Module):
        return [f"{architecture.__module__}.{architecture.__qualname__}"]
    moved = {name for name, p in architecture.named_parameters() if p.requires_grad}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    fixed = [
        part
        for name, value in architecture.state_dict().items()
        if name not in moved and name.split(".")[-1] not in statistics
        for part in (name, value.detach().cpu().numpy())
    ]
    return [repr(architecture), *fixed]


def _sha256(*parts: Any) -> str:
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            found.update(f"{len(part)}:{part}".encode())
        else:
            array = np.ascontiguousarray(part)
            found.update(f"{array.dtype.str}{array.shape}".encode())
            found.update(array.data.cast("B") if array.size else b"")
    return found.hexdigest()
