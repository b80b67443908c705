"""The field's alternatives that fine-tune both halves with an auxiliary loss, as honest baselines.

All keep the features at the cut and send them as real numbers, bare or with noise. None claims
more than the attacks that were run, except `ceb` and `center` with noise, whose distance to the
class centers over the noise variance is an average-case bound.

To be comparable, all start alike: features at unit scale (the head undoes it, so the model starts
unchanged), centers at the class means, the auxiliary loss ramped up over the first half. Weights
of distances and rates are per coordinate, so that a weight means the same at 32 coordinates and at
1,600. The defaults of `center` and `ceb` are the stronger of two on one partition of phone
activity; a comparison doesn't rely on defaults but tries the strengths in `methods.METHODS`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reticent.data.task import Kind
from reticent.errors import ConfigError
from reticent.inference.split.halves import Halves
from reticent.inference.split.objectives import (
    Adversary,
    CenterLoss,
    DistanceCorrelation,
    Siamese,
    SupervisedContrastive,
)
from reticent.inference.split.problem import Problem
from reticent.inference.split.release import Bare, Noisy
from reticent.models.networks import Rescale
from reticent.training.plain import descend, forward, steps_per_epoch, targets, task_loss


@dataclass(kw_only=True)
class _Recipe:
    """What one baseline adds to the task loss, and the noise it trains through."""

    objective: nn.Module | None
    weight: float
    sigma: float = 0.0
    log_scale: nn.Parameter | None = None
    private: Mapping[str, Tensor] = field(default_factory=dict)


def center(problem: Problem) -> Halves:
    """Center loss on the features at the cut, as published; optionally with absolute noise.

    Options: `weight` per coordinate (10; cosine: 1), `distance` (l2, cosine, mahalanobis, l1),
    `centers` (learned, running, simplex), `sigma` (0: none).
    """
    options = problem.options
    distance, centers = options.get("distance", "l2"), options.get("centers", "learned")
    if distance not in ("l2", "cosine", "mahalanobis", "l1"):
        raise ConfigError(
            f"Expected distance among l2, cosine, mahalanobis, l1, got distance={distance!r}."
        )
    if centers not in ("learned", "running", "simplex"):
        raise ConfigError(
            f"Expected centers among learned, running, simplex, got centers={centers!r}."
        )
    size = _size(problem)
    loss = CenterLoss(problem.answers.levels, size, distance=distance, centers=centers)
    sigma = float(options.get("sigma", 0.0))
    cosine = distance == "cosine"
    weight = float(options.get("weight", 1.0 if cosine else 10.0)) / (1 if cosine else size)
    return _train(problem, _Recipe(objective=loss, weight=weight, sigma=sigma))


def ceb(problem: Problem) -> Halves:
    """Conditional entropy bottleneck (Fischer 2020): unit noise, rate to learned class marginals.

    Options: `weight` of the rate in nats per coordinate (10.0).
    """
    size = _size(problem)
    loss = CenterLoss(problem.answers.levels, size)
    weight = float(problem.options.get("weight", 10.0)) / (2 * size)
    return _train(problem, _Recipe(objective=loss, weight=weight, sigma=1.0))


def vib(problem: Problem) -> Halves:
    """Variational information bottleneck (Alemi et al. 2017) with one learned scale a coordinate.

    Options: `weight` of the rate in nats per coordinate (0.1).
    """
    size = _size(problem)
    log_scale = nn.Parameter(torch.full((size,), -1.0))
    weight = float(problem.options.get("weight", 0.1)) / size
    return _train(problem, _Recipe(objective=None, weight=weight, log_scale=log_scale))


def noise(problem: Problem) -> Halves:
    """Gaussian noise of fixed absolute scale, trained through (Osia et al. 2017).

    Options: `sigma` (1.0).
    """
    sigma = float(problem.options.get("sigma", 1.0))
    return _train(problem, _Recipe(objective=None, weight=0.0, sigma=sigma))


def supcon(problem: Problem) -> Halves:
    """Supervised contrastive features (Khosla et al. 2020). Options: `weight` (0.5)."""
    weight = float(problem.options.get("weight", 0.5))
    return _train(problem, _Recipe(objective=SupervisedContrastive(), weight=weight))


def siamese(problem: Problem) -> Halves:
    """Siamese fine-tuning with noise (Osia et al. 2017).

    Options: `weight` per coordinate (1.0), `sigma` (0.5). The margin is the root mean square
    distance of two random records' features at the start.
    """
    size = _size(problem)
    loss = Siamese(margin=math.sqrt(2 * size))
    weight = float(problem.options.get("weight", 1.0)) / size
    sigma = float(problem.options.get("sigma", 0.5))
    return _train(problem, _Recipe(objective=loss, weight=weight, sigma=sigma))


def nopeek(problem: Problem) -> Halves:
    """NoPeek (Vepakomma et al. 2020): distance correlation. Options: `weight` (2.0)."""
    weight = float(problem.options.get("weight", 2.0))
    return _train(problem, _Recipe(objective=DistanceCorrelation(), weight=weight))


def adversarial(problem: Problem) -> Halves:
    """Maximum-entropy adversary against *known* private labels (Roy & Boddeti 2019).

    Options: `weight` (1.0). The only method that uses the private labels in training.
    """
    labels = {
        name: torch.from_numpy(np.asarray(values, dtype=np.int64))
        for name, values in problem.train.private.items()
    }
    if not labels:
        raise ConfigError("adversarial needs private labels: name some under [task] private.")
    sizes = {name: int(values.max()) + 1 for name, values in labels.items()}
    weight = float(problem.options.get("weight", 1.0))
    reader = Adversary(_size(problem), sizes)
    return _train(problem, _Recipe(objective=reader, weight=weight, private=labels))


def _size(problem: Problem) -> int:
    return int(np.prod(problem.feature_shape()))


def _train(problem: Problem, recipe: _Recipe) -> Halves:
    """Fine-tune encoder and head on task loss + weight * objective, through the noise."""
    if not problem.retrain:
        raise ConfigError(
            "This method re-trains the model, but retrain=False. "
            "Use method='adapter_code', 'nullspace' or 'shredder'."
        )
    torch.manual_seed(problem.seed)
    generator = torch.Generator().manual_seed(problem.seed)
    kind = problem.answers.kind
    x, y = torch.from_numpy(problem.train.x), targets(problem.train.public, kind)
    index = torch.from_numpy(problem.answers.index_labels(problem.train.public))
    encoder, head = _unit_halves(problem, x)
    network = nn.ModuleDict({"encoder": encoder, "head": head})
    own: list[nn.Parameter] = []
    objective = recipe.objective
    if isinstance(objective, CenterLoss):
        objective.start(forward(encoder, x), index)
    if objective is not None and not isinstance(objective, Adversary):
        network["objective"] = objective
        own += list(objective.parameters())
    if recipe.log_scale is not None:
        network["scale"] = nn.ParameterList([recipe.log_scale])
        own.append(recipe.log_scale)
    both = [*encoder.parameters(), *head.parameters()]
    groups: list[dict[str, Any]] = [{"params": both, "lr": problem.learning_rate}]
    if own:
        groups.append({"params": own, "lr": 10 * problem.learning_rate, "weight_decay": 0.0})
    adversary = objective if isinstance(objective, Adversary) else None
    reader_steps = None if adversary is None else _Reader(adversary)
    unit = float(y.var()) if kind is Kind.REGRESSION else 1.0
    per_epoch = steps_per_epoch(len(x), problem.batch_size, problem.epochs)
    ramps = (min(1.0, 2 * step / (problem.epochs * per_epoch)) for step in itertools.count(1))

    def loss(rows: Tensor) -> Tensor:
        clean = encoder(x[rows])
        private = {name: values[rows] for name, values in recipe.private.items()}
        if reader_steps is not None:
            reader_steps(clean, private)
        total = task_loss(head(_noised(clean, recipe, generator)), y[rows], kind) / unit
        extra = _extra(recipe, clean, index[rows], x[rows], private)
        return total + next(ramps) * recipe.weight * extra

    descend(
        network,
        groups,
        loss=loss,
        count=len(x),
        epochs=problem.epochs,
        batch_size=problem.batch_size,
        generator=generator,
        progress=problem.progress,
    )
    network.requires_grad_(False)
    return Halves(
        encoder=encoder, release=_release(problem, recipe), head=head, answers=problem.answers
    )


def _unit_halves(problem: Problem, x: Tensor) -> tuple[nn.Sequential, nn.Sequential]:
    """The two halves with features at unit scale between them; together still the same model."""
    raw, rest = problem.halves()
    shape = problem.feature_shape()
    features = forward(raw, x).flatten(1)
    scale = float(features.var(dim=0, unbiased=False).mean().sqrt().clamp(min=1e-6))
    encoder = nn.Sequential(raw, nn.Flatten(), Rescale(1 / scale))
    return encoder, nn.Sequential(Rescale(scale), nn.Unflatten(1, shape), rest)


def _release(problem: Problem, recipe: _Recipe) -> Noisy | Bare:
    size = _size(problem)
    if recipe.log_scale is not None:
        return Noisy(scale=recipe.log_scale.detach().exp().numpy(), size=size)
    if recipe.sigma > 0:
        scale = np.asarray([recipe.sigma], dtype=np.float32)
        return Noisy(scale=scale, size=size, prototypes=_centers(recipe))
    return Bare(size=size)


class _Reader:
    """Trains the adversary's classifiers, one step on each batch that the encoder sees."""

    def __init__(self, adversary: Adversary) -> None:
        self._adversary = adversary
        self._optimiser = torch.optim.Adam(adversary.parameters(), lr=2e-3)

    def __call__(self, clean: Tensor, private: Mapping[str, Tensor]) -> None:
        self._optimiser.zero_grad()
        self._adversary.adversary_loss(clean, private).backward()
        self._optimiser.step()


def _centers(recipe: _Recipe) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None:
    if not isinstance(recipe.objective, CenterLoss) or recipe.objective.distance != "l2":
        return None
    return recipe.objective.centers.detach().numpy().astype(np.float32).copy()


def _noised(clean: Tensor, recipe: _Recipe, generator: torch.Generator) -> Tensor:
    draw = torch.randn(clean.shape, generator=generator)
    if recipe.log_scale is not None:
        return clean + recipe.log_scale.exp() * draw
    return clean + recipe.sigma * draw if recipe.sigma > 0 else clean


def _extra(
    recipe: _Recipe, clean: Tensor, index: Tensor, x: Tensor, private: Mapping[str, Tensor]
) -> Tensor:
    if recipe.log_scale is not None:
        rate = clean.square() + (2 * recipe.log_scale).exp() - 1 - 2 * recipe.log_scale
        return rate.sum(dim=1).mean() / 2
    if recipe.objective is None:
        return clean.new_zeros(())
    extra: Tensor = recipe.objective(clean, index, x, private)
    return extra
