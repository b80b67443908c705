"""Attribute inference: what a server can guess about a private attribute from what it sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp

from reticent.attacks.attribute import families as classical
from reticent.attacks.attribute import networks
from reticent.attacks.attribute.calibration import (
    balanced_accuracy,
    balanced_log_loss,
    calibrate,
)
from reticent.attacks.attribute.families import Family, Scores
from reticent.attacks.attribute.material import Material, gather
from reticent.attacks.attribute.pooling import Groups, pooled, singles
from reticent.attacks.view import ServerView
from reticent.errors import ConfigError

FLOOR = "label table"
FAMILIES: Mapping[str, Family] = {
    "count table": classical.count_table,
    "linear": classical.linear,
    "nearest": classical.nearest,
    "quadratic": classical.quadratic,
    "digits": classical.digits,
    "boosting": classical.boosting,
    "perceptron": networks.perceptron,
    "convolutional": networks.convolutional,
}
"""All families. A finite alphabet is attacked by the count table alone: it is Bayes-optimal."""
_ENSEMBLE = "ensemble"
_RIDGE = 0.1
_NOTHING = 1e-3
QUICK = ("count table", "linear", "perceptron")
"""The families for demonstrations."""


@dataclass(frozen=True, kw_only=True)
class AttributeScores:
    """What one attack says about the test records; the evaluator compares it with the truth.

    `classes` (k,) are the attribute's values; `families` holds calibrated log-posteriors (n, k)
    under a uniform prior, `floor` (n, k) those from the predicted label alone, `log_prior` (k,)
    the values' frequencies in the attacker's own records. For each number of pooled requests m,
    `groups[m]` are the decisions to take, `chosen[m]` the family that did best on validation,
    `validation[m]` each family's balanced accuracy there.
    """

    attribute: str
    seed: int
    classes: NDArray[np.int64]
    log_prior: NDArray[np.float64]
    families: Mapping[str, NDArray[np.float64]]
    floor: NDArray[np.float64]
    groups: Mapping[int, Groups]
    chosen: Mapping[int, str]
    validation: Mapping[int, Mapping[str, float]]

    def pooled(self, requests: int, family: str | None = None) -> NDArray[np.float64]:
        """Pooled log-scores (g, k) of `family`, by default of the chosen one."""
        return self.groups[requests].pool(self.families[family or self.chosen[requests]])

    def pooled_floor(self, requests: int) -> NDArray[np.float64]:
        """Pooled log-scores (g, k) of the floor."""
        return self.groups[requests].pool(self.floor)


def attack_attribute(
    view: ServerView,
    attribute: str,
    *,
    seed: int,
    families: Sequence[str] | None = None,
    requests: Sequence[int] = (1,),
) -> AttributeScores:
    """Scores of every family on the test part, and the one chosen per m on validation.

    All families train on `view.attacker_train` with the predicted label beside the features,
    under a uniform prior over the attribute's values; temperature and doubt are calibrated on
    `view.attacker_validation`. The floor is a family too, since an attacker can ignore features;
    so is a weighted pool of families. Pooling (m > 1) needs users and an attribute that is
    constant per user in the attacker's records; otherwise only m = 1 is attacked.

    On a finite alphabet without noise a table over (code, predicted label) is the Bayes-optimal
    attacker, so no other family runs, and a code that is a function of the predicted label gives
    decisions identical to the floor's. Never reads the test part's `private` or `inputs`.
    Raises `DataError` for an unknown attribute, `ConfigError` for an unknown family.
    """
    names = tuple(FAMILIES) if families is None else tuple(families)
    unknown = sorted(set(names) - set(FAMILIES))
    if unknown:
        raise ConfigError(f"Expected families among {sorted(FAMILIES)}, got families={unknown}.")
    if view.alphabet is not None:
        names = ("count table",)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        material = gather(view, attribute, seed=seed)
        found = {FLOOR: classical.label_table(material, seed)}
        for name in names:
            scores = FAMILIES[name](material, seed)
            if scores is not None:
                found[name] = scores
    calibrated = {name: _calibrated(scores, material) for name, scores in found.items()}
    if len(calibrated) > 2 and view.alphabet is None:
        calibrated[_ENSEMBLE] = _ensemble(calibrated, material)
    return _choose(view, attribute, material, calibrated, seed=seed, requests=requests)


def poolable(view: ServerView, attribute: str) -> bool:
    """Whether requests can be pooled: users exist and share one value per user."""
    part = view.attacker_train
    if part.users is None or view.test.users is None:
        return False
    _names, first, inverse = np.unique(part.users, return_index=True, return_inverse=True)
    values = part.private[attribute]
    return bool(np.array_equal(values, values[first][inverse]))


def _calibrated(scores: Scores, material: Material) -> Scores:
    fitted = calibrate(scores.validation, material.validation.target)
    return Scores(validation=fitted.apply(scores.validation), test=fitted.apply(scores.test))


def _ensemble(calibrated: Mapping[str, Scores], material: Material) -> Scores:
    """A log-linear pool: weighted log-posteriors added up, then recalibrated.

    Stacking (Wolpert 1992) with weights of zero or more that minimise the class-balanced log-loss
    on validation plus a ridge. The weights needn't sum to 1: families that err independently are
    worth more together than any average of them.
    """
    scores = list(calibrated.values())
    weights = pool_weights(np.stack([s.validation for s in scores]), material.validation.target)
    return _calibrated(
        Scores(
            validation=_normal(np.tensordot(weights, [s.validation for s in scores], axes=1)),
            test=_normal(np.tensordot(weights, [s.test for s in scores], axes=1)),
        ),
        material,
    )


def pool_weights(
    log_posteriors: NDArray[np.float64], target: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Weights (f,) in [0, 3] of f families' log-posteriors (f, n, k) for true values (n,).

    The objective is convex; L-BFGS-B from equal weights.
    """
    families, count, values = log_posteriors.shape
    rows = np.arange(count)
    share = 1.0 / np.bincount(target, minlength=values)[target]
    share /= share.sum()

    def objective(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        pool = _normal(np.tensordot(weights, log_posteriors, axes=1))
        residual = np.exp(pool)
        residual[rows, target] -= 1.0
        residual *= share[:, None]
        loss = -float(share @ pool[rows, target]) + _RIDGE * float(weights @ weights)
        slope = np.tensordot(log_posteriors, residual, axes=2) + 2 * _RIDGE * weights
        return loss, slope

    found = minimize(
        objective,
        np.full(families, 1.0 / families),
        jac=True,
        bounds=[(0.0, 3.0)] * families,
        method="L-BFGS-B",
    )
    return np.asarray(found.x, dtype=np.float64)


def _normal(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(scores - logsumexp(scores, axis=1, keepdims=True))


def _pick(results: Mapping[str, float], losses: Mapping[str, float], decisions: int) -> str:
    """The family with the least log-loss among those within one standard error of the best.

    Balanced accuracy on few validation records is too coarse to tell near-equals apart, and the
    luckiest of many families is not the strongest; log-loss is finer. Features that gain less than
    a thousandth of a nat over the label are ignored, and the ensemble wins ties: where validation
    can't tell near-perfect families apart, all of them together err least.
    """
    top = max(results.values())
    # Wilson's centre, so that a perfect score on few decisions has an error too.
    likely = (top * decisions + 1) / (decisions + 2)
    error = np.sqrt(likely * (1 - likely) / decisions)
    near = [name for name in results if results[name] >= top - error]
    chosen = min(near, key=losses.__getitem__)
    if _ENSEMBLE in near and losses[_ENSEMBLE] <= losses[chosen] + _NOTHING:
        chosen = _ENSEMBLE
    if FLOOR in near and losses[FLOOR] <= losses[chosen] + _NOTHING:
        return FLOOR
    return chosen


def _choose(
    view: ServerView,
    attribute: str,
    material: Material,
    calibrated: Mapping[str, Scores],
    *,
    seed: int,
    requests: Sequence[int],
) -> AttributeScores:
    part = view.attacker_validation
    target = material.validation.target
    users = None
    if part.users is not None:
        users = part.users[np.isin(part.private[attribute], material.classes)]
    losses = {
        name: balanced_log_loss(scores.validation, target) for name, scores in calibrated.items()
    }
    groups: dict[int, Groups] = {}
    chosen: dict[int, str] = {}
    results: dict[int, dict[str, float]] = {}
    for m in sorted(set(requests) | {1}):
        if m == 1:
            groups[m] = singles(len(view.test))
        elif poolable(view, attribute):
            assert view.test.users is not None
            groups[m] = pooled(view.test.users, m, seed=seed)
        if m not in groups or len(groups[m]) == 0:
            groups.pop(m, None)
            continue
        judged = _validation_groups(users, len(target), m, seed)
        truth = target[judged.members[:, 0]]
        results[m] = {
            name: balanced_accuracy(judged.pool(scores.validation), truth)
            for name, scores in calibrated.items()
        }
        # Groups overlap: only count what the records hold.
        chosen[m] = _pick(results[m], losses, max(1, len(target) // judged.requests))
    share = np.bincount(material.train.target, minlength=material.count) / len(material.train)
    return AttributeScores(
        attribute=attribute,
        seed=seed,
        classes=material.classes,
        log_prior=np.log(share),
        families={name: scores.test for name, scores in calibrated.items()},
        floor=calibrated[FLOOR].test,
        groups=groups,
        chosen=chosen,
        validation=results,
    )


def _validation_groups(
    users: NDArray[np.int64] | None, count: int, requests: int, seed: int
) -> Groups:
    """Groups of m validation records, or of fewer where most users have fewer."""
    if users is None or requests == 1:
        return singles(count)
    sizes = np.unique(users, return_counts=True)[1]
    return pooled(users, max(1, min(requests, int(np.median(sizes)))), seed=seed)
