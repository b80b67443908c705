"""A model without batch normalisation: the same layers with group normalisation instead."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
_MOST_GROUPS = 32


def without_batch_norm(model: nn.Module) -> nn.Module:
    """A copy of `model` with GroupNorm for every BatchNorm; scale and offset are kept.

    The number of groups is the largest divisor of the channels that 32 is a multiple of
    (Wu and He 2018 take 32). A trained model has to be trained further: the statistics differ.
    """
    made = copy.deepcopy(model)
    if isinstance(made, BatchNorm):
        return _group_norm(made)
    for module in list(made.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, BatchNorm):
                setattr(module, name, _group_norm(child))
    return made


def _group_norm(norm: BatchNorm) -> nn.GroupNorm:
    groups = math.gcd(norm.num_features, _MOST_GROUPS)
    made = nn.GroupNorm(groups, norm.num_features, eps=norm.eps, affine=norm.affine)
    if norm.affine:
        with torch.no_grad():
            made.weight.copy_(norm.weight)
            made.bias.copy_(norm.bias)
    return made
