"""Which pool rows each shadow model is trained on: independent draws, so that counts tell nothing.

A balanced design, in which every row is in exactly half of all models, betrays a target that is
taken out of it: the others' counts say which rows were its members. Here each model draws alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import ConfigError
from reticent.random import seeded

_MEMBERS, _HELD_OUT = 1, 2


def independent_masks(count: int, *, pool: int, size: int, seed: int) -> NDArray[np.bool_]:
    """Masks (count, pool) with `size` True each, drawn uniformly and independently per model.

    Model i's mask depends on `seed` and i alone, so a longer bank extends a shorter one. Raises
    `ConfigError` where every or no row would be a member.
    """
    if count < 1 or not 0 < size < pool:
        raise ConfigError(
            f"Expected count >= 1 and 0 < size < pool, got count={count}, size={size}, "
            f"pool={pool}. Half the pool separates members from others best: size = pool // 2."
        )
    masks = np.zeros((count, pool), dtype=np.bool_)
    for model, mask in enumerate(masks):
        mask[seeded(seed, _MEMBERS, model + 1).choice(pool, size, replace=False)] = True
    return masks


def rows_of(member: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The members' rows (models, size), ascending. Raises `ConfigError` where sizes differ."""
    sizes = member.sum(axis=1)
    if sizes.min() != sizes.max():
        raise ConfigError(
            f"Expected as many members in each model, got from {sizes.min()} to {sizes.max()}."
        )
    return np.asarray(np.nonzero(member)[1].reshape(len(member), -1), dtype=np.int64)


def held_out_rows(member: NDArray[np.bool_], *, size: int, seed: int) -> NDArray[np.int64]:
    """`size` rows (models, size) outside each model's members, on which its best epoch is chosen.

    They stay non-members. Raises `ConfigError` where a pool has too few.
    """
    outside = member.shape[1] - int(member.sum(axis=1).max())
    if size > outside:
        raise ConfigError(
            f"Expected at least held_out={size} pool rows beside the members, got {outside}. "
            "Give a larger pool."
        )
    drawn: list[NDArray[Any]] = [
        seeded(seed, _HELD_OUT, model + 1).choice(np.flatnonzero(~mask), size, replace=False)
        for model, mask in enumerate(member)
    ]
    return np.asarray(drawn, dtype=np.int64).reshape(len(member), size)
