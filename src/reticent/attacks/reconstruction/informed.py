"""The last training record of a generalised linear model, by an adversary who knows the others.

At the optimum sum_i r_i x_i' + penalty W = 0 and sum_i r_i = 0, with r_i = mean(x_i) - y_i. The
known rows leave one term of each sum, r x' and r, and their quotient is the record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, softmax

from reticent.attacks.spec import Access, AttackSpec, Labelled
from reticent.attacks.target import WeightsTarget
from reticent.errors import DataError, UnsupportedError
from reticent.guarantee import Pillar

Floats = NDArray[np.float64]
_GRID = 400


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearModel:
    """A fitted generalised linear model and the sum of losses that it is the optimum of.

    weights (c, d), bias (c,) or None, `mean` from linear predictors (n, c) to means (n, c),
    `targets` from labels (n,) to (n, c). The objective is sum_i loss_i + penalty / 2 ||W||^2
    (+ penalty / 2 ||b||^2 with `bias_penalised`); `classes` is 0 for a regression.
    """

    weights: Floats
    bias: Floats | None
    mean: Callable[[Floats], Floats]
    targets: Callable[[NDArray[Any]], Floats]
    penalty: float
    bias_penalised: bool = False
    classes: int = 0

    def residuals(self, x: Floats, y: NDArray[Any]) -> Floats:
        """mean - target (n, c) of records (n, d)."""
        return self.mean(self.predictor(x)) - self.targets(y)

    def predictor(self, x: Floats) -> Floats:
        """Linear predictors (n, c)."""
        found = x @ self.weights.T
        return found if self.bias is None else found + self.bias


@dataclass(frozen=True, kw_only=True, eq=False)
class LastRecord:
    """The record x (d,) and label y that the known ones leave.

    `mismatch` is how far the residual that this record would have is from the one left over, as a
    share: near 0 where the model is the optimum that it claims to be, and all that the adversary
    itself sees of its success. `others` are further records that fit as well: two classes without
    a bias leave one equation, which has up to four solutions.
    """

    x: Floats
    y: float
    mismatch: float
    others: tuple[LastRecord, ...] = ()


class InformedReconstruction:
    """Balle, Cherubin and Hayes 2022, section 4: exact for generalised linear models.

    Candidates are what one adversary knows: all training records but one.
    """

    spec = AttackSpec(
        name="informed reconstruction",
        pillar=Pillar.TRAINING_DATA,
        goal="the one training record that the adversary doesn't know",
        access=Access.WEIGHTS,
        auxiliary="all other training records, and the training objective",
        reference="Balle, Cherubin and Hayes 2022, section 4",
        queries=0,
    )

    def fit(
        self, target: WeightsTarget, auxiliary: None = None, *, seed: int = 0
    ) -> FittedInformed:
        """Reads the objective off the estimator. Raises `UnsupportedError` for another kind."""
        return FittedInformed(model=read_model(target.model, target.classes))


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedInformed:
    """The attack with the model read."""

    model: LinearModel

    def score(
        self, target: WeightsTarget, candidates: Sequence[Labelled]
    ) -> tuple[LastRecord, ...]:
        """The missing record of each set of known ones."""
        return tuple(
            last_record(self.model, known.x.reshape(len(known), -1), known.y)
            for known in candidates
        )


def last_record(model: LinearModel, x: NDArray[Any], y: NDArray[Any]) -> LastRecord:
    """The training record that the known ones, x (n - 1, d) and y (n - 1,), leave over.

    With a bias it is a quotient. Without one, the direction is known and its length solves an
    equation per label; of several solutions that fit, the one whose length is most like the known
    records' comes first. Raises `DataError` for another
    width, `UnsupportedError` for a regression without a bias, whose length no equation fixes.
    """
    known = np.asarray(x, dtype=np.float64)
    if known.ndim != 2 or known.shape[1] != model.weights.shape[1]:
        raise DataError(
            f"Expected records of {model.weights.shape[1]} values, got x.shape={known.shape}."
        )
    residuals = model.residuals(known, y)
    left = -(residuals.T @ known + model.penalty * model.weights)
    if model.bias is None:
        return _without_bias(model, left, float(np.median(np.linalg.norm(known, axis=1))))
    over = -residuals.sum(axis=0)
    if model.bias_penalised:
        over = over - model.penalty * model.bias
    energy = float(over @ over)
    if energy == 0:
        raise DataError("Expected a record that the model doesn't fit perfectly: its trace is 0.")
    found = over @ left / energy
    mean = model.mean(model.predictor(found[None]))[0]
    label = float(_label(model, mean - over))
    would = mean - model.targets(np.array([label]))[0]
    mismatch = float(np.linalg.norm(would - over) / np.sqrt(energy))
    if not model.classes:
        # Any residual fits some real label; what must fit is that all outputs give one record.
        apart = float(np.linalg.norm(left - np.outer(over, found)))
        mismatch = apart / max(float(np.linalg.norm(left)), 1e-300)
    return LastRecord(x=found, y=label, mismatch=mismatch)


def _label(model: LinearModel, target: Floats) -> float:
    """The label whose target (c,) is nearest."""
    if not model.classes:
        return float(target[0])
    all_targets = model.targets(np.arange(model.classes))
    return float(((all_targets - target) ** 2).sum(axis=1).argmin())


def _without_bias(model: LinearModel, left: Floats, usual: float) -> LastRecord:
    if not model.classes:
        raise UnsupportedError(
            "Never without a bias in a regression: every length of the record fits some label."
        )
    direction = np.linalg.svd(left, full_matrices=False)[2][0]
    goal = left @ direction
    reach = float(np.linalg.norm(goal))
    if reach == 0:
        raise DataError("Expected a record that the model doesn't fit perfectly: its trace is 0.")
    lead = int(np.abs(goal).argmax())
    # A residual is at most 1 in size, so the record is at least this long.
    lengths = np.geomspace(reach / 2, reach * 1e6, _GRID)
    fits: list[LastRecord] = []
    for label in range(model.classes):
        target = np.array([label])

        def off(length: float, target: NDArray[Any] = target) -> Floats:
            here = model.residuals(length * direction[None], target)[0]
            return np.asarray(length * here - goal)

        for sign in (1.0, -1.0):
            values = np.array([off(sign * length)[lead] for length in lengths])
            for place in np.flatnonzero(np.sign(values[:-1]) != np.sign(values[1:])):
                ends = sign * lengths[place], sign * lengths[place + 1]
                length = brentq(lambda size: off(size)[lead], *ends, xtol=1e-14, rtol=1e-14)
                mismatch = float(np.linalg.norm(off(length)) / reach)
                fits.append(LastRecord(x=length * direction, y=float(label), mismatch=mismatch))
    if not fits:
        raise DataError("Expected a record that explains what is left over, found none.")
    least = min(fit.mismatch for fit in fits)
    equal = [fit for fit in fits if fit.mismatch <= max(1e-6, 2 * least)]
    equal.sort(key=lambda fit: abs(np.log(np.linalg.norm(fit.x) / usual)))
    return replace(equal[0], others=tuple(equal[1:]))


def read_model(model: Any, classes: int = 0) -> LinearModel:
    """The objective and optimum behind a scikit-learn estimator.

    Logistic (two classes, or softmax), ridge, ridge classifier, least squares, Poisson. Raises
    `UnsupportedError` for other estimators, an L1 penalty or class weights.
    """
    name = type(model).__name__
    readers: dict[str, Callable[[Any], LinearModel]] = {
        "LogisticRegression": _logistic,
        "Ridge": _ridge,
        "LinearRegression": _ridge,
        "RidgeClassifier": _ridge_classifier,
        "PoissonRegressor": _poisson,
    }
    if name not in readers:
        raise UnsupportedError(
            f"Not yet for {name}: the closed form is known here for {sorted(readers)}."
        )
    if getattr(model, "class_weight", None) is not None:
        raise UnsupportedError("Not yet with class weights. Fit with class_weight=None.")
    return readers[name](model)


def _weights(model: Any) -> tuple[Floats, Floats | None]:
    weights = np.atleast_2d(np.asarray(model.coef_, dtype=np.float64))
    if not model.fit_intercept:
        return weights, None
    return weights, np.atleast_1d(np.asarray(model.intercept_, dtype=np.float64))


def _column(y: NDArray[Any]) -> Floats:
    return np.asarray(y, dtype=np.float64).reshape(len(y), -1)


def _logistic(model: Any) -> LinearModel:
    if (getattr(model, "l1_ratio", None) or 0) != 0 or getattr(model, "penalty", None) in (
        "l1",
        "elasticnet",
    ):
        raise UnsupportedError("Never with an L1 penalty: its optimum has no such equation.")
    weights, bias = _weights(model)
    unpenalised = getattr(model, "penalty", "l2") is None
    liblinear = model.solver == "liblinear"
    if liblinear and (len(weights) > 1 or model.intercept_scaling != 1):
        raise UnsupportedError("Not yet for liblinear with more than two classes.")
    classes = max(2, len(weights))
    eye = np.eye(classes)

    def one_hot(y: NDArray[Any]) -> Floats:
        return np.asarray(eye[np.asarray(y, dtype=np.int64)])

    return LinearModel(
        weights=weights,
        bias=bias,
        mean=expit if len(weights) == 1 else lambda eta: np.asarray(softmax(eta, axis=1)),
        targets=_column if len(weights) == 1 else one_hot,
        penalty=0.0 if unpenalised else 1.0 / float(model.C),
        bias_penalised=liblinear,
        classes=classes,
    )


def _ridge(model: Any) -> LinearModel:
    weights, bias = _weights(model)
    if len(weights) > 1:
        raise UnsupportedError("Not yet for a regression with several outputs.")
    return LinearModel(
        weights=weights,
        bias=bias,
        mean=lambda eta: eta,
        targets=_column,
        penalty=float(getattr(model, "alpha", 0.0)),
    )


def _ridge_classifier(model: Any) -> LinearModel:
    weights, bias = _weights(model)
    classes = max(2, len(weights))
    signs = 2.0 * np.eye(classes) - 1

    def targets(y: NDArray[Any]) -> Floats:
        chosen = signs[np.asarray(y, dtype=np.int64)]
        return np.asarray(chosen[:, 1:] if len(weights) == 1 else chosen)

    return LinearModel(
        weights=weights,
        bias=bias,
        mean=lambda eta: eta,
        targets=targets,
        penalty=float(model.alpha),
        classes=classes,
    )


def _poisson(model: Any) -> LinearModel:
    weights, bias = _weights(model)
    if model.alpha:
        raise UnsupportedError(
            "Not yet for a penalised Poisson regression, whose penalty grows with the records."
        )
    return LinearModel(weights=weights, bias=bias, mean=np.exp, targets=_column, penalty=0.0)
