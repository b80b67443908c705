"""Traffic analysis: what lengths and times on the wire tell about what was sent encrypted.

The observer sees no payload: request bytes, reply bytes, seconds until the reply. It guesses a
class (the answer, or a private attribute) from them, as website fingerprinting does (Cai et al.
2012; Dyer et al. 2012 for how few features are enough).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from reticent.errors import DataError
from reticent.transcript import Transcript

_FEWEST = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Traffic:
    """One row per exchange (n,): sizes in bytes (int64), and seconds (float64) where known."""

    request: NDArray[np.int64]
    reply: NDArray[np.int64]
    seconds: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        parts = [part for part in (self.request, self.reply, self.seconds) if part is not None]
        if len({part.shape for part in parts}) != 1 or parts[0].ndim != 1 or len(parts[0]) == 0:
            raise DataError(
                f"Expected request, reply and seconds of one shape (n,), got "
                f"{[part.shape for part in parts]}."
            )
        if self.seconds is not None and not np.isfinite(self.seconds).all():
            raise DataError("Expected finite seconds, got NaN or infinity.")

    def __len__(self) -> int:
        return len(self.request)

    @classmethod
    def of_transcript(
        cls,
        transcript: Transcript,
        *,
        client: str = "client",
        server: str = "server",
        seconds: NDArray[np.float64] | None = None,
    ) -> Self:
        """The exchanges of a transcript: client messages up to, and server messages after, a turn.

        Raises `DataError` where the messages don't alternate into whole exchanges.
        """
        requests: list[int] = []
        replies: list[int] = []
        last = server
        for message in transcript:
            if (message.sender, message.receiver) == (client, server):
                if last == server:
                    if len(requests) != len(replies):
                        raise DataError(f"Exchange {len(requests) - 1} has no reply.")
                    requests.append(0)
                requests[-1] += message.size
                last = client
            elif (message.sender, message.receiver) == (server, client):
                if not requests:
                    raise DataError("Expected a request first, got a reply.")
                if last == client:
                    replies.append(0)
                replies[-1] += message.size
                last = server
        if not requests or len(requests) != len(replies):
            raise DataError(
                f"Expected whole exchanges between {client!r} and {server!r}, got "
                f"{len(requests)} requests and {len(replies)} replies."
            )
        return cls(
            request=np.array(requests, dtype=np.int64),
            reply=np.array(replies, dtype=np.int64),
            seconds=seconds,
        )

    def take(self, rows: NDArray[Any]) -> Self:
        """The exchanges at `rows` (indices, or a mask)."""
        return type(self)(
            request=self.request[rows],
            reply=self.reply[rows],
            seconds=None if self.seconds is None else self.seconds[rows],
        )

    @property
    def is_constant(self) -> bool:
        """Whether all exchanges look alike: then nothing can be learnt from them."""
        parts = [part for part in (self.request, self.reply, self.seconds) if part is not None]
        return all(bool((part == part[0]).all()) for part in parts)

    def features(self) -> NDArray[np.float64]:
        """What an observer reckons with, (n, 2 or 3)."""
        parts = [self.request.astype(np.float64), self.reply.astype(np.float64)]
        return np.stack(parts if self.seconds is None else [*parts, self.seconds], axis=1)


Guesser = Callable[[Traffic, NDArray[np.int64], Traffic, int], NDArray[np.int64] | None]


def guess_by_sizes(
    own: Traffic, classes: NDArray[np.int64], seen: Traffic, seed: int
) -> NDArray[np.int64]:
    """Classes (n,): for each pair of sizes the class with which it came most, weighed evenly.

    The Bayes-optimal guess from sizes alone; a pair never met gives the first class.
    """
    count = int(classes.max()) + 1
    pairs = np.concatenate([np.stack([part.request, part.reply], axis=1) for part in (own, seen)])
    cells = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
    table = np.zeros((int(cells.max()) + 1, count))
    np.add.at(table, (cells[: len(own)], classes), 1.0)
    table /= np.maximum(np.bincount(classes, minlength=count), 1)
    return np.asarray(table.argmax(axis=1)[cells[len(own) :]], dtype=np.int64)


def guess_by_nearest(
    own: Traffic, classes: NDArray[np.int64], seen: Traffic, seed: int
) -> NDArray[np.int64] | None:
    """Classes (n,) by a vote of the 15 exchanges nearest in response time; None without times."""
    if own.seconds is None or seen.seconds is None:
        return None
    order = np.argsort(own.seconds, kind="stable")
    times, sorted_classes = own.seconds[order], classes[order]
    votes = min(15, len(times))
    count = int(classes.max()) + 1
    weight = 1.0 / np.maximum(np.bincount(classes, minlength=count), 1)
    start = np.searchsorted(times, seen.seconds) - votes // 2
    start = np.clip(start, 0, len(times) - votes)
    near = sorted_classes[start[:, None] + np.arange(votes)]
    table = np.zeros((len(seen), count))
    np.add.at(table, (np.arange(len(seen))[:, None], near), weight[near])
    return np.asarray(table.argmax(axis=1), dtype=np.int64)


def guess_by_boosting(
    own: Traffic, classes: NDArray[np.int64], seen: Traffic, seed: int
) -> NDArray[np.int64]:
    """Classes (n,) by gradient boosting on sizes and times."""
    model = HistGradientBoostingClassifier(
        class_weight="balanced",
        max_iter=60,
        max_leaf_nodes=15,
        min_samples_leaf=max(_FEWEST, min(20, len(classes) // 50)),
        early_stopping=False,
        random_state=seed % 2**32,
    )
    model.fit(own.features(), classes)
    return np.asarray(model.predict(seen.features()), dtype=np.int64)


GUESSERS: Mapping[str, Guesser] = {
    "sizes": guess_by_sizes,
    "nearest in time": guess_by_nearest,
    "boosting": guess_by_boosting,
}
"""All observers by name."""


def mutual_information(symbols: NDArray[np.int64], classes: NDArray[np.int64]) -> float:
    """Plug-in mutual information in nats of two discrete variables (n,).

    It overestimates by about (symbols - 1) (classes - 1) / 2n (Miller 1955): compare it with
    permuted classes, not with 0.
    """
    first = np.unique(symbols, return_inverse=True)[1].reshape(-1)
    second = np.unique(classes, return_inverse=True)[1].reshape(-1)
    joint = np.zeros((int(first.max()) + 1, int(second.max()) + 1))
    np.add.at(joint, (first, second), 1.0)
    joint /= len(classes)
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    held = joint > 0
    return max(0.0, float((joint[held] * np.log(joint[held] / apart[held])).sum()))


def symbols(traffic: Traffic, *, bands: int = 8) -> NDArray[np.int64]:
    """Each exchange as one symbol (n,): both sizes, and the time's quantile band of `bands`."""
    parts = [traffic.request, traffic.reply]
    if traffic.seconds is not None:
        edges = np.quantile(traffic.seconds, np.arange(1, bands) / bands)
        parts.append(np.searchsorted(edges, traffic.seconds))
    pairs = np.stack(parts, axis=1)
    return np.asarray(np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1), dtype=np.int64)
