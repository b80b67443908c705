"""Attackers that need no gradient descent of ours: each maps material to log-scores.

A family fits on the attacker's training records and returns `Scores`: log-posteriors under a
uniform prior over the attribute's values, for validation and test records, up to a constant per
record. It returns None where it doesn't apply. None of them sees the truth of the test part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from reticent.attacks.attribute.calibration import balanced_log_loss, calibrate
from reticent.attacks.attribute.material import Material, Sample

_SMALL = 1e-12


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Log-scores of one family: `validation` (n_v, k) and `test` (n_t, k)."""

    validation: NDArray[np.float64]
    test: NDArray[np.float64]

    def loss(self, material: Material) -> float:
        """Class-balanced validation log-loss after calibration, in nats."""
        target = material.validation.target
        calibrated = calibrate(self.validation, target).apply(self.validation)
        return balanced_log_loss(calibrated, target)


Family = Callable[[Material, int], Scores | None]


def best(candidates: list[Scores], material: Material) -> Scores:
    """The candidate with the least validation log-loss; the first one on ties."""
    return min(candidates, key=lambda scores: scores.loss(material))


def _rows_of_counts(keys: NDArray[np.int64], material: Material) -> Scores:
    """A count table over `keys`, one integer per row of train, validation and test in turn.

    log p(key | value) with additive smoothing towards the key's marginal: (n_kv + p_k) / (n_v + 1).
    Two keys that are one-to-one give bit-identical tables, which is what makes the excess of a
    label-only code exactly zero. A key never met in training says nothing about the value.
    """
    _names, cells = np.unique(keys, return_inverse=True)
    base, size = material.base, int(cells.max()) + 1
    # One draw per training record: tables serve noiseless views, where all draws are equal.
    train, value = cells[:base], material.train.target[:base]
    counts = np.zeros((size, material.count))
    np.add.at(counts, (train, value), 1.0)
    marginal = counts.sum(axis=1, keepdims=True) / base
    smoothed = (counts + marginal) / (counts.sum(axis=0) + 1.0)
    table = np.where(marginal > 0, np.log(np.maximum(smoothed, 1e-300)), 0.0)
    scores = table[cells]
    start = len(material.train)
    stop = start + len(material.validation)
    return Scores(validation=scores[start:stop], test=scores[stop:])


def _stack(column: Callable[[Sample], NDArray[np.int64]], material: Material) -> NDArray[np.int64]:
    parts = (material.train, material.validation, material.test)
    return np.concatenate([column(part) for part in parts])


def label_table(material: Material, seed: int) -> Scores:
    """The floor: a count table that knows the predicted public label only."""
    return _rows_of_counts(_stack(lambda sample: sample.predicted, material), material)


def count_table(material: Material, seed: int) -> Scores | None:
    """A count table over (code, predicted label): the Bayes-optimal attacker on a finite alphabet.

    Without a declared alphabet it applies when few distinct feature rows occur; rows are then
    their own codes.
    """
    if material.redraw is not None and material.alphabet is None:
        return None
    flat = np.concatenate(
        [
            part.seen.reshape(len(part), -1)
            for part in (material.train, material.validation, material.test)
        ]
    )
    if material.alphabet is None and len(np.unique(flat[: material.base], axis=0)) > max(
        64, material.base // 10
    ):
        return None
    _names, codes = np.unique(flat, axis=0, return_inverse=True)
    predicted = _stack(lambda sample: sample.predicted, material)
    classes = material.train.label.shape[1]
    return _rows_of_counts(codes.reshape(-1) * classes + predicted, material)


def linear(material: Material, seed: int) -> Scores | None:
    """Multinomial logistic regression, class-balanced, on whitened features and label.

    The penalty is chosen on validation among three. Where principal components were dropped
    (wide features), kernel ridge regression on all standardised features joins in.
    """
    train, parts = material.train, (material.validation, material.test)
    candidates = []
    model = LogisticRegression(
        class_weight="balanced", max_iter=150, tol=1e-3, warm_start=True, random_state=seed
    )
    fit_on = np.hstack([train.whitened, train.label])
    for strength in (0.003, 0.03, 0.3):
        model.set_params(C=strength * material.base / len(train))
        model.fit(fit_on, train.target)
        validation, test = (
            np.log(np.maximum(model.predict_proba(np.hstack([part.whitened, part.label])), _SMALL))
            for part in parts
        )
        candidates.append(Scores(validation=validation, test=test))
    if train.whitened.shape[1] < min(train.standardised.shape[1], material.base) - 1:
        candidates += _kernel_ridge(material)
    return best(candidates, material)


