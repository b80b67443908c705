"""Chains: within the table, fewer primes where inputs aren't rotated, errors as simulated."""

from __future__ import annotations

import numpy as np
import pytest
from test_encrypted import FLAT, pair, perceptron

from reticent.inference.ckks.chain import flooded_chain
from reticent.inference.ckks.choice import TOLERANCE, best
from reticent.inference.ckks.lowering import lower
from reticent.inference.ckks.noise import Error, simulated_error
from reticent.inference.ckks.packing import last, period_of, several, single
from reticent.inference.ckks.parameters import MOST_BITS
from reticent.inference.ckks.plan import plan


def scales(chain):
    """The scale that each stage leaves, from weights and primes alone."""
    bits, primes, made = chain.parameters.scale_bits, chain.parameters.prime_bits, []
    for index, stage in enumerate(chain.stages):
        bits = (2 * bits if index else bits) + stage.weight_bits
        bits -= sum(primes[level] for level in range(stage.level, stage.left, -1))
        made.append(bits)
    return made


@pytest.mark.parametrize("layout", ["single", "several", "whole"])
@pytest.mark.parametrize("degree", [8192, 16384])
def test_chains_add_up_and_keep_to_the_table(layout, degree):
    lowered = lower(perceptron())
    first = lowered.matrices[0].weight
    slots = degree // 2
    laid = {"single": single(16, 30, slots), "several": several(first, slots), "whole": None}[
        layout
    ]
    layers = None if laid is None else (laid, last(3, laid.outputs, period_of(laid)))
    chain, error = best(lowered, layers, degree, bound=1.0)
    assert chain.parameters.bits <= MOST_BITS[degree]
    assert scales(chain) == [stage.out_bits for stage in chain.stages]
    assert chain.stages[-1].left == 0
    assert error.relative <= TOLERANCE
    # Two matrices spend at most two primes, more than one where the input is rotated.
    turned = layers is not None and layers[0].rotations > 1
    assert chain.parameters.levels in ((2,) if turned else (1, 2))


def test_flooded_chains_add_up_and_keep_to_the_table():
    for matrices, degree in ((1, 8192), (2, 16384), (3, 16384)):
        chain = flooded_chain(matrices, degree, 102)
        assert chain.parameters.bits <= MOST_BITS[degree]
        assert scales(chain) == [72] * matrices
        assert chain.stages[-1].left == 1
    assert flooded_chain(2, 8192, 102) is None


def test_simulated_errors_are_those_of_ciphertexts():
    program = perceptron(3, (40, 24, 5))
    made = plan(program, primitives=FLAT)
    client, server = pair(made, precision_bits=30)
    rng = np.random.default_rng(4)
    found = max(
        np.abs(client.decrypt(server.answer(client.encrypt(x))) - program.run(x[None])[0]).max()
        for x in rng.uniform(-1, 1, size=(6, 40))
    )
    told = simulated_error(made.lowered, made.layers, made.chain, bound=1.0).largest
    assert told / 20 < found < 5 * told


def test_answers_are_rounded_well_above_the_noise():
    for error in (2.0**-3, 2.0**-7.5, 2.0**-11):
        places = Error(largest=error, relative=error).places
        assert 2.0**-places >= 2 * error
        assert 2.0**-places <= 4 * error
