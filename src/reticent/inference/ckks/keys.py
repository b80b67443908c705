"""Keys of one client: made here, handed over as bytes, loaded by a server; answers opened."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from reticent.errors import DataError, EvidenceError
from reticent.inference.ckks.engine import (
    SealEngine,
    context_of,
    decoded,
    galois_keys,
    seal_library,
)
from reticent.inference.ckks.envelope import (
    PIECE,
    Envelope,
    Kind,
    join,
    part_sizes,
    split,
    unpack,
    unpack_stream,
)
from reticent.inference.ckks.parameters import Parameters

SLACK = 4096  # bytes that the library's own headers may add


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


class ClientKeys:
    """Fresh keys for one plan: `public` is what the server needs, rotations `steps` among it.

    `plan` is the plan's digest. Keys are named by 16 bytes of the digest of what is public.
    """

    def __init__(self, parameters: Parameters, *, plan: bytes, steps: tuple[int, ...]) -> None:
        seal = seal_library()
        self._parameters, self._plan = parameters, plan
        self.context = context_of(parameters)
        self.encoder = seal.CKKSEncoder(self.context)
        keys = SecretKeys(self.context)
        self._keys = keys
        self._decryptor = seal.Decryptor(self.context, keys.secret)
        public = keys.generator.create_public_key()
        self._encryptor = seal.Encryptor(self.context, public)
        self._encryptor.set_secret_key(keys.secret)
        content = join(
            [
                bytes(public.to_string()),
                bytes(keys.generator.create_relin_keys().to_string()),
                bytes(galois_keys(keys.generator, steps).to_string()),
            ]
        )
        self.id = hashlib.sha256(content).digest()[:16]
        self.public = self._wrapped(Kind.KEYS, content)

    def __repr__(self) -> str:
        return f"ClientKeys({self.id.hex()[:12]}, hidden)"

    def request(self, slots: list[NDArray[np.float64]], *, scale: float) -> bytes:
        """A message of one ciphertext for each array of slots."""
        parts = []
        for values in slots:
            plain = self.encoder.encode(np.ascontiguousarray(values, dtype=np.float64), scale)
            parts.append(bytes(self._encryptor.encrypt_symmetric(plain).to_string()))
        return self._wrapped(Kind.REQUEST, join(parts))

    def opened(self, reply: bytes, *, scale: float, primes: int) -> NDArray[np.float64]:
        """The slots of a reply's one ciphertext, not rounded.

        Raises `DataError`, `BundleError`, and `EvidenceError` for a reply under other keys, or of
        another scale or number of primes than the plan's: numbers divided by a smaller scale would
        show their noise above the places that are rounded to.
        """
        size = self._parameters.ciphertext_bytes + SLACK
        envelope = unpack(reply, kind=Kind.REPLY, plan=self._plan, most=size + 8)
        if envelope.keys != self.id:
            raise EvidenceError("The reply is for other keys than ours. Ask again.")
        made = seal_library().Ciphertext()
        try:
            made.load_bytes(self.context, split(envelope.content, count=1, most=size)[0])
        except (RuntimeError, ValueError) as error:
            raise DataError(f"Expected a ciphertext in the reply: {error}.") from None
        found = made.size(), made.coeff_modulus_size(), made.scale()
        if found[:2] != (2, primes) or not math.isclose(found[2], scale, rel_tol=1e-9):
            raise EvidenceError(
                f"Expected a reply of 2 polynomials, {primes} primes and scale {scale:g}, got "
                f"{found[0]}, {found[1]} and {found[2]:g}. It was not made by this plan."
            )
        return decoded(self.encoder, self._decryptor.decrypt(made))

    def _wrapped(self, kind: Kind, content: bytes) -> bytes:
        return Envelope(kind=kind, plan=self._plan, keys=self.id, content=content).pack()


def load_keys(
    parameters: Parameters, keys: bytes | Path, *, plan: bytes, steps: tuple[int, ...]
) -> tuple[bytes, SealEngine]:
    """A client's key id, and the engine that computes with its public keys.

    Of a file no more than a piece is in memory beside what the library makes of it; its folder
    needs room for it once more. Raises `DataError` and `BundleError` for bytes that are no keys of
    this plan, or not all that its rotations `steps` take.
    """
    context = context_of(parameters)
    most = parameters.key_bytes(len(steps)) * 51 // 50 + 3 * SLACK
    if isinstance(keys, Path):
        owner, made = _load_file(context, keys, plan=plan, most=most)
    else:
        owner, made = _load_bytes(context, keys, plan=plan, most=most)
    public, relinearise, rotations = made
    # A rotation by so many slots is known by the power of 3 that it turns roots of unity to.
    missing = [step for step in steps if not rotations.has_key(pow(3, step, 2 * parameters.degree))]
    if missing or not relinearise.has_key(2):
        raise DataError(
            f"Expected keys for relinearising and for rotations by {list(steps)}, got none for "
            f"{missing or 'relinearising'}. Make them with the model's current client files."
        )
    engine = SealEngine(context, public=public, relinearise=relinearise, rotations=rotations)
    return owner, engine


def _load_bytes(
    context: Any, keys: bytes, *, plan: bytes, most: int
) -> tuple[bytes, tuple[Any, Any, Any]]:
    envelope = unpack(keys, kind=Kind.KEYS, plan=plan, most=most)
    public, relinearise, turning = split(envelope.content, count=3, most=most)
    try:
        made = (
            context.from_public_str(public),
            context.from_relin_str(relinearise),
            context.from_galois_str(turning),
        )
    except (RuntimeError, ValueError) as error:
        raise _no_keys(error) from None
    return envelope.keys, made


def _load_file(
    context: Any, file: Path, *, plan: bytes, most: int
) -> tuple[bytes, tuple[Any, Any, Any]]:
    seal = seal_library()
    made = seal.PublicKey(), seal.RelinKeys(), seal.GaloisKeys()
    with file.open("rb") as stream, TemporaryDirectory(dir=file.parent) as folder:
        owner = unpack_stream(stream, kind=Kind.KEYS, plan=plan, most=most)
        part = Path(folder) / "part"
        for each, size in zip(made, part_sizes(stream, count=len(made), most=most), strict=True):
            with part.open("wb") as copy:
                for left in range(size, 0, -PIECE):
                    copy.write(stream.read(min(left, PIECE)))
            try:
                each.load(context, str(part))
            except (RuntimeError, ValueError) as error:
                raise _no_keys(error) from None
    return owner, made


def _no_keys(error: Exception) -> DataError:
    return DataError(f"Expected evaluation keys for these parameters: {error}.")
