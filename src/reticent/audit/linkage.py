"""Linkage judged: how many people an adversary finds again, in ratings and in tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.finding import Finding, Interval
from reticent.attacks.linkage.ratings import Ratings
from reticent.attacks.linkage.records import class_sizes, exact_links, nearest_links
from reticent.attacks.linkage.scoreboard import ECCENTRICITY, Scoreboard
from reticent.attacks.release.table import Columns, rows_of, take
from reticent.audit.risk import wilson
from reticent.errors import ConfigError, DataError
from reticent.guarantee import Pillar
from reticent.random import seeded

RATINGS = "linkage of ratings"
RECORDS = "linkage by quasi-identifiers"
DISCLOSURE = "attribute disclosure by linkage"
READER = "client"
_LINEUP = 10
Progress = Callable[[str], None]


def glimpse(
    original: Ratings,
    users: NDArray[np.int64],
    *,
    known: int,
    wrong: int = 0,
    day_error: int = 14,
    seed: int = 0,
) -> Ratings:
    """What an acquaintance knows of each of `users`: `known` ratings, `wrong` of them false.

    A true one is the rating as given, its day off by up to `day_error` either way. A false one is
    an item that the user did not rate, with another person's rating and day. Users with fewer
    ratings are known by all they have. The adversary is told nothing else.
    """
    rng = seeded(seed, 321)
    owners, items, values, days = [], [], [], []
    for place, user in enumerate(users):
        span = np.arange(original.starts[user], original.starts[user + 1])
        rows = rng.permutation(span)[: max(1, known - wrong)]
        picked = list(original.items[rows])
        entries = list(rows)
        while len(picked) < min(known, len(rows) + wrong):
            other = int(rng.integers(len(original.items)))
            if original.items[other] not in original.items[span] and (
                original.items[other] not in picked
            ):
                picked.append(original.items[other])
                entries.append(other)
        owners += [place] * len(picked)
        items += picked
        values += list(original.values[entries])
        if original.days is not None:
            off = rng.integers(-day_error, day_error + 1, size=len(entries))
            days += list(original.days[entries] + off)
    return Ratings.of_triplets(
        np.array(owners),
        np.array(items),
        np.array(values),
        np.array(days) if original.days is not None else None,
        count=len(users),
        width=original.width,
    )


def audit_linkage(
    released: Ratings,
    original: Ratings,
    truth: NDArray[np.int64],
    *,
    known: int = 8,
    wrong: int = 2,
    day_error: int = 14,
    threshold: float = ECCENTRICITY,
    targets: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Finding, ...]:
    """One finding: the share of people whom an acquaintance links to their own released row.

    `truth` (users of `original`,) is each one's row in `released`, -1 where there is none. Value
    counts links that are right and claimed (eccentricity at least `threshold`), floor is a blind
    guess among released users, ceiling the same attack on the original itself. In the details:
    right links without a threshold and in a line-up of ten, claimed links that are wrong, and
    (negative control) links claimed when the targets' own rows are taken out first: all false.
    Raises `DataError` where nobody of the original is in the release, `ConfigError` for
    `known` <= `wrong`.
    """
    if not 0 <= wrong < known or targets < 1:
        raise ConfigError(f"Expected 0 <= wrong < known and targets >= 1, got {wrong=}, {known=}.")
    if truth.shape != (len(original),) or truth.max(initial=-1) >= len(released):
        raise DataError(
            f"Expected truth of shape ({len(original)},) with rows below {len(released)}, got "
            f"shape={truth.shape}, largest={truth.max(initial=-1)}."
        )
    present = np.flatnonzero((truth >= 0) & (np.diff(original.starts) > 0))
    if len(present) == 0:
        raise DataError("Expected people of the original in the release, got truth=-1 for all.")
    chosen = seeded(seed, 322).permutation(present)[:targets]
    aux = glimpse(original, chosen, known=known, wrong=wrong, day_error=day_error, seed=seed)
    if progress is not None:
        progress(f"linkage: {len(chosen)} people among {len(released)}")
    links = Scoreboard(released).match(aux, lineup=_LINEUP)
    own = truth[chosen]
    claimed = links.accepted(threshold)
    right = links.candidates[:, 0] == own
    value, ci = wilson(float((right & claimed).sum()), len(chosen))
    twin = Scoreboard(original).match(aux)
    found = (twin.candidates[:, 0] == chosen) & twin.accepted(threshold)
    others = np.setdiff1d(np.arange(len(released)), own)
    false, false_ci = _without(released, others, aux, threshold)
    floor = 1.0 / len(released)
    return (
        _finding(
            attack=RATINGS,
            target=f"{known} ratings, {wrong} of them wrong",
            metric="share linked",
            value=value,
            ci=ci,
            floor=floor,
            n=len(chosen),
            ceiling=float(found.mean()),
            details={
                "released users": len(released),
                "threshold": threshold,
                "right without threshold": float(right.mean()),
                f"right among {links.candidates.shape[1]}": float(
                    (links.candidates == own[:, None]).any(axis=1).mean()
                ),
                "claimed and wrong": float((claimed & ~right).mean()),
                "positive control": {
                    "release": "the original itself",
                    "passed": float(found.mean()) > 10 * floor,
                },
                "negative control": {
                    "release": "without the targets' rows",
                    "claimed": false,
                    "claimed_ci": list(false_ci),
                },
            },
        ),
    )


def _without(
    released: Ratings, others: NDArray[np.int64], aux: Ratings, threshold: float
) -> tuple[float, Interval]:
    if len(others) < 2:
        return 0.0, (0.0, 1.0)
    claims = Scoreboard(released.take(others)).match(aux).accepted(threshold)
    return wilson(float(claims.sum()), len(claims))


def audit_record_linkage(
    release: Columns,
    register: Columns,
    truth: NDArray[np.int64],
    *,
    quasi_identifiers: Sequence[str],
    secret: str | None = None,
    generalise: Callable[[Columns], Columns] | None = None,
    undefended: Columns | None = None,
    people: int = 5_000,
    seed: int = 0,
) -> tuple[Finding, ...]:
    """Findings on a table that a register of names can be joined to.

    `truth` (t,) is the release row of each person in the register (-1: not released); at most
    `people` of the released ones are tried. The adversary applies the release's public recoding
    `generalise` to the register, then joins on `quasi_identifiers`: exactly (a person is found
    with probability 1 / candidates) and by the nearest row; the better of the two for the release
    as a whole is chosen on one half of the people and judged on the other. `undefended` is the
    table before it was recoded, for the ceiling.

    With `secret`, a second finding: the most frequent secret among a person's candidates against
    the most frequent one of the release. What a class tells about all its kind is in it;
    `audit_released_table` takes that off with a control group.
    """
    size = rows_of(release, quasi_identifiers)
    count = rows_of(register, quasi_identifiers)
    if truth.shape != (count,) or truth.max(initial=-1) >= size or count < 4:
        raise DataError(
            f"Expected truth of shape ({count},) with rows below {size}, and 4 people or more, "
            f"got shape={truth.shape}."
        )
    rng = seeded(seed, 331)
    there = np.flatnonzero(truth >= 0)
    if len(there) < 4:
        raise DataError(f"Expected 4 released people or more, got {len(there)}.")
    chosen_people = rng.permutation(there)[: max(4, people)]
    half = len(chosen_people) // 2
    own = truth[chosen_people]
    asked = take(register, chosen_people)
    seen = asked if generalise is None else generalise(asked)
    ways = {
        "exact": _exact_hits(release, seen, own, quasi_identifiers),
        "nearest": (nearest_links(release, seen, quasi_identifiers, rng=rng) == own).astype(float),
    }
    chosen = max(ways, key=lambda way: float(ways[way][:half].mean()))
    value, ci = wilson(float(ways[chosen][half:].sum()), len(own) - half)
    mixed = {name: rng.permutation(np.asarray(release[name])) for name in quasi_identifiers}
    null = _exact_hits(mixed, seen, own, quasi_identifiers)
    ceiling = None
    if undefended is not None:
        ceiling = float(_exact_hits(undefended, asked, own, quasi_identifiers)[half:].mean())
    sizes = class_sizes(release, quasi_identifiers)
    made = [
        _finding(
            attack=RECORDS,
            target=", ".join(quasi_identifiers),
            metric="share linked",
            value=value,
            ci=ci,
            floor=1.0 / size,
            n=len(own) - half,
            ceiling=ceiling,
            details={
                "chosen": chosen,
                "share linked by way": {way: float(hits.mean()) for way, hits in ways.items()},
                "released rows": size,
                "smallest class": int(sizes.min()),
                "unique rows": float((sizes == 1).mean()),
                "rows in classes below 5": float((sizes < 5).mean()),
                "negative control": {
                    "release": "each column permuted",
                    "share linked": float(null.mean()),
                },
            },
        )
    ]
    if secret is not None:
        made.append(_disclosure(release, seen, own, quasi_identifiers, secret))
    return tuple(made)


def _exact_hits(
    release: Columns, register: Columns, own: NDArray[np.int64], names: Sequence[str]
) -> NDArray[np.float64]:
    """The probability (t,) that a row drawn from a person's candidates is the person's own."""
    links = exact_links(release, register, names)
    inside = links.released[own] == links.targets
    return np.where(inside, 1.0 / np.maximum(links.candidates, 1), 0.0)


def _disclosure(
    release: Columns,
    register: Columns,
    own: NDArray[np.int64],
    names: Sequence[str],
    secret: str,
) -> Finding:
    """How often the commonest secret of a person's class is the person's own."""
    links = exact_links(release, register, names)
    values, codes = np.unique(np.asarray(release[secret]), return_inverse=True)
    table = np.zeros((int(max(links.released.max(), links.targets.max())) + 1, len(values)))
    np.add.at(table, (links.released, codes), 1.0)
    common = int(np.bincount(codes).argmax())
    counts = table[links.targets]
    guesses = np.where(counts.sum(axis=1) > 0, counts.argmax(axis=1), common)
    truth = codes[own]
    hits, blind = guesses == truth, truth == common
    value, ci = wilson(float(hits.sum()), len(own))
    differ = hits.astype(float) - blind
    half = 1.96 * max(float(differ.std()), 1 / len(own)) / np.sqrt(len(own))
    excess = float(differ.mean())
    homogeneous = (counts.max(axis=1) == counts.sum(axis=1)) & (counts.sum(axis=1) > 0)
    return Finding(
        attack=DISCLOSURE,
        pillar=Pillar.TRAINING_DATA,
        adversary=READER,
        target=secret,
        metric="accuracy",
        value=value,
        ci=ci,
        floor=float(blind.mean()),
        excess=excess,
        excess_ci=(excess - half, excess + half),
        n=len(own),
        details={"people in classes of one secret": float(homogeneous.mean())},
    )


def _finding(
    *,
    attack: str,
    target: str,
    metric: str,
    value: float,
    ci: Interval,
    floor: float,
    n: int,
    ceiling: float | None,
    details: dict[str, Any],
) -> Finding:
    return Finding(
        attack=attack,
        pillar=Pillar.TRAINING_DATA,
        adversary=READER,
        target=target,
        metric=metric,
        value=value,
        ci=ci,
        floor=floor,
        excess=value - floor,
        excess_ci=(ci[0] - floor, ci[1] - floor),
        n=n,
        ceiling=ceiling,
        details=details,
    )
