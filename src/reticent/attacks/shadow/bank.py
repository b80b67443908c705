"""A bank of shadow models: what each answers, and which records it was trained on.

Only answers are kept, not models: 64 models' answers to 5,000 records of 10 classes are 13 MB.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.shadow.chunks import Job, answers
from reticent.attacks.shadow.files import read_arrays, write_arrays
from reticent.attacks.shadow.identity import digest_of, identity_of
from reticent.attacks.shadow.masks import independent_masks
from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.spec import Labelled
from reticent.errors import ConfigError, DataError

_FORMAT = "reticent shadow bank 1"


@dataclass(frozen=True, kw_only=True, eq=False)
class ShadowBank:
    """Answers of N shadow models to n pool rows, then to z population rows no model has seen.

    `member` (N, n) says which pool rows each was trained on, drawn independently per model;
    `log_probabilities` (N, n+z, C) are its answers in nats, in evaluation mode; `y` (n+z,) the
    labels. `digest` stands for recipe, architecture, data, masks and seed. Raises `DataError`
    where the shapes don't fit.
    """

    member: NDArray[np.bool_]
    log_probabilities: NDArray[np.float32]
    y: NDArray[np.int64]
    recipe: TrainingRecipe
    digest: str

    def __post_init__(self) -> None:
        shape, answered = self.member.shape, self.log_probabilities.shape
        if len(shape) != 2 or len(answered) != 3 or len(answered[:2]) != len(shape):
            raise DataError(
                f"Expected member (N, n) and answers (N, n+z, C), got {shape}, {answered}."
            )
        if answered[0] != shape[0] or answered[1] < shape[1] or self.y.shape != answered[1:2]:
            raise DataError(
                f"Expected member (N, n), answers (N, n+z, C) and labels (n+z,), got {shape}, "
                f"{answered}, {self.y.shape}."
            )

    def __len__(self) -> int:
        return len(self.member)

    @property
    def pool(self) -> int:
        """How many pool rows there are (n)."""
        return int(self.member.shape[1])

    @property
    def population(self) -> int:
        """How many population rows there are (z)."""
        return len(self.y) - self.pool

    @property
    def classes(self) -> int:
        """How many classes there are (C)."""
        return int(self.log_probabilities.shape[2])

    @classmethod
    def train(
        cls,
        architecture: Any,
        recipe: TrainingRecipe,
        pool: Labelled,
        *,
        population: Labelled | None = None,
        count: int,
        seed: int,
        processes: int = 1,
        cluster: bool = False,
        progress: Callable[[float], None] | None = None,
        folder: Path | None = None,
    ) -> Self:
        """Train `count` shadow models, each on its own random `recipe.size` rows of the pool.

        `architecture` is an untrained network, a function that makes one, or a scikit-learn
        classifier (of the recipe, only `size` is used then: its own parameters say the rest).
        Model i depends on `seed` and i alone. `processes` > 1 spreads chunks of models over
        processes of one thread each, `cluster` over the machines of a Ray cluster. Finished chunks
        are kept in `folder`, if given, and used again by a run that was interrupted; `ConfigError`
        says what differs where they belong to another bank.
        """
        if population is not None and population.x.shape[1:] != pool.x.shape[1:]:
            raise DataError(
                f"Expected population records of the pool's shape {pool.x.shape[1:]}, got "
                f"{population.x.shape[1:]}."
            )
        member = independent_masks(count, pool=len(pool), size=recipe.size, seed=seed)
        identity = identity_of(architecture, recipe, pool, population, member, seed)
        x, y = pool.x, pool.y
        if population is not None:
            x, y = np.concatenate([x, population.x]), np.concatenate([y, population.y])
        job = Job(architecture=architecture, recipe=recipe, x=x, y=y, member=member, seed=seed)
        found = answers(
            job,
            processes=processes,
            cluster=cluster,
            progress=progress,
            folder=folder,
            identity=identity,
        )
        return cls(
            member=member, log_probabilities=found, y=y, recipe=recipe, digest=digest_of(identity)
        )

    def subset(self, models: NDArray[Any] | list[int]) -> Self:
        """The bank of some models only (indices, or a mask)."""
        chosen = np.arange(len(self))[np.asarray(models)]
        return replace(
            self,
            member=self.member[chosen],
            log_probabilities=self.log_probabilities[chosen],
            digest=digest_of({"bank": self.digest, "models": chosen.tolist().__repr__()}),
        )

    def without(self, model: int) -> Self:
        """The other models, for an attack on `model` as its target.

        Their masks were drawn independently of the target's, so how often a row is among them says
        nothing about its being in the target.
        """
        if not 0 <= model < len(self):
            raise ConfigError(f"Expected a model from 0 to {len(self) - 1}, got model={model}.")
        return self.subset(np.flatnonzero(np.arange(len(self)) != model))

    def save(self, path: Path) -> None:
        """Write the bank to one safetensors file, whole or not at all."""
        arrays = {
            "member": self.member,
            "log_probabilities": self.log_probabilities,
            "y": self.y,
        }
        card = {"format": _FORMAT, "recipe": json.dumps(asdict(self.recipe)), "digest": self.digest}
        write_arrays(path, arrays, card)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The bank that `save` wrote. Raises `DataError` for any other file."""
        arrays, card = read_arrays(path)
        try:
            if card["format"] != _FORMAT:
                raise ValueError(f"format {card['format']!r}")
            recipe = TrainingRecipe(**json.loads(card["recipe"]))
            return cls(recipe=recipe, digest=card["digest"], **arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"Expected a shadow bank in {path.name!r}, got another file: {error}."
            ) from error
