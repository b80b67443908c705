"""The exception tree.

ReticentError
├── InputError                 what the user gave can't be used              (exit 2)
│   ├── DataError              records, labels, users, partitions
│   ├── ConfigError            recipes, options, arguments
│   └── MissingExtraError      an optional dependency is not installed
├── UnsupportedError           never possible, or not yet; says which        (exit 2)
├── GateError                  a stated gate failed or a claim was contradicted (exit 3)
├── BudgetExhaustedError       a privacy budget or leakage odometer is spent (exit 4)
└── EvidenceError              evidence, digest or credentials were rejected (exit 5)
    ├── BundleError            a bundle is corrupt or its halves don't fit
    ├── AuditFailedError       the client's own audit of its encoder failed
    └── AuthenticationError    the API key is missing, unknown or not allowed

A message says what was expected, what came (`name=value`), and what to do next.
"""

from __future__ import annotations


class ReticentError(Exception):
    """Anything that Reticent refuses on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class InputError(ReticentError, ValueError):
    """What the user gave can't be used."""

    exit_code = 2


class DataError(InputError):
    """Records, labels, users or partitions can't be used."""


class ConfigError(InputError):
    """A recipe, option or argument can't be used."""


class MissingExtraError(InputError, ImportError):
    """An optional dependency is not installed; any of the `extras` brings it."""

    def __init__(self, package: str, *extras: str) -> None:
        commands = " or ".join(f"pip install 'reticent[{extra}]'" for extra in extras)
        super().__init__(f"Expected the package {package!r} to be installed. Run: {commands}")


class UnsupportedError(ReticentError):
    """The request has no sound answer here: never, or not yet. The message says which."""

    exit_code = 2


class GateError(ReticentError):
    """A gate that the recipe states failed, or an attack contradicted a claim."""

    exit_code = 3


class BudgetExhaustedError(ReticentError):
    """A privacy budget, or a client's leakage odometer, would be overdrawn."""

    exit_code = 4


class EvidenceError(ReticentError):
    """Evidence, digests or credentials were rejected."""

    exit_code = 5


class BundleError(EvidenceError):
    """A bundle is corrupt, or its halves don't belong together."""


class AuditFailedError(EvidenceError):
    """The client's own audit found that the encoder doesn't keep its stated promise."""


class AuthenticationError(EvidenceError):
    """The API key is missing, unknown, or not allowed for this model."""
