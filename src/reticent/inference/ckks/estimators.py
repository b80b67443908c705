"""scikit-learn classifiers as polynomial programs: output k belongs to `classes_[k]`.

The largest output is the estimator's answer. Linear models become one matrix; the margin d of a
two-class model becomes the outputs -d/2 and d/2, so that their softmax is what the sigmoid was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from reticent.errors import ConfigError, UnsupportedError
from reticent.inference.ckks.layers import Layers
from reticent.inference.ckks.program import Linear, Polynomial, Program, Values

_TREES = ("DecisionTreeClassifier", "RandomForestClassifier", "ExtraTreesClassifier")


def from_estimator(estimator: Any, *, bound: float) -> Program:
    """A fitted classifier, or a pipeline of scalers and one, as a program on its raw features.

    `bound` is the largest absolute feature value that clients may send.
    Exact, up to float64: LogisticRegression, LinearSVC, RidgeClassifier, SGDClassifier,
    Perceptron, LinearDiscriminantAnalysis, MultinomialNB, ComplementNB; BernoulliNB on features
    of 0 and 1; GaussianNB (degree 2); SVC of two classes with a linear or polynomial kernel (width:
    its support vectors, degree: the kernel's), and OneVsRestClassifier of any of these whose answer
    is a margin. StandardScaler, MinMaxScaler, MaxAbsScaler and PCA fold into the first matrix.
    Raises `UnsupportedError` for others, with the remedy. Trees and forests are only approximated:
    see `from_trees`, which measures how well.
    """
    scalers, last = _parts(estimator)
    name = type(last).__name__
    if name in _TREES:
        raise UnsupportedError(
            f"Never exactly: {name} compares, which no polynomial does. Call from_trees(estimator, "
            "inputs, held_out=...), which approximates it and says how well."
        )
    rule = _RULES.get(name)
    if rule is None:
        raise UnsupportedError(
            f"Not yet: {name} has no program. Use one of {', '.join(sorted(_RULES))}, a tree or a "
            "forest (from_trees), or a PyTorch model (to_program)."
        )
    if not hasattr(last, "classes_"):
        raise ConfigError(f"Expected a fitted {name}, got one without classes_. Call fit first.")
    if not 0 < bound < np.inf:
        raise ConfigError(f"Expected 0 < bound < infinity, got bound={bound}.")
    layers = Layers((int(estimator.n_features_in_),))
    scaled = 0
    for scaler in scalers:
        scaled = layers.push(_scaler(scaler), scaled)
    return layers.program(rule(last, layers, scaled), bound=bound)


def scaling(estimator: Any) -> tuple[Callable[[Values], Values], Any]:
    """What a pipeline does before its last step, as a function, and that step."""
    scalers, last = _parts(estimator)

    def scale(x: Values) -> Values:
        for scaler in scalers:
            x = _scaler(scaler).run(x)
        return x

    return scale, last


def _parts(estimator: Any) -> tuple[list[Any], Any]:
    steps = getattr(estimator, "steps", None)
    if steps is None:
        return [], estimator
    *before, last = [step for _, step in steps]
    return [step for step in before if step not in ("passthrough", None)], last


def _scaler(scaler: Any) -> Linear:
    name = type(scaler).__name__
    if name == "StandardScaler":
        scale = 1 / scaler.scale_ if scaler.with_std else np.ones(scaler.n_features_in_)
        shift = -scaler.mean_ * scale if scaler.with_mean else np.zeros(scaler.n_features_in_)
        return Linear(name=name, weight=np.diag(scale), bias=shift)
    if name == "MinMaxScaler" and not scaler.clip:
        return Linear(name=name, weight=np.diag(scaler.scale_), bias=scaler.min_)
    if name == "MaxAbsScaler":
        size = scaler.n_features_in_
        return Linear(name=name, weight=np.diag(1 / scaler.scale_), bias=np.zeros(size))
    if name == "PCA":
        spread = np.sqrt(scaler.explained_variance_) if scaler.whiten else 1.0
        weight = scaler.components_ / np.reshape(spread, (-1, 1))
        return Linear(name=name, weight=weight, bias=-weight @ scaler.mean_)
    raise UnsupportedError(
        f"Not yet: {name} before the classifier isn't one matrix here. Use StandardScaler, "
        "MinMaxScaler (clip=False), MaxAbsScaler or PCA, or transform before encryption."
    )


def _linear(last: Any, layers: Layers, source: int) -> int:
    return layers.push(_both(type(last).__name__, last.coef_, last.intercept_), source)


def _both(name: str, weight: Any, bias: Any) -> Linear:
    """A matrix with an output per class, made of the margin where there are two."""
    weight, bias = np.atleast_2d(np.asarray(weight, dtype=np.float64)), np.ravel(bias)
    bias = np.broadcast_to(bias, (len(weight),)).astype(np.float64)
    if len(weight) == 1:
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return Linear(name=name, weight=weight, bias=bias)


def _discrete_bayes(last: Any, layers: Layers, source: int) -> int:
    name = type(last).__name__
    weight = np.asarray(last.feature_log_prob_)
    if name == "ComplementNB":
        bias = last.class_log_prior_ if len(last.classes_) == 1 else np.zeros(len(weight))
    else:
        bias = last.class_log_prior_
    return layers.push(Linear(name=name, weight=weight, bias=np.asarray(bias)), source)


def _bernoulli(last: Any, layers: Layers, source: int) -> int:
    if last.binarize is not None and not 0 <= last.binarize < 1:
        raise UnsupportedError(
            f"Never: BernoulliNB(binarize={last.binarize}) compares. Send features of 0 and 1 and "
            "fit with binarize=None."
        )
    absent = np.log1p(-np.exp(last.feature_log_prob_))
    return layers.push(
        Linear(
            name="BernoulliNB",
            weight=last.feature_log_prob_ - absent,
            bias=last.class_log_prior_ + absent.sum(axis=1),
        ),
        source,
    )


def _gaussian_bayes(last: Any, layers: Layers, source: int) -> int:
    """log P(class) + sum_j log N(x_j; mean, var): a matrix on x^2 plus a matrix on x."""
    mean, variance = last.theta_, last.var_
    constant = np.log(last.class_prior_) - 0.5 * (
        np.log(2 * np.pi * variance) + mean**2 / variance
    ).sum(axis=1)
    squares = layers.push(
        Polynomial(name="GaussianNB", coefficients=np.array([[0.0], [0.0], [1.0]])), source
    )
    quadratic = Linear(name="GaussianNB", weight=-0.5 / variance, bias=constant)
    linear = Linear(name="GaussianNB", weight=mean / variance, bias=np.zeros(len(mean)))
    return layers.add("GaussianNB", [layers.push(quadratic, squares), layers.push(linear, source)])


def _kernel_machine(last: Any, layers: Layers, source: int) -> int:
    if len(last.classes_) != 2 and last.kernel in ("linear", "poly"):
        raise UnsupportedError(
            "Never exactly: SVC of more than two classes lets pairs of classes vote, which no "
            f"polynomial does. Fit OneVsRestClassifier(SVC(kernel={last.kernel!r})), LinearSVC or "
            "LogisticRegression, which compare one margin per class."
        )
    return _kernel_machines([last], layers, source)


def _kernel_machines(machines: list[Any], layers: Layers, source: int) -> int:
    """A margin of each machine, of one kernel: over the support vectors of all."""
    kernel, degree = machines[0].kernel, int(machines[0].degree)
    if kernel == "linear":
        return _margins(machines, layers, source)
    if kernel != "poly":
        raise UnsupportedError(
            f"Never: SVC(kernel={kernel!r}) is no polynomial. Use kernel='poly', or "
            "'linear', or distil it into a small PyTorch model with polynomialise."
        )
    vectors = [float(each._gamma) * _dense(each.support_vectors_) for each in machines]
    starts = np.cumsum([0, *(len(each) for each in vectors)])
    duals = np.zeros((len(machines), starts[-1]))
    for row, each in enumerate(machines):
        duals[row, starts[row] : starts[row + 1]] = _dense(each.dual_coef_)[0]
    products = Linear(
        name="SVC support vectors",
        weight=np.concatenate(vectors),
        bias=np.repeat([float(each.coef0) for each in machines], np.diff(starts)),
    )
    power = np.zeros((degree + 1, 1))
    power[-1] = 1.0
    raised = layers.push(
        Polynomial(name="SVC kernel", coefficients=power), layers.push(products, source)
    )
    return layers.push(_both("SVC", duals, _intercepts(machines)), raised)


def _margins(machines: list[Any], layers: Layers, source: int) -> int:
    weight = np.concatenate([_dense(each.coef_) for each in machines])
    return layers.push(_both(type(machines[0]).__name__, weight, _intercepts(machines)), source)


def _intercepts(machines: list[Any]) -> Values:
    return np.concatenate([np.ravel(each.intercept_) for each in machines])


def _dense(matrix: Any) -> Values:
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=np.float64)


def _one_against_rest(last: Any, layers: Layers, source: int) -> int:
    """A margin per class, the largest of which is the answer."""
    machines = list(last.estimators_)
    names = {type(each).__name__ for each in machines}
    if last.multilabel_ or len(names) > 1 or not names <= {*_LINEAR, "SVC"}:
        raise UnsupportedError(
            f"Not yet: OneVsRestClassifier of {', '.join(sorted(names))}, with "
            f"multilabel={last.multilabel_}. Use one of {', '.join(_LINEAR)} or SVC inside, "
            "without scalers, and one label a record."
        )
    return (_kernel_machines if names == {"SVC"} else _margins)(machines, layers, source)


_LINEAR = (
    "LogisticRegression",
    "LinearSVC",
    "RidgeClassifier",
    "SGDClassifier",
    "Perceptron",
    "LinearDiscriminantAnalysis",
)
_RULES: dict[str, Callable[[Any, Layers, int], int]] = {
    **dict.fromkeys(_LINEAR, _linear),
    "MultinomialNB": _discrete_bayes,
    "ComplementNB": _discrete_bayes,
    "BernoulliNB": _bernoulli,
    "GaussianNB": _gaussian_bayes,
    "SVC": _kernel_machine,
    "OneVsRestClassifier": _one_against_rest,
}
