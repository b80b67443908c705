"""The client's half: hostile client files, clipping, what the server can look at."""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib

import numpy as np
import pytest
from sealed_specimens import INPUTS, OUTPUTS, laid_out, publish, records

from reticent.errors import BundleError, EvidenceError, InputError
from reticent.inference.deployed import client_half, local_pair
from reticent.inference.graph import Graph
from reticent.inference.sealed.client import SealedClient
from reticent.inference.sealed.files import load_plan
from reticent.inference.sealed.release import Sealed, sealed_from_json
from reticent.inference.sealed.server import LocalSealedServer
from reticent.inference.split.client import GRAPH_FILE, SPEC_FILE
from reticent.inference.split.odometer import Odometer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("sealed")
    publish(made)
    return made


def test_both_halves_together_give_the_networks_scores(folder):
    layout, x = laid_out(), records(5)
    client, server = local_pair(folder)
    request = client.encode(x)
    reply = server.answer(request)
    want = layout.program.run(x.astype(np.float64))
    # Half a step of rounding to 2**-6, and what ciphertexts lose of scores of up to 10.
    assert np.abs(client.scores(reply) - want).max() < 2.0**-7 + 0.025
    assert client.decode(reply).tolist() == want.argmax(axis=1).tolist()
    assert {len(each) for each in request["ciphertext"]} == {len(request["ciphertext"][0])}


def test_flooded_replies_say_their_size_and_still_answer(tmp_path):
    """What the answers bear is the flood's Gaussian: near zero mean, of the size that it states."""
    layout = publish(tmp_path, flooding_bits=40)
    flood = load_plan(tmp_path / "server").flood
    assert flood == layout.plan.flood
    assert flood.bits == 40
    client, server = local_pair(tmp_path)
    x = records(40)
    reply = server.answer(client.encode(x))
    want = layout.program.run(x.astype(np.float64))
    places = layout.plan.estimate.places
    assert np.abs(client.scores(reply) - want).max() <= 2.0**-places
    assert (client.decode(reply) == want.argmax(axis=1)).mean() > 0.9
    bare = Sealed(plan=laid_out().plan.for_client())
    release = sealed_from_json(json.loads((tmp_path / "client" / SPEC_FILE).read_text())["release"])
    sizes = {len(each) for each in reply["answer"]}
    assert len(sizes) == 1
    assert abs(sizes.pop() - release.reply_bytes) < 1000
    assert release.reply_bytes > 1.9 * bare.reply_bytes


def test_the_release_survives_json_and_clips_to_the_checked_range():
    release = Sealed(plan=laid_out().plan.for_client())
    found = sealed_from_json(json.loads(json.dumps(release.to_json())))
    np.testing.assert_array_equal(found.plan.columns, release.plan.columns)
    np.testing.assert_array_equal(found.plan.outputs, release.plan.outputs)
    assert (found.plan.parameters, found.plan.steps) == (
        release.plan.parameters,
        release.plan.steps,
    )
    wild = np.full((1, INPUTS), 1e6, dtype=np.float32)
    assert np.abs(found.clipped(wild)).max() == 2.0


@pytest.mark.parametrize("bound", [0.1, 0.3, 1.0])
def test_what_is_clipped_lies_within_a_bound_that_no_float32_meets(bound):
    release = Sealed(plan=dataclasses.replace(laid_out().plan.for_client(), bound=bound))
    clipped = release.clipped(np.full((1, INPUTS), 9, dtype=np.float32))
    assert clipped.dtype == np.float32
    assert bound - 1e-6 < float(clipped.max()) <= bound


def weaken(record):
    record["degree"] = 4096  # too small a ring for this modulus: less than 128 bits


def bomb(record):
    zeros = base64.b64encode(zlib.compress(bytes(1 << 24))).decode()
    record["columns"] = {"shape": [1, 4096], "zlib": zeros}


def outside(record):
    record["inputs"] = 2


def endless(record):
    record["bound"] = float("inf")


def bottomless(record):
    record["reply_primes"] = 40


@pytest.mark.parametrize("change", [weaken, bomb, outside, endless, bottomless])
def test_a_providers_malformed_or_weak_plan_is_refused(change):
    record = Sealed(plan=laid_out().plan.for_client()).to_json()
    change(record)
    with pytest.raises(BundleError, match="malformed"):
        sealed_from_json(record)


def test_the_odometer_counts_requests_that_carry_no_bits(folder, tmp_path):
    odometer = Odometer(tmp_path / "odometer.db", max_bits=0.5)
    client = client_half(folder / "client", odometer=odometer, user="me")
    client.encode(records(3))
    assert (odometer.read("me").requests, odometer.read("me").bits) == (3, 0)


def test_inputs_and_replies_that_are_none_are_refused(folder):
    client, server = local_pair(folder)
    with pytest.raises(InputError, match="NaN"):
        client.encode(np.full((1, INPUTS), np.nan, dtype=np.float32))
    reply = server.answer(client.encode(records(1)))
    other = SealedClient.load(folder / "client")
    with pytest.raises(EvidenceError, match="other keys"):
        other.decode(reply)
    with pytest.raises(BundleError):
        client.decode({"answer": np.zeros((1, 3), dtype=np.float32)})


def test_what_the_server_sees_is_of_one_size_and_never_the_same_twice():
    release = Sealed(plan=laid_out().plan.for_client())
    seen = release.seen(np.zeros((6, INPUTS), dtype=np.float32))
    assert len(np.unique(seen[:, 0])) == 1
    assert len(np.unique(seen[:, 1:], axis=0)) == 6


def test_client_files_of_a_split_are_no_sealed_client(folder, tmp_path):
    (tmp_path / SPEC_FILE).write_text("{}")
    with pytest.raises(BundleError, match=SPEC_FILE):
        client_half(tmp_path)


def test_spent_keys_are_made_anew_and_nothing_is_said_of_old_replies(tmp_path):
    publish(tmp_path)
    spec = SealedClient.load(tmp_path / "client").spec
    client = SealedClient(spec, Graph(tmp_path / "client" / GRAPH_FILE), most_queries=3)
    x = records(5)
    first = client.public_keys
    old = LocalSealedServer(tmp_path / "server", first).answer(client.encode(x[:2]))
    request = client.encode(x[2:4])  # more than the one that was left
    assert client.public_keys != first
    fresh = LocalSealedServer(tmp_path / "server", client.public_keys)
    assert client.scores(fresh.answer(request)).shape == (2, OUTPUTS)
    with pytest.raises(EvidenceError, match="other keys"):
        client.scores(old)
    with pytest.raises(InputError, match="most_queries=3"):
        client.encode(x)
    assert client.rows_at_once == 3


def test_a_batch_that_no_keys_answer_is_refused_before_it_is_charged(folder, tmp_path):
    odometer = Odometer(tmp_path / "odometer.db", max_bits=0.5)
    spec, graph = SealedClient.load(folder / "client").spec, Graph(folder / "client" / GRAPH_FILE)
    client = SealedClient(spec, graph, odometer=odometer, user="me", most_queries=3)
    with pytest.raises(InputError, match="most_queries=3"):
        client.encode(records(4))
    assert odometer.read("me").requests == 0


def test_values_beyond_the_checked_range_are_clipped_with_a_warning(tmp_path):
    publish(tmp_path)
    client = SealedClient.load(tmp_path / "client")
    x = records(3)
    x[1] = 50.0
    with pytest.warns(UserWarning, match="1 of 3 records have values beyond 2"):
        client.encode(x)
