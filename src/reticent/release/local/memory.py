"""Memory: what a device keeps so that repeated reports of one value cost no further epsilon."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import BudgetExhaustedError, ConfigError
from reticent.release.local.draws import SecureSource, Source
from reticent.release.local.oracle import FrequencyOracle
from reticent.release.local.rappor import Rappor


class Device:
    """One person's randomiser, which answers again for the same value with what it has kept.

    **Claim.** All reports together are (d epsilon)-DP where d distinct values were reported, at
    most `most_values` of them: for a value seen before, the same report is sent again (with RAPPOR,
    a fresh instantaneous one from the same permanent bits), so averaging wins nothing.
    **Not hidden:** when a report changes, except by RAPPOR's second step, the value has changed.
    """

    def __init__(
        self, oracle: FrequencyOracle, *, most_values: int, source: Source | None = None
    ) -> None:
        if most_values < 1:
            raise ConfigError(f"Expected most_values >= 1, got most_values={most_values}.")
        self.oracle, self.most_values = oracle, most_values
        self._source = SecureSource() if source is None else source
        self._kept: dict[int, NDArray[Any]] = {}

    @property
    def epsilon(self) -> float:
        """What has been given away so far, in nats."""
        return len(self._kept) * self.oracle.epsilon

    def report(self, value: int) -> NDArray[Any]:
        """A report of `value`, of shape (1, ...); `BudgetExhaustedError` for one value too many."""
        if value not in self._kept:
            if len(self._kept) >= self.most_values:
                raise BudgetExhaustedError(
                    f"Expected at most most_values={self.most_values} distinct values from this "
                    f"device, got another; epsilon={self.epsilon:g} is spent. Nothing was sent."
                )
            self._kept[value] = self._first(value)
        kept = self._kept[value]
        if isinstance(self.oracle, Rappor):
            return self.oracle.instantaneous(kept, self._source)
        return kept.copy()

    def _first(self, value: int) -> NDArray[Any]:
        if not isinstance(self.oracle, Rappor):
            return self.oracle.randomise([value], self._source)
        # One person stays in one cohort.
        earlier = next(iter(self._kept.values()), None)
        cohorts = None if earlier is None else [int.from_bytes(earlier[0, :2].tobytes(), "big")]
        return self.oracle.permanent(np.array([value]), self._source, cohorts=cohorts)
