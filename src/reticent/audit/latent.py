"""Privacy of a latent representation: 1 - X and 1 - F (Coavoux, Narayan & Cohen 2018, section 3).

X is the accuracy with which an attacker reads private attributes off the representation, averaged
over attributes; F its F-score over binary variables, such as the entities that a text names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.attribute.inference import AttributeScores, attack_attribute
from reticent.attacks.finding import Finding
from reticent.attacks.view import ServerView
from reticent.audit.statistics import bootstrap_ratio, expanded_interval
from reticent.errors import ConfigError, DataError
from reticent.guarantee import SERVER, Pillar

Progress = Callable[[str], None]


def audit_latent(
    view: ServerView,
    *,
    attributes: Sequence[str] = (),
    entities: Sequence[str] = (),
    families: Sequence[str] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Finding, ...]:
    """Up to two findings: X over `attributes` and F over binary `entities`, privacy in details.

    Each variable is attacked by all `families` (by default all that there are), and the one that
    did best on the attacker's validation part decides on the test part. Floor: for X the most
    frequent value of each attribute, for F the best set of entities that are always claimed, both
    as the attacker's own records have them. Unlike attribute findings, these know nothing of the
    public label, as in the paper. Intervals: bootstrap over users, or records.
    Raises `ConfigError` where nothing is asked, `DataError` for entities that aren't 0 or 1.
    """
    if not attributes and not entities:
        raise ConfigError("Expected attributes or entities to read off the features, got neither.")
    test = view.test
    rows = np.arange(len(test))
    owners = rows if test.users is None else test.users

    def attack(name: str) -> AttributeScores:
        if progress is not None:
            progress(f"{view.name}: {name} from the representation")
        return attack_attribute(view, name, seed=seed, families=families)

    findings = []
    if attributes:
        hits, floors = np.zeros(len(rows)), np.zeros(len(rows))
        by_attribute: dict[str, dict[str, Any]] = {}
        for name in attributes:
            scores = attack(name)
            truth, common = test.private[name], scores.classes[scores.log_prior.argmax()]
            right, same = _decided(scores) == truth, truth == common
            hits += right / len(attributes)
            floors += same / len(attributes)
            by_attribute[name] = {
                "accuracy": float(right.mean()),
                "most frequent value": float(same.mean()),
                "attacker": scores.chosen[1],
            }
        ones = np.ones(len(rows))
        both = bootstrap_ratio(np.stack([hits, floors], axis=1), ones, owners, seed=seed)
        excess, excess_ci = both.difference(0, 1)
        findings.append(
            _finding(
                "X",
                float(both.values[0]),
                both.interval(0),
                float(both.values[1]),
                (excess, excess_ci),
                len(rows),
                {"1 - X": 1 - float(both.values[0]), "by attribute": by_attribute},
            )
        )
    if entities:
        findings.append(_entities(view, [attack(name) for name in entities], owners, seed))
    return tuple(findings)


def _entities(
    view: ServerView, attacks: Sequence[AttributeScores], owners: NDArray[np.int64], seed: int
) -> Finding:
    names = [scores.attribute for scores in attacks]
    for name in names:
        if not np.isin(view.test.private[name], (0, 1)).all():
            raise DataError(f"Expected entity variables of 0 and 1, got others in {name!r}.")
    truth = np.stack([view.test.private[name] for name in names], axis=1).astype(bool)
    claimed = np.stack([_decided(scores) for scores in attacks], axis=1).astype(bool)
    shares = np.array([view.attacker_train.private[name].mean() for name in names])
    always = _best_constant(shares)
    pairs = [claimed, np.broadcast_to(always, truth.shape)]
    # F = 2 TP / (claimed + true); one seed, so both share their resamples.
    parts = [
        bootstrap_ratio(
            2.0 * (said & truth).sum(axis=1, keepdims=True),
            (said.sum(axis=1) + truth.sum(axis=1)).astype(np.float64) + 1e-9,
            owners,
            seed=seed,
        )
        for said in pairs
    ]
    value, floor = float(parts[0].values[0]), float(parts[1].values[0])
    apart = parts[0].samples[:, 0] - parts[1].samples[:, 0]
    return _finding(
        "F",
        value,
        parts[0].interval(0),
        floor,
        (value - floor, expanded_interval(apart, parts[0].clusters)),
        len(truth),
        {
            "1 - F": 1 - value,
            "precision": float((claimed & truth).sum() / max(claimed.sum(), 1)),
            "recall": float((claimed & truth).sum() / max(truth.sum(), 1)),
            "entities": len(names),
            "always claimed": [name for name, said in zip(names, always, strict=True) if said],
        },
    )


def _decided(scores: AttributeScores) -> NDArray[np.int64]:
    """The likeliest value per test record, with the attacker's own frequencies as prior."""
    return np.asarray(scores.classes[(scores.pooled(1) + scores.log_prior).argmax(axis=1)])


def _best_constant(shares: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The set of entities to claim always that has the greatest expected F: the commonest k."""
    order = np.argsort(-shares, kind="stable")
    gains = 2 * np.cumsum(shares[order]) / (np.arange(1, len(shares) + 1) + shares.sum())
    found = np.zeros(len(shares), dtype=np.bool_)
    found[order[: int(gains.argmax()) + 1]] = True
    return found


def _finding(
    metric: str,
    value: float,
    ci: tuple[float, float],
    floor: float,
    excess: tuple[float, tuple[float, float]],
    n: int,
    details: dict[str, Any],
) -> Finding:
    words = {"X": "mean accuracy (X)", "F": "F-score (F)"}
    targets = {"X": "private attributes", "F": "entities"}
    return Finding(
        attack="latent representation",
        pillar=Pillar.INPUT,
        adversary=SERVER.name,
        target=targets[metric],
        metric=words[metric],
        value=value,
        ci=ci,
        floor=floor,
        excess=excess[0],
        excess_ci=excess[1],
        n=n,
        details=details,
    )
