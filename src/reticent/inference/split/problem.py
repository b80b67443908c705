"""What a hardening method is given: a deployed model cut in two, data, limits."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from reticent.data.answers import Answers
from reticent.data.task import Records
from reticent.inference.split.halves import Halves
from reticent.models.cost import flops, parameters
from reticent.models.cut import cut_at
from reticent.training.plain import Progress


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One deployed classifier, one cut, the defender's data.

    `max_client_share` limits the client half's share of the model's FLOPs where the method has a
    choice of adapter. Methods never see the attacker's rows or the test rows, nor `certify`.
    Sealing may begin with parts that another method has `hardened`, instead of the model's own.
    """

    model: nn.Module
    cut: str
    train: Records
    validation: Records
    answers: Answers
    seed: int = 0
    codes: int | None = None
    retrain: bool = True
    max_client_share: float = 0.25
    epochs: int = 8
    learning_rate: float = 1e-3
    batch_size: int = 64
    options: Mapping[str, Any] = field(default_factory=dict)
    progress: Progress | None = None
    certify: Records | None = None
    hardened: Halves | None = None

    @property
    def sample(self) -> Tensor:
        """One input, shape (1, ...)."""
        return torch.from_numpy(self.train.x[:1])

    def halves(self) -> tuple[nn.Module, nn.Module]:
        """Fresh copies of the parts before and after the cut."""
        if self.hardened is not None:
            parts = self.hardened.encoder, self.hardened.head
            encoder, head = (copy.deepcopy(part).requires_grad_(True) for part in parts)
            return encoder, head
        return cut_at(self.model, self.cut)

    def teacher(self) -> nn.Module:
        """A frozen copy of the deployed model."""
        return copy.deepcopy(self.model).eval().requires_grad_(False)

    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one record's features at the cut."""
        encoder, _ = self.halves()
        with torch.no_grad():
            return tuple(encoder.eval()(self.sample).shape[1:])

    def flops_share(self, encoder: nn.Module) -> float:
        """FLOPs of `encoder` as a share of the deployed model's."""
        return flops(encoder, self.sample) / flops(self.model, self.sample)

    def params_share(self, encoder: nn.Module) -> float:
        """Parameters of `encoder` as a share of the deployed model's."""
        return parameters(encoder) / parameters(self.model)
