"""Generators: they say SYNTHETIC, a seed reproduces them, and what they claim is in the data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from reticent.data.generators.dial import dial, dial_floor, dial_information
from reticent.data.generators.formants import formants
from reticent.data.generators.gait import SAMPLES, WINDOWS_PER_RECORDING, gait, people
from reticent.data.generators.intrusion import DAYS, FIELDS, GROUPS, intrusion
from reticent.data.generators.sketch_faces import sketch_faces
from reticent.data.generators.turbines import CAP, turbines
from reticent.data.partition import Partition, partition
from reticent.data.task import Kind, Task
from reticent.errors import ConfigError

GENERATORS: dict[str, Callable[..., Task]] = {
    "gait": gait,
    "sketch-faces": sketch_faces,
    "formants": formants,
    "turbines": turbines,
    "intrusion": intrusion,
    "dial": dial,
}
SHAPES = {
    "gait": (6000, 6, 64),
    "sketch-faces": (2880, 1, 32, 32),
    "formants": (3200, 1, 32, 40),
    "intrusion": (8000, 18),
    "dial": (6000, 24),
}
SMALL: dict[str, dict[str, int]] = {
    "gait": {"persons": 4, "recordings": 1},
    "sketch-faces": {"persons": 3, "images": 40},
    "formants": {"speakers": 3, "takes": 2},
    "turbines": {"machines": 3},
    "intrusion": {"hosts": 8},
    "dial": {"persons": 4, "records": 20},
}


@cache
def made(name: str) -> tuple[Task, Partition]:
    """The set as it comes, and its split with the same people on every side."""
    task = GENERATORS[name]()
    return task, partition(task, regime="known")


def arrays(task: Task) -> list[NDArray[Any]]:
    assert task.users is not None
    return [task.x, task.public, task.users, *task.private.values()]


@pytest.mark.parametrize("name", GENERATORS)
def test_it_is_quick_and_says_synthetic_wherever_it_is_named(name: str) -> None:
    started = time.process_time()
    task = GENERATORS[name]()
    assert time.process_time() - started < 3
    assert task.synthetic
    assert "SYNTHETIC" in task.title
    assert task.source.startswith("SYNTHETIC: reticent.data.generators.")
    assert "SYNTHETIC" in (GENERATORS[name].__doc__ or "")
    assert task.users is not None
    assert set(task.attribute_names) >= set(task.private)
    for attribute, values in task.private.items():
        assert len(task.attribute_names[attribute]) == int(values.max()) + 1
    assert task.x.shape == SHAPES.get(name, task.x.shape)


@pytest.mark.parametrize("name", GENERATORS)
def test_a_seed_reproduces_and_another_differs(name: str) -> None:
    first, again, other = (GENERATORS[name](seed=seed, **SMALL[name]) for seed in (5, 5, 6))
    for one, same in zip(arrays(first), arrays(again), strict=True):
        assert np.array_equal(one, same)
    assert first.x.shape != other.x.shape or not np.array_equal(first.x, other.x)
    assert "seed 5" in first.source


def trees(name: str, label: str, rows: int = 1500) -> float:
    """Accuracy (balanced for anomalies, R2 for quantities) of 40 trees on raw features."""
    return measured(name, label, ExtraTreesClassifier(40, random_state=0), rows)


def linear(name: str, label: str, rows: int = 1500) -> float:
    """Accuracy of a linear classifier on standardised raw features."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.03, max_iter=400, tol=1e-2))
    return measured(name, label, model, rows)


def measured(name: str, label: str, model: Any, rows: int) -> float:
    task, parts = made(name)
    values = task.public if label == "public" else task.private[label]
    if values.dtype.kind == "f":
        model = ExtraTreesRegressor(20, random_state=0)
    x = task.x.reshape(len(task), -1)
    train, test = parts.attacker_train[:rows], parts.test
    model.fit(x[train], values[train])
    if label == "public" and task.kind is Kind.ANOMALY:
        return float(balanced_accuracy_score(values[test], model.predict(x[test])))
    return float(model.score(x[test], values[test]))


# What simple classifiers reached with 1,500 records, less a margin, and the best guess without x.
LEARNABLE = [
    # set, label, classifier, at least, guess
    ("gait", "public", trees, 0.90, 0.20),
    ("gait", "person", trees, 0.55, 1 / 30),
    ("gait", "sex", trees, 0.75, 0.50),
    ("sketch-faces", "public", trees, 0.75, 0.25),
    ("sketch-faces", "identity", linear, 0.40, 1 / 24),
    ("sketch-faces", "eyes", trees, 0.88, 0.50),
    ("formants", "public", trees, 0.95, 0.10),
    ("formants", "speaker", linear, 0.50, 1 / 16),
    ("formants", "sex", trees, 0.82, 0.50),
    ("turbines", "public", trees, 0.70, 0.00),
    ("turbines", "machine", linear, 0.55, 1 / 60),
    ("turbines", "load", trees, 0.65, 0.40),
    ("intrusion", "public", linear, 0.65, 0.50),
    ("intrusion", "group", linear, 0.75, 0.25),
    ("intrusion", "host", trees, 0.08, 1 / 80),
    ("dial", "public", linear, 0.88, 0.50),
    ("dial", "group", linear, 0.88, 0.75),
    ("dial", "person", linear, 0.10, 1 / 60),
]


