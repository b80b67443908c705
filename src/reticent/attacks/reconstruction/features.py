"""Reconstruction: what a server can rebuild of the input from what it sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from reticent.attacks.reconstruction import decoders
from reticent.attacks.reconstruction.decoders import Guess, Images, Puzzle
from reticent.attacks.reconstruction.feature_inversion import invert
from reticent.attacks.view import ServerView
from reticent.random import seeded

FLOOR = "class mean"
OPTIMISED = "white-box optimisation"
_TRIALS = 24
_TARGETS = 64
_SETTINGS = ((0.0, 0.0), (0.01, 0.01), (0.1, 0.05))
"""(prior, smoothness) pairs that white-box optimisation is tried with on validation records."""


@dataclass(frozen=True, kw_only=True)
class ReconstructionScores:
    """Reconstructed test inputs by method; the evaluator compares them with the truth.

    `rows[method]` are the test rows that `inputs[method]` (len(rows), ...) rebuild: all of them,
    or a subsample for white-box optimisation. `floor` (n, ...) is the mean input per predicted
    label. `validation` holds each method's squared error on the attacker's validation records as
    a fraction of the floor's (white-box: on a subsample, in `trials` beside the others' on the
    same rows); `chosen` is the best method there.
    """

    seed: int
    floor: Images
    inputs: Mapping[str, Images]
    rows: Mapping[str, NDArray[np.int64]]
    validation: Mapping[str, float]
    trials: Mapping[str, float]
    chosen: str


def attack_reconstruction(
    view: ServerView, *, seed: int, quick: bool = False
) -> ReconstructionScores:
    """Reconstructions by every decoder that applies, and the one chosen on validation.

    A finite alphabet is attacked by the mean input per (code, predicted label), which no decoder
    beats in squared error. Otherwise: ridge regression, a small network, and with the encoder's
    weights Adam on the input, started from the class mean and from the ridge reconstruction, on
    64 test records. `quick` runs ridge only. Never reads the test part's `inputs` or `private`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        puzzle = Puzzle.of(view)
        part = view.attacker_validation
        floor = Guess(validation=puzzle.floor(part), test=puzzle.floor(view.test))
        guesses = {FLOOR: floor}
        if view.alphabet is not None:
            guesses["mean per code"] = decoders.mean_per_code(puzzle)
        else:
            guesses["ridge"] = decoders.ridge(puzzle)
            if not quick:
                guesses["network"] = decoders.network(puzzle, seed=seed)
        every = np.arange(len(part))
        validation = {
            name: _error(guess.validation, part.inputs, floor.validation, every)
            for name, guess in guesses.items()
        }
        chosen = min(validation, key=validation.__getitem__)
        inputs = {name: guess.test for name, guess in guesses.items()}
        rows = {name: np.arange(len(view.test)) for name in guesses}
        trials: dict[str, float] = {}
        if view.encoder is not None and view.alphabet is None and not quick:
            found = _optimise(puzzle, guesses, seed=seed)
            trials = {
                name: _error(guess.validation, part.inputs, floor.validation, found.trial_rows)
                for name, guess in guesses.items()
            } | {OPTIMISED: found.error}
            inputs[OPTIMISED], rows[OPTIMISED] = found.inputs, found.rows
            if found.error < trials[chosen]:
                chosen = OPTIMISED
    return ReconstructionScores(
        seed=seed,
        floor=floor.test,
        inputs=inputs,
        rows=rows,
        validation=validation,
        trials=trials,
        chosen=chosen,
    )


@dataclass(frozen=True, kw_only=True)
class _Optimised:
    inputs: Images
    rows: NDArray[np.int64]
    trial_rows: NDArray[np.int64]
    error: float


def _optimise(puzzle: Puzzle, guesses: Mapping[str, Guess], *, seed: int) -> _Optimised:
    """White-box inversion with the start and the weights that did best on validation records."""
    view, rng = puzzle.view, seeded(seed, 73)
    part = view.attacker_validation
    tried = rng.permutation(len(part))[:_TRIALS]
    asked = np.sort(rng.permutation(len(view.test))[:_TARGETS])
    floor = guesses[FLOOR].validation
    best = (np.inf, FLOOR, _SETTINGS[0])
    for start in (FLOOR, "ridge"):
        for setting in _settings(puzzle):
            found = invert(
                view,
                puzzle.seen[1][tried],
                guesses[start].validation[tried],
                prior=setting[0],
                smoothness=setting[1],
                steps=120,
            )
            error = float(((found - part.inputs[tried]) ** 2).sum())
            error /= max(float(((floor[tried] - part.inputs[tried]) ** 2).sum()), 1e-300)
            if error < best[0]:
                best = (error, start, setting)
    error, start, setting = best
    inputs = invert(
        view,
        puzzle.seen[2][asked],
        guesses[start].test[asked],
        prior=setting[0],
        smoothness=setting[1],
        steps=300,
    )
    return _Optimised(inputs=inputs, rows=asked, trial_rows=tried, error=error)


def _settings(puzzle: Puzzle) -> tuple[tuple[float, float], ...]:
    """The weights to try; under noise the prior's weight that maximises the posterior leads.

    For Gaussian noise of deviation s, features of deviation f in d dimensions and inputs in D
    dimensions, that weight is (s / f)**2 D / d in the units of `invert`.
    """
    view = puzzle.view
    if view.redraw is None:
        return _SETTINGS
    features = view.attacker_train.features
    noise = float((puzzle.seen[0] - features).var())
    spread = max(float(features.var(axis=0).mean()), 1e-30)
    width = puzzle.means[0].size / features[0].size
    prior = noise / spread * width
    return ((prior, 0.0), (prior / 4, prior / 40), (0.1, 0.05))


def _error(guess: Images, truth: Images, floor: Images, rows: NDArray[np.int64]) -> float:
    """Squared error as a fraction of the floor's (1 where the floor is already exact)."""
    missed = float(((floor[rows] - truth[rows]) ** 2).sum())
    return float(((guess[rows] - truth[rows]) ** 2).sum()) / missed if missed > 0 else 1.0
