"""Attribute inference from outputs: what a model's answers add to what the adversary knew.

The adversary knows a person's record but for one attribute, and the public label. Where the
attribute is an input, it asks the model once per possible value (Fredrikson et al. 2014; Mehnaz
et al. 2022, sections 4 and 5); where it is none, it asks once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from reticent.attacks.attribute.imputation import Sensitive, known_columns
from reticent.attacks.spec import Access, AttackSpec, Labelled
from reticent.attacks.target import LabelTarget, ScoreTarget
from reticent.errors import DataError
from reticent.guarantee import Pillar

SPEC = AttackSpec(
    name="attribute inference from outputs",
    pillar=Pillar.OUTPUT,
    goal="a private attribute of a person, from the model's answers about that person",
    access=Access.SCORES,
    auxiliary="the person's other attributes and public label; own records with the attribute",
    reference="Mehnaz et al. 2022, sections 4 and 5; Jayaraman and Evans 2022",
)
_LEAST_SURE = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What the model said of n people: log-probabilities (n, k, C), k = 1 where none was varied.

    At label level the answered class has log-probability 0 and the others -1: `graded` is False.
    `seen` (n, C) is the answer that each person got to the true record, where the adversary
    observes it.
    """

    logs: NDArray[np.float64]
    graded: bool
    seen: NDArray[np.float64] | None = None

    def columns(self, y: NDArray[np.int64]) -> NDArray[np.float32]:
        """The answers as columns (n, d), with how well each tried value explains the label `y`."""
        flat = self.logs.reshape(len(self.logs), -1)
        if self.logs.shape[1] == 1:
            return flat.astype(np.float32)
        fit = self.explained(y)
        parts = [flat, fit - fit.mean(axis=1, keepdims=True)]
        if self.seen is not None:
            parts += [self.seen, np.log(self.apart() + 1e-6)]
        return np.hstack(parts).astype(np.float32)

    def apart(self) -> NDArray[np.float64]:
        """How far (n, k) the observed answer is from that to each tried value, in nats.

        Raises `DataError` where no answer was observed.
        """
        if self.seen is None:
            raise DataError("Expected an observed answer, got none.")
        return np.asarray(np.abs(self.logs - self.seen[:, None]).max(axis=2))

    def explained(self, y: NDArray[np.int64]) -> NDArray[np.float64]:
        """The log-probability (n, k) of the public label under each tried value."""
        return np.asarray(self.logs[np.arange(len(y)), :, y])


def ask(
    target: ScoreTarget | LabelTarget,
    people: Labelled,
    sensitive: Sensitive | None,
    *,
    access: Access = Access.SCORES,
) -> Answers:
    """The model's answers about `people`: one query a person and possible value.

    The attribute in `people.x` is overwritten before anything is asked. Raises `DataError` for
    scores from a target that gives labels only.
    """
    tried = (
        [people.x]
        if sensitive is None
        else [sensitive.fill(people.x, value) for value in range(len(sensitive.values))]
    )
    if access is Access.LABEL:
        labels = np.stack([target.predict_label(x) for x in tried], axis=1)
        return Answers(logs=np.eye(target.classes)[labels] - 1.0, graded=False)
    if not isinstance(target, ScoreTarget):
        raise DataError(f"Expected a target that gives scores, got one of level {target.access}.")
    return Answers(logs=np.stack([target.predict_scores(x) for x in tried], axis=1), graded=True)


def matching_guess(answers: Answers) -> NDArray[np.int64]:
    """Values (n,) whose tried answer is the observed one: where values matter, they are told."""
    return np.asarray(answers.apart().argmin(axis=1), dtype=np.int64)


def confidence_guess(answers: Answers, y: NDArray[np.int64]) -> NDArray[np.int64]:
    """Values (n,) by confidence scores (CSMIA: Mehnaz et al. 2022, section 4.1); needs no records.

    The one value under which the model answers the public label; of several such, the one it is
    surest of; where there is none, the one with which it is least sure of its wrong answer.
    """
    answered = answers.logs.argmax(axis=2)
    sure = answers.logs.max(axis=2)
    fits = answered == y[:, None]
    score = np.where(fits, sure, -np.inf)
    none = ~fits.any(axis=1)
    score[none] = -sure[none]
    return np.asarray(score.argmax(axis=1), dtype=np.int64)


def label_guess(
    answers: Answers, people: Labelled, sensitive: Sensitive, *, seed: int
) -> NDArray[np.int64]:
    """Values (n,) from labels alone (LOMIA: Mehnaz et al. 2022, section 4.2).

    People for whom exactly one value gives their public label are taken at that value, and teach
    a model that guesses the others from the record alone: among those taken, the label is the
    value in disguise, and among the others it is not. With fewer than 20 of them per value nobody
    can be taught: the first value that fits is taken.
    """
    fits = answers.logs.argmax(axis=2) == people.y[:, None]
    guesses = fits.argmax(axis=1).astype(np.int64)
    certain = fits.sum(axis=1) == 1
    taught = np.bincount(guesses[certain], minlength=len(sensitive.values))
    if certain.all() or taught.min() < _LEAST_SURE:
        return np.asarray(guesses)
    columns = known_columns(people, sensitive)
    model = HistGradientBoostingClassifier(
        class_weight="balanced", max_iter=40, early_stopping=False, random_state=seed % 2**32
    )
    model.fit(columns[certain], guesses[certain])
    guesses[~certain] = model.predict(columns[~certain])
    return np.asarray(guesses)


def posterior_guess(
    answers: Answers, y: NDArray[np.int64], log_prior: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Values (n,) that maximise p(label | record, value) p(value) (Fredrikson et al. 2014)."""
    return np.asarray((answers.explained(y) + log_prior).argmax(axis=1), dtype=np.int64)
