"""Reference networks: shapes, standardisation, names of cuts, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reticent.errors import ConfigError
from reticent.models.networks import NETWORKS, Standardise, build, default_network

torch.set_num_threads(1)
SHAPES = {"mlp": (7,), "convnet1d": (3, 40), "convnet2d": (2, 16, 12)}


def test_every_reference_network_is_tried() -> None:
    assert set(SHAPES) | {"one_class"} == set(NETWORKS)


@pytest.mark.parametrize("outputs", [1, 2, 5])
@pytest.mark.parametrize("name", sorted(SHAPES))
def test_outputs_have_the_asked_shape(name: str, outputs: int) -> None:
    model = build(name, shape=SHAPES[name], outputs=outputs).eval()
    assert model(torch.randn(4, *SHAPES[name])).shape == (4, outputs)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_the_default_for_a_shape_is_the_network_made_for_it(name: str) -> None:
    assert default_network(SHAPES[name]) == name


@pytest.mark.parametrize("shape", SHAPES.values())
def test_a_one_class_network_answers_normal_or_anomaly(shape: tuple[int, ...]) -> None:
    assert build("one_class", shape=shape, outputs=2).eval()(torch.randn(4, *shape)).shape == (4, 2)
    with pytest.raises(ConfigError, match="outputs"):
        build("one_class", shape=shape, outputs=5)


def test_an_mlp_takes_any_shape_that_flattens() -> None:
    assert build("mlp", shape=(2, 3, 4, 5), outputs=2)(torch.randn(2, 2, 3, 4, 5)).shape == (2, 2)


@pytest.mark.parametrize("shape", [(4,), (3, 50), (2, 8, 9)])
def test_standardised_channels_have_mean_0_and_deviation_1(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.1, 50, size=(1, shape[0]) + (1,) * (len(shape) - 1))
    x = (rng.normal(size=(200, *shape)) * scale + 7 * scale).astype(np.float32)
    made = Standardise.fit(x)(torch.from_numpy(x))
    axes = tuple(axis for axis in range(made.ndim) if axis != 1)
    torch.testing.assert_close(made.mean(dim=axes), torch.zeros(shape[0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        made.std(dim=axes, correction=0), torch.ones(shape[0]), atol=1e-3, rtol=0
    )


def test_a_constant_channel_becomes_zero_not_nan() -> None:
    x = np.full((10, 2, 5), 3.0, dtype=np.float32)
    assert torch.equal(Standardise.fit(x)(torch.from_numpy(x)), torch.zeros(10, 2, 5))


def test_the_unit_of_a_regression_answer_is_set_from_the_labels() -> None:
    torch.manual_seed(0)
    x = np.zeros((50, 4), np.float32)
    y = np.random.default_rng(1).normal(100.0, 20.0, 50).astype(np.float32)
    unset = build("mlp", shape=(4,), outputs=1, x=x).eval()
    torch.manual_seed(0)
    model = build("mlp", shape=(4,), outputs=1, x=x, y=y).eval()
    sample = torch.randn(6, 4)
    want = unset(sample) * float(y.std()) + float(y.mean())
    torch.testing.assert_close(model(sample), want)


def test_constant_labels_leave_a_network_that_can_still_answer_anything() -> None:
    y = np.full(10, 5.0, np.float32)
    model = build("mlp", shape=(4,), outputs=1, y=y).eval()
    assert model(torch.randn(8, 4)).std() > 0


def test_a_factory_is_called_with_shape_outputs_and_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "factory_of_test_networks.py").write_text(
        "import torch\n"
        "def make(*, shape, outputs, width):\n"
        "    return torch.nn.Sequential(torch.nn.Linear(*shape, width),"
        " torch.nn.Linear(width, outputs))\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    model = build("factory_of_test_networks:make", shape=(4,), outputs=2, options={"width": 9})
    assert model(torch.randn(3, 4)).shape == (3, 2)
    for wrong in ("factory_of_test_networks:number", "factory_of_test_networks:gone", "nowhere:x"):
        with pytest.raises(ConfigError, match="factory"):
            build(wrong, shape=(4,), outputs=2)


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("resnet", (4,), {}),
        ("convnet1d", (4,), {}),
        ("convnet2d", (3, 40), {}),
        ("convnet1d", (3, 4), {}),
        ("convnet1d", (3, 40), {"kernel": 4}),
        ("convnet2d", (1, 16, 16), {"kernel": 2}),
        ("mlp", (4,), {"depth": 3}),
    ],
)
def test_what_cannot_be_built_is_a_configuration_error(
    name: str, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError):
        build(name, shape=shape, outputs=2, options=options)
