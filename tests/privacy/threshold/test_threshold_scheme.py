"""Sums open exactly, with everybody's share and not otherwise."""

from __future__ import annotations

import copy
import pickle
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reticent.errors import BudgetExhaustedError, EvidenceError, InputError
from reticent.privacy.threshold.parameters import choose
from reticent.privacy.threshold.scheme import (
    Ciphertext,
    Holder,
    JointKey,
    PublicPart,
    Session,
    Share,
    joint_key,
    open_sum,
)


def keyed(name: str, **changes: int) -> tuple[Session, dict[str, Holder], JointKey]:
    values = {"holders": 3, "contributors": 4, "largest": 4000, "openings": 1, **changes}
    session = Session(parameters=choose(**values), name=name)
    holders = {f"h{i}": Holder(session) for i in range(values["holders"])}
    parts = {n: h.public for n, h in holders.items()}
    return session, holders, joint_key(session, parts, {n: p.commitment for n, p in parts.items()})


def contributed(key: JointKey, values: np.ndarray) -> dict[str, Ciphertext]:
    return {f"c{i}": key.encrypt(row) for i, row in enumerate(values)}


@settings(max_examples=8, deadline=None)
@given(
    holders=st.integers(2, 6),
    contributors=st.integers(1, 7),
    size=st.integers(1, 4096),
    largest=st.sampled_from([1, 130, 10**6]),
    seed=st.integers(0, 99),
)
def test_opened_sums_are_exact(holders, contributors, size, largest, seed):
    most = largest * contributors
    _, parties, key = keyed("sums", holders=holders, contributors=contributors, largest=most)
    values = np.random.default_rng(seed).integers(-largest, largest + 1, (contributors, size))
    values[:, 0] = largest
    sent = contributed(key, values)
    shares = {n: h.share(sent, mine=None) for n, h in parties.items()}
    opened = open_sum(sent, shares)
    np.testing.assert_array_equal(opened.values[:size], values.sum(axis=0))
    assert not opened.values[size:].any()
    assert "unaudited" in opened.notice


def test_sums_equal_those_of_seal():
    seal = pytest.importorskip("seal")
    settings_ = seal.EncryptionParameters(seal.scheme_type.bfv)
    settings_.set_poly_modulus_degree(4096)
    settings_.set_coeff_modulus(seal.CoeffModulus.BFVDefault(4096))
    settings_.set_plain_modulus(seal.PlainModulus.Batching(4096, 20))
    context = seal.SEALContext(settings_)
    keys = seal.KeyGenerator(context)
    encoder = seal.BatchEncoder(context)
    encryptor = seal.Encryptor(context, keys.create_public_key())
    evaluator = seal.Evaluator(context)
    decryptor = seal.Decryptor(context, keys.secret_key())
    values = np.random.default_rng(0).integers(-999, 1000, (4, 4096))
    theirs = [encryptor.encrypt(encoder.encode(row)) for row in values]
    summed = reduce(evaluator.add, theirs)
    wanted = np.array(encoder.decode(decryptor.decrypt(summed)))
    _, holders, key = keyed("seal")
    sent = contributed(key, values)
    opened = open_sum(sent, {n: h.share(sent, mine=None) for n, h in holders.items()})
    np.testing.assert_array_equal(opened.values, wanted)


