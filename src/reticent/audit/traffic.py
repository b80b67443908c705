"""Traffic judged: what an observer of lengths and times guesses beyond chance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.finding import Finding
from reticent.attacks.traffic import GUESSERS, Traffic, mutual_information, symbols
from reticent.audit.statistics import bootstrap_balanced
from reticent.errors import DataError
from reticent.guarantee import Pillar
from reticent.random import seeded

ATTACK = "traffic analysis"
METRIC = "balanced accuracy"
OBSERVER = "network observer"
"""Sees sizes and times of encrypted exchanges, and nothing inside them."""
_PERMUTATIONS = 200
_FEWEST = 40
Progress = Callable[[str], None]


def audit_traffic(
    traffic: Traffic,
    classes: NDArray[np.int64],
    *,
    target: str = "answer",
    users: NDArray[np.int64] | None = None,
    adversary: str = OBSERVER,
    pillar: Pillar = Pillar.INPUT,
    permutations: int = _PERMUTATIONS,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Finding, ...]:
    """One finding: how well `classes` (n,) are guessed from `traffic`, in balanced accuracy.

    Floor is 1 / (number of classes). A third of the exchanges trains the observers, a third
    chooses one, the last third judges it; with `users`, whole users are dealt and resampled.
    Where all exchanges look alike the excess is exactly 0: nothing to test. Ceiling and positive
    control is the same traffic with replies of one length per class; the negative control
    permutes the classes. Details hold the mutual information in nats with its permutation p-value.
    Raises `DataError` for fewer than 40 exchanges or one class.
    """
    values, codes = np.unique(classes, return_inverse=True)
    codes = codes.reshape(-1).astype(np.int64)
    if classes.shape != (len(traffic),) or len(traffic) < _FEWEST or len(values) < 2:
        raise DataError(
            f"Expected classes of shape ({len(traffic)},), {_FEWEST} exchanges or more, and two "
            f"classes, got shape={classes.shape}, classes={len(values)}."
        )
    if progress is not None:
        progress(f"traffic: {target} from {len(traffic)} exchanges")
    parts = _deal(len(traffic), users, seed)
    floor = 1.0 / len(values)
    information = _information(traffic, codes, permutations, seed)
    if traffic.is_constant:
        return (
            Finding(
                attack=ATTACK,
                pillar=pillar,
                adversary=adversary,
                target=target,
                metric=METRIC,
                value=floor,
                ci=(floor, floor),
                floor=floor,
                excess=0.0,
                excess_ci=(0.0, 0.0),
                n=len(traffic),
                details={"all exchanges look alike": True, "mutual information": information},
            ),
        )
    units = np.arange(len(traffic)) if users is None else users
    chosen, hits = _attack(traffic, codes, parts, seed)
    test = parts[2]
    both = np.stack([hits, np.full(len(hits), floor)], axis=1).astype(float)
    judged = bootstrap_balanced(both, codes[test], units[test], seed=seed)
    excess, excess_ci = judged.difference(0, 1)
    loud = int(traffic.reply.max()) + codes
    marked = Traffic(request=traffic.request, reply=loud, seconds=traffic.seconds)
    _family, found = _attack(marked, codes, parts, seed)
    shuffled = seeded(seed, 342).permutation(codes)
    _family, null = _attack(traffic, shuffled, parts, seed)
    plain = bootstrap_balanced(
        null[:, None].astype(float), shuffled[test], np.arange(len(test)), seed=seed
    )
    ceiling = _recall(found, codes[test])
    return (
        Finding(
            attack=ATTACK,
            pillar=pillar,
            adversary=adversary,
            target=target,
            metric=METRIC,
            value=float(judged.values[0]),
            ci=judged.interval(0),
            floor=floor,
            excess=excess,
            excess_ci=excess_ci,
            n=len(test),
            ceiling=ceiling,
            details={
                "chosen observer": chosen,
                "all exchanges look alike": False,
                "distinct request sizes": len(np.unique(traffic.request)),
                "distinct reply sizes": len(np.unique(traffic.reply)),
                "mutual information": information,
                "positive control": {
                    "traffic": "replies of one length per class",
                    "value": ceiling,
                    "passed": ceiling > floor + 0.5 * (1 - floor),
                },
                "negative control": {
                    "traffic": "classes permuted",
                    "value": float(plain.values[0]),
                    "passed": plain.interval(0)[0] <= floor,
                },
            },
        ),
    )


def _attack(
    traffic: Traffic,
    codes: NDArray[np.int64],
    parts: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    seed: int,
) -> tuple[str, NDArray[np.bool_]]:
    """The observer that does best on the second part, and its hits on the third."""
    train, validation, test = parts
    own = traffic.take(train)
    best, name, hits = -1.0, "", np.zeros(len(test), dtype=np.bool_)
    both = traffic.take(np.concatenate([validation, test]))
    for family, guess in GUESSERS.items():
        guesses = guess(own, codes[train], both, seed)
        if guesses is None:
            continue
        score = _recall(guesses[: len(validation)] == codes[validation], codes[validation])
        if score > best:
            best, name = score, family
            hits = guesses[len(validation) :] == codes[test]
    return name, hits


def _recall(hits: NDArray[np.bool_], codes: NDArray[np.int64]) -> float:
    return float(np.mean([hits[codes == value].mean() for value in np.unique(codes)]))


def _deal(
    count: int, users: NDArray[np.int64] | None, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Three parts of the rows; whole users where there are any."""
    rng = seeded(seed, 341)
    if users is None:
        order = rng.permutation(count)
        first, second, third = np.array_split(order, 3)
        return first, second, third
    owner = np.unique(users, return_inverse=True)[1].reshape(-1)
    if int(owner.max()) < 5:
        raise DataError(f"Expected 6 users or more, got {int(owner.max()) + 1}.")
    place = rng.permutation(int(owner.max()) + 1)[owner] % 3
    return np.flatnonzero(place == 0), np.flatnonzero(place == 1), np.flatnonzero(place == 2)


def _information(
    traffic: Traffic, codes: NDArray[np.int64], permutations: int, seed: int
) -> dict[str, float]:
    """Mutual information beyond that of permuted classes, in nats, and the permutation p-value."""
    if traffic.is_constant:
        return {"nats": 0.0, "of permuted classes": 0.0, "beyond permuted": 0.0, "p-value": 1.0}
    seen = symbols(traffic)
    measured = mutual_information(seen, codes)
    rng = seeded(seed, 343)
    null = np.array([mutual_information(seen, rng.permutation(codes)) for _ in range(permutations)])
    return {
        "nats": measured,
        "of permuted classes": float(null.mean()),
        "beyond permuted": measured - float(null.mean()),
        "p-value": float((1 + (null >= measured - 1e-12).sum()) / (1 + permutations)),
    }
