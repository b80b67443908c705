"""Chains: within the table, fewer primes without rotations; errors within what is certified."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from test_encrypted import pair, perceptron, planned

from reticent.errors import ConfigError
from reticent.inference.ckks.chain import FLOODED_BITS, chains, flooded_chain
from reticent.inference.ckks.choice import best
from reticent.inference.ckks.client import EncryptedClient
from reticent.inference.ckks.engine import context_of, keyed_engine, seal_library
from reticent.inference.ckks.lowering import lower
from reticent.inference.ckks.noise import _Sum, certified_error, places_for, tail
from reticent.inference.ckks.packing import last, period_of, several, single
from reticent.inference.ckks.parameters import MOST_BITS, Parameters
from reticent.inference.ckks.reach import (
    Reach,
    measured_reach,
    reach_from_json,
    reach_within,
)

RECORDS = np.random.default_rng(2).uniform(-1, 1, size=(40, 30))


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
    reach = measured_reach(lowered, 1.0, RECORDS)
    chain, error = best(lowered, layers, degree, reach=reach)
    assert chain.parameters.bits <= MOST_BITS[degree]
    assert scales(chain) == [stage.out_bits for stage in chain.stages]
    assert chain.stages[-1].left == 0
    assert error <= reach.most
    # Two matrices spend at most two primes, more than one where the input is rotated.
    turned = layers is not None and layers[0].rotations > 1
    assert chain.parameters.levels in ((2,) if turned else (1, 2))


def test_flooded_chains_add_up_and_keep_to_the_table():
    for matrices, degree, scale in ((1, 8192, 72), (2, 16384, 84), (3, 16384, 72), (3, 32768, 120)):
        chain = flooded_chain(matrices, degree, scale=scale, reply_bits=scale + 30)
        assert chain.parameters.bits <= MOST_BITS[degree]
        assert scales(chain) == [scale] * matrices
        assert chain.stages[-1].left == (1 if scale <= 84 else 2)
    assert flooded_chain(2, 8192, scale=72, reply_bits=102) is None
    assert all(
        flooded_chain(2, 32768, scale=scale, reply_bits=scale + 30)
        for scales_of in FLOODED_BITS
        for scale in scales_of
    )


@pytest.mark.parametrize("goal", ["latency", "upload"])
@pytest.mark.parametrize("sizes", [(40, 5), (40, 24, 5), (12, 10, 6, 3)])
def test_no_error_is_larger_than_certified(sizes, goal):
    program = network(sizes)
    rng = np.random.default_rng(4)
    records = rng.uniform(-1, 1, size=(60, sizes[0]))
    made = planned(program, goal=goal, records=records[:40])
    found = []
    for _ in range(2):  # the largest error depends on the keys
        client, server = pair(made, places=40)
        for x in records[40:]:
            answer = client.decrypt(server.answer(client.encrypt(x)))
            found.append(np.abs(answer - program.run(x[None])[0]).max())
    assert 2 * error_of(made) <= 2.0**-made.estimate.places or made.estimate.places == 12
    # Those that were asked about are the ones that noise must not reach farther from.
    told = error_of(
        dataclasses.replace(made, reach=measured_reach(made.lowered, 1.0, records[40:]))
    )
    assert told / 200 < max(found) < told


def test_two_certificates_of_one_network_differ_by_what_they_cover():
    """Every input is more than some, and what a server adds less than all there is."""
    made = planned(network((20, 8, 3)))
    every = reach_within(made.lowered, 1.0)
    for most, some in zip(every, made.reach.gains, strict=True):
        for name, value in vars(some).items():
            assert getattr(most, name) >= value * (1 - 1e-12), name
    told = {"answers": 3, "layers": made.layers, "chain": made.chain}
    assert certified_error(every, own=True, **told) < certified_error(every, **told)
    assert certified_error(every, bits=10, **told) < certified_error(every, bits=40, **told)


def test_gains_are_those_of_the_jacobian():
    """Against derivatives taken numerically, through the squares, at the worst of the records."""
    lowered = lower(network((6, 5, 4, 3)))
    records = np.random.default_rng(0).uniform(-1, 1, size=(7, 6))
    found = measured_reach(lowered, 1.0, records).gains
    first, middle, final = (matrix.weight for matrix in lowered.matrices)
    step, jacobians = 1e-6, {0: [], 1: []}
    for x in records:
        for at in (0, 1):
            columns = []
            for row in range((len(first), len(middle))[at]):
                answers = []
                for sign in (1, -1):
                    z = first @ x + lowered.matrices[0].bias
                    z[row] += sign * step * (at == 0)
                    z = middle @ lowered.squares[0].run(z) + lowered.matrices[1].bias
                    z[row if at == 1 else 0] += sign * step * (at == 1)
                    answers.append(final @ lowered.squares[1].run(z))
                columns.append((answers[0] - answers[1]) / (2 * step))
            jacobians[at].append(np.stack(columns, axis=1))
    last_but_one = np.array(jacobians[1])
    assert found[1].rows == pytest.approx((last_but_one**2).sum(axis=2).max(), rel=1e-4)
    assert found[1].row == pytest.approx((last_but_one**2).max(), rel=1e-4)
    energy = (np.array(jacobians[0]) @ first) ** 2
    assert found[0].values == pytest.approx(energy.sum(axis=2).max(), rel=1e-4)
    met = np.array(jacobians[1]) ** 2 @ (middle**2).sum(axis=1)
    assert found[1].pairs == pytest.approx(met.max(), rel=1e-4)
    # Noise in slots that hold one row apart is at least what one noise in all of them is.
    assert found[0].rows >= (np.array(jacobians[0]) ** 2).sum(axis=2).max() * (1 - 1e-4)


def test_the_noise_of_ciphertexts_is_what_is_said_of_it():
    """Not only bounded: the deviation over keys, for one input each, by the one it is told from."""
    program = network((12, 10, 6, 3))
    records = np.random.default_rng(4).uniform(-1, 1, size=(3, 12))
    made = planned(program, records=records)
    told = []
    for x in records:
        gains = measured_reach(made.lowered, 1.0, x[None]).at(made.layers[0].copies)
        exact = tuple(dataclasses.replace(gain, coded=0.0, used=0.0) for gain in gains)
        error = certified_error(exact, made.layers, made.chain, answers=3)
        told.append(error / tail(20, 3))
    errors = []
    for _ in range(25):
        client, server = pair(made, places=40)
        errors.append([client.decrypt(server.answer(client.encrypt(x))) for x in records])
    found = np.std(errors, axis=0).max(axis=1)
    # 25 draws: a deviation is right to 14 %.
    assert (found < 1.5 * np.array(told)).all()
    assert (found > 0.5 * np.array(told)).all()


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_rotations_noise_is_what_is_said_of_every_slot_and_of_the_first(level):
    parameters = Parameters(degree=8192, prime_bits=(56, 47, 59, 56), scale_bits=30)
    seal, context = seal_library(), context_of(parameters)
    keys = seal.KeyGenerator(context)
    public = keys.create_public_key()
    engine = keyed_engine(context, keys, public)
    encoder, decryptor = seal.CKKSEncoder(context), seal.Decryptor(context, keys.secret_key())

    def slots(a):
        return np.asarray(encoder.decode_complex(decryptor.decrypt(a))).real

    errors = []
    for _ in range(12):
        zero = engine.zero(scale=1.0, level=level)
        errors.append(slots(engine.rotate(zero, 1)) - np.roll(slots(zero), -1))
    told = _Sum(
        dataclasses.replace(
            next(chains(3, 8192, merged=False, whole=False)), parameters=parameters
        ),
        20,
    )
    random, spike = told._turning(level, 1)
    each = np.sqrt(random + told._rounding(1))
    z = tail(20, 4096)
    usual = np.sqrt(np.median(np.square(errors)))
    assert each / 20 < usual < each
    assert np.abs(np.array(errors)).max() < z * (each + np.sqrt(spike))
    # What lies in the first slots is the same each time, and above the others. By a tenth of a
    # percent of keys both are too small to be told.
    first = np.array(errors)[:, :2]
    clear = first[:, int(np.abs(first.mean(axis=0)).argmax())]
    assert np.abs(clear).min() > 2 * usual
    assert clear.std() < 0.5 * np.abs(clear.mean())
    assert z * np.sqrt(spike) > np.abs(clear).max()


def test_answers_are_rounded_well_above_the_noise():
    for error in (2.0**-3, 2.0**-7.5, 2.0**-11):
        assert 2.0 ** -places_for(error) >= 2 * error
        assert 2.0 ** -places_for(error) <= 4 * error


def test_a_client_rounds_no_finer_than_is_certified():
    given = planned(perceptron()).for_client()
    assert EncryptedClient(given, precision_bits=given.places - 2)._precision == given.places - 2
    with pytest.raises(ConfigError, match=f"at most {given.places}"):
        EncryptedClient(given, precision_bits=given.places + 1)


def test_rounding_leaves_decisions_alone():
    program = network((20, 8, 3))
    records = np.random.default_rng(1).uniform(-1, 1, size=(500, 20))
    made = planned(program, records=records)
    answers, step = program.run(records), 2.0**-made.estimate.places
    rounded = np.round(answers / step) * step
    assert (rounded.argmax(axis=1) != answers.argmax(axis=1)).sum() <= 1
    assert "certified on 500 records" in made.describe()
    linear = planned(network((20, 3)), records=None)
    assert "certified on every input within the bound" in linear.describe()
    with pytest.raises(ConfigError, match=r"got records=None"):
        planned(program, records=None)
    with pytest.raises(ConfigError, match="records of 20 numbers"):
        planned(program, records=records[:, :3])


def test_a_reach_survives_json():
    reach = planned(perceptron()).reach
    assert reach_from_json(reach.to_json()) == reach
    assert isinstance(reach, Reach)
    with pytest.raises(ValueError, match="wanted"):
        reach_from_json({**reach.to_json(), "wanted": -1.0})


def network(sizes):
    return perceptron(3, sizes) if len(sizes) == 3 else _deep(sizes)


def _deep(sizes):
    from test_encrypted import chain, dense, quadratic

    rng = np.random.default_rng(5)
    steps = [dense(rng, "fc0", sizes[1], sizes[0])]
    for index, (inside, out) in enumerate(itertools.pairwise(sizes[1:]), 1):
        steps += [quadratic(f"act{index}", inside, rng), dense(rng, f"fc{index}", out, inside)]
    return chain(*steps, shape=(sizes[0],))


def error_of(made):
    return certified_error(
        made.reach.at(made.layers[0].copies),
        made.layers,
        made.chain,
        answers=len(made.lowered.matrices[-1].weight),
    )