def noise_of(
    session: Session, sent: dict[str, Ciphertext], summed: np.ndarray, extra: list
) -> np.ndarray:
    """What is left of the sum once the scaled message is taken away, centred."""
    ring, t, q = session.ring, session.parameters.plain_modulus, session.parameters.modulus
    c0 = reduce(ring.add, (c.c0 for c in sent.values()))
    noisy = ring.lift(ring.invert(reduce(ring.add, extra, c0)))
    message = (2 * q * summed.astype(object) + t) // (2 * t)
    left = (noisy - message) % q
    return np.array([int(v) - q if v > q // 2 else int(v) for v in left], dtype=object)


def test_noise_stays_below_its_bound_and_is_hidden_by_the_shares():
    session, holders, key = keyed("noise")
    values = np.random.default_rng(0).integers(-1000, 1000, (4, 4096))
    sent = contributed(key, values)
    ring = session.ring
    c1 = reduce(ring.add, (c.c1 for c in sent.values()))
    bare = [ring.multiply(c1, h._s) for h in holders.values()]
    inner = noise_of(session, sent, values.sum(0), bare)
    bound = session.parameters.ciphertext_noise
    # u e + e1 s over 3 holders and 4 contributors: N (2/3) 10.5 x 2 x 3 x 4 in variance.
    deviation = np.std(inner.astype(float))
    assert deviation == pytest.approx(np.sqrt(4096 * (2 / 3) * 10.5 * 2 * 3 * 4), rel=0.1)
    assert max(abs(v) for v in inner) < bound
    shares = {n: h.share(sent, mine=None) for n, h in holders.items()}
    outer = noise_of(session, sent, values.sum(0), [s.h for s in shares.values()])
    scale = 2.0**session.parameters.smudging_bits
    assert np.std(outer.astype(float)) == pytest.approx(scale, rel=0.1)
    assert max(abs(v) for v in outer) < session.parameters.noise_bound


def test_without_one_share_the_sum_is_noise():
    session, holders, key = keyed("missing")
    values = np.full((4, 4096), 7)
    sent = contributed(key, values)
    shares = {n: h.share(sent, mine=None) for n, h in holders.items()}
    for absent in shares:
        fewer = [s.h for n, s in shares.items() if n != absent]
        left = noise_of(session, sent, values.sum(0), fewer)
        scaled = np.array([v / session.parameters.modulus for v in left], dtype=float)
        assert stats.kstest(scaled, stats.uniform(-0.5, 1).cdf).pvalue > 1e-6
    with pytest.raises(EvidenceError, match="a share of this round from each of 3 holders"):
        open_sum(sent, {n: s for n, s in shares.items() if n != "h1"})


def test_ciphertexts_of_equal_values_differ_and_look_uniform():
    session, _, key = keyed("uniform")
    first, second = key.encrypt([1] * 10), key.encrypt([1] * 10)
    assert first.digest != second.digest
    for part in (first.c0, first.c1):
        for row, prime in zip(part, session.parameters.primes, strict=True):
            assert stats.kstest(row / prime, stats.uniform.cdf).pvalue > 1e-6


def test_a_part_of_a_sum_is_never_opened():
    session, holders, key = keyed("parts")
    sent = contributed(key, np.ones((4, 3), dtype=int))
    holder = holders["h0"]
    with pytest.raises(EvidenceError, match="A part of a sum is never opened"):
        holder.share({"c0": sent["c0"]}, mine=None)
    with pytest.raises(EvidenceError, match="got one twice"):
        holder.share({**sent, "c1": sent["c0"]}, mine=None)
    with pytest.raises(EvidenceError, match="own contribution"):
        holder.share(sent, mine=key.encrypt([1, 1, 1]))
    other = keyed("other session")[2].encrypt([1])
    with pytest.raises(EvidenceError, match=r"foreign=\['c0'\]"):
        holder.share({**sent, "c0": other}, mine=None)
    # Refusals cost nothing; the whole round still opens, once.
    holder.share(sent, mine=sent["c2"])
    with pytest.raises(BudgetExhaustedError, match="no opened round held"):
        holder.share(sent, mine=None)
    with pytest.raises(BudgetExhaustedError, match="no opened round held"):
        holder.share({**contributed(key, np.ones((4, 3), dtype=int)), "c0": sent["c0"]}, mine=None)
    with pytest.raises(BudgetExhaustedError, match="at most openings=1"):
        holder.share(contributed(key, np.ones((4, 3), dtype=int)), mine=None)
    assert session.parameters.openings == 1


def test_shares_of_another_round_do_not_open():
    _, holders, key = keyed("rounds", openings=2)
    first = contributed(key, np.ones((4, 3), dtype=int))
    second = contributed(key, np.ones((4, 3), dtype=int))
    shares = {n: h.share(first, mine=None) for n, h in holders.items()}
    with pytest.raises(EvidenceError, match="a share of this round"):
        open_sum(second, shares)


def test_a_key_part_that_was_not_committed_to_is_refused():
    session, holders, _ = keyed("commit")
    parts = {n: h.public for n, h in holders.items()}
    commitments = {n: p.commitment for n, p in parts.items()}
    ring = session.ring
    # A holder that waits for the others' parts could make the joint key its own.
    own = Holder(session)
    cancel = ring.add(ring.column - ring.add(parts["h0"].b, parts["h1"].b), own.public.b)
    rogue = PublicPart(session=session, b=cancel)
    with pytest.raises(EvidenceError, match="the part that 'h2' committed to"):
        joint_key(session, {**parts, "h2": rogue}, commitments)
    with pytest.raises(EvidenceError, match="from each of 3 holders"):
        joint_key(session, {"h0": parts["h0"]}, {"h0": commitments["h0"]})


def test_messages_survive_the_wire_and_nothing_else_does():
    session, holders, key = keyed("wire")
    sent = contributed(key, np.full((4, 5), 9))
    sent = {n: Ciphertext.from_bytes(session, c.to_bytes()) for n, c in sent.items()}
    shares = {
        n: Share.from_bytes(session, h.share(sent, mine=None).to_bytes())
        for n, h in holders.items()
    }
    assert (open_sum(sent, shares).values[:5] == 36).all()
    part = holders["h0"].public
    assert PublicPart.from_bytes(session, part.to_bytes()).commitment == part.commitment
    data = sent["c0"].to_bytes()
    other = Session(parameters=session.parameters, name="another")
    for broken, where in [
        (data[:-4], session),
        (data + bytes(4), session),
        (part.to_bytes(), session),
        (bytes([data[0] ^ 1]) + data[1:], session),
        (data[:7] + bytes([data[7] ^ 1]) + data[8:], session),
        (data, other),
    ]:
        with pytest.raises(EvidenceError, match="a ciphertext of session"):
            Ciphertext.from_bytes(where, broken)
    with pytest.raises(EvidenceError, match="residues below their primes"):
        Ciphertext.from_bytes(session, data[:-4] + b"\xff\xff\xff\xff")
    # A flipped bit in the body is another round: no share fits it.
    flipped = Ciphertext.from_bytes(session, data[:40] + bytes([data[40] ^ 1]) + data[41:])
    with pytest.raises(EvidenceError, match="a share of this round"):
        open_sum({**sent, "c0": flipped}, shares)


def test_a_secret_neither_prints_nor_leaves():
    session, holders, _ = keyed("secret")
    holder = holders["h0"]
    assert repr(holder) == (
        "Holder(session='secret', openings=0, unaudited additive threshold RLWE: "
        "not examined by anybody but its authors)"
    )
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="can't be copied or stored"):
            leave(holder)
    assert str(int(holder._s[0, 0])) not in repr(holder.public) + repr(session)


@pytest.mark.parametrize("values", [[0.5], [[1]], [4001], [-4001], [], list(range(4097))])
def test_values_that_do_not_fit_are_refused(values):
    key = keyed("values")[2]
    with pytest.raises(InputError, match=r"whole numbers|to 4000 in size"):
        key.encrypt(values)


def test_every_output_says_unaudited():
    _, holders, key = keyed("notice")
    sent = contributed(key, np.ones((4, 1), dtype=int))
    made = [key, sent["c0"], holders["h0"].share(sent, mine=None)]
    assert all("unaudited" in repr(each) for each in made)