def _kernel_ridge(material: Material) -> list[Scores]:
    """One-hot ridge regression in its dual form: linear in all features, however many."""
    train = material.train
    weight = np.sqrt(material.weights[train.target])[:, None]
    columns = [
        np.hstack([part.standardised, part.label])
        for part in (train, material.validation, material.test)
    ]
    gram = (columns[0] @ columns[0].T).astype(np.float64)
    goal = np.eye(material.count)[train.target] - 1.0 / material.count
    cross = [(part @ columns[0].T).astype(np.float64) for part in columns[1:]]
    found = []
    for share in (0.01, 0.1, 1.0):
        penalty = share * float(np.trace(gram)) / len(gram)
        weighted = weight * gram * weight.T
        weighted[np.diag_indices_from(weighted)] += penalty
        dual = weight * cho_solve(cho_factor(weighted), weight * goal)
        # A regression output has no scale as a log-score: spread it, calibration does the rest.
        found.append(Scores(validation=8 * cross[0] @ dual, test=8 * cross[1] @ dual))
    return found


def nearest(material: Material, seed: int) -> Scores | None:
    """k nearest neighbours in whitened and in standardised space; Parzen windows under noise.

    With additive noise the mixture of Gaussians around the attacker's clean features is the exact
    posterior for its own records, so bandwidths of 1, 1.5 and 2.5 noise deviations join in.
    """
    train = material.train
    candidates = []
    for space in ("whitened", "standardised"):
        points = [
            np.hstack([getattr(part, space), part.label])
            for part in (train, material.validation, material.test)
        ]
        for neighbours in (5, 20, 80):
            if neighbours <= len(train):
                candidates.append(
                    Scores(
                        validation=_votes(points[0], points[1], neighbours, material),
                        test=_votes(points[0], points[2], neighbours, material),
                    )
                )
    if material.redraw is not None:
        candidates += _parzen(material)
    return best(candidates, material)


def _votes(
    points: NDArray[np.float32],
    queries: NDArray[np.float32],
    neighbours: int,
    material: Material,
) -> NDArray[np.float64]:
    """Log of class-weighted, distance-weighted votes, smoothed by one vote spread evenly."""
    found, keep = [], min(neighbours, len(points))
    known = torch.from_numpy(points)
    for chunk in torch.from_numpy(queries).split(512):
        near = torch.cdist(chunk, known).topk(keep, dim=1, largest=False)
        distance = near.values.numpy().astype(np.float64)
        nearness = np.exp(-((distance / np.maximum(distance[:, -1:], _SMALL)) ** 2))
        target = material.train.target[near.indices.numpy()]
        votes = np.zeros((len(chunk), material.count))
        rows = np.arange(len(chunk))[:, None]
        np.add.at(votes, (rows, target), nearness * material.weights[target])
        found.append(np.log(votes + 1.0 / material.count))
    return np.concatenate(found)


