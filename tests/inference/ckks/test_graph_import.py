"""A recorded PyTorch model and its program compute the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reticent.errors import ConfigError, UnsupportedError
from reticent.inference.ckks.graph_import import to_program
from reticent.inference.ckks.program import Add, Convolution, Linear, Polynomial


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Residual(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def settled(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random parameters and running statistics, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.dtype.is_floating_point:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.4)
                if name.endswith("running_var"):
                    tensor.abs_().add_(0.1)
    return model.double().eval()


def assert_same(model: nn.Module, x: Tensor) -> None:
    program = to_program(model, x)
    with torch.no_grad():
        wanted = model(x).numpy()
    got = program.run(x.numpy().reshape(len(x), *program.input_shape))
    np.testing.assert_allclose(
        got.reshape(wanted.shape), wanted, rtol=1e-9, atol=1e-9 * max(1, np.abs(wanted).max())
    )


ACTIVATIONS = {
    "product": lambda x: x * x,
    "power": lambda x: x**2,
    "cube": lambda x: 0.1 * torch.pow(x, 3) - x / 2 + 1,
    "quadratic": lambda x: 0.5 + x * (1 - 0.25 * x),
    "reversed": lambda x: 2 - x.square(),
}


@st.composite
def convolutional(draw):
    channels, size = draw(st.integers(1, 3)), draw(st.integers(8, 11))
    length_only = draw(st.booleans())
    conv, norm, pool = (
        (nn.Conv1d, nn.BatchNorm1d, nn.AvgPool1d)
        if length_only
        else (nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d)
    )
    groups = draw(st.sampled_from([1, channels]))
    width = groups * draw(st.integers(1, 2))
    layers: list[nn.Module] = []
    if draw(st.booleans()):
        layers.append(norm(channels))
    layers.append(
        conv(
            channels,
            width,
            draw(st.integers(1, 3)),
            stride=draw(st.integers(1, 2)),
            padding=draw(st.integers(0, 2)),
            dilation=draw(st.integers(1, 2)),
            groups=groups,
            bias=draw(st.booleans()),
        )
    )
    if draw(st.booleans()):
        layers.append(norm(width, affine=draw(st.booleans())))
    layers.append(Apply(ACTIVATIONS[draw(st.sampled_from(sorted(ACTIVATIONS)))]))
    if draw(st.booleans()):
        layers.append(pool(2, stride=draw(st.integers(1, 2)), padding=draw(st.integers(0, 1))))
    if draw(st.booleans()):
        inner = nn.Sequential(conv(width, width, 3, padding="same"), Apply(ACTIVATIONS["power"]))
        layers.append(Residual(inner))
    layers += [nn.Flatten(), nn.Dropout(0.5)]
    model = nn.Sequential(*layers)
    x = torch.randn(
        4,
        *((channels, size) if length_only else (channels, size, size)),
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(draw(st.integers(0, 99))),
    )
    seed = draw(st.integers(0, 99))
    features = settled(model, seed)(x).shape[1]
    if draw(st.booleans()):
        model.append(nn.BatchNorm1d(features))
    model.append(nn.Linear(features, 3, bias=draw(st.booleans())))
    return settled(model, seed), x


@settings(max_examples=15, deadline=None)
@given(drawn=convolutional())
def test_drawn_convolutional_networks_agree_with_torch(drawn):
    assert_same(*drawn)


@settings(max_examples=6, deadline=None)
@given(
    widths=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    residual=st.booleans(),
)
def test_drawn_perceptrons_agree_with_torch(widths, activation, residual):
    layers: list[nn.Module] = []
    size = 5
    for width in widths:
        layers += [nn.Linear(size, width), nn.BatchNorm1d(width), Apply(ACTIVATIONS[activation])]
        size = width
    inner = nn.Linear(size, size)
    layers.append(Residual(inner) if residual else inner)
    assert_same(settled(nn.Sequential(*layers)), torch.randn(6, 5, dtype=torch.float64))


@pytest.mark.parametrize(
    "pool",
    [nn.AdaptiveAvgPool2d(3), nn.AdaptiveAvgPool2d(1), Apply(lambda x: x.mean(dim=(2, 3)))],
    ids=["adaptive", "global", "mean"],
)
def test_pooling_over_positions_agrees_with_torch(pool):
    model = settled(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), pool, nn.Flatten()))
    assert_same(model, torch.randn(3, 2, 6, 6, dtype=torch.float64))


def test_flat_records_may_become_images_at_the_start():
    model = settled(
        nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 2, 3), Apply(ACTIVATIONS["power"]))
    )
    assert_same(model, torch.randn(2, 16, dtype=torch.float64))


def test_batch_normalisation_costs_no_step_of_its_own():
    model = settled(
        nn.Sequential(
            nn.Conv2d(1, 3, 3),
            nn.BatchNorm2d(3),
            Apply(ACTIVATIONS["power"]),
            nn.Flatten(),
            nn.BatchNorm1d(48),
            nn.Linear(48, 4),
        )
    )
    kinds = [type(s.operation) for s in to_program(model, torch.zeros(1, 1, 6, 6)).steps]
    assert kinds == [Convolution, Polynomial, Linear]


def test_a_shift_before_padding_is_not_folded_into_the_kernel():
    model = settled(nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 1, 3, padding=1)))
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    assert [type(s.operation) for s in to_program(model, x).steps] == [Polynomial, Convolution]
    assert_same(model, x)


def test_a_value_used_twice_is_computed_once():
    model = settled(nn.Sequential(nn.Linear(4, 4), Residual(Apply(lambda x: x**2 * 3))))
    kinds = [type(s.operation) for s in to_program(model, torch.zeros(1, 4)).steps]
    assert kinds == [Linear, Polynomial]
    both = settled(nn.Sequential(nn.Linear(4, 4), Residual(nn.Linear(4, 4))))
    steps = to_program(both, torch.zeros(1, 4)).steps
    assert [type(s.operation) for s in steps] == [Linear, Linear, Add]


def test_a_final_softmax_is_left_out_with_a_warning():
    model = settled(nn.Sequential(nn.Linear(3, 4), nn.Softmax(1)))
    with pytest.warns(UserWarning, match="softmax at the end is left out"):
        program = to_program(model, torch.zeros(1, 3))
    x = torch.randn(20, 3, dtype=torch.float64)
    assert (program.run(x.numpy()).argmax(1) == model(x).argmax(1).numpy()).all()


def test_the_bound_is_the_samples_largest_value():
    assert to_program(nn.Linear(2, 2), torch.tensor([[0.5, -3.0]])).bound == 3.0


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.ReLU(), r"Never: layer '1' is relu.*polynomialise"),
        (nn.GELU(), r"Never: layer '1' is gelu.*polynomialise"),
        (nn.MaxPool2d(2), r"Never: layer '1' takes a maximum.*average pooling"),
        (nn.Softmax(1), r"Never: layer '1' is a softmax inside"),
        (nn.LayerNorm(4), r"Not yet: layer '1' uses layer_norm.*Use linear"),
        (Apply(lambda x: x * x.mean(dim=(2, 3), keepdim=True)), r"multiplies two different values"),
        (Apply(lambda x: 1 / x), r"Not yet: layer '1' uses reciprocal|divides by an encrypted"),
        (Apply(lambda x: x**0.5), r"no whole number from 1 to 16"),
        (Apply(lambda x: x.reshape(-1, 2, 4, 2)), r"mixes the records of a batch"),
        (nn.Linear(4, 4), r"applies one matrix along an axis"),
    ],
)
def test_what_is_no_polynomial_is_refused_by_name_with_a_remedy(layer, words):
    model = nn.Sequential(nn.Conv2d(2, 2, 1), layer, nn.Conv2d(2, 2, 1))
    with pytest.raises(UnsupportedError, match=words):
        to_program(model, torch.zeros(1, 2, 4, 4))


def test_a_sample_without_a_batch_is_refused():
    with pytest.raises(ConfigError, match=r"shape \(n, \.\.\.\)"):
        to_program(nn.Linear(2, 2), torch.zeros(2))
