"""How long one query takes, both halves in one process: compute only, no network."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from reticent.inference.ckks.client import EncryptedClient
from reticent.inference.ckks.server import EncryptedServer
from reticent.inference.sealed.method import SealedHead
from reticent.inference.sealed.release import Sealed
from reticent.inference.split.harden import Hardened
from reticent.pipeline.stage import Stage


def query_ms(stage: Stage, hardened: Hardened) -> float:
    """Median milliseconds of one record's query, encrypted where the deployment is."""
    x, halves = stage.records("test").x[:1], hardened.halves
    release, head = halves.release, halves.head
    if not isinstance(release, Sealed) or not isinstance(head, SealedHead):
        return median_ms(lambda: halves.predict(x), seconds=1.0)
    client = EncryptedClient(release.plan)
    server = EncryptedServer(head.layout.plan, client.public_keys)

    def ask() -> None:
        features = release.clipped(halves.features(x))
        client.decrypt(server.answer(client.encrypt(features[0])))

    ask()  # weights are encoded at the first query
    return median_ms(ask, seconds=1.0)


def median_ms(call: Callable[[], object], *, repeats: int = 200, seconds: float = 5.0) -> float:
    """Median milliseconds of `call`, five times at least, until either limit is reached."""
    times: list[float] = []
    while len(times) < repeats and (len(times) < 5 or sum(times) < seconds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times) * 1000)
