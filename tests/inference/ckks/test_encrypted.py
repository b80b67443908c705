"""Client and server over bytes: answers, masks, refusals, hostile input."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import numpy as np
import pytest

from reticent.errors import (
    AuthenticationError,
    BudgetExhaustedError,
    BundleError,
    ConfigError,
    DataError,
    EvidenceError,
    InputError,
    UnsupportedError,
)
from reticent.inference.ckks import layouts, masking, packing
from reticent.inference.ckks import server as server_module
from reticent.inference.ckks.client import EncryptedClient
from reticent.inference.ckks.engine import SealEngine, _context, seal_library
from reticent.inference.ckks.envelope import HEADER_BYTES, checksum_of, join, split
from reticent.inference.ckks.keys import ClientKeys
from reticent.inference.ckks.lowering import lower
from reticent.inference.ckks.parameters import MOST_BITS, Parameters
from reticent.inference.ckks.plan import Plan, plan
from reticent.inference.ckks.primitives import OPERATIONS, Primitives
from reticent.inference.ckks.program import (
    Add,
    Convolution,
    Linear,
    Polynomial,
    Program,
    Step,
)
from reticent.inference.ckks.server import EncryptedServer, Weights

FLAT = Primitives(table=dict.fromkeys(OPERATIONS, (1.0,) * 8))


def chain(*operations, shape, bound=1.0):
    steps = tuple(Step(operation=each, sources=(i,)) for i, each in enumerate(operations))
    return Program(input_shape=shape, steps=steps, bound=bound)


def dense(rng, name, outputs, inputs):
    return Linear(
        name=name,
        weight=rng.normal(size=(outputs, inputs)) / np.sqrt(inputs),
        bias=rng.normal(size=outputs) / 4,
    )


def quadratic(name, channels, rng):
    return Polynomial(name=name, coefficients=rng.uniform(0.2, 1.0, size=(3, channels)))


def perceptron(seed=0, sizes=(30, 16, 3)):
    rng = np.random.default_rng(seed)
    return chain(
        dense(rng, "fc1", sizes[1], sizes[0]),
        quadratic("act", sizes[1], rng),
        dense(rng, "fc2", sizes[2], sizes[1]),
        shape=(sizes[0],),
    )


def pair(made: Plan, *, places=None, **settings):
    """Client and server; `places` reads answers finer than is certified."""
    given = made.for_client()
    given = given if places is None else dataclasses.replace(given, places=places)
    client = EncryptedClient(given, **settings)
    return client, EncryptedServer(made, client.public_keys)


def records(program, n=64):
    """Inputs like those that are asked about."""
    shape = (n, int(np.prod(program.input_shape)))
    return np.random.default_rng(11).uniform(-1, 1, size=shape)


def planned(program, **settings):
    """Laid out with costs that every machine agrees on."""
    return plan(program, **{"records": records(program), "primitives": FLAT, **settings})


def certified(made):
    """The error that rounding leaves room for: what the plan vouches for."""
    return 2.0 ** -(made.estimate.places + 1)


@pytest.fixture(scope="module")
def parties():
    program = perceptron()
    made = planned(program)
    return program, made, *pair(made, places=16)


@pytest.mark.parametrize("goal", ["latency", "upload"])
def test_an_encrypted_answer_is_the_programs(goal):
    program = perceptron(1, (50, 20, 4))
    made = planned(program, goal=goal)
    client, server = pair(made, places=16)
    for x in np.random.default_rng(2).uniform(-1, 1, size=(3, 50)):
        answer = client.decrypt(server.answer(client.encrypt(x)))
        np.testing.assert_allclose(answer, program.run(x[None])[0], atol=certified(made))


def test_a_convolution_and_two_activations_are_computed():
    rng = np.random.default_rng(3)
    kernel = Convolution(
        name="conv",
        weight=rng.normal(size=(2, 1, 3, 3)) / 3,
        bias=rng.normal(size=2) / 4,
        stride=(2, 2),
    )
    program = chain(
        kernel,
        quadratic("act1", 2, rng),
        dense(rng, "fc1", 8, 18),
        quadratic("act2", 8, rng),
        dense(rng, "fc2", 3, 8),
        shape=(1, 8, 8),
    )
    made = planned(program)
    assert made.parameters.levels in (2, 3)
    client, server = pair(made, places=16)
    x = rng.uniform(-1, 1, size=(1, 8, 8))
    answer = client.decrypt(server.answer(client.encrypt(x)))
    np.testing.assert_allclose(answer, program.run(x[None])[0], atol=certified(made))


def test_a_linear_model_takes_one_level():
    rng = np.random.default_rng(4)
    program = chain(dense(rng, "logistic", 2, 30), shape=(30,))
    made = planned(program)
    assert made.parameters.levels == 1
    client, server = pair(made, places=16)
    x = rng.uniform(-1, 1, size=30)
    answer = client.decrypt(server.answer(client.encrypt(x)))
    np.testing.assert_allclose(answer, program.run(x[None])[0], atol=certified(made))


def test_lowering_keeps_the_function():
    program = perceptron(5)
    x = np.random.default_rng(6).normal(size=(4, 30))
    np.testing.assert_allclose(lower(program).run(x), program.run(x), rtol=1e-9)


def test_nearly_linear_and_dead_channels_keep_their_precision():
    rng = np.random.default_rng(12)
    coefficients = np.array([[0.1, 0.0, 0.2, 0.3], [1.0, 0.0, -0.8, 0.5], [1e-5, 0.0, 1e-3, 0.7]])
    program = chain(
        dense(rng, "fc1", 4, 10),
        Polynomial(name="act", coefficients=coefficients),
        dense(rng, "fc2", 2, 4),
        shape=(10,),
    )
    lowered = lower(program)
    assert np.abs(lowered.squares[0].offset).max() <= 64
    x = rng.uniform(-1, 1, size=(2, 10))
    np.testing.assert_allclose(lowered.run(x), program.run(x), atol=1e-9)
    made = planned(program)
    client, server = pair(made, places=16)
    answer = client.decrypt(server.answer(client.encrypt(x[0])))
    np.testing.assert_allclose(answer, program.run(x[:1])[0], atol=certified(made))


def slots_of(client, reply):
    """Every slot of a reply, as a client that keeps to no rule would look at them."""
    return client._opened(reply)


def partial_sums(made, x):
    """What the last layer's blank slots hold before they are masked, from plain numbers."""
    hidden = made.lowered.squares[0].run(made.lowered.matrices[0].run(x[None]))[0]
    layer, matrix = made.layers[-1], made.lowered.matrices[-1]
    columns = layer.columns[0]
    total = packing.diagonals(matrix.weight, layer)[0][0] * np.where(
        columns >= 0, hidden[columns], 0.0
    )
    for step in layer.sums:
        total = total + np.roll(total, -step)
    return total


