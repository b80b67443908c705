"""Property inference judged: how often the share of a group in the training set is told right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.finding import Finding
from reticent.attacks.property_inference.attack import SPEC, FittedProperty, fit_property
from reticent.attacks.property_inference.shadows import Models, property_masks, train
from reticent.attacks.property_inference.signatures import read_layers
from reticent.attacks.spec import Access, Labelled
from reticent.attacks.target import Victim
from reticent.audit.risk import wilson
from reticent.errors import ConfigError
from reticent.guarantee import CLIENT, Pillar
from reticent.random import seeded

ATTACK = SPEC.name
INSIDER = "insider"
"""Whoever holds the weights."""
Progress = Callable[[str], None]


def audit_property(
    victim: Victim,
    pool: Labelled,
    group: NDArray[np.bool_],
    *,
    name: str = "group",
    shares: Sequence[float] = (0.3, 0.7),
    truth: int | None = None,
    access: Access = Access.SHADOW,
    shadows: int = 64,
    targets: int = 32,
    probes: int = 200,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Finding, ...]:
    """One finding: the share of target models whose hypothesis is told right; floor 1 / H.

    Hypotheses are the `shares` that `group` (n,) may have in the training set. The pool is cut in
    two: `shadows` models per hypothesis train on the adversary's half, `targets` ones on the
    other, all as the victim's recipe says. One victim is one decision, so the share is that of
    the targets; what the attack says of the victim itself stands in the details (`truth` is its
    hypothesis, where known). `access` is shadow (answers) or weights level.

    Positive control, also the ceiling: the same attack with the hypothesis written into an answer.
    Negative control: meta-classifiers taught hypotheses that were dealt evenly. Raises
    `DataError` for a pool without enough rows of each kind.
    """
    if access not in (Access.SHADOW, Access.WEIGHTS):
        raise ConfigError(f"Expected access at shadow or weights level, got access={access}.")
    if truth is not None and not 0 <= truth < len(shares):
        raise ConfigError(f"Expected truth in 0..{len(shares) - 1}, got truth={truth}.")
    handle = victim.at_weights() if access is Access.WEIGHTS else victim.at_shadow()
    recipe, architecture = handle.recipe, handle.architecture
    rng = seeded(seed, 381)
    own = rng.permutation(len(pool)) < len(pool) // 2
    asked = pool.x[rng.permutation(np.flatnonzero(own))[:probes]]
    sides: list[tuple[Models, NDArray[np.int64]]] = []
    for number, (rows, count) in enumerate(((own, shadows), (~own, targets)), 1):
        if progress is not None:
            progress(f"property inference: {len(shares) * count} models, part {number} of 2")
        masks, hypotheses = property_masks(
            group, shares, count=count, size=recipe.size, allowed=rows, seed=seed + number
        )
        models = train(
            architecture,
            recipe,
            pool,
            masks,
            asked,
            classes=victim.classes,
            weights=access is Access.WEIGHTS,
            seed=seed + number,
        )
        sides.append((models, hypotheses))
    (known, labels), (judged, right) = sides
    fitted = fit_property(known, labels, hypotheses=len(shares), seed=seed)
    hits = fitted.score(judged).argmax(axis=1) == right
    loud = _fit_and_hit(_planted(known, labels), labels, _planted(judged, right), right, seed)
    null = _fit_and_hit(known, _uninformed(labels, rng), judged, right, seed)
    value, ci = wilson(float(hits.sum()), len(hits))
    ceiling, ceiling_ci = wilson(float(loud.sum()), len(loud))
    blank, blank_ci = wilson(float(null.sum()), len(null), confidence=0.99)
    floor = 1.0 / len(shares)
    details: dict[str, Any] = {
        "level": str(access),
        "shares": list(shares),
        "shadow models": len(labels),
        "training records a model": recipe.size,
        "chosen meta-classifier": fitted.chosen,
        "validation loss in nats": dict(fitted.validation),
        "victim": _of_victim(victim, fitted, asked, access, truth),
        "positive control": {
            "models": "with the hypothesis written into an answer",
            "value": ceiling,
            "passed": ceiling_ci[0] > floor + 0.5 * (1 - floor),
        },
        "negative control": {
            "models": "meta-classifier taught hypotheses dealt evenly",
            "value": blank,
            "passed": blank_ci[0] <= floor,
        },
    }
    return (
        Finding(
            attack=ATTACK,
            pillar=Pillar.TRAINING_DATA,
            adversary=INSIDER if access is Access.WEIGHTS else CLIENT.name,
            target=f"share of {name}: {' or '.join(f'{share:g}' for share in shares)}",
            metric="accuracy",
            value=value,
            ci=ci,
            floor=floor,
            excess=value - floor,
            excess_ci=(ci[0] - floor, ci[1] - floor),
            n=len(hits),
            ceiling=ceiling,
            details=details,
        ),
    )


def _fit_and_hit(
    known: Models,
    labels: NDArray[np.int64],
    judged: Models,
    right: NDArray[np.int64],
    seed: int,
) -> NDArray[np.bool_]:
    fitted = fit_property(known, labels, hypotheses=int(right.max()) + 1, seed=seed)
    return np.asarray(fitted.score(judged).argmax(axis=1) == right)


def _uninformed(labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Hypotheses dealt evenly within each true one: a plain permutation is a little informed."""
    made = np.empty_like(labels)
    for value in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == value))
        made[rows] = (np.arange(len(rows)) + value) % (int(labels.max()) + 1)
    return made


def _planted(models: Models, truth: NDArray[np.int64]) -> Models:
    """Answers in which every tenth probe is certain of a class that says the hypothesis.

    Weights are left out: the plant is in the answers.
    """
    answers = models.answers.copy()
    sure = np.linspace(-6.0, -0.01, int(truth.max()) + 1)[truth][:, None]
    answers[:, ::10, 0] = sure
    answers[:, ::10, 1] = np.log(-np.expm1(sure))
    return Models(answers=answers)


def _of_victim(
    victim: Victim,
    fitted: FittedProperty,
    probes: NDArray[np.float32],
    access: Access,
    truth: int | None,
) -> dict[str, Any]:
    layers = read_layers(victim.module) if access is Access.WEIGHTS else None
    answers = victim.at_scores().predict_scores(probes)[None]
    scores = fitted.score(Models(answers=answers, layers=layers))[0]
    told: dict[str, Any] = {"posterior": [float(p) for p in np.exp(scores)]}
    if truth is not None:
        told["right"] = bool(scores.argmax() == truth)
    return told
