"""scikit-learn estimators as shadow models: cloned, fitted to each model's rows, asked, dropped."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import ConfigError, UnsupportedError
from reticent.random import seeded

_ESTIMATOR = 6


def is_estimator(architecture: Any) -> bool:
    """Whether the architecture is fitted by scikit-learn's protocol."""
    return hasattr(architecture, "fit") and hasattr(architecture, "get_params")


def fit_estimator(
    estimator: Any,
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    *,
    seed: int,
    number: int,
) -> Any:
    """A clone of `estimator` fitted to records (n, ...), flattened, with labels y (n,).

    Every `random_state` in it is drawn afresh from `seed` and `number`.
    """
    from sklearn.base import clone

    made = clone(estimator)
    source = seeded(seed, _ESTIMATOR, number + 1)
    states = [name for name in made.get_params() if name.split("__")[-1] == "random_state"]
    made.set_params(**{name: int(source.integers(2**31)) for name in sorted(states)})
    return made.fit(x.reshape(len(x), -1), y)


def estimator_log_probabilities(
    fitted: Any, x: NDArray[np.float32], *, classes: int
) -> NDArray[np.float32]:
    """Answers (n, classes) in nats; a class that was not in the training rows has probability 0.

    Probabilities of 0 stand as the smallest float64's logarithm, as in the target's own answers.
    Raises `UnsupportedError` for an estimator that answers labels only, and `ConfigError` where it
    answers NaN.
    """
    if not hasattr(fitted, "predict_proba"):
        raise UnsupportedError(
            f"Never with {type(fitted).__name__}, which has no predict_proba: shadow models are "
            "compared by their probabilities. Use attacks of level L1."
        )
    found = np.zeros((len(x), classes))
    found[:, fitted.classes_] = fitted.predict_proba(x.reshape(len(x), -1))
    if not np.isfinite(found).all():
        raise ConfigError(f"Expected finite probabilities from {type(fitted).__name__}, got NaN.")
    logs = np.log(np.maximum(found, np.finfo(np.float64).tiny))
    logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
    return logs.astype(np.float32)
