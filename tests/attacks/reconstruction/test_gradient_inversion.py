"""Records from gradients by algebra: exact where theory says so, refused where it doesn't."""

import numpy as np
import pytest
import torch
from torch import nn

from reticent.attacks.reconstruction.gradients import (
    FullyConnectedInversion,
    Update,
    entry_layer,
    infer_labels,
    output_bias,
    quotient,
    separate,
)
from reticent.attacks.target import Victim
from reticent.errors import DataError, UnsupportedError
from reticent.models.networks import Standardise


def records(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random((count, 1, 6, 6)).astype(np.float32), rng.integers(5, size=count)


def network(x: np.ndarray, activation: type[nn.Module] = nn.ReLU, width: int = 80) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        Standardise.fit(x),
        nn.Flatten(),
        nn.Linear(36, width),
        activation(),
        nn.Linear(width, 20),
        activation(),
        nn.Linear(20, 5),
    ).eval()


def attacked(model: nn.Module, x: np.ndarray, y: np.ndarray):
    target = Victim.of_module(model, sample=x).at_internals()
    update = Update(gradients=target.gradients(x, y), batch=len(x))
    return FullyConnectedInversion().fit(target).score(target, [update])[0]


def worst(rebuilt: np.ndarray, truth: np.ndarray) -> float:
    """The largest mean squared error of a true record to the nearest rebuilt one."""
    apart = rebuilt.reshape(len(rebuilt), 1, -1) - truth.reshape(1, len(truth), -1)
    return float((apart**2).mean(axis=2).min(axis=0).max())


def test_one_record_and_its_label_are_exact_behind_a_standardising_layer() -> None:
    x, y = records(40)
    model = network(x)
    for row in range(5):
        found = attacked(model, x[row : row + 1], y[row : row + 1])
        assert worst(found.x, x[row : row + 1]) < 1e-12
        assert found.y.tolist() == [y[row]]
        assert found.mismatch < 1e-10


def test_the_quotient_is_the_least_squares_solution() -> None:
    rng = np.random.default_rng(1)
    bias, weight = rng.normal(size=7), rng.normal(size=(7, 4))
    found, mismatch = quotient(weight, bias)
    solved, residual, *_ = np.linalg.lstsq(bias[:, None], weight, rcond=None)
    assert found == pytest.approx(solved)
    assert mismatch == pytest.approx(residual.sum() / (weight**2).sum())
    empty, gave_up = quotient(np.zeros((7, 4)), np.zeros(7))
    assert (len(empty), gave_up) == (0, 1.0)


@pytest.mark.parametrize("batch", [2, 3, 6])
def test_a_batch_before_a_relu_comes_apart_exactly(batch: int) -> None:
    x, y = records(40)
    model = network(x)
    for seed in range(3):
        rows = np.random.default_rng(seed).choice(40, batch, replace=False)
        found = attacked(model, x[rows], y[rows])
        assert found.x.shape == (batch, 1, 6, 6)
        assert worst(found.x, x[rows]) < 1e-10


def test_a_batch_before_a_sigmoid_has_no_zeros_and_is_refused() -> None:
    x, y = records(40)
    found = attacked(network(x, nn.Sigmoid), x[:3], y[:3])
    assert (len(found.x), found.mismatch) == (0, 1.0)


def test_noise_on_the_gradient_hides_the_record() -> None:
    x, y = records(40)
    target = Victim.of_module(network(x), sample=x).at_internals()
    clear = target.gradients(x[:1], y[:1])
    rng = np.random.default_rng(2)
    size = np.sqrt(sum(float((part**2).sum()) for part in clear.values()))
    noisy = {name: part + rng.normal(0, size, part.shape) for name, part in clear.items()}
    found = FullyConnectedInversion().fit(target).score(target, [Update(gradients=noisy)])[0]
    assert found.mismatch > 0.5
    assert worst(found.x, x[:1]) > 0.05


def test_separation_counts_records_by_the_rank_and_refuses_another_count() -> None:
    rng = np.random.default_rng(4)
    deltas = np.maximum(rng.normal(size=(60, 3)), 0)
    x = rng.random((3, 20))
    for batch, kept in ((3, 3), (4, 0)):
        found, _mismatch = separate(deltas @ x, deltas.sum(axis=1), batch)
        assert len(found) == kept


def test_labels_of_a_batch_are_counted_from_the_last_bias() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        labels = np.sort(rng.integers(6, size=8))
        prediction = rng.dirichlet(np.full(6, 20.0), size=8)
        gradient = (prediction - np.eye(6)[labels]).mean(axis=0)
        known = infer_labels(gradient, 8, expected=prediction.mean(axis=0))
        assert known.tolist() == labels.tolist()
        assert len(infer_labels(gradient, 8)) == 8
    with pytest.raises(DataError, match="two classes"):
        infer_labels(np.zeros(1), 1)


def test_layers_are_found_where_they_are_and_not_where_they_are_not() -> None:
    x, _y = records(40)
    entry = entry_layer(network(x), (1, 6, 6))
    assert entry is not None
    assert (entry.weight, entry.bias) == ("2.weight", "2.bias")
    assert output_bias(network(x)) == "6.bias"
    bent = nn.Sequential(nn.Flatten(), nn.Tanh(), nn.Linear(36, 5))
    assert entry_layer(bent, (1, 6, 6)) is None
    convolved = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, 5)).eval()
    with pytest.raises(UnsupportedError, match="matching"):
        FullyConnectedInversion().fit(Victim.of_module(convolved, sample=x).at_internals())
