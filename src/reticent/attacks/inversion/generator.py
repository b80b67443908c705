"""Model inversion through a generator: among pictures that look natural, those of the class.

The generator learns what records look like from a public split, told what the target thinks of
each; the search then moves within it, so that it can't find the noise that ascent finds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from reticent.attacks.inversion.ascent import (
    Classes,
    Images,
    Objective,
    frozen,
    identity_loss,
)
from reticent.attacks.spec import Access, AttackSpec
from reticent.attacks.target import WeightsTarget
from reticent.errors import DataError
from reticent.guarantee import Pillar
from reticent.random import seeded

_FEWEST = 50
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class GenerativeInversion:
    """A conditional variational autoencoder of public records, searched for each class.

    Trained with the target's own class probabilities as the condition (as PLG-MI conditions its
    GAN: Yuan et al. 2023), so one condition per private class exists even where no public record
    is of that class. The search learns a Gaussian over the latent code for each class (Chen et
    al. 2021, KEDMI, section 3.2: a distribution, not a point) and maximises the logit with a pull
    towards the prior (Nguyen et al. 2023, section 4.1). Auxiliary: public records (n, ...).
    """

    latent: int = 24
    width: int = 400
    updates: int = 1000
    steps: int = 150
    draws: int = 8
    prior: float = 0.1
    rate: float = 0.05
    objective: Objective = "logit"

    spec = AttackSpec(
        name="model inversion, generator",
        pillar=Pillar.TRAINING_DATA,
        goal="what the training records of a class look like",
        access=Access.WEIGHTS,
        auxiliary="public records of the same kind, of other people",
        reference="Chen et al. 2021; Yuan et al. 2023; Nguyen et al. 2023",
    )

    def fit(self, target: WeightsTarget, auxiliary: Images, *, seed: int = 0) -> FittedGenerator:
        """Trains the generator. Raises `DataError` for fewer than 50 public records."""
        if len(auxiliary) < _FEWEST:
            raise DataError(
                f"Expected {_FEWEST} public records or more for a generator, got {len(auxiliary)}."
            )
        condition = np.exp(target.predict_scores(auxiliary)).astype(np.float32)
        flat = auxiliary.reshape(len(auxiliary), -1).astype(np.float32)
        low, high = float(flat.min()), float(flat.max())
        unit = torch.from_numpy((flat - low) / max(high - low, 1e-12))
        rng = seeded(seed, 163)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            coder = _Coder(flat.shape[1], condition.shape[1], self.width, self.latent)
        train(coder, unit, torch.from_numpy(condition), updates=self.updates, rng=rng)
        return FittedGenerator(
            attack=self,
            model=frozen(target),
            coder=coder.requires_grad_(False),
            low=low,
            high=high,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedGenerator:
    """The attack with its generator trained and its copy of the target."""

    attack: GenerativeInversion
    model: nn.Module
    coder: _Coder
    low: float
    high: float
    seed: int

    def score(self, target: WeightsTarget, candidates: Classes) -> Images:
        """One image (k, ...) for each class asked for, (k,); repeats of a class are new draws."""
        attack, shape = self.attack, target.shape
        rng = seeded(self.seed, 167)
        classes, asked = np.unique(candidates, return_inverse=True)
        eye = torch.eye(target.classes)[torch.from_numpy(classes)]
        wanted = torch.from_numpy(np.repeat(classes, attack.draws))
        condition = eye.repeat_interleave(attack.draws, dim=0)
        mean = torch.zeros(len(classes), attack.latent, requires_grad=True)
        spread = torch.zeros(len(classes), attack.latent, requires_grad=True)
        optimiser = torch.optim.Adam([mean, spread], lr=attack.rate)
        for _ in range(attack.steps):
            noise = _normal(rng, (len(classes), attack.draws, attack.latent))
            codes = (mean[:, None] + spread.exp()[:, None] * noise).flatten(0, 1)
            images = self._images(codes, condition, shape)
            identity = identity_loss(self.model, images, wanted, attack.objective) / attack.draws
            loss = identity + attack.prior * kl_to_standard(mean, 2 * spread).sum()
            mean.grad, spread.grad = torch.autograd.grad(loss, [mean, spread])
            optimiser.step()
        with torch.no_grad():
            rows = torch.from_numpy(asked.reshape(-1))
            noise = _normal(rng, (len(rows), attack.latent))
            codes = mean[rows] + spread.exp()[rows] * noise
            return np.asarray(self._images(codes, eye[rows], shape).numpy())

    def _images(self, codes: Tensor, condition: Tensor, shape: tuple[int, ...]) -> Tensor:
        unit = torch.sigmoid(self.coder.decode(codes, condition))
        return (self.low + (self.high - self.low) * unit).reshape(len(codes), *shape)


class _Coder(nn.Module):
    """Records (n, d) in 0..1 to codes and back, both told a condition (n, c)."""

    def __init__(self, size: int, classes: int, width: int, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(size + classes, width), nn.ReLU(), nn.Linear(width, 2 * latent)
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent + classes, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, size),
        )

    def encode(self, records: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log-variances (n, latent)."""
        mean, spread = self.encoder(torch.cat([records, condition], dim=1)).chunk(2, dim=1)
        return mean, spread

    def decode(self, codes: Tensor, condition: Tensor) -> Tensor:
        """Logits of the values (n, d)."""
        made: Tensor = self.decoder(torch.cat([codes, condition], dim=1))
        return made


def train(
    coder: _Coder, records: Tensor, condition: Tensor, *, updates: int, rng: np.random.Generator
) -> None:
    """Trains the autoencoder on the evidence bound (Kingma and Welling 2014, equation 10)."""
    optimiser = torch.optim.Adam(coder.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, updates)
    for _ in range(updates):
        rows = torch.from_numpy(rng.integers(len(records), size=_BATCH))
        x, c = records[rows], condition[rows]
        mean, spread = coder.encode(x, c)
        codes = mean + (0.5 * spread).exp() * _normal(rng, tuple(mean.shape))
        missed = functional.binary_cross_entropy_with_logits(
            coder.decode(codes, c), x, reduction="sum"
        )
        loss = (missed + kl_to_standard(mean, spread).sum()) / _BATCH
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def kl_to_standard(mean: Tensor, log_variance: Tensor) -> Tensor:
    """The divergence of diagonal Gaussians (n, k) from the standard one in nats, (n,)."""
    return 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    drawn: NDArray[np.float32] = rng.standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(drawn)