def test_blank_slots_leak_partial_sums_without_the_mask_and_not_with_it(parties, monkeypatch):
    _, made, client, server = parties
    x = np.random.default_rng(7).uniform(-1, 1, size=30)
    leaked, blank = partial_sums(made, x), made.layers[-1].outputs < 0
    telling = blank & (np.abs(leaked) > 0.05)
    assert telling.sum() > 20
    masked = slots_of(client, server.answer(client.encrypt(x)))
    # Uniform on 2**29 numbers: the chance that one of them comes this near is 2**-20.
    assert (np.abs(masked - leaked)[telling] > 100).mean() > 0.99
    spread = masked[blank] / 2.0**masking.MASK_BITS
    assert abs(spread.mean()) < 0.06
    assert abs(spread.std() - 1 / np.sqrt(3)) < 0.05
    monkeypatch.setattr(server_module, "masked", lambda _engine, value, *_: value)
    naked = slots_of(client, server.answer(client.encrypt(x)))
    np.testing.assert_allclose(naked[telling], leaked[telling], atol=5e-3)


def test_imaginary_parts_are_masked_too(parties):
    """A client that encrypts complex numbers would get a second evaluation otherwise."""
    _, _, client, server = parties
    keys, made = client._keys, seal_library().Ciphertext()
    reply = server.answer(client.encrypt(np.zeros(30)))
    content = split(memoryview(reply)[HEADER_BYTES:], count=1, most=1 << 24)
    made.load_bytes(keys.context, content[0])
    slots = np.asarray(keys.encoder.decode_complex(keys._decryptor.decrypt(made)))
    assert slots.imag.std() / 2.0**masking.MASK_BITS == pytest.approx(1 / np.sqrt(3), rel=0.06)
    assert (np.abs(slots.real) < 100).sum() == 3


def test_replies_to_one_query_share_no_randomness(parties):
    _, _, client, server = parties
    request = client.encrypt(np.zeros(30))
    first, second = server.answer(request), server.answer(request)
    differing = np.frombuffer(first[-60_000:], np.uint8) != np.frombuffer(
        second[-60_000:], np.uint8
    )
    assert differing.mean() > 0.8
    np.testing.assert_allclose(client.decrypt(first), client.decrypt(second), atol=5e-3)


