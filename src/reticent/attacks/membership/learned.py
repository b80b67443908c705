"""A membership decision learnt on shadow targets: references play target, and their truth is known.

The other scorers each assume a form: normal margins, ratios of confidences. Here the form is learnt
over all records of all shadow targets at once from what those scorers compute (their scores, the
margin, and each record's posterior locations and scales), by boosted trees and a linear model whose
log-odds are added: trees fit the shape, the line keeps the far tail in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from reticent.attacks.membership.bavaria import posteriors
from reticent.attacks.membership.lira import lira_online
from reticent.attacks.membership.rmia import log_ratio
from reticent.attacks.membership.signals import References, Signals
from reticent.attacks.spec import Scores
from reticent.errors import DataError
from reticent.random import seeded

FEWEST = 3
_MOST_ROWS = 32_000
_BOUND = 1e3


@dataclass(frozen=True, kw_only=True, eq=False)
class Learned:
    """The fitted decision; it scores any target with references like those it was fitted on."""

    trees: HistGradientBoostingClassifier
    line: Pipeline

    def decide(self, made: NDArray[np.float64]) -> Scores:
        """Log-odds of membership as learnt, (n,), from `features` (n, f)."""
        return np.asarray(
            self.trees.decision_function(made) + self.line.decision_function(made),
            dtype=np.float64,
        )

    def score(self, target: Signals, references: References) -> Scores:
        """Log-odds of membership as learnt, (n,)."""
        return self.decide(features(target, references))


def fit_learned(references: References, *, models: Sequence[int], seed: int = 0) -> Learned:
    """The decision learnt from `models` as shadow targets. `DataError` below three references."""
    lessons = [lesson(references, model, seed=seed) for model in models]
    return learn(lessons, list(references.member[np.asarray(models, dtype=np.int64)]), seed=seed)


def lesson(references: References, model: int, *, seed: int) -> NDArray[np.float64]:
    """The features of `model` as a shadow target, with half of the other references.

    Not with all others: then a record's OUT moments would be the same number for all its shadow
    members and another for the rest, and a tree could learn that number instead of the leak. Each
    shadow target draws its own half. Raises `DataError` for fewer than three references.
    """
    if len(references) < FEWEST:
        raise DataError(
            f"Expected {FEWEST} or more references to learn from, got {len(references)}."
        )
    others = np.delete(np.arange(len(references)), model)
    half = seeded(seed, 52, model + 1).permutation(others)[: max(2, len(others) // 2)]
    return features(references.target(model), references.take(half))


def learn(
    lessons: Sequence[NDArray[np.float64]], truths: Sequence[NDArray[np.bool_]], *, seed: int
) -> Learned:
    """The decision that fits the shadow targets' features (n, f) to their members (n,)."""
    x, y = np.concatenate(lessons), np.concatenate(truths)
    if len(x) > _MOST_ROWS:
        # Beyond this, more rows cost time and change nothing.
        kept = seeded(seed, 53).permutation(len(x))[:_MOST_ROWS]
        x, y = x[kept], y[kept]
    trees = HistGradientBoostingClassifier(
        max_iter=60,
        learning_rate=0.1,
        max_leaf_nodes=8,
        min_samples_leaf=max(50, len(x) // 100),
        l2_regularization=10.0,
        early_stopping=False,
        random_state=seed,
    ).fit(x, y)
    line = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(x, y)
    return Learned(trees=trees, line=line)


def features(target: Signals, references: References) -> NDArray[np.float64]:
    """What the decision sees of each record, (n, 10)."""
    outside, inside = posteriors(references)
    margin = target.candidates
    columns = (
        inside.log_density(margin) - outside.log_density(margin),
        lira_online(target, references),
        log_ratio(target, references),
        margin,
        outside.location,
        inside.location,
        np.log(outside.scale),
        np.log(inside.scale),
        (margin - outside.location) / outside.scale,
        (margin - inside.location) / inside.scale,
    )
    return np.asarray(np.clip(np.stack(columns, axis=1), -_BOUND, _BOUND), dtype=np.float64)
