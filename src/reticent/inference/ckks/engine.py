"""Ciphertext arithmetic: a small interface, and SEAL behind it.

Handles (`Any`) are the library's own objects; nothing outside this file touches them otherwise.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reticent.errors import DataError, MissingExtraError, UnsupportedError
from reticent.inference.ckks.parameters import Parameters

Slots = NDArray[np.float64] | NDArray[np.complex128]


class Engine(Protocol):
    """What a server needs: sums, products and rotations, with public keys only."""

    def encode(self, values: Slots, *, scale: float, level: int) -> Any:
        """A plaintext of (slots,) numbers, real or complex, with `level` divisions left to it."""

    def add(self, a: Any, b: Any) -> Any:
        """The sum of two ciphertexts of one level and scale."""

    def add_plain(self, a: Any, plain: Any) -> Any:
        """Ciphertext plus plaintext."""

    def multiply_plain(self, a: Any, plain: Any) -> Any:
        """Ciphertext times plaintext, slot by slot; scales multiply."""

    def multiply_into(self, a: Any, plain: Any) -> Any:
        """As `multiply_plain`, in the place of `a`."""

    def add_into(self, total: Any, a: Any) -> Any:
        """As `add`, in the place of `total`."""

    def multiply(self, a: Any, b: Any) -> Any:
        """The product of two ciphertexts, relinearised; scales multiply."""

    def rescale(self, a: Any) -> Any:
        """Divide by the level's prime, and drop it."""

    def lower(self, a: Any, level: int) -> Any:
        """The same numbers with `level` divisions left."""

    def exactly(self, a: Any, scale: float) -> Any:
        """`a`, whose scale is this but for floating-point rounding, at exactly this scale."""

    def negate(self, a: Any) -> Any:
        """The numbers with the other sign."""

    def rotate(self, a: Any, steps: int) -> Any:
        """Slot s of the result is slot s + `steps` of `a`."""

    def rotate_into(self, a: Any, steps: int) -> Any:
        """As `rotate`, in the place of `a`."""

    def rerandomise(self, a: Any) -> Any:
        """The same numbers under fresh encryption randomness."""

    def zero(self, *, scale: float, level: int) -> Any:
        """A fresh encryption of zero."""

    def scale(self, a: Any) -> float:
        """The factor between numbers and what the ciphertext holds."""

    def level(self, a: Any) -> int:
        """Divisions left to a ciphertext."""

    def prime(self, level: int) -> int:
        """The prime that `rescale` divides by at this level."""

    def load(self, data: bytes) -> Any:
        """A validated ciphertext. Raises `DataError` for bytes that are none."""

    def save(self, a: Any) -> bytes:
        """The ciphertext as bytes."""


def context_of(parameters: Parameters) -> Any:
    """SEAL's context, with its own check at 128 bits on top of ours.

    It holds tables of megabytes, no key, and never changes: all clients of a plan share one.
    """
    return _context(seal_library(), parameters)


@functools.lru_cache(maxsize=4)
def _context(seal: Any, parameters: Parameters) -> Any:
    made = seal.EncryptionParameters(seal.scheme_type.ckks)
    made.set_poly_modulus_degree(parameters.degree)
    made.set_coeff_modulus(seal.CoeffModulus.Create(parameters.degree, list(parameters.prime_bits)))
    context = seal.SEALContext(made, True, seal.sec_level_type.tc128)
    if not context.parameters_set():
        raise UnsupportedError(
            f"The library refuses {parameters}: {context.parameter_error_message()}"
        )
    return context


