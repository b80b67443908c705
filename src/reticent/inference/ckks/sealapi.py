"""TenSEAL's bindings of SEAL, under the names of seal-python: the engine's second choice.

Both write the same bytes but for the version in their headers and compression, which TenSEAL always
uses and seal-python can't read. So bytes are decompressed on their way out and given TenSEAL's own
version on their way in: a client of one and a server of the other understand each other. The
library reads and writes files only, so that bytes pass through temporary ones; secret keys have no
bytes here.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator
from mmap import mmap
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from reticent.errors import MissingExtraError

try:
    import zstandard
    from tenseal import sealapi
except ImportError as error:
    raise MissingExtraError("tenseal and zstandard", "encrypted-tenseal") from error

# Magic number, header's size, version (major, minor), compression, size of the whole.
_HEADER = struct.Struct("<HBBBBxxQ")
_MAGIC, _MAJOR, _MINOR, _PLAIN, _ZSTD = 0xA15E, 4, 3, 0, 2
_READABLE = (3, 4)
# What stands before the residues of a ciphertext, and before the first of several keys.
_BEFORE_RESIDUES, _BEFORE_KEYS = _HEADER.size + 73, _HEADER.size + 32
# Rotations by one slot take the automorphism X -> X^3.
_TURN = 3

EncryptionParameters = sealapi.EncryptionParameters
CoeffModulus = sealapi.CoeffModulus
scheme_type = SimpleNamespace(ckks=sealapi.SCHEME_TYPE.CKKS)
sec_level_type = SimpleNamespace(tc128=sealapi.SEC_LEVEL_TYPE.TC128)


class _Bytes:
    """Bytes in and out of what the library saves to files; loading validates against a context."""

    _several = False

    def load_bytes(self, context: Any, data: bytes) -> None:
        """Take the object in `data`. Raises `ValueError` or `RuntimeError` for anything else."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "object"
            file.write_bytes(data)
            self._load(context, file)

    def load(self, context: Any, path: str) -> None:
        """As `load_bytes`, of a file."""
        with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
            self._load(context, Path(shutil.copyfile(path, Path(folder) / "object")))

    def to_string(self) -> bytes:
        """The object as uncompressed bytes."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "object"
            self.save(str(file))  # type: ignore[attr-defined]
            return _decompressed(file.read_bytes())

    def _load(self, context: Any, file: Path) -> None:
        _relabel(file, several=self._several)
        super().load(context, str(file))  # type: ignore[misc]


class SEALContext(sealapi.SEALContext):
    """See seal-python."""

    def parameter_error_message(self) -> str:
        """Why the parameters are refused."""
        return str(self.parameters_error_message())

    def from_public_str(self, data: bytes) -> PublicKey:
        """The public key in `data`, validated."""
        return PublicKey.read(self, data)

    def from_relin_str(self, data: bytes) -> RelinKeys:
        """The relinearisation keys in `data`, validated."""
        return RelinKeys.read(self, data)

    def from_galois_str(self, data: bytes) -> GaloisKeys:
        """The rotation keys in `data`, validated."""
        return GaloisKeys.read(self, data)


class _Key(_Bytes):
    @classmethod
    def read(cls, context: SEALContext, data: bytes) -> Self:
        """The key in `data`."""
        made = cls()
        made.load_bytes(context, data)
        return made


class PublicKey(_Key, sealapi.PublicKey):
    """See seal-python."""


class RelinKeys(_Key, sealapi.RelinKeys):
    """See seal-python."""

    _several = True


class GaloisKeys(_Key, sealapi.GaloisKeys):
    """See seal-python."""

    _several = True


class Plaintext(sealapi.Plaintext):
    """See seal-python."""


class Ciphertext(_Bytes, sealapi.Ciphertext):
    """See seal-python."""

    def scale(self, value: float | None = None) -> float:
        """The scale, after it was set to `value` if one is given."""
        held = sealapi.Ciphertext.scale
        if value is not None:
            held.__set__(self, value)
        return float(held.__get__(self))


class KeyGenerator(sealapi.KeyGenerator):
    """See seal-python."""

    def __init__(self, context: SEALContext) -> None:
        super().__init__(context)
        self._degree = int(context.first_context_data().parms().poly_modulus_degree())

    def create_public_key(self) -> PublicKey:
        """A public key."""
        made = PublicKey()
        super().create_public_key(made)
        return made

    def create_relin_keys(self) -> RelinKeys:
        """Relinearisation keys."""
        made = RelinKeys()
        super().create_relin_keys(made)
        return made

    def create_galois_keys(self, steps: Iterable[int], keys: GaloisKeys) -> None:
        """Keys for exactly these rotations, into `keys`. The library asks for automorphisms."""
        slots, order = self._degree // 2, 2 * self._degree
        super().create_galois_keys([pow(_TURN, step % slots, order) for step in steps], keys)


class Encryptor(sealapi.Encryptor):
    """See seal-python."""

    def encrypt(self, plain: Plaintext) -> Ciphertext:
        """`plain` under the public key."""
        made = Ciphertext()
        super().encrypt(plain, made)
        return made

    def encrypt_symmetric(self, plain: Plaintext) -> Ciphertext:
        """`plain` under the secret key."""
        made = Ciphertext()
        super().encrypt_symmetric(plain, made)
        return made

    def encrypt_zero(self, parms_id: list[int]) -> Ciphertext:
        """Zero under the public key, at a level."""
        made = Ciphertext()
        super().encrypt_zero(parms_id, made)
        return made


class Decryptor(sealapi.Decryptor):
    """See seal-python."""

    def decrypt(self, a: Ciphertext) -> Plaintext:
        """What `a` holds."""
        made = Plaintext()
        super().decrypt(a, made)
        return made


class CKKSEncoder(sealapi.CKKSEncoder):
    """See seal-python."""

    def encode(self, values: NDArray[np.float64], scale: float) -> Plaintext:
        """Real numbers (slots,) times `scale`."""
        return self._encoded(values, scale)

    def encode_complex(self, values: NDArray[np.complex128], scale: float) -> Plaintext:
        """Complex numbers (slots,) times `scale`."""
        return self._encoded(values, scale)

    def decode(self, plain: Plaintext) -> NDArray[np.float64]:
        """The real parts (slots,)."""
        return np.array(self.decode_double(plain))

    def decode_complex(self, plain: Plaintext) -> NDArray[np.complex128]:
        """The numbers (slots,)."""
        return np.array(super().decode_complex(plain))

    def _encoded(self, values: NDArray[Any], scale: float) -> Plaintext:
        made = Plaintext()
        super().encode(values.tolist(), scale, made)
        return made


class Evaluator(sealapi.Evaluator):
    """See seal-python; what works in place is the library's own."""

    def add(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        """a + b."""
        made = Ciphertext()
        super().add(a, b, made)
        return made

    def add_plain(self, a: Ciphertext, plain: Plaintext) -> Ciphertext:
        """a + plain."""
        made = Ciphertext()
        super().add_plain(a, plain, made)
        return made

    def multiply(self, a: Ciphertext, b: Ciphertext) -> Ciphertext:
        """a b, of three polynomials."""
        made = Ciphertext()
        super().multiply(a, b, made)
        return made

    def square(self, a: Ciphertext) -> Ciphertext:
        """a a, of three polynomials."""
        made = Ciphertext()
        super().square(a, made)
        return made

    def multiply_plain(self, a: Ciphertext, plain: Plaintext) -> Ciphertext:
        """a times plain."""
        made = Ciphertext()
        super().multiply_plain(a, plain, made)
        return made

    def negate(self, a: Ciphertext) -> Ciphertext:
        """-a."""
        made = Ciphertext()
        super().negate(a, made)
        return made

    def rescale_to_next(self, a: Ciphertext) -> Ciphertext:
        """`a` divided by the level's prime."""
        made = Ciphertext()
        super().rescale_to_next(a, made)
        return made

    def mod_switch_to(self, a: Ciphertext, parms_id: list[int]) -> Ciphertext:
        """`a` at another level."""
        made = Ciphertext()
        super().mod_switch_to(a, parms_id, made)
        return made

    def rotate_vector(self, a: Ciphertext, steps: int, keys: GaloisKeys) -> Ciphertext:
        """`a`, rotated to the left."""
        made = Ciphertext()
        super().rotate_vector(a, steps, keys, made)
        return made


def _decompressed(data: bytes) -> bytes:
    """What the library saved, without its compression."""
    magic, head, major, minor, compression, _ = _HEADER.unpack_from(data)
    if (magic, major, minor, compression) != (_MAGIC, _MAJOR, _MINOR, _ZSTD):
        raise RuntimeError(
            f"Expected bytes of SEAL {_MAJOR}.{_MINOR} with compression={_ZSTD}, got {major}."
            f"{minor} with compression={compression}. Install the pinned tenseal."
        )
    packed = memoryview(data)[_HEADER.size :]
    body: bytes = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    size = _HEADER.size + len(body)
    return _HEADER.pack(_MAGIC, head, _MAJOR, _MINOR, _PLAIN, size) + body


def _relabel(file: Path, *, several: bool) -> None:
    """Write the library's own version into the headers of `file`, whichever of the two made it.

    What is compressed is refused: a few bytes of it can ask for any memory.
    """
    if file.stat().st_size < _HEADER.size:
        raise ValueError("they end before a header")
    with file.open("r+b") as stream, mmap(stream.fileno(), 0) as data:
        try:
            for at in _headers(data, several=several):
                magic, _, major, minor, compression, _ = _HEADER.unpack_from(data, at)
                if magic != _MAGIC:
                    raise ValueError("they hold no object of SEAL's")
                if major != _MAJOR or minor not in _READABLE or compression != _PLAIN:
                    raise ValueError(
                        f"they are of SEAL {major}.{minor} with compression={compression}; "
                        f"expected {_MAJOR}.{_READABLE[0]} or {_MAJOR}.{_READABLE[-1]} with "
                        f"{_PLAIN}. Install the pinned library"
                    )
                data[at + 4] = _MINOR
        except struct.error:
            raise ValueError("they end before a header") from None


def _headers(data: mmap, *, several: bool) -> Iterator[int]:
    """Where headers stand: of a ciphertext or public key and its residues, or of many of them."""
    if not several:
        yield from (0, _BEFORE_RESIDUES)
        return
    yield 0
    at = _BEFORE_KEYS
    (rows,) = struct.unpack_from("<Q", data, at)
    at += 8
    for _ in range(rows):
        (columns,) = struct.unpack_from("<Q", data, at)
        at += 8
        for _ in range(columns):
            yield from (at, at + _BEFORE_RESIDUES)
            at += min(max(_HEADER.unpack_from(data, at)[-1], _HEADER.size), len(data))
