"""Baselines that leave the deployed weights untouched: a closed form, and learned noise."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from reticent.data.answers import utility
from reticent.data.task import Kind
from reticent.inference.split.halves import Halves
from reticent.inference.split.problem import Problem
from reticent.inference.split.release import Bare, Noisy
from reticent.training.plain import batches, forward, targets, task_loss


def nullspace(problem: Problem) -> Halves:
    """Drops what the server's half ignores (Samragh et al. 2021, in closed form).

    The paper takes the null space and the low-energy directions of the server's first linear
    layer; for any head the same directions are those of least energy in the head's input
    gradients over the training data. The client sends the kept coordinates only. Options:
    `tolerance` (utility that may be lost on the validation part, 0.005).
    """
    encoder, rest = problem.halves()
    shape = problem.feature_shape()
    encoder = nn.Sequential(encoder, nn.Flatten()).eval()
    head = nn.Sequential(nn.Unflatten(1, shape), rest) if len(shape) > 1 else rest
    head = head.eval().requires_grad_(False)
    features = forward(encoder, torch.from_numpy(problem.train.x))
    mean = features.mean(dim=0)
    basis = _active_directions(head, features)
    held = forward(encoder, torch.from_numpy(problem.validation.x))
    kind, truth = problem.answers.kind, problem.validation.public
    whole = utility(kind, forward(head, held).numpy(), truth)
    tolerance = float(problem.options.get("tolerance", 0.005))
    for keep in _sizes(basis.shape[1]):
        kept = basis[:, :keep]
        rebuilt = (held - mean) @ kept @ kept.T + mean
        if utility(kind, forward(head, rebuilt).numpy(), truth) >= whole - tolerance:
            break
    down, up = nn.Linear(len(mean), keep), nn.Linear(keep, len(mean))
    with torch.no_grad():
        down.weight.copy_(kept.T)
        down.bias.copy_(-(kept.T @ mean))
        up.weight.copy_(kept)
        up.bias.copy_(mean)
    return Halves(
        encoder=nn.Sequential(encoder, down).eval().requires_grad_(False),
        release=Bare(size=keep),
        head=nn.Sequential(up, head).eval().requires_grad_(False),
        answers=problem.answers,
    )


def shredder(problem: Problem) -> Halves:
    """Learned additive Laplace noise, weights untouched (Mireshghallah et al. 2020).

    Location and scale of the noise are learned per coordinate: cross-entropy minus `weight` times
    the mean log scale. Options: `weight` (0.3).
    """
    torch.manual_seed(problem.seed)
    generator = torch.Generator().manual_seed(problem.seed)
    encoder, rest = problem.halves()
    shape = problem.feature_shape()
    encoder = nn.Sequential(encoder, nn.Flatten()).eval().requires_grad_(False)
    head = nn.Sequential(nn.Unflatten(1, shape), rest) if len(shape) > 1 else rest
    head = head.eval().requires_grad_(False)
    kind = problem.answers.kind
    features = forward(encoder, torch.from_numpy(problem.train.x))
    y = targets(problem.train.public, kind)
    unit = float(y.var()) if kind is Kind.REGRESSION else 1.0
    start = features.std(dim=0).clamp(min=1e-2).log()
    log_scale = nn.Parameter(start - 1.0)
    location = nn.Parameter(torch.zeros(features.shape[1]))
    weight = float(problem.options.get("weight", 0.3))
    optimiser = torch.optim.Adam([log_scale, location], lr=2e-2)
    for epoch in range(problem.epochs):
        for rows in batches(len(y), problem.batch_size, generator):
            optimiser.zero_grad()
            clean = features[rows]
            sent = clean + location + log_scale.exp() * _laplace(clean, generator)
            gain = (log_scale - start).clamp(max=3.0).mean()
            (task_loss(head(sent), y[rows], kind) / unit - weight * gain).backward()
            optimiser.step()
        if problem.progress is not None:
            problem.progress((epoch + 1) / problem.epochs)
    return Halves(
        encoder=encoder,
        release=Noisy(
            scale=log_scale.detach().exp().numpy(),
            size=features.shape[1],
            shape="laplace",
            offset=location.detach().numpy(),
        ),
        head=head,
        answers=problem.answers,
    )


def _active_directions(head: nn.Module, features: Tensor, *, rows: int = 512) -> Tensor:
    """Orthonormal directions (d, k) by falling energy in the head's input gradients."""
    some = features[torch.linspace(0, len(features) - 1, min(rows, len(features))).long()]
    some = some.clone().requires_grad_(True)
    outputs = head(some)
    gradients = [
        torch.autograd.grad(outputs[:, column].sum(), some, retain_graph=True)[0]
        for column in range(outputs.shape[1])
    ]
    stacked = torch.cat(gradients)
    size = min(stacked.shape)
    if size > 256:
        _, _, directions = torch.svd_lowrank(stacked, q=256, niter=4)
        return directions.detach()
    directions = torch.linalg.svd(stacked, full_matrices=False)[2].T
    found: Tensor = directions.detach()
    return found


def _sizes(limit: int) -> list[int]:
    sizes = np.unique(np.geomspace(1, limit, 16).round().astype(int))
    return [int(size) for size in sizes]


def _laplace(like: Tensor, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(like.shape, generator=generator) - 0.5
    return -uniform.sign() * torch.log1p(-2 * uniform.abs() + 1e-7)
