"""What the sizes of a sealed deployment's messages tell: real requests and replies, counted."""

from __future__ import annotations

import numpy as np

from reticent.attacks.finding import Finding
from reticent.attacks.traffic import Traffic
from reticent.audit.traffic import audit_traffic
from reticent.guarantee import SERVER, Pillar
from reticent.inference.ckks.client import EncryptedClient
from reticent.inference.ckks.server import EncryptedServer
from reticent.inference.sealed.method import SealedHead
from reticent.inference.sealed.release import Sealed
from reticent.inference.split.harden import Hardened
from reticent.pipeline.stage import Stage

_EXCHANGES = 60
_FEWEST = 40


def audit_sizes(stage: Stage, hardened: Hardened, *, seed: int) -> list[Finding]:
    """How well sizes give the answer away, against the claim that the server doesn't learn it.

    Up to 60 test records are encrypted, answered and measured. Empty for a deployment that isn't
    sealed, and where they all have one answer. Times are left out: the server computes the same
    operations for every ciphertext, and this process's clock would measure its other work.
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
