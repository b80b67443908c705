"""The best of several ways to train, released at a stated price: hyper-parameters paid for.

    reserve -> start -> draw a secret number of runs -> train and score each -> commit -> the best

Each run trains a candidate drawn at random; only the best leaves. `selection` says what that costs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reticent.errors import ConfigError, DataError
from reticent.guarantee import Adversary, DifferentialPrivacy, Guarantee, Pillar
from reticent.privacy.ledger import Ledger
from reticent.random import SecureRandom
from reticent.training.dp_sgd.augmentation import Transform, Views
from reticent.training.dp_sgd.charged import (
    CHARGED_ORDERS,
    RELATION,
    admitted,
    bounded,
    bounded_size,
    check_trainable,
    costs,
    reserve,
)
from reticent.training.dp_sgd.clipping import Clipping
from reticent.training.dp_sgd.noise import SecureNoise
from reticent.training.dp_sgd.selection import Runs, Selection, calibrate_selection
from reticent.training.dp_sgd.trainer import (
    PerExampleLoss,
    Plan,
    Trainer,
    charge,
    default_losses,
    sampling_of,
)

_SEES_THE_BEST = Adversary(
    name="insider of the best run",
    sees="the released model, its candidate and score, and every noisy gradient of its run",
    knows="every record but the one in question, the network and the candidates",
)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to train; `augment` and `multiplicity` as in `train_dp`.

    Steps and expected batch are the same for all candidates of a selection: one noise fits all.
    """

    plan: Plan
    clipping: Clipping | None = None
    augment: Transform | str | None = None
    multiplicity: int = 1


@dataclass(frozen=True, kw_only=True)
class NoisyAccuracy:
    """Score: how many of the records trained on are classified rightly, with noise.

    `noise` is the standard deviation in records; adding or removing one record moves the count by
    one at most. It is paid for like the training, and needs no records that are public.
    """

    noise: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.noise < math.inf:
            raise ConfigError(f"Expected 0 < noise < infinity, got noise={self.noise}.")

    def of(self, model: nn.Module, inputs: Tensor, targets: Tensor, chunk: int) -> float:
        """The noisy count over how many there are, which is public; targets (n,)."""
        with torch.no_grad():
            answers = torch.cat([model(x).argmax(-1) for x in inputs.split(chunk)])
        if answers.shape != targets.shape:
            raise DataError(
                f"Expected one answer per record, shape={tuple(targets.shape)}, got "
                f"shape={tuple(answers.shape)}. Score on public records."
            )
        right = int((answers == targets).sum())
        # Float64: a count must not be rounded to more than one apart before its noise.
        count = torch.tensor([float(right)], dtype=torch.float64)
        SecureNoise().add_to(count, sigma=self.noise, clip_norm=1.0)
        return float(count) / len(targets)


