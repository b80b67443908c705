"""What a model file holds: all of it found, nothing found that isn't there, each named rightly."""

import numpy as np
import pytest
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.ensemble import BaggingClassifier, HistGradientBoostingClassifier, VotingClassifier
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, Normalizer, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from torch import nn

from reticent.attacks.reconstruction.stored_records import Kind, StoredRecords, among, scan
from reticent.attacks.target import Victim

X, Y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32)
MEMBERS, OTHERS, LABELS = X[:300], X[300:600], Y[:300]


def shares(model: object) -> tuple[float, float]:
    """The share of members and of others found in the model."""
    target = Victim.of_estimator(model, sample=X[:8]).at_weights()
    fitted = StoredRecords().fit(target)
    found = [float(fitted.score(target, part).mean()) for part in (MEMBERS, OTHERS)]
    assert target.queries == 0
    return found[0], found[1]


@pytest.mark.parametrize(
    "model",
    [
        KNeighborsClassifier(),
        KNeighborsClassifier(algorithm="kd_tree"),
        GaussianProcessClassifier(optimizer=None),
        make_pipeline(MinMaxScaler(), KNeighborsClassifier()),
        make_pipeline(StandardScaler(), KNeighborsClassifier()),
    ],
)
def test_models_of_all_records_give_all_of_them_and_no_other(model: object) -> None:
    assert shares(model.fit(MEMBERS, LABELS)) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("model", "inner"),
    [
        (SVC(), lambda model: model.support_),
        (make_pipeline(StandardScaler(), SVC()), lambda model: model[-1].support_),
        (
            VotingClassifier([("a", SVC()), ("b", LogisticRegression(max_iter=50))]),
            lambda model: model.estimators_[0].support_,
        ),
        (
            CalibratedClassifierCV(SVC(), ensemble=False),
            lambda model: model.calibrated_classifiers_[0].estimator.support_,
        ),
        (
            BaggingClassifier(KNeighborsClassifier(), n_estimators=2, random_state=0),
            lambda model: np.unique(np.concatenate(model.estimators_samples_)),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_wrapped_models_give_exactly_what_they_hold(model: object, inner: object) -> None:
    model.fit(MEMBERS, LABELS)
    assert shares(model) == (len(inner(model)) / 300, 0.0)


@pytest.mark.parametrize(
    "model",
    [
        LogisticRegression(max_iter=50),
        MLPClassifier(max_iter=5),
        NearestCentroid(),
        DecisionTreeClassifier(random_state=0),
        HistGradientBoostingClassifier(max_iter=2),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_models_without_stored_rows_give_none(model: object) -> None:
    assert shares(model.fit(MEMBERS, LABELS)) == (0.0, 0.0)


def test_a_centroid_of_one_record_is_that_record() -> None:
    rows = np.array([int(np.flatnonzero(label == LABELS)[0]) for label in range(10)])
    model = NearestCentroid().fit(MEMBERS[rows], np.arange(10))
    finds = scan(model, 64)
    assert finds[0].kind is Kind.TABLE
    assert among(MEMBERS, finds[0].rows, exact=True).sum() == 10


def test_kernel_ridge_is_read_though_it_is_no_classifier() -> None:
    (find,) = (
        found for found in scan(KernelRidge().fit(MEMBERS, LABELS), 64) if found.kind is Kind.ROWS
    )
    assert among(MEMBERS, find.rows, exact=True).all()


def test_a_leaf_of_one_record_encloses_it_and_claims_no_row() -> None:
    model = DecisionTreeClassifier(random_state=0).fit(MEMBERS, LABELS)
    (find,) = scan(model, 64)
    alone = np.bincount(model.apply(MEMBERS), minlength=model.tree_.node_count) == 1
    assert (find.kind, find.count, len(find.rows)) == (Kind.LEAVES, int(alone.sum()), 0)
    inside = (MEMBERS[:, None] > find.low) & (MEMBERS[:, None] <= find.high)
    assert (inside.all(axis=2).sum(axis=0) == 1).all()


def test_bin_edges_are_counted_and_rows_without_inverse_are_admitted() -> None:
    boosted = HistGradientBoostingClassifier(max_iter=2).fit(MEMBERS, LABELS)
    bins = [find for find in scan(boosted, 64) if find.kind is Kind.BINS]
    assert bins[0].count == sum(len(part) for part in boosted._bin_mapper.bin_thresholds_)
    hidden = make_pipeline(Normalizer(), KNeighborsClassifier()).fit(MEMBERS, LABELS)
    (find,) = scan(hidden, 64)
    assert (find.kind, find.count, len(find.rows)) == (Kind.HIDDEN_ROWS, 300, 0)


def test_a_network_that_keeps_a_memory_is_found_among_its_weights() -> None:
    class Memory(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 10)
            self.register_buffer("memory", torch.from_numpy(MEMBERS[:20].reshape(20, 1, 8, 8)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.flatten(1))

    sample = MEMBERS.reshape(-1, 1, 8, 8)
    target = Victim.of_module(Memory().eval(), sample=sample).at_weights()
    fitted = StoredRecords().fit(target)
    assert {find.where for find in fitted.finds} == {"memory", "head.weight"}
    found = fitted.score(target, sample)
    assert np.flatnonzero(found).tolist() == list(range(20))


def test_equality_is_bit_by_bit_but_knows_one_zero() -> None:
    rows = np.array([[0.0, 1.0], [2.0, 3.0]])
    asked = np.array([[-0.0, 1.0], [2.0, np.nextafter(np.float32(3), np.float32(4))]], np.float32)
    assert among(asked, rows, exact=True).tolist() == [True, False]
    assert among(asked, rows, exact=False).tolist() == [True, True]
