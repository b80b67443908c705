"""DP-SGD audited from inside, in one run: does it keep its epsilon, and is it what it says it is?

    result = audit_training(run, model=network, inputs=x, targets=y, losses=losses, delta=1e-5)
    result.verdict, result.epsilon_lower, result.reason

`run` makes the trainer under audit, which is not changed: canaries come in as records, and the
released gradients are read where they enter the optimiser. The verdict falls at one family-wise
confidence over everything that is tested.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from reticent.attacks.finding import Finding
from reticent.audit.epsilon import METRIC
from reticent.audit.scorecard import Status
from reticent.audit.white_box_bounds import (
    Bound,
    drawn_bound,
    guess_bound,
    insider_bound,
    sampled,
)
from reticent.audit.white_box_canaries import PULL, Declared, Make, Steps, watch
from reticent.audit.white_box_checks import Check, checks
from reticent.errors import ConfigError
from reticent.guarantee import DifferentialPrivacy, Guarantee, Pillar
from reticent.training.dp_sgd.accountant import Mechanism, epsilon
from reticent.training.dp_sgd.augmentation import NAMED, Transform
from reticent.training.dp_sgd.clipping import Clipping
from reticent.training.dp_sgd.sampling import PoissonSampling
from reticent.training.dp_sgd.trainer import INSIDER, PerExampleLoss, Plan, Trainer

CONFIDENCE = 0.99
# Shares of the error: half for the bounds, half for the mechanism's properties.
_DRAWN, _INSIDER, _GUESSES, _CHECKS = 0.4, 0.05, 0.05, 0.5
_NO_DELTA = "Expected delta where there is no claim, got delta=None."
_SOURCES = {
    "drawn": "Nasr et al. 2023, section 4, with the noise's scale and the draws observed",
    "insider": "Nasr et al. 2023, section 4, with the noise's scale observed",
    "guesses": "Steinke et al. 2023, theorem 5.2; Mahloujifar et al. 2024, algorithm 3",
}
_ASSUMES = {
    "drawn": "Gaussian noise of one scale, Poisson sampling at the declared rate; both tested",
    "insider": "Gaussian noise of one scale, Poisson sampling at the declared rate; both tested",
    "guesses": "nothing but the auditor's coins",
}


@dataclass(frozen=True, kw_only=True)
class WhiteBoxResult:
    """What a white-box audit says about a claim.

    `epsilon_lower` is the greatest of `bounds`, at `confidence` over all bounds and checks.
    `power` is the greatest epsilon that a run with three quarters of its noise would show.
    `broken` names the properties of the mechanism that the run doesn't have.
    """

    epsilon_lower: float
    confidence: float
    canaries: int
    claim: Guarantee
    verdict: Status
    reason: str
    power: float
    bounds: tuple[Bound, ...]
    checks: tuple[Check, ...]
    broken: tuple[str, ...]

    @property
    def contradicts(self) -> str | None:
        """The claim's id where it is violated."""
        return self.claim.id if self.verdict is Status.VIOLATED else None

    def findings(self) -> tuple[Finding, ...]:
        """One finding per bound; the first carries the checks, and the contradiction if any."""
        return tuple(_finding(self, bound) for bound in self.bounds)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "epsilon_lower": self.epsilon_lower,
            "confidence": self.confidence,
            "canaries": self.canaries,
            "claim": self.claim.to_json(),
            "verdict": self.verdict.value,
            "reason": self.reason,
            "power": self.power,
            "bounds": [
                {
                    "name": bound.name,
                    "epsilon": bound.epsilon,
                    "power": bound.power,
                    "error": bound.error,
                    "n": bound.n,
                    "assumes": _ASSUMES[bound.name],
                    "source": _SOURCES[bound.name],
                }
                for bound in self.bounds
            ],
            "checks": _told(self.checks),
            "broken": list(self.broken),
        }


