"""What a mechanism claims: pillar, adversary, strength, assumptions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, Literal

from reticent.errors import ConfigError


class Pillar(StrEnum):
    """The four things that Reticent protects."""

    TRAINING_DATA = "training data"
    INPUT = "input"
    OUTPUT = "output"
    MODEL = "model"


@dataclass(frozen=True, kw_only=True)
class Adversary:
    """Who attacks: what it sees and what it knows beforehand."""

    name: str
    sees: str
    knows: str


SERVER = Adversary(
    name="server",
    sees="every request and its own replies; it follows the protocol",
    knows="encoder, weights, and own labelled records from the same population",
)
CLIENT = Adversary(
    name="client",
    sees="its own inputs, the encoder it runs, and the replies",
    knows="a few labelled records of its own",
)


@dataclass(frozen=True, kw_only=True)
class DifferentialPrivacy:
    """(epsilon, delta)-differential privacy under a neighbouring relation (Dwork et al. 2006)."""

    kind: ClassVar[str] = "differential privacy"
    epsilon: float
    delta: float
    neighboring_relation: str
    unit: str


@dataclass(frozen=True, kw_only=True)
class Computational:
    """Breaking it needs about 2**bits operations, or breaking `assumption`."""

    kind: ClassVar[str] = "computational"
    bits: int
    assumption: str


@dataclass(frozen=True, kw_only=True)
class InformationBound:
    """A bound on what a view tells beyond the public label, in nats and in total variation.

    `nats` bounds I(S; Z | label) and `total_variation` bounds how far any attacker's accuracy on
    any attribute S can rise above the best guess from the label. `worst_case` bounds hold for
    every single input. The others hold on average over the certified population, where
    `total_variation` is an upper confidence limit and `nats` only a mean, without one. `sigmas`
    is set for a Gaussian channel whose features lie within `sigmas` noise standard deviations of
    their prototype: it makes the bound compose as a Gaussian mechanism instead of by the union
    bound. Raises `ConfigError` for bounds that are no bounds: negative, NaN, or above 1.
    """

    kind: ClassVar[str] = "information bound"
    nats: float
    total_variation: float
    scope: Literal["per query", "total"] = "per query"
    worst_case: bool = False
    sigmas: float | None = None

    def __post_init__(self) -> None:
        if not (
            self.nats >= 0
            and 0 <= self.total_variation <= 1
            and self.scope in ("per query", "total")
            and (self.sigmas is None or 0 <= self.sigmas < math.inf)
        ):
            raise ConfigError(f"Expected nats >= 0 and 0 <= total_variation <= 1, got {self}.")

    def nats_after(self, requests: int) -> float:
        """The bound on nats after `requests` requests (chain rule)."""
        _check_requests(requests)
        return self.nats if self.scope == "total" else requests * self.nats

    def total_variation_after(self, requests: int) -> float:
        """The bound on total variation after `requests` requests of one user.

        The least of: the union bound m * tau; for worst-case bounds Pinsker's sqrt(nats / 2); for
        a worst-case Gaussian 2 Phi(sqrt(m) r / 2 sigma) - 1, the exact total variation between
        Gaussians whose means differ by sqrt(m) r. Averages get no Pinsker: their nats have no
        confidence limit, so the result would have none either.
        """
        _check_requests(requests)
        if self.scope == "total":
            return self.total_variation
        bounds = [1.0, requests * self.total_variation]
        if self.worst_case:
            bounds.append(math.sqrt(self.nats_after(requests) / 2))
            if self.sigmas is not None:
                bounds.append(math.erf(math.sqrt(requests) * self.sigmas / (2 * math.sqrt(2))))
        return min(bounds)


@dataclass(frozen=True, kw_only=True)
class Attested:
    """Trust rests on a hardware attestation of this measurement."""

    kind: ClassVar[str] = "attested"
    measurement: str


@dataclass(frozen=True, kw_only=True)
class Syntactic:
    """k-anonymity, l-diversity, t-closeness."""

    kind: ClassVar[str] = "syntactic"
    k: int
    l: int = 1  # noqa: E741  the literature's name
    t: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Empirical:
    """No claim beyond the attacks that were run."""

    kind: ClassVar[str] = "empirical"


Strength = DifferentialPrivacy | Computational | InformationBound | Attested | Syntactic | Empirical
_STRENGTHS: Mapping[str, type[Any]] = {
    strength.kind: strength
    for strength in (
        DifferentialPrivacy,
        Computational,
        InformationBound,
        Attested,
        Syntactic,
        Empirical,
    )
}


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """One thing claimed, precise enough to be attacked."""

    id: str
    pillar: Pillar
    adversary: Adversary
    strength: Strength
    mechanism: str
    assumptions: tuple[str, ...]
    source: str

    def allowed_excess(self, requests: int = 1) -> float | None:
        """How far an attack's success may exceed its floor before it contradicts this claim.

        None where the claim says nothing about an attack's accuracy (`Empirical`, or a strength
        that needs a test of its own).
        """
        if isinstance(self.strength, InformationBound):
            return self.strength.total_variation_after(requests)
        if isinstance(self.strength, Computational):
            return min(1.0, 2.0**-self.strength.bits * requests)
        return None

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` restores."""
        return {
            "id": self.id,
            "pillar": self.pillar.value,
            "adversary": asdict(self.adversary),
            "strength": {"kind": self.strength.kind, **asdict(self.strength)},
            "mechanism": self.mechanism,
            "assumptions": list(self.assumptions),
            "source": self.source,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Guarantee:
        """The guarantee that `to_json` wrote. Raises `ConfigError` for anything else."""
        try:
            return cls(
                id=record["id"],
                pillar=Pillar(record["pillar"]),
                adversary=Adversary(**record["adversary"]),
                strength=_strength(record["strength"]),
                mechanism=record["mechanism"],
                assumptions=tuple(record["assumptions"]),
                source=record["source"],
            )
        except ConfigError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"Expected a guarantee as `to_json` writes it: {error!r}.") from error


def _strength(record: Mapping[str, Any]) -> Strength:
    values = dict(record)
    kind = values.pop("kind")
    if kind not in _STRENGTHS:
        raise ConfigError(
            f"Expected a guarantee kind among {sorted(_STRENGTHS)}, got kind={kind!r}."
        )
    unknown = set(values) - {field.name for field in fields(_STRENGTHS[kind])}
    if unknown:
        raise ConfigError(f"Unknown fields in guarantee strength {kind!r}: {sorted(unknown)}.")
    made: Strength = _STRENGTHS[kind](**values)
    return made


def _check_requests(requests: int) -> None:
    if requests < 1:
        raise ConfigError(f"Expected requests >= 1, got requests={requests}.")