def test_requests_have_one_size_whatever_they_hold(parties):
    _, _, client, server = parties
    requests = [client.encrypt(np.full(30, value)) for value in (0.0, 1.0, -0.3)]
    assert len({len(request) for request in requests}) == 1
    assert len({len(server.answer(request)) for request in requests}) == 1


def test_the_secret_key_does_not_print_or_travel(parties):
    _, _, client, _ = parties
    keys = client._keys._keys
    assert repr(keys) == "SecretKeys(hidden)"
    assert "hidden" in repr(client._keys)
    for travel in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="stay in this process"):
            travel(keys)
    for travel in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            travel(client._keys)
    secret = bytes(keys.secret.to_string())[200:600]
    assert secret not in client.public_keys


def test_answers_are_rounded_and_keys_run_out():
    program = perceptron(8)
    client, server = pair(planned(program), precision_bits=5, most_queries=1)
    answer = client.decrypt(server.answer(client.encrypt(np.zeros(30))))
    np.testing.assert_array_equal(answer * 32, np.round(answer * 32))
    with pytest.raises(BudgetExhaustedError, match="most_queries=1"):
        client.encrypt(np.zeros(30))
    before = client.public_keys
    client.rotate()
    assert client.public_keys != before
    with pytest.raises(AuthenticationError, match="Upload the evaluation keys"):
        server.answer(client.encrypt(np.zeros(30)))


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (np.full(30, 1.5), "at most 1 in size"),
        (np.full(30, np.nan), "finite inputs"),
        (np.zeros(29), "Expected 30 numbers"),
    ],
)
def test_inputs_are_checked_before_they_are_encrypted(parties, x, said):
    with pytest.raises(InputError, match=said):
        parties[2].encrypt(x)


def test_damaged_and_hostile_requests_are_refused(parties):
    _, _, client, server = parties
    good = client.encrypt(np.zeros(30))
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    for bad, said in (
        (b"", "envelope of over"),
        (good[:1000], "bytes that the header states"),
        (good + b"x", "bytes that the header states"),
        (b"XXXX" + good[4:], "kind REQUEST"),
        (client.public_keys[: len(good)], "kind REQUEST"),
        (bytes(flipped), "damaged"),
    ):
        with pytest.raises(DataError, match=said):
            server.answer(bad)
    assert client.decrypt(server.answer(good)).shape == (3,)


def repacked(request, content):
    import struct

    head = bytearray(request[:HEADER_BYTES])
    head[-12:] = struct.pack("<IQ", checksum_of(content), len(content))
    return bytes(head) + content


def test_a_well_formed_envelope_of_rubbish_meets_the_validating_loader(parties):
    _, _, client, server = parties
    good = client.encrypt(np.zeros(30))
    content = bytearray(good[HEADER_BYTES:])
    content[5000:5008] = b"\xff" * 8  # a coefficient above its prime
    with pytest.raises(DataError, match="bytes that are none"):
        server.answer(repacked(good, bytes(content)))
    random = np.random.default_rng(9).bytes(len(content) - 8)
    with pytest.raises(DataError, match="bytes that are none"):
        server.answer(repacked(good, good[HEADER_BYTES : HEADER_BYTES + 8] + random))


def test_a_ciphertext_at_another_level_is_refused(parties):
    _, _, client, server = parties
    good = client.encrypt(np.zeros(30))
    engine = server._engine
    part = split(good[HEADER_BYTES:], count=1, most=1 << 24)[0]
    value = engine.load(part)
    level = engine.level(value)
    low = engine.rescale(
        engine.multiply_plain(value, engine.encode(np.ones(4096), scale=2.0**30, level=level))
    )
    with pytest.raises(DataError, match=f"level={level} and"):
        server.answer(repacked(good, join([engine.save(low)])))


def test_another_plans_client_is_turned_away(parties):
    _, _, _, server = parties
    other = EncryptedClient(planned(perceptron(10, (31, 16, 3))).for_client())
    with pytest.raises(BundleError, match="Fetch the client files"):
        server.answer(other.encrypt(np.zeros(31)))
    with pytest.raises(BundleError, match="for plan"):
        EncryptedServer(server._plan, other.public_keys)


def _plaintexts(ready):
    return [plain for each in ready._encoded[1] for plain in each.values()]


