"""Which scorer attacks best, decided on shadow targets: never on the model under audit.

No scorer is the best everywhere: likelihood ratios win where margins are normal and references
many, confidence ratios where references are few, the learnt decision where shadow targets are
large. Taking the best on the audited model afterwards would overstate it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.membership.learned import Learned, features, learn, lesson
from reticent.attacks.membership.scorers import SCORERS, statement
from reticent.attacks.membership.signals import References, Signals
from reticent.attacks.spec import Access, Scores
from reticent.errors import ConfigError
from reticent.random import seeded

LEARNED = "learned"
DEFAULT = "RMIA online"
"""The scorer where references are too few to choose: the strongest with two."""

TARGETS = 16
_FEWEST_TO_CHOOSE = 3
_FEWEST_TO_LEARN = 4
_FPRS = (0.001, 0.01, 0.1)
SPEC = statement(
    "battery",
    Access.SHADOW,
    "records like the members, shadow models trained with and without each candidate",
    "the strongest on shadow targets of LiRA, RMIA, BaVarIA and a decision learnt on them",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Battery:
    """All scorers ready to score, and how each did on the shadow targets `models` (K,).

    `trials` holds each scorer's scores (K, n) of the shadow targets, made without their truth;
    `strength` the mean log-rate that chose. `references` may be those of the audited model too.
    """

    references: References
    models: NDArray[np.int64]
    trials: Mapping[str, NDArray[np.float64]]
    strength: Mapping[str, float]
    chosen: str
    learned: Learned | None

    @property
    def truth(self) -> NDArray[np.bool_]:
        """The shadow targets' members (K, n), which the attacker drew itself."""
        return self.references.member[self.models]

    def score(self, target: Signals, name: str | None = None) -> Scores:
        """Scores (n,) of a scorer, by default of the chosen one."""
        name = self.chosen if name is None else name
        if name == LEARNED and self.learned is not None:
            return self.learned.score(target, self.references)
        if name not in SCORERS:
            raise ConfigError(f"Expected a scorer among {sorted(self.trials)}, got name={name!r}.")
        return SCORERS[name].score(target, self.references)


def prepare(
    references: References,
    *,
    seed: int,
    targets: int = TARGETS,
    names: Sequence[str] | None = None,
) -> Battery:
    """Try every scorer (or those in `names`) on up to `targets` shadow targets; choose the best.

    A shadow target is scored with all other references. The learnt decision is fitted on half of
    the shadow targets to score the other half, so that it never scores what it has seen; its final
    fit takes all. (References are shared, so with four of them its trial still knows a little: on
    models without any leak it shows an AUC of 0.506; with six or more, 0.50.) The best has the
    greatest mean of log(TPR) over FPRs of 0.1, 1 and 10 % (those with a non-member or more),
    averaged over targets.
    """
    asked = (*SCORERS, LEARNED) if names is None else tuple(names)
    unknown = sorted(set(asked) - {*SCORERS, LEARNED})
    if unknown or not asked:
        raise ConfigError(f"Expected scorers among {[*SCORERS, LEARNED]}, got names={unknown}.")
    count = len(references)
    models = np.sort(seeded(seed, 51).permutation(count)[: min(targets, count)])
    if count < _FEWEST_TO_CHOOSE:
        plain = [name for name in (DEFAULT, *asked) if name in asked and name != LEARNED]
        none = np.empty((0, references.signals.pool))
        return Battery(
            references=references,
            models=models[:0],
            trials=dict.fromkeys(plain, none),
            strength={},
            chosen=(plain or [DEFAULT])[0],
            learned=None,
        )
    learning = LEARNED in asked and count >= _FEWEST_TO_LEARN
    plain = [name for name in asked if name in SCORERS]
    trials = {name: np.empty((len(models), references.signals.pool)) for name in plain}
    seen, lessons = [], []
    for place, model in enumerate(models.tolist()):
        target, rest = references.target(model), references.without(model)
        for name in plain:
            trials[name][place] = SCORERS[name].score(target, rest)
        if learning:
            seen.append(features(target, rest))
            lessons.append(lesson(references, model, seed=seed))
    truth = references.member[models]
    learned = None
    if learning:
        trials[LEARNED] = _crossed(seen, lessons, truth, seed)
        learned = learn(lessons, list(truth), seed=seed)
    if not trials:
        raise ConfigError(
            f"Expected {_FEWEST_TO_LEARN} or more references for a learnt decision, got {count}."
        )
    strength = {name: _strength(scores, truth) for name, scores in trials.items()}
    return Battery(
        references=references,
        models=models,
        trials=trials,
        strength=strength,
        chosen=max(strength, key=lambda name: strength[name]),
        learned=learned,
    )


def _crossed(
    seen: Sequence[NDArray[np.float64]],
    lessons: Sequence[NDArray[np.float64]],
    truth: NDArray[np.bool_],
    seed: int,
) -> NDArray[np.float64]:
    """Each half of the shadow targets scored by what the other half taught, (K, n)."""
    found = np.empty(truth.shape)
    for half in (0, 1):
        fitted = learn(lessons[1 - half :: 2], list(truth[1 - half :: 2]), seed=seed)
        for place in range(half, len(truth), 2):
            found[place] = fitted.decide(seen[place])
    return found


def _strength(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    return float(np.mean([_log_rate(row, true) for row, true in zip(scores, truth, strict=True)]))


def _log_rate(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """The mean over false-positive rates of log(TPR), half a member counted in place of none."""
    outside, inside = np.sort(scores[~truth])[::-1], scores[truth]
    rates = []
    for fpr in _FPRS:
        allowed = int(fpr * len(outside))
        if allowed >= 1:
            rates.append(max((inside > outside[allowed]).sum(), 0.5) / len(inside))
    if not rates:
        rates = [max((inside > outside[0]).sum(), 0.5) / len(inside)]
    return float(np.mean(np.log(rates)))
