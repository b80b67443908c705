"""Without seal-python: the same answers through TenSEAL, and bytes that both libraries read."""

from __future__ import annotations

import importlib.util
import struct
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from test_encrypted import certified, chain, dense, pair, perceptron, planned

from reticent.errors import DataError, MissingExtraError
from reticent.inference.ckks.engine import SealEngine, context_of, galois_keys, seal_library
from reticent.inference.ckks.parameters import uniform

FALLBACK = "reticent.inference.ckks.sealapi"
PARAMETERS = uniform(4096, levels=1, scale_bits=25, outer_bits=40)
pytest.importorskip("tenseal", reason="the extra encrypted-tenseal isn't installed")
pytest.importorskip("zstandard", reason="the extra encrypted-tenseal isn't installed")


@contextmanager
def library(name):
    """Only the library of this name is found."""
    with pytest.MonkeyPatch.context() as patch:
        if name == FALLBACK:
            patch.setitem(sys.modules, "seal", None)
        assert seal_library().__name__ == name
        yield


@pytest.fixture
def fallback():
    with library(FALLBACK):
        yield seal_library()


def networks():
    linear = chain(dense(np.random.default_rng(4), "logistic", 2, 30), shape=(30,))
    return {"linear": linear, "square": perceptron(1, (30, 12, 3))}


@pytest.mark.parametrize("flooding_bits", [0, 40], ids=["masked", "flooded"])
@pytest.mark.parametrize("name", ["linear", "square"])
def test_an_encrypted_answer_is_the_programs(fallback, name, flooding_bits):
    program = networks()[name]
    made = planned(program, flooding_bits=flooding_bits)
    client, server = pair(made, places=16)
    for x in np.random.default_rng(2).uniform(-1, 1, size=(3, 30)):
        answer = client.decrypt(server.answer(client.encrypt(x)))
        np.testing.assert_allclose(answer, program.run(x[None])[0], atol=certified(made))


@pytest.mark.parametrize("sides", [("seal", FALLBACK), (FALLBACK, "seal")], ids=str)
def test_client_and_server_of_either_library_understand_each_other(sides):
    if importlib.util.find_spec("seal") is None:
        pytest.skip("seal-python isn't installed")
    client_side, server_side = sides
    program = perceptron(1, (30, 12, 3))
    made = planned(program)
    x = np.random.default_rng(2).uniform(-1, 1, size=30)
    with library(client_side):
        client, _ = pair(made, places=16)
        request = client.encrypt(x)
    with library(server_side):
        from reticent.inference.ckks.server import EncryptedServer

        reply = EncryptedServer(made, client.public_keys).answer(request)
    with library(client_side):
        answer = client.decrypt(reply)
    np.testing.assert_allclose(answer, program.run(x[None])[0], atol=certified(made))


def test_keys_turn_by_exactly_the_steps_that_were_asked_for(fallback):
    keys, engine, encryptor, decryptor, encoder = made_engine(fallback, [1, 5, 2047])
    values = np.random.default_rng(0).uniform(-1, 1, size=2048)
    held = encryptor.encrypt(engine.encode(values, scale=2.0**25, level=1))
    for step in (1, 5, 2047):
        turned = encoder.decode(decryptor.decrypt(engine.rotate(held, step)))
        np.testing.assert_allclose(turned, np.roll(values, -step), atol=1e-2)
        assert keys.has_key(pow(3, step, 8192))
    assert keys.size() == 3


def test_complex_slots_and_scales_are_kept(fallback):
    _, engine, encryptor, decryptor, encoder = made_engine(fallback, [1])
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 1, size=2048) + 1j * rng.uniform(-1, 1, size=2048)
    held = encryptor.encrypt(engine.encode(values, scale=2.0**25, level=1))
    assert (engine.scale(held), engine.level(held)) == (2.0**25, 1)
    assert engine.scale(engine.exactly(held, 2.0**25 * (1 + 1e-12))) == 2.0**25 * (1 + 1e-12)
    found = encoder.decode_complex(decryptor.decrypt(engine.load(engine.save(held))))
    np.testing.assert_allclose(found, values, atol=1e-2)


def test_bytes_that_are_none_are_refused(fallback):
    _, engine, encryptor, _, _ = made_engine(fallback, [1])
    data = engine.save(encryptor.encrypt(engine.encode(np.ones(2048), scale=2.0**25, level=1)))
    assert len(data) < PARAMETERS.ciphertext_bytes + 4096
    compressed = data[:5] + b"\x02" + data[6:]
    newer = data[:4] + b"\x05" + data[5:]
    beyond = data[:-8] + struct.pack("<Q", 2**63)
    for bad, words in [
        (b"", "end before a header"),
        (data[:90], "end before a header"),
        (data[:-1], "none"),
        (bytes(200), "no object of SEAL's"),
        (compressed, "compression=2"),
        (newer, "SEAL 4.5"),
        (beyond, "none"),
    ]:
        with pytest.raises(DataError, match=words):
            engine.load(bad)


def test_keys_that_are_none_are_refused(fallback):
    keys, _, _, _, _ = made_engine(fallback, [1, 2])
    context, data = context_of(PARAMETERS), keys.to_string()
    endless = data[:48] + struct.pack("<QQ", 2**40, 2**40) + data[64:]
    jump = data[:72] + b"\xff" * 8 + data[80:]
    for bad in (b"", data[:-1], data[:200], endless, jump):
        with pytest.raises((ValueError, RuntimeError)):
            context.from_galois_str(bad)
    assert context.from_galois_str(data).size() == 2


def test_without_either_library_both_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "seal", None)
    monkeypatch.setitem(sys.modules, FALLBACK, None)
    words = r"'seal-python or tenseal'.*reticent\[encrypted\].*reticent\[encrypted-tenseal\]"
    with pytest.raises(MissingExtraError, match=words):
        seal_library()


def made_engine(seal, steps):
    """Rotation keys, an engine, and both ends of fresh keys."""
    context = context_of(PARAMETERS)
    generator = seal.KeyGenerator(context)
    public, keys = generator.create_public_key(), galois_keys(generator, steps)
    engine = SealEngine(
        context, public=public, relinearise=generator.create_relin_keys(), rotations=keys
    )
    return (
        keys,
        engine,
        seal.Encryptor(context, public),
        seal.Decryptor(context, generator.secret_key()),
        seal.CKKSEncoder(context),
    )
