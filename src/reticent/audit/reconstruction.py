"""Reconstruction judged: rebuilt inputs against the truth, as a finding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.finding import Finding
from reticent.attacks.reconstruction.features import (
    FLOOR,
    ReconstructionScores,
    attack_reconstruction,
)
from reticent.attacks.view import ServerView
from reticent.audit.similarity import psnr, ssim
from reticent.audit.statistics import bootstrap_ratio
from reticent.guarantee import SERVER, Guarantee, InformationBound, Pillar

ATTACK = "reconstruction"
METRIC = "explained variance beyond the class mean"
_EXAMPLES = 8


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Example test `inputs` (e, ...) beside the best attack's `best` (e, ...) and the `floor`.

    `rows` (e,) are their places in the test part.
    """

    rows: NDArray[np.int64]
    inputs: NDArray[np.float32]
    best: NDArray[np.float32]
    floor: NDArray[np.float32]
    method: str


def audit_reconstruction(
    view: ServerView,
    *,
    undefended: ServerView | Finding | None = None,
    seeds: Sequence[int] = (0,),
    guarantees: tuple[Guarantee, ...] = (),
    quick: bool = False,
    like: Reconstruction | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Finding, Reconstruction]:
    """The reconstruction finding and example reconstructions of the first seed.

    Examples are those of `like` where this attack rebuilt them too, for comparison side by side.

    Value: 1 - (squared error of the attack chosen on validation) / (squared error of the mean
    input per predicted label); 0 is no better than that class mean, and the floor is 0. Interval:
    bootstrap over users (records where there are none) of the ratio, errors averaged over seeds.
    Information bounds speak of attributes, not of squared error, so they aren't tested here,
    except those that allow no excess at all.
    """
    ceiling = None
    if isinstance(undefended, ServerView):
        ceiling = audit_reconstruction(undefended, seeds=seeds, quick=quick, progress=progress)[
            0
        ].value
    elif undefended is not None:
        ceiling = undefended.value
    attacks = []
    for seed in seeds:
        if progress is not None:
            progress(f"{view.name}: {ATTACK}, seed {seed}")
        attacks.append(attack_reconstruction(view, seed=seed, quick=quick))
    errors, floors, rows = (
        np.concatenate(parts)
        for parts in zip(*[_errors(scores, scores.chosen, view) for scores in attacks], strict=True)
    )
    users = view.test.users
    owners = rows if users is None else users[rows]
    bootstrap = bootstrap_ratio(np.stack([errors, floors], axis=1), floors, owners)
    # Column 1 is the constant 1: the class mean against itself.
    value, ci = bootstrap.difference(1, 0)
    finding = Finding(
        attack=ATTACK,
        pillar=Pillar.INPUT,
        adversary=SERVER.name,
        target="input",
        metric=METRIC,
        value=value,
        ci=ci,
        floor=0.0,
        excess=value,
        excess_ci=ci,
        n=len(np.unique(rows)),
        seeds=len(attacks),
        ceiling=ceiling,
        details=_details(attacks, view),
    ).against(tuple(claim for claim in guarantees if _testable(claim)))
    return finding, _examples(attacks[0], view, like)


def _testable(claim: Guarantee) -> bool:
    return not isinstance(claim.strength, InformationBound) or claim.allowed_excess() == 0


def _errors(
    scores: ReconstructionScores, method: str, view: ServerView
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Squared errors per record of the method and of the floor, and the test rows."""
    rows = scores.rows[method]
    truth = view.test.inputs[rows].astype(np.float64).reshape(len(rows), -1)
    mine = scores.inputs[method].reshape(len(rows), -1)
    floor = scores.floor[rows].reshape(len(rows), -1)
    return ((mine - truth) ** 2).sum(axis=1), ((floor - truth) ** 2).sum(axis=1), rows


def _details(attacks: Sequence[ReconstructionScores], view: ServerView) -> dict[str, Any]:
    spread = float(np.ptp(view.attacker_train.inputs))
    by_method: dict[str, dict[str, float]] = {}
    for method in attacks[0].inputs:
        rows = attacks[0].rows[method]
        truth, guess = view.test.inputs[rows], attacks[0].inputs[method]
        ratios = []
        for scores in attacks:
            errors, floors, _rows = _errors(scores, method, view)
            ratios.append(errors.sum() / max(floors.sum(), 1e-300))
        peak = psnr(guess, truth, data_range=spread)
        found = {
            "squared error / class mean's": float(np.mean(ratios)),
            "PSNR": float(np.minimum(peak, 100.0).mean()),
            "n": float(len(rows)),
        }
        if truth.ndim == 4:
            found["SSIM"] = float(ssim(guess, truth, data_range=spread).mean())
        by_method[method] = found
    return {
        "chosen method by seed": [scores.chosen for scores in attacks],
        "methods": by_method,
        "validation": dict(attacks[0].validation),
        "validation on the white-box subsample": dict(attacks[0].trials),
        "interval": "bootstrap over " + ("records" if view.test.users is None else "users"),
    }


def _examples(
    scores: ReconstructionScores, view: ServerView, like: Reconstruction | None
) -> Reconstruction:
    """Up to eight test records: those of `like`, else spread over the predicted labels."""
    rows = scores.rows[scores.chosen]
    if like is not None:
        place = {int(row): index for index, row in enumerate(rows)}
        picked = np.asarray([place[int(row)] for row in like.rows if int(row) in place], np.int64)
    else:
        predicted = view.test.predicted[rows]
        rank = np.zeros(len(rows), dtype=np.int64)
        for label in np.unique(predicted):
            mine = np.flatnonzero(predicted == label)
            rank[mine] = np.arange(len(mine))
        picked = np.lexsort((predicted, rank))[:_EXAMPLES]
    return Reconstruction(
        rows=rows[picked],
        inputs=view.test.inputs[rows[picked]],
        best=scores.inputs[scores.chosen][picked],
        floor=scores.floor[rows[picked]],
        method=scores.chosen if scores.chosen != FLOOR else f"{FLOOR} (nothing did better)",
    )
