"""Layouts in slots against the plain product; coverage; rotation counts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reticent.errors import UnsupportedError
from reticent.inference.ckks import packing
from reticent.inference.ckks.packing import Layer

sizes = st.integers(1, 20)


def evaluated(weight: np.ndarray, layer: Layer, x: np.ndarray) -> np.ndarray:
    """What the slots hold after products and rotate-and-add, on plain numbers."""
    total = np.zeros(layer.outputs.size)
    for columns, weights in zip(layer.columns, packing.diagonals(weight, layer), strict=True):
        values = np.where(columns >= 0, x[columns], 0.0)
        for rotation, each in enumerate(weights):
            total += each * np.roll(values, -rotation)
    for step in layer.sums:
        total = total + np.roll(total, -step)
    return total


def assert_product(weight: np.ndarray, layer: Layer, x: np.ndarray) -> None:
    slots = evaluated(weight, layer, x)
    holds = layer.outputs >= 0
    assert set(layer.outputs[holds]) == set(range(len(weight)))
    np.testing.assert_allclose(slots[holds], (weight @ x)[layer.outputs[holds]], atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(outputs=sizes, inputs=sizes, after=sizes, slots=st.sampled_from([32, 64, 256]))
def test_every_layout_computes_the_product(outputs, inputs, after, slots):
    rng = np.random.default_rng([outputs, inputs, after])
    first, second = rng.normal(size=(outputs, inputs)), rng.normal(size=(after, outputs))
    x = rng.normal(size=inputs)
    for layer in (packing.single(outputs, inputs, slots), packing.several(first, slots)):
        assert_product(first, layer, x)
        assert_product(second, packing.hidden(after, layer), first @ x)
        blocks = packing.last(after, layer.outputs, packing.period_of(layer))
        if blocks is not None:
            assert_product(second, blocks, first @ x)


@settings(max_examples=60, deadline=None)
@given(
    outputs=sizes,
    inputs=sizes,
    after=sizes,
    copies=st.sampled_from([1, 2, 4]),
    slots=st.sampled_from([128, 256]),
)
def test_copies_of_the_outputs_spare_the_next_matrix_rotations(
    outputs, inputs, after, copies, slots
):
    rng = np.random.default_rng([outputs, inputs, after])
    first, second = rng.normal(size=(outputs, inputs)), rng.normal(size=(after, outputs))
    x = rng.normal(size=inputs)
    try:
        layer = packing.several(first, slots, copies=copies, after=after)
    except UnsupportedError:
        assert copies > 1
        return
    assert_product(first, layer, x)
    then = packing.hidden(after, layer)
    assert_product(second, then, first @ x)
    assert then.rotations * copies == packing.hidden(after, packing.several(first, slots)).rotations


def test_a_sparse_matrix_keeps_only_the_rotations_that_meet_a_weight():
    weight = np.eye(16) + np.roll(np.eye(16), 5, axis=1)
    layer = packing.hidden(16, packing.several(np.ones((16, 3)), 64))
    thin = packing.thinned(weight, layer)
    assert thin.turns == (0, 5)
    assert thin.count == 1
    assert_product(weight, thin, np.random.default_rng(0).normal(size=16))
    assert packing.thinned(np.ones((16, 16)), layer).turns == tuple(range(16))


def test_each_pair_is_met_exactly_once_over_wrapped_blocks():
    """784 inputs in 4 pre-shifted copies, 128 outputs, 32 rotations: all 100,352 pairs, once."""
    layer = packing.single(128, 784, 4096)
    met = np.zeros((128, 784), dtype=int)
    for rotation in range(layer.rotations):
        turned = np.roll(layer.columns[0], -rotation)
        valid = (turned >= 0) & (layer.rows[0] >= 0)
        np.add.at(met, (layer.rows[0][valid], turned[valid]), 1)
    assert met.min() == met.max() == 1


def test_a_convolution_sends_only_the_pixels_it_uses():
    weight = np.zeros((100, 400))
    for row in range(100):
        weight[row, row : row + 9] = 1.0
    layer = packing.several(weight, 512)
    assert len(layer.columns) == 3  # 9 columns a row, 4 places for each of 128 rows
    x = np.random.default_rng(0).normal(size=400)
    assert_product(weight, layer, x)


def test_rotations_are_within_a_tenth_of_the_fewest():
    """The benchmarks' networks, against a bound that knows nothing of layouts."""
    first, then, final = np.ones((128, 784)), np.ones((100, 720)), np.ones((10, 128))
    one, many = packing.single(128, 784, 4096), packing.several(first, 4096)
    assert (one.count, packing.fewest_rotations(first, 1, 4096)) == (15, 13)
    assert many.count == packing.fewest_rotations(first, len(many.columns), 4096) == 5
    assert packing.fewest_rotations(final, 1, 4096) == 7
    assert 15 + 7 <= 1.1 * (13 + 7)
    assert packing.fewest_rotations(then, 1, 4096) == 13


def test_no_layout_beats_the_bound_on_rotations():
    """All ways to spend rotations on one small matrix, tried: none covers its pairs with fewer."""
    for outputs, inputs, slots in ((4, 8, 8), (8, 8, 16), (2, 16, 16), (8, 16, 16)):
        bound = packing.fewest_rotations(np.ones((outputs, inputs)), 1, slots)
        spent = [
            babies + giants + doublings
            for babies, giants, doublings in itertools.product(range(8), repeat=3)
            if (1 + babies) * (1 + giants) * slots >= outputs * inputs
            and (1 + babies) * (1 + giants) * 2**doublings >= inputs
        ]
        assert bound == min(spent)
        assert packing.single(outputs, inputs, slots).count >= bound


def test_a_layout_that_misses_a_weight_is_found():
    whole = packing.single(16, 16, 16)
    lame = Layer(**{**vars(whole), "rotations": whole.rotations - 1})
    packing.diagonals(np.ones((16, 16)), whole)
    with pytest.raises(AssertionError, match="misses a weight"):
        packing.diagonals(np.ones((16, 16)), lame)


def test_what_does_not_fit_a_ring_is_refused():
    with pytest.raises(UnsupportedError, match="at most 64 values in one ring, got 100"):
        packing.single(3, 100, 64)
    with pytest.raises(UnsupportedError, match="at most 64 inputs"):
        packing.repeated(65, 64)
