"""Refusals: how each error reaches the client, as V2's `{"error": message}`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from reticent.errors import (
    AuthenticationError,
    BudgetExhaustedError,
    BundleError,
    EvidenceError,
    InputError,
    UnsupportedError,
)

_MAX_MESSAGE = 500


class RefusalError(Exception):
    """One request is not answered; `status` is the HTTP status, `outcome` the metric's label."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        outcome: str = "refused",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.outcome = outcome

    @property
    def body(self) -> bytes:
        """The reply's body."""
        return json.dumps({"error": str(self)[:_MAX_MESSAGE]}).encode()


def busy(message: str, *, seconds: float = 1.0) -> RefusalError:
    """503: come back after `seconds`."""
    return RefusalError(503, message, headers=_retry_after(seconds), outcome="busy")


def too_many(seconds: float) -> RefusalError:
    """429: this key's rate is spent for `seconds`."""
    return RefusalError(
        429,
        f"Too many requests for this key. Wait {math.ceil(seconds)} s.",
        headers=_retry_after(seconds),
    )


def too_many_failures(seconds: float) -> RefusalError:
    """429 that hangs up: too many wrong keys from this address."""
    return RefusalError(
        429,
        f"Too many wrong API keys from this address. Wait {math.ceil(seconds)} s.",
        headers={**_retry_after(seconds), "connection": "close"},
    )


def forbidden(scope: str) -> RefusalError:
    """403: the key is good, but not for this."""
    return RefusalError(403, f"This API key does not allow {scope!r}.")


def refusal_of(error: Exception) -> RefusalError | None:
    """How an error that a server half or the service raised on purpose is told; None: it's ours."""
    message = str(error)
    if isinstance(error, RefusalError):
        return error
    if isinstance(error, AuthenticationError):
        return RefusalError(401, message, headers={"www-authenticate": "Bearer"})
    if isinstance(error, BudgetExhaustedError):
        return RefusalError(429, message)
    if isinstance(error, BundleError):
        return RefusalError(409, message)
    if isinstance(error, EvidenceError):
        return RefusalError(403, message)
    if isinstance(error, (InputError, UnsupportedError)):
        return RefusalError(400, message)
    return None


def _retry_after(seconds: float) -> dict[str, str]:
    return {"retry-after": str(max(1, math.ceil(seconds)))}
