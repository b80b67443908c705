"""The first-batch check finds what the engine can't see, and nothing in a clean model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dp_oracle import squares
from torch import Tensor, nn

from reticent.errors import UnsupportedError
from reticent.training.dp_sgd.engine import Engine
from reticent.training.dp_sgd.oracle import check_first_batch


def check(model: nn.Module, x: Tensor) -> None:
    torch.manual_seed(0)
    check_first_batch(Engine(model), lambda values: squares(model(values)), (x,))


def test_a_clean_model_passes_and_keeps_its_mode() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), layer).train()
    check(model, torch.randn(4, 5, 8))
    assert all(module.training for module in model.modules())


class Centred(nn.Module):
    """Subtracts the batch's mean: every example's gradient depends on the others."""

    def __init__(self, detached: bool) -> None:
        super().__init__()
        self.layer, self.detached = nn.Linear(6, 4), detached

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        mean = h.mean(0, keepdim=True)
        return (h - (mean.detach() if self.detached else mean)).tanh()


class Positions(nn.Module):
    """Positions without a batch axis, as many as there are examples: taken for examples."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Linear(6, 4), nn.Embedding(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.words(x) + self.places(torch.arange(x.shape[1]))


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (Centred(detached=False), torch.randn(5, 6)),
        (Centred(detached=True), torch.randn(5, 6)),
        (Positions(), torch.randn(5, 5, 6)),
    ],
    ids=["mean", "detached mean", "positions for examples"],
)
def test_mixed_examples_are_found(model: nn.Module, x: Tensor) -> None:
    with pytest.raises(UnsupportedError, match="first batch"):
        check(model, x)


def test_a_broken_rule_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bias that no rule records is the mistake that hooks make silently."""
    from reticent.training.dp_sgd.batch import Batch

    model = nn.Linear(6, 4)
    add = Batch.add

    def forgetful(self: Batch, parameter: nn.Parameter, *rest: Any) -> None:
        if parameter is not model.bias:
            add(self, parameter, *rest)

    monkeypatch.setattr(Batch, "add", forgetful)
    with pytest.raises(UnsupportedError, match="'bias'"):
        check(model, torch.randn(5, 6))
