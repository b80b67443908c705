"""The plaintext run against PyTorch, shapes and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reticent.errors import ConfigError
from reticent.inference.ckks.program import Add, Convolution, Linear, Polynomial, Program, Step


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [((1, 1), (0, 0), (1, 1), 1), ((2, 3), (1, 2), (1, 1), 2), ((1, 2), (2, 0), (2, 1), 4)],
)
def test_a_convolution_is_pytorchs(stride, padding, dilation, groups):
    layer = torch.nn.Conv2d(
        4, 8, (3, 2), stride=stride, padding=padding, dilation=dilation, groups=groups
    ).double()
    x = torch.randn(3, 4, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step = Convolution(
        name="conv",
        weight=layer.weight.detach().numpy(),
        bias=layer.bias.detach().numpy(),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    wanted = layer(x).detach().numpy()
    assert step.shape((4, 9, 8)) == wanted.shape[1:]
    np.testing.assert_allclose(step.run(x.numpy()), wanted, atol=1e-12)


def test_a_residual_block_is_computed_in_order():
    weight, bias = np.array([[1.0, 2.0], [0.0, -1.0]]), np.array([0.5, 0.0])
    program = Program(
        input_shape=(2,),
        steps=(
            Step(operation=Linear(name="dense", weight=weight, bias=bias), sources=(0,)),
            Step(
                operation=Polynomial(name="square", coefficients=np.array([[0.0], [0.0], [1.0]])),
                sources=(1,),
            ),
            Step(operation=Add(name="skip"), sources=(0, 2)),
        ),
    )
    x = np.array([[1.0, 3.0]])
    np.testing.assert_allclose(program.run(x), x + (x @ weight.T + bias) ** 2)
    assert program.shapes() == [(2,), (2,), (2,), (2,)]


def test_a_polynomial_has_coefficients_per_channel():
    step = Polynomial(name="act", coefficients=np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]))
    x = np.ones((1, 2, 2, 2)) * 2
    np.testing.assert_allclose(step.run(x)[0, :, 0, 0], [1 + 3 * 4, 2 * 2])
    with pytest.raises(ConfigError, match="expected 2 channels, got 3"):
        step.shape((3, 2, 2))


def test_what_does_not_fit_is_refused_by_the_layers_name():
    dense = Linear(name="head", weight=np.ones((2, 5)), bias=np.zeros(2))
    with pytest.raises(ConfigError, match="'head': expected 5 values, got 4"):
        Program(input_shape=(4,), steps=(Step(operation=dense, sources=(0,)),))
    with pytest.raises(ConfigError, match="earlier values"):
        Program(input_shape=(5,), steps=(Step(operation=dense, sources=(3,)),))
    with pytest.raises(ConfigError, match="expected one input"):
        Program(input_shape=(5,), steps=(Step(operation=dense, sources=(0, 0)),))
