"""PATE without a trusted aggregator: teachers encrypt noisy votes, and open only their sum.

Each teacher is a party of its own, with its model, its share of the noise and its share of the key.
Whoever coordinates moves bytes between them and holds no key: it adds ciphertexts that it can't
read, and sees noisy counts, which the ledger has paid for before a teacher is asked. The scheme is
that of `reticent.privacy.threshold`: additive, from published constructions, unaudited.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reticent.errors import ConfigError
from reticent.guarantee import Guarantee
from reticent.privacy.ledger import Cost, Ledger, zcdp
from reticent.privacy.ledger.cost import DELTA_UNIT
from reticent.privacy.threshold import UNAUDITED
from reticent.privacy.threshold.scheme import (
    Ciphertext,
    Holder,
    JointKey,
    PublicPart,
    Session,
    Share,
    joint_key,
    open_sum,
)
from reticent.privacy.threshold.votes import VotePlan, counted, encrypt_votes

RELATION = "add or remove one"


class Party(Protocol):
    """A teacher as the coordinator reaches it, over any transport that carries bytes."""

    def commit(self) -> bytes:
        """A commitment to its part of the key, before any part is shown."""

    def part(self) -> bytes:
        """Its public part of the key."""

    def join(self, parts: Mapping[str, bytes], commitments: Mapping[str, bytes]) -> None:
        """Take everybody's parts; the joint key is made from them."""

    def vote(self, x: NDArray[np.float32]) -> bytes:
        """Its encrypted noisy votes on the questions x."""

    def share(self, votes: Mapping[str, bytes]) -> bytes:
        """Its part in opening the sum of all votes."""


class TeacherParty:
    """One teacher: `predict` gives class indices for questions; its secrets stay in this object.

    `session` names the round, the same for all; a session is used once.
    """

    def __init__(
        self, predict: Callable[[NDArray[np.float32]], Any], *, plan: VotePlan, session: str
    ) -> None:
        if plan.holders != plan.teachers:
            raise ConfigError(
                f"Expected every teacher to hold a share of the key, got holders={plan.holders} "
                f"for teachers={plan.teachers}."
            )
        self._predict, self._plan = predict, plan
        self._session = Session(parameters=plan.parameters, name=session)
        self._holder = Holder(self._session)
        self._key: JointKey | None = None
        self._mine: Ciphertext | None = None

    def commit(self) -> bytes:
        """See `Party`."""
        return self._holder.public.commitment

    def part(self) -> bytes:
        """See `Party`."""
        return self._holder.public.to_bytes()

    def join(self, parts: Mapping[str, bytes], commitments: Mapping[str, bytes]) -> None:
        """See `Party`. Raises `EvidenceError` for a part that nobody committed to."""
        known = {name: PublicPart.from_bytes(self._session, data) for name, data in parts.items()}
        self._key = joint_key(self._session, known, commitments)

    def vote(self, x: NDArray[np.float32]) -> bytes:
        """See `Party`; the noise is drawn and the votes are encrypted in here."""
        if self._key is None or self._mine is not None:
            raise ConfigError("Expected one vote, after joining. Start a session of a new name.")
        self._mine = encrypt_votes(self._plan, self._key, np.asarray(self._predict(x)))
        return self._mine.to_bytes()

    def share(self, votes: Mapping[str, bytes]) -> bytes:
        """See `Party`. Raises `EvidenceError` where its own vote is missing or was changed."""
        sent = {name: Ciphertext.from_bytes(self._session, data) for name, data in votes.items()}
        if len(sent) != self._plan.teachers:
            raise ConfigError(f"Expected {self._plan.teachers} votes to open, got {len(sent)}.")
        return self._holder.share(sent, mine=self._mine).to_bytes()


@dataclass(frozen=True, kw_only=True)
class EncryptedLabels:
    """Labels (questions,) from noisy counts (questions, classes), and what they cost."""

    labels: NDArray[np.int64]
    counts: NDArray[np.int64]
    guarantees: tuple[Guarantee, ...]
    charge: str
    notice: str = UNAUDITED


def ask_encrypted(
    x: NDArray[np.float32],
    parties: Mapping[str, Party],
    *,
    plan: VotePlan,
    session: str,
    delta: float,
    ledger: Ledger,
    dataset: str,
    key: str,
) -> EncryptedLabels:
    """Ask all `parties`, by name, the questions x once; the labels are theirs by noisy plurality.

    The round is charged to `dataset` before a teacher is asked, and committed before the counts
    are opened: a crash in between leaves it charged. Raises `BudgetExhaustedError` over the cap,
    `ConfigError` for a plan that doesn't fit, `EvidenceError` for messages that don't.
    """
    if len(parties) != plan.teachers or len(x) != plan.questions or plan.rounds != 1:
        raise ConfigError(
            f"Expected {plan.teachers} parties, {plan.questions} questions and one round, got "
            f"{len(parties)}, {len(x)} and rounds={plan.rounds}."
        )
    claims = plan.guarantees(delta)
    charge = _reserved(ledger, dataset, key, plan)
    commitments = {name: party.commit() for name, party in parties.items()}
    parts = {name: party.part() for name, party in parties.items()}
    for party in parties.values():
        party.join(parts, commitments)
    votes = {name: party.vote(x) for name, party in parties.items()}
    ledger.commit(charge)
    here = Session(parameters=plan.parameters, name=session)
    shares = {name: Share.from_bytes(here, party.share(votes)) for name, party in parties.items()}
    sent = {name: Ciphertext.from_bytes(here, data) for name, data in votes.items()}
    found = counted(plan, open_sum(sent, shares))
    return EncryptedLabels(
        labels=found.winners(), counts=found.counts, guarantees=claims, charge=charge
    )


def cost(plan: VotePlan) -> Cost:
    """What the ledger is charged: the counts' concentration, and the draws' own error as delta."""
    error = math.ceil(2 * plan.total_variation / float(DELTA_UNIT))
    return dataclasses.replace(zcdp(rho=plan.rho), delta=error)


def _reserved(ledger: Ledger, dataset: str, key: str, plan: VotePlan) -> str:
    known = ledger.dataset(dataset)
    if known.unit != "user" or known.relation != RELATION:
        raise ConfigError(
            f"Expected a budget with unit='user' and relation={RELATION!r}, got "
            f"unit={known.unit!r}, relation={known.relation!r} of dataset={dataset!r}."
        )
    about = {"mechanism": "pate, encrypted votes", "plan": repr(plan)}
    charge = ledger.reserve(known.id, cost(plan), key=key, event=about)
    return ledger.start(charge.id).id
