"""Attention, recurrent layers and modules without a rule: exact, or refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from dp_oracle import assert_exact, squares
from torch import Tensor, nn

from reticent.errors import UnsupportedError
from reticent.models import products
from reticent.training.dp_sgd.batch_norm import without_batch_norm
from reticent.training.dp_sgd.engine import Engine


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


class Attend(nn.Module):
    """One attention layer, called in one of the ways that it can be called."""

    def __init__(self, way: str, **options: Any) -> None:
        super().__init__()
        self.way = way
        self.layer = nn.MultiheadAttention(8, 2, **options)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        first = self.layer.batch_first
        x, y = (x, y) if first else (x.transpose(0, 1), y.transpose(0, 1))
        size, steps = (x.shape[0], x.shape[1]) if first else (x.shape[1], x.shape[0])
        causal = torch.ones(steps, steps, dtype=torch.bool).triu(1)
        if self.way == "self":
            out = self.layer(x, x, x, need_weights=False)[0]
        elif self.way == "causal":
            out = self.layer(x, x, x, need_weights=False, attn_mask=causal, is_causal=True)[0]
        elif self.way == "masked":
            padding = torch.zeros(size, steps, dtype=torch.bool)
            padding[:, -1] = True
            mask = torch.linspace(-1, 1, steps * steps, dtype=x.dtype).view(steps, steps)
            out, weights = self.layer(x, x, x, key_padding_mask=padding, attn_mask=mask)
            weights = weights if first else weights.transpose(0, 1)
            out = torch.cat([out, weights @ x if first else out], -1)
        elif self.way == "cross":
            out = self.layer(x, y, y)[0]
        else:
            out = self.layer(x, y, 0.5 * y, average_attn_weights=False)[0]
        return out if first else out.transpose(0, 1)


@pytest.mark.parametrize("way", ["self", "causal", "masked", "cross", "three"])
@pytest.mark.parametrize("options", [{"batch_first": True}, {"bias": False}])
def test_attention(way: str, options: dict[str, Any]) -> None:
    assert_exact(Attend(way, **options), torch.randn(3, 5, 8), torch.randn(3, 4, 8))


def test_attention_with_other_widths() -> None:
    network = Attend("three", batch_first=True, kdim=6, vdim=6)
    assert_exact(network, torch.randn(3, 5, 8), torch.randn(3, 4, 6))


def test_attention_with_learned_keys_falls_back() -> None:
    network = Attend("three", batch_first=True, add_bias_kv=True)
    assert_exact(network, torch.randn(3, 5, 8), torch.randn(3, 4, 8))


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_stock_transformer(norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(
        8, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first
    )
    network = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    assert_exact(network, torch.randn(3, 5, 8))


def test_a_decoder() -> None:
    network = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    assert_exact(network, torch.randn(3, 5, 8), torch.randn(3, 4, 8))


class Recur(nn.Module):
    """A recurrent layer whose every result takes part."""

    def __init__(self, layer: nn.RNNBase, given: bool) -> None:
        super().__init__()
        self.first, self.layer, self.given = nn.Linear(4, 4), layer, given

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        count = self.layer.num_layers * (2 if self.layer.bidirectional else 1)
        start: Any = None
        if self.given:
            start = x[:, 0, :1].expand(count, -1, -1).expand(-1, -1, 5).contiguous()
            start = (start, 0.5 * start) if isinstance(self.layer, nn.LSTM) else start
        out, last = self.layer(x if self.layer.batch_first else x.transpose(0, 1), start)
        out = out if self.layer.batch_first else out.transpose(0, 1)
        last = torch.cat(last, -1) if isinstance(last, tuple) else last
        return torch.cat([out.flatten(1), last.transpose(0, 1).flatten(1)], 1)


def test_large_products_of_composites_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_LARGE", 0)
    assert_exact(Attend("self", batch_first=True), torch.randn(3, 5, 8), torch.randn(3, 4, 8))
    for kind in (nn.LSTM, nn.GRU):
        assert_exact(Recur(kind(4, 5, num_layers=2), False), torch.randn(3, 6, 4))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"batch_first": True},
        {"num_layers": 2, "bidirectional": True},
        {"batch_first": True, "bias": False},
    ],
    ids=["plain", "two ways", "no bias"],
)
def test_recurrent_layers(kind: Any, given: bool, options: dict[str, Any]) -> None:
    network = Recur(kind(4, 5, **options), given)
    x = torch.randn(3, 6, 4)
    before = network(x)
    assert_exact(network, x)
    engine = Engine(network)
    with engine.recording(3):
        torch.testing.assert_close(network(x), before)
    engine.detach()


def test_packed_sequences_are_refused() -> None:
    layer = nn.LSTM(4, 5, batch_first=True)
    engine = Engine(layer)
    packed = nn.utils.rnn.pack_padded_sequence(
        torch.randn(3, 6, 4), torch.tensor([6, 4, 2]), batch_first=True
    )
    with engine.recording(3), pytest.raises(UnsupportedError, match="Packed"):
        layer(packed)


class Token(nn.Module):
    """A learned token before the sequence, children below, two arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        self.inner[0].bias.requires_grad_(False)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        whole = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return self.inner(whole) * scale


