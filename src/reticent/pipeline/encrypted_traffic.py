"""What a sealed deployment's messages tell: real requests and replies, counted, timed, solved."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.finding import Finding
from reticent.attacks.traffic import Traffic
from reticent.audit.encrypted import audit_messages, audit_replies
from reticent.audit.family import judged
from reticent.audit.traffic import audit_traffic
from reticent.guarantee import SERVER, Pillar
from reticent.inference.ckks.client import EncryptedClient
from reticent.inference.ckks.plan import Plan
from reticent.inference.ckks.server import EncryptedServer
from reticent.inference.sealed.method import SealedHead
from reticent.inference.sealed.release import Sealed
from reticent.inference.split.harden import Hardened
from reticent.pipeline.stage import Stage
from reticent.random import seeded

_EXCHANGES = 60
_FEWEST = 40
# Chosen inputs are sent for so long, or until there are as many as this.
_SECONDS, _MOST = 8.0, 160
# Numbers in the equations that replies are solved by, one row a slot: 64 MB.
_MOST_EQUATIONS = 1 << 23


def plan_of(hardened: Hardened) -> Plan | None:
    """How a sealed deployment is computed; None for any other."""
    head = hardened.halves.head
    return head.layout.plan if isinstance(head, SealedHead) else None


def audit_chosen(
    hardened: Hardened,
    *,
    seed: int,
    clock: Callable[[], float] = time.process_time,
) -> list[Finding]:
    """Whether the server tells chosen inputs apart, by size, number or its own CPU time.

    Of 40 to 160 requests under fresh keys, as many as eight seconds hold, half are of zeros alone
    and half of numbers as large as clients may send: what a server that skips or shortens anything
    would show. Judged against the claims about the input. Empty for a deployment that isn't sealed.
    """
    plan = plan_of(hardened)
    if plan is None:
        return []
    client = EncryptedClient(plan.for_client(), most_queries=_MOST + 2)
    server = EncryptedServer(plan, client.public_keys)
    inputs = client_inputs(plan, _MOST, seed=seed)
    # The first request waits for weights to be encoded: it is neither timed nor judged.
    server.answer(client.encrypt(inputs[0]))
    started = time.monotonic()
    server.answer(client.encrypt(inputs[1]))
    each = time.monotonic() - started
    count = 2 * int(np.clip(_SECONDS / each, _FEWEST, _MOST) // 2)
    found = audit_messages(
        lambda x: [client.encrypt(x)],
        lambda sent: [server.answer(message) for message in sent],
        inputs[:count],
        np.arange(count) % 2,
        target="chosen input",
        clock=clock,
        seed=seed,
    )
    return list(judged(found, hardened.guarantees))


def client_inputs(plan: Plan, count: int, *, seed: int) -> list[NDArray[np.float64]]:
    """`count` inputs, in turn all zeros and corners of the box that clients may send."""
    width = plan.lowered.matrices[0].weight.shape[1]
    corners = seeded(seed, 361).choice([-plan.bound, plan.bound], size=(count, width))
    return [corners[row] * (row % 2) for row in range(count)]


def audit_weights(hardened: Hardened, *, seed: int) -> tuple[list[Finding], Mapping[str, str]]:
    """How much of the last matrix whole replies give a client; and what wasn't tried, with why.

    With one matrix the query is also hidden in imaginary parts. Judged against the claims about
    the model. Both empty for a deployment that isn't sealed.
    """
    plan = plan_of(hardened)
    if plan is None:
        return [], {}
    unknowns, slots = plan.lowered.matrices[-1].weight.size, plan.layers[-1].span
    if unknowns * slots > _MOST_EQUATIONS:
        why = f"{slots} slots times {unknowns} weights are more equations than are solved here"
        return [], {"partial sums in slots": why}
    ways = (False, True) if len(plan.layers) == 1 else (False,)
    found = [audit_replies(plan, serve=EncryptedServer, imaginary=way, seed=seed) for way in ways]
    return list(judged(found, hardened.guarantees)), {}


def audit_sizes(stage: Stage, hardened: Hardened, *, seed: int) -> list[Finding]:
    """How well sizes give the answer away, against the claim that the server doesn't learn it.

    Up to 60 test records are encrypted, answered and measured. Empty for a deployment that isn't
    sealed, and where they all have one answer. Times are measured on chosen inputs, `audit_chosen`.
    """
    release, head = hardened.halves.release, hardened.halves.head
    if not isinstance(release, Sealed) or not isinstance(head, SealedHead):
        return []
    x = stage.records("test").x[:_EXCHANGES]
    answers = stage.answers.index_outputs(hardened.halves.predict(x))
    if len(x) < _FEWEST or len(np.unique(answers)) < 2:
        return []
    client = EncryptedClient(release.plan, most_queries=len(x))
    server = EncryptedServer(head.layout.plan, client.public_keys)
    sizes = []
    for features in release.clipped(hardened.halves.features(x)):
        request = client.encrypt(features)
        sizes.append((len(request), len(server.answer(request))))
    request_sizes, reply_sizes = np.array(sizes, dtype=np.int64).T
    traffic = Traffic(request=request_sizes, reply=reply_sizes)
    return list(
        audit_traffic(traffic, answers, adversary=SERVER.name, pillar=Pillar.OUTPUT, seed=seed)
    )