def test_clients_of_one_plan_share_weights_that_were_encoded_once(monkeypatch):
    program = perceptron()
    made = planned(program)
    weights, x = Weights(made), records(program)[:3]
    want = program.run(x)
    encoded = []
    encode = SealEngine.encode
    monkeypatch.setattr(
        SealEngine,
        "encode",
        lambda self, values, **given: encoded.append(1) or encode(self, values, **given),
    )
    counts = []
    for _ in range(3):
        client = EncryptedClient(dataclasses.replace(made.for_client(), places=16))
        # As in processes that share nothing: other objects of the same parameters.
        _context.cache_clear()
        server = EncryptedServer(made, client.public_keys, weights=weights)
        encoded.clear()
        got = [client.decrypt(server.answer(client.encrypt(each))) for each in x]
        assert np.abs(np.array(got) - want).max() < certified(made)
        counts.append(len(encoded))
    # A mask for each answer is all that is left to encode.
    assert counts[0] > counts[1] == counts[2] == len(x)
    # And what is kept takes no more than the planner counts before it calls a layout affordable.
    held = sum(plain.capacity() * 8 for each in weights._layers for plain in _plaintexts(each))
    keys = made.parameters.key_bytes(len(made.steps))
    laid = layouts.Laid(packing="", layers=made.layers, chain=made.chain, error=0.0)
    assert 0 < held <= layouts._encoded_bytes(laid) - keys
    with pytest.raises(ConfigError, match="another's"):
        EncryptedServer(planned(program), client.public_keys, weights=weights)


def test_a_reply_under_other_keys_is_no_answer(parties):
    _, made, client, _ = parties
    other, other_server = pair(made)
    theirs = other_server.answer(other.encrypt(np.zeros(30)))
    with pytest.raises(EvidenceError, match="other keys"):
        client.decrypt(theirs)
    forged = theirs[:22] + client.encrypt(np.zeros(30))[22:38] + theirs[38:]
    with pytest.raises(EvidenceError, match="no answer of this network"):
        client.decrypt(forged)


def test_security_parameters_are_the_standards():
    assert dict(MOST_BITS) == {4096: 109, 8192: 218, 16384: 438, 32768: 881}
    with pytest.raises(ConfigError, match="at most 218 bits"):
        Parameters(degree=8192, prime_bits=(60, 40, 60, 60), scale_bits=30)
    rng, deep = np.random.default_rng(0), []
    for index in range(30):
        deep += [dense(rng, f"fc{index}", 4, 4), quadratic(f"act{index}", 4, rng)]
    with pytest.raises(UnsupportedError, match="'fc19' needs one more level, of 881 bits"):
        planned(chain(*deep, shape=(4,)))


def residual(rng) -> Program:
    """A dense layer, a quadratic and a skip over both, then a quartic, a cubic and their sum."""
    return Program(
        input_shape=(8,),
        steps=(
            Step(operation=dense(rng, "fc1", 8, 8), sources=(0,)),
            Step(operation=quadratic("act1", 8, rng), sources=(1,)),
            Step(operation=dense(rng, "fc2", 8, 8), sources=(2,)),
            Step(operation=Add(name="skip"), sources=(0, 3)),
            Step(operation=polynomial(rng, "act2", 4, 8), sources=(4,)),
            Step(operation=polynomial(rng, "act3", 3, 8), sources=(4,)),
            Step(operation=Add(name="both"), sources=(5, 6, 4)),
            Step(operation=dense(rng, "fc3", 3, 8), sources=(7,)),
        ),
    )


def polynomial(rng, name, degree, channels):
    return Polynomial(name=name, coefficients=rng.normal(size=(degree + 1, channels)) / 4)


def test_residuals_and_higher_degrees_are_computed():
    program = residual(np.random.default_rng(20))
    made = planned(program)
    # Three depths of squares: one for the quadratic, two for the quartic and the cubic.
    assert len(made.lowered.squares) == 3
    client, server = pair(made, places=16)
    for x in np.random.default_rng(21).uniform(-1, 1, size=(2, 8)):
        answer = client.decrypt(server.answer(client.encrypt(x)))
        np.testing.assert_allclose(answer, program.run(x[None])[0], atol=certified(made))


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [1.0, 1e-3])
def test_lowering_is_exact_for_every_degree(degree, size):
    """Also where the highest coefficient is small beside the others, or none."""
    rng = np.random.default_rng(degree)
    act = polynomial(rng, "act", degree, 6)
    act.coefficients[degree] *= size
    act.coefficients[degree, 0] = 0.0
    program = chain(dense(rng, "fc1", 6, 5), act, dense(rng, "fc2", 2, 6), shape=(5,))
    lowered = lower(program)
    assert all(np.abs(square.offset).max() <= 64 for square in lowered.squares)
    x = rng.normal(size=(9, 5))
    np.testing.assert_allclose(lowered.run(x), program.run(x), atol=1e-9)


