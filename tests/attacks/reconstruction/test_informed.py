"""The last record of a linear model: equal to the truth where the model is at its optimum."""

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
)
from sklearn.neighbors import KNeighborsClassifier

from reticent.attacks.reconstruction.informed import (
    InformedReconstruction,
    last_record,
    read_model,
)
from reticent.attacks.spec import Labelled
from reticent.attacks.target import Victim
from reticent.errors import DataError, UnsupportedError

TIGHT = {"tol": 1e-12, "max_iter": 10_000}


def digits(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return x[:count] / 16, y[:count]


def measurements(count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    x, y = load_breast_cancer(return_X_y=True)
    return ((x - x.mean(axis=0)) / x.std(axis=0))[:count, :10], y[:count]


def counts() -> tuple[np.ndarray, np.ndarray]:
    x, _y = measurements()
    return x[:, :4], np.random.default_rng(0).poisson(np.exp(0.3 * x[:, 4]))


def regression() -> tuple[np.ndarray, np.ndarray]:
    x, _y = measurements()
    return x[:, 1:], x[:, 0]


@pytest.mark.parametrize(
    ("estimator", "data"),
    [
        (LogisticRegression(solver="newton-cg", **TIGHT), digits()),
        (LogisticRegression(solver="newton-cg", fit_intercept=False, **TIGHT), digits()),
        (LogisticRegression(solver="newton-cholesky", C=0.1, **TIGHT), measurements()),
        (LogisticRegression(solver="liblinear", C=0.1, **TIGHT), measurements()),
        (RidgeClassifier(alpha=2.0), digits()),
        (RidgeClassifier(), measurements()),
        (Ridge(alpha=3.0), regression()),
        (LinearRegression(), regression()),
        (PoissonRegressor(alpha=0, solver="newton-cholesky", **TIGHT), counts()),
    ],
)
def test_the_last_record_and_its_label_are_exact(estimator: object, data: tuple) -> None:
    x, y = data
    model = read_model(estimator.fit(x, y))
    loose = 1e-3 if getattr(estimator, "solver", "") == "liblinear" else 1e-6
    for row in range(10):
        kept = np.arange(len(x)) != row
        found = last_record(model, x[kept], y[kept])
        assert found.x == pytest.approx(x[row], abs=loose)
        assert found.y == pytest.approx(y[row], abs=1e-6)
        assert found.mismatch < max(loose, 1e-5)


def test_two_classes_without_a_bias_leave_up_to_four_records_one_of_them_right() -> None:
    x, y = measurements()
    estimator = LogisticRegression(
        solver="newton-cholesky", C=0.1, fit_intercept=False, **TIGHT
    ).fit(x, y)
    model = read_model(estimator)
    for row in range(20):
        kept = np.arange(len(x)) != row
        found = last_record(model, x[kept], y[kept])
        fits = (found, *found.others)
        assert len(fits) <= 4
        assert any(np.allclose(fit.x, x[row], atol=1e-6) and fit.y == y[row] for fit in fits)


def test_a_model_stopped_early_shows_in_the_mismatch() -> None:
    x, y = digits()
    sloppy = LogisticRegression(max_iter=20, tol=1e-1).fit(x, y)
    exact = LogisticRegression(solver="newton-cg", **TIGHT).fit(x, y)
    kept = np.arange(len(x)) != 0
    early, late = (last_record(read_model(model), x[kept], y[kept]) for model in (sloppy, exact))
    assert late.mismatch < 1e-6 < 1e-2 < early.mismatch
    assert np.abs(early.x - x[0]).max() > 0.01


def test_one_wrong_known_record_spoils_the_last_one() -> None:
    x, y = digits()
    model = read_model(RidgeClassifier().fit(x, y))
    known = x[1:].copy()
    known[5] = x[250]
    found = last_record(model, known, y[1:])
    assert np.abs(found.x - x[0]).max() > 0.05


def test_the_attack_reads_a_victim_and_asks_nothing() -> None:
    x, y = digits()
    estimator = LogisticRegression(solver="newton-cg", **TIGHT).fit(x, y)
    records = x.reshape(-1, 1, 8, 8).astype(np.float32)
    target = Victim.of_estimator(estimator, sample=records).at_weights()
    fitted = InformedReconstruction().fit(target)
    known = Labelled(x=records[1:], y=y[1:])
    (found,) = fitted.score(target, [known])
    assert found.x == pytest.approx(x[0], abs=1e-6)
    assert target.queries == 0


def test_what_has_no_closed_form_is_refused() -> None:
    x, y = digits()
    with pytest.raises(UnsupportedError, match="KNeighbors"):
        read_model(KNeighborsClassifier().fit(x, y))
    with pytest.raises(UnsupportedError, match="class weights"):
        read_model(RidgeClassifier(class_weight="balanced").fit(x, y))
    bare = read_model(Ridge(fit_intercept=False).fit(*regression()))
    with pytest.raises(UnsupportedError, match="length"):
        last_record(bare, *regression())
    with pytest.raises(DataError, match="64 values"):
        last_record(read_model(RidgeClassifier().fit(x, y)), x[:, :3], y)
