"""Private answers on ciphertexts: noise that the server adds, and that no query outruns.

A client asks a linear head that was trained on other people's records. The server can't see the
query, so noise of a fixed size would not do: who encrypts a query a thousand times too large gets
answers a thousand times clearer, and a ciphertext shows nobody. The noise is therefore drawn on
the weights, W + E, and multiplied with the encrypted query as they are: the answer to x is
W x + E x, whose noise has the standard deviation sigma |x|, whatever x is.

**Claim.** All that ever leaves, to all clients together, is zero-concentrated private for one
record of the head's training data, at the sum of what was charged: each draw of E is the Gaussian
mechanism on W (Bun & Steinke 2016, proposition 1.6; discrete: Canonne, Kamath & Steinke 2020,
theorem 4), and everything after it is post-processing: the query, the partial sums in masked
slots, the ciphertext's own noise that depends on weights. **Assumptions.** One record moves W by at
most `StableHead.sensitivity`; the operating system's randomness. Of the client nothing is assumed.
**Not claimed.** That a server which deviates adds noise: the client has to take its word.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import uuid
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reticent.errors import ConfigError
from reticent.guarantee import CLIENT, DifferentialPrivacy, Guarantee, Pillar
from reticent.inference.ckks.plan import Goal, Plan, plan
from reticent.inference.ckks.primitives import Primitives
from reticent.inference.ckks.program import Linear, Program, Step
from reticent.inference.ckks.rows import Matrix
from reticent.inference.ckks.server import EncryptedServer
from reticent.privacy.ledger import Cap, Cost, Ledger, zcdp
from reticent.training.pate.noise import STEPS, SecureVoteNoise
from reticent.training.stable import StableHead

RELATION = "add or remove one"


@dataclass(frozen=True, kw_only=True)
class AnswerNoise:
    """Gaussian noise of standard deviation `multiplier` sensitivities on each weight.

    One draw answers `answers` queries, and is charged once; then a new one is drawn. More answers
    to a draw cost nothing and are never less exact for the same budget; they are alike for the same
    query. Fresh noise for each (`answers` = 1) is for heads that are trained anew between queries.
    """

    multiplier: float
    answers: int = 1

    def __post_init__(self) -> None:
        if not (0 < self.multiplier < 2.0**20 and self.answers >= 1):
            raise ConfigError(f"Expected 0 < multiplier < 2**20 and answers >= 1, got {self}.")

    def sigma(self, head: StableHead) -> float:
        """Standard deviation on each weight; times |(x, 1)|, that of an answer."""
        return self.multiplier * head.sensitivity

    def cost(self, head: StableHead) -> Cost:
        """What one draw costs: rounding to the lattice of the draws adds to the sensitivity."""
        moved = head.sensitivity + self.sigma(head) / STEPS * math.sqrt(head.weights.size)
        return zcdp(rho=(moved / self.sigma(head)) ** 2 / 2)


def drawn(head: StableHead, noise: AnswerNoise) -> NDArray[np.float64]:
    """Noisy weights (classes, features + 1): the one place where secret weights are read.

    Weights are rounded to multiples of sigma / 2**32, on which the exact sampler draws.
    """
    step = noise.sigma(head) / STEPS
    moved = SecureVoteNoise().draw(head.weights.size, sigma=1.0)
    steps = [round(float(w) / step) + e for w, e in zip(head.weights.ravel(), moved, strict=True)]
    return np.array([made * step for made in steps]).reshape(head.weights.shape)


def plan_head(
    *,
    classes: int,
    features: int,
    bound: float,
    goal: Goal = "upload",
    primitives: Primitives | None = None,
) -> Plan:
    """The layout of a head of this shape, made without its weights; inputs of at most `bound`."""
    ones = Linear(name="head", weight=np.ones((classes, features)), bias=np.ones(classes))
    steps = (Step(operation=ones, sources=(0,)),)
    program = Program(input_shape=(features,), steps=steps, bound=bound)
    return plan(program, goal=goal, primitives=primitives)


class NoisyServer:
    """Answers encrypted queries of one client with noise, and charges the ledger for each draw.

    `layout` is `plan_head`'s. `dataset` is what the head was trained on, granted per record, for
    neighbours that add or remove one. Safe for threads.
    """

    def __init__(
        self,
        head: StableHead,
        layout: Plan,
        keys: bytes,
        *,
        noise: AnswerNoise,
        ledger: Ledger,
        dataset: str,
        analyst: str = "",
    ) -> None:
        known = ledger.dataset(dataset)
        if known.unit != "record" or known.relation != RELATION:
            raise ConfigError(
                f"Expected a budget with unit='record' and relation={RELATION!r}, got "
                f"unit={known.unit!r}, relation={known.relation!r} of dataset={dataset!r}."
            )
        shape = layout.lowered.matrices[0].weight.shape
        if len(layout.layers) != 1 or shape != (head.classes, head.features):
            raise ConfigError(
                f"Expected a layout of one matrix {(head.classes, head.features)}, got {shape} and "
                f"{len(layout.layers)} layers. Make it with plan_head."
            )
        self._head, self._layout, self._keys, self._noise = head, layout, keys, noise
        self._ledger, self._dataset, self._analyst = ledger, known.id, analyst
        self._blank = EncryptedServer(layout, keys)
        self._current, self._left = self._blank, 0
        self._lock = threading.Lock()

    def answer(self, request: bytes) -> bytes:
        """The encrypted noisy reply; charged before a weight is read, and before it leaves.

        Raises `BudgetExhaustedError` (exit 4) where a draw would pass the cap: nothing is computed
        then. `DataError`, `BundleError` and `AuthenticationError` for requests that are none, which
        cost nothing.
        """
        # A layout without weights answers first: bad messages must not spend a budget.
        self._blank.answer(request)
        with self._lock:
            if not self._left:
                self._draw()
            self._left -= 1
            return self._current.answer(request)

    def guarantees(self, cap: Cap) -> tuple[Guarantee, ...]:
        """What the answers claim under the cap that the data set was granted."""
        return (
            Guarantee(
                id="noisy-answers",
                pillar=Pillar.TRAINING_DATA,
                adversary=CLIENT,
                strength=DifferentialPrivacy(
                    epsilon=cap.epsilon,
                    delta=cap.delta,
                    neighboring_relation=RELATION,
                    unit="record",
                ),
                mechanism=f"discrete Gaussian noise of {self._noise.multiplier:g} sensitivities on "
                "the weights, multiplied with the encrypted query",
                assumptions=(
                    "ridge, row norm and classes are public",
                    "the server adds the noise that it says",
                ),
                source="Chaudhuri et al. 2011; Canonne, Kamath & Steinke 2020",
            ),
        )

    def _draw(self) -> None:
        with self._ledger.spending(
            self._dataset,
            self._noise.cost(self._head),
            key=f"noisy answers {uuid.uuid4()}",
            analyst=self._analyst,
            event={"mechanism": "noisy answers on ciphertexts", "noise": repr(self._noise)},
        ):
            weights = drawn(self._head, self._noise)
            matrix = Matrix(name="head", weight=weights[:, :-1], bias=weights[:, -1])
            lowered = dataclasses.replace(self._layout.lowered, matrices=(matrix,))
            layout = dataclasses.replace(self._layout, lowered=lowered)
            made = EncryptedServer(layout, self._keys)
        self._current, self._left = made, self._noise.answers
