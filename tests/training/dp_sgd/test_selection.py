"""The best of a secret number of runs: the bound holds, draws are right, the ledger pays first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import killed
import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import Tensor, nn

from reticent.errors import (
    BudgetExhaustedError,
    ConfigError,
    DataError,
    EvidenceError,
    UnsupportedError,
)
from reticent.guarantee import DifferentialPrivacy
from reticent.privacy.ledger import Cap, Ledger
from reticent.random import seeded
from reticent.training.dp_sgd import selected
from reticent.training.dp_sgd.accountant import Mechanism
from reticent.training.dp_sgd.charged import APPROXIMATE, RENYI, digests
from reticent.training.dp_sgd.clipping import AdaptiveQuantile, Flat
from reticent.training.dp_sgd.selected import Candidate, NoisyAccuracy, train_selected
from reticent.training.dp_sgd.selection import ORDERS, Runs, Selection, calibrate_selection
from reticent.training.dp_sgd.trainer import Plan

pytest.importorskip("dp_accounting")
SHAPES = (0.0, 1e-9, 0.5, 1.0, 3.0, math.inf)


def law(runs: Runs, count: int) -> np.ndarray:
    """P[K = 0], ..., P[K = count - 1] by scipy, which knows three of the distributions."""
    numbers = np.arange(count)
    if math.isinf(runs.shape):
        return stats.poisson(runs.mean).pmf(numbers)
    if runs.shape == 0:
        return stats.logser(1 - runs.gamma).pmf(numbers)
    made = stats.nbinom(runs.shape, runs.gamma).pmf(numbers)
    made[0] = 0
    return made / (1 - runs.gamma**runs.shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mean", [1.5, 10.0, 200.0])
def test_the_number_of_runs_has_its_distribution_and_mean(shape: float, mean: float) -> None:
    runs = Runs(mean=mean, shape=shape)
    found = dict(islice(runs.probabilities(), 60_000))
    expected = law(runs, 60_000)
    np.testing.assert_allclose([found.get(k, 0.0) for k in range(60_000)], expected, atol=1e-12)
    assert math.fsum(found.values()) == pytest.approx(1, abs=1e-9)
    assert math.fsum(k * p for k, p in found.items()) == pytest.approx(mean, rel=1e-9)


def test_draws_are_by_inversion_and_end() -> None:
    runs = Runs(mean=4.0, shape=1.0)
    generator = seeded(0)
    drawn = np.array([runs.at(u) for u in generator.random(4000)])
    expected = law(runs, 12) * 4000
    for shares, fits in ((expected, True), (law(Runs(mean=3.5, shape=1.0), 12) * 4000, False)):
        counts = np.array([(drawn == k).sum() for k in range(1, 12)] + [(drawn >= 12).sum()])
        wanted = np.append(shares[1:], 4000 - shares.sum())
        statistic = float(((counts - wanted) ** 2 / wanted).sum())
        # A right draw fails once in 10^4; a mean of 3.5 is told apart.
        assert (statistic < stats.chi2(11).ppf(1 - 1e-4)) == fits
    assert runs.at(1.0 - 2.0**-53) > 50
    assert runs.at(1.0) > 50
    assert Runs(mean=2.0, shape=math.inf).at(0.1) == 0


def single(noise: float) -> Mechanism:
    return Mechanism(noise_multiplier=noise, steps=1)


def by_paper(runs: Runs, noise: float, orders: Sequence[float]) -> list[float]:
    """Theorems 2 and 6 for one Gaussian, from the paper; the Poisson delta by the exact Gaussian.

    Independent of the library's formulas, and of its conversion to delta.
    """

    def gaussian(order: float) -> float:
        return order / (2 * noise**2)

    if math.isinf(runs.shape):
        made = []
        for order in orders:
            hat = math.log1p(1 / (order - 1))
            # Balle and Wang 2018, Theorem 8, at sensitivity 1.
            upper = special.ndtr(1 / (2 * noise) - hat * noise)
            lower = math.exp(hat) * special.ndtr(-1 / (2 * noise) - hat * noise)
            made.append(
                gaussian(order) + runs.mean * (upper - lower) + math.log(runs.mean) / (order - 1)
            )
        return made
    hat = np.linspace(1.01, 2000, 200_000)
    terms = (1 - 1 / hat) * gaussian(1) * hat + math.log(1 / runs.gamma) / hat
    constant = (1 + runs.shape) * float(terms.min())
    return [gaussian(order) + constant + math.log(runs.mean) / (order - 1) for order in orders]


def exact(runs: Runs, noise: float, order: float) -> float:
    """The divergence itself, for N(0, 1) against N(1 / noise, 1) where the score is the output.

    The best of K has density f'(F(y)) p(y), with f the generating function of K (section 3).
    """
    y = np.linspace(-45, 45, 200_001)

    def log_density(shift: float) -> np.ndarray:
        above = special.ndtr(shift - y)
        if math.isinf(runs.shape):
            log_slope = math.log(runs.mean) - runs.mean * above
        else:
            gamma, shape = runs.gamma, runs.shape
            whole = math.log(1 / gamma) if shape == 0 else (gamma**-shape - 1) / shape
            log_slope = math.log((1 - gamma) / whole)
            log_slope = log_slope - (shape + 1) * np.log(gamma + (1 - gamma) * above)
        return log_slope + stats.norm.logpdf(y - shift)

    one, two = log_density(0), log_density(1 / noise)
    return max(
        float(special.logsumexp(order * a + (1 - order) * b) + math.log(y[1] - y[0])) / (order - 1)
        for a, b in ((one, two), (two, one))
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("noise", [1.0, 4.0, 20.0])
def test_the_bound_is_the_theorems_and_above_the_truth(shape: float, noise: float) -> None:
    """Above the divergence by integration, and what the paper's formulas give with a finer search.

    The library uses besides that divergences grow with the order, in Theorem 2.
    """
    runs = Runs(mean=6.0, shape=shape)
    paper = np.array(by_paper(runs, noise, ORDERS))
    least = paper if math.isinf(shape) else np.minimum.accumulate(paper[::-1])[::-1]
    found = np.array(Selection(mechanism=single(noise), runs=runs).curve(ORDERS))
    assert np.all(found >= least * (1 - 1e-6))
    if not math.isinf(shape):
        assert np.all(found <= least * 1.05)
    for order in (2.0, 4.0, 8.0, 16.0):
        truth = exact(runs, noise, order)
        assert found[ORDERS.index(order)] >= truth
        # A single run's divergence isn't enough: selection costs.
        if not math.isinf(shape):
            assert truth > order / (2 * noise**2)


def test_a_noisy_score_and_more_runs_cost_more() -> None:
    mechanism = Mechanism(noise_multiplier=2.0, steps=100, sampling_probability=0.1)
    spent = [
        Selection(mechanism=mechanism, runs=Runs(mean=mean), score_noise=noise).epsilon(1e-5)
        for mean, noise in ((2.0, None), (10.0, None), (10.0, 20.0), (10.0, 5.0))
    ]
    assert spent == sorted(spent)
    assert len(set(spent)) == 4


def test_the_noise_is_the_least_that_keeps_the_claim() -> None:
    mechanism = Mechanism(noise_multiplier=1.0, steps=100, sampling_probability=0.1)
    asked = Selection(mechanism=mechanism, runs=Runs(mean=5.0), score_noise=20.0)
    made = calibrate_selection(3.0, 1e-5, selection=asked)
    assert 2.97 < made.epsilon(1e-5) <= 3.0
    less = replace(made.mechanism, noise_multiplier=made.mechanism.noise_multiplier * 0.99)
    assert replace(made, mechanism=less).epsilon(1e-5) > 3.0
    with pytest.raises(ConfigError, match="score_noise"):
        calibrate_selection(0.1, 1e-5, selection=replace(asked, score_noise=5.0))
    with pytest.raises(ConfigError, match="delta"):
        calibrate_selection(1.0, 0.0, selection=asked)
    users = replace(asked, mechanism=replace(mechanism, records_per_user=2))
    with pytest.raises(UnsupportedError, match="one record per user"):
        calibrate_selection(3.0, 1e-5, selection=users)
    for wrong in ({"mean": 1.0}, {"shape": -0.5}, {"shape": math.nan}, {"mean": 1000.0}):
        with pytest.raises(ConfigError, match="mean"):
            Runs(**wrong)
    assert max(ORDERS) > 1000


# Training by it.


def records() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 2
    x = torch.randn(300, 4, generator=generator)
    x[:, 0] += 4.0 * y - 2.0
    return x, y


GOOD = Candidate(plan=Plan(steps=8, expected_batch=100, chunk=100, learning_rate=0.5))
BAD = Candidate(
    plan=Plan(steps=8, expected_batch=100, chunk=100, learning_rate=1e-6),
    clipping=AdaptiveQuantile(vote_sigma=50.0, expected_batch=100),
)


def granted(folder: Path, *, epsilon: float = 8.0) -> Ledger:
    ledger = Ledger.create(folder / "ledger.db")
    ledger.grant("people", digests(*records()), cap=Cap(epsilon=epsilon, delta=1e-4))
    return ledger


def spent(ledger: Ledger) -> float:
    return float(ledger.balances()[0].epsilon)


def bought(ledger: Ledger, key: str, **options: Any) -> selected.Selected:
    x, y = records()
    given: dict[str, Any] = {
        "candidates": [BAD, GOOD],
        "score": NoisyAccuracy(noise=10.0),
        "runs": Runs(mean=5.0),
        "epsilon": 3.0,
        "delta": 1e-5,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(4, 2)
    nn.init.zeros_(model.weight)
    return train_selected(
        model, x, y, ledger=ledger, dataset="people", key=key, **{**given, **options}
    )


def fixed_runs(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(Runs, "draw", lambda self, source: count)


def test_the_best_is_released_and_all_are_paid_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed_runs(monkeypatch, 12)
    ledger = granted(tmp_path)
    made = bought(ledger, "search")
    x, y = records()
    # Twelve draws miss the good candidate once in 4,096 times.
    assert made.candidate == 1
    assert float((made.model(x).argmax(1) == y).float().mean()) > 0.9
    assert made.score == pytest.approx(1.0, abs=0.2)
    claim = made.guarantee.strength
    assert isinstance(claim, DifferentialPrivacy)
    assert (claim.unit, claim.neighboring_relation) == ("record", "add or remove one")
    assert 2.9 < claim.epsilon == made.epsilon <= 3.0
    # The whole selection is charged, read off at the cap's larger delta; not the run's own curve.
    assert made.charged_as == RENYI
    alone = Selection(mechanism=made.selection.mechanism, runs=Runs(mean=1.001, shape=0.0))
    assert alone.epsilon(1e-4) * 1.2 < spent(ledger) <= 3.0
    assert ledger.charge(made.charge).state == "committed"
    assert not made.model.training
    assert all("forward" not in module.__dict__ for module in made.model.modules())
    # Candidates are left as they were: a bound that moved in one run starts anew in the next.
    assert BAD.clipping is not None
    assert BAD.clipping.clip_norm == 1.0
    with pytest.raises(ConfigError, match="committed"):
        bought(ledger, "search")


def test_a_selection_that_fills_the_cap_is_charged_as_epsilon_and_delta(tmp_path: Path) -> None:
    ledger = granted(tmp_path, epsilon=3.0)
    made = bought(ledger, "all", runs=Runs(mean=2.0, shape=0.0))
    assert made.charged_as in (RENYI, APPROXIMATE)
    assert spent(ledger) <= 3.0
    before = spent(ledger)
    with pytest.raises(BudgetExhaustedError):
        bought(ledger, "more")
    assert spent(ledger) == before


def test_a_public_score_chooses_and_may_be_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed_runs(monkeypatch, 4)
    scores = iter([math.nan, 1.0, 3.0, 2.0])
    given: list[nn.Module] = []

    def score(model: nn.Module) -> float:
        given.append(model)
        return next(scores)

    made = bought(granted(tmp_path), "search", score=score)
    assert made.score == 3.0
    assert made.model is given[2]
    assert made.selection.score_noise is None
    # Independent runs: fresh noise each time.
    weights = [next(iter(model.parameters())) for model in given]
    assert not any(torch.equal(weights[0], other) for other in weights[1:])


def test_no_run_leaves_the_model_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixed_runs(monkeypatch, 0)
    ledger = granted(tmp_path)
    made = bought(ledger, "search", runs=Runs(mean=2.0, shape=math.inf))
    assert (made.candidate, made.score) == (None, None)
    assert not next(iter(made.model.parameters())).any()
    assert spent(ledger) > 1


def test_a_selection_that_is_killed_stays_charged(tmp_path: Path) -> None:
    granted(tmp_path)
    path = tmp_path / "ledger.db"
    killed.in_a_child(lambda: bought(Ledger.open(path), "killed", score=killed.die))
    ledger = Ledger.open(path)
    assert spent(ledger) > 1
    with pytest.raises(ConfigError, match="started"):
        bought(ledger, "killed")


def test_the_charge_comes_before_the_number_of_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = granted(tmp_path)
    seen: list[float] = []

    def draw(self: Runs, source: object) -> int:
        seen.append(spent(ledger))
        return 1

    monkeypatch.setattr(Runs, "draw", draw)
    bought(ledger, "search")
    assert seen[0] > 1


def test_what_cannot_be_selected_from_is_refused_before_the_charge(tmp_path: Path) -> None:
    ledger = granted(tmp_path)
    x, y = records()
    longer = replace(GOOD, plan=replace(GOOD.plan, steps=9))
    timed = replace(GOOD, plan=replace(GOOD.plan, constant_time=True))
    for options, error in (
        ({"candidates": []}, "steps and expected_batch"),
        ({"candidates": [GOOD, longer]}, "steps and expected_batch"),
        ({"candidates": [replace(GOOD, multiplicity=3)]}, "multiplicity"),
        ({"candidates": [replace(GOOD, augment="shift")]}, "images"),
        ({"epsilon": 0.05}, "No noise"),
        ({"score": NoisyAccuracy(noise=1.0)}, "No noise"),
    ):
        with pytest.raises(ConfigError, match=error):
            bought(ledger, "a", **options)
    with pytest.raises(UnsupportedError, match="constant_time"):
        bought(ledger, "a", candidates=[GOOD, timed])
    with pytest.raises(ConfigError, match="noise"):
        NoisyAccuracy(noise=0.0)
    common: dict[str, Any] = {
        "candidates": [GOOD],
        "score": NoisyAccuracy(),
        "epsilon": 1.0,
        "delta": 1e-5,
        "ledger": ledger,
        "dataset": "people",
        "key": "a",
    }
    with pytest.raises(EvidenceError, match="others"):
        train_selected(nn.Linear(4, 2), x + 1, y, **common)
    with pytest.raises(UnsupportedError, match="GroupNorm"):
        train_selected(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), x, y, **common)
    assert spent(ledger) == 0


def test_users_select_with_one_record_each(tmp_path: Path) -> None:
    x, y = records()
    users = np.arange(300) // 2
    ledger = Ledger.create(tmp_path / "ledger.db")
    cap = Cap(epsilon=8.0, delta=1e-4)
    ledger.grant("people", digests(x, y, users), cap=cap, unit="user")
    made = bought(ledger, "search", users=users)
    assert isinstance(made.guarantee.strength, DifferentialPrivacy)
    assert made.guarantee.strength.unit == "user"


def test_one_record_moves_a_noisy_score_by_its_noise_and_one() -> None:
    """The count's noise has its scale; answers of another shape would be more than one a record."""
    x, y = torch.zeros(1000, 2), torch.zeros(1000, dtype=torch.int64)
    model = nn.Linear(2, 2)
    nn.init.constant_(model.bias, 0.0)
    rule = NoisyAccuracy(noise=25.0)
    found = np.array([rule.of(model, x, y, 128) * 1000 for _ in range(3000)])
    assert found.mean() == pytest.approx(1000, abs=5 * 25 / math.sqrt(3000))
    # Six standard deviations of a standard deviation: 0.078 of it.
    assert found.std() == pytest.approx(25, rel=0.078)
    with pytest.raises(DataError, match="one answer per record"):
        rule.of(nn.Unflatten(1, (1, 2)), x, y, 128)


def test_candidates_share_one_noise() -> None:
    """Whatever else differs between them: rates, rules, views."""
    other = Candidate(plan=replace(GOOD.plan, momentum=0.0), clipping=Flat(clip_norm=0.1))
    made = selected._uncalibrated([GOOD, other, BAD], NoisyAccuracy(), Runs(), 300)
    assert made.mechanism.steps == 8
    assert made.mechanism.sampling_probability == pytest.approx(1 / 3)
