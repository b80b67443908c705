"""The client half: keys, encryption, decryption; the secret key never leaves this object."""

from __future__ import annotations

import hashlib
import math
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from reticent.errors import BudgetExhaustedError, DataError, EvidenceError, InputError
from reticent.inference.ckks.engine import (
    context_of,
    decoded,
    galois_keys,
    seal_library,
)
from reticent.inference.ckks.envelope import Envelope, Kind, join, split, unpack
from reticent.inference.ckks.plan import ClientPlan

_SLACK = 4096


class SecretKeys:
    """A key generator and its secret: no text form, no copy, no pickle."""

    def __init__(self, context: Any) -> None:
        seal = seal_library()
        self.generator = seal.KeyGenerator(context)
        self.secret = self.generator.secret_key()

    def __repr__(self) -> str:
        return "SecretKeys(hidden)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("Secret keys are not copied or pickled: they stay in this process.")


class EncryptedClient:
    """Encrypts queries for one plan and decrypts the replies.

    Answers are rounded to `precision_bits` binary places before anything else sees them, and a
    key answers at most `most_queries`: decryptions of approximate ciphertexts tell about the key
    (Li & Micciancio 2021), and rounding hides what lies below the places that are right.
    `rotate` makes new keys. Raises `BudgetExhaustedError` beyond that number.
    """

    def __init__(
        self, plan: ClientPlan, *, precision_bits: int = 6, most_queries: int = 10_000
    ) -> None:
        self._plan = plan
        self._context = context_of(plan.parameters)
        self._encoder = seal_library().CKKSEncoder(self._context)
        self._precision, self._most_queries = precision_bits, most_queries
        self.rotate()

    def rotate(self) -> None:
        """New keys; the server needs the new `public_keys`."""
        seal = seal_library()
        self._keys = SecretKeys(self._context)
        self._decryptor = seal.Decryptor(self._context, self._keys.secret)
        generator = self._keys.generator
        public = generator.create_public_key()
        self._encryptor = seal.Encryptor(self._context, public)
        self._encryptor.set_secret_key(self._keys.secret)
        content = join(
            [
                bytes(public.to_string()),
                bytes(generator.create_relin_keys().to_string()),
                bytes(galois_keys(generator, self._plan.steps or (1,)).to_string()),
            ]
        )
        self._key_id = hashlib.sha256(content).digest()[:16]
        self._public = Envelope(
            kind=Kind.KEYS, plan=self._plan.digest, keys=self._key_id, content=content
        ).pack()
        self.queries = 0

    @property
    def public_keys(self) -> bytes:
        """What the server needs: public, relinearisation and the planned rotation keys."""
        return self._public

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
        parts = []
        for columns in self._plan.columns:
            values = np.where(columns >= 0, flat[np.maximum(columns, 0)], 0.0)
            plain = self._encoder.encode(values, 2.0**self._plan.parameters.scale_bits)
            parts.append(bytes(self._encryptor.encrypt_symmetric(plain).to_string()))
        return Envelope(
            kind=Kind.REQUEST, plan=self._plan.digest, keys=self._key_id, content=join(parts)
        ).pack()

    def decrypt(self, reply: bytes) -> NDArray[np.float64]:
        """The answer (outputs,), rounded. Raises `EvidenceError` where it can't be one."""
        size = self._plan.parameters.ciphertext_bytes + _SLACK
        envelope = unpack(reply, kind=Kind.REPLY, plan=self._plan.digest, most=size + 8)
        if envelope.keys != self._key_id:
            raise EvidenceError("The reply is for other keys than ours. Ask again.")
        made = seal_library().Ciphertext()
        try:
            made.load_bytes(self._context, split(envelope.content, count=1, most=size)[0])
            values = decoded(self._encoder, self._decryptor.decrypt(made))
        except (RuntimeError, ValueError) as error:
            raise DataError(f"Expected a ciphertext in the reply: {error}.") from None
        outputs = self._plan.outputs
        answer = np.empty(int(outputs.max()) + 1)
        places = np.flatnonzero(outputs >= 0)
        answer[outputs[places]] = values[places]
        # Garbage fills the whole modulus; an answer is small beside it.
        if not np.all(np.abs(answer) < 2.0**20):
            raise EvidenceError(
                f"The reply decrypts to {np.abs(answer).max():.3g}: no answer of this network. "
                "It was not made from our query, or under other keys."
            )
        step = math.ldexp(1.0, -self._precision)
        rounded: NDArray[np.float64] = np.round(answer / step) * step
        return rounded
