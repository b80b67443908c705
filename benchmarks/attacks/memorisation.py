"""Memorisation: exposure by insertions in a small GRU, and what exact ranks cost.

The rival of the prefix tree is the same model asked about whole sequences in batches; both are
exact. A skew-normal tail is fitted to 500 fillings for comparison with the exact exposure.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
from rows import Row, row

from reticent.attacks.memorisation.canaries import Canary, Template, draw_canaries
from reticent.attacks.memorisation.exposure import exposures_by_sampling, measure_exposures
from reticent.attacks.memorisation.recurrent import CharacterModel, train_characters
from reticent.attacks.memorisation.search import sequence_costs

TOKENS = {character: index for index, character in enumerate("0123456789abcdefghijklmnopqrst ")}
LEVELS = (0, 1, 4, 16)


def _planted(each: int) -> tuple[CharacterModel, dict[int, list[Canary]]]:
    """One model with `each` canaries at every level of insertions, contexts of their own."""
    names = [f" {a}{b}{c}" for a in "klmno" for b in "abcd" for c in "pqrs"]
    templates = [Template.of_text(f"{name} ####", TOKENS) for name in names[: each * len(LEVELS)]]
    canaries = draw_canaries(templates, seed=0)
    by_level = {
        level: list(canaries[index * each : (index + 1) * each])
        for index, level in enumerate(LEVELS)
    }
    rng = np.random.default_rng(0)
    lines = rng.integers(10, 31, size=(1000, 9))
    lines[:, 0] = TOKENS[" "]
    told = [
        np.tile(canary.sequence, (level, 1))
        for level, some in by_level.items()
        for canary in some
        if level
    ]
    text = np.concatenate([lines, *told])
    model = CharacterModel(vocabulary=len(TOKENS), hidden=64, seed=0)
    return train_characters(model, text, epochs=15, seed=0), by_level


def rows(*, quick: bool) -> Iterable[Row]:
    """Exposure per level, then the cost of exact ranks in spaces of 10^4 and 10^6."""
    model, by_level = _planted(10 if quick else 20)
    for level, some in by_level.items():
        exact = measure_exposures(model, some)
        fitted = []
        for canary in some:
            drawn = canary.template.draw(500, np.random.default_rng(1))
            costs = sequence_costs(model, canary.sequence[None])
            sample = sequence_costs(model, drawn)
            fitted.append(
                exposures_by_sampling(sample, costs, log2_space=canary.template.log2_size)[0].bits
            )
        bits = [found.bits for found in exact]
        yield row(
            f"GRU, |R| = 10^4, inserted {level} times",
            "exposure",
            float(np.mean(bits)),
            None,
            "none: 1.44 bits without memorisation, 13.29 at most",
            unit="bits",
            n=len(bits),
            fitted_to_500_fillings=round(float(np.mean(fitted)), 2),
            least=round(min(bits), 2),
            most=round(max(bits), 2),
        )
    for digits in (4,) if quick else (4, 6):
        template = Template.of_text(" kap " + "#" * digits, TOKENS)
        canaries = draw_canaries([template] * 10, seed=3)
        seconds, ranks = [], []
        for asked in (model, model.log_perplexity):
            start = time.process_time()
            ranks.append([found.rank for found in measure_exposures(asked, canaries, rows=2048)])
            seconds.append(time.process_time() - start)
        yield row(
            f"exact ranks of 10 canaries, |R| = 10^{digits}",
            "CPU",
            seconds[0],
            seconds[1],
            "whole sequences in batches",
            unit="s",
            n=1,
            most_apart=float(np.abs(np.subtract(*ranks)).max()),
        )
