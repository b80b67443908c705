"""Questions answered by noisy votes: no label leaves without its noise, none beyond the budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from reticent.errors import BudgetExhaustedError, ConfigError, DataError
from reticent.training.pate.mechanisms import ConfidentGNMax, GNMax, InteractiveGNMax, Questions
from reticent.training.pate.noise import STEPS, SecureVoteNoise, SeededVoteNoise, VoteNoise
from reticent.training.pate.trace import PrivateTrace
from reticent.training.pate.votes import PrivateVotes, counts_of

Source = Literal["teachers", "student", "nobody"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is released for one question: a label, or None, and where it came from."""

    label: int | None
    source: Source


class Aggregator:
    """Answers questions until what was planned is spent; `BudgetExhaustedError` after that.

    With `seed`, which needs `experiment=True`, the noise repeats and `is_private` is false: no
    guarantee rests on such answers. Ties go to the lowest label, after the noise.
    """

    def __init__(
        self, questions: Questions, *, seed: int | None = None, experiment: bool = False
    ) -> None:
        if (seed is not None) != experiment:
            raise ConfigError(
                "Expected a seed with experiment=True, which voids the guarantee, or neither, got "
                f"seed={seed}, experiment={experiment}."
            )
        self.questions, self.asked, self.answered = questions, 0, 0
        self._noise: VoteNoise = SecureVoteNoise() if seed is None else SeededVoteNoise(seed)
        self._trace = PrivateTrace(questions.mechanism)

    @property
    def is_private(self) -> bool:
        """Whether the noise came from the secure source."""
        return self._noise.is_secure

    @property
    def is_spent(self) -> bool:
        """Whether a further question would be refused."""
        return self.asked >= self.questions.asked or self.answered >= self.questions.answered

    @property
    def trace(self) -> PrivateTrace:
        """How close the votes were, for `sanitised.publish` alone."""
        return self._trace

    def ask(self, votes: PrivateVotes, *, expected: NDArray[np.floating] | None = None) -> Answer:
        """The answer to one question, from its votes.

        `expected`, shape (classes,), is the student's present distribution; interactive GNMax
        needs it, the others refuse it.
        """
        mechanism = self.questions.mechanism
        if len(votes) != 1:
            raise DataError(f"Expected the votes on one question, got questions={len(votes)}.")
        if (expected is not None) != isinstance(mechanism, InteractiveGNMax):
            raise ConfigError(
                "Expected the student's distribution for interactive GNMax and for nothing else, "
                f"got mechanism={mechanism}, expected={expected}."
            )
        if self.is_spent:
            raise BudgetExhaustedError(
                f"All that the budget pays for is spent: {self.asked} of {self.questions.asked} "
                f"questions, {self.answered} of {self.questions.answered} labels. Plan more "
                "before the teachers are trained."
            )
        self.asked += 1
        if not isinstance(mechanism, GNMax):
            self._trace.add_check(_surplus(votes, mechanism, expected) / STEPS)
            if not passes(votes, mechanism, self._noise, expected=expected):
                return _student(mechanism, expected)
        self.answered += 1
        self._trace.add_label(counts_of(votes)[0])
        return Answer(label=noisy_plurality(votes, mechanism.sigma, self._noise), source="teachers")


def passes(
    votes: PrivateVotes,
    mechanism: ConfidentGNMax | InteractiveGNMax,
    noise: VoteNoise,
    *,
    expected: NDArray[np.floating] | None = None,
) -> bool:
    """One check of the votes on one question: costs `accounting.check_rho`, whatever it says."""
    surplus = _surplus(votes, mechanism, expected)
    return surplus + noise.draw(1, sigma=mechanism.check_sigma)[0] >= 0


def noisy_plurality(votes: PrivateVotes, sigma: float, noise: VoteNoise) -> int:
    """The label with most votes after noise, the lowest of equals: `accounting.answer_rho`."""
    counts = counts_of(votes)[0]
    draws = noise.draw(len(counts), sigma=sigma)
    noisy = [int(count) * STEPS + own for count, own in zip(counts, draws, strict=True)]
    return noisy.index(max(noisy))


def ask_all(aggregator: Aggregator, votes: PrivateVotes) -> NDArray[np.int64]:
    """The labels of all questions, shape (questions,); -1 where none is released.

    Stops when the budget is spent: the rest stay at -1.
    """
    labels = np.full(len(votes), -1, dtype=np.int64)
    for row in range(len(votes)):
        if aggregator.is_spent:
            break
        label = aggregator.ask(votes.one(row)).label
        labels[row] = -1 if label is None else label
    return labels


def _surplus(
    votes: PrivateVotes,
    mechanism: ConfidentGNMax | InteractiveGNMax,
    expected: NDArray[np.floating] | None,
) -> int:
    """How far the check's statistic lies above its threshold, in lattice steps: private."""
    lattice = [int(count) * STEPS for count in counts_of(votes)[0]]
    if expected is not None:
        known = _steps(expected, votes.teachers, votes.classes)
        lattice = [own - steps for own, steps in zip(lattice, known, strict=True)]
    return max(lattice) - round(mechanism.threshold * STEPS)


def _steps(expected: NDArray[np.floating], teachers: int, classes: int) -> list[int]:
    """What the student expects, in lattice steps: public numbers, so their rounding is too."""
    if expected.shape != (classes,) or not np.isfinite(expected).all():
        raise DataError(
            f"Expected a distribution of shape ({classes},), got shape={expected.shape}."
        )
    return [round(teachers * float(share) * STEPS) for share in expected]


def _student(
    mechanism: ConfidentGNMax | InteractiveGNMax, expected: NDArray[np.floating] | None
) -> Answer:
    is_sure = (
        isinstance(mechanism, InteractiveGNMax)
        and expected is not None
        and float(expected.max()) > mechanism.confidence
    )
    if is_sure and expected is not None:
        return Answer(label=int(expected.argmax()), source="student")
    return Answer(label=None, source="nobody")