def test_modules_without_a_rule_fall_back() -> None:
    assert_exact(nn.Sequential(nn.Linear(4, 4), Token(), nn.Linear(4, 2)), torch.randn(3, 5, 4))
    assert_exact(nn.Bilinear(4, 3, 5), torch.randn(3, 4), torch.randn(3, 3))
    assert_exact(nn.Sequential(nn.Linear(4, 4), nn.PReLU(4)), torch.randn(3, 4))
    assert_exact(nn.ConvTranspose2d(2, 3, 3, stride=2), torch.randn(3, 2, 4, 4))


def test_parametrised_weights_fall_back() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    assert_exact(nn.Sequential(nn.Linear(4, 4), layer), torch.randn(3, 4))


def test_dropout_is_the_same_in_forward_and_fallback() -> None:
    """A mask drawn twice would give a weight a gradient where its output was dropped."""

    class Drop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(40))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(x * self.scale, 0.5)

    network = Drop()
    engine = Engine(network)
    with engine.recording(3):
        out = network(torch.ones(3, 40))
        batch = engine.backward(out.sum(1))
    gradients = batch.per_example(network.scale)
    assert torch.equal(gradients, out.detach())
    assert len(gradients.unique(dim=0)) == 3


def test_without_batch_norm_keeps_the_rest() -> None:
    network = nn.Sequential(nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(inplace=True))
    with pytest.raises(UnsupportedError, match="without_batch_norm"):
        Engine(network.train())
    network[1].weight.data.uniform_()
    fixed = without_batch_norm(network)
    assert isinstance(fixed[1], nn.GroupNorm)
    assert torch.equal(fixed[1].weight, network[1].weight)
    assert isinstance(network[1], nn.BatchNorm2d)
    assert_exact(fixed, torch.randn(3, 3, 6, 6))


def test_batch_norm_in_evaluation_mode_is_exact() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    assert_exact(network, torch.randn(3, 3, 6, 6), loss=squares)


@pytest.mark.parametrize("way", ["causal", "cross"])
@pytest.mark.parametrize("first", [True, False])
def test_attention_averages_copies(way: str, first: bool) -> None:
    rows, others = torch.randn(6, 5, 8), torch.randn(6, 4, 8)
    assert_exact(Attend(way, batch_first=first), rows, others, copies=3)


@pytest.mark.parametrize("first", [True, False])
def test_recurrent_layers_average_copies(first: bool) -> None:
    """Also where time is the first axis, and a row's positions don't lie side by side."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.LSTM(4, 3, num_layers=2, batch_first=first)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.layer(x if first else x.transpose(0, 1))[0]
            return out if first else out.transpose(0, 1)

    assert_exact(Last(), torch.randn(6, 5, 4), copies=2)


def test_modules_without_a_rule_average_copies() -> None:
    assert_exact(nn.Bilinear(4, 3, 5), torch.randn(6, 4), torch.randn(6, 3), copies=2)
    assert_exact(nn.ConvTranspose2d(2, 3, 3, stride=2), torch.randn(6, 2, 4, 4), copies=3)
