"""A signed certificate of differential privacy: what was done, what it cost, who vouches for it.

The ledger's key signs the canonical JSON text, so that whoever knows its public half can check
that nothing was altered, and the ledger itself whether the charge stands in it. What a certificate
says follows NIST SP 800-226: unit, neighbouring relation, parameters, mechanism, trust model.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reticent.errors import ConfigError, EvidenceError
from reticent.guarantee import DifferentialPrivacy, Guarantee
from reticent.privacy.ledger.chain import SigningKey, canonical, is_endorsed
from reticent.privacy.ledger.reading import Reader
from reticent.privacy.ledger.store import Store

SCHEMA = 1
_PACKAGES = ("reticent", "dp-accounting", "torch")
CENTRAL = (
    "central: the trainer sees the records and is trusted; everybody who sees the model is not "
    "(NIST SP 800-226, section 2.2)"
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The ledger's entry that paid: identity of the data set, charge and its form, receipt."""

    dataset: str
    charge: str
    receipt: str
    charged_as: str


def certify(
    key: SigningKey,
    *,
    claim: Guarantee,
    events: str,
    curve: Sequence[tuple[float, float]],
    sampling: Mapping[str, Any],
    generator: str,
    output: str,
    entry: Entry,
    audit: Mapping[str, Any] | None = None,
    trust_model: str = CENTRAL,
) -> dict[str, Any]:
    """The certificate as JSON holds it.

    `curve` lists (delta, epsilon); `events` is the accountant's own description; `output` the
    SHA-256 of what was released; `audit` what an attack found, None where none was run. Raises
    `ConfigError` for a claim that is no differential privacy.
    """
    strength = claim.strength
    if not isinstance(strength, DifferentialPrivacy):
        raise ConfigError(f"Expected a claim of differential privacy, got {strength.kind!r}.")
    record = {
        "schema": SCHEMA,
        "claim": claim.to_json(),
        "unit": strength.unit,
        "neighboring_relation": strength.neighboring_relation,
        "events": events,
        "epsilon_by_delta": [[delta, epsilon] for delta, epsilon in curve],
        "sampling": dict(sampling),
        "generator": generator,
        "trust_model": trust_model,
        "output_sha256": output,
        "ledger": {**vars(entry), "public_key": key.public},
        "code": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "audit": None if audit is None else dict(audit),
    }
    return {**record, "signature": key.endorse(canonical(record))}


def check_certificate(path: Path, *, public: str, ledger: Store | None = None) -> dict[str, Any]:
    """The certificate in the file, once its signature and its charge are found to hold.

    Raises `EvidenceError` for a certificate that was altered, that another key signed, or (with
    the ledger) whose charge isn't committed there.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        signature = str(record.pop("signature"))
        told = record["ledger"]
        charge, dataset, owner = told["charge"], told["dataset"], told["public_key"]
        if record["schema"] != SCHEMA:
            raise ValueError(f"schema={record['schema']!r}")
        Guarantee.from_json(record["claim"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise EvidenceError(
            f"Expected a certificate of schema {SCHEMA} in {path.name!r}, got: {error!r}."
        ) from None
    if owner != public or not is_endorsed(public, canonical(record), signature):
        raise EvidenceError(
            f"{path.name!r} was altered after it was signed, or another ledger's key signed it. "
            "Don't rely on it; ask for the original."
        )
    if ledger is not None:
        found = Reader(ledger).charge(charge)
        if (found.state, found.dataset) != ("committed", dataset):
            raise EvidenceError(
                f"Expected charge={charge!r} committed on dataset={dataset[:12]}, got "
                f"state={found.state!r} on {found.dataset[:12]} in this ledger."
            )
    return record


def describe_certificate(record: Mapping[str, Any]) -> str:
    """The certificate in one line."""
    strength = record["claim"]["strength"]
    return (
        f"certificate: epsilon {strength['epsilon']:.4g} at delta {strength['delta']:g} per "
        f"{record['unit']} ({record['neighboring_relation']}), charge {record['ledger']['charge']}"
    )
