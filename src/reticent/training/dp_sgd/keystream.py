"""A cryptographically secure stream of random words: AES-256 in counter mode under a fresh key."""

from __future__ import annotations

import os

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from torch import Tensor

# Zeros to encrypt, and the words they become, stay in cache.
_BLOCK = 1 << 19
_ZEROS = bytes(_BLOCK)


class KeyStream:
    """Words that nobody without the key can tell from uniform ones.

    The key is 256 bits of the operating system's entropy, drawn here, held in memory only, and
    never stored: there is nothing to resume or to repeat.
    """

    def __init__(self) -> None:
        cipher = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16)))
        self._encryptor = cipher.encryptor()

    def bytes_into(self, target: memoryview) -> None:
        """Fill `target`, a writable view of bytes."""
        for start in range(0, len(target), _BLOCK):
            part = target[start : start + _BLOCK]
            self._encryptor.update_into(_ZEROS[: len(part)] if len(part) < _BLOCK else _ZEROS, part)

    def words32(self, count: int) -> NDArray[np.uint32]:
        """`count` uniform 32-bit words."""
        words = np.empty(count, dtype=np.uint32)
        self.bytes_into(words.view(np.uint8).data)
        return words

    def words64(self, count: int) -> Tensor:
        """`count` uniform 64-bit words as int64."""
        words = np.empty(count, dtype=np.int64)
        self.bytes_into(words.view(np.uint8).data)
        return torch.from_numpy(words)
