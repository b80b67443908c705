"""What the server sees and knows: the only thing an attack is given.

Built by whoever runs the audit, from a transcript and public knowledge. Attacks import no
defence: the white-box knowledge they are entitled to arrives here, as data and callables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

Redraw = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Observed:
    """One part of the data as the server sees it.

    `features` (n, ...) float32: the encoder's clean output, or codes (n, 1) where the alphabet is
    finite; `predicted` (n,) the answer that the service gives (class index, or the answer's
    quantile bin for regression); `inputs` (n, ...) and `private` are the truth: attackers
    train on theirs, and only the evaluator opens those of the test part.
    """

    features: NDArray[np.float32]
    predicted: NDArray[np.int64]
    inputs: NDArray[np.float32]
    private: Mapping[str, NDArray[np.int64]]
    users: NDArray[np.int64] | None

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True, kw_only=True)
class ServerView:
    """The server's view of one deployment, with the knowledge DESIGN's SERVER adversary has.

    `encoder` maps inputs to clean features, differentiably (None where the attacker gets no
    weights). `redraw` adds the channel's public noise to clean features, afresh at each call
    (None: noiseless). `alphabet` is the number of codes (None: real-valued features).
    `classes` is the number of distinct values of `predicted`.
    """

    name: str
    attacker_train: Observed
    attacker_validation: Observed
    test: Observed
    classes: int
    encoder: nn.Module | None = None
    redraw: Redraw | None = None
    alphabet: int | None = None
