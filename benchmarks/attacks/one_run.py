"""One-run audits beside jax-privacy and opake: bounds shown, false alarms, CPU time.

Peers are optional (`pip install jax-privacy opake-auditing`); without them their columns are empty.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rows import Row, row

from reticent.audit.epsilon import gaussian_epsilon, gaussian_mu
from reticent.audit.one_run import Guesses, audit_procedure
from reticent.random import seeded

DELTA = 1e-5
JAX, OPAKE = "jax-privacy 2.0.0", "opake-auditing 0.16.1"


@dataclass
class Told:
    """Scores and coins of one audit, kept for the peers."""

    scores: list[NDArray[np.float64]] = field(default_factory=list)
    coins: list[NDArray[np.bool_]] = field(default_factory=list)


def rows(*, quick: bool) -> Iterable[Row]:
    """The results; `quick` takes fewer runs."""
    yield from by_counts()
    yield from by_scores(runs=3 if quick else 10)
    yield from at_once(runs=30 if quick else 100)


def by_counts() -> Iterable[Row]:
    """The bound from the same counts, at two deltas."""
    jax = _jax()
    for canaries, made, correct in ((1000, 1000, 800), (10_000, 1000, 950), (100_000, 2000, 1990)):
        guesses = Guesses(canaries=canaries, made=made, correct=correct)
        for delta in (1e-5, 1e-3):
            case = f"one run, {correct} of {made} right, {canaries} canaries, delta {delta:g}"
            free, free_time = _timed(lambda g=guesses, d=delta: g.epsilon(delta=d))
            curve, curve_time = _timed(lambda g=guesses, d=delta: gaussian_epsilon(g.mu(), d))
            peer = peer_time = peer_curve = peer_curve_time = None
            if jax is not None:
                counts = (0.0, canaries, made, correct, 0.05, delta)
                peer, peer_time = _timed(lambda c=counts: jax._epsilon_one_run(*c))
                peer_curve, peer_curve_time = _timed(lambda c=counts: jax._epsilon_one_run_fdp(*c))
            yield row(case, "epsilon shown, any mechanism", free, peer, JAX, higher=True)
            yield row(case, "CPU ms, any mechanism", 1e3 * free_time, _ms(peer_time), JAX)
            yield row(case, "epsilon shown, Gaussian", curve, peer_curve, JAX, higher=True)
            yield row(case, "CPU ms, Gaussian", 1e3 * curve_time, _ms(peer_curve_time), JAX)


def by_scores(*, runs: int, canaries: int = 1000) -> Iterable[Row]:
    """Whole audits of a Gaussian mechanism calibrated to epsilon."""
    jax = _jax()
    for epsilon in (1.0, 4.0):
        noise = 1 / gaussian_mu(epsilon, DELTA)
        ours, peers, cost, peer_cost = np.zeros((2, runs)), np.zeros((2, 2, runs)), 0.0, 0.0
        for run in range(runs):
            told, rng = Told(), seeded(run, 5)

            def train(
                included: NDArray[np.bool_], told: Told = told, rng: Any = rng, noise: float = noise
            ) -> NDArray[np.float64]:
                told.coins.append(included)
                told.scores.append(included + rng.normal(0, noise, len(included)))
                return told.scores[-1]

            start = time.process_time()
            found = audit_procedure(
                train, canaries, adversary="client", target="canary", delta=DELTA, seed=run
            )
            cost += time.process_time() - start
            ours[:, run] = [finding.value for finding in found]
            if jax is None:
                continue
            scores, coins = told.scores[0], told.coins[0]
            start = time.process_time()
            auditor = jax.CanaryScoreAuditor(scores[coins], scores[~coins])
            # Its default tries every threshold, which takes minutes: half of the records choose
            # one instead, or it is the median score. The better of both is its figure.
            for index, fixed in enumerate((jax.Split(seed=run), jax.Explicit(np.median(scores)))):
                given = {"significance": 0.05, "delta": DELTA, "threshold_strategy": fixed}
                peers[index, 0, run] = auditor.epsilon_one_run(**given)
                peers[index, 1, run] = auditor.epsilon_one_run_fdp(**given)
            peer_cost += (time.process_time() - start) / 2
        case = f"one-run audit of a Gaussian sum, epsilon {epsilon:g}, {canaries} canaries"
        for index, name in enumerate(("any mechanism", "Gaussian")):
            peer = None if jax is None else float(peers[:, index].mean(axis=1).max())
            yield row(
                case, f"mean epsilon shown, {name}", float(ours[index].mean()), peer,
                JAX, higher=True, n=runs,
                spread=round(float(ours[index].std()), 3),
                above_claim=int((ours[index] > epsilon).sum()),
            )  # fmt: skip
        yield row(
            case, "CPU s per audit", cost / runs, None if jax is None else peer_cost / runs,
            JAX, n=runs,
        )  # fmt: skip


def at_once(*, runs: int) -> Iterable[Row]:
    """False alarms on a leak of all canaries at once, within the curve of mu = 1."""
    opake, canaries = _opake(), 1000
    rng = seeded(8, 1)
    claimed = gaussian_epsilon(1.0, DELTA)
    flagged = peers = 0

    @cache
    def shown(correct: int) -> float:
        return Guesses(canaries=canaries, made=canaries, correct=correct).mu()

    for run in range(runs):
        coins = _coins(opake, run, canaries)
        told = 0.84 if rng.random() < 0.3 else 0.5
        right = rng.random(canaries) < told
        scores = np.where(right, coins, ~coins) + rng.normal(0, 1e-6, canaries)
        flagged += shown(int(right.sum())) > 1.0
        if opake is not None:
            peers += _opake_epsilon(opake, run, canaries, scores) > claimed
    yield row(
        "leak of all canaries with probability .3, within mu = 1", "share flagged (at most .05)",
        flagged / runs, None if opake is None else peers / runs, OPAKE, n=runs,
    )  # fmt: skip


def _timed(call: Callable[[], float], *, seconds: float = 0.2) -> tuple[float, float]:
    """What the call returns, and its CPU seconds (mean of repeats, the first left out)."""
    value, repeats = call(), 0
    start = time.process_time()
    while repeats == 0 or time.process_time() - start < seconds:
        call()
        repeats += 1
    return value, (time.process_time() - start) / repeats


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _jax() -> Any:
    try:
        from jax_privacy import auditing
    except ImportError:
        return None
    return auditing


def _opake() -> Any:
    try:
        from opake import auditing, random
    except ImportError:
        return None
    return auditing, random


def _flips(opake: Any, run: int, canaries: int) -> Any:
    auditing, random = opake
    return auditing.coin_flip(range(canaries), num_canaries=canaries, key=random.key(run))


def _coins(opake: Any, run: int, canaries: int) -> NDArray[np.bool_]:
    """The coins by record: the peer's own, or ours where it isn't there."""
    if opake is None:
        return seeded(run, 6).random(canaries) < 0.5
    coins = np.zeros(canaries, dtype=bool)
    coins[_flips(opake, run, canaries).in_indices] = True
    return coins


def _opake_epsilon(opake: Any, run: int, canaries: int, scores: NDArray[np.float64]) -> float:
    auditing, _random = opake
    named = auditing.canary_scores(scores, canary_indices=np.arange(canaries))
    estimate = auditing.one_run(named, coin_flip=_flips(opake, run, canaries))
    return float(estimate.gdp(grid_size=1_000).epsilon_at(delta=DELTA))
