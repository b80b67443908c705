"""Training records rebuilt, judged: from gradients, from the model file, by an informed insider.

Every finding is a share of records; the floor is what the same guesses reach against the wrong
records, the ceiling what the same attack reaches where nothing protects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from reticent.attacks.finding import Finding
from reticent.attacks.reconstruction.gradient_matching import GradientMatching
from reticent.attacks.reconstruction.gradients import (
    FullyConnectedInversion,
    Gradients,
    Rebuilt,
    Update,
    entry_layer,
)
from reticent.attacks.reconstruction.informed import InformedReconstruction
from reticent.attacks.reconstruction.stored_records import Kind, Stored, StoredRecords
from reticent.attacks.spec import Labelled
from reticent.attacks.target import Victim
from reticent.audit.rebuilt import (
    Prior,
    chance,
    closeness,
    independent_excess,
    pair,
    rebuilt,
    share_finding,
)
from reticent.audit.reconstruction import Reconstruction
from reticent.audit.statistics import clopper_pearson
from reticent.errors import ConfigError, DataError
from reticent.guarantee import SERVER, Pillar
from reticent.random import seeded

INSIDER = "insider"
Share = Callable[[Gradients, np.random.Generator], Gradients]
"""What a client does to its gradient before it leaves: noise, clipping, pruning."""
Keep = Callable[[Reconstruction], None]
_EXAMPLES = 8


def audit_gradients(
    victim: Victim,
    records: Labelled,
    *,
    public: Labelled,
    seed: int = 0,
    batch: int = 1,
    share: Share | None = None,
    attacks: Sequence[FullyConnectedInversion | GradientMatching] | None = None,
    keep: Keep | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Finding, ...]:
    """One finding per attack: the share of `records` that a server rebuilds from their gradients.

    Each client's update is the gradient of `batch` records, after `share`. The ceiling is the
    same attack on updates that nothing protects: where that fails too, the finding says nothing
    about `share`, and its details say so under "power". `public` is what the server has anyway.
    `attacks` default to the exact inversion where the first layer allows it, and to both searches.
    `keep` gets pictures for the report. Raises `DataError` where fewer than `batch` records came,
    or public ones are among them.
    """
    if batch < 1 or len(records) < batch:
        raise DataError(f"Expected batch from 1 to {len(records)} records, got batch={batch}.")
    prior = Prior.of(public)
    count = len(records) // batch * batch
    truth = records.take(np.arange(count))
    reach = prior.reach(truth.x)
    source = victim.at_internals()
    clear = [
        Update(gradients=source.gradients(truth.x[rows], truth.y[rows]), batch=batch)
        for rows in np.arange(count).reshape(-1, batch)
    ]
    sent = clear
    if share is not None:
        rng = seeded(seed, 149)
        sent = [Update(gradients=share(one.gradients, rng), batch=batch) for one in clear]
    chosen = _applicable(victim) if attacks is None else tuple(attacks)
    found = []
    for attack in chosen:
        name = attack.spec.name
        if isinstance(attack, GradientMatching):
            name = f"{name}, {attack.objective}"
        if progress is not None:
            progress(f"{name}: {len(sent)} updates of {batch}")
        guesses = _rebuild(attack, victim, sent, truth, seed)
        open_guesses = guesses if share is None else _rebuild(attack, victim, clear, truth, seed)
        hits = rebuilt(guesses.x, truth.x, reach)
        floor = chance(guesses.x, truth.x, reach)
        ceiling = rebuilt(open_guesses.x, truth.x, reach)
        spread = float(np.ptp(public.x)) or 1.0
        details: dict[str, Any] = {
            "batch": batch,
            "access": str(attack.spec.access),
            **closeness(guesses.x, truth.x, spread=spread),
            "mismatch that the attacker sees, median": float(np.median(guesses.mismatch)),
            "labels read": guesses.labels,
            "positive control": float(ceiling.mean()),
            "negative control": floor,
            "power": bool(ceiling.any()),
        }
        found.append(
            share_finding(
                hits,
                floor=floor,
                attack=name,
                adversary=SERVER.name,
                ceiling=float(ceiling.mean()),
                details=details,
            )
        )
        if keep is not None:
            keep(_pictures(truth, guesses.x, prior, name))
    return tuple(found)


class _Guesses:
    """Guesses in the order of the truth (n, d), NaN where there are none; what the attacker saw."""

    def __init__(self, rebuilt: Sequence[Rebuilt], truth: Labelled) -> None:
        batch = len(truth) // len(rebuilt)
        sides = [(start, start + batch) for start in range(0, len(truth), batch)]
        self.x = np.concatenate(
            [pair(one.x, truth.x[a:b]) for one, (a, b) in zip(rebuilt, sides, strict=True)]
        )
        self.mismatch = [min(one.mismatch, 1e300) for one in rebuilt]
        right = [
            sum((Counter(one.y.tolist()) & Counter(truth.y[a:b].tolist())).values())
            for one, (a, b) in zip(rebuilt, sides, strict=True)
        ]
        self.labels = float(sum(right) / len(truth))


def _rebuild(
    attack: FullyConnectedInversion | GradientMatching,
    victim: Victim,
    updates: Sequence[Update],
    truth: Labelled,
    seed: int,
) -> _Guesses:
    target = victim.at_weights()
    return _Guesses(attack.fit(target, seed=seed).score(target, updates), truth)


def _applicable(victim: Victim) -> tuple[FullyConnectedInversion | GradientMatching, ...]:
    searches = (GradientMatching(), GradientMatching(objective="cosine", starts=1))
    if entry_layer(victim.module, victim.shape) is None:
        return searches
    return (FullyConnectedInversion(), *searches)


def _pictures(
    truth: Labelled, guesses: NDArray[np.float64], prior: Prior, method: str
) -> Reconstruction:
    rows = np.arange(min(_EXAMPLES, len(truth)))
    shown = guesses[rows].reshape(len(rows), *truth.x.shape[1:])
    floor = np.stack([prior.guess(int(label)) for label in truth.y[rows]]).reshape(shown.shape)
    return Reconstruction(
        rows=rows,
        inputs=truth.x[rows],
        best=np.where(np.isfinite(shown), shown, floor).astype(np.float32),
        floor=floor.astype(np.float32),
        method=method,
    )


def audit_stored_records(
    victim: Victim,
    members: Labelled,
    non_members: Labelled,
    *,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> tuple[Finding, ...]:
    """The share of `members` that stand in the model file, bit by bit (behind scalers: nearly).

    The floor is the share of `non_members`, records of the same population that the model never
    saw; the ceiling a nearest-neighbour model of the same members, which the same scanner must
    read. Raises `ConfigError` where it can't: the scanner is then blind.
    """
    if progress is not None:
        progress("stored records: reading the model")
    target = victim.at_weights()
    fitted = StoredRecords().fit(target)
    hits, others = (fitted.score(target, part.x) for part in (members, non_members))
    keeper = KNeighborsClassifier(n_neighbors=1).fit(
        members.x.reshape(len(members), -1), np.zeros(len(members), dtype=np.int64)
    )
    planted = Victim.of_estimator(keeper, sample=members.x).at_weights()
    ceiling = float(StoredRecords().fit(planted).score(planted, members.x).mean())
    if ceiling < 1:
        raise ConfigError(
            f"Expected the scanner to read every planted record, it read {ceiling:.1%}: its "
            "verdict on this model would mean nothing."
        )
    excess, interval = independent_excess(hits, others)
    flat = members.x.reshape(len(members), -1).astype(np.float64)
    return (
        Finding(
            attack=StoredRecords.spec.name,
            pillar=Pillar.TRAINING_DATA,
            adversary=INSIDER,
            target="training record",
            metric="records stored",
            value=float(hits.mean()),
            ci=clopper_pearson(int(hits.sum()), len(hits)),
            floor=float(others.mean()),
            excess=excess,
            excess_ci=interval,
            n=len(hits),
            ceiling=ceiling,
            details={
                "records stored": int(hits.sum()),
                "finds": [_described(find) for find in fitted.finds[:20]],
                "finds in all": len(fitted.finds),
                "rows claimed": sum(
                    find.count
                    for find in fitted.finds
                    if find.kind in (Kind.ROWS, Kind.SCALED_ROWS)
                ),
                "rows behind a transform without inverse": sum(
                    find.count for find in fitted.finds if find.kind is Kind.HIDDEN_ROWS
                ),
                "members alone in a leaf": float(_alone(fitted.finds, flat).mean()),
                "non-members": len(others),
                "positive control": ceiling,
                "negative control": float(others.mean()),
            },
        ),
    )


def _described(find: Stored) -> dict[str, Any]:
    return {"where": find.where, "kind": str(find.kind), "count": find.count}


def _alone(finds: Sequence[Stored], flat: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which records (n, d) lie in a leaf that holds one training record."""
    found = np.zeros(len(flat), dtype=bool)
    for find in finds:
        if find.low is None or find.high is None:
            continue
        for low, high in zip(find.low, find.high, strict=True):
            found |= ((flat > low) & (flat <= high)).all(axis=1)
    return found


