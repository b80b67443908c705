"""Public bounds: known without the data, so that using them gives nothing away."""

from __future__ import annotations

import math

from reticent.errors import ConfigError


def check_bounds(lower: float, upper: float) -> None:
    """`ConfigError` unless lower < upper are finite, and so is their difference."""
    if not (math.isfinite(lower) and math.isfinite(upper) and 0 < upper - lower < math.inf):
        raise ConfigError(
            f"Expected finite bounds lower < upper, got lower={lower}, upper={upper}. Take bounds "
            "that are known without the data, such as 0 and 120 for ages."
        )
