"""Learning a copy: train on the target's answers to records chosen round by round.

Knockoff nets (Orekondy et al. 2019) and ActiveThief (Pal et al. 2020), with a committee as the
copy: its members' disagreement is doubt, and their mean is better than any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.extraction.choice import CHOICES
from reticent.attacks.extraction.committee import BATCH, Committee, Make
from reticent.attacks.extraction.copy import Batch, Copy, LogProbabilities
from reticent.attacks.spec import Access, AttackSpec
from reticent.attacks.target import LabelTarget, ScoreTarget
from reticent.errors import ConfigError
from reticent.guarantee import Pillar
from reticent.random import seeded

Strategy = Literal["random", "entropy", "margin", "k-center"]

_LEAST_STEPS = 300
_MOST_STEPS = 3000
_EPOCHS = 30
_SKETCH = 150
_MIXTURES = 0.5
_SURE = 1e-4
_ZERO = -60.0


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What both kinds of learning share.

    `queries` records are asked about in `rounds`: the first ones at random, then by `strategy`.
    A pool that is smaller is stretched by mixtures of two of its records. `make` gives a fresh
    network like the target's, where the attacker knows it; by default perceptrons.
    """

    queries: int
    strategy: Strategy = "margin"
    rounds: int = 4
    members: int = 3
    make: Make | None = None

    def __post_init__(self) -> None:
        if self.strategy not in CHOICES:
            raise ConfigError(
                f"Expected a strategy among {sorted(CHOICES)}, got strategy={self.strategy!r}."
            )
        if not 1 <= self.rounds <= self.queries or self.members < 1:
            raise ConfigError(
                f"Expected 1 <= rounds <= queries and members >= 1, got rounds={self.rounds}, "
                f"queries={self.queries}, members={self.members}."
            )


class ScoreLearning(_Plan):
    """A copy learnt from probabilities (level L2)."""

    @property
    def spec(self) -> AttackSpec:
        """What stands on the label."""
        return _spec("learning from scores", Access.SCORES, self.queries)

    def fit(self, target: ScoreTarget, auxiliary: Batch, *, seed: int) -> Copy:
        """The copy, from answers about records of `auxiliary` (n, ...), which need no labels."""
        before = target.queries
        committee = _learn(self, target.predict_scores, target.classes, auxiliary, seed)
        return Copy(
            method=f"{self.spec.name}, {self.strategy}",
            predict=committee.predict,
            queries=target.queries - before,
        )


class LabelLearning(_Plan):
    """A copy learnt from predicted classes alone (level L1)."""

    @property
    def spec(self) -> AttackSpec:
        """What stands on the label."""
        return _spec("learning from labels", Access.LABEL, self.queries)

    def fit(self, target: LabelTarget, auxiliary: Batch, *, seed: int) -> Copy:
        """The copy, from answers about records of `auxiliary` (n, ...), which need no labels."""
        before, classes = target.queries, target.classes

        def ask(x: Batch) -> LogProbabilities:
            sure = np.full((len(x), classes), _SURE / classes)
            sure[np.arange(len(x)), target.predict_label(x)] += 1 - _SURE
            return np.asarray(np.log(sure))

        committee = _learn(self, ask, classes, auxiliary, seed, graded=False)
        return Copy(
            method=f"{self.spec.name}, {self.strategy}",
            predict=committee.predict,
            queries=target.queries - before,
        )


def train_copy(
    x: Batch,
    answers: LogProbabilities,
    *,
    classes: int,
    members: int = 3,
    make: Make | None = None,
    seed: int,
    graded: bool = True,
) -> Committee:
    """A committee trained on answers (n, C) to records (n, ...), whoever gave them."""
    committee = Committee(x, classes, members=members, make=make, seed=seed)
    steps = int(np.clip(_EPOCHS * len(x) // BATCH, _LEAST_STEPS, _MOST_STEPS))
    committee.train(x, answers, steps=steps, graded=graded)
    return committee


def _learn(
    plan: _Plan,
    ask: Callable[[Batch], LogProbabilities],
    classes: int,
    auxiliary: Batch,
    seed: int,
    *,
    graded: bool = True,
) -> Committee:
    rng = seeded(seed, 113)
    pool = _stretched(auxiliary, plan.queries, rng)
    rows = np.arange(len(pool))
    asked: NDArray[np.int64] = np.empty(0, dtype=np.int64)
    answers = np.empty((0, classes))
    rounds = 1 if plan.strategy == "random" else plan.rounds
    sketch: Committee | None = None
    for number, share in enumerate(np.array_split(np.arange(plan.queries), rounds), start=1):
        unasked = np.setdiff1d(rows, asked)
        if sketch is None:
            picked = rng.choice(unasked, len(share), replace=False)
        else:
            votes = sketch.votes(pool[unasked])
            picked = CHOICES[plan.strategy](unasked, votes, len(share), rng)
        answers = np.concatenate([answers, ask(pool[picked])])
        asked = np.concatenate([asked, picked])
        if number < rounds:
            # Doubt needs a rough copy only; it goes on learning from round to round.
            if sketch is None:
                sketch = Committee(pool, classes, members=plan.members, make=plan.make, seed=seed)
            learnt = _above_zero(answers) if graded else answers
            sketch.train(pool[asked], learnt, steps=_SKETCH, graded=graded)
    return train_copy(
        pool[asked],
        _above_zero(answers) if graded else answers,
        classes=classes,
        members=plan.members,
        make=plan.make,
        seed=seed,
        graded=graded,
    )


def _above_zero(answers: LogProbabilities) -> LogProbabilities:
    """The answers with probabilities of 0 raised to just below the least other one.

    A forest answers 0 where no tree votes; its logarithm would outweigh every other answer.
    """
    least = float(answers[answers > _ZERO].min())
    return np.maximum(answers, least - 1.0)


def _stretched(pool: Batch, least: int, rng: np.random.Generator) -> Batch:
    """The pool, with mixtures of two of its records added where it holds fewer than `least`."""
    missing = least - len(pool)
    if missing <= 0:
        return pool
    first, second = rng.integers(len(pool), size=(2, missing))
    share = rng.uniform(0, _MIXTURES, size=(missing,) + (1,) * (pool.ndim - 1))
    mixed = (1 - share) * pool[first] + share * pool[second]
    return np.concatenate([pool, mixed.astype(pool.dtype)])


def _spec(name: str, access: Access, queries: int) -> AttackSpec:
    return AttackSpec(
        name=name,
        pillar=Pillar.MODEL,
        goal="a copy that answers as the model does",
        access=access,
        auxiliary="unlabelled records like those that the model serves",
        reference="Orekondy et al. 2019, section 4; Pal et al. 2020, section 3",
        queries=queries,
    )