def audit_training(
    make: Make,
    *,
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    losses: PerExampleLoss,
    delta: float | None = None,
    claim: Guarantee | None = None,
    declared: Declared | None = None,
    canaries: int = 1000,
    spare: int = 2000,
    pull: float = PULL,
    confidence: float = CONFIDENCE,
    seed: int,
) -> WhiteBoxResult:
    """Run `make`'s trainer on (`inputs`, `targets`) with canaries among them, and judge it.

    `make(model, inputs, targets, losses)` makes the run from a model, records and a loss that have
    the canaries in them: an object with an `optimiser` and a `step()`, such as `Trainer`. It must
    draw each of the records it gets with the declared probability. `declared` is read from a
    `Trainer`; other runs must state it. `claim` is the guarantee judged, by default what the
    accountant says of the declared mechanism at `delta`. `seed` is that of the auditor's coins.
    `pull` is the length of the canaries' gradients before clipping: far above the clip norm, and
    within what the run's arithmetic can hold.

    Violated: a bound lies above the claim, or the run lacks a property of the mechanism that the
    claim is about. A run that keeps both is violated with probability 1 - `confidence` at most.
    Raises `UnsupportedError` for clip norms that move, user-level claims, and batches that aren't
    Poisson samples.
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"Expected 0 < confidence < 1, got confidence={confidence}.")
    if claim is not None:
        _strength(claim, delta)
    elif delta is None:
        raise ConfigError(_NO_DELTA)
    sight, declared = watch(
        make,
        copy.deepcopy(model),
        inputs,
        targets,
        losses,
        canaries=canaries,
        spare=spare,
        declared=declared,
        pull=pull,
        seed=seed,
    )
    sampled(declared)
    claim = claim or accounted(declared.mechanism, delta)
    strength = _strength(claim, delta)
    error = 1 - confidence
    found = checks(sight, declared)
    broken = tuple(c.name for c in found if c.p_value <= _CHECKS * error / len(found))
    bounds = (
        drawn_bound(sight, declared, delta=strength.delta, error=_DRAWN * error),
        insider_bound(sight, declared, delta=strength.delta, error=_INSIDER * error),
        guess_bound(sight, declared, delta=strength.delta, error=_GUESSES * error),
    )
    lower = max(bound.epsilon for bound in bounds)
    shown = max(bound.power for bound in bounds if bound.ratio is not None)
    verdict, reason = _judge(lower, strength.epsilon, shown, [c for c in found if c.name in broken])
    return WhiteBoxResult(
        epsilon_lower=lower,
        confidence=confidence,
        canaries=canaries,
        claim=claim,
        verdict=verdict,
        reason=reason,
        power=shown,
        bounds=bounds,
        checks=found,
        broken=broken,
    )


def private_run(
    *,
    noise_multiplier: float,
    plan: Plan,
    probability: float,
    clipping: Clipping | None = None,
    augment: Transform | str | None = None,
    multiplicity: int = 1,
    shape: tuple[int, ...] = (),
    seed: int | None = None,
) -> Make:
    """The package's own `Trainer`, for `audit_training`: each record drawn with `probability`.

    `shape` is a record's, which `augment` needs: the audit hands out flat, numbered records.
    Without `seed` noise and draws come from the secure generators, as in a run for people.
    """
    rate = max(1, round(probability * 2**32)) / 2**32

    def make(model: nn.Module, inputs: Tensor, targets: Tensor, losses: PerExampleLoss) -> Steps:
        return Trainer(
            model,
            inputs,
            targets,
            losses=losses,
            noise_multiplier=noise_multiplier,
            plan=plan,
            sampling=PoissonSampling(examples=len(inputs), probability=rate, capacity=len(inputs)),
            clipping=clipping,
            augment=None if augment is None else _of_numbered(augment, shape),
            multiplicity=multiplicity,
            seed=seed,
        )

    return make


def _of_numbered(augment: Transform | str, shape: tuple[int, ...]) -> Transform:
    """`augment` behind a record's number: (K, 1 + d) to the same, the numbers unchanged."""
    transform = NAMED[augment] if isinstance(augment, str) else augment

    def views(copies: Tensor) -> Tensor:
        values = transform(copies[:, 1:].reshape(-1, *shape))
        return torch.cat([copies[:, :1], values.flatten(1)], dim=1)

    return views


