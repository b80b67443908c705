"""The field's alternatives that fine-tune both halves with an auxiliary loss, as honest baselines.

All keep the features at the cut and send them as real numbers, bare or with noise. None claims
more than the attacks that were run, except `ceb` and `center` with noise, whose distance to the
class centers over the noise variance is an average-case bound.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reticent.data.answers import utility
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
from reticent.training.plain import batches, forward, targets, task_loss


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

    Options: `weight` (0.05), `distance` (l2, cosine, mahalanobis, l1), `centers` (learned, running,
    simplex), `sigma` (0: none).
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
    loss = CenterLoss(problem.answers.levels, _size(problem), distance=distance, centers=centers)
    sigma = float(options.get("sigma", 0.0))
    return _train(
        problem,
        _Recipe(objective=loss, weight=float(options.get("weight", 0.05)), sigma=sigma),
    )


def ceb(problem: Problem) -> Halves:
    """Conditional entropy bottleneck (Fischer 2020): unit noise, rate to learned class marginals.

    Options: `weight` of the rate in nats (0.1).
    """
    loss = CenterLoss(problem.answers.levels, _size(problem))
    weight = float(problem.options.get("weight", 0.1)) / 2
    return _train(problem, _Recipe(objective=loss, weight=weight, sigma=1.0))


def vib(problem: Problem) -> Halves:
    """Variational information bottleneck (Alemi et al. 2017) with one learned scale a coordinate.

    Options: `weight` of the rate in nats (0.01).
    """
    log_scale = nn.Parameter(torch.zeros(_size(problem)))
    weight = float(problem.options.get("weight", 0.01))
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
    """Siamese fine-tuning with noise (Osia et al. 2017). Options: `weight` (0.1), `sigma` (0.5)."""
    weight = float(problem.options.get("weight", 0.1))
    sigma = float(problem.options.get("sigma", 0.5))
    return _train(problem, _Recipe(objective=Siamese(), weight=weight, sigma=sigma))


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
    raw, rest = problem.halves()
    encoder = nn.Sequential(raw, nn.Flatten())
    shape = problem.feature_shape()
    head = nn.Sequential(nn.Unflatten(1, shape), rest) if len(shape) > 1 else rest
    network = nn.ModuleList([encoder, head])
    own = [] if recipe.objective is None else list(recipe.objective.parameters())
    own += [] if recipe.log_scale is None else [recipe.log_scale]
    adversary = recipe.objective if isinstance(recipe.objective, Adversary) else None
    if adversary is not None:
        reader_optimiser = torch.optim.Adam(adversary.parameters(), lr=2e-3)
        own = []
    groups: list[dict[str, Any]] = [
        {"params": list(network.parameters())},
        {"params": own, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(
        groups,
        lr=problem.learning_rate,
        weight_decay=1e-4,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, problem.epochs)
    kind = problem.answers.kind
    x, y = torch.from_numpy(problem.train.x), targets(problem.train.public, kind)
    index = torch.from_numpy(problem.answers.index_labels(problem.train.public))
    unit = float(y.var()) if kind is Kind.REGRESSION else 1.0
    best, best_state = -math.inf, copy.deepcopy(network.state_dict())
    best_scale = None if recipe.log_scale is None else recipe.log_scale.detach().clone()
    best_centers = _centers(recipe)
    for epoch in range(problem.epochs):
        network.train()
        ramp = min(1.0, (epoch + 1) / 2)
        for rows in batches(len(x), problem.batch_size, generator):
            clean = encoder(x[rows])
            private = {name: values[rows] for name, values in recipe.private.items()}
            if adversary is not None:
                reader_optimiser.zero_grad()
                adversary.adversary_loss(clean, private).backward()
                reader_optimiser.step()
            optimiser.zero_grad()
            loss = task_loss(head(_noised(clean, recipe, generator)), y[rows], kind) / unit
            loss = loss + ramp * recipe.weight * _extra(
                recipe, clean, index[rows], x[rows], private
            )
            loss.backward()
            optimiser.step()
        schedule.step()
        score = _score(problem, encoder, head, recipe)
        # Early epochs score well because they are hardly hardened: only the second half competes.
        if epoch >= problem.epochs // 2 and score >= best:
            best, best_state = score, copy.deepcopy(network.state_dict())
            best_scale = None if recipe.log_scale is None else recipe.log_scale.detach().clone()
            best_centers = _centers(recipe)
        if problem.progress is not None:
            problem.progress((epoch + 1) / problem.epochs)
    network.load_state_dict(best_state)
    network.eval().requires_grad_(False)
    release: Noisy | Bare
    size = _size(problem)
    if best_scale is not None:
        release = Noisy(scale=best_scale.exp().numpy(), size=size)
    elif recipe.sigma > 0:
        scale = np.asarray([recipe.sigma], dtype=np.float32)
        release = Noisy(scale=scale, size=size, prototypes=best_centers)
    else:
        release = Bare(size=size)
    return Halves(encoder=encoder, release=release, head=head, answers=problem.answers)


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


def _score(problem: Problem, encoder: nn.Module, head: nn.Module, recipe: _Recipe) -> float:
    clean = forward(encoder, torch.from_numpy(problem.validation.x))
    with torch.no_grad():
        sent = _noised(clean, recipe, torch.Generator().manual_seed(problem.seed))
    outputs = forward(head, sent).numpy()
    return utility(problem.answers.kind, outputs, problem.validation.public)