def audit_informed(
    victim: Victim,
    members: Labelled,
    *,
    seed: int = 0,
    count: int = 50,
    keep: Keep | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Finding, ...]:
    """The share of `count` training records rebuilt by an insider who knows all the others.

    `members` are all the records that the model was trained on, in any order. The ceiling is the
    same attack on a twin of the model that was fitted to its optimum. Raises `UnsupportedError`
    for a model without closed form, `DataError` where a record occurs twice.
    """
    attack = InformedReconstruction()
    target = victim.at_weights()
    fitted = attack.fit(target)
    rows = seeded(seed, 151).permutation(len(members))[:count]
    truth = members.take(rows)
    if progress is not None:
        progress(f"informed reconstruction: {len(rows)} of {len(members)} records")
    others = [members.take(np.arange(len(members)) != row) for row in rows]
    reach = np.concatenate(
        [Prior.of(known).reach(truth.x[place : place + 1]) for place, known in enumerate(others)]
    )
    found = fitted.score(target, others)
    guesses = np.stack([one.x for one in found])
    twin = Victim.of_estimator(_at_optimum(target.model, members), sample=members.x).at_weights()
    exact = np.stack([one.x for one in attack.fit(twin).score(twin, others)])
    hits = rebuilt(guesses, truth.x, reach)
    floor = chance(guesses, truth.x, reach)
    ceiling = rebuilt(exact, truth.x, reach)
    spread = float(np.ptp(members.x)) or 1.0
    labels = np.array([one.y for one in found])
    finding = share_finding(
        hits,
        floor=floor,
        attack=attack.spec.name,
        adversary=INSIDER,
        ceiling=float(ceiling.mean()),
        details={
            **closeness(guesses, truth.x, spread=spread),
            "largest error": float(np.abs(guesses - truth.x.reshape(guesses.shape)).max()),
            "labels right": float((labels == truth.y).mean()),
            "mismatch that the attacker sees, median": float(
                np.median([one.mismatch for one in found])
            ),
            "known records": len(members) - 1,
            "positive control": float(ceiling.mean()),
            "negative control": floor,
            "power": bool(ceiling.any()),
        },
    )
    if keep is not None:
        keep(_pictures(truth, guesses, Prior.of(members), attack.spec.name))
    return (finding,)


def _at_optimum(model: Any, members: Labelled) -> Any:
    """The same estimator fitted to the members in double precision until nothing moves."""
    twin = clone(model)
    if isinstance(twin, LogisticRegression):
        bias = {"fit_intercept": twin.fit_intercept}
        twin = LogisticRegression(C=twin.C, solver="newton-cg", tol=1e-12, max_iter=1000, **bias)
    return twin.fit(members.x.reshape(len(members), -1).astype(np.float64), members.y)