def _parzen(material: Material) -> list[Scores]:
    base = material.base
    clean = material.train.clean.reshape(base, -1).astype(np.float64)
    noise = material.train.seen[:base].reshape(base, -1).astype(np.float64) - clean
    deviation = np.maximum(noise.std(axis=0), _SMALL)
    known = torch.from_numpy(clean / deviation)
    target = material.train.target[:base]
    same_label = material.train.predicted[:base]
    shift = np.log(material.weights)[target]

    def score(sample: Sample, width: float) -> NDArray[np.float64]:
        seen = torch.from_numpy(sample.seen.reshape(len(sample), -1) / deviation)
        found = np.full((len(sample), material.count), -np.inf)
        for rows in np.array_split(np.arange(len(sample)), max(1, len(sample) // 512)):
            exponent = -(torch.cdist(seen[rows], known).numpy() ** 2) / (2 * width**2) + shift
            # A record with another predicted label counts, but e**-3 times as much.
            exponent -= 3.0 * (sample.predicted[rows][:, None] != same_label[None, :])
            top = exponent.max(axis=1, keepdims=True)
            mass = np.zeros((len(rows), material.count))
            np.add.at(mass.T, target, np.exp(exponent - top).T)
            found[rows] = np.log(mass + 1e-30)
        return found

    return [
        Scores(validation=score(material.validation, width), test=score(material.test, width))
        for width in (1.0, 1.5, 2.5)
    ]


def quadratic(material: Material, seed: int) -> Scores | None:
    """Gaussian classes with a covariance each, shrunk towards the common one.

    Sees what no linear rule does: attributes written in correlations, such as the XOR of two
    signs. Shrinkage is chosen on validation; at most 128 components.
    """
    train = material.train
    width = min(128, train.whitened.shape[1])
    points = train.whitened[:, :width].astype(np.float64)
    groups = [points[train.target == value] for value in range(material.count)]
    common = np.eye(width)
    moments = [
        (group.mean(axis=0), np.cov(group.T).reshape(width, width) if len(group) > 1 else common)
        for group in groups
    ]
    candidates = []
    for shrink in (0.1, 0.4, 0.8):
        parts = []
        for sample in (material.validation, material.test):
            rows = sample.whitened[:, :width].astype(np.float64)
            columns = []
            for mean, covariance in moments:
                values, vectors = np.linalg.eigh((1 - shrink) * covariance + shrink * common)
                turned = (rows - mean) @ (vectors / np.sqrt(values))
                columns.append(-0.5 * ((turned**2).sum(axis=1) + np.log(values).sum()))
            parts.append(np.stack(columns, axis=1))
        candidates.append(Scores(validation=parts[0], test=parts[1]))
    return best(candidates, material)


def boosting(material: Material, seed: int) -> Scores | None:
    """Histogram gradient boosting, class-balanced, on features and label.

    At most 600 trees in all, so that the cost stays bounded for many attribute values; beyond 128
    features it sees the 64 loudest principal components.
    """
    train = material.train
    space = "standardised" if train.standardised.shape[1] <= 128 else "whitened"

    def columns(sample: Sample) -> NDArray[np.float32]:
        features = getattr(sample, space)
        return np.hstack([features[:, : 128 if space == "standardised" else 64], sample.label])

    trees_each = 1 if material.count == 2 else material.count
    model = HistGradientBoostingClassifier(
        class_weight="balanced",
        learning_rate=0.1 if trees_each < 6 else 0.2,
        max_iter=int(np.clip(600 // trees_each, 8, 100)),
        max_leaf_nodes=15,
        max_bins=63,
        early_stopping=False,
        random_state=seed,
    )
    model.fit(columns(train), train.target)
    validation, test = (
        np.log(np.maximum(model.predict_proba(columns(part)), _SMALL))
        for part in (material.validation, material.test)
    )
    return Scores(validation=validation, test=test)


def digits(material: Material, seed: int) -> Scores | None:
    """Naive Bayes over low-order decimal digits and low-order mantissa bits of each feature.

    Finds attributes hidden below the precision at which features look like features. Only the 24
    symbols with the most mutual information on training records vote. Noise that is drawn on a
    grid erases such digits, so this family serves noiseless views.
    """
    if material.redraw is not None or material.alphabet is not None:
        return None
    parts = [
        _symbols(sample.seen.reshape(len(sample), -1)[:, :2048])
        for sample in (material.train, material.validation, material.test)
    ]
    value = material.train.target
    weight = material.weights[value] / len(value)
    joint = np.zeros((parts[0].shape[1], 10, material.count))
    for column in range(joint.shape[0]):
        np.add.at(joint[column], (parts[0][:, column], value), weight)
    rows = joint.sum(axis=2, keepdims=True)
    independent = rows * joint.sum(axis=1, keepdims=True)
    ratio = np.where(joint > 0, joint / np.maximum(independent, _SMALL), 1.0)
    information = (joint * np.log(ratio)).sum(axis=(1, 2))
    kept = np.argsort(information)[::-1][:24]
    smooth = 1.0 / len(value)
    shrunk = (joint[kept] + smooth * rows[kept]) / (joint[kept].sum(axis=1)[:, None] + smooth)
    table = np.where(rows[kept] > 0, np.log(np.maximum(shrunk, 1e-300)), 0.0)
    validation, test = (
        table[np.arange(len(kept)), part[:, kept]].sum(axis=1) for part in parts[1:]
    )
    return Scores(validation=validation, test=test)


def _symbols(features: NDArray[np.float32]) -> NDArray[np.int64]:
    """Decimal digits 2 to 5 after the point, and the low 3 and next 3 mantissa bits, (n, 6 d)."""
    magnitude = np.abs(features.astype(np.float64))
    decimals = [
        (np.floor(magnitude * 10.0**place + 1e-6) % 10).astype(np.int64) for place in (2, 3, 4, 5)
    ]
    words = np.ascontiguousarray(features).view(np.uint32)
    bits = [((words >> np.uint32(shift)) & np.uint32(7)).astype(np.int64) for shift in (0, 3)]
    return np.concatenate(decimals + bits, axis=1)