@pytest.mark.parametrize(
    ("name", "label", "classifier", "least", "guess"),
    LEARNABLE,
    ids=[f"{row[0]}-{row[1]}" for row in LEARNABLE],
)
def test_public_and_private_labels_are_in_the_raw_records(
    name: str, label: str, classifier: Callable[..., float], least: float, guess: float
) -> None:
    reached = classifier(name, label)
    assert reached >= least > guess
    if label != "public":
        # A set on which the attack is sure of itself would not tell defences apart.
        assert reached < 0.98


def test_every_label_of_every_generator_is_measured() -> None:
    for name in GENERATORS:
        wanted = {"public", *made(name)[0].private}
        assert {row[1] for row in LEARNABLE if row[0] == name} == wanted


def mutual_information(joint: NDArray[np.float64]) -> float:
    """I in nats of a joint table of counts or probabilities."""
    p = joint / joint.sum()
    product = p.sum(axis=1, keepdims=True) * p.sum(axis=0, keepdims=True)
    return float((p[p > 0] * np.log(p[p > 0] / product[p > 0])).sum())


def joint_law(correlation: float, classes: int) -> NDArray[np.float64]:
    uniform = np.full((classes, classes), (1 - correlation) / classes**2)
    return uniform + correlation / classes * np.eye(classes)


@pytest.mark.parametrize("classes", [2, 3, 8])
@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.7, 1.0])
def test_the_dial_is_where_its_closed_forms_say(correlation: float, classes: int) -> None:
    law = joint_law(correlation, classes)
    assert dial_information(correlation, classes) == pytest.approx(mutual_information(law))
    assert dial_floor(correlation, classes) == pytest.approx(law.max(axis=0).sum())
    task = dial(correlation=correlation, classes=classes, persons=120, records=400, seed=1)
    group, topic = task.private["group"], task.public
    counts = np.zeros((classes, classes))
    np.add.at(counts, (topic, group), 1)
    n = len(task)
    assert counts.sum(axis=0).tolist() == [n / classes] * classes
    # Five standard errors; the plug-in estimate of information is too high by (K - 1)**2 / 2n.
    spread = 5 * math.sqrt(0.25 / n)
    assert counts.max(axis=0).sum() / n == pytest.approx(
        dial_floor(correlation, classes), abs=spread
    )
    bias = (classes - 1) ** 2 / (2 * n)
    assert mutual_information(counts) == pytest.approx(
        dial_information(correlation, classes), abs=bias + 5 * math.log(classes * 10) / math.sqrt(n)
    )


def test_no_correlation_tells_nothing_and_full_correlation_everything() -> None:
    assert (dial_floor(0, 4), dial_information(0, 4)) == (0.25, pytest.approx(0))
    assert (dial_floor(1, 4), dial_information(1, 4)) == (1.0, pytest.approx(math.log(4)))
    task = dial(correlation=1.0)
    assert np.array_equal(task.public, task.private["group"])


def test_gait_walks_at_the_pace_of_its_people() -> None:
    task, _ = made("gait")
    crowd = people(30, seed=0)
    walking = task.x[task.public == 2].reshape(-1, WINDOWS_PER_RECORDING, 6, SAMPLES)
    series = walking.transpose(0, 2, 1, 3).reshape(-1, 6, WINDOWS_PER_RECORDING * SAMPLES)
    series = (series - series.mean(axis=2, keepdims=True)) * np.hanning(series.shape[2])
    power = (np.abs(np.fft.rfft(series, n=3200)) ** 2).sum(axis=1)
    bins = np.arange(120, 281)  # 1.2 to 2.8 Hz in steps of 0.01
    comb = power[:, bins] + power[:, 2 * bins] + power[:, 3 * bins]
    pace = bins[comb.argmax(axis=1)] / 100
    person = task.private["person"][task.public == 2][::WINDOWS_PER_RECORDING]
    of_person = np.array([np.median(pace[person == index]) for index in range(30)])
    assert np.corrcoef(of_person, crowd.frequency)[0, 1] > 0.95
    assert np.abs(of_person - crowd.frequency).max() < 0.15


def test_gait_is_in_g_and_runs_harder_than_it_sits() -> None:
    task, _ = made("gait")
    gravity = np.linalg.norm(task.x[task.public == 0][:, :3].mean(axis=2), axis=1)
    assert gravity == pytest.approx(np.ones_like(gravity), abs=0.05)
    strength = [task.x[task.public == label][:, :3].std(axis=2).mean() for label in range(5)]
    assert strength[4] > 1.5 * strength[2] > 3 * strength[0]


