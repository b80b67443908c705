"""Extraction judged: how well a copy agrees with the model, against what queries it cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.extraction.committee import Make
from reticent.attacks.extraction.copy import Copy
from reticent.attacks.extraction.equations import EquationSolving
from reticent.attacks.extraction.label_only import BoundarySearch
from reticent.attacks.extraction.last_layer import LastLayerSearch
from reticent.attacks.extraction.learning import LabelLearning, ScoreLearning, train_copy
from reticent.attacks.finding import Finding
from reticent.attacks.spec import Access, Labelled
from reticent.attacks.target import Victim
from reticent.audit.statistics import bootstrap_ratio, clopper_pearson
from reticent.errors import ConfigError, DataError, UnsupportedError
from reticent.guarantee import CLIENT, Pillar
from reticent.random import seeded

ATTACK = "model extraction"
METRIC = "agreement with the model"
BUDGETS = (100, 300, 1000)
_SURE = 1e-4
_TRIAL = 200
_NEEDED = 20

Progress = Callable[[str], None]
Stolen = tuple[Copy, ...]


def audit_extraction(
    victim: Victim,
    *,
    queries: Labelled,
    test: Labelled,
    budgets: Sequence[int] = BUDGETS,
    access: Access = Access.SCORES,
    undefended: Victim | None = None,
    make: Make | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Finding, ...]:
    """One finding: the agreement of the best copy at the largest of `budgets`, on `test`.

    `queries` are the attacker's own labelled records. Up to 200 of them (a quarter at most) are
    kept to choose among attacks, by agreement with the model; those questions are counted apart,
    in the details. The others are what the attacks may ask about, and some make up records of
    their own. Every attack has its own handle per budget, whose count makes the fidelity curve.

    Floor: the better, on the chosen records, of a network trained on the attacker's own labels
    and the model's majority class, neither of which asks anything. Ceiling: the same attacks on
    `undefended` (rounding, noise or hidden scores are defences that only cost queries), or on a
    planted linear model, whose copy must beat its floor, or the audit is refused. Negative
    control: a model whose answers follow no rule must stay uncopied. Intervals: Clopper-Pearson
    for the value, bootstrap over users (or records) for the excess. `make` gives a fresh network
    like the model, where the attacker knows its architecture.
    Raises `DataError` for fewer than 20 records, or where a control fails; `ConfigError` for
    budgets or an access level that can't be used.
    """
    _check(victim, queries, test, budgets, access)
    rng = seeded(seed, 131)
    order = rng.permutation(len(queries))
    kept = min(_TRIAL, len(queries) // 4)
    trial, pool = queries.take(order[:kept]), queries.take(order[kept:])
    most = max(budgets)

    curve: list[list[float]] = []
    tried: dict[str, dict[str, float]] = {}
    truth = victim.at_label().predict_label(test.x)
    expected = victim.at_label().predict_label(trial.x)
    best: Copy | None = None
    for budget in sorted(set(budgets)):
        if progress is not None:
            progress(f"{ATTACK} at {access}, {budget} queries")
        copies = _steal(victim, pool, budget=budget, access=access, make=make, seed=seed)
        scores = [_agreement(copy, trial.x, expected) for copy in copies]
        best = copies[int(np.argmax(scores))]
        curve.append([float(best.queries), _agreement(best, test.x, truth)])
        tried[str(budget)] = {copy.method: _agreement(copy, test.x, truth) for copy in copies}
    assert best is not None

    floor_labels, floor_name = _floor(
        pool, trial.x, expected, test.x, truth, victim.classes, make, seed
    )
    hits = best.predict(test.x).argmax(axis=1) == truth
    floor_hits = floor_labels == truth
    users = np.arange(len(test)) if test.users is None else test.users
    apart = bootstrap_ratio(
        np.stack([hits, floor_hits], axis=1).astype(float), np.ones(len(test)), users, seed=seed
    )
    excess, excess_ci = apart.difference(0, 1)

    controls = _controls(pool, test, victim.classes, budget=most, access=access, seed=seed)
    ceiling = controls["planted linear model"]["agreement"]
    if undefended is not None:
        open_copies = _steal(undefended, pool, budget=most, access=access, make=make, seed=seed)
        open_expected = undefended.labels(trial.x)
        scores = [_agreement(copy, trial.x, open_expected) for copy in open_copies]
        ceiling = _agreement(open_copies[int(np.argmax(scores))], test.x, undefended.labels(test.x))
    details: dict[str, Any] = {
        "access": str(access),
        "fidelity_curve": curve,
        "agreement by attack and budget": tried,
        "chosen attack": best.method,
        "selection queries": kept,
        "facts": dict(best.facts),
        "floor": floor_name,
        "accuracy on true labels": {
            "model": float((truth == test.y).mean()),
            "copy": float((best.predict(test.x).argmax(axis=1) == test.y).mean()),
        },
        "controls": controls,
        "ceiling": "undefended model" if undefended is not None else "planted linear model",
        "interval": "bootstrap over " + ("records" if test.users is None else "users"),
    }
    if access >= Access.SCORES:
        details["hidden width"] = _hidden_width(victim, pool, most, seed)
    value = float(hits.mean())
    ci = clopper_pearson(int(hits.sum()), len(test))
    finding = Finding(
        attack=ATTACK,
        pillar=Pillar.MODEL,
        adversary=CLIENT.name,
        target="model",
        metric=METRIC,
        value=value,
        ci=ci if test.users is None else apart.interval(0),
        floor=float(floor_hits.mean()),
        excess=excess,
        excess_ci=excess_ci,
        n=len(test),
        ceiling=ceiling,
        details=details,
    )
    return (finding,)


def _check(
    victim: Victim, queries: Labelled, test: Labelled, budgets: Sequence[int], access: Access
) -> None:
    if access not in (Access.LABEL, Access.SCORES):
        raise ConfigError(
            f"Expected access L1 or L2, at which a client asks for answers, got access={access}."
        )
    if not budgets or min(budgets) < 4:
        raise ConfigError(f"Expected budgets of 4 queries or more, got budgets={tuple(budgets)}.")
    if min(len(queries), len(test)) < _NEEDED:
        raise DataError(
            f"Expected {_NEEDED} records or more to ask about and to test on, got {len(queries)} "
            f"and {len(test)}."
        )
    highest = max(int(queries.y.max()), int(test.y.max()))
    if highest >= victim.classes:
        raise DataError(
            f"Expected labels below the model's {victim.classes} classes, got y={highest}."
        )


def _steal(
    victim: Victim,
    pool: Labelled,
    *,
    budget: int,
    access: Access,
    make: Make | None,
    seed: int,
) -> Stolen:
    """A copy by each attack that this budget allows, each with its own handle."""
    rounds = min(4, budget)
    copies: list[Copy] = []
    if access is Access.SCORES:
        width = int(np.prod(victim.shape))
        if budget > width:
            solve = EquationSolving(queries=budget)
            copies.append(solve.fit(victim.at_scores(budget=budget), pool.x, seed=seed))
        learn = ScoreLearning(queries=budget, rounds=rounds, make=make)
        copies.append(learn.fit(victim.at_scores(budget=budget), pool.x, seed=seed))
        return tuple(copies)
    try:
        search = BoundarySearch(queries=budget)
        copies.append(search.fit(victim.at_label(budget=budget), pool.x, seed=seed))
    except (ConfigError, UnsupportedError, DataError):
        # Too few queries, too many unknowns, or one class only: learning is left.
        pass
    by_label = LabelLearning(queries=budget, rounds=rounds, make=make)
    copies.append(by_label.fit(victim.at_label(budget=budget), pool.x, seed=seed))
    return tuple(copies)


def _agreement(copy: Copy, x: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    return float((copy.predict(x).argmax(axis=1) == labels).mean())


def _floor(
    pool: Labelled,
    trial: NDArray[np.float32],
    expected: NDArray[np.int64],
    x: NDArray[np.float32],
    truth: NDArray[np.int64],
    classes: int,
    make: Make | None,
    seed: int,
) -> tuple[NDArray[np.int64], str]:
    """Labels (n,) of the test records by the better of two attackers who never ask the model."""
    sure = np.full((len(pool), classes), _SURE / classes)
    sure[np.arange(len(pool)), pool.y] += 1 - _SURE
    own = train_copy(
        pool.x, np.log(sure), classes=classes, members=3, make=make, seed=seed, graded=False
    )
    common = int(np.bincount(truth, minlength=classes).argmax())
    if (own.predict(trial).argmax(axis=1) == expected).mean() >= (expected == common).mean():
        return np.asarray(own.predict(x).argmax(axis=1), np.int64), "own labelled records"
    return np.full(len(x), common, dtype=np.int64), "the model's most frequent class"


def _controls(
    pool: Labelled, test: Labelled, classes: int, *, budget: int, access: Access, seed: int
) -> dict[str, dict[str, float]]:
    """Agreement on a planted linear model, and on one whose answers follow no rule."""
    rng = seeded(seed, 137)
    flat = pool.x.reshape(len(pool), -1).astype(np.float64)
    centre, scale = flat.mean(axis=0), flat.std(axis=0)
    scale = np.where(scale > 0, scale, np.inf)
    slopes = 3 * rng.normal(size=(flat.shape[1], classes)) / np.sqrt(flat.shape[1])
    key = rng.integers(1, 2**31, size=flat.shape[1], dtype=np.uint64) | np.uint64(1)

    def linear(x: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray((x.reshape(len(x), -1) - centre) / scale @ slopes)

    def lottery(x: NDArray[Any]) -> NDArray[np.float64]:
        bits = np.ascontiguousarray(x.reshape(len(x), -1), dtype=np.float32).view(np.uint32)
        mixed = (bits.astype(np.uint64) * key).sum(axis=1)
        mixed ^= mixed >> np.uint64(29)
        drawn = (mixed * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(33)
        one_hot = np.eye(classes)[(drawn % np.uint64(classes)).astype(np.int64)]
        return np.asarray(3 * one_hot)

    found: dict[str, dict[str, float]] = {}
    for name, answer in (("planted linear model", linear), ("no rule", lottery)):
        victim = Victim.of_function(answer, sample=pool.x, outputs="logits")
        copies = _steal(victim, pool, budget=budget, access=access, make=None, seed=seed)
        labels = victim.labels(test.x)
        majority = float(np.bincount(labels).max() / len(labels))
        scores = [_agreement(copy, test.x, labels) for copy in copies]
        found[name] = {"agreement": max(scores), "majority class": majority}
    planted, chance = found["planted linear model"], found["no rule"]
    low = clopper_pearson(round(planted["agreement"] * len(test)), len(test))[0]
    if low <= planted["majority class"]:
        raise DataError(
            f"Expected the attacks to copy a planted linear model with budget={budget}; they "
            f"reached {planted['agreement']:.3f} where its majority class is "
            f"{planted['majority class']:.3f}. Give larger budgets, or more records."
        )
    surprising = clopper_pearson(
        round(chance["agreement"] * len(test)), len(test), confidence=0.999
    )[0]
    if surprising > chance["majority class"]:
        raise DataError(
            "Expected answers that follow no rule to stay uncopied, got agreement="
            f"{chance['agreement']:.3f}. Are test records among those asked about?"
        )
    return found


def _hidden_width(victim: Victim, pool: Labelled, budget: int, seed: int) -> int | None:
    """The last hidden layer's width, where the answers show it."""
    count = min(budget, len(pool))
    found = LastLayerSearch(queries=count).fit(victim.at_scores(budget=count), pool.x, seed=seed)
    return found.width
