"""A process that computes on ciphertexts: the event loop and the other core stay free of it.

Each holds the network, its weights encoded once for all clients, and the evaluation keys of the
clients that it answered last, up to a number of bytes: nothing else is held for a client.
Strangers' bytes meet the library here: should they end the process, they end no more than that.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from reticent.errors import BundleError
from reticent.inference.ckks.plan import Plan
from reticent.inference.ckks.server import EncryptedServer, Weights
from reticent.inference.sealed.files import load_plan


@dataclass(kw_only=True)
class _State:
    plan: Plan
    weights: Weights
    most_bytes: int
    servers: OrderedDict[str, tuple[EncryptedServer, int]] = field(default_factory=OrderedDict)

    def server(self, keys: Path) -> EncryptedServer:
        name = keys.name
        if name not in self.servers:
            try:
                data = keys.read_bytes()
            except FileNotFoundError:
                raise BundleError(
                    "The evaluation keys were evicted meanwhile. Upload them again."
                ) from None
            made = EncryptedServer(self.plan, data, weights=self.weights)
            self.servers[name] = (made, len(data))
            while self._bytes() > self.most_bytes and len(self.servers) > 1:
                self.servers.popitem(last=False)
        self.servers.move_to_end(name)
        return self.servers[name][0]

    def _bytes(self) -> int:
        return sum(size for _, size in self.servers.values())


_state: _State | None = None


def start(folder: Path, most_bytes: int) -> None:
    """Load the network in `folder`; called once in each process."""
    global _state
    plan = load_plan(folder)
    _state = _State(plan=plan, weights=Weights(plan), most_bytes=most_bytes)


def admit(keys: Path) -> None:
    """Load a client's keys through the validating loader. Raises `DataError`, `BundleError`."""
    assert _state is not None
    _state.server(keys)


def answer(keys: Path, request: bytes) -> bytes:
    """The encrypted reply to one request."""
    assert _state is not None
    return _state.server(keys).answer(request)
