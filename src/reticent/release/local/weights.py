"""Whole-number probabilities: epsilon turned into integer weights, rounded to the safe side.

Every discrete mechanism of this package draws an integer below a total M and gives each output a
whole number of the M values. If the weights of one output under two inputs are a and c, the ratio
of its probabilities is the rational a / c, and a <= r c for a rational r <= e**epsilon is checked
in whole numbers. So the mechanism *as implemented* is epsilon-DP, exactly, with no allowance for
rounding; and the weights are so large that the loss is below 2**-8 of the low weight at the most
extreme parameters, and mostly below 2**-40.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction

from reticent.errors import ConfigError

LEAST_EPSILON, MOST_EPSILON = 1e-6, 20.0
_TOTAL = 2**62
_FINEST = 2**8
_DIGITS = 60


def checked_epsilon(epsilon: float) -> Fraction:
    """Epsilon as the exact rational that its float is; `ConfigError` outside [1e-6, 20]."""
    if not LEAST_EPSILON <= epsilon <= MOST_EPSILON:
        raise ConfigError(
            f"Expected {LEAST_EPSILON:g} <= epsilon <= {MOST_EPSILON:g}, got epsilon={epsilon}. "
            "One report of local privacy is usually given 0.5 to 4."
        )
    return Fraction(epsilon)


def exp_below(exponent: Fraction) -> Fraction:
    """A rational at most e**exponent, and within 1e-57 of it relatively.

    `Decimal.exp` is correctly rounded, so one unit in the last but one place is a safe margin; the
    quotient before it loses as little.
    """
    with localcontext() as context:
        context.prec = _DIGITS
        context.rounding = "ROUND_FLOOR"
        found = (Decimal(exponent.numerator) / Decimal(exponent.denominator)).exp()
    return Fraction(found) * (1 - Fraction(1, 10 ** (_DIGITS - 2)))


def two_weights(ratio: Fraction, *, heavy: int, light: int) -> tuple[int, int]:
    """Whole weights (a, c) with c < a <= ratio c and heavy a + light c <= 2**62, c near largest.

    `heavy` outputs have weight a and `light` ones c. `ConfigError` where c would be too small to
    come near the ratio.
    """
    low = math.floor(_TOTAL / (ratio * heavy + light))
    high = math.floor(ratio * low)
    if low < _FINEST or high <= low:
        raise ConfigError(
            f"Expected epsilon and alphabet that whole weights below 2**62 can express, got "
            f"e**epsilon={float(ratio):.4g}, heavy={heavy}, light={light}. Lower epsilon, or use "
            "fewer categories."
        )
    return high, low


def flip_threshold(ratio: Fraction, total: int) -> int:
    """The smallest q with (total - q) <= ratio q: the odds of a bit that is kept or flipped."""
    return math.ceil(Fraction(total) / (1 + ratio))
