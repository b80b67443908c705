"""Every hardening method on one stage: the frontier of utility, leakage and client cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reticent.audit.frontier import Point
from reticent.data.answers import METRICS
from reticent.errors import ConfigError, GateError, UnsupportedError
from reticent.inference.split.harden import candidate_cuts
from reticent.inference.split.methods import METHODS
from reticent.pipeline.attack import measured_point
from reticent.pipeline.recipe import Recipe
from reticent.pipeline.stage import Report, Stage, by_regime, prepare
from reticent.pipeline.tasks import load_task
from reticent.pipeline.tuning import tuned


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Points of one task, and the undefended utility they are measured against.

    `choices` says in words which cuts and strengths were chosen automatically, and why.
    """

    title: str
    metric: str
    baseline: float
    points: tuple[Point, ...]
    refused: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "title": self.title,
            "metric": self.metric,
            "baseline": self.baseline,
            "points": [point.to_json() for point in self.points],
            "refused": list(self.refused),
            "choices": list(self.choices),
        }


def compare(
    recipe: Recipe,
    methods: Sequence[str] | None,
    *,
    report: Report,
    baseline_tuned: bool = True,
) -> Comparison:
    """Harden, attack and place each of `methods` ("method" or "method@cut"; all by default).

    Codes and certified noise run at the recipe's cut; baselines that send features at the last
    cut, where they are at their best, unless a cut is given, and at the strength that `tuned`
    chooses for them (their defaults without `baseline_tuned`).
    """
    if recipe.train.private is not None:
        raise UnsupportedError(
            "Never: every method to compare reads the training records again, without privacy. "
            "Remove [train.private], or run the recipe: the scorecard shows it beside a twin "
            "trained without privacy."
        )
    task = load_task(recipe)
    regime, names = next(iter(by_regime(recipe, task).items()))
    stage = prepare(recipe, task, regime, report=report)
    points: list[Point] = []
    refused: list[str] = []
    choices: list[str] = []
    for entry in methods or tuple(METHODS):
        method, _, cut = entry.partition("@")
        if method in METHODS and METHODS[method].needs_private and not task.private:
            refused.append(f"{method}: needs private labels")
            continue
        report(f"harden with {entry}")
        where = cut or _default_cut(stage, method)
        if baseline_tuned and METHODS[method].grid and method != recipe.inference.method:
            hardened = tuned(
                recipe,
                stage,
                method,
                cut=where,
                names=names,
                report=report,
                most=_most(recipe),
            )
        else:
            own = method == recipe.inference.method
            try:
                hardened = stage.harden(
                    recipe,
                    method=method,
                    cut=where,
                    codes=None,
                    retrain=None,
                    options=dict(recipe.inference.options) if own else {},
                )
            except (GateError, UnsupportedError) as error:
                if methods:
                    raise
                # Not every network can be sealed; the others are compared all the same.
                refused.append(f"{method}: {str(error).splitlines()[0]}")
                continue
        choices += hardened.choices
        points.append(measured_point(recipe, stage, hardened, names=names, report=report))
    if not points:
        raise ConfigError("No method was left to compare.")
    return Comparison(
        title=task.title,
        metric=METRICS[task.kind],
        baseline=float(stage.test_outcomes().mean()),
        points=tuple(points),
        refused=tuple(refused),
        choices=tuple(choices),
    )


def _default_cut(stage: Stage, method: str) -> str:
    if not METHODS[method].baseline:
        return "auto"
    return candidate_cuts(stage.model, stage.records("train"))[-1].name


def _most(recipe: Recipe) -> float:
    limit = recipe.gates.max_utility_loss
    return 0.01 if limit is None else limit
