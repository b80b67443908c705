"""DP-SGD from data to a model and its guarantee: calibrated, sampled, clipped, noised."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reticent.errors import BudgetExhaustedError, ConfigError, DataError
from reticent.guarantee import Adversary, DifferentialPrivacy, Guarantee, Pillar
from reticent.training.dp_sgd.accountant import Mechanism, calibrate, epsilon
from reticent.training.dp_sgd.augmentation import Transform, Views
from reticent.training.dp_sgd.clipping import AdaptiveQuantile, Clipping, Flat
from reticent.training.dp_sgd.engine import Engine
from reticent.training.dp_sgd.keystream import KeyStream
from reticent.training.dp_sgd.noise import Noise, SecureNoise, SeededNoise
from reticent.training.dp_sgd.oracle import check_first_batch
from reticent.training.dp_sgd.sampling import (
    PoissonSampling,
    SeededWords,
    Words,
    poisson_sampling,
)
from reticent.training.dp_sgd.tuning import Tuner

PerExampleLoss = Callable[[Tensor, Tensor], Tensor]
Progress = Callable[[float], None]

INSIDER = Adversary(
    name="insider",
    sees="the trained model and every noisy gradient on the way",
    knows="every record but the one in question, and the network and plan",
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to train: public constants, fixed before the data are looked at.

    `chunk` is how many rows, examples or their augmented views, are held in memory at a time; the
    logical batch is as large as the coins make it. `averaging` keeps an exponential average of the
    weights, which is post-processing. With `constant_time` every step runs as many chunks as the
    largest batch.
    """

    steps: int = 500
    expected_batch: float = 256.0
    chunk: int = 256
    learning_rate: float = 0.5
    momentum: float = 0.9
    averaging: float = 0.0
    constant_time: bool = False

    def __post_init__(self) -> None:
        if not (
            self.steps >= 1
            and self.expected_batch > 0
            and self.chunk >= 1
            and self.learning_rate > 0
            and 0 <= self.momentum < 1
            and 0 <= self.averaging < 1
        ):
            raise ConfigError(
                "Expected steps >= 1, expected_batch > 0, chunk >= 1, learning_rate > 0, momentum "
                f"and averaging in [0, 1), got {self}."
            )


@dataclass(frozen=True, kw_only=True)
class PrivatelyTrained:
    """A model in evaluation mode and what was spent on it.

    `guarantee` is None for a seeded run: who knows the seed can subtract the noise.
    """

    model: nn.Module
    mechanism: Mechanism
    epsilon: float
    delta: float
    guarantee: Guarantee | None


def charge(
    plan: Plan, sampling: PoissonSampling, noise_multiplier: float, records_per_user: int = 1
) -> Mechanism:
    """What a run of `plan` does to its records, for the accountant."""
    cuts = sampling.capacity < sampling.examples
    return Mechanism(
        noise_multiplier=noise_multiplier,
        steps=plan.steps,
        sampling_probability=sampling.probability,
        examples=sampling.examples if cuts else None,
        capacity=sampling.capacity if cuts else None,
        records_per_user=records_per_user,
    )


def sampling_of(plan: Plan, examples: int, records_per_user: int = 1) -> PoissonSampling:
    """How a run of `plan` samples; only steps of constant time need batches cut to a capacity."""
    made = poisson_sampling(examples, plan.expected_batch)
    if plan.constant_time and records_per_user == 1:
        return made
    return PoissonSampling(examples=examples, probability=made.probability, capacity=examples)


def calibrated(
    plan: Plan, examples: int, *, epsilon: float, delta: float, records_per_user: int = 1
) -> Mechanism:
    """What `train_dp` will do to `examples` rows for (epsilon, delta): no record is read for it."""
    sampling = sampling_of(plan, examples, records_per_user)
    asked = charge(plan, sampling, 1.0, records_per_user)
    return calibrate(epsilon, delta, mechanism=asked)


