"""What a network costs: floating-point operations and parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def flops(module: nn.Module, sample: Tensor) -> int:
    """Floating-point operations of matrix products and convolutions for `sample`, shape (1, ...).

    Two per multiply-add, as torch's counter counts; elementwise work is not counted.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(sample)
    for part, mode in modes:
        part.training = mode
    return int(counter.get_total_flops())


def parameters(module: nn.Module) -> int:
    """How many parameters `module` has."""
    return sum(parameter.numel() for parameter in module.parameters())
