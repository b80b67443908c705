"""DP-SGD for a stack of models: each record's gradient clipped, each model's sum noised.

Abadi et al. 2016, Alg. 1, with Poisson batches. Clipped sums come without any record's gradient
in memory where the layers allow: a linear layer's gradient has the norm |input| |output gradient|
(Goodfellow 2015), and a second backward pass over losses that are weighted by min(1, clip / norm)
gives the clipped sum (Lee and Kifer 2021, Alg. 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from reticent.attacks.shadow.choice import stack
from reticent.attacks.shadow.layers import StackedLayer
from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.shadow.stack import LayerStack, Stack, VmapStack, two_columns
from reticent.errors import UnsupportedError

Named = dict[str, Tensor]
_MOST_FLOATS = 16_000_000


def check_private(model: nn.Module) -> None:
    """Raise `UnsupportedError` where a record's gradient depends on the others of its batch."""
    for name, part in model.named_modules():
        if isinstance(part, nn.modules.batchnorm._NormBase):
            raise UnsupportedError(
                f"Never with the layer {name!r} ({type(part).__name__}) under DP-SGD: it mixes the "
                "records of a batch, so that no clipping bounds what one of them does. Use "
                "GroupNorm or LayerNorm, as the target must."
            )


def poisson_batch(
    rows: NDArray[np.int64], rate: float, sources: list[np.random.Generator]
) -> tuple[Tensor, Tensor]:
    """Each model's Poisson sample of its `rows`: rows (N, B) and weights (N, B), 0 where padded."""
    chosen = [own[g.random(len(own)) < rate] for g, own in zip(sources, rows, strict=True)]
    widest = max(1, *(len(own) for own in chosen))
    batch = np.zeros((len(rows), widest), dtype=np.int64)
    weights = np.zeros((len(rows), widest), dtype=np.float32)
    for index, own in enumerate(chosen):
        batch[index, : len(own)], weights[index, : len(own)] = own, 1
    return torch.from_numpy(batch), torch.from_numpy(weights)


def set_private_gradients(
    made: Stack,
    recipe: TrainingRecipe,
    x: Tensor,
    y: Tensor,
    weights: Tensor,
    sources: list[np.random.Generator],
) -> None:
    """Set each parameter's `grad` to (clipped sum + noise) / batch_size, for each model.

    x is (N, B, ...), y and `weights` (N, B); `sources` has one generator per model.
    """
    assert recipe.clip_norm is not None
    set_clipped_sums(made, x, y, weights, recipe.clip_norm)
    sigma = recipe.noise_multiplier * recipe.clip_norm
    for parameter in made.parameters:
        assert parameter.grad is not None
        if sigma > 0:
            for own, source in zip(parameter.grad, sources, strict=True):
                drawn = source.standard_normal(own.numel(), dtype=np.float32)
                own.add_(torch.from_numpy(drawn).view_as(own), alpha=sigma)
        parameter.grad.div_(recipe.batch_size)


def private_stack(models: Sequence[nn.Module], few: Tensor) -> Stack:
    """The fastest stack of `models` that `set_clipped_sums` can take apart by records.

    Raises `UnsupportedError` where none can, or where clipping would bound nothing.
    """
    check_private(models[0])
    made = stack(models, few, kinds=(LayerStack, VmapStack))
    if isinstance(made, LayerStack):
        own = few.expand(made.count, *few.shape)
        labels = torch.zeros(own.shape[:2], dtype=torch.int64)
        if _squared_norms(made, own, labels) is not None:
            return made
        made = VmapStack(models)
    if not isinstance(made, VmapStack):
        raise UnsupportedError(
            "Not yet: DP-SGD for a network that torch.func.vmap can't run, record by record."
        )
    return made


def set_clipped_sums(made: Stack, x: Tensor, y: Tensor, weights: Tensor, clip: float) -> None:
    """Set each parameter's `grad` (N, ...) to the weighted sum of its records' clipped gradients.

    x is (N, B, ...), y and `weights` (N, B); `made` comes from `private_stack`.
    """
    made.clear_gradients()
    if isinstance(made, VmapStack):
        _add_by_records(made, x, y, weights, clip)
        return
    found = _squared_norms(made, x, y) if isinstance(made, LayerStack) else None
    if found is None:
        raise UnsupportedError("Never with such a stack: use private_stack for DP-SGD.")
    losses, squared = found
    (losses * weights.flatten() * _shrinking(squared, clip)).sum().backward()


def _squared_norms(made: LayerStack, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
    """Losses (N*B,) and their gradients' squared norms (N*B,); None where a layer can't tell."""
    seen: list[tuple[StackedLayer, Tensor, Tensor]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        assert isinstance(layer, StackedLayer)
        seen.append((layer, inputs[0].detach(), out))
        # An activation in place must not change the output whose gradient is asked for.
        return out.clone()

    layers = [layer for layer in made.layers if any(p.requires_grad for p in layer.parameters())]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        losses = _losses(made(x).flatten(0, 1), y.flatten())
    finally:
        for hook in hooks:
            hook.remove()
    if sorted(id(layer) for layer, _, _ in seen) != sorted(id(layer) for layer in layers):
        # A layer that runs twice has a sum of gradients, of which no norm is known.
        return None
    found = torch.autograd.grad(losses.sum(), [out for _, _, out in seen], retain_graph=True)
    squared = torch.zeros_like(losses)
    with torch.no_grad():
        for (layer, given, _), gradient in zip(seen, found, strict=True):
            own = layer.squared_norms(given, gradient)
            if own is None:
                return None
            squared += own
    return losses, squared


def _add_by_records(made: VmapStack, x: Tensor, y: Tensor, weights: Tensor, clip: float) -> None:
    """The same by each record's own gradient, a few records at a time."""

    def loss(learnt: Named, fixed: Named, one: Tensor, label: Tensor) -> Tensor:
        out = functional_call(made.network, (learnt, fixed), (one.unsqueeze(0),))
        return _losses(out, label.unsqueeze(0))[0]

    by_record = vmap(grad(loss), in_dims=(None, None, 0, 0), randomness="different")
    by_model = vmap(by_record, randomness="different")
    learnt, fixed = made.learnt, made.fixed
    weight = sum(p[0].numel() for p in learnt.values())
    step = max(1, _MOST_FLOATS // (made.count * weight))
    parts = (torch.split(given, step, dim=1) for given in (x, y, weights))
    for own, labels, shares in zip(*parts, strict=True):
        found = by_model(learnt, fixed, own, labels)
        squared = torch.stack([g.flatten(2).square().sum(2) for g in found.values()]).sum(0)
        factors = shares * _shrinking(squared, clip)
        for name, gradient in found.items():
            added = torch.einsum("nb,nb...->n...", factors, gradient).detach()
            before = learnt[name].grad
            learnt[name].grad = added if before is None else before + added


def _shrinking(squared: Tensor, clip: float) -> Tensor:
    """min(1, clip / norm) from squared norms; 1 for a gradient of 0."""
    return (clip / squared.sqrt().clamp(min=1e-12)).clamp(max=1.0)


def _losses(logits: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(two_columns(logits), y, reduction="none")
