"""A client of an encrypted service that keeps to no rule: any numbers in, every slot out.

It is what audits attack with. An honest client encrypts real numbers within a bound, and reads the
answers' slots only; nothing but its own code holds it to that.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from reticent.inference.ckks.engine import context_of, galois_keys, seal_library
from reticent.inference.ckks.envelope import Envelope, Kind, join, split, unpack
from reticent.inference.ckks.keys import SLACK, SecretKeys
from reticent.inference.ckks.plan import Plan

Complex = NDArray[np.complex128]


class Probe:
    """Fresh keys for `plan`; queries may be complex, of which a slot holds both parts."""

    def __init__(self, plan: Plan) -> None:
        seal = seal_library()
        self._plan = plan
        self._context = context_of(plan.parameters)
        self._encoder = seal.CKKSEncoder(self._context)
        self._keys = SecretKeys(self._context)
        public = self._keys.generator.create_public_key()
        self._encryptor = seal.Encryptor(self._context, public)
        content = join(
            [
                bytes(public.to_string()),
                bytes(self._keys.generator.create_relin_keys().to_string()),
                bytes(galois_keys(self._keys.generator, plan.steps).to_string()),
            ]
        )
        self._id = hashlib.sha256(content).digest()[:16]
        self.public_keys = self._wrapped(Kind.KEYS, content)

    def encrypt(self, x: Complex) -> bytes:
        """A request for x (inputs,), laid out as the honest client does."""
        parts = []
        for columns in self._plan.layers[0].columns:
            slots = np.where(columns >= 0, x[np.maximum(columns, 0)], 0.0).astype(np.complex128)
            plain = self._encoder.encode_complex(slots, 2.0**self._plan.parameters.scale_bits)
            parts.append(bytes(self._encryptor.encrypt(plain).to_string()))
        return self._wrapped(Kind.REQUEST, join(parts))

    def slots(self, reply: bytes) -> Complex:
        """Every slot (slots,) of a reply, both parts."""
        seal = seal_library()
        most = self._plan.parameters.ciphertext_bytes + SLACK
        envelope = unpack(reply, kind=Kind.REPLY, plan=self._plan.digest, most=most + 8)
        made = seal.Ciphertext()
        made.load_bytes(self._context, split(envelope.content, count=1, most=most)[0])
        plain = seal.Decryptor(self._context, self._keys.secret).decrypt(made)
        return np.asarray(self._encoder.decode_complex(plain), dtype=np.complex128)

    def _wrapped(self, kind: Kind, content: bytes) -> bytes:
        return Envelope(kind=kind, plan=self._plan.digest, keys=self._id, content=content).pack()
