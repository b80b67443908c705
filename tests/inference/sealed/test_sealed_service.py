"""Ciphertexts over real sockets: uploads, answers, hostile bytes, a server that stays alive."""

from __future__ import annotations

import hashlib
import os
import signal

import numpy as np
import pytest
from sealed_specimens import laid_out, publish, records

from reticent.errors import EvidenceError, InputError
from reticent.inference.ckks.client import EncryptedClient
from reticent.inference.ckks.engine import SealEngine
from reticent.inference.ckks.envelope import HEADER_BYTES, Envelope, Kind, join, unpack
from reticent.inference.sealed import server as server_module
from reticent.inference.sealed.client import SealedClient
from reticent.inference.sealed.server import SealedServer
from reticent.service.client import Client, RequestRefusedError
from reticent.service.model import ServedModel
from reticent.service.remote import Remote
from reticent.service.serve import Binding, running
from reticent.transcript import Transcript


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("bundle")
    publish(made)
    return made


@pytest.fixture(scope="module")
def half(folder, tmp_path_factory):
    return SealedServer(
        folder / "server",
        spool=tmp_path_factory.mktemp("spool") / "keys",
        processes=1,
        most_per_owner=3,
    )


@pytest.fixture(scope="module")
def service(folder, half):
    model = ServedModel(name="sealed", half=half, channel="ckks", client_files=folder / "client")
    with running(
        {"sealed": model}, Binding(port=0, allow_anonymous=True), log=open(os.devnull, "w")
    ) as ready:
        yield ready.url


def remote(service, folder, client):
    return Remote(client, "sealed", SealedClient.load(folder / "client"))


def cipher(*requests):
    made = np.empty(len(requests), dtype=object)
    made[:] = requests
    return {"ciphertext": made}


def uploaded(client):
    """Keys of a new client, at the server; the encrypting half."""
    encrypted = EncryptedClient(laid_out().plan.for_client())
    client.upload_keys("sealed", encrypted.public_keys)
    return encrypted


def test_answers_come_back_right_and_only_ciphertexts_cross(service, folder):
    x, transcript = records(3), Transcript()
    want = laid_out().program.run(x.astype(np.float64)).argmax(axis=1)
    with Client(service) as client:
        assert client.metadata("sealed")["parameters"]["reticent.keys"].endswith("/keys")
        assert client.metadata("sealed")["inputs"][0]["datatype"] == "BYTES"
        got = remote(service, folder, client).ask(x, transcript=transcript)
    assert got.tolist() == want.tolist()
    sent = [message.name for message in transcript if message.sender == "client"]
    assert sent == ["evaluation keys", "ciphertext", "http request"]
    assert "byte strings" in next(m for m in transcript if m.name == "ciphertext").describe()


def test_evicted_keys_are_uploaded_again(service, folder, half):
    x = records(1)
    with Client(service) as client:
        asking = remote(service, folder, client)
        first = asking.ask(x)
        for _ in range(3):
            uploaded(client)
        assert asking.ask(x).tolist() == first.tolist()


def test_spent_keys_are_made_anew_and_uploaded_before_they_are_used(service, folder):
    """Five records at two a set of keys: three uploads, and no request that waits for one."""
    loaded = SealedClient.load(folder / "client")
    few = SealedClient(loaded.spec, loaded.graph, most_queries=2)
    x, transcript = records(5), Transcript()
    with Client(service) as client:
        got = Remote(client, "sealed", few).ask(x, transcript=transcript)
    assert got.tolist() == laid_out().program.run(x.astype(np.float64)).argmax(axis=1).tolist()
    sent = [message.name for message in transcript if message.sender == "client"]
    assert sent == ["evaluation keys", "ciphertext", "http request"] * 3


