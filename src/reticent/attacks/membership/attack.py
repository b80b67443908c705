"""The membership attacks in the suite's two steps: fit on what the adversary knows, then score.

fitted = ShadowAttack().fit(victim.at_shadow(), Shadows(bank=bank, pool=pool), seed=0)
scores = fitted.score(victim.at_shadow(), rows)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.membership.battery import LEARNED, SPEC, Battery, prepare
from reticent.attacks.membership.label_only import boundary_distances, gap_scores, noise_scores
from reticent.attacks.membership.scorers import SCORERS, statement
from reticent.attacks.membership.screens import quantile_scores
from reticent.attacks.membership.signals import References, Signals, log_confidence
from reticent.attacks.shadow.bank import ShadowBank
from reticent.attacks.spec import Access, AttackSpec, Labelled, Scores
from reticent.attacks.target import LabelTarget, ScoreTarget, ShadowTarget
from reticent.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class Shadows:
    """What an adversary with shadow models has: their bank, and the records they were asked about.

    `pool` are the candidates, `population` records that no model trained on; both in the bank's
    order. Raises `DataError` where they aren't the bank's.
    """

    bank: ShadowBank
    pool: Labelled
    population: Labelled | None = None

    def __post_init__(self) -> None:
        parts = [self.pool.y] if self.population is None else [self.pool.y, self.population.y]
        if len(self.pool) != self.bank.pool or not np.array_equal(
            np.concatenate(parts), self.bank.y
        ):
            raise DataError(
                f"Expected the bank's {self.bank.pool} pool and {self.bank.population} population "
                f"records in its order, got {[len(part) for part in parts]} with other labels."
            )

    def signals(self, target: ScoreTarget) -> Signals:
        """The target's signals; pool and population are asked about once each."""
        answers = [target.predict_scores(self.pool.x)]
        if self.population is not None:
            answers.append(target.predict_scores(self.population.x))
        return Signals.of_answers(np.concatenate(answers), self.bank.y, pool=len(self.pool))


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedShadowAttack:
    """One scorer with its references; it scores rows (m,) of the pool."""

    shadows: Shadows
    battery: Battery
    scorer: str

    def score(self, target: ShadowTarget, candidates: NDArray[np.int64]) -> Scores:
        """Scores (m,), higher for likelier members. The whole pool is asked about."""
        return self.battery.score(self.shadows.signals(target), self.scorer)[candidates]


@dataclass(frozen=True, kw_only=True)
class ShadowAttack:
    """A scorer with shadow models; without `scorer` the battery chooses on shadow targets."""

    scorer: str | None = None

    def __post_init__(self) -> None:
        if self.scorer not in (None, LEARNED, *SCORERS):
            raise ConfigError(
                f"Expected a scorer among {[*SCORERS, LEARNED]}, got scorer={self.scorer!r}."
            )

    @property
    def spec(self) -> AttackSpec:
        """What stands on the label."""
        scorer = SCORERS.get(self.scorer or "")
        return SPEC if scorer is None else scorer.spec

    def fit(self, target: ShadowTarget, auxiliary: Shadows, *, seed: int) -> FittedShadowAttack:
        """The scorer ready for use. Nothing is asked of the target yet.

        Raises `ConfigError` for a bank of another recipe than the target's.
        """
        if auxiliary.bank.recipe != target.recipe:
            raise ConfigError(
                "Expected shadow models trained by the target's recipe: others measure another "
                f"model's leak. Got {auxiliary.bank.recipe} and {target.recipe}."
            )
        names = None if self.scorer is None else (self.scorer,)
        battery = prepare(References.of_bank(auxiliary.bank), seed=seed, names=names)
        return FittedShadowAttack(
            shadows=auxiliary, battery=battery, scorer=self.scorer or battery.chosen
        )


@dataclass(frozen=True, kw_only=True)
class LabelAttack:
    """An attack from predicted classes alone: "gap", "noise" or "boundary". It needs no fit."""

    kind: str
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _LABEL_ATTACKS:
            raise ConfigError(f"Expected kind among {list(_LABEL_ATTACKS)}, got {self.kind!r}.")

    @property
    def spec(self) -> AttackSpec:
        """What stands on the label."""
        return _LABEL_ATTACKS[self.kind][0]

    def fit(self, target: LabelTarget, auxiliary: None = None, *, seed: int) -> LabelAttack:
        """This attack with `seed` for its noise."""
        return LabelAttack(kind=self.kind, seed=seed)

    def score(self, target: LabelTarget, candidates: Labelled) -> Scores:
        """Scores (n,) of the candidates."""
        return _LABEL_ATTACKS[self.kind][1](target, candidates, self.seed)


@dataclass(frozen=True, kw_only=True)
class LossAttack:
    """The loss as a score (Yeom et al. 2018, section 3.2). It needs no fit."""

    spec: AttackSpec = field(
        default=statement("loss", Access.SCORES, "nothing", "Yeom et al. 2018, section 3.2")
    )

    def fit(self, target: ScoreTarget, auxiliary: None = None, *, seed: int) -> LossAttack:
        """This attack."""
        return self

    def score(self, target: ScoreTarget, candidates: Labelled) -> Scores:
        """The log-probability of each candidate's label, (n,)."""
        return log_confidence(target.predict_scores(candidates.x), candidates.y)


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantileAttack:
    """The margin against what non-members that look alike get (Bertran et al. 2023)."""

    population: Labelled | None = None
    seed: int = 0

    @property
    def spec(self) -> AttackSpec:
        """What stands on the label."""
        return statement(
            "quantile",
            Access.SCORES,
            "records like the members that were not trained on",
            "Bertran et al. 2023, section 3",
        )

    def fit(self, target: ScoreTarget, auxiliary: Labelled, *, seed: int) -> QuantileAttack:
        """This attack with `auxiliary` as the known non-members."""
        return QuantileAttack(population=auxiliary, seed=seed)

    def score(self, target: ScoreTarget, candidates: Labelled) -> Scores:
        """How far each candidate's margin lies above its like, (n,)."""
        if self.population is None:
            raise ConfigError("Expected a fitted attack; call fit(target, population) first.")
        asked = np.concatenate([candidates.x, self.population.x])
        y = np.concatenate([candidates.y, self.population.y])
        signals = Signals.of_answers(target.predict_scores(asked), y, pool=len(candidates))
        return quantile_scores(signals, candidates, self.population, seed=self.seed)


_Score = Callable[[LabelTarget, Labelled, int], Scores]
_LABEL_ATTACKS: Mapping[str, tuple[AttackSpec, _Score]] = {
    "gap": (
        statement("label gap", Access.LABEL, "nothing", "Yeom et al. 2018, section 3.2"),
        lambda target, records, _seed: gap_scores(target, records),
    ),
    "noise": (
        statement(
            "noise robustness", Access.LABEL, "nothing", "Choquette-Choo et al. 2021, section 3.3"
        ),
        lambda target, records, seed: noise_scores(target, records, seed=seed),
    ),
    "boundary": (
        statement("boundary distance", Access.LABEL, "nothing", "Chen et al. 2020, Algorithm 2"),
        lambda target, records, seed: boundary_distances(target, records, seed=seed),
    ),
}
