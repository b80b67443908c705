"""A network in two halves: what the client runs, what leaves it, what the server runs."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reticent.data.answers import Answers
from reticent.inference.sealed.release import Sealed
from reticent.inference.split.release import Bare, Code, Noisy, Release, nearest
from reticent.training.plain import forward


@dataclass(frozen=True, kw_only=True)
class Halves:
    """Client half, release, server half.

    `encoder` maps inputs (batch, ...) to features (batch, d); `release` turns them into what is
    sent; `head` maps released features (batch, d) to outputs (batch, o). For a code the server
    needs no head: `table` (K, o) holds its answer to each code.
    """

    encoder: nn.Module
    release: Release
    head: nn.Module
    answers: Answers
    table: NDArray[np.float32] | None = None

    def features(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Clean features (n, d), pulled to the prototypes where the release does so."""
        raw = forward(self.encoder, torch.from_numpy(x)).numpy()
        return self.release.contract(raw) if isinstance(self.release, Noisy) else raw

    def predict(self, x: NDArray[np.float32], *, seed: int = 0) -> NDArray[np.float32]:
        """Outputs (n, o) as a client would get them; experiment noise, seeded."""
        features = self.features(x)
        if isinstance(self.release, Code):
            assert self.table is not None
            return self.table[self.release.nearest(features)]
        if isinstance(self.release, Sealed):
            sealed = torch.from_numpy(self.release.clipped(features))
            return forward(self.head, sealed).numpy()
        sent = redraw(self.release, seed=seed)(torch.from_numpy(features))
        return forward(self.head, sent).numpy()

    def label(self, x: NDArray[np.float32], *, seed: int = 0) -> NDArray[np.int64]:
        """The answer index (n,) that the attacks' floor is measured from.

        The label that the client's own half computes where there are prototypes (the reference of
        the certificate), else the answer that the server gives.
        """
        if isinstance(self.release, Code):
            return self.release.labels[self.release.nearest(self.features(x))]
        if isinstance(self.release, Noisy) and self.release.prototypes is not None:
            return nearest(self.features(x), self.release.prototypes)
        return self.answers.index_outputs(self.predict(x, seed=seed))


def redraw(release: Noisy | Bare, *, seed: int) -> Draw:
    """The release's noise as a seeded function of features, for experiments and attacks."""
    return Draw(release, seed)


class Draw:
    """Adds fresh experiment noise at each call: the channel as an attacker can simulate it."""

    def __init__(self, release: Noisy | Bare, seed: int) -> None:
        self._release = release
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, features: Tensor) -> Tensor:
        """Clean features (batch, d) to sent features (batch, d); gradients pass through."""
        release = self._release
        if isinstance(release, Bare):
            return features
        scale = torch.from_numpy(release.scale)
        if release.offset is not None:
            features = features + torch.from_numpy(release.offset)
        if release.shape == "gaussian":
            return features + scale * torch.randn(features.shape, generator=self._generator)
        uniform = torch.rand(features.shape, generator=self._generator) - 0.5
        return features - scale * uniform.sign() * torch.log1p(-2 * uniform.abs() + 1e-7)


class Contract(nn.Module):
    """Features pulled to within `radius` of their prototype: `Noisy.contract` for autograd."""

    prototypes: Tensor

    def __init__(self, prototypes: Tensor, radius: float) -> None:
        super().__init__()
        self.register_buffer("prototypes", prototypes)
        self.radius = radius

    def forward(self, features: Tensor) -> Tensor:
        """Shapes: (batch, d) to the same."""
        scores = features @ self.prototypes.T - 0.5 * self.prototypes.square().sum(dim=1)
        centers = self.prototypes[scores.argmax(dim=1)]
        away = features - centers
        length = away.norm(dim=1, keepdim=True).clamp(min=1e-12)
        pulled: Tensor = centers + away * (self.radius / length).clamp(max=1.0)
        return pulled


def differentiable_encoder(halves: Halves) -> nn.Module:
    """The encoder up to the clean features that leave it, for white-box attacks."""
    release = halves.release
    if isinstance(release, Noisy) and release.radius is not None:
        assert release.prototypes is not None
        contract = Contract(torch.from_numpy(release.prototypes), release.radius)
        return nn.Sequential(copy.deepcopy(halves.encoder), contract).eval()
    return copy.deepcopy(halves.encoder).eval()


STYLES = ("linear", "mlp", "conv", "separable")


def neck(
    shape: tuple[int, ...], size: int, *, style: str, width: int = 32, hidden: int = 32
) -> nn.Module:
    """A small network from features of `shape` to `size` numbers: the adapter at the cut.

    Styles: "linear"; "mlp" (one hidden layer); "conv" (strided convolutions until at most 8
    positions a side are left, then one hidden layer); "separable" (the same with depthwise
    separable convolutions, Howard et al. 2017, twice as wide at each halving). The last two need
    spatial features.
    """
    if style == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), size))
    layers: list[nn.Module] = []
    channels, sides = shape[0], list(shape[1:])
    while style in ("conv", "separable") and (not layers or max(sides) > 8):
        layers += _convolution(channels, width, len(sides), separable=style == "separable")
        channels, sides = width, [(side + 1) // 2 for side in sides]
        width = 2 * width if style == "separable" else width
    flat = channels * int(np.prod(sides))
    tail = [nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, size)]
    return nn.Sequential(*layers, *tail)


def _convolution(channels: int, width: int, axes: int, *, separable: bool) -> list[nn.Module]:
    conv, norm = (nn.Conv1d, nn.BatchNorm1d) if axes == 1 else (nn.Conv2d, nn.BatchNorm2d)
    kernel = 5 if axes == 1 else 3
    if not separable:
        first = [conv(channels, width, kernel, stride=2, padding=kernel // 2, bias=False)]
    else:
        first = [
            conv(
                channels,
                channels,
                kernel,
                stride=2,
                padding=kernel // 2,
                groups=channels,
                bias=False,
            ),
            conv(channels, width, 1, bias=False),
        ]
    return [*first, norm(width), nn.ReLU()]
