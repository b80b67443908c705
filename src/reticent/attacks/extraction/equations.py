"""Equation solving: a linear or softmax model from d + 1 of its answers (Tramèr et al. 2016).

Each answer's log-probabilities give C - 1 linear equations (section 4.1 there): differences of
log-probabilities are differences of logits. Orthogonal query directions solve them stably.
Rounded answers break those equations but not the attack: more queries near the point where all
classes are alike, where rounding hides least, and a maximum-likelihood fit to what came back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from reticent.attacks.extraction.copy import Batch, Copy, normalised
from reticent.attacks.extraction.oracle import Design, Oracle, Real, centred
from reticent.attacks.extraction.rounded import solve_rounded
from reticent.attacks.spec import Access, AttackSpec
from reticent.attacks.target import ScoreTarget
from reticent.errors import ConfigError
from reticent.guarantee import Pillar
from reticent.random import seeded

_ROWS = 1024
_FIRST = 8
"""Answers that set the step, and answers that check the solution."""

_EARLY = 2
_FIRST_STEP = 0.1
_STEP_LOGITS = 1.5
_CORRECTIONS = 20
_VANISHED = -600.0
_EXACT = 1e-4


@dataclass(frozen=True, kw_only=True)
class EquationSolving:
    """Softmax regression from `queries` answers; by default d + 1, which exact answers need.

    With more, the solution is checked on eight further answers, and only where it fails (rounded
    or noisy answers, or a model that isn't linear) are the rest asked. Records needn't look real.
    """

    queries: int | None = None

    @property
    def spec(self) -> AttackSpec:
        """What stands on the label."""
        return AttackSpec(
            name="equation solving",
            pillar=Pillar.MODEL,
            goal="a copy that answers as the model does",
            access=Access.SCORES,
            auxiliary="a few records, for the range of each feature",
            reference="Tramèr et al. 2016, section 4.1",
            queries=self.queries,
        )

    def fit(self, target: ScoreTarget, auxiliary: Batch, *, seed: int) -> Copy:
        """The copy, asked for around the mean of `auxiliary` (n, ...), which needs no labels.

        `facts`: "exact" (None where no check was paid for), "check error" (greatest difference of
        a probability on the check), "vanished" (probabilities of 0 among the first d + 1 answers).
        Raises `ConfigError` for fewer than d + 1 queries.
        """
        width = math.prod(target.shape)
        least = width + 1
        queries = least if self.queries is None else self.queries
        if queries < least:
            raise ConfigError(
                f"Expected queries >= d + 1 = {least} to solve for a linear model, got "
                f"queries={queries}. Learn a copy with fewer."
            )
        before = target.queries
        oracle, design, rng = Oracle(target, auxiliary), Design(width, seed), seeded(seed, 107)
        equations = _Equations(oracle, design)
        equations.ask(min(_FIRST, width))
        spare = queries - least
        error = None
        theta = None
        if spare >= _FIRST + _EARLY and width > _FIRST:
            error = equations.check(rng, _EARLY)
        if error is None or error < _EXACT:
            equations.ask(width)
            theta = equations.solve()
            if queries - (target.queries - before) >= _FIRST:
                error = equations.check(rng, _FIRST)
        exact = None if error is None else error < _EXACT
        facts = {"exact": exact, "check error": error, "vanished": equations.vanished}
        if exact is False:
            left = queries - (target.queries - before)
            theta = solve_rounded(oracle, design, queries=left, start=theta, rng=rng)
        assert theta is not None
        return Copy(
            method=self.spec.name,
            predict=oracle.rule(theta),
            queries=target.queries - before,
            facts=facts,
        )


class _Equations:
    """The answer at the centre, answers along the design's rows, and the model that they give."""

    def __init__(self, oracle: Oracle, design: Design) -> None:
        self.oracle, self.design = oracle, design
        self.origin = oracle.ask(np.zeros((1, design.width)))[1]
        self.read: list[Real] = []
        self.rises: list[Real] = []
        self.steps: list[Real] = []
        self.rows, self.vanished = 0, 0
        self.step, self.slope = _FIRST_STEP, 1e-30

    def ask(self, rows: int) -> None:
        """Asks up to row `rows`, one at a time until the step is found, from below.

        Too far out a probability is 0 or 1, and its equation lost.
        """
        while self.rows < rows:
            stop = min(rows, self.rows + (1 if self.rows < _FIRST else _ROWS))
            points, answers = self.oracle.ask(self.design.rows(self.rows, stop) * self.step)
            self.vanished += int((answers < _VANISHED).sum())
            self.read.append(points)
            self.rises.append(centred(answers - self.origin))
            self.steps.append(np.full((stop - self.rows, 1), self.step))
            seen = np.sqrt((self.rises[-1] ** 2).mean(axis=1)).max() / self.step
            self.slope = max(self.slope, float(seen))
            if self.rows < _FIRST:
                self.step = min(1.0, _STEP_LOGITS / self.slope, 3 * self.step)
            self.rows = stop

    def solve(self) -> Real:
        """theta (d + 1, C) from all d rows."""
        steps = np.concatenate(self.steps)
        rises = np.concatenate(self.rises) / steps
        weights = self.design.solve(rises)
        for _correction in range(_CORRECTIONS):
            # What float32 did to the points is a small error of the matrix.
            made = np.concatenate([points @ weights for points in self.read]) / steps
            change = self.design.solve(rises - made)
            weights += change
            if np.abs(change).max() <= 1e-12 * np.abs(weights).max():
                break
        return np.concatenate([weights, centred(self.origin)])

    def check(self, rng: np.random.Generator, count: int) -> float:
        """The greatest error of a probability at `count` random mixtures of the rows asked."""
        mixture = rng.normal(size=(count, self.rows)) * self.step / math.sqrt(self.rows)
        read, answers = self.oracle.ask(mixture @ self.design.rows(0, self.rows))
        if self.rows == self.design.width:
            theta = self.solve()
            guessed = normalised(read @ theta[:-1] + theta[-1])
        else:
            slopes = np.concatenate(self.rises) / np.concatenate(self.steps)
            guessed = normalised(self.origin + mixture @ slopes)
        return float(np.abs(np.exp(guessed) - np.exp(answers)).max())