def test_sparse_stages_rotate_only_for_their_weights():
    rng = np.random.default_rng(22)
    act = polynomial(rng, "act", 4, 32)
    program = chain(dense(rng, "fc1", 32, 30), act, dense(rng, "fc2", 20, 32), shape=(30,))
    made = planned(program, records=records(program, 8))
    middle = made.layers[1]
    assert middle.rotations >= 32
    assert len(middle.turns) <= 4
    assert middle.count < 10


def test_what_can_not_be_encrypted_yet_is_named():
    fifth = Polynomial(name="fifth", coefficients=np.ones((6, 1)))
    with pytest.raises(UnsupportedError, match="'fifth' is a polynomial of degree=5"):
        planned(chain(fifth, shape=(4,)))


def test_the_plan_says_what_each_packing_costs(parties):
    _, made, client, server = parties
    told = made.describe()
    assert "ring 8192, modulus" in told
    assert "single:" in told
    assert "several:" in told
    request = client.encrypt(np.zeros(30))
    assert len(request) == pytest.approx(made.estimate.upload_bytes, rel=0.001)
    assert len(client.public_keys) == pytest.approx(made.estimate.key_bytes, rel=0.01)
    assert len(server.answer(request)) == pytest.approx(made.estimate.reply_bytes, rel=0.01)


def test_networks_whose_weights_fill_the_memory_are_refused_before_they_do(monkeypatch):
    monkeypatch.setattr(layouts, "MOST_BYTES", 5_000_000)
    with pytest.raises(UnsupportedError, match=r"GB.*sealed split"):
        planned(perceptron())


def altered(client, reply, change):
    """`reply` with another ciphertext in it, the envelope in order."""
    keys, made = client._keys, seal_library().Ciphertext()
    part = split(reply[HEADER_BYTES:], count=1, most=1 << 24)[0]
    made.load_bytes(keys.context, part)
    return repacked(reply, join([bytes(change(made).to_string())]))


def test_a_reply_can_not_state_a_scale_that_shows_its_noise(parties):
    """Divided by a smaller scale, an answer bears its noise above the places that are rounded."""
    _, _, client, server = parties
    x = np.random.default_rng(3).uniform(-1, 1, size=30)
    reply = server.answer(client.encrypt(x))

    def finer(ciphertext):
        ciphertext.scale(ciphertext.scale() * 2.0**-14)
        return ciphertext

    with pytest.raises(EvidenceError, match="scale"):
        client.decrypt(altered(client, reply, finer))
    same = client.decrypt(altered(client, reply, lambda ciphertext: ciphertext))
    np.testing.assert_array_equal(same, client.decrypt(reply))
    # A reply at another level: a fresh encryption is one.
    fresh = join(split(client.encrypt(x)[HEADER_BYTES:], count=1, most=1 << 24))
    with pytest.raises(EvidenceError, match="primes"):
        client.decrypt(repacked(reply, fresh))


def test_garbage_is_refused_without_a_word_of_what_it_decrypts_to(parties):
    """An error report with a decrypted number in it would be a decryption oracle."""
    _, _, client, server = parties
    reply = server.answer(client.encrypt(np.zeros(30)))
    engine = server._engine

    def zero_under_noise(ciphertext):
        huge = np.full(engine.slots, 2.0**22)
        plain = engine.encode(huge, scale=ciphertext.scale(), level=engine.level(ciphertext))
        return engine.add_plain(ciphertext, plain)

    with pytest.raises(EvidenceError) as caught:
        client.decrypt(altered(client, reply, zero_under_noise))
    assert not any(letter.isdigit() for letter in str(caught.value))


@pytest.mark.parametrize("change", ["a rotation less", "two of one kind"])
def test_keys_that_lack_what_the_plan_turns_by_are_refused_at_once(parties, change):
    _, made, _, _ = parties
    plan = made.for_client()
    fewer = plan.steps[:-1] if change == "a rotation less" else plan.steps
    keys = ClientKeys(plan.parameters, plan=plan.digest, steps=fewer).public
    if change == "two of one kind":
        public, relinearise, _ = split(keys[HEADER_BYTES:], count=3, most=1 << 28)
        keys = repacked(keys, join([public, relinearise, relinearise]))
    with pytest.raises(DataError, match=r"rotations|evaluation keys"):
        EncryptedServer(made, keys)
