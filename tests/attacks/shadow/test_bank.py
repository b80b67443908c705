"""A bank answers as its models do, and knows whose it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import train_alone
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

from reticent.attacks.shadow import chunks, training
from reticent.attacks.shadow.bank import ShadowBank
from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.shadow.training import fresh
from reticent.attacks.spec import Labelled
from reticent.errors import ConfigError, DataError, UnsupportedError
from reticent.random import seeded

RECIPE = TrainingRecipe(size=30, epochs=4, batch_size=10, learning_rate=0.02)


def records(count: int, *, stream: int, classes: int = 2) -> Labelled:
    source = seeded(11, stream)
    x = source.normal(size=(count, 6)).astype(np.float32)
    return Labelled(x=x, y=source.integers(classes, size=count))


POOL, POPULATION = records(60, stream=1), records(25, stream=2)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 2))


def bank(**options: Any) -> ShadowBank:
    given = {"population": POPULATION, "count": 5, "seed": 3, **options}
    return ShadowBank.train(network(), RECIPE, POOL, **given)


def test_a_bank_holds_each_model_s_answers_to_every_row() -> None:
    made = bank()
    assert (len(made), made.pool, made.population, made.classes) == (5, 60, 25, 2)
    assert made.log_probabilities.dtype == np.float32
    x = torch.from_numpy(np.concatenate([POOL.x, POPULATION.x]))
    y = np.concatenate([POOL.y, POPULATION.y])
    assert np.array_equal(made.y, y)
    for number in (0, 4):
        alone = train_alone(
            fresh(network(), seed=3, number=number),
            RECIPE, x, torch.from_numpy(y), np.flatnonzero(made.member[number]), np.empty(0, int),
            seed=3, number=number,
        )  # fmt: skip
        with torch.no_grad():
            expected = torch.log_softmax(alone(x).double(), 1).numpy()
        assert np.allclose(made.log_probabilities[number], expected, atol=1e-5)


def test_members_are_learnt_by_heart() -> None:
    # A planted leak: random labels that a wide network can only memorise.
    wide = nn.Sequential(nn.Linear(6, 200), nn.ReLU(), nn.Linear(200, 2))
    recipe = TrainingRecipe(size=30, epochs=150, batch_size=10, learning_rate=0.02)
    made = ShadowBank.train(wide, recipe, POOL, count=4, seed=0)
    right = made.log_probabilities.argmax(axis=2) == made.y
    assert right[made.member].mean() > 0.95
    assert right[~made.member].mean() < 0.7


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bank()
    monkeypatch.setattr(training, "_MOST_MODELS", 2)
    parted = bank()
    assert np.allclose(whole.log_probabilities, parted.log_probabilities, atol=1e-5)
    assert whole.digest == parted.digest


def test_a_bank_survives_the_disk(tmp_path: Path) -> None:
    made = bank()
    made.save(tmp_path / "bank.safetensors")
    again = ShadowBank.load(tmp_path / "bank.safetensors")
    assert again.digest == made.digest
    assert again.recipe == made.recipe
    for name in ("member", "log_probabilities", "y"):
        assert getattr(again, name).dtype == getattr(made, name).dtype
        assert np.array_equal(getattr(again, name), getattr(made, name))
    assert [path.name for path in tmp_path.iterdir()] == ["bank.safetensors"]


@pytest.mark.parametrize("content", [b"", b"no bank at all", b"\x08" + b"\0" * 7 + b"{}      "])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bank.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bank\.safetensors"):
        ShadowBank.load(path)


def test_a_target_is_taken_out_of_its_own_shadows() -> None:
    made = bank()
    others = made.without(2)
    assert np.array_equal(others.member, made.member[[0, 1, 3, 4]])
    assert np.array_equal(others.log_probabilities, made.log_probabilities[[0, 1, 3, 4]])
    assert len({made.digest, others.digest, made.without(1).digest}) == 3
    assert np.array_equal(made.subset(made.member[:, 0]).member, made.member[made.member[:, 0]])
    with pytest.raises(ConfigError, match="model=5"):
        made.without(5)


def test_the_digest_knows_everything_that_decides_the_answers() -> None:
    variants = [
        bank(count=2),
        bank(count=2, seed=4),
        bank(count=2, population=None),
        bank(count=3),
        ShadowBank.train(network(), RECIPE, records(60, stream=5), count=2, seed=3),
        ShadowBank.train(network(), replace(RECIPE, epochs=1), POOL, count=2, seed=3),
        ShadowBank.train(nn.Linear(6, 2), RECIPE, POOL, count=2, seed=3),
    ]
    assert len({made.digest for made in variants}) == len(variants)
    trained = network()
    nn.init.ones_(trained[0].weight)
    again = ShadowBank.train(trained, RECIPE, POOL, population=POPULATION, count=2, seed=3)
    assert again.digest == variants[0].digest


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        GaussianNB(),
        KNeighborsClassifier(3),
        RandomForestClassifier(5),
        make_pipeline(StandardScaler(), LogisticRegression()),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_estimators_are_shadows_too(estimator: Any) -> None:
    pool = records(60, stream=1, classes=3)
    made = ShadowBank.train(estimator, RECIPE, pool, count=3, seed=0)
    again = ShadowBank.train(estimator, RECIPE, pool, count=3, seed=0)
    assert np.array_equal(made.log_probabilities, again.log_probabilities)
    assert np.allclose(np.exp(made.log_probabilities).sum(axis=2), 1, atol=1e-5)
    assert not hasattr(estimator, "classes_")
    if not isinstance(estimator, RandomForestClassifier):
        own = made.member[1]
        expected = estimator.fit(pool.x[own], pool.y[own]).predict_proba(pool.x)
        assert np.allclose(np.exp(made.log_probabilities[1]), expected, atol=1e-5)


def test_a_class_that_a_shadow_never_saw_has_probability_zero() -> None:
    y = np.zeros(60, dtype=np.int64)
    y[:30], y[0] = 1, 2
    made = ShadowBank.train(GaussianNB(), RECIPE, Labelled(x=POOL.x, y=y), count=8, seed=0)
    unseen = ~made.member[:, 0]
    assert 0 < unseen.sum() < 8
    assert (made.log_probabilities[unseen][:, :, 2] < -700).all()
    assert np.isfinite(made.log_probabilities).all()


def test_what_has_no_sound_answer_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no predict_proba"):
        ShadowBank.train(LinearSVC(), RECIPE, POOL, count=2, seed=0)
    with pytest.raises(DataError, match="network's 2 classes, got 2"):
        ShadowBank.train(network(), RECIPE, records(60, stream=1, classes=3), count=2, seed=0)
    with pytest.raises(DataError, match="population records"):
        bank(population=Labelled(x=np.zeros((3, 5), np.float32), y=np.zeros(3, np.int64)))
    with pytest.raises(ConfigError, match="processes=0"):
        bank(processes=0)
    with pytest.raises(DataError, match="Expected member"):
        replace(bank(count=2), y=np.zeros(3, np.int64))


def test_an_interrupted_run_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_MOST_MODELS", 2)
    told: list[float] = []

    def stop(share: float) -> None:
        told.append(share)
        if len(told) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bank(folder=tmp_path, progress=stop)
    trained: list[int] = []
    real = chunks.chunk_answers
    monkeypatch.setattr(
        chunks, "chunk_answers", lambda job, at, size: trained.append(at) or real(job, at, size)
    )
    made = bank(folder=tmp_path, progress=told.append)
    assert trained == [4]
    assert told == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert np.allclose(made.log_probabilities, bank().log_probabilities, atol=1e-6)


def test_another_bank_s_folder_is_refused(tmp_path: Path) -> None:
    bank(count=2, folder=tmp_path)
    with pytest.raises(ConfigError, match=r"which population differ\."):
        bank(count=2, folder=tmp_path, population=None)
    with pytest.raises(ConfigError, match="masks, seed differ"):
        bank(count=2, folder=tmp_path, seed=8)


@pytest.mark.slow
def test_two_processes_train_the_same_bank() -> None:
    one = ShadowBank.train(GaussianNB(), RECIPE, POOL, count=17, seed=3)
    two = ShadowBank.train(GaussianNB(), RECIPE, POOL, count=17, seed=3, processes=2)
    assert np.array_equal(one.log_probabilities, two.log_probabilities)
