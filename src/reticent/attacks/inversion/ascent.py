"""Model inversion by ascent: the input that the model is surest of, within a record's range."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from reticent.attacks.reconstruction.gradient_matching import total_variation
from reticent.attacks.spec import Access, AttackSpec
from reticent.attacks.target import WeightsTarget
from reticent.errors import ConfigError, UnsupportedError
from reticent.guarantee import Pillar
from reticent.random import seeded

Classes = NDArray[np.int64]
Images = NDArray[np.float32]
Objective = Literal["confidence", "logit"]


@dataclass(frozen=True, kw_only=True)
class ConfidenceAscent:
    """Fredrikson, Jha and Ristenpart 2015, Algorithm 1 (MI-Face), all classes in one batch.

    Ascends the class's log-confidence from the middle of `box`, or its logit less a weak pull
    towards that middle (Nguyen et al. 2023, section 4.1: confidence saturates, logits don't), by
    Adam with a total-variation penalty; every `every` steps images are smoothed (the paper's
    PROCESS step) with a Gaussian of `blur` pixels. Several samples of a class differ by their
    start.
    """

    objective: Objective = "confidence"
    steps: int = 200
    rate: float = 0.05
    total_variation: float = 0.1
    blur: float = 0.5
    every: int = 20
    box: tuple[float, float] = (0.0, 1.0)

    spec = AttackSpec(
        name="model inversion, ascent",
        pillar=Pillar.TRAINING_DATA,
        goal="what the training records of a class look like",
        access=Access.WEIGHTS,
        auxiliary="the range of a record's values",
        reference="Fredrikson, Jha and Ristenpart 2015, Algorithm 1",
        queries=0,
    )

    def fit(
        self, target: WeightsTarget, auxiliary: Images | None = None, *, seed: int = 0
    ) -> FittedAscent:
        """Copies the network; starts from the mean of `auxiliary` records where there are any."""
        if auxiliary is None:
            start = np.full(target.shape, sum(self.box) / 2, dtype=np.float32)
        else:
            start = auxiliary.mean(axis=0).astype(np.float32)
        return FittedAscent(attack=self, model=frozen(target), start=start, seed=seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedAscent:
    """The attack with its copy of the network."""

    attack: ConfidenceAscent
    model: nn.Module
    start: Images
    seed: int

    def score(self, target: WeightsTarget, candidates: Classes) -> Images:
        """One image (k, ...) for each class asked for, (k,)."""
        attack = self.attack
        low, high = attack.box
        rng = seeded(self.seed, 157)
        jitter = rng.normal(0, 0.05 * (high - low), (len(candidates), *self.start.shape))
        first = np.clip(self.start + jitter, low, high).astype(np.float32)
        images = torch.from_numpy(first).requires_grad_()
        wanted = torch.from_numpy(np.asarray(candidates, dtype=np.int64))
        middle = torch.from_numpy(self.start)
        optimiser = torch.optim.Adam([images], lr=attack.rate * (high - low))
        for step in range(1, attack.steps + 1):
            loss = identity_loss(self.model, images, wanted, attack.objective)
            if attack.objective == "logit":
                loss = loss + ((images - middle) ** 2).flatten(1).sum(dim=1).mean() * 0.05
            loss = loss + attack.total_variation * len(images) * total_variation(images)
            (images.grad,) = torch.autograd.grad(loss, images)
            optimiser.step()
            with torch.no_grad():
                images.clamp_(low, high)
                if attack.blur and images.ndim == 4 and step % attack.every == 0:
                    sigma = (0, 0, attack.blur, attack.blur)
                    images.copy_(torch.from_numpy(gaussian_filter(images.numpy(), sigma)))
        return np.asarray(images.detach().numpy())


def identity_loss(model: nn.Module, images: Tensor, wanted: Tensor, objective: Objective) -> Tensor:
    """How far images (k, ...) are from their wanted classes (k,): the lower the better, summed."""
    logits = two_columns(model(images))
    chosen = logits.gather(1, wanted[:, None])[:, 0]
    if objective == "confidence":
        return -(chosen - logits.logsumexp(dim=1)).sum()
    return -chosen.sum()


def two_columns(logits: Tensor) -> Tensor:
    """Logits with a column per class: one output stands for class 1 against 0."""
    if logits.shape[1] > 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], dim=1)


def frozen(target: WeightsTarget) -> nn.Module:
    """A copy of the network whose parameters take no gradient."""
    model = target.model
    if not isinstance(model, nn.Module):
        raise UnsupportedError(
            f"Never with {type(model).__name__}: ascent needs a PyTorch network's gradients."
        )
    made = copy.deepcopy(model).eval().requires_grad_(False)
    if next(made.parameters(), None) is None:
        raise ConfigError("Expected a network with parameters, got none.")
    return made
