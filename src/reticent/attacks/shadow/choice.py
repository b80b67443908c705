"""Which stack a network gets: the fastest that computes the same, found out by running it."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reticent.attacks.shadow.dense import DenseStack
from reticent.attacks.shadow.layers import LARGE
from reticent.attacks.shadow.stack import (
    ChannelsLastStack,
    ImagesLoop,
    LayerStack,
    LoopStack,
    Stack,
    VmapStack,
)
from reticent.errors import UnsupportedError

KINDS: tuple[type[Stack], ...] = (DenseStack, ChannelsLastStack, LayerStack, VmapStack)
"""The fastest first; `LoopStack` runs everything."""

_CLOSE = 1e-4


def stack(
    models: Sequence[nn.Module],
    few: Tensor,
    *,
    records: int = 1,
    kinds: Sequence[type[Stack]] = KINDS,
) -> Stack:
    """The fastest stack whose answers to `few` records (at least 2) are those of the models.

    `records` is the size of the batches to come.
    """
    if kinds is KINDS and records * _fewest_numbers(models[0], few) >= LARGE:
        kinds = (ImagesLoop, *KINDS)
    for kind in kinds:
        try:
            made = kind(models)
            if _answers_alike(made, models, few):
                return kind(models)
        except (UnsupportedError, RuntimeError, ValueError):
            continue
    return LoopStack(models)


@torch.no_grad()
def _fewest_numbers(model: nn.Module, few: Tensor) -> int:
    """The fewest numbers of one record that a convolution over images gets; 0 where there is none.

    Asked of a copy: a network may count the records that it sees.
    """
    if not any(isinstance(part, nn.Conv2d) for part in model.modules()):
        return 0
    seen: list[int] = []
    asked = copy.deepcopy(model).eval()
    for part in asked.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_pre_hook(
                lambda _part, given: seen.append(given[0].numel() // len(given[0]))
            )
    asked(few)
    return min(seen, default=0)


@torch.no_grad()
def _answers_alike(made: Stack, models: Sequence[nn.Module], few: Tensor) -> bool:
    """Whether a stack and the models alone agree, in both modes, on records of their own each."""
    shift = torch.linspace(0.5, 1.5, len(models)).view(-1, *(1,) * few.ndim)
    own = few * shift.to(few.dtype)
    checked = {0, len(models) - 1}
    for training in (False, True):
        made.train(training)
        alone = {i: copy.deepcopy(models[i]).train(training) for i in checked}
        expected = {i: model(own[i]) for i, model in alone.items()}
        if training and not all(torch.equal(expected[i], alone[i](own[i])) for i in checked):
            # Dropout: there is no answer to compare with.
            continue
        found = made(own)
        if not all(torch.allclose(found[i], expected[i], _CLOSE, _CLOSE) for i in checked):
            return False
    return True