def test_gait_gives_away_sex_by_the_body_alone() -> None:
    crowd = people(400, seed=3)
    men, women = (crowd.height[crowd.sex == sex] for sex in (1, 0))
    assert men.mean() - women.mean() == pytest.approx(0.15, abs=0.02)
    residual = crowd.frequency - 1.9 * (1.715 / crowd.height) ** 2
    difference = residual[crowd.sex == 1].mean() - residual[crowd.sex == 0].mean()
    assert abs(difference) < 5 * 0.04 * math.sqrt(4 / 400)
    task, _ = made("gait")
    assert np.array_equal(task.private["sex"], people(30, seed=0).sex[task.private["person"]])
    assert task.recordings is not None
    for values in (task.public, task.private["person"]):
        first = values[::WINDOWS_PER_RECORDING]
        assert np.array_equal(np.repeat(first, WINDOWS_PER_RECORDING), values)


def test_sketches_are_pictures_and_sunglasses_are_dark() -> None:
    task, _ = made("sketch-faces")
    assert task.x.min() >= 0
    assert task.x.max() <= 1
    eyes = task.x[:, 0, 11:16, 8:24].mean(axis=(1, 2))
    wearing = task.private["eyes"] == 1
    assert eyes[~wearing].mean() - eyes[wearing].mean() > 0.05


def test_every_other_face_is_authorised() -> None:
    task = sketch_faces(public="authorised", persons=4, images=10)
    assert np.array_equal(task.public, 1 - task.private["identity"] % 2)
    assert set(task.private) == {"identity", "pose", "eyes"}
    assert set(sketch_faces(public="eyes", persons=4, images=20).private) == {"identity", "pose"}


def test_turbines_run_until_they_fail_under_one_load_per_stretch() -> None:
    task, _ = made("turbines")
    assert task.users is not None
    assert task.recordings is not None
    for machine in range(60):
        left = task.public[task.users == machine]
        assert left[-1] == 0
        assert left.max() > 100
        assert (np.diff(left) <= 0).all()
    assert task.public.max() == CAP
    for values in (task.private["load"], task.users):
        assert all(len(set(values[task.recordings == index])) == 1 for index in range(50))
    assert np.bincount(task.recordings).max() == 6


def test_intrusions_have_their_share_and_hosts_their_days() -> None:
    task, _ = made("intrusion")
    assert task.x.shape[1] == len(FIELDS)
    n = len(task)
    assert task.public.mean() == pytest.approx(0.12, abs=5 * math.sqrt(0.12 * 0.88 / n))
    assert np.bincount(task.private["group"]).tolist() == [n / len(GROUPS)] * len(GROUPS)
    sine, cosine = (task.x[:, FIELDS.index(f"hour {part}")] for part in ("sine", "cosine"))
    hour = (np.arctan2(sine, cosine) % (2 * np.pi)).reshape(80, DAYS, 100 // DAYS)
    assert (np.diff(hour, axis=2) > -1e-4).all()
    # Known users are split by time: no part may be all mornings or all evenings. A part's share
    # of the ten days needn't be whole days: 3.2 days may be short of one evening in sixteen.
    task, parts = made("intrusion")
    late = (hour > np.pi).ravel()
    assert abs(late[parts.attacker_train].mean() - late[parts.test].mean()) < 0.10
    ports = task.x[:, FIELDS.index("port web") :]
    assert (ports.sum(axis=1) == 1).all()
    assert intrusion(public="attack", hosts=8).kind is Kind.CLASSIFICATION


def test_women_speak_higher_than_men() -> None:
    # A woman's shorter tract lifts the formants: the energy's centre of gravity lies higher.
    task, _ = made("formants")
    energy = np.exp(task.x[:, 0, :, 15:30]).mean(axis=2)
    centre = (energy * np.arange(32)).sum(axis=1) / energy.sum(axis=1)
    for digit in range(10):
        women, men = (
            centre[(task.public == digit) & (task.private["sex"] == sex)].mean() for sex in (0, 1)
        )
        assert women > men


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gait", {"public": "mood"}),
        ("gait", {"persons": 1}),
        ("gait", {"recordings": 0}),
        ("sketch-faces", {"public": "expression"}),
        ("sketch-faces", {"images": 2}),
        ("formants", {"public": "word"}),
        ("formants", {"speakers": 1}),
        ("turbines", {"public": "age"}),
        ("turbines", {"machines": 1}),
        ("intrusion", {"public": "host"}),
        ("intrusion", {"attack_share": 1.0}),
        ("intrusion", {"hosts": 3}),
        ("dial", {"public": "group"}),
        ("dial", {"correlation": 1.5}),
        ("dial", {"correlation": math.nan}),
        ("dial", {"classes": 9}),
        ("dial", {"persons": 7}),
    ],
)
def test_impossible_options_are_refused_with_their_value(
    name: str, options: dict[str, Any]
) -> None:
    ((option, value),) = options.items()
    with pytest.raises(ConfigError, match=f"{option}={value!r}"):
        GENERATORS[name](**options)
