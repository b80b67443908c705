"""Baselines at their best: each tried at a few stated strengths, chosen on the defender's data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reticent.audit.attribute import audit_attributes
from reticent.audit.views import protected_view
from reticent.data.answers import outcomes
from reticent.data.loss import UtilityLoss, utility_loss
from reticent.inference.split.harden import Hardened
from reticent.inference.split.methods import METHODS
from reticent.pipeline.recipe import Recipe
from reticent.pipeline.stage import Report, Stage


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One strength of a baseline: what it loses and leaks on the defender's validation part."""

    hardened: Hardened
    lost: UtilityLoss
    leak: float


def tuned(
    recipe: Recipe,
    stage: Stage,
    method: str,
    *,
    cut: str,
    names: Sequence[str],
    report: Report,
    most: float = 0.01,
) -> Hardened:
    """`method` at the strength of its grid that leaks least without losing more than `most`.

    Each strength of `METHODS[method].grid` is hardened on the defender's training part. Its loss
    is the paired one on the validation part, and a strength is set aside where that part shows
    with 95 % confidence that it loses more; where all do, the one that loses least is taken. Its
    leak is the largest excess over `names` of a linear attacker that trains on the defender's
    training part and is tested on the validation part: a defender who knows which attribute will
    be attacked, so the choice favours the baseline. The attacker's parts and the test part are
    never read. A method without a grid is hardened as it is.
    """
    grid = METHODS[method].grid or ({},)
    if len(grid) == 1:
        return _made(recipe, stage, method, cut, grid[0])
    trials = [
        _trial(stage, _made(recipe, stage, method, cut, options), names, recipe.seed)
        for options in grid
    ]
    kept = [trial for trial in trials if not trial.lost.exceeds(most)]
    if kept:
        best = min(kept, key=lambda trial: trial.leak)
    else:
        best = min(trials, key=lambda trial: trial.lost.loss)
    said = "; ".join(
        f"{_words(trial.hardened)} loses {trial.lost.loss:.3f}, leaks {trial.leak:.3f}"
        for trial in trials
    )
    choice = f"{method}: {_words(best.hardened)}, on {best.lost.n} validation records ({said})"
    report(choice)
    return replace(best.hardened, choices=(*best.hardened.choices, choice))


def _made(
    recipe: Recipe, stage: Stage, method: str, cut: str, options: Mapping[str, Any]
) -> Hardened:
    return stage.harden(
        recipe, method=method, cut=cut, codes=None, retrain=None, options=dict(options)
    )


def _trial(stage: Stage, hardened: Hardened, names: Sequence[str], seed: int) -> Trial:
    held_out, kind = stage.records("validation"), stage.task.kind
    lost = utility_loss(
        outcomes(kind, stage.outputs("validation"), held_out.public),
        outcomes(kind, hardened.halves.predict(held_out.x, seed=seed), held_out.public),
        clusters=held_out.users,
    )
    own = replace(
        stage.partition,
        attacker_train=stage.partition.train,
        attacker_validation=stage.partition.validation,
        test=stage.partition.validation,
    )
    view = protected_view(hardened.halves, stage.task, own, name=hardened.label, seed=seed)
    found = audit_attributes(
        view, attributes=names, requests=(1,), seeds=(seed,), families=("linear",)
    )
    return Trial(hardened=hardened, lost=lost, leak=float(np.max([item.excess for item in found])))


def _words(hardened: Hardened) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in hardened.options.items())