def accounted(mechanism: Mechanism, delta: float | None) -> Guarantee:
    """What the accountant says of `mechanism` at `delta`, as a claim."""
    if delta is None:
        raise ConfigError(_NO_DELTA)
    return Guarantee(
        id="dp-sgd",
        pillar=Pillar.TRAINING_DATA,
        adversary=INSIDER,
        strength=DifferentialPrivacy(
            epsilon=epsilon(mechanism, delta),
            delta=delta,
            neighboring_relation="add or remove one",
            unit="record",
        ),
        mechanism="DP-SGD: Poisson sampling, per-example clipping, Gaussian noise",
        assumptions=(),
        source="privacy loss distributions by dp-accounting",
    )


def _strength(claim: Guarantee, delta: float | None) -> DifferentialPrivacy:
    strength = claim.strength
    if not isinstance(strength, DifferentialPrivacy) or not strength.delta > 0:
        raise ConfigError(
            "Expected a claim of differential privacy with delta > 0, got "
            f"strength={strength} in guarantee {claim.id!r}."
        )
    if delta is not None and delta != strength.delta:
        raise ConfigError(f"Expected the claim's delta={strength.delta}, got delta={delta}.")
    return strength


def _judge(lower: float, claimed: float, shown: float, failed: list[Check]) -> tuple[Status, str]:
    reasons = []
    if lower > claimed:
        reasons.append(f"shown: epsilon >= {lower:.3g}, claimed: {claimed:.3g}")
    reasons += [f"not the mechanism claimed: {check.name} ({check.says})" for check in failed]
    if reasons:
        return Status.VIOLATED, "; ".join(reasons)
    if shown <= claimed:
        return (
            Status.INCONCLUSIVE,
            f"three quarters of the noise would show epsilon >= {shown:.3g} only, claimed: "
            f"{claimed:.3g}. Use more canaries or more steps",
        )
    return (
        Status.CONSISTENT,
        f"shown: epsilon >= {lower:.3g}, claimed: {claimed:.3g}; three quarters of the noise "
        f"would show {shown:.3g}",
    )


def _finding(result: WhiteBoxResult, bound: Bound) -> Finding:
    first = bound is result.bounds[0]
    strength = _strength(result.claim, None)
    over = bound.epsilon > strength.epsilon
    top = max(bound.epsilon, bound.power)
    return Finding(
        attack=f"white-box audit ({bound.name})",
        pillar=result.claim.pillar,
        adversary=result.claim.adversary.name,
        target="training run",
        metric=METRIC,
        value=bound.epsilon,
        ci=(bound.epsilon, top),
        floor=0.0,
        excess=bound.epsilon,
        excess_ci=(bound.epsilon, top),
        n=result.canaries,
        contradicts=result.claim.id if over or (first and result.contradicts) else None,
        details={
            "tests": result.claim.id,
            "status": result.verdict.value,
            "claimed_epsilon": strength.epsilon,
            "delta": strength.delta,
            "epsilon_lower_bound": bound.epsilon,
            "max_epsilon": bound.power,
            "confidence": result.confidence,
            "assumes": _ASSUMES[bound.name],
            "source": _SOURCES[bound.name],
            "reason": result.reason,
            **({"checks": _told(result.checks), "broken": list(result.broken)} if first else {}),
        },
    )


def _told(found: tuple[Check, ...]) -> list[dict[str, Any]]:
    return [{"name": c.name, "p_value": c.p_value, "says": c.says} for c in found]
