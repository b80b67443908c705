"""The six networks that training speed is compared on, with random inputs of their shapes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network's factory, its inputs and its targets."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Tensor
    targets: Tensor


class NextWord(nn.Module):
    """Embedding, LSTM, output layer: one word predicted per position."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(4000, 96)
        self.lstm: nn.Module = nn.LSTM(96, 256, batch_first=True)
        self.out = nn.Linear(256, 4000)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.lstm(self.words(ids))[0])


class Tiny(nn.Module):
    """A text classifier of BERT-tiny's shape."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(8000, 128), nn.Embedding(64, 128)
        self.norm = nn.LayerNorm(128)
        layer = nn.TransformerEncoderLayer(128, 2, 512, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(128, 2)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1]).expand(len(ids), -1).contiguous()
        return self.out(self.encoder(self.norm(self.words(ids) + self.places(places))).mean(1))


class Adapter(nn.Module):
    """A frozen linear layer with a trained correction of rank 8 (LoRA, Hu et al. 2022)."""

    def __init__(self, size: int, rank: int = 8) -> None:
        super().__init__()
        self.frozen = nn.Linear(size, size).requires_grad_(False)
        self.down = nn.Linear(size, rank, bias=False)
        self.up = nn.Linear(rank, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + self.up(self.down(x))


class AdaptedBlock(nn.Module):
    """A frozen encoder block with adapters at queries and values."""

    def __init__(self, size: int = 256, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.v = Adapter(size), Adapter(size)
        self.k, self.o = nn.Linear(size, size), nn.Linear(size, size)
        self.one, self.two = nn.LayerNorm(size), nn.LayerNorm(size)
        self.rise, self.fall = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)
        for part in (self.k, self.o, self.one, self.two, self.rise, self.fall):
            part.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x)
        q, k, v = (
            part(h).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        return x + self.fall(nn.functional.gelu(self.rise(self.two(x))))


class Adapted(nn.Module):
    """A frozen text encoder with adapters and a trained output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(8000, 256).requires_grad_(False)
        self.blocks = nn.Sequential(*(AdaptedBlock() for _ in range(4)))
        self.out = nn.Linear(256, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.blocks(self.words(ids)).mean(1))


class Residual(nn.Module):
    """A pre-activation residual block with group normalisation."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = nn.GroupNorm(16, inputs), nn.GroupNorm(16, outputs)
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.short: nn.Module = nn.Identity()
        if inputs != outputs:
            self.short = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.relu(self.one(x))
        return self.second(nn.functional.relu(self.two(self.first(h)))) + self.short(h)


def wide_resnet() -> nn.Module:
    """WRN-16-4 with group normalisation."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)]
    width = 16
    for stage, outputs in enumerate((64, 128, 256)):
        for block in range(2):
            layers.append(Residual(width, outputs, 2 if stage and not block else 1))
            width = outputs
    layers += [nn.GroupNorm(16, 256), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(256, 10))


def mlp() -> nn.Module:
    """784-256-128-10."""
    return nn.Sequential(
        nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def cnn(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    """The MNIST network of Opacus's examples."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 8, 2, padding=3),
        activation(),
        nn.MaxPool2d(2, 1),
        nn.Conv2d(16, 32, 4, 2),
        activation(),
        nn.MaxPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(512, 32),
        activation(),
        nn.Linear(32, 10),
    )


def cases() -> tuple[Case, ...]:
    """All six."""
    torch.manual_seed(0)

    def ids(vocabulary: int, *shape: int) -> Tensor:
        return torch.randint(vocabulary, shape)

    return (
        Case(name="mlp", build=mlp, inputs=torch.randn(256, 784), targets=ids(10, 256)),
        Case(name="cnn", build=cnn, inputs=torch.randn(256, 1, 28, 28), targets=ids(10, 256)),
        Case(name="lstm", build=NextWord, inputs=ids(4000, 64, 20), targets=ids(4000, 64, 20)),
        Case(name="bert-tiny", build=Tiny, inputs=ids(8000, 32, 64), targets=ids(2, 32)),
        Case(name="lora", build=Adapted, inputs=ids(8000, 32, 64), targets=ids(2, 32)),
        Case(
            name="wrn-16-4",
            build=wide_resnet,
            inputs=torch.randn(8, 3, 32, 32),
            targets=ids(10, 8),
        ),
    )