class SealEngine:
    """`Engine` over SEAL; `public`, `relinearise`, `rotations` are a client's public keys."""

    def __init__(self, context: Any, *, public: Any, relinearise: Any, rotations: Any) -> None:
        seal = seal_library()
        self._seal, self._context = seal, context
        self._encoder = seal.CKKSEncoder(context)
        self._evaluator = seal.Evaluator(context)
        self._encryptor = seal.Encryptor(context, public)
        self._relinearise, self._rotations = relinearise, rotations
        self._ids, self._primes = _chain(context)

    @property
    def slots(self) -> int:
        """Numbers per ciphertext."""
        return int(self._encoder.slot_count())

    def encode(self, values: Slots, *, scale: float, level: int) -> Any:
        """See `Engine`."""
        if np.iscomplexobj(values):
            plain = self._encoder.encode_complex(np.ascontiguousarray(values), scale)
        else:
            plain = self._encoder.encode(np.ascontiguousarray(values, dtype=np.float64), scale)
        self._evaluator.mod_switch_to_inplace(plain, self._ids[level])
        # A copy: the plaintext that was lowered keeps the memory of the highest level.
        return self._seal.Plaintext(plain)

    def add(self, a: Any, b: Any) -> Any:
        """See `Engine`."""
        return self._evaluator.add(a, b)

    def add_plain(self, a: Any, plain: Any) -> Any:
        """See `Engine`."""
        return self._evaluator.add_plain(a, plain)

    def multiply_plain(self, a: Any, plain: Any) -> Any:
        """See `Engine`."""
        return self._evaluator.multiply_plain(a, plain)

    def multiply_into(self, a: Any, plain: Any) -> Any:
        """See `Engine`."""
        self._evaluator.multiply_plain_inplace(a, plain)
        return a

    def add_into(self, total: Any, a: Any) -> Any:
        """See `Engine`."""
        self._evaluator.add_inplace(total, a)
        return total

    def multiply(self, a: Any, b: Any) -> Any:
        """See `Engine`. At once: three polynomials divided by a prime round six bits worse."""
        product = self._evaluator.square(a) if a is b else self._evaluator.multiply(a, b)
        self._evaluator.relinearize_inplace(product, self._relinearise)
        return product

    def rescale(self, a: Any) -> Any:
        """See `Engine`."""
        return self._evaluator.rescale_to_next(a)

    def lower(self, a: Any, level: int) -> Any:
        """See `Engine`."""
        return self._evaluator.mod_switch_to(a, self._ids[level])

    def exactly(self, a: Any, scale: float) -> Any:
        """See `Engine`."""
        if abs(a.scale() / scale - 1) > 1e-9:
            raise AssertionError(f"a scale of {a.scale()} is not {scale}")
        a.scale(scale)
        return a

    def negate(self, a: Any) -> Any:
        """See `Engine`."""
        return self._evaluator.negate(a)

    def rotate(self, a: Any, steps: int) -> Any:
        """See `Engine`."""
        return self._evaluator.rotate_vector(a, steps, self._rotations)

    def rotate_into(self, a: Any, steps: int) -> Any:
        """See `Engine`."""
        self._evaluator.rotate_vector_inplace(a, steps, self._rotations)
        return a

    def rerandomise(self, a: Any) -> Any:
        """See `Engine`."""
        zero = self._encryptor.encrypt_zero(a.parms_id())
        zero.scale(a.scale())
        return self._evaluator.add(a, zero)

    def zero(self, *, scale: float, level: int) -> Any:
        """See `Engine`."""
        made = self._encryptor.encrypt_zero(self._ids[level])
        made.scale(scale)
        return made

    def scale(self, a: Any) -> float:
        """See `Engine`."""
        return float(a.scale())

    def level(self, a: Any) -> int:
        """See `Engine`."""
        return int(a.coeff_modulus_size()) - 1

    def prime(self, level: int) -> int:
        """See `Engine`."""
        return self._primes[level]

    def load(self, data: bytes) -> Any:
        """See `Engine`; a fresh ciphertext of two polynomials is what a client may send."""
        made = self._seal.Ciphertext()
        try:
            made.load_bytes(self._context, data)
        except (RuntimeError, ValueError) as error:
            raise DataError(
                f"Expected a ciphertext for these parameters, got {len(data)} bytes that are none "
                f"({error}). Encrypt again with the model's current client files."
            ) from None
        if made.size() != 2 or not made.is_ntt_form() or made.is_transparent():
            raise DataError(
                f"Expected a fresh ciphertext of 2 polynomials, got {made.size()} or a transparent "
                "one. Encrypt with the client."
            )
        return made

    def save(self, a: Any) -> bytes:
        """See `Engine`."""
        return bytes(a.to_string())


def _chain(context: Any) -> tuple[list[Any], list[int]]:
    """Parameter ids and primes by level, level 0 first."""
    ids, data = [], context.first_context_data()
    primes = [int(modulus.value()) for modulus in data.parms().coeff_modulus()]
    while data is not None:
        ids.append(data.parms_id())
        data = data.next_context_data()
    return ids[::-1], primes


def seal_library() -> Any:
    """`seal`, or TenSEAL's bindings under its names. `MissingExtraError` without either."""
    for name in ("seal", "reticent.inference.ckks.sealapi"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise MissingExtraError("seal-python or tenseal", "encrypted", "encrypted-tenseal")


def galois_keys(generator: Any, steps: Iterable[int]) -> Any:
    """Keys for exactly these rotations."""
    keys = seal_library().GaloisKeys()
    generator.create_galois_keys(sorted(steps), keys)
    return keys


def keyed_engine(context: Any, generator: Any, public: Any) -> SealEngine:
    """An engine in its client's own process, for rotations by 1: to be measured or tested."""
    return SealEngine(
        context,
        public=public,
        relinearise=generator.create_relin_keys(),
        rotations=galois_keys(generator, [1]),
    )


def decoded(encoder: Any, plain: Any) -> NDArray[np.float64]:
    """The numbers of a plaintext, (slots,)."""
    return np.asarray(encoder.decode(plain), dtype=np.float64)
