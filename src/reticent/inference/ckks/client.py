"""The client half: encryption and decryption; the secret key never leaves this object."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import BudgetExhaustedError, ConfigError, EvidenceError, InputError
from reticent.inference.ckks.keys import ClientKeys
from reticent.inference.ckks.plan import ClientPlan


class EncryptedClient:
    """Encrypts queries for one plan and decrypts the replies.

    Answers are rounded to the places that the plan certifies, or fewer (`precision_bits`), before
    anything else sees them, and a key answers at most `most_queries`: decryptions of approximate
    ciphertexts tell about the key (Li & Micciancio 2021), and rounding hides what lies below the
    places that are right. An answer that lies within its error of a step's border still shows on
    which side it fell: who publishes many exact answers should add noise to them. `rotate` makes
    new keys. Raises `BudgetExhaustedError` beyond that number, `ConfigError` for more places.
    """

    def __init__(
        self, plan: ClientPlan, *, precision_bits: int | None = None, most_queries: int = 10_000
    ) -> None:
        self._plan = plan
        self._precision = plan.places if precision_bits is None else precision_bits
        if self._precision > plan.places:
            raise ConfigError(
                f"Expected precision_bits of at most {plan.places}, the binary places that noise "
                f"leaves right, got {precision_bits=}."
            )
        self._most_queries = most_queries
        self.rotate()

    def rotate(self) -> None:
        """New keys; the server needs the new `public_keys`."""
        plan = self._plan
        self._keys = ClientKeys(plan.parameters, plan=plan.digest, steps=plan.steps)
        self.queries = 0

    @property
    def public_keys(self) -> bytes:
        """What the server needs: public, relinearisation and the planned rotation keys."""
        return self._keys.public

    def encrypt(self, x: NDArray[Any]) -> bytes:
        """One query, x of the program's input shape.

        Raises `InputError` for another size, NaN, or values beyond the bound that the network's
        polynomials were checked for.
        """
        if self.queries >= self._most_queries:
            raise BudgetExhaustedError(
                f"These keys have answered most_queries={self._most_queries}. Call rotate() and "
                "upload the new public keys."
            )
        flat = np.asarray(x, dtype=np.float64).ravel()
        if flat.size != self._plan.inputs:
            raise InputError(f"Expected {self._plan.inputs} numbers a query, got {flat.size}.")
        if not np.all(np.abs(flat) <= self._plan.bound):
            raise InputError(
                f"Expected finite inputs of at most {self._plan.bound:g} in size, for which the "
                f"network was checked, got {np.abs(flat).max():g}. Scale as in training."
            )
        self.queries += 1
        slots = [
            np.where(columns >= 0, flat[np.maximum(columns, 0)], 0.0)
            for columns in self._plan.columns
        ]
        return self._keys.request(slots, scale=2.0**self._plan.parameters.scale_bits)

    def decrypt(self, reply: bytes) -> NDArray[np.float64]:
        """The answer (outputs,), rounded. Raises `EvidenceError` where it can't be one."""
        values = self._opened(reply)
        outputs = self._plan.outputs
        answer = np.empty(int(outputs.max()) + 1)
        places = np.flatnonzero(outputs >= 0)
        answer[outputs[places]] = values[places]
        return self._rounded(answer)

    @property
    def left(self) -> int:
        """Queries that these keys still answer."""
        return self._most_queries - self.queries

    def _opened(self, reply: bytes) -> NDArray[np.float64]:
        plan = self._plan
        return self._keys.opened(reply, scale=2.0**plan.reply_bits, primes=plan.reply_primes)

    def _rounded(self, answer: NDArray[np.float64]) -> NDArray[np.float64]:
        # Garbage fills the whole modulus; an answer is small beside it. What it is stays unsaid:
        # a decryption that nobody rounded tells about the key.
        if not np.all(np.abs(answer) < 2.0**20):
            raise EvidenceError(
                "The reply decrypts to no answer of this network: it was not made from our query. "
                "Don't ask this server again with these keys."
            )
        step = math.ldexp(1.0, -self._precision)
        rounded: NDArray[np.float64] = np.round(answer / step) * step
        return rounded
