"""Scattering features of images: wavelet moduli, averaged; fixed in advance, learnt from nobody.

A linear model on them is a strong private model for few records (Tramèr and Boneh 2021): features
that need no training need no privacy. The transform is that of Bruna and Mallat 2013 with Morlet
wavelets of J dyadic scales and L angles, orders 0 to 2:

    S0 = x * phi,   S1 = |x * psi_1| * phi,   S2 = ||x * psi_1| * psi_2| * phi

with psi_2 of a coarser scale than psi_1, and phi a Gaussian of width 0.8 2^(J-1), sampled every 2^J
pixels. The filters are scaled so that no layer expands distances (Littlewood-Paley sum at most 1).
Nothing is subsampled before the last step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from reticent.errors import ConfigError, DataError

# Width and centre frequency of the finest wavelet, as in Bruna and Mallat's own software.
_WIDTH, _FREQUENCY = 0.8, 0.75 * math.pi
# A sampled filter's spectrum is periodic: this many periods on either side still count.
_PERIODS = 3
_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class FilterBank:
    """Real Fourier transforms of the filters on a periodic grid, all float64.

    `wavelets`: (scales * angles, rows, columns), scale by scale. `low_pass`: (rows, columns).
    """

    wavelets: Tensor
    low_pass: Tensor

    def littlewood_paley(self) -> Tensor:
        """|phi^(w)|^2 + (|psi^(w)|^2 + |psi^(-w)|^2) / 2, summed over wavelets: (rows, columns)."""
        power = self.wavelets.square().sum(0)
        mirrored = power.flip(0, 1).roll((1, 1), (0, 1))
        return self.low_pass.square() + (power + mirrored) / 2


def filter_bank(rows: int, columns: int, *, scales: int, angles: int) -> FilterBank:
    """Morlet wavelets and a Gaussian of sum 1, with a Littlewood-Paley sum of at most 1.

    One factor scales all wavelets: the most that the Gaussian leaves room for.
    """
    low_pass = _gaussian(rows, columns, width=_WIDTH * 2 ** (scales - 1))
    wavelets = torch.stack(
        [
            _morlet(rows, columns, scale=scale, angle=math.pi * index / angles, slant=4 / angles)
            for scale, index in itertools.product(range(scales), range(angles))
        ]
    )
    room = 1 - low_pass.square()
    taken = FilterBank(wavelets=wavelets, low_pass=0 * low_pass).littlewood_paley()
    counted = taken > 1e-9 * taken.max()
    factor = float((room[counted] / taken[counted]).min().sqrt())
    return FilterBank(wavelets=wavelets * factor, low_pass=low_pass)


def _gaussian(
    rows: int,
    columns: int,
    *,
    width: float,
    angle: float = 0.0,
    slant: float = 1.0,
    frequency: float = 0.0,
) -> Tensor:
    """exp(-w' C w / 2), centred on `frequency` at `angle`, periodic; sum 1 in space if centred.

    C is the covariance in space: `width`^2 along `angle`, (width / slant)^2 across.
    """
    total = torch.zeros(rows, columns, dtype=torch.float64)
    shifts = range(-_PERIODS, _PERIODS + 1)
    down = 2 * math.pi * torch.fft.fftfreq(rows, dtype=torch.float64)[:, None]
    across = 2 * math.pi * torch.fft.fftfreq(columns, dtype=torch.float64)[None, :]
    for i, j in itertools.product(shifts, shifts):
        w1 = down + 2 * math.pi * i - frequency * math.cos(angle)
        w2 = across + 2 * math.pi * j - frequency * math.sin(angle)
        along = w1 * math.cos(angle) + w2 * math.sin(angle)
        aside = w2 * math.cos(angle) - w1 * math.sin(angle)
        total += torch.exp(-((width * along) ** 2 + (width / slant * aside) ** 2) / 2)
    return total if frequency else total / total[0, 0]


def _morlet(rows: int, columns: int, *, scale: int, angle: float, slant: float) -> Tensor:
    """A Gabor function less the Gaussian that makes its mean zero."""
    width, frequency = _WIDTH * 2**scale, _FREQUENCY / 2**scale
    gabor = _gaussian(rows, columns, width=width, angle=angle, slant=slant, frequency=frequency)
    envelope = _gaussian(rows, columns, width=width, angle=angle, slant=slant)
    return gabor - gabor[0, 0] * envelope


@dataclass(frozen=True, kw_only=True)
class Scattering:
    """Scattering of order 2 of grey or colour images; channels are transformed one by one.

    `scales` is J, `angles` L. Images are continued by reflection; "periodic" is for those that are
    periodic. Raises `DataError` for images of no more than 2^J pixels a side.
    """

    scales: int = 2
    angles: int = 8
    padding: Literal["reflect", "periodic"] = "reflect"

    def __post_init__(self) -> None:
        if not (1 <= self.scales <= 8 and self.angles >= 1):
            raise ConfigError(
                f"Expected scales from 1 to 8 and angles >= 1, got scales={self.scales}, "
                f"angles={self.angles}."
            )

    @property
    def paths(self) -> int:
        """1 + L J + L^2 J (J - 1) / 2 features at each place, for each channel."""
        first = self.angles * self.scales
        return 1 + first + first * self.angles * (self.scales - 1) // 2

    def __call__(self, images: Tensor) -> Tensor:
        """(n, channels, rows, columns) to (n, channels * paths, rows / 2^J, columns / 2^J) float32.

        Sizes round up. The features of a record depend on that record alone.
        """
        if images.dim() != 4 or min(images.shape[2:]) <= 2**self.scales:
            raise DataError(
                f"Expected images (n, channels, rows, columns) of more than {2**self.scales} "
                f"pixels a side, got shape={tuple(images.shape)}. Use fewer scales."
            )
        count, channels, rows, columns = images.shape
        margin = 2**self.scales if self.padding == "reflect" else 0
        bank = filter_bank(
            rows + 2 * margin, columns + 2 * margin, scales=self.scales, angles=self.angles
        )
        left = _sampling(bank.low_pass[:, 0], rows, margin, 2**self.scales)
        right = _sampling(bank.low_pass[0], columns, margin, 2**self.scales)
        wavelets = bank.wavelets.float()
        made = []
        for part in images.float().reshape(count * channels, rows, columns).split(_AT_ONCE):
            padded = _reflected(part, margin) if margin else part
            layers = torch.cat(list(self._layers(padded, wavelets)), 1)
            made.append(left @ layers @ right.T)
        features = torch.cat(made) if made else torch.zeros(0, self.paths, len(left), len(right))
        return features.reshape(count, channels * self.paths, len(left), len(right))

    def _layers(self, x: Tensor, wavelets: Tensor) -> Iterator[Tensor]:
        """The image, its moduli, and theirs at coarser scales: each (n, paths, rows, columns)."""
        yield x[:, None]
        first = _moduli(x[:, None], wavelets)
        yield first
        for scale in range(self.scales - 1):
            before = first[:, scale * self.angles : (scale + 1) * self.angles]
            yield _moduli(before, wavelets[(scale + 1) * self.angles :])


def _moduli(x: Tensor, wavelets: Tensor) -> Tensor:
    """|x * psi| for each map and wavelet: (n, k, rows, columns) to (n, k * wavelets, ...)."""
    spectrum = torch.fft.fft2(x)[:, :, None] * wavelets
    moduli: Tensor = torch.fft.ifft2(spectrum).abs().flatten(1, 2)
    return moduli


def _reflected(x: Tensor, margin: int) -> Tensor:
    return torch.nn.functional.pad(x[:, None], [margin] * 4, mode="reflect")[:, 0]


def _sampling(profile: Tensor, count: int, margin: int, stride: int) -> Tensor:
    """The Gaussian along one axis as a matrix: smooth, crop, keep the middle of every stride.

    The Gaussian is separable, so `profile`, its spectrum on the axis, is all of it.
    """
    kernel = torch.fft.ifft(profile.to(torch.complex128)).real
    places = margin + torch.arange(0, count, stride) + stride // 2
    places = places.clamp(max=margin + count - 1)
    offsets = places[:, None] - torch.arange(len(profile))[None, :]
    sampled: Tensor = kernel[offsets % len(profile)].float()
    return sampled


def group_normalised(features: Tensor, groups: int, *, stability: float = 1e-5) -> Tensor:
    """Each record's features at mean 0 and variance 1 within `groups` groups of channels.

    Group normalisation without learnt constants (Wu and He 2018): a record's result depends on
    that record alone, so it costs no privacy. `features` has shape (n, channels, ...).
    """
    if features.dim() < 2 or features.shape[1] % groups:
        raise ConfigError(
            f"Expected channels that {groups} groups divide, got shape={tuple(features.shape)}."
        )
    rows = features.reshape(len(features), groups, -1)
    centred = rows - rows.mean(2, keepdim=True)
    scale = (centred.square().mean(2, keepdim=True) + stability).rsqrt()
    return (centred * scale).reshape(features.shape)
