"""Flooded replies: the noise has the claimed width, no slot holds a partial sum, answers stand."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from test_encrypted import pair, perceptron, planned

from reticent.errors import UnsupportedError
from reticent.inference.ckks import server as server_module
from reticent.inference.ckks.engine import seal_library
from reticent.inference.ckks.envelope import Kind, split, unpack
from reticent.inference.ckks.flooding import Flood, content, flood, flooded, limbs, room
from reticent.inference.ckks.noise import certified_error
from reticent.inference.ckks.parameters import MOST_BITS
from reticent.inference.ckks.reach import reach_within
from reticent.random import SecureRandom


@pytest.fixture(scope="module")
def parties():
    program = perceptron()
    made = planned(program, flooding_bits=40)
    return program, made, *pair(made, places=20)


def slots_of(client, reply):
    """Every slot of a reply as complex numbers, as a client that keeps to no rule sees them."""
    keys, made = client._keys, seal_library().Ciphertext()
    content = unpack(reply, kind=Kind.REPLY, plan=keys._plan, most=1 << 24).content
    made.load_bytes(keys.context, split(content, count=1, most=1 << 24)[0])
    return np.asarray(keys.encoder.decode_complex(keys._decryptor.decrypt(made)))


def test_flooded_answers_are_the_programs_but_for_the_stated_noise(parties):
    program, made, client, server = parties
    errors = []
    for x in np.random.default_rng(0).uniform(-1, 1, size=(4, 30)):
        errors.append(client.decrypt(server.answer(client.encrypt(x))) - program.run(x[None])[0])
    # 12 draws, of which none exceeds seven standard deviations but with chance 3e-11.
    assert np.abs(errors).max() < 7 * made.flood.spread + 2.0**-20
    assert np.abs(errors).max() > made.flood.spread / 20
    assert made.parameters.bits <= MOST_BITS[made.parameters.degree]
    assert "40 bits of statistical security" in made.describe()


def test_the_ring_is_larger_and_an_unflooded_plan_names_the_price(parties):
    _, made, _, _ = parties
    plain = planned(perceptron())
    assert made.parameters.degree > plain.parameters.degree
    assert f"flooding_bits=40 would take ring {made.parameters.degree}" in plain.describe()
    assert "times the server's CPU" in plain.describe()


def test_noise_and_masks_have_the_width_that_is_claimed(parties):
    _, made, client, server = parties
    engine, level = server._engine, made.chain.stages[-1].left
    answers = np.zeros(engine.slots, dtype=np.bool_)
    answers[: engine.slots // 2] = True
    by = Flood(bits=40, spread=2.0**-9, reach=2.0**20)
    zero = engine.zero(scale=2.0 ** made.chain.stages[-1].out_bits, level=level)
    out = flooded(engine, zero, answers, by, SecureRandom())
    keys = client._keys
    again = seal_library().Ciphertext()
    again.load_bytes(keys.context, engine.save(out))
    found = np.asarray(keys.encoder.decode_complex(keys._decryptor.decrypt(again)))
    # 4,096 draws: their standard deviation is right to 1.1 %, and 10 % less would be nine off.
    assert found.real[answers].std() == pytest.approx(by.spread, rel=0.06)
    for masked in (found.real[~answers], found.imag):
        assert masked.std() == pytest.approx(by.reach / math.sqrt(3), rel=0.06)
        assert np.abs(masked).max() <= by.reach * 1.001


def test_the_stated_distance_follows_from_the_widths():
    error, held, degree, answers = 2.0**-55, 2.0**-18, 16384, 10
    made = flood(40, masked=degree, answers=answers, error=error, content=held)

    def distance(spread, reach):
        noise = math.sqrt(answers) * error / (2 * spread)
        return noise + degree * held / (2 * reach) + 2.0**-42

    assert distance(made.spread, made.reach) <= 2.0**-40
    assert distance(made.spread / 1.01, made.reach) > 2.0**-40
    assert distance(made.spread, made.reach / 1.01) > 2.0**-40


def test_a_wide_mask_is_random_down_to_its_last_bit():
    reach, scale = 2.0**33, 2.0**72
    parts = limbs(SecureRandom(), (2000,), reach, scale)
    for above, below in itertools.pairwise(parts):
        # The finest step of one lies well within the next one's reach.
        assert np.spacing(np.abs(above).max()) * 2**7 <= np.abs(below).max() * 2
    assert np.abs(parts[-1]).max() * scale * 2.0**-52 < 1
    assert np.abs(sum(parts)).max() <= reach * (1 + 2.0**-40)


def test_masks_stay_within_the_replys_modulus(parties):
    _, made, _, _ = parties
    level = made.chain.stages[-1].left
    assert level == 1
    bits = sum(made.parameters.prime_bits[: level + 1])
    scale = made.chain.stages[-1].out_bits
    assert scale + room(made.flood, made.parameters.degree) <= bits


def test_no_slot_of_a_flooded_reply_holds_a_partial_sum(parties, monkeypatch):
    program, _, client, server = parties
    monkeypatch.setattr(server_module, "flooded", lambda _engine, value, *_: value)
    x = np.random.default_rng(1).uniform(-1, 1, size=30)
    naked = slots_of(client, server.answer(client.encrypt(x)))
    answers = np.append(program.run(x[None])[0], 0.0)
    away = np.abs(naked[:, None] - answers[None]).min(axis=1)
    # An answer, or nothing but what the encoding of weights leaves.
    held = content(parties[1].lowered, parties[1].parameters.degree, bound=1.0, bits=40)
    assert held < 2.0**-10
    assert away.max() < held
    assert np.abs(naked.imag).max() < held


def test_noise_is_bounded_at_the_worst_inputs(parties):
    """The same corner of the box twice: what differs is the noise of keys and ciphertexts."""
    _, made, _, _ = parties
    gains = reach_within(made.lowered, 1.0)
    told = certified_error(gains, made.layers, made.chain, answers=3, bits=42, own=True)
    assert told == pytest.approx(made.flood.spread / 2.0**40 / math.sqrt(3))
    plain = planned(perceptron())
    exact = tuple(dataclasses.replace(gain, coded=0.0, used=0.0) for gain in gains)
    told = certified_error(exact, plain.layers, plain.chain, answers=3)
    client, server = pair(plain, places=40)
    worst = 0.0
    for row in plain.lowered.matrices[0].weight:
        first, second = (client.decrypt(server.answer(client.encrypt(np.sign(row)))) for _ in "ab")
        worst = max(worst, np.abs(first - second).max())
    assert told / 500 < worst < 2 * told


def test_networks_that_no_ring_floods_are_refused():
    with pytest.raises(UnsupportedError, match="Never in one ring"):
        planned(perceptron(), flooding_bits=400)
