"""Shadow models per hypothesis: trained on sets in which a group has one of the stated shares.

Ateniese et al. 2015 ("Hacking smart machines with smarter ones", section 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reticent.attacks.property_inference.signatures import Layer, read_layers
from reticent.attacks.shadow.estimators import (
    estimator_log_probabilities,
    fit_estimator,
    is_estimator,
)
from reticent.attacks.shadow.masks import rows_of
from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.shadow.training import train_models
from reticent.attacks.spec import Labelled
from reticent.attacks.target import Victim
from reticent.errors import ConfigError, DataError
from reticent.random import seeded

_MASKS = 371


@dataclass(frozen=True, kw_only=True, eq=False)
class Models:
    """What is kept of N models: answers (N, q, C) in nats to the probes, and their layers.

    `layers` (each (N, out, in), (N, out)) are None where weights are not seen.
    """

    answers: NDArray[np.float64]
    layers: tuple[Layer, ...] | None = None

    def __len__(self) -> int:
        return len(self.answers)

    def take(self, rows: NDArray[Any]) -> Self:
        """The models at `rows` (indices, or a mask)."""
        layers = self.layers
        if layers is not None:
            layers = tuple((weight[rows], bias[rows]) for weight, bias in layers)
        return type(self)(answers=self.answers[rows], layers=layers)


def property_masks(
    group: NDArray[np.bool_],
    shares: Sequence[float],
    *,
    count: int,
    size: int,
    allowed: NDArray[np.bool_],
    seed: int,
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Training sets (H count, n) with the group's share as stated, and each one's hypothesis.

    `size` of the `allowed` rows, round(share * size) of them from the group, drawn without
    replacement, afresh per model; hypotheses take turns. Raises `DataError` where too few rows
    are in, or outside, the group, and `ConfigError` for fewer than two different shares.
    """
    if len(set(shares)) < 2 or not all(0 <= share <= 1 for share in shares) or count < 1:
        raise ConfigError(
            f"Expected two or more different shares in 0..1 and count >= 1, got "
            f"shares={tuple(shares)}, count={count}."
        )
    inside, outside = np.flatnonzero(group & allowed), np.flatnonzero(~group & allowed)
    need = [round(share * size) for share in shares]
    if max(need) > len(inside) or size - min(need) > len(outside):
        raise DataError(
            f"Expected {max(need)} rows of the group and {size - min(need)} others for sets of "
            f"{size}, got {len(inside)} and {len(outside)}. Give more records, or less extreme "
            "shares."
        )
    truth = np.tile(np.arange(len(shares)), count)
    masks = np.zeros((len(truth), len(group)), dtype=np.bool_)
    for model, hypothesis in enumerate(truth):
        rng = seeded(seed, _MASKS, model + 1)
        masks[model, rng.choice(inside, need[hypothesis], replace=False)] = True
        masks[model, rng.choice(outside, size - need[hypothesis], replace=False)] = True
    return masks, truth


def train(
    architecture: Any,
    recipe: TrainingRecipe,
    data: Labelled,
    masks: NDArray[np.bool_],
    probes: NDArray[np.float32],
    *,
    classes: int,
    weights: bool,
    seed: int,
) -> Models:
    """Models trained on each mask's rows (N, n), asked about the probes and dropped again."""
    answers: list[NDArray[np.float64]] = []
    layers: list[tuple[Layer, ...]] = []
    for victim in _trained(architecture, recipe, data, masks, classes=classes, seed=seed):
        if isinstance(victim, Victim):
            answers.append(victim.log_probabilities(probes))
            if weights:
                layers.append(read_layers(victim.module))
        else:
            answers.append(victim(probes))
    stacked = None
    if weights and layers:
        stacked = tuple(
            (np.concatenate([w for w, _b in part]), np.concatenate([b for _w, b in part]))
            for part in zip(*layers, strict=True)
        )
    return Models(answers=np.stack(answers), layers=stacked)


def _trained(
    architecture: Any,
    recipe: TrainingRecipe,
    data: Labelled,
    masks: NDArray[np.bool_],
    *,
    classes: int,
    seed: int,
) -> Iterator[Any]:
    """Each model as something to ask: a victim, or for estimators a function of records."""
    if is_estimator(architecture):
        for number, rows in enumerate(rows_of(masks)):
            made = fit_estimator(architecture, data.x[rows], data.y[rows], seed=seed, number=number)
            yield lambda x, made=made: estimator_log_probabilities(made, x, classes=classes).astype(
                np.float64
            )
        return
    for module in train_models(architecture, recipe, data, masks, seed=seed):
        assert isinstance(module, nn.Module)
        yield Victim.of_module(module.eval(), sample=data.x[:4])
