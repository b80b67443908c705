"""Everything that crossed a trust boundary, as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.guarantee import Adversary


@dataclass(frozen=True, kw_only=True, eq=False)
class Message:
    """One array that one party sent to another, or wrote down (`receiver` is then its own log)."""

    sender: str
    receiver: str
    name: str
    payload: NDArray[Any] | str

    @property
    def size(self) -> int:
        """Payload size in bytes; of an array of byte strings, the strings' own."""
        if isinstance(self.payload, str):
            return len(self.payload.encode())
        if self.payload.dtype == object:
            return sum(len(item) for item in self.payload.flat)
        return int(self.payload.nbytes)

    def describe(self) -> str:
        """The message in one line: who to whom, what, and the payload's first values."""
        if isinstance(self.payload, str):
            body = self.payload
        elif self.payload.dtype == object:
            sizes = sorted({len(item) for item in self.payload.flat})
            body = f"{self.payload.size} byte strings of {' or '.join(map(str, sizes[:4]))} bytes"
        else:
            head = np.array2string(self.payload.reshape(-1)[:8], precision=3, separator=", ")
            body = f"{self.payload.dtype}{list(self.payload.shape)} {head}"
        return f"{self.sender} -> {self.receiver}  {self.name}: {body}  ({self.size} bytes)"


@dataclass
class Transcript:
    """What crossed a trust boundary, in order."""

    messages: list[Message] = field(default_factory=list)

    def record(self, sender: str, receiver: str, name: str, payload: NDArray[Any] | str) -> None:
        """Append one message; arrays are copied, so that later changes can't rewrite history."""
        kept = payload if isinstance(payload, str) else np.array(payload)
        self.messages.append(Message(sender=sender, receiver=receiver, name=name, payload=kept))

    def view(self, adversary: Adversary) -> Transcript:
        """What one adversary got to see: what it sent, received, or logged."""
        return Transcript([m for m in self.messages if adversary.name in (m.sender, m.receiver)])

    def __iter__(self) -> Iterator[Message]:
        return iter(self.messages)

    def __len__(self) -> int:
        return len(self.messages)
