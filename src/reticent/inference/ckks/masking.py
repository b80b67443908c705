"""Masks: what leaves in a reply besides the answer is fresh uniform noise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.inference.ckks.engine import Engine
from reticent.random import SecureRandom

# Masks reach to 2**28 on either side of zero.
MASK_BITS = 28


def masked(engine: Engine, made: Any, answers: NDArray[np.bool_], random: SecureRandom) -> Any:
    """`made` with nothing left in it but the real parts of the slots that are `answers` (slots,).

    The other slots hold partial sums of the weights, and where a client that keeps to no rule
    encrypts complex numbers, imaginary parts hold a second evaluation. Each of these numbers
    gets a fresh uniform one in [-2**28, 2**28): a number of size B shows with a statistical
    distance of at most B / 2**29, whether sum or noise. Then a fresh encryption of zero is added.
    Not hidden is the noise in the answers themselves, below the places that are right.
    """
    noise = (2 * random.uniform((2, answers.size)) - 1) * 2.0**MASK_BITS
    values = np.where(answers, 0.0, noise[0]) + 1j * noise[1]
    plain = engine.encode(values, scale=engine.scale(made), level=engine.level(made))
    return engine.rerandomise(engine.add_plain(made, plain))
