"""Whole batches under encryption: exact products of residues, answers, hostile input."""

from __future__ import annotations

import dataclasses
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from reticent.errors import (
    AuthenticationError,
    BudgetExhaustedError,
    BundleError,
    DataError,
    EvidenceError,
    InputError,
    UnsupportedError,
)
from reticent.inference.ckks import batch_plan
from reticent.inference.ckks.batch import BatchClient, BatchServer
from reticent.inference.ckks.batch_plan import plan_batch
from reticent.inference.ckks.engine import context_of, keyed_engine, seal_library
from reticent.inference.ckks.envelope import Kind, split, unpack
from reticent.inference.ckks.keys import SecretKeys
from reticent.inference.ckks.noise import certified_error
from reticent.inference.ckks.parameters import uniform
from reticent.inference.ckks.program import Convolution, Linear, Polynomial, Program, Step
from reticent.inference.ckks.reach import measured_reach, reach_within
from reticent.inference.ckks.residues import Shape, combine, groups

PARAMETERS = uniform(8192, levels=2, scale_bits=30)


def chain(*operations, shape):
    steps = tuple(Step(operation=each, sources=(i,)) for i, each in enumerate(operations))
    return Program(input_shape=shape, steps=steps, bound=1.0)


def network() -> Program:
    """A convolution, squares, and a dense layer whose first output uses nothing."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(2, 18))
    weight[0] = 0
    return chain(
        Convolution(name="conv", weight=rng.normal(size=(2, 1, 3, 3)) / 3, bias=rng.normal(size=2)),
        Polynomial(name="square", coefficients=rng.uniform(0.2, 1, size=(3, 2))),
        Linear(name="last", weight=weight, bias=np.array([0.25, -1.0])),
        shape=(1, 5, 5),
    )


@pytest.fixture(scope="module")
def pair():
    plan = plan_batch(network(), records=np.random.default_rng(3).uniform(-1, 1, size=(64, 25)))
    client = BatchClient(dataclasses.replace(plan.for_client(), places=12))
    return plan, client, BatchServer(plan, client.public_keys)


def test_products_of_residues_are_the_librarys_to_the_bit():
    seal = seal_library()
    context = context_of(PARAMETERS)
    keys = SecretKeys(context).generator
    public = keys.create_public_key()
    engine = keyed_engine(context, keys, public)
    encryptor = seal.Encryptor(context, public)
    rng = np.random.default_rng(1)
    scale = 2.0**30
    values = [
        encryptor.encrypt(engine.encode(rng.normal(size=PARAMETERS.slots), scale=scale, level=2))
        for _ in range(3)
    ]
    weights = rng.normal(size=(2, 3)) * 4
    weights[0, 0] = -(2.0**-30)  # the smallest number that there is, and a negative one
    shape = Shape(degree=8192, primes=tuple(engine.prime(level) for level in range(3)))
    found = [shape.read(engine.save(value))[1] for value in values]
    whole = np.rint(weights * scale).astype(np.int64)
    made = combine(whole, found, shape)
    for row in range(2):
        total = None
        for value, weight in zip(values, weights[row], strict=True):
            number = np.full(PARAMETERS.slots, weight)
            plain = engine.encode(number, scale=scale, level=2)
            product = engine.multiply_plain(value, plain)
            total = product if total is None else engine.add(total, product)
        np.testing.assert_array_equal(made[row], shape.read(engine.save(total))[1])


def test_sums_that_would_not_be_exact_are_refused():
    shape = Shape(degree=4, primes=(97,))
    with pytest.raises(UnsupportedError, match="exactly"):
        combine(np.full((1, 1024), 2**46), [np.zeros((2, 1, 4), np.uint64)] * 1024, shape)
    with pytest.raises(DataError, match="below their primes"):
        shape.read(b"h" + np.full(8, 97, dtype="<u8").tobytes())


@pytest.mark.parametrize("n", [1, 300])
def test_every_record_of_a_batch_gets_the_networks_answer(pair, n):
    plan, client, server = pair
    x = np.random.default_rng(2).uniform(-1, 1, size=(n, 1, 5, 5))
    got = client.decrypt_batch(server.answer(client.encrypt_batch(x)), n)
    want = network().run(x)
    assert got.shape == want.shape
    assert np.abs(got - want).max() < 2.0 ** -(plan.places + 1)


def test_a_plan_says_what_a_batch_costs(pair):
    plan, _, _ = pair
    said = plan.describe()
    assert "0 rotations" in said
    assert "records a second" in said
    assert plan.records == 4096
    assert plan.upload_bytes == 25 * plan.parameters.ciphertext_bytes
    assert plan.key_bytes < 10e6


def test_batches_that_fill_the_memory_are_refused(monkeypatch):
    monkeypatch.setattr(batch_plan, "MOST_BYTES", 1_000_000)
    with pytest.raises(UnsupportedError, match="GB are held"):
        plan_batch(network(), records=np.ones((1, 25)))


def test_a_batch_holds_no_more_than_the_plan_says(pair):
    plan, client, server = pair
    requests = list(client.encrypt_batch(np.zeros((1, 25))))
    tracemalloc.start()
    replies = list(server.answer(iter(requests)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(replies) == 2
    assert peak < plan.memory_bytes


def test_rows_that_share_their_inputs_are_one_product():
    weights = np.ones((6, 40), dtype=np.int64)
    weights[1, 3] = weights[2, 7] = 0
    weights[3:5, :30] = 0
    weights[5] = 0
    found = [(rows.tolist(), len(columns)) for rows, columns in groups(weights)]
    assert found == [([0, 1, 2], 40), ([3, 4], 10), ([5], 0)]


def test_bad_batches_are_refused_before_the_first_message(pair):
    plan, client, _ = pair
    with pytest.raises(InputError, match="25 numbers"):
        client.encrypt_batch(np.zeros((2, 24)))
    with pytest.raises(InputError, match="4096 records"):
        client.encrypt_batch(np.zeros((4097, 25)))
    with pytest.raises(InputError, match="finite"):
        client.encrypt_batch(np.full((1, 25), np.nan))
    with pytest.raises(InputError, match="at most 1"):
        client.encrypt_batch(np.full((1, 25), 1.1))
    spent = BatchClient(plan.for_client(), most_queries=1)
    list(spent.encrypt_batch(np.zeros((1, 25))))
    with pytest.raises(BudgetExhaustedError, match="most_queries"):
        spent.encrypt_batch(np.zeros((1, 25)))


def test_hostile_messages_are_told_apart(pair):
    plan, client, server = pair
    good = list(client.encrypt_batch(np.zeros((1, 25))))
    stranger = BatchClient(plan.for_client())
    for messages, error in [
        (good[:-1], DataError),
        ([*good, good[0]], DataError),
        ([good[0][:-1], *good[1:]], DataError),
        (list(stranger.encrypt_batch(np.zeros((1, 25)))), AuthenticationError),
        ([good[0][:6] + bytes(16) + good[0][22:], *good[1:]], BundleError),
    ]:
        with pytest.raises(error):
            list(server.answer(messages))
    replies = list(server.answer(good))
    with pytest.raises(DataError):
        list(server.answer([replies[0].replace(b"\x02", b"\x01", 1), *good[1:]]))
    with pytest.raises(EvidenceError, match="Expected 2 replies"):
        client.decrypt_batch(replies[:1], 1)
    with pytest.raises(EvidenceError, match="other keys"):
        stranger.decrypt_batch(replies, 1)
    other = replace(plan, bound=2.0)
    with pytest.raises(BundleError):
        BatchServer(other, client.public_keys)


def test_replies_are_fresh_each_time(pair):
    _, client, server = pair
    good = list(client.encrypt_batch(np.zeros((1, 25))))
    assert list(server.answer(good)) != list(server.answer(good))


def test_a_flooded_batch_bears_the_noise_that_is_claimed_and_nothing_else():
    rng = np.random.default_rng(6)
    plan = plan_batch(network(), records=rng.uniform(-1, 1, size=(64, 25)), flooding_bits=40)
    client = BatchClient(dataclasses.replace(plan.for_client(), places=40))
    server = BatchServer(plan, client.public_keys)
    x = rng.uniform(-1, 1, size=(plan.records, 25))
    replies = list(server.answer(client.encrypt_batch(x)))
    # The network as it is computed: with weights rounded to whole steps.
    first, last = plan.lowered.matrices
    steps = [2.0**stage.weight_bits for stage in plan.chain.stages]
    hidden = plan.lowered.squares[0].run(
        x @ (np.rint(first.weight * steps[0]) / steps[0]).T + first.bias
    )
    want = hidden @ (np.rint(last.weight * steps[1]) / steps[1]).T + last.bias
    noise = client.decrypt_batch(replies, len(x)) - want
    assert noise.std() == pytest.approx(plan.flood.spread, rel=0.02)
    assert abs(noise.mean()) < 5 * plan.flood.spread / np.sqrt(noise.size)
    keys = client._keys
    for reply in replies:
        content = unpack(reply, kind=Kind.REPLY, plan=plan.digest, most=1 << 24).content
        made = seal_library().Ciphertext()
        made.load_bytes(keys.context, split(content, count=1, most=1 << 24)[0])
        slots = np.asarray(keys.encoder.decode_complex(keys._decryptor.decrypt(made)))
        assert slots.imag.std() == pytest.approx(plan.flood.reach / np.sqrt(3), rel=0.02)
    told = certified_error(
        reach_within(plan.lowered, 1.0),
        None,
        plan.chain,
        answers=noise.size,
        bits=42,
        own=True,
    )
    distance = np.sqrt(noise.size) * told / (2 * plan.flood.spread)
    distance += noise.size * told / (2 * plan.flood.reach) + 2.0**-42
    assert distance <= 2.0**-40 * (1 + 1e-9)
    assert "40 bits of statistical security" in plan.describe()


def test_no_error_in_a_batch_is_larger_than_certified(pair):
    plan, client, server = pair
    x = np.random.default_rng(8).uniform(-1, 1, size=(1000, 25))
    got = client.decrypt_batch(server.answer(client.encrypt_batch(x)), len(x))
    error = np.abs(got - network().run(x.reshape(-1, 1, 5, 5))).max()
    reach = measured_reach(plan.lowered, 1.0, x)
    told = certified_error(reach.gains, None, plan.chain, answers=2)
    assert told / 50 < error < told
