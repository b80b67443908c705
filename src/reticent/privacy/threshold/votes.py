"""Teachers' votes, noised before they are encrypted, counted without anybody seeing one.

Each teacher votes for a class per question, adds its share of the noise and encrypts. Neither who
adds the ciphertexts up nor any set of key holders but all of them sees a vote or a clean count:
what opens is the noisy count, which is all that noisy-max aggregation (Papernot et al. 2018)
needs.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.errors import ConfigError, InputError, MissingExtraError
from reticent.guarantee import Adversary, Computational, DifferentialPrivacy, Guarantee, Pillar
from reticent.privacy.threshold import UNAUDITED
from reticent.privacy.threshold.gaussian import DiscreteGaussian, summed_concentration
from reticent.privacy.threshold.parameters import STATISTICAL_BITS, Parameters, choose
from reticent.privacy.threshold.scheme import Ciphertext, JointKey, Opened


@dataclass(frozen=True, kw_only=True)
class VotePlan:
    """One vote of `teachers` on `questions` with `classes` answers each, opened `rounds` times.

    `sigma` is the standard deviation, in votes, of the noise that is left on each count when
    `colluding` teachers tell their shares: each share has sigma / sqrt(teachers - colluding).
    `holders` share the key. The teachers themselves should be among them.
    """

    teachers: int
    holders: int
    questions: int
    classes: int
    sigma: float
    colluding: int = 0
    rounds: int = 1

    def __post_init__(self) -> None:
        counts = (self.teachers, self.holders, self.questions, self.classes, self.rounds)
        if min(counts) < 1 or self.classes < 2 or not 0 <= self.colluding < self.teachers:
            raise ConfigError(
                "Expected counts >= 1, classes >= 2 and 0 <= colluding < teachers, got "
                f"{self}. Plan with at least one honest teacher."
            )
        if self.questions * self.classes > self.parameters.degree:
            raise ConfigError(
                f"Expected questions * classes <= {self.parameters.degree}, got "
                f"{self.questions * self.classes}. Ask fewer questions per round, in more rounds."
            )

    @property
    def honest(self) -> int:
        """Teachers whose noise counts."""
        return self.teachers - self.colluding

    @cached_property
    def noise(self) -> DiscreteGaussian:
        """One teacher's share."""
        return DiscreteGaussian(sigma=self.sigma / math.sqrt(self.honest))

    @cached_property
    def parameters(self) -> Parameters:
        """Room for every vote and every share at its largest: no count ever wraps."""
        return choose(
            holders=self.holders,
            contributors=self.teachers,
            largest=self.teachers * (1 + self.noise.largest),
            openings=self.rounds,
        )

    @property
    def rho(self) -> float:
        """Zero-concentrated privacy of all rounds together, one user's data in one teacher.

        That user can move one vote per question: sqrt(2) in Euclidean norm.
        """
        asked = self.rounds * self.questions
        return summed_concentration(
            sigma=self.noise.sigma,
            shares=self.honest,
            l2=math.sqrt(2 * asked),
            dimensions=asked * self.classes,
        )

    def event(self) -> Any:
        """All rounds as a `dp_accounting.DpEvent`, for a ledger; the draws are as exact as
        `total_variation` says."""
        return _accounting("dp_accounting").ZCDpEvent(self.rho)

    @property
    def total_variation(self) -> float:
        """How far all draws together are from the law that `rho` is about."""
        draws = self.rounds * self.questions * self.classes * self.teachers
        return draws * self.noise.total_variation

    def epsilon(self, delta: float) -> float:
        """Epsilon at `delta` for changing one user's data, all rounds together.

        The draws' own error is paid from delta: (1 + e^epsilon) total variations.
        """
        if not 0 < delta < 1:
            raise ConfigError(f"Expected 0 < delta < 1, got delta={delta}.")
        accountant = _accounting("dp_accounting.rdp").RdpAccountant()
        accountant.compose(self.event())
        made = float(accountant.get_epsilon(delta * (1 - 2.0**-20)))
        if not (1 + math.exp(made)) * self.total_variation <= delta * 2.0**-20:
            raise ConfigError(
                f"Expected a delta far above the draws' error {self.total_variation:g}, got "
                f"{delta=} at epsilon={made:g}. Take a larger delta or more noise."
            )
        return made

    def guarantees(self, delta: float) -> tuple[Guarantee, ...]:
        """What a round claims: noisy counts for whoever sees them, and nothing else for anybody."""
        return (
            Guarantee(
                id="encrypted-votes-counts",
                pillar=Pillar.TRAINING_DATA,
                adversary=_READER,
                strength=DifferentialPrivacy(
                    epsilon=self.epsilon(delta),
                    delta=delta,
                    neighboring_relation="replace the data of one user",
                    unit="user",
                ),
                mechanism=f"sum of {self.honest} discrete Gaussians, sigma={self.sigma:g} votes",
                assumptions=(
                    "each user's data is with one teacher",
                    f"at most {self.colluding} teachers tell their noise",
                    "teachers follow the protocol",
                ),
                source="Kairouz, Liu & Steinke 2021; Papernot et al. 2018",
            ),
            Guarantee(
                id="encrypted-votes-secrecy",
                pillar=Pillar.TRAINING_DATA,
                adversary=_COLLUDERS,
                strength=Computational(
                    bits=128,
                    assumption="ring learning with errors, uniform ternary secrets; "
                    f"openings to 2**-{STATISTICAL_BITS} in statistical distance",
                ),
                mechanism=UNAUDITED,
                assumptions=(
                    "one key holder keeps its secret",
                    "everybody follows the protocol",
                    "authenticated channels",
                ),
                source="Asharov et al. 2012; Mouchet et al. 2021",
            ),
        )


_READER = Adversary(
    name="reader of counts", sees="the opened noisy counts", knows="all data but one user's"
)
_COLLUDERS = Adversary(
    name="aggregator and all key holders but one",
    sees="every ciphertext, share and opened count, and its members' secrets",
    knows="the protocol",
)


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Noisy counts (questions, classes) of one round."""

    counts: NDArray[np.int64]
    notice: str = UNAUDITED

    def winners(self) -> NDArray[np.int64]:
        """The class with the largest noisy count per question, the first of equals."""
        return np.asarray(self.counts.argmax(axis=1), dtype=np.int64)


def encrypt_votes(plan: VotePlan, key: JointKey, votes: Sequence[int] | Any) -> Ciphertext:
    """One teacher's contribution: its class per question, plus its share of the noise.

    `InputError` for votes that aren't (questions,) whole numbers below `classes`. The noisy votes
    exist inside this call only.
    """
    made = np.asarray(votes)
    fits = made.shape == (plan.questions,) and made.dtype.kind in "iu"
    if not fits or made.min() < 0 or made.max() >= plan.classes:
        raise InputError(
            f"Expected {plan.questions} votes from 0 to {plan.classes - 1}, got "
            f"shape={made.shape}, dtype={made.dtype}."
        )
    if key.session.parameters != plan.parameters:
        raise ConfigError("Expected a key for this plan's parameters. Make a session from them.")
    ballots = np.zeros((plan.questions, plan.classes), dtype=np.int64)
    ballots[np.arange(plan.questions), made] = 1
    return key.encrypt(ballots.ravel() + plan.noise.draw(ballots.size))


def counted(plan: VotePlan, opened: Opened) -> Counted:
    """The opened sum as counts."""
    size = plan.questions * plan.classes
    return Counted(counts=opened.values[:size].reshape(plan.questions, plan.classes))


def _accounting(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError("dp-accounting", "dp") from error
