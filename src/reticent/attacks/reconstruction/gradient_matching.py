"""Records rebuilt from the gradient that a client shared, by search: the gradients must match."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn import functional

from reticent.attacks.reconstruction.gradients import Rebuilt, Update, infer_labels, output_bias
from reticent.attacks.spec import Access, AttackSpec
from reticent.attacks.target import WeightsTarget
from reticent.errors import DataError, UnsupportedError
from reticent.guarantee import Pillar
from reticent.random import seeded

Box = tuple[float, float]
_SCALE = 1e4
_EXACT = 1e-10
"""A mismatch below which another start can't do better in float32 gradients."""
_NEAR = 1e-2


@dataclass(frozen=True, kw_only=True)
class GradientMatching:
    """Records whose gradient is the one observed; the server knows the weights that it sent.

    `objective` "euclidean" minimises the squared distance with L-BFGS-B in double precision (Zhu,
    Liu and Han 2019, DLG, Algorithm 1, with the label by iDLG, and records kept in `box`);
    "cosine" minimises 1 - cosine + `total_variation` * TV with Adam on the gradient's sign
    (Geiping et al. 2020, section 4 and appendix). Euclidean is exact on smooth small networks; a
    ReLU network's gradient jumps as neurons switch, where only cosine gets pictures out. The best
    of `starts` random starts is kept, by the mismatch that the attacker sees; one that is near is
    continued instead.
    """

    objective: Literal["euclidean", "cosine"] = "euclidean"
    steps: int = 300
    starts: int = 3
    total_variation: float = 1e-2
    rate: float = 0.1
    box: Box = (0.0, 1.0)

    spec = AttackSpec(
        name="gradient matching",
        pillar=Pillar.TRAINING_DATA,
        goal="the records behind one client's gradient",
        access=Access.WEIGHTS,
        auxiliary="the range of a record's values",
        reference="Zhu, Liu and Han 2019; Zhao et al. 2020; Geiping et al. 2020",
        queries=0,
    )

    def fit(self, target: WeightsTarget, auxiliary: None = None, *, seed: int = 0) -> FittedMatch:
        """Copies the weights in double precision; needs no training.

        Raises `UnsupportedError` for what is no network.
        """
        model = target.model
        if not isinstance(model, nn.Module):
            raise UnsupportedError(f"Never with {type(model).__name__}: it has no gradients.")
        return FittedMatch(
            attack=self, model=copy.deepcopy(model).double(), shape=target.shape, seed=seed
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedMatch:
    """The attack with its copy of the network; scoring asks the target nothing."""

    attack: GradientMatching
    model: nn.Module
    shape: tuple[int, ...]
    seed: int

    def score(self, target: WeightsTarget, candidates: Sequence[Update]) -> tuple[Rebuilt, ...]:
        """The records behind each update."""
        return tuple(self._one(place, update) for place, update in enumerate(candidates))

    def _one(self, place: int, update: Update) -> Rebuilt:
        head = output_bias(self.model)
        if head is None or head not in update.gradients:
            raise UnsupportedError(
                "Not yet without a bias in the last layer: the labels are read from its gradient."
            )
        labels = infer_labels(update.gradients[head], update.batch)
        puzzle = _Puzzle(self.model, update, labels)
        attack = self.attack
        best: NDArray[np.float64] | None = None
        least = np.inf
        for start in range(attack.starts):
            rng = seeded(self.seed, 139, place + 1, start + 1)
            first = rng.uniform(*attack.box, (update.batch, *self.shape))
            if attack.objective == "euclidean" and best is not None and least < _NEAR:
                # It was on its way when the steps ran out: go on from there.
                first = best
            search = _descend if attack.objective == "euclidean" else _walk
            found = search(puzzle, first, attack)
            mismatch = puzzle.mismatch(found)
            if best is None or mismatch < least:
                best, least = found, mismatch
            if least < _EXACT:
                break
        assert best is not None
        return Rebuilt(
            x=best, y=labels, mismatch=least, method=f"gradient matching, {attack.objective}"
        )


class _Puzzle:
    """The observed gradient, and the gradient that guessed records would have."""

    def __init__(self, model: nn.Module, update: Update, labels: NDArray[np.int64]) -> None:
        named = dict(model.named_parameters())
        missing = [name for name in named if name not in update.gradients]
        if missing:
            raise DataError(f"Expected a gradient of every parameter, got none of {missing}.")
        self.model = model
        self.parameters = list(named.values())
        self.labels = torch.from_numpy(labels)
        self.observed = [
            torch.from_numpy(np.asarray(update.gradients[name], dtype=np.float64)) for name in named
        ]
        self.energy = float(sum(float((part**2).sum()) for part in self.observed)) or 1.0

    def gradient(self, records: Tensor) -> tuple[Tensor, ...]:
        loss = functional.cross_entropy(self.model(records), self.labels)
        return tuple(torch.autograd.grad(loss, self.parameters, create_graph=True))

    def distance(self, records: Tensor) -> Tensor:
        """The squared distance of the gradients as a share of the observed one's square."""
        pairs = zip(self.gradient(records), self.observed, strict=True)
        total: Tensor = torch.stack([((mine - seen) ** 2).sum() for mine, seen in pairs]).sum()
        return total / self.energy

    def cosine(self, records: Tensor) -> Tensor:
        """1 - the cosine between the gradients."""
        mine = self.gradient(records)
        inner = torch.stack([(a * b).sum() for a, b in zip(mine, self.observed, strict=True)])
        norm = torch.stack([(a**2).sum() for a in mine]).sum().sqrt()
        apart: Tensor = 1 - inner.sum() / (norm * self.energy**0.5 + 1e-300)
        return apart

    def mismatch(self, records: NDArray[np.float64]) -> float:
        found = float(self.distance(torch.from_numpy(records)).detach())
        return found if np.isfinite(found) else np.inf


def _descend(
    puzzle: _Puzzle, first: NDArray[np.float64], attack: GradientMatching
) -> NDArray[np.float64]:
    """L-BFGS-B from `first` within the box."""

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        records = torch.from_numpy(flat.reshape(first.shape)).requires_grad_()
        # Scaled up: the line search treats changes below its machine constants as none.
        value = _SCALE * puzzle.distance(records)
        (slope,) = torch.autograd.grad(value, records)
        return float(value.detach()), slope.numpy().ravel()

    found = minimize(
        loss,
        first.ravel(),
        jac=True,
        method="L-BFGS-B",
        bounds=[attack.box] * first.size,
        options={
            "maxiter": attack.steps,
            "maxfun": 2 * attack.steps,
            "ftol": 0.0,
            "gtol": 0.0,
            "maxcor": 50,
        },
    )
    return np.asarray(found.x.reshape(first.shape))


def _walk(
    puzzle: _Puzzle, first: NDArray[np.float64], attack: GradientMatching
) -> NDArray[np.float64]:
    """Adam on the sign of the slope, the rate cut tenfold at 3/8, 5/8 and 7/8 of the steps."""
    records = torch.from_numpy(first.copy()).requires_grad_()
    optimiser = torch.optim.Adam([records], lr=attack.rate)
    cuts = [attack.steps * part // 8 for part in (3, 5, 7)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, cuts, gamma=0.1)
    least, kept = np.inf, first
    for _ in range(attack.steps):
        loss = puzzle.cosine(records) + attack.total_variation * total_variation(records)
        (slope,) = torch.autograd.grad(loss, records)
        if float(loss.detach()) < least:
            least, kept = float(loss.detach()), records.detach().numpy().copy()
        records.grad = slope.sign()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            records.clamp_(*attack.box)
    return kept


def total_variation(records: Tensor) -> Tensor:
    """The mean absolute difference of neighbours along each axis beyond (n, channel)."""
    steps = [records.diff(dim=axis).abs().mean() for axis in range(2, records.ndim)]
    return torch.stack(steps).sum() if steps else records.new_zeros(())
