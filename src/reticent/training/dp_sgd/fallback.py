"""Per-example gradients of modules without a rule: each example gets its own copy of the weights.

The module runs under `torch.func.vmap` over (weights, inputs), where the weights are one set that
is broadcast, not copied, to every example. The gradient of the broadcast weights is then the
per-example gradient. It holds for any module that vmap can run, at B times the parameters'
memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from reticent.errors import UnsupportedError
from reticent.training.dp_sgd.batch import Batch
from reticent.training.dp_sgd.taps import apply
from reticent.training.dp_sgd.terms import Direct


class Broadcast(torch.autograd.Function):
    """A parameter as (B, *parameter), every row the same memory."""

    @staticmethod
    def forward(ctx: Any, parameter: nn.Parameter, batch: Batch) -> Tensor:
        """Shapes: (*parameter) to (B, *parameter)."""
        ctx.parameter, ctx.batch = parameter, batch
        spread = parameter.detach().expand(batch.size, *parameter.shape)
        return spread.as_strided(spread.shape, spread.stride())

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Noted, not passed on."""
        ctx.batch.add(ctx.parameter, Direct(grads[0]))
        return None, None


class _Bare(nn.Module):
    """The module with its class's forward pass, as it was before any tap."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the module's class has it."""
        return type(self.inner).forward(self.inner, *args, **kwargs)


def fallback(module: nn.Module, batch: Batch, *args: Any, **kwargs: Any) -> Any:
    """The module's result, with all trainable parameters below it noted.

    Tensors whose first axis counts the batch are split into examples; everything else is shared.
    Raises `UnsupportedError` where vmap can't run the module.
    """
    bare = _Bare(module)
    spread = {
        name: apply(Broadcast, parameter, batch)
        for name, parameter in bare.named_parameters()
        if parameter.requires_grad
    }
    leaves, layout = _pytree.tree_flatten((args, kwargs))
    axes = [0 if _is_batched(leaf, batch) else None for leaf in leaves]
    if all(axis is None for axis in axes):
        raise UnsupportedError(
            f"{type(module).__name__} has no rule, and none of its arguments has the batch's "
            f"{batch.size} examples as first axis. Pass it a tensor with the batch axis first."
        )

    def one(parameters: dict[str, Tensor], *flat: Any) -> Any:
        single = [
            leaf.unsqueeze(0) if axis == 0 else leaf for leaf, axis in zip(flat, axes, strict=True)
        ]
        positional, named = _pytree.tree_unflatten(single, layout)
        made = torch.func.functional_call(bare, parameters, positional, named)
        return _pytree.tree_map(lambda value: value.squeeze(0), made)

    run: Any = torch.func.vmap(one, in_dims=(0, *axes), randomness="different")
    try:
        return run(spread, *leaves)
    except RuntimeError as error:
        raise UnsupportedError(
            f"{type(module).__name__} has no rule of its own, and vmap can't run it: {error}"
        ) from error


def _is_batched(leaf: Any, batch: Batch) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == batch.size
