"""Tasks: what is refused, in which words, and what a part of one holds."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from reticent.data.task import Kind, Task
from reticent.errors import DataError

N = 12


def fields(**changes: Any) -> dict[str, Any]:
    """The fields of a sound task of 12 records, with `changes`."""
    sound: dict[str, Any] = {
        "name": "small",
        "x": np.arange(2.0 * N, dtype=np.float32).reshape(N, 2),
        "public": np.arange(N) % 3,
        "private": {"sex": np.arange(N) % 2},
        "users": np.arange(N) // 4,
        "recordings": np.arange(N) // 2,
    }
    return sound | changes


def spoiled(value: float) -> np.ndarray:
    x = np.zeros((N, 2), np.float32)
    x[5, 1] = value
    return x


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "NaN": ({"x": spoiled(np.nan)}, r"'x' holds NaN or infinity, first in row=5"),
    "infinity": ({"x": spoiled(np.inf)}, r"'x' holds NaN or infinity, first in row=5"),
    "minus infinity": ({"x": spoiled(-np.inf)}, "first in row=5"),
    "float64": ({"x": np.zeros((N, 2))}, "'x' as a float32 array, got dtype=float64"),
    "text in x": ({"x": np.full((N, 2), "a")}, "'x' as a float32 array, got dtype=<U1"),
    "a list": ({"x": [[0.0, 1.0]] * N}, "'x' as a float32 array, got dtype=list"),
    "no records": ({"x": np.zeros((0, 2), np.float32)}, r"at least one record .* shape=\(0, 2\)"),
    "a number": ({"x": np.zeros((), np.float32)}, r"at least one record .* shape=\(\)"),
    "no feature axis": ({"x": np.zeros(N, np.float32)}, r"has shape \(12, 1\)"),
    "no features": ({"x": np.zeros((N, 0), np.float32)}, r"shape=\(12, 0\)"),
    "short public": ({"public": np.arange(N - 1) % 3}, r"'public' of shape \(12,\).*shape=\(11,\)"),
    "short private": ({"private": {"sex": np.arange(5) % 2}}, r"'sex' .*shape=\(5,\)"),
    "short users": ({"users": np.arange(3)}, r"'users' .*shape=\(3,\)"),
    "short recordings": ({"recordings": np.arange(3)}, r"'recordings' .*shape=\(3,\)"),
    "wide public": ({"public": np.zeros((N, 1), int)}, r"'public' .*shape=\(12, 1\)"),
    "public as a list": ({"public": [0, 1] * 6}, "'public' as an array, got list"),
    "text labels": ({"public": np.array(["a", "b"] * 6)}, "'public' as integer classes.*<U1"),
    "float labels": ({"public": np.arange(N) % 2 * 1.0}, "'public' as integer classes.*float64"),
    "float private": ({"private": {"age": np.linspace(0, 1, N)}}, "'age' as integer classes"),
    "float users": ({"users": np.arange(N) / 4}, "'users' as integer classes"),
    "bool labels": ({"public": np.arange(N) % 2 == 0}, "'public' as integer classes"),
    "negative class": ({"public": np.arange(N) % 3 - 1}, "classes 0..C-1 in 'public', got -1"),
    "one public class": ({"public": np.zeros(N, int)}, r"'public' has one class only \(0\)"),
    "one private class": ({"private": {"sex": np.ones(N, int)}}, r"'sex' has one class only \(1\)"),
    "missing class": (
        {"public": np.arange(N) % 2 * 2},
        r"class 0..2 in 'public', got none of .* 1",
    ),
    "far class": ({"public": np.arange(N) % 2 * 10**15}, "got none of class 1"),
    "third anomaly": ({"kind": Kind.ANOMALY}, "0 .normal. and 1 .anomaly. .* got the class 2"),
    "one kind of anomaly": (
        {"kind": Kind.ANOMALY, "public": np.zeros(N, int)},
        "'public' has one class only",
    ),
    "constant quantity": (
        {"kind": Kind.REGRESSION, "public": np.ones(N, np.float32)},
        "'public' is constant",
    ),
    "NaN quantity": (
        {"kind": Kind.REGRESSION, "public": np.full(N, np.nan, np.float32)},
        "'public' holds NaN",
    ),
    "text quantity": (
        {"kind": Kind.REGRESSION, "public": np.full(N, "1")},
        "numbers in 'public', got dtype=<U1",
    ),
    "kind as text": ({"kind": "regression"}, "kind as one of .* got kind='regression'"),
    "unknown unit": ({"unit": "users"}, "unit 'record' or 'user', got unit='users'"),
    "unit without users": ({"unit": "user", "users": None}, "needs the field 'users'"),
    "too few class names": ({"class_names": ("a", "b")}, "3 class names, one per class"),
    "recordings numbered anew for each user": (
        {"recordings": np.arange(N) % 4},
        "Recording 0 belongs to two users",
    ),
}


@pytest.mark.parametrize(("changes", "words"), REFUSED.values(), ids=REFUSED)
def test_bad_data_are_refused_in_words(changes: dict[str, Any], words: str) -> None:
    Task(**fields())
    with pytest.raises(DataError, match=words):
        Task(**fields(**changes))


def test_classes_are_counted_by_kind() -> None:
    task = Task(**fields())
    assert (len(task), task.classes) == (N, 3)
    assert replace(task, kind=Kind.ANOMALY, public=np.arange(N) % 2).classes == 2
    quantity = replace(task, kind=Kind.REGRESSION, public=np.arange(N, dtype=np.float32))
    assert quantity.classes == 0


def test_generated_data_say_so_in_the_title() -> None:
    task = Task(**fields())
    assert task.title == "small"
    assert replace(task, synthetic=True).title == "small (SYNTHETIC)"


def test_taking_rows_keeps_every_field_aligned_and_in_the_given_order() -> None:
    task = Task(**fields())
    rows = np.array([7, 2, 11])
    taken = task.take(rows)
    assert len(taken) == 3
    assert np.array_equal(taken.x, task.x[rows])
    assert taken.public.tolist() == [1, 2, 2]
    assert taken.private["sex"].tolist() == [1, 0, 1]
    assert taken.users is not None
    assert taken.users.tolist() == [1, 0, 2]
    assert replace(task, users=None, recordings=None).take(rows).users is None


@pytest.mark.parametrize(
    "module", ["reticent.data.task", "reticent.data", "reticent.data.catalogue"]
)
def test_importing_the_vocabulary_loads_nothing_heavy(module: str) -> None:
    heavy = "{'torch', 'sklearn', 'pyarrow', 'pandas', 'mlxtend'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == "[]", ran.stderr
