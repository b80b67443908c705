"""Screens: attacks that train no shadow model on candidates, cheap enough to run on every model.

`loss_scores` is Yeom et al. 2018 (section 3.2); `quantile_scores` is Bertran et al. 2023 (section
3: the margin against its distribution among non-members that look alike, here a location and scale
regressed on population records); `difficulty_scores` is Watson et al. 2022 (section 3: the margin
less a reference model's).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.preprocessing import StandardScaler

from reticent.attacks.membership.signals import References, Signals
from reticent.attacks.spec import Labelled, Scores
from reticent.errors import DataError

_FEWEST = 50
_COMPONENTS = 24
_ROUNDS = 60


def loss_scores(target: Signals) -> Scores:
    """The log-probability of the label, minus the cross-entropy loss in nats, (n,)."""
    return target.log_confidence[..., : target.pool].copy()


def difficulty_scores(target: Signals, references: References) -> Scores:
    """The margin less the mean margin over all references, whatever they trained on, (n,)."""
    return np.asarray(target.candidates - references.signals.candidates.mean(axis=0))


def quantile_scores(
    target: Signals, pool: Labelled, population: Labelled, *, seed: int = 0
) -> Scores:
    """How many scales a record's margin lies above what non-members like it get, (n,).

    Location and log-scale of the margin are boosted regressions on (principal components of) the
    record and its label, fitted on the population. Raises `DataError` for a population of fewer
    than 50 records, or another than the signals'.
    """
    answered = target.margin.shape[-1] - target.pool
    if len(population) < _FEWEST or answered != len(population) or len(pool) != target.pool:
        raise DataError(
            f"Expected signals of the pool and of {_FEWEST} or more population records, got "
            f"pool={len(pool)}, population={len(population)} and signals of {target.pool} and "
            f"{answered}."
        )
    flat = [part.x.reshape(len(part), -1) for part in (population, pool)]
    scaler = StandardScaler().fit(flat[0])
    inputs = [scaler.transform(part) for part in flat]
    if inputs[0].shape[1] > _COMPONENTS:
        few = min(_COMPONENTS, len(population) - 1)
        reduced = PCA(few, random_state=seed).fit(inputs[0])
        inputs = [reduced.transform(part) for part in inputs]
    known, asked = (
        np.column_stack([part, labels.y])
        for part, labels in zip(inputs, (population, pool), strict=True)
    )
    margin = target.margin[target.pool :]
    location = _boosted(known, margin, seed)
    # Residuals of the fit's own records are too small; those of crossed fits are not.
    apart = np.abs(margin - _crossed(known, margin, seed))
    scale = _boosted(known, np.log(apart + 1e-3 * apart.mean() + 1e-12), seed)
    spread = np.exp(scale.predict(asked))
    return np.asarray((target.candidates - location.predict(asked)) / spread)


def _boosted(
    x: NDArray[np.float64], y: NDArray[np.float64], seed: int
) -> HistGradientBoostingRegressor:
    made = HistGradientBoostingRegressor(
        max_iter=_ROUNDS, max_leaf_nodes=8, l2_regularization=1.0, random_state=seed
    )
    return made.fit(x, y)


def _crossed(x: NDArray[np.float64], y: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Predictions for each half by the other half's fit."""
    even = np.arange(len(x)) % 2 == 0
    found = np.empty(len(x))
    for half in (even, ~even):
        found[half] = _boosted(x[~half], y[~half], seed).predict(x[half])
    return found