PublicScore = Callable[[nn.Module], float]
"""Higher is better; reads no private record, such as accuracy on public validation records."""


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The best model, in evaluation mode; which candidate it was, its score, and what it cost.

    How many runs there were isn't said: who knows it knows how much was given away. Where a Poisson
    number was zero, `candidate` and `score` are None and the model is the one that was given.
    """

    model: nn.Module
    candidate: int | None
    score: float | None
    selection: Selection
    epsilon: float
    delta: float
    guarantee: Guarantee
    dataset: str
    charge: str
    receipt: str
    charged_as: str


def train_selected(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    candidates: Sequence[Candidate],
    score: PublicScore | NoisyAccuracy,
    runs: Runs | None = None,
    epsilon: float,
    delta: float,
    ledger: Ledger,
    dataset: str,
    key: str,
    granted: Sequence[Sequence[str]] | None = None,
    users: NDArray[Any] | None = None,
    losses: PerExampleLoss = default_losses,
    analyst: str = "",
) -> Selected:
    """The best of a secret number of runs, (epsilon, delta)-private with the choice counted.

    Each run trains a copy of `model` by a candidate drawn uniformly; `score` ranks them. Records,
    users (one record each), ledger and key, and what is refused before anything is charged, are as
    in `train_charged`. Raises `ConfigError` also for candidates of different steps or expected
    batches, and where no noise keeps the claim; `UnsupportedError` for `constant_time`.
    """
    runs = runs or Runs()
    registered = admitted(
        inputs,
        targets,
        ledger=ledger,
        dataset=dataset,
        granted=granted,
        users=users,
        records_per_user=1,
    )
    check_trainable(model)
    for candidate in candidates:
        views = Views(candidate.augment, candidate.multiplicity)
        views.check(tuple(inputs.shape[1:]), inputs.dtype)
    if isinstance(score, NoisyAccuracy) and (targets.is_floating_point() or targets.dim() != 1):
        raise ConfigError(
            "Expected one class label per record for NoisyAccuracy, got targets of "
            f"shape={tuple(targets.shape)}, dtype={targets.dtype}. Score on public records."
        )
    size = len(inputs) if users is None else bounded_size(users, 1)
    selection = calibrate_selection(
        epsilon, delta, selection=_uncalibrated(candidates, score, runs, size)
    )
    charged, charged_as = reserve(
        ledger,
        registered.id,
        costs(selection.curve(CHARGED_ORDERS), epsilon, delta),
        key=key,
        analyst=analyst,
        event={
            "mechanism": "best of a random number of dp-sgd runs",
            "candidates": [repr(candidate) for candidate in candidates],
            "accounted": repr(selection),
        },
    )
    ledger.start(charged.id)
    inputs, targets = bounded(inputs, targets, users, 1)
    best = _best(model, inputs, targets, candidates, score, selection, losses)
    spent = selection.epsilon(delta)
    committed = ledger.commit(charged.id)
    return Selected(
        model=best.model,
        candidate=best.candidate,
        score=best.score,
        selection=selection,
        epsilon=spent,
        delta=delta,
        guarantee=_guarantee(spent, delta, "record" if users is None else "user"),
        dataset=registered.id,
        charge=committed.id,
        receipt=str(committed.receipt),
        charged_as=charged_as,
    )


def _uncalibrated(
    candidates: Sequence[Candidate], score: PublicScore | NoisyAccuracy, runs: Runs, size: int
) -> Selection:
    plans = [candidate.plan for candidate in candidates]
    if not plans or len({(plan.steps, plan.expected_batch) for plan in plans}) > 1:
        raise ConfigError(
            "Expected candidates that share steps and expected_batch, since one noise pays for "
            f"all, got {[(plan.steps, plan.expected_batch) for plan in plans]}."
        )
    mechanisms = {charge(plan, sampling_of(plan, size), 1.0) for plan in plans}
    # Cut batches have no Renyi analysis: one such candidate is enough to be refused.
    mechanism = max(mechanisms, key=lambda made: made.capacity is not None)
    noise = score.noise if isinstance(score, NoisyAccuracy) else None
    return Selection(mechanism=mechanism, runs=runs, score_noise=noise)


@dataclass(frozen=True)
class _Run:
    model: nn.Module
    candidate: int | None = None
    score: float | None = None


def _best(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    candidates: Sequence[Candidate],
    score: PublicScore | NoisyAccuracy,
    selection: Selection,
    losses: PerExampleLoss,
) -> _Run:
    """The theorem's algorithm: independent runs of one mechanism, the greatest score kept.

    Of equal scores the first stays. The runs are exchangeable, so this is as good as a coin.
    """
    source = SecureRandom()
    best = _Run(copy.deepcopy(model).eval())
    for _ in range(selection.runs.draw(source)):
        index = int(source.integers(len(candidates), (1,))[0])
        chosen = candidates[index]
        trainer = Trainer(
            copy.deepcopy(model),
            inputs,
            targets,
            losses=losses,
            noise_multiplier=selection.mechanism.noise_multiplier,
            plan=chosen.plan,
            sampling=sampling_of(chosen.plan, len(inputs)),
            # A rule that moves its bound must not carry it from one run to the next.
            clipping=copy.deepcopy(chosen.clipping),
            augment=chosen.augment,
            multiplicity=chosen.multiplicity,
        )
        for _ in range(chosen.plan.steps):
            trainer.step()
        made = trainer.finished()
        found = (
            score.of(made, inputs, targets, chosen.plan.chunk)
            if isinstance(score, NoisyAccuracy)
            else float(score(made))
        )
        found = -math.inf if math.isnan(found) else found
        if best.score is None or found > best.score:
            best = _Run(made, index, found)
    return best


def _guarantee(spent: float, delta: float, unit: str) -> Guarantee:
    return Guarantee(
        id="dp-sgd-selection",
        pillar=Pillar.TRAINING_DATA,
        adversary=_SEES_THE_BEST,
        strength=DifferentialPrivacy(
            epsilon=spent, delta=delta, neighboring_relation=RELATION, unit=unit
        ),
        mechanism="best of a secret random number of DP-SGD runs",
        assumptions=(
            "the number of records, the candidates and the network are public",
            "the other runs, their number and how long they took stay secret",
            "a public score reads no private record",
            "the central trainer is trusted",
            "AES-256 in counter mode is indistinguishable from random",
            "float64 Box-Muller noise on a grid stands for the real Gaussian",
        ),
        source="Papernot and Steinke 2022, Theorems 2 and 6; Renyi divergences by dp-accounting",
    )