class Trainer:
    """A run that can be stepped, stored and resumed; `model` is trained in place.

    With `seed` the run repeats to the bit, and its guarantee is void. Raises `BudgetExhaustedError`
    beyond the planned steps, `UnsupportedError` where the first batch fails its check.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        *,
        losses: PerExampleLoss,
        noise_multiplier: float,
        plan: Plan,
        sampling: PoissonSampling,
        clipping: Clipping | None = None,
        augment: Transform | str | None = None,
        multiplicity: int = 1,
        records_per_user: int = 1,
        seed: int | None = None,
        tuner: Tuner | None = None,
    ) -> None:
        if len(inputs) != len(targets) or len(inputs) != sampling.examples:
            raise DataError(
                f"Expected one target for each of {sampling.examples} inputs, got "
                f"{len(inputs)} inputs and {len(targets)} targets."
            )
        self.inputs, self.targets, self.losses = inputs, targets, losses
        self.plan, self.sampling = plan, sampling
        self.mechanism = charge(plan, sampling, noise_multiplier, records_per_user)
        self.clipping: Clipping = clipping or Flat()
        self.views = Views(augment, multiplicity, key=(seed or 0) * 1_000_003)
        self.views.check(tuple(inputs.shape[1:]), inputs.dtype)
        self.seed, self.steps_done, self._checked = seed, 0, False
        self.words: Words = KeyStream() if seed is None else SeededWords(seed)
        self.noise: Noise = SecureNoise() if seed is None else SeededNoise(seed)
        self.model = model
        self.engine = Engine(model, tuner=tuner)
        self.optimiser = torch.optim.SGD(
            self.engine.parameters, lr=plan.learning_rate, momentum=plan.momentum
        )
        self.average = [p.detach().clone() for p in self.engine.parameters]

    def step(self) -> None:
        """One noisy clipped sum over a fresh Poisson sample, divided by the expected batch."""
        if self.steps_done >= self.plan.steps:
            raise BudgetExhaustedError(
                f"All steps={self.plan.steps} that the budget pays for are done. Plan more steps, "
                "which takes more noise."
            )
        self.model.train()
        with self._repeatable():
            votes = self._sum()
        clip_norm, share = self.clipping.clip_norm, 1 / self.plan.expected_batch
        multiplier = self.mechanism.noise_multiplier
        if isinstance(self.clipping, AdaptiveQuantile):
            multiplier = self.clipping.gradient_multiplier(multiplier)
        self.noise.add_to(
            self.engine.flat, sigma=multiplier * clip_norm * share, clip_norm=clip_norm * share
        )
        self.engine.assign()
        self.optimiser.step()
        if isinstance(self.clipping, AdaptiveQuantile):
            noisy = torch.tensor([votes])
            self.noise.add_to(noisy, sigma=self.clipping.vote_sigma, clip_norm=0.5)
            self.clipping.update(float(noisy))
        self.steps_done += 1
        self._move_average()

    def _sum(self) -> float:
        """Fill the engine's buffer with the clipped sum over the expected batch; the votes."""
        draw = self.sampling.draw(self.words)
        copies = self.views.multiplicity
        size = max(1, self.plan.chunk // copies)
        least = -(-self.sampling.capacity // size) if self.plan.constant_time else 0
        engine, votes = self.engine, 0.0
        engine.flat.zero_()
        for index, (rows, kept) in enumerate(draw.chunks(size, least=least)):
            picked, weights = torch.from_numpy(rows), torch.from_numpy(kept)
            x = self.views.of(self.inputs[picked], step=self.steps_done)
            y = self.targets[picked].repeat_interleave(copies, 0)
            if not self._checked:
                self._checked = True
                check_first_batch(
                    engine, lambda a, b: self.losses(self.model(a), b), (x, y), copies=copies
                )
            with engine.recording(len(x)):
                batch = engine.backward(self.losses(self.model(x), y), copies=copies)
            norms = batch.squared_norms(engine.groups(per_layer=self.clipping.per_layer))
            factors = self.clipping.factors(norms).mul_(weights).div_(self.plan.expected_batch)
            engine.fill(batch, factors if self.clipping.per_layer else factors[0], add=index > 0)
            if isinstance(self.clipping, AdaptiveQuantile):
                votes += self.clipping.votes(norms, weights)
        return votes

    @contextmanager
    def _repeatable(self) -> Iterator[None]:
        """In a seeded run, dropout and its like draw from a generator of this step's own."""
        if self.seed is None:
            yield
            return
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(self.seed * 1_000_003 + self.steps_done)
            yield

    def _move_average(self) -> None:
        # The first weights count little: Kingma and Ba 2015's correction, as a schedule.
        decay = min(self.plan.averaging, self.steps_done / (self.steps_done + 10))
        with torch.no_grad():
            for kept, now in zip(self.average, self.engine.parameters, strict=True):
                kept.lerp_(now, 1 - decay)

    def finished(self) -> nn.Module:
        """The model in evaluation mode: taps out, averaged weights in."""
        self.engine.detach()
        with torch.no_grad():
            for kept, now in zip(self.average, self.engine.parameters, strict=True):
                now.copy_(kept)
                now.grad = None
        return self.model.eval()

    def finish(self, delta: float) -> PrivatelyTrained:
        """The finished model and what it cost: that of the steps planned, done or not."""
        model = self.finished()
        spent = epsilon(self.mechanism, delta)
        return PrivatelyTrained(
            model=model,
            mechanism=self.mechanism,
            epsilon=spent,
            delta=delta,
            guarantee=self._guarantee(spent, delta) if self.seed is None else None,
        )

    def _guarantee(self, spent: float, delta: float) -> Guarantee:
        users = self.mechanism.records_per_user > 1
        return Guarantee(
            id="dp-sgd",
            pillar=Pillar.TRAINING_DATA,
            adversary=INSIDER,
            strength=DifferentialPrivacy(
                epsilon=spent,
                delta=delta,
                neighboring_relation="add or remove one",
                unit="user" if users else "record",
            ),
            mechanism="DP-SGD: Poisson sampling, per-example clipping, Gaussian noise",
            assumptions=(
                "the number of records, the plan and the network are public",
                "hyper-parameters were fixed before the data were looked at",
                "the central trainer is trusted; nobody sees how long a step takes",
                "AES-256 in counter mode is indistinguishable from random",
                "float64 Box-Muller noise on a grid stands for the real Gaussian",
            ),
            source="Abadi et al. 2016, Algorithm 1; privacy loss distributions by dp-accounting",
        )


def train_dp(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    losses: PerExampleLoss,
    epsilon: float,
    delta: float,
    plan: Plan | None = None,
    clipping: Clipping | None = None,
    augment: Transform | str | None = None,
    multiplicity: int = 1,
    records_per_user: int = 1,
    seed: int | None = None,
    progress: Progress | None = None,
) -> PrivatelyTrained:
    """A copy of `model`, trained on (`inputs`, `targets`) with (epsilon, delta)-privacy.

    `losses(outputs, targets)` gives one loss per example, shape (B,). The noise is calibrated to
    the plan's steps and sampling before any record is read. `records_per_user` above 1 makes the
    guarantee one for users: bound their contributions first (`sampling.bound_contributions`).
    `augment` ("flip", "shift", "flip and shift", or a transform: see `augmentation`) shows each
    record as `multiplicity` random views, whose mean gradient is clipped; the cost is the same.
    """
    plan = plan or Plan()
    mechanism = calibrated(
        plan, len(inputs), epsilon=epsilon, delta=delta, records_per_user=records_per_user
    )
    trainer = Trainer(
        copy.deepcopy(model),
        inputs,
        targets,
        losses=losses,
        noise_multiplier=mechanism.noise_multiplier,
        records_per_user=records_per_user,
        plan=plan,
        sampling=sampling_of(plan, len(inputs), records_per_user),
        clipping=clipping,
        augment=augment,
        multiplicity=multiplicity,
        seed=seed,
    )
    for index in range(plan.steps):
        trainer.step()
        if progress is not None:
            progress((index + 1) / plan.steps)
    return trainer.finish(delta)


def check_pairs(inputs: Tensor, targets: Tensor) -> None:
    """Raises `DataError` without a target for each input, or without any."""
    if len(inputs) != len(targets) or not len(inputs):
        raise DataError(
            f"Expected one target for each input and at least one, got inputs={len(inputs)}, "
            f"targets={len(targets)}."
        )


def default_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy for class labels, squared error for numbers; shape (B,)."""
    if targets.is_floating_point():
        return (outputs.view(targets.shape) - targets).square().view(len(targets), -1).mean(1)
    made: Any = nn.functional.cross_entropy(
        outputs.flatten(0, -2), targets.flatten(), reduction="none"
    )
    losses: Tensor = made.view(len(targets), -1).mean(1)
    return losses