def test_a_client_that_was_sent_garbage_says_and_sends_nothing(service, folder, monkeypatch):
    """A provider that learned what its own ciphertexts decrypt to would have an oracle."""
    half, transcript = SealedClient.load(folder / "client"), Transcript()
    infer, garbage = Client.infer, []

    def forged(self, model, request, **settings):
        reply = infer(self, model, request, **settings)
        header, keys = reply["answer"][0][:HEADER_BYTES], half._keys._keys
        plan = half._release.plan
        numbers = np.full(plan.parameters.slots, 2.0**22)
        made = keys._encryptor.encrypt_symmetric(keys.encoder.encode(numbers, 2.0**plan.reply_bits))
        engine = SealEngine(
            keys.context,
            public=keys._keys.generator.create_public_key(),
            relinearise=None,
            rotations=None,
        )
        content = join([engine.save(engine.lower(made, plan.reply_primes - 1))])
        garbage.append(
            Envelope(kind=Kind.REPLY, plan=plan.digest, keys=header[22:38], content=content).pack()
        )
        return {"answer": np.array([garbage[-1]], dtype=object)}

    monkeypatch.setattr(Client, "infer", forged)
    with Client(service) as client, pytest.raises(EvidenceError) as caught:
        Remote(client, "sealed", half).ask(records(1), transcript=transcript)
    assert "no answer of this network" in str(caught.value)
    assert not any(letter.isdigit() for letter in str(caught.value))
    assert caught.value.__cause__ is None
    assert len(garbage) == 1
    sent = [message.name for message in transcript if message.sender == "client"]
    assert sent == ["evaluation keys", "ciphertext", "http request"]


def test_hostile_ciphertexts_and_keys_are_told_apart_and_the_server_lives(service, folder, half):
    x = records(1)[0]
    with Client(service) as client:
        good = uploaded(client)
        request = good.encrypt(x)
        stranger = EncryptedClient(laid_out().plan.for_client())
        flipped = bytearray(request)
        flipped[HEADER_BYTES + 100] ^= 1
        plan, keys = laid_out().plan.digest, request[22:38]
        reply = unpack(
            client.infer("sealed", cipher(request))["answer"][0],
            kind=Kind.REPLY, plan=plan, most=1 << 22,
        )  # fmt: skip
        spent = Envelope(kind=Kind.REQUEST, plan=plan, keys=keys, content=reply.content).pack()
        other_plan = Envelope(
            kind=Kind.REQUEST, plan=bytes(16), keys=keys, content=b"x" * 100
        ).pack()
        for hostile, status in [
            (stranger.encrypt(x), 409),  # keys that never came
            (request[:-1], 400),
            (bytes(flipped), 400),
            (spent, 400),  # a ciphertext at the wrong level
            (other_plan, 409),
            (b"", 400),
            (good.public_keys[:4096], 400),
        ]:
            with pytest.raises(RequestRefusedError) as refused:
                client.infer("sealed", cipher(hostile))
            assert refused.value.status == status, (hostile[:8], str(refused.value))
        for keys_, status in [(good.public_keys[:-1], 400), (b"no keys", 400), (request, 400)]:
            with pytest.raises(RequestRefusedError) as refused:
                client.upload_keys("sealed", keys_)
            assert refused.value.status == status
        with pytest.raises(RequestRefusedError) as refused:
            client.upload_keys("sealed", bytes(half.spool.largest + 1))
        assert refused.value.status == 413
        answer = client.infer("sealed", cipher(request))["answer"][0]
        got = good.decrypt(answer)
    assert got.argmax() == laid_out().program.run(x[None].astype(np.float64)).argmax()


def test_well_formed_keys_of_another_ring_are_refused_and_dropped(service, half):
    """The envelope is right and the content isn't: only the library's loader can tell."""
    content = b"".join(len(part).to_bytes(8, "little") + part for part in (b"a", b"b", b"c"))
    digest = hashlib.sha256(content).digest()[:16]
    data = Envelope(kind=Kind.KEYS, plan=laid_out().plan.digest, keys=digest, content=content)
    before = len(half.spool)
    with Client(service) as client, pytest.raises(RequestRefusedError, match="400"):
        client.upload_keys("sealed", data.pack())
    assert len(half.spool) <= before


def test_a_killed_process_is_replaced(service, half):
    with Client(service) as client:
        good = uploaded(client)
        request = good.encrypt(records(1)[0])
        client.infer("sealed", cipher(request))
        (victim,) = half._pool._processes
        os.kill(victim, signal.SIGKILL)
        assert len(client.infer("sealed", cipher(request))["answer"]) == 1


def test_a_request_that_keeps_ending_its_process_is_refused(folder, tmp_path, monkeypatch):
    own = SealedServer(folder / "server", spool=tmp_path / "keys", processes=1)
    monkeypatch.setattr(server_module.worker, "admit", os._exit)
    try:
        with pytest.raises(InputError, match="ended the process"):
            own._run([lambda pool: pool.submit(os._exit, 3)])
    finally:
        own.close()


def test_text_in_the_place_of_ciphertexts_is_refused(half):
    with pytest.raises(InputError, match="bytes"):
        half.answer(cipher("text"))
    with pytest.raises(InputError, match="ciphertext"):
        half.answer({"x": np.zeros(1)})
