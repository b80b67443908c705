"""DP-SGD for data that arrives in order: noise that later steps partly take back.

Without sampling there is no amplification, but noise may be correlated over steps. The mechanism
is y = C S + z for the clipped sums S of all steps and independent Gaussian noise z, with C lower
triangular; what training sees is C^-1 y = S + C^-1 z, which is post-processing. Here C is a banded
Toeplitz matrix with the first `band` coefficients of 1 / sqrt(1 - x): the factor of prefix sums
that is optimal up to lower-order terms (Fichtenberger, Henzinger and Upadhyay 2023; banded by
Kalinin and Lampert 2024; training by Kairouz et al. 2021, Choquette-Choo et al. 2023). With `band`
= 1 it is independent noise.

A record takes part once per pass, at steps that are at least `band` apart. Its columns of C then
don't overlap, so the sensitivity is sqrt(passes) times a column's norm. Neighbours replace one
record by nothing and leave the others in their places ("zero-out", Kairouz et al. 2021, definition
2.2): in ordered data, taking a record out would move all later ones.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reticent.errors import ConfigError
from reticent.guarantee import DifferentialPrivacy, Guarantee, Pillar
from reticent.training.dp_sgd.accountant import Mechanism, calibrate, epsilon
from reticent.training.dp_sgd.clipping import AdaptiveQuantile, Clipping, Flat
from reticent.training.dp_sgd.engine import Engine
from reticent.training.dp_sgd.noise import Noise, SecureNoise, SeededNoise
from reticent.training.dp_sgd.oracle import check_first_batch
from reticent.training.dp_sgd.trainer import (
    INSIDER,
    PerExampleLoss,
    PrivatelyTrained,
    Progress,
    check_pairs,
    default_losses,
)

RELATION = "replace one by nothing, in its place"


@dataclass(frozen=True, kw_only=True)
class OrderedPlan:
    """How to train: `passes` over the records in their order, `batch` at a time.

    `band` is how many steps the noise reaches back. Raises `ConfigError` for constants that are
    none.
    """

    batch: int = 64
    passes: int = 1
    band: int = 16
    learning_rate: float = 0.5
    momentum: float = 0.9

    def __post_init__(self) -> None:
        if not (
            self.batch >= 1
            and self.passes >= 1
            and self.band >= 1
            and self.learning_rate > 0
            and 0 <= self.momentum < 1
        ):
            raise ConfigError(
                "Expected batch, passes and band >= 1, learning_rate > 0, momentum in [0, 1), got "
                f"{self}."
            )


def coefficients(band: int) -> tuple[float, ...]:
    """The first column of C: binomial(2k, k) / 4^k for k < `band`."""
    made = [1.0]
    for k in range(1, band):
        made.append(made[-1] * (2 * k - 1) / (2 * k))
    return tuple(made)


def sensitivity(band: int, passes: int) -> float:
    """How far C S moves when one record of norm 1 vanishes, which took part `passes` times."""
    return math.sqrt(passes * math.fsum(value**2 for value in coefficients(band)))


class CorrelatedSums:
    """Turns clipped sums, step by step, into private ones; keeps `band` of each.

    `sigma` is the noise's standard deviation for sensitivity 1 of C S, `clip_norm` the norm of one
    record's gradient, `passes` how often a record takes part.
    """

    def __init__(
        self, noise: Noise, *, band: int, passes: int, sigma: float, clip_norm: float
    ) -> None:
        self._noise, self._coefficients = noise, coefficients(band)[1:]
        self._sigma = sigma * clip_norm * sensitivity(band, passes)
        # The grid that noise is drawn on shifts each of the steps that a record reaches: a finer
        # one keeps all of them together within the margin that `noise` states for one.
        self._grid = clip_norm / math.sqrt(band * passes)
        self._sums: deque[Tensor] = deque(maxlen=band - 1)
        self._private: deque[Tensor] = deque(maxlen=band - 1)

    def add(self, clipped: Tensor) -> Tensor:
        """The private sum of this step, float32, from the clipped one, which is left alone."""
        clipped = clipped.double()  # sums of many steps, whose rounding must stay below the grid
        noisy = clipped.clone()
        for value, before in zip(self._coefficients, self._sums, strict=False):
            noisy.add_(before, alpha=value)
        self._noise.add_to(noisy, sigma=self._sigma, clip_norm=self._grid)
        for value, before in zip(self._coefficients, self._private, strict=False):
            noisy.sub_(before, alpha=value)
        self._sums.appendleft(clipped)
        self._private.appendleft(noisy)
        return noisy.float()


def calibrated(epsilon: float, delta: float) -> Mechanism:
    """What `train_ordered` will do for (epsilon, delta): one Gaussian mechanism, all steps."""
    return calibrate(epsilon, delta, mechanism=Mechanism(noise_multiplier=1.0, steps=1))


def train_ordered(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    epsilon: float,
    delta: float,
    plan: OrderedPlan | None = None,
    losses: PerExampleLoss = default_losses,
    clipping: Clipping | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
) -> PrivatelyTrained:
    """A copy of `model` trained on the records in their order, (epsilon, delta)-private per record.

    With `seed` the run repeats, and its guarantee is void. Raises `DataError` for records and
    targets of different number, `ConfigError` for more steps back than a pass has, or clipping
    that adapts to the data.
    """
    plan, clipping = plan or OrderedPlan(), clipping or Flat()
    steps = -(-len(inputs) // plan.batch)
    check_ordered(inputs, targets, plan, clipping)
    mechanism = calibrated(epsilon, delta)
    made = copy.deepcopy(model).train()
    engine = Engine(made)
    optimiser = torch.optim.SGD(engine.parameters, lr=plan.learning_rate, momentum=plan.momentum)
    sums = CorrelatedSums(
        SecureNoise() if seed is None else SeededNoise(seed),
        band=plan.band,
        passes=plan.passes,
        sigma=mechanism.noise_multiplier,
        clip_norm=clipping.clip_norm,
    )
    for index in range(plan.passes * steps):
        at = index % steps * plan.batch
        x, y = inputs[at : at + plan.batch], targets[at : at + plan.batch]
        if index == 0:
            check_first_batch(engine, lambda a, b: losses(made(a), b), (x, y))
        engine.flat.zero_()
        with engine.recording(len(x)):
            batch = engine.backward(losses(made(x), y))
        factors = clipping.factors(batch.squared_norms(engine.groups(per_layer=clipping.per_layer)))
        engine.fill(batch, factors if clipping.per_layer else factors[0], add=False)
        engine.flat.copy_(sums.add(engine.flat)).div_(plan.batch)
        engine.assign()
        optimiser.step()
        if progress is not None:
            progress((index + 1) / (plan.passes * steps))
    engine.detach()
    for parameter in made.parameters():
        parameter.grad = None
    return _finished(made.eval(), mechanism, delta, plan, seed)


def _finished(
    model: nn.Module, mechanism: Mechanism, delta: float, plan: OrderedPlan, seed: int | None
) -> PrivatelyTrained:
    spent = epsilon(mechanism, delta)
    claim = Guarantee(
        id="dp-ftrl",
        pillar=Pillar.TRAINING_DATA,
        adversary=INSIDER,
        strength=DifferentialPrivacy(
            epsilon=spent, delta=delta, neighboring_relation=RELATION, unit="record"
        ),
        mechanism=(
            f"banded Toeplitz factorisation, band {plan.band}, {plan.passes} passes in order, "
            "per-example clipping, Gaussian noise"
        ),
        assumptions=(
            "the number of records, their order's length and the plan are public",
            "hyper-parameters were fixed before the data were looked at",
            "the central trainer is trusted",
            "AES-256 in counter mode is indistinguishable from random",
        ),
        source="Choquette-Choo et al. 2023; Fichtenberger, Henzinger and Upadhyay 2023",
    )
    return PrivatelyTrained(
        model=model,
        mechanism=mechanism,
        epsilon=spent,
        delta=delta,
        guarantee=claim if seed is None else None,
    )


def check_ordered(inputs: Tensor, targets: Tensor, plan: OrderedPlan, clipping: Clipping) -> None:
    """Raises what `train_ordered` raises for its arguments, and reads no record."""
    steps = -(-len(inputs) // plan.batch)
    check_pairs(inputs, targets)
    if isinstance(clipping, AdaptiveQuantile):
        raise ConfigError("Expected a fixed clipping norm: one that adapts spends budget too.")
    if plan.passes > 1 and plan.band > steps:
        raise ConfigError(
            f"Expected band of at most the {steps} steps of a pass, got band={plan.band}: a "
            "record's appearances would overlap. Use smaller batches or a smaller band."
        )
