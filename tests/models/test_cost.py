"""FLOPs and parameters against the textbook formulas."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reticent.models.cost import flops, parameters

torch.set_num_threads(1)
small = st.integers(1, 6)


@given(small, small, st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_linear_layer_costs_two_per_weight(inputs: int, outputs: int, bias: bool) -> None:
    layer = nn.Linear(inputs, outputs, bias=bias)
    assert flops(layer, torch.randn(1, inputs)) == 2 * inputs * outputs
    assert parameters(layer) == inputs * outputs + bias * outputs


@given(small, small, st.sampled_from([1, 3, 5]), st.integers(1, 2), st.integers(5, 12))
@settings(max_examples=20, deadline=None)
def test_conv1d(channels: int, outputs: int, kernel: int, stride: int, length: int) -> None:
    layer = nn.Conv1d(channels, outputs, kernel, stride=stride)
    places = (length - kernel) // stride + 1
    counted = flops(layer, torch.randn(1, channels, length))
    assert counted == 2 * channels * kernel * outputs * places
    assert parameters(layer) == channels * kernel * outputs + outputs


@given(small, small, st.sampled_from([1, 3]), st.integers(4, 8), st.integers(4, 8))
@settings(max_examples=20, deadline=None)
def test_conv2d(channels: int, outputs: int, kernel: int, height: int, width: int) -> None:
    layer = nn.Conv2d(channels, outputs, kernel, padding=kernel // 2)
    counted = flops(layer, torch.randn(1, channels, height, width))
    assert counted == 2 * channels * kernel**2 * outputs * height * width


def test_elementwise_work_is_not_counted() -> None:
    layer = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Tanh())
    assert flops(layer, torch.randn(1, 3)) == 24
    assert flops(nn.ReLU(), torch.randn(1, 3)) == 0


def test_weights_used_twice_are_one_set_of_parameters_and_two_of_work() -> None:
    layer = nn.Linear(3, 3, bias=False)
    twice = nn.Sequential(layer, layer)
    assert parameters(twice) == 9
    assert flops(twice, torch.randn(1, 3)) == 36


def test_counting_leaves_each_part_in_the_mode_it_was_in() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).train()
    model[1].eval()
    flops(model, torch.randn(1, 3))
    assert [part.training for part in model] == [True, False, True]
    assert model.training
