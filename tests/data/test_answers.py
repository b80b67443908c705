"""Answers: metrics equal scikit-learn's; a quantity's levels answer within half a width."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, r2_score

from reticent.data.answers import DEFAULT_LEVELS, METRICS, Answers, outcomes, utility
from reticent.data.task import Kind

seeds = st.integers(0, 10_000)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(2, 5), st.integers(5, 80))
def test_accuracy_is_sklearns(seed: int, classes: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    outputs = rng.standard_normal((n, classes)).astype(np.float32)
    public = rng.integers(classes, size=n)
    assert utility(Kind.CLASSIFICATION, outputs, public) == pytest.approx(
        accuracy_score(public, outputs.argmax(axis=1))
    )


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 30), st.integers(1, 300))
def test_balanced_accuracy_is_sklearns_however_rare_the_anomaly(
    seed: int, anomalies: int, normal: int
) -> None:
    rng = np.random.default_rng(seed)
    public = np.repeat([1, 0], [anomalies, normal])
    outputs = rng.standard_normal((len(public), 2)).astype(np.float32)
    assert utility(Kind.ANOMALY, outputs, public) == pytest.approx(
        balanced_accuracy_score(public, outputs.argmax(axis=1))
    )


def test_always_normal_is_no_better_than_a_coin() -> None:
    public = np.array([0] * 95 + [1] * 5)
    always_normal = np.tile(np.float32([1, 0]), (100, 1))
    assert utility(Kind.ANOMALY, always_normal, public) == pytest.approx(0.5)
    assert utility(Kind.CLASSIFICATION, always_normal, public) == pytest.approx(0.95)


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(3, 200))
def test_r2_is_sklearns(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    public = (100 + 50 * rng.standard_normal(n)).astype(np.float32)
    outputs = (public + 20 * rng.standard_normal(n)).astype(np.float32)[:, None]
    assert utility(Kind.REGRESSION, outputs, public) == pytest.approx(
        r2_score(public.astype(np.float64), outputs[:, 0].astype(np.float64)), rel=1e-6
    )


@pytest.mark.parametrize("kind", list(Kind))
def test_outcomes_are_one_per_record_and_their_mean_is_the_metric(kind: Kind) -> None:
    rng = np.random.default_rng(1)
    public = rng.integers(2, size=50)
    outputs = rng.standard_normal((50, 1 if kind is Kind.REGRESSION else 2)).astype(np.float32)
    each = outcomes(kind, outputs, public)
    assert each.shape == (50,)
    assert each.mean() == pytest.approx(utility(kind, outputs, public))
    assert kind in METRICS


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(2, 40))
def test_levels_are_of_equal_width_and_answer_within_half_of_it(seed: int, levels: int) -> None:
    public = np.random.default_rng(seed).uniform(-20, 130, 500).astype(np.float32)
    answers = Answers.of(Kind.REGRESSION, public, classes=0, levels=levels)
    assert answers.edges is not None
    assert answers.values is not None
    assert (answers.levels, answers.outputs) == (levels, 1)
    assert answers.edges.shape == (levels - 1,)
    assert answers.values.shape == (levels,)
    width = np.diff(answers.values).mean()
    assert np.allclose(np.diff(answers.values), width, rtol=1e-3)
    assert np.allclose(answers.edges, answers.values[:-1] + width / 2, atol=1e-2)
    low, high = np.quantile(public, [0.001, 0.999])
    inside = public[(public >= low) & (public <= high)]
    error = np.abs(answers.values[answers.index_labels(inside)] - inside)
    assert error.max() <= width / 2 * 1.001
    assert answers.index_labels(np.float32([-1e6, 1e6])).tolist() == [0, levels - 1]


def test_labels_and_outputs_of_a_quantity_are_indexed_alike() -> None:
    public = np.linspace(0, 125, 400, dtype=np.float32)
    answers = Answers.of(Kind.REGRESSION, public, classes=0)
    assert answers.levels == DEFAULT_LEVELS
    assert np.array_equal(answers.index_labels(public), answers.index_outputs(public[:, None]))
    assert set(answers.index_labels(public).tolist()) == set(range(DEFAULT_LEVELS))


@pytest.mark.parametrize(("kind", "classes"), [(Kind.CLASSIFICATION, 5), (Kind.ANOMALY, 2)])
def test_classes_are_answered_as_they_are(kind: Kind, classes: int) -> None:
    public = np.arange(10) % classes
    answers = Answers.of(kind, public, classes=classes, levels=99)
    assert (answers.levels, answers.outputs, answers.values) == (classes, classes, None)
    assert np.array_equal(answers.index_labels(public), public)
    outputs = np.eye(classes, dtype=np.float32)[public]
    assert np.array_equal(answers.index_outputs(outputs), public)
