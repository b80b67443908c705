"""Training a polynomial network to answer as its original does, without leaving its range."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from reticent.inference.ckks.activations import PolynomialActivation

_BATCH = 64
_TEMPERATURE = 2.0
_CLIP = 1.0


def distil(
    student: fx.GraphModule,
    inputs: Tensor,
    answers: Tensor,
    *,
    epochs: int,
    learning_rate: float,
    range_weight: float,
    seed: int,
) -> None:
    """Move `student`, in place, towards the original's `answers` (n, outputs) on `inputs`.

    The loss is the Kullback-Leibler divergence of softened answers (Hinton et al. 2015), or the
    squared error for a single output, plus `range_weight` times the mean squared excess over the
    range that each polynomial was fitted on: outside it, powers explode (Lee et al. 2021 and
    others see the same). Gradients are clipped to norm 1.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = [p for p in student.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
    steps = max(1, epochs * -(-len(inputs) // _BATCH))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    beyond: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda m, given: beyond.append(_excess(m, given[0])))
        for module in student.modules()
        if isinstance(module, PolynomialActivation)
    ]
    for rows in _batches(len(inputs), epochs, generator):
        beyond.clear()
        loss = _difference(student(inputs[rows]), answers[rows])
        if beyond:
            loss = loss + range_weight * torch.stack(beyond).sum()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, _CLIP)
        optimiser.step()
        schedule.step()
    for hook in hooks:
        hook.remove()


def _batches(count: int, epochs: int, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(epochs):
        yield from torch.randperm(count, generator=generator).split(_BATCH)


def _difference(got: Tensor, wanted: Tensor) -> Tensor:
    if wanted.shape[1] == 1:
        return nn.functional.mse_loss(got, wanted) / wanted.var().clamp(min=1e-6)
    soft = nn.functional.log_softmax(got / _TEMPERATURE, dim=1)
    target = nn.functional.log_softmax(wanted / _TEMPERATURE, dim=1)
    loss = nn.functional.kl_div(soft, target, reduction="batchmean", log_target=True)
    return loss * _TEMPERATURE**2


def _excess(module: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(module, PolynomialActivation)
    return torch.relu(module.scaled(x).abs() - 1).square().mean()
