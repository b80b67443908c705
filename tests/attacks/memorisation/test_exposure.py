"""Exposure: equal to a slow count, blind to unseen canaries, loud for planted ones."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from reticent.attacks.memorisation.canaries import Canary, Template, draw_canaries
from reticent.attacks.memorisation.exposure import (
    CHANCE_BITS,
    exposures_by_sampling,
    measure_exposures,
    memorisation_chance,
)
from reticent.attacks.memorisation.recurrent import CharacterModel, train_characters
from reticent.attacks.memorisation.search import sequence_costs, space_costs, standing
from reticent.errors import ConfigError

TOKENS = {character: index for index, character in enumerate("0123456789abcdefghij ")}


class Markov:
    """A model whose next token depends on the last one: log-probabilities from a fixed table."""

    def __init__(self, seed: int = 0, size: int = 21) -> None:
        logits = 2.0 * np.random.default_rng(seed).normal(size=(size, size))
        self.table = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        self.asked = 0

    def step(self, tokens: NDArray[np.int64], _state: Any) -> tuple[NDArray[np.float64], Any]:
        self.asked += len(tokens)
        return self.table[tokens], tokens

    def pick(self, state: Any, rows: NDArray[np.int64]) -> Any:
        return state[rows]

    def whole(self, sequences: NDArray[np.int64]) -> NDArray[np.float64]:
        return -self.table[sequences[:, :-1], sequences[:, 1:]].sum(axis=1)


class Memorised:
    """Knows one canary: each next token of it has probability .9; elsewhere all are alike."""

    def __init__(self, canary: Canary) -> None:
        self.tokens = canary.sequence

    def step(self, tokens: NDArray[np.int64], state: Any) -> tuple[NDArray[np.float64], Any]:
        place, on_path = (0, np.ones(len(tokens), bool)) if state is None else state
        on_path = on_path & (tokens == self.tokens[place])
        found = np.full((len(tokens), 21), math.log(1 / 21))
        found[on_path] = math.log(0.1 / 20)
        found[on_path, self.tokens[place + 1]] = math.log(0.9)
        return found, (place + 1, on_path)

    def pick(self, state: Any, rows: NDArray[np.int64]) -> Any:
        return state[0], state[1][rows]


def slow_rank(model: Markov, canary: Canary) -> float:
    costs = [
        float(model.whole(np.array([filling]))[0])
        for filling in itertools.product(*canary.template.positions)
    ]
    own = float(model.whole(canary.sequence[None])[0])
    less = sum(cost < own - 1e-9 for cost in costs)
    tied = sum(abs(cost - own) <= 1e-9 for cost in costs)
    return less + (tied + 1) / 2


@pytest.mark.parametrize("text", ["a b###", "a #b#c# d", "ab##c"])
@pytest.mark.parametrize("rows", [7, 4096])
def test_every_search_gives_the_rank_of_a_slow_count(text: str, rows: int) -> None:
    template = Template.of_text(text, TOKENS)
    for seed in range(4):
        model = Markov(seed)
        (canary,) = draw_canaries([template], seed=seed)
        for asked in (model, model.whole):
            (found,) = measure_exposures(asked, [canary], rows=rows)
            assert found.rank == slow_rank(model, canary)
            assert found.bits == pytest.approx(math.log2(template.size / found.rank))
            assert found.method == "exact"


@pytest.mark.parametrize("rows", [3, 64, 5000])
def test_a_tree_walk_lists_the_same_costs_in_the_same_order_as_whole_sequences(rows: int) -> None:
    template = Template.of_text("a #b## c", TOKENS, choices="02468")
    model = Markov(1)
    whole = model.whole(template.sequences(np.arange(template.size)))
    assert np.allclose(space_costs(model, template, rows=rows), whole, atol=1e-12)
    assert np.allclose(space_costs(model.whole, template, rows=rows), whole, atol=1e-12)


def test_sharing_prefixes_asks_once_per_inner_node() -> None:
    model = Markov()
    space_costs(model, Template.of_text("abc####", TOKENS))
    assert model.asked == 3 + 10 + 100 + 1000


def test_a_memorised_secret_is_ranked_exactly_in_a_space_that_nobody_could_enumerate() -> None:
    template = Template.of_text("a" + "#" * 16, TOKENS)
    canaries = draw_canaries([template] * 2, seed=0)
    model = Memorised(canaries[0])
    (found,) = measure_exposures(model, canaries[:1], limit=100_000)
    assert (found.method, found.rank) == ("exact", 1.0)
    assert found.bits == pytest.approx(16 * math.log2(10))
    assert found.searched < 1000
    (other,) = measure_exposures(model, canaries[1:], limit=100_000, samples=2000)
    assert other.method != "exact"
    assert standing(model, template, np.array([80.0]), limit=1000) is None


def test_ties_count_half_and_a_constant_model_gives_one_bit() -> None:
    template = Template.of_text("a##", TOKENS)
    (canary,) = draw_canaries([template], seed=3)
    (found,) = measure_exposures(lambda sequences: np.zeros(len(sequences)), [canary])
    assert (found.tied, found.rank) == (100, 50.5)
    assert found.chance == 1.0


def test_unseen_canaries_have_uniform_ranks_whatever_the_model_prefers() -> None:
    template = Template.of_text("a###", TOKENS)
    model = Markov(2)
    canaries = draw_canaries([template] * 400, seed=5)
    found = measure_exposures(model, canaries)
    ranks = np.array([exposure.rank for exposure in found]) / template.size
    assert stats.kstest(ranks, "uniform").pvalue > 0.01
    assert np.mean([exposure.bits for exposure in found]) == pytest.approx(CHANCE_BITS, abs=0.25)
    # Independent canaries in groups of ten: the combined p-value is rarely small.
    chances = [memorisation_chance(found[start : start + 10]) for start in range(0, 400, 10)]
    assert np.mean(np.array(chances) < 0.05) <= 0.15
    assert memorisation_chance(measure_exposures(model, canaries[:1])) == pytest.approx(
        found[0].chance
    )


def test_a_sample_interpolates_the_body_and_flags_and_caps_the_tail() -> None:
    rng = np.random.default_rng(0)
    sample = 5 + rng.normal(size=5000)
    body, tail, far = exposures_by_sampling(sample, np.array([5.0, 1.2, -20.0]), log2_space=20.0)
    assert body.method == "interpolated"
    assert body.bits == pytest.approx(1.0, abs=0.1)
    assert body.goodness is None
    assert tail.method == "extrapolated"
    assert tail.bits == pytest.approx(-math.log2(stats.norm.cdf(-3.8)), abs=2.0)
    assert tail.goodness is not None
    assert tail.goodness > 0.01
    assert far.bits == 20.0
    assert far.supported == pytest.approx(math.log2(5001))
    assert far.chance == pytest.approx(1 / 5001)


def test_a_bad_fit_is_reported() -> None:
    rng = np.random.default_rng(0)
    twofold = np.concatenate([rng.normal(size=2000), 30 + rng.normal(size=2000)])
    (found,) = exposures_by_sampling(twofold, np.array([-8.0]), log2_space=13.3)
    assert found.goodness is not None
    assert found.goodness < 1e-6


def test_a_space_beyond_the_limit_is_sampled() -> None:
    template = Template.of_text("a" + "#" * 6, TOKENS)
    model = Markov(4)
    canaries = draw_canaries([template] * 5, seed=1)
    sampled = measure_exposures(model.whole, canaries, limit=1000, samples=20_000)
    exact = measure_exposures(model, canaries, limit=2_000_000)
    for guess, truth in zip(sampled, exact, strict=True):
        assert truth.method == "exact"
        if guess.method == "interpolated" and truth.bits < 8:
            assert guess.bits == pytest.approx(truth.bits, abs=0.5)
    assert any(guess.method == "interpolated" for guess in sampled)


def planted(times: int, *, seed: int) -> tuple[CharacterModel, Canary]:
    """A model trained on random words with one canary inserted `times` times."""
    rng = np.random.default_rng(seed)
    template = Template.of_text("abcdef ####", TOKENS)
    (canary,) = draw_canaries([template], seed=seed)
    lines = rng.integers(0, 21, size=(300, 11))
    lines[:, 0] = TOKENS[" "]
    text = np.concatenate([lines, np.tile(canary.sequence, (times, 1))])
    model = CharacterModel(vocabulary=21, hidden=48, seed=seed)
    return train_characters(model, text, epochs=12, seed=seed), canary


def test_a_secret_that_was_trained_on_often_is_the_likeliest_and_one_that_was_not_is_not() -> None:
    model, canary = planted(30, seed=0)
    (found,) = measure_exposures(model, [canary])
    assert found.rank == 1
    assert found.bits == pytest.approx(math.log2(10_000))
    unseen = draw_canaries([canary.template] * 20, seed=9)
    others = measure_exposures(model, unseen)
    assert np.mean([exposure.bits for exposure in others]) < 3
    (whole,) = measure_exposures(model.log_perplexity, [canary])
    assert whole.rank == found.rank


def test_step_by_step_costs_are_those_of_one_forward_pass() -> None:
    import torch

    model = CharacterModel(vocabulary=21, hidden=8).eval()
    sequences = np.random.default_rng(0).integers(0, 21, size=(9, 6))
    with torch.no_grad():
        logs = torch.log_softmax(model(torch.from_numpy(sequences)), dim=2).numpy()
    slow = [
        -sum(logs[row, place, sequences[row, place + 1]] for place in range(5)) for row in range(9)
    ]
    assert np.allclose(sequence_costs(model, sequences, rows=4), slow, atol=1e-5)


def test_unfit_templates_canaries_and_models_are_refused() -> None:
    with pytest.raises(ConfigError, match="open place"):
        Template(positions=((1,), (2,)))
    with pytest.raises(ConfigError, match="have a token"):
        Template.of_text("A##", TOKENS)
    template = Template.of_text("a##", TOKENS)
    with pytest.raises(ConfigError, match="allows"):
        Canary(template=template, tokens=(0, 1, 2))
    with pytest.raises(ConfigError, match="fixed first token"):
        space_costs(Markov(), Template.of_text("##a", TOKENS))
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="none of its fillings"):
        measure_exposures(lambda sequences: rng.random(len(sequences)), draw_canaries([template]))
    with pytest.raises(ConfigError, match="got none"):
        measure_exposures(Markov(), [])


def test_secrets_are_secret_unless_seeded() -> None:
    template = Template.of_text("a" + "#" * 20, TOKENS)
    seeded = draw_canaries([template] * 3, seed=1)
    assert seeded == draw_canaries([template] * 3, seed=1)
    assert len({canary.tokens for canary in seeded}) == 3
    assert draw_canaries([template])[0] != draw_canaries([template])[0]
