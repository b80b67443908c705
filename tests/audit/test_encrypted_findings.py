"""Audits of encrypted channels find what is planted, and nothing on the shipped build."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from reticent.audit.encrypted import audit_messages, audit_replies, audit_rounding
from reticent.errors import ConfigError, DataError
from reticent.guarantee import CLIENT, SERVER, Computational, Guarantee, Pillar
from reticent.inference.ckks.client import EncryptedClient
from reticent.inference.ckks.plan import Plan, plan
from reticent.inference.ckks.primitives import OPERATIONS, Primitives
from reticent.inference.ckks.program import Linear, Polynomial, Program, Step
from reticent.inference.ckks.server import EncryptedServer

pytest.importorskip("seal")
FLAT = Primitives(table=dict.fromkeys(OPERATIONS, (1.0,) * 8))
CLAIM = Guarantee(
    id="sealed",
    pillar=Pillar.INPUT,
    adversary=SERVER,
    strength=Computational(bits=128, assumption="ring learning with errors"),
    mechanism="ciphertexts",
    assumptions=(),
    source="",
)


def dense(rng: np.random.Generator, name: str, outputs: int, inputs: int) -> Linear:
    return Linear(
        name=name,
        weight=rng.normal(size=(outputs, inputs)) / np.sqrt(inputs),
        bias=rng.normal(size=outputs) / 4,
    )


def laid(*sizes: int, goal: str = "latency") -> Plan:
    """A linear model, or a perceptron, of these sizes."""
    rng = np.random.default_rng(0)
    operations: list[Linear | Polynomial] = []
    for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        if index:
            coefficients = rng.uniform(0.2, 1.0, size=(3, inputs))
            operations.append(Polynomial(name="act", coefficients=coefficients))
        operations.append(dense(rng, f"fc{index}", outputs, inputs))
    steps = tuple(Step(operation=each, sources=(i,)) for i, each in enumerate(operations))
    program = Program(input_shape=(sizes[0],), steps=steps, bound=1.0)
    records = rng.uniform(-1, 1, size=(64, sizes[0]))
    return plan(program, goal=goal, records=records, primitives=FLAT)


LINEAR = laid(30, 3)


def chosen(n: int = 60) -> tuple[list[np.ndarray], np.ndarray]:
    """Inputs of two classes: nearly all zeros, and none."""
    x, classes = np.random.default_rng(1).uniform(-1, 1, size=(n, 30)), np.arange(n) % 2
    x[classes == 0, 3:] = 0.0
    return list(x), classes


def ticking(step: float = 1.0):
    """A clock that goes one step a look: all exchanges take alike."""
    return itertools.count(step=step).__next__


def test_the_shipped_channel_tells_nothing_by_size_count_or_time() -> None:
    client = EncryptedClient(LINEAR.for_client())
    server = EncryptedServer(LINEAR, client.public_keys)
    found = audit_messages(
        lambda x: [client.encrypt(x)],
        lambda sent: [server.answer(message) for message in sent],
        *chosen(),
        clock=ticking(),
    )
    assert [one.target.split()[-1] for one in found] == ["sizes", "counts", "time"]
    assert [one.floor for one in found] == [0.5, 0.5, 0.0]
    for one in found:
        assert (one.excess, one.excess_ci) == (0.0, (0.0, 0.0))
        assert one.against((CLAIM,)).contradicts is None
        json.dumps(one.to_json())


@pytest.mark.parametrize("leak", ["compresses", "skips zero rows", "stops early"])
def test_a_planted_leak_is_found_where_it_is(leak: str) -> None:
    """Size, count and time, one defect each; the others stay silent."""
    rng, now, work = np.random.default_rng(2), [0.0], [0.0]

    def encrypt(x: np.ndarray) -> list[bytes]:
        zeros = int((x == 0).sum())
        work[0] = float(leak == "stops early" and zeros < 10)
        if leak == "compresses":
            return [bytes(5000 - 10 * zeros)]
        if leak == "skips zero rows":
            rows = np.flatnonzero(x.reshape(10, 3).any(axis=1))
            return [bytes(600 // len(rows)) for _ in rows]
        return [bytes(5000)]

    def answer(sent: list[bytes]) -> list[bytes]:
        now[0] += 1.0 + rng.normal() / 10 + work[0]
        return [bytes(100)]

    found = audit_messages(encrypt, answer, *chosen(), clock=lambda: now[0])
    where = ("compresses", "skips zero rows", "stops early").index(leak)
    assert found[where].value > 0.9
    assert found[where].against((CLAIM,)).contradicts == "sealed"
    # Time here is noise, of which an honest interval holds chance nearly always: not asserted.
    for other in {0, 1} - {where}:
        assert found[other].excess == 0.0


class Unmasked(EncryptedServer):
    """The build that a mask was forgotten in."""

    def __init__(self, made: Plan, keys: bytes) -> None:
        super().__init__(made, keys)
        self._random = _Zero()


class _Zero:
    """Randomness whose masks are nothing."""

    def uniform(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, 0.5)


@pytest.mark.parametrize("sizes", [(30, 3), (30, 16, 3)])
def test_weights_leave_the_unmasked_build_and_not_the_shipped_one(sizes: tuple[int, ...]) -> None:
    made = laid(*sizes)
    leaky = audit_replies(made, serve=Unmasked, trials=3)
    assert leaky.value > 0.9
    assert leaky.excess_ci[0] > 0.5
    assert leaky.details["slots that repeat"] > 4 * leaky.details["slots that are outputs"]
    shipped = audit_replies(made, trials=3)
    assert shipped.adversary == CLIENT.name
    assert abs(shipped.excess) < 0.01
    assert shipped.value < 0.2 < 0.9 < shipped.ceiling
    assert shipped.details["slots that repeat"] == shipped.details["slots that are outputs"]


def test_honest_times_contradict_rarely_and_a_small_difference_is_found() -> None:
    """2.5 % of honest servers may; one class 5 % slower shows in times that vary by 3 %."""
    rng, contradicted = np.random.default_rng(3), 0
    for seed in range(100):
        times = iter(np.cumsum(np.ravel([(0.1, each) for each in 1 + rng.normal(size=80) / 30])))
        found = audit_messages(
            lambda x: [b"q"],
            lambda sent: [b"r"],
            list(np.zeros((80, 1))),
            np.arange(80) % 2,
            clock=lambda times=times: float(next(times)),
            seed=seed,
        )
        contradicted += found[2].against((CLAIM,)).contradicts is not None
        assert found[2].details["positive control"]["passed"]
    assert contradicted <= 7


def test_a_query_in_the_imaginary_parts_is_masked_too() -> None:
    """Slots are complex numbers: a mask of real ones leaves a second evaluation bare."""
    leaky = audit_replies(LINEAR, serve=Unmasked, trials=3, imaginary=True)
    assert leaky.value > 0.9
    shipped = audit_replies(LINEAR, trials=3, imaginary=True)
    assert shipped.value < 0.05
    assert shipped.details["slots that repeat"] == 0


def test_rounding_costs_queries_and_hides_nothing() -> None:
    matrix = LINEAR.lowered.matrices[0]
    weights = np.hstack([matrix.weight, matrix.bias[:, None]])

    def asking(places: int):
        client = EncryptedClient(LINEAR.for_client(), precision_bits=places)
        server = EncryptedServer(LINEAR, client.public_keys)
        return lambda x: client.decrypt(server.answer(client.encrypt(x)))

    coarse, fine = audit_rounding(
        {1: asking(1), 10: asking(10)}, weights=weights, bound=1.0, budgets=(33, 150), trials=2
    )
    assert fine.details["queries that recover it"] == 33
    assert coarse.details["queries that recover it"] != 33
    assert coarse.details["curve"][0][1] < coarse.value
    assert 0.95 < coarse.value < fine.value <= fine.ceiling
    blind = audit_rounding(
        {0: lambda x: np.zeros(3)}, weights=weights, bound=1.0, budgets=(40,), trials=2
    )
    assert blind[0].value == 0.0


def test_what_can_not_be_judged_is_refused() -> None:
    inputs, classes = chosen()
    with pytest.raises(DataError):
        audit_messages(lambda x: [b""], lambda sent: [b""], inputs[:-1], classes)
    with pytest.raises(DataError, match="two classes"):
        audit_messages(lambda x: [b""], lambda sent: [b""], inputs, np.arange(60) % 3)
    with pytest.raises(ConfigError):
        audit_replies(LINEAR, trials=2)
    with pytest.raises(ConfigError, match="one matrix"):
        audit_replies(laid(30, 16, 3), imaginary=True)
    with pytest.raises(ConfigError, match="one equation"):
        audit_rounding({1: lambda x: x}, weights=np.ones((3, 31)), bound=1.0, budgets=(30,))
