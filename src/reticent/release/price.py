"""The price of one release: pure epsilon, or rho of zero-concentrated differential privacy."""

from __future__ import annotations

import math
from dataclasses import dataclass

from reticent.errors import ConfigError
from reticent.privacy.ledger import Cost, epsilon_at, pure_dp, zcdp

ADD_OR_REMOVE = "add or remove one"


@dataclass(frozen=True, kw_only=True)
class Price:
    """Exactly one of epsilon and rho: `ConfigError` for none, both, or what is not positive."""

    epsilon: float | None = None
    rho: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.epsilon, self.rho) if value is not None]
        if len(given) != 1 or not 0 < given[0] < math.inf:
            raise ConfigError(
                f"Expected one of epsilon > 0 and rho > 0, got epsilon={self.epsilon}, "
                f"rho={self.rho}. Try epsilon=0.5."
            )

    @property
    def amount(self) -> float:
        """The number, whichever it is."""
        return self.epsilon if self.epsilon is not None else (self.rho or 0.0)

    @property
    def cost(self) -> Cost:
        """What the ledger charges."""
        if self.epsilon is not None:
            return pure_dp(epsilon=self.epsilon)
        return zcdp(rho=self.amount)

    def epsilon_delta(self, delta: float) -> tuple[float, float]:
        """The price as (epsilon, delta); pure where it is."""
        if self.epsilon is not None:
            return self.epsilon, 0.0
        if not delta > 0:
            raise ConfigError(
                f"Expected a budget with delta > 0 for rho={self.rho}, got delta={delta}. Give "
                "epsilon instead, or grant a budget with a delta."
            )
        return epsilon_at(self.cost, delta), delta
