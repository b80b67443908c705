"""Memorisation judged: canaries that were planted against canaries that never were."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from reticent.attacks.finding import Finding, Interval
from reticent.attacks.memorisation.canaries import Canary
from reticent.attacks.memorisation.exposure import (
    CHANCE_BITS,
    EXACT_LIMIT,
    Exposure,
    measure_exposures,
    memorisation_chance,
)
from reticent.attacks.memorisation.search import ROWS, Model
from reticent.errors import ConfigError, DataError
from reticent.guarantee import CLIENT, Pillar

ATTACK = "canary exposure"
METRIC = "exposure (bits)"
LEAST = 10
_SURPRISE = 1e-3

Progress = Callable[[str], None]


def audit_memorisation(
    model: Model,
    canaries: Sequence[Canary],
    controls: Sequence[Canary],
    *,
    undefended: Model | None = None,
    target: str = "a secret in a training record",
    limit: int = EXACT_LIMIT,
    samples: int = 10_000,
    seed: int = 0,
    rows: int = ROWS,
    progress: Progress | None = None,
) -> tuple[Finding, ...]:
    """One finding: mean exposure in bits of `canaries`, which the model was trained on.

    `controls` are canaries of the same format, drawn in the same way and never trained on; their
    mean exposure is the floor, which is 1/ln 2 = 1.44 bits whatever the model prefers, since
    their secrets are uniform. Their ranks are tested against that: where they can't be uniform
    (p < .001), they were trained on or not drawn at random, and the audit is refused. Intervals:
    t over canaries, Welch's for the excess. Ceiling: the same canaries on `undefended`, a twin
    trained on them without protection, or else what a model that knows a secret by heart would
    show, log2 |R|.

    The details hold every exposure, how it was found, and two p-values of no memorisation:
    Fisher's, from planted canaries alone, and a one-sided Mann-Whitney rank test against the
    controls. Means rest partly on fitted tails where "extrapolated" is not 0; p-values never do.
    Raises `ConfigError` for fewer than ten canaries or controls: a single exposure has a standard
    deviation of 1.44 bits without any memorisation.
    """
    for name, given in (("canaries", canaries), ("controls", controls)):
        if len(given) < LEAST:
            raise ConfigError(
                f"Expected {LEAST} {name} or more, got {len(given)}. One exposure varies by two "
                "bits by luck alone."
            )
    shared = set(canaries) & set(controls)
    if shared:
        raise DataError(
            f"Expected controls that were never planted, got {len(shared)} that are canaries too."
        )

    def measure(asked: Model, some: Sequence[Canary], what: str) -> tuple[Exposure, ...]:
        if progress is not None:
            progress(f"{ATTACK}: {len(some)} {what}")
        return measure_exposures(asked, some, limit=limit, samples=samples, seed=seed, rows=rows)

    unseen = measure(model, controls, "controls")
    # Ranks of uniform secrets are uniform; half a rank makes discrete ranks continuous enough.
    places = [2.0 ** (math.log2(found.rank - 0.5) - found.log2_space) for found in unseen]
    uniform = float(stats.kstest(places, "uniform").pvalue)
    if uniform < _SURPRISE and not _all_tied(unseen):
        raise DataError(
            f"Expected controls whose ranks are uniform, got p={uniform:.2g}. Draw their secrets "
            "at random, and keep them out of training."
        )
    planted = measure(model, canaries, "canaries")
    bits = np.array([found.bits for found in planted])
    floor_bits = np.array([found.bits for found in unseen])
    largest = float(np.mean([found.log2_space for found in planted]))
    ceiling = largest
    if undefended is not None:
        open_bits = [found.bits for found in measure(undefended, canaries, "on the twin")]
        ceiling = float(np.mean(open_bits))
    details: dict[str, Any] = {
        "exposures": bits.tolist(),
        "control_exposures": floor_bits.tolist(),
        "log2_space": largest,
        "expected without memorisation": CHANCE_BITS,
        "found whole": int(sum(found.rank == 1 and found.method == "exact" for found in planted)),
        "extrapolated": int(sum(found.method == "extrapolated" for found in planted)),
        "method": sorted({found.method for found in (*planted, *unseen)}),
        "goodness of fit": min(
            (found.goodness for found in planted if found.goodness is not None), default=None
        ),
        "p of no memorisation": memorisation_chance(planted),
        "p of no memorisation, against controls": float(
            stats.mannwhitneyu(bits, floor_bits, alternative="greater").pvalue
        ),
        "p of uniform controls": uniform,
        "ceiling": "undefended twin" if undefended is not None else "log2 of the space",
        "interval": "t over canaries",
    }
    excess, excess_ci = _welch(bits, floor_bits)
    finding = Finding(
        attack=ATTACK,
        pillar=Pillar.TRAINING_DATA,
        adversary=CLIENT.name,
        target=target,
        metric=METRIC,
        value=float(bits.mean()),
        ci=_welch(bits, np.zeros(2))[1],
        floor=float(floor_bits.mean()),
        excess=excess,
        excess_ci=excess_ci,
        n=len(bits),
        ceiling=ceiling,
        details=details,
    )
    return (finding,)


def _welch(first: np.ndarray[Any, Any], second: np.ndarray[Any, Any]) -> tuple[float, Interval]:
    """The difference of two means with its 95 % interval (Welch 1947)."""
    value = float(first.mean() - second.mean())
    terms = [part.var(ddof=1) / len(part) for part in (first, second)]
    error = math.sqrt(sum(terms))
    if error == 0:
        return value, (value, value)
    freedom = sum(terms) ** 2 / sum(
        term**2 / (len(part) - 1) for term, part in zip(terms, (first, second), strict=True)
    )
    reach = float(stats.t.ppf(0.975, freedom)) * error
    return value, (value - reach, value + reach)


def _all_tied(found: Sequence[Exposure]) -> bool:
    """Whether the model prefers no secret to another, so that every rank is the middle one."""
    return all(exposure.tied > 0.5 * 2.0**exposure.log2_space for exposure in found)
