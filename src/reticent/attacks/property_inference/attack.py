"""The property attack: a meta-classifier that says which hypothesis a model was trained under."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from reticent.attacks.property_inference.deep_sets import deep_sets_posterior, fit_deep_sets
from reticent.attacks.property_inference.shadows import Models
from reticent.attacks.property_inference.signatures import (
    answer_signature,
    quantile_signature,
    weight_signature,
)
from reticent.attacks.spec import Access, AttackSpec
from reticent.errors import DataError
from reticent.guarantee import Pillar
from reticent.random import seeded

SPEC = AttackSpec(
    name="property inference",
    pillar=Pillar.TRAINING_DATA,
    goal="the share of a group in the training set",
    access=Access.SHADOW,
    auxiliary="records of the same population, with the group, to train shadow models on",
    reference="Ateniese et al. 2015, section 3; Ganju et al. 2018, section 4",
)
_STRENGTHS = (0.003, 0.03, 0.3)
_MOST_COMPONENTS = 64
_FEWEST = 12

Posterior = Callable[[Models], NDArray[np.float64]]
Learner = Callable[[Models, NDArray[np.int64], int, int], Posterior]


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedProperty:
    """A meta-classifier; `validation` holds each candidate's log-loss on held-out shadows."""

    chosen: str
    validation: Mapping[str, float]
    posterior: Posterior

    def score(self, models: Models) -> NDArray[np.float64]:
        """Log-posteriors (N, H) of the hypotheses for each model, under a uniform prior."""
        return self.posterior(models)


def fit_property(
    shadows: Models, truth: NDArray[np.int64], *, hypotheses: int, seed: int
) -> FittedProperty:
    """The meta-classifier with the least log-loss on a third of the shadows, fitted to all.

    Candidates: linear on answers, on their quantiles, and (where layers are seen) on products of
    weights, and DeepSets. `truth` (N,) is each shadow's hypothesis. Raises `DataError` for fewer
    than 12 shadows, or a hypothesis without any.
    """
    counts = np.bincount(truth, minlength=hypotheses)
    if truth.shape != (len(shadows),) or len(truth) < _FEWEST or counts.min() < 3:
        raise DataError(
            f"Expected {_FEWEST} shadow models or more, and 3 per hypothesis, got {len(shadows)} "
            f"with counts={counts.tolist()}."
        )
    order = seeded(seed, 372).permutation(len(truth))
    cut = len(order) // 3
    held, kept = order[:cut], order[cut:]
    found = {}
    for name, learn in _learners(shadows).items():
        posterior = learn(shadows.take(kept), truth[kept], hypotheses, seed)
        scores = posterior(shadows.take(held))
        found[name] = float(-scores[np.arange(cut), truth[held]].mean())
    chosen = min(found, key=found.__getitem__)
    return FittedProperty(
        chosen=chosen,
        validation=found,
        posterior=_learners(shadows)[chosen](shadows, truth, hypotheses, seed),
    )


def _learners(shadows: Models) -> dict[str, Learner]:
    made: dict[str, Learner] = {
        "answers": _linear(lambda models: answer_signature(models.answers)),
        "quantiles of answers": _linear(lambda models: quantile_signature(models.answers)),
    }
    if shadows.layers is not None:
        made["products of weights"] = _linear(lambda models: weight_signature(models.layers or ()))
        made["sets of neurons"] = _deep
    return made


def _deep(models: Models, truth: NDArray[np.int64], hypotheses: int, seed: int) -> Posterior:
    net, scales = fit_deep_sets(models.layers or (), truth, hypotheses=hypotheses, seed=seed)
    return lambda asked: deep_sets_posterior(net, scales, asked.layers or ())


def _linear(signature: Callable[[Models], NDArray[np.float64]]) -> Learner:
    def learn(models: Models, truth: NDArray[np.int64], hypotheses: int, seed: int) -> Posterior:
        points = signature(models)
        centre, spread = points.mean(axis=0), points.std(axis=0)
        spread = np.where(spread > 1e-9, spread, 1.0)
        _u, sizes, turn = np.linalg.svd((points - centre) / spread, full_matrices=False)
        loud = max(1, min(_MOST_COMPONENTS, int((sizes > 1e-6 * sizes[0]).sum())))
        turn = turn[:loud].T / (sizes[0] / np.sqrt(len(points)) + 1e-12)

        def project(asked: Models) -> NDArray[np.float64]:
            return np.asarray((signature(asked) - centre) / spread @ turn)

        model = _best_strength(project(models), truth, seed)

        def posterior(asked: Models) -> NDArray[np.float64]:
            found = np.log(np.maximum(model.predict_proba(project(asked)), 1e-12))
            full = np.full((len(asked), hypotheses), np.log(1e-12))
            full[:, model.classes_] = found
            return full

        return posterior

    return learn


def _best_strength(
    points: NDArray[np.float64], truth: NDArray[np.int64], seed: int
) -> LogisticRegression:
    """Logistic regression whose penalty did best on a fifth of the models, fitted to all."""
    order = seeded(seed, 373).permutation(len(truth))
    cut = max(2, len(order) // 5)
    held, kept = order[:cut], order[cut:]
    losses = {}
    for strength in _STRENGTHS:
        made = LogisticRegression(C=strength * 30, max_iter=500).fit(points[kept], truth[kept])
        scores = made.predict_proba(points[held])
        place = np.searchsorted(made.classes_, truth[held]).clip(0, scores.shape[1] - 1)
        losses[strength] = -np.log(np.maximum(scores[np.arange(cut), place], 1e-6)).mean()
    best = min(losses, key=losses.__getitem__)
    return LogisticRegression(C=best * 30, max_iter=500).fit(points, truth)
