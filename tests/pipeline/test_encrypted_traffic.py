"""The attacks that a run makes on an encrypted channel find what is planted, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from reticent.guarantee import CLIENT, SERVER, Computational, Guarantee, Pillar
from reticent.inference.ckks.plan import Plan, plan
from reticent.inference.ckks.primitives import OPERATIONS, Primitives
from reticent.inference.ckks.program import Linear, Program, Step
from reticent.inference.sealed.files import Layout
from reticent.inference.sealed.method import SealedHead
from reticent.pipeline import encrypted_traffic
from reticent.pipeline.encrypted_traffic import audit_chosen, audit_weights, client_inputs

pytest.importorskip("seal")


def claim(pillar: Pillar, adversary: Any) -> Guarantee:
    return Guarantee(
        id=f"{pillar.value}/{adversary.name}/sealed",
        pillar=pillar,
        adversary=adversary,
        strength=Computational(bits=128, assumption="ring learning with errors"),
        mechanism="ciphertexts",
        assumptions=(),
        source="",
    )


@pytest.fixture(scope="module")
def hardened() -> Any:
    """A linear model on ciphertexts, not flooded; the model is claimed here to be judged."""
    rng = np.random.default_rng(0)
    linear = Linear(name="fc", weight=rng.normal(size=(3, 30)), bias=rng.normal(size=3))
    program = Program(input_shape=(30,), steps=(Step(operation=linear, sources=(0,)),), bound=1.0)
    primitives = Primitives(table=dict.fromkeys(OPERATIONS, (1.0,) * 8))
    made = plan(program, primitives=primitives)
    layout = Layout(program=program, plan=made, goal="latency", primitives=primitives)
    return SimpleNamespace(
        halves=SimpleNamespace(head=SealedHead(layout)),
        guarantees=(claim(Pillar.INPUT, SERVER), claim(Pillar.MODEL, CLIENT)),
    )


class _Zero:
    """Randomness whose masks are nothing."""

    def uniform(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, 0.5)


class Unmasked(encrypted_traffic.EncryptedServer):
    """The build that a mask was forgotten in."""

    def __init__(self, made: Plan, keys: bytes) -> None:
        super().__init__(made, keys)
        self._random = _Zero()  # type: ignore[assignment]


def test_the_shipped_server_tells_chosen_inputs_and_weights_to_nobody(hardened: Any) -> None:
    found = audit_chosen(hardened, seed=0)
    assert [one.target.split()[-1] for one in found] == ["sizes", "counts", "time"]
    assert {(one.pillar, one.adversary) for one in found} == {(Pillar.INPUT, "server")}
    assert [one.excess_ci for one in found[:2]] == [(0.0, 0.0)] * 2
    assert not any(one.contradicts for one in found[:2])
    weights, untested = audit_weights(hardened, seed=0)
    assert [one.target for one in weights] == ["last matrix", "imaginary parts"]
    assert {(one.pillar, one.adversary) for one in weights} == {(Pillar.MODEL, "client")}
    for one in weights:
        assert one.excess < 1e-3 < 0.9 < one.ceiling
    assert untested == {}


def test_weights_that_leave_an_unmasked_server_are_found(
    hardened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encrypted_traffic, "EncryptedServer", Unmasked)
    weights, _ = audit_weights(hardened, seed=0)
    for one in weights:
        assert one.excess_ci[0] > 0.5
        assert one.contradicts == "model/client/sealed"


def test_a_client_that_packs_zeros_tighter_is_found(
    hardened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = encrypted_traffic.EncryptedClient.encrypt

    def compressed(self: Any, x: np.ndarray) -> bytes:
        return honest(self, x)[: -(10 if not x.any() else 1)]

    class Deaf(encrypted_traffic.EncryptedServer):
        def answer(self, request: bytes) -> bytes:
            return bytes(100)

    monkeypatch.setattr(encrypted_traffic.EncryptedClient, "encrypt", compressed)
    monkeypatch.setattr(encrypted_traffic, "EncryptedServer", Deaf)
    sizes, counts, _ = audit_chosen(hardened, seed=0)
    assert sizes.value > 0.9
    assert sizes.contradicts == "input/server/sealed"
    assert counts.excess_ci == (0.0, 0.0)


def test_a_server_that_skips_zeros_is_found_by_its_time(
    hardened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock is simulated: an input with anything in it takes 5 % longer."""
    rng, now, last = np.random.default_rng(2), [0.0], [0.0]
    honest = encrypted_traffic.EncryptedClient.encrypt

    def watched(self: Any, x: np.ndarray) -> bytes:
        last[0] = float(x.any())
        return honest(self, x)

    class Skipping(encrypted_traffic.EncryptedServer):
        def answer(self, request: bytes) -> bytes:
            now[0] += 1.0 + 0.05 * last[0] + rng.normal() / 50
            return super().answer(request)

    monkeypatch.setattr(encrypted_traffic.EncryptedClient, "encrypt", watched)
    monkeypatch.setattr(encrypted_traffic, "EncryptedServer", Skipping)
    sizes, _, timed = audit_chosen(hardened, seed=0, clock=lambda: now[0])
    assert timed.contradicts == "input/server/sealed"
    assert timed.details["p-value"] < 1e-6
    assert sizes.excess == 0.0


def test_equations_beyond_what_is_solved_are_named_as_untested(
    hardened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encrypted_traffic, "_MOST_EQUATIONS", 10)
    weights, untested = audit_weights(hardened, seed=0)
    assert weights == []
    assert "more equations" in untested["partial sums in slots"]


def test_other_deployments_are_left_alone(hardened: Any) -> None:
    bare: Any = SimpleNamespace(halves=SimpleNamespace(head=object()), guarantees=())
    assert audit_chosen(bare, seed=0) == []
    assert audit_weights(bare, seed=0) == ([], {})
    zeros, corner = client_inputs(hardened.halves.head.layout.plan, 2, seed=0)
    assert not zeros.any()
    assert set(np.abs(corner)) == {1.0}
