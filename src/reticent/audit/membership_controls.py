"""Controls of the membership audit: it must find members that are known, and none by chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from reticent.attacks.membership.battery import Battery, prepare
from reticent.attacks.membership.signals import References
from reticent.attacks.shadow.bank import ShadowBank
from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.spec import Labelled
from reticent.attacks.target import Victim
from reticent.audit.epsilon import Confusion
from reticent.audit.membership_figures import transferred_threshold
from reticent.audit.rates import AcrossTargets, Roc, roc
from reticent.errors import DataError

_TWINS = 8
_LONGER = 3
_ERROR = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class PositiveControl:
    """The same attack on models without protection: `scores` and `truth` (k, n) of k targets.

    `twins` says whether they are overfit twins trained for this purpose, or the shadow targets.
    """

    scores: NDArray[np.float64]
    truth: NDArray[np.bool_]
    twins: bool

    @property
    def curves(self) -> tuple[Roc, ...]:
        """One curve per target."""
        return tuple(roc(s, t) for s, t in zip(self.scores, self.truth, strict=True))

    @property
    def passed(self) -> bool:
        """Whether the attack finds members above chance over the targets."""
        return bool(len(self.scores)) and AcrossTargets(curves=self.curves).auc.ci[0] > 0.5

    def confusion(self, *, delta: float) -> Confusion:
        """The decisions on the target of median strength, the threshold fixed on all others."""
        curves, made = self.curves, []
        for place, (scores, truth) in enumerate(zip(self.scores, self.truth, strict=True)):
            threshold = transferred_threshold(
                (*curves[:place], *curves[place + 1 :]),
                members=curves[place].members,
                non_members=curves[place].non_members,
                delta=delta,
            )
            made.append(Confusion.at(scores, truth, threshold))
        bounds = [each.epsilon_lower_bound(delta=delta) for each in made]
        return made[int(np.argsort(bounds)[len(bounds) // 2])]

    def details(self) -> dict[str, Any]:
        """What a finding keeps of this, ready for JSON."""
        if not len(self.scores):
            return {"passed": False, "targets": 0}
        spread = AcrossTargets(curves=self.curves).auc
        return {
            "passed": self.passed,
            "targets": spread.targets,
            "overfit_twins": self.twins,
            "auc": spread.mean,
            "auc_ci": list(spread.ci),
        }


def positive_control(
    battery: Battery,
    victim: Victim,
    bank: ShadowBank,
    records: Labelled,
    population: Labelled | None,
    *,
    seed: int,
    say: Callable[[str], None] = lambda _text: None,
) -> PositiveControl:
    """The battery on shadow targets; on overfit twins where the recipe protects or nothing leaks.

    A twin trains by the same recipe without clipping, noise and weight decay, and three times as
    long; twins are references for one another. An estimator has no such twin.
    """
    trials = battery.trials[battery.chosen]
    shadow = PositiveControl(scores=trials, truth=battery.truth, twins=False)
    if (bank.recipe.clip_norm is None and shadow.passed) or isinstance(
        victim.blank(), BaseEstimator
    ):
        return shadow
    say(f"membership: training {_TWINS + 1} overfit twins as a positive control")
    twins = ShadowBank.train(
        victim.blank(),
        overfit(bank.recipe),
        records,
        population=population,
        count=_TWINS + 1,
        seed=seed + 1,
    )
    found = prepare(References.of_bank(twins), seed=seed, names=(battery.chosen,))
    return PositiveControl(scores=found.trials[found.chosen], truth=found.truth, twins=True)


def overfit(recipe: TrainingRecipe) -> TrainingRecipe:
    """The recipe without protection or restraint."""
    return replace(
        recipe,
        clip_norm=None,
        noise_multiplier=0.0,
        weight_decay=0.0,
        epochs=_LONGER * recipe.epochs,
        keep="last",
        held_out=0,
    )


def negative_control(battery: Battery, member: NDArray[np.bool_]) -> dict[str, float]:
    """The attack on shadow targets judged by the audited model's truth, of which they know nothing.

    Raises `DataError` where any target's AUC interval, at a family error of 1 in 1,000, excludes
    one half: then the scores tell the two sides apart without the model.
    """
    trials = battery.trials[battery.chosen]
    if not len(trials):
        return {}
    areas = []
    for scores in trials:
        curve = roc(scores, member)
        low, high = curve.auc_interval(confidence=1 - _ERROR / len(trials))
        areas.append(curve.auc)
        if not low <= 0.5 <= high:
            raise DataError(
                f"Expected AUC 0.5 on a model that was trained independently of the members, got "
                f"{curve.auc:.3f} ({low:.3f} to {high:.3f}): something besides the model tells "
                "members from non-members. Draw both at random from one population."
            )
    return {"auc": float(np.mean(areas)), "least": float(min(areas)), "most": float(max(areas))}
