"""The three aggregators as statements: what is asked of the votes, with how much noise."""

from __future__ import annotations

from dataclasses import dataclass

from reticent.errors import ConfigError
from reticent.training.pate.noise import check_sigma


@dataclass(frozen=True, kw_only=True)
class GNMax:
    """The label with the most votes after Gaussian noise of `sigma` votes on each label.

    Papernot et al. 2018, section 4.1. Every question is answered.
    """

    sigma: float

    def __post_init__(self) -> None:
        check_sigma(self.sigma)


@dataclass(frozen=True, kw_only=True)
class ConfidentGNMax:
    """GNMax, but only where the largest count plus noise of `check_sigma` reaches `threshold`.

    Papernot et al. 2018, algorithm 1. `threshold` is in votes.
    """

    sigma: float
    threshold: float
    check_sigma: float

    def __post_init__(self) -> None:
        check_sigma(self.sigma)
        check_sigma(self.check_sigma)
        if not 0 < self.threshold < 2.0**40:
            raise ConfigError(
                f"Expected a threshold above 0 votes, got threshold={self.threshold}. Try six "
                "tenths of the teachers."
            )


@dataclass(frozen=True, kw_only=True)
class InteractiveGNMax:
    """Asks the teachers only where they surely disagree with the student so far.

    Papernot et al. 2018, algorithm 2: the check is on the largest surplus of a label's votes over
    what the student expects, `teachers` times its probability. Where the check fails, a student
    that is surer than `confidence` keeps its own label, which costs no more than the check.
    """

    sigma: float
    threshold: float
    check_sigma: float
    confidence: float = 0.9

    def __post_init__(self) -> None:
        ConfidentGNMax(sigma=self.sigma, threshold=self.threshold, check_sigma=self.check_sigma)
        if not 0 < self.confidence < 1:
            raise ConfigError(f"Expected 0 < confidence < 1, got confidence={self.confidence}.")


Mechanism = GNMax | ConfidentGNMax | InteractiveGNMax


@dataclass(frozen=True, kw_only=True)
class Questions:
    """A mechanism, and how much of it a budget pays for: public, fixed before teachers exist.

    At most `asked` inputs are put to the teachers and at most `answered` of them get a label from
    the noisy votes. GNMax answers all it is asked, so there the two are equal.
    """

    mechanism: Mechanism
    asked: int
    answered: int

    def __post_init__(self) -> None:
        if not 1 <= self.answered <= self.asked:
            raise ConfigError(
                f"Expected 1 <= answered <= asked, got answered={self.answered}, "
                f"asked={self.asked}."
            )
        if isinstance(self.mechanism, GNMax) and self.answered != self.asked:
            raise ConfigError(
                "Expected answered=asked for GNMax, which answers everything, got "
                f"answered={self.answered}, asked={self.asked}. Use ConfidentGNMax to refuse some."
            )
