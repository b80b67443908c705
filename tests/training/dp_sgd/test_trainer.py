"""Training meets its budget, learns, repeats and resumes; physical pieces don't change the sum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reticent.errors import BudgetExhaustedError, BundleError, DataError, UnsupportedError
from reticent.training.dp_sgd.clipping import AdaptiveQuantile, Automatic, Clipping, Flat, PerLayer
from reticent.training.dp_sgd.noise import SecureNoise
from reticent.training.dp_sgd.resume import restore, save
from reticent.training.dp_sgd.sampling import PoissonSampling, poisson_sampling
from reticent.training.dp_sgd.trainer import Plan, Trainer, default_losses, train_dp


def problem(count: int = 600) -> tuple[Tensor, Tensor]:
    """Two classes, apart by four standard deviations along one direction."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(count) % 2
    x = torch.randn(count, 6, generator=generator)
    x[:, 0] += 4.0 * y - 2.0
    return x, y


def network(dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 2))


def trainer(model: nn.Module | None = None, **options: Any) -> Trainer:
    x, y = problem()
    given: dict[str, Any] = {
        "losses": default_losses,
        "noise_multiplier": 1.0,
        "plan": Plan(steps=20, expected_batch=60, chunk=25),
        "sampling": poisson_sampling(600, 60),
        "seed": 3,
    }
    return Trainer(model or network(), x, y, **{**given, **options})


def weights(run: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in run.engine.parameters])


def test_it_learns_within_its_budget() -> None:
    pytest.importorskip("dp_accounting")
    x, y = problem()
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    made = train_dp(
        model,
        x,
        y,
        losses=default_losses,
        epsilon=2.0,
        delta=1e-5,
        plan=Plan(steps=60, expected_batch=120, learning_rate=0.3, averaging=0.9),
    )
    assert 1.9 <= made.epsilon <= 2.0
    assert made.guarantee is not None
    assert float((made.model(x).argmax(1) == y).float().mean()) > 0.93
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not made.model.training
    assert all("forward" not in m.__dict__ for m in made.model.modules())


def test_a_seeded_run_repeats_and_carries_no_guarantee() -> None:
    pytest.importorskip("dp_accounting")
    first, second = trainer(network(0.3)), trainer(network(0.3))
    second.engine.tuner.choices = first.engine.tuner.choices
    for _ in range(5):
        first.step()
        second.step()
    assert torch.equal(weights(first), weights(second))
    assert first.finish(1e-5).guarantee is None
    secure = [trainer(seed=None) for _ in range(2)]
    for run in secure:
        run.step()
    assert not torch.equal(weights(secure[0]), weights(secure[1]))
    assert isinstance(secure[0].noise, SecureNoise)


@pytest.mark.parametrize("rule", [Flat(), PerLayer(), Automatic()])
def test_pieces_give_the_sum_of_the_whole(rule: Clipping) -> None:
    """The same logical batch in pieces of 7 and in one: the same sum up to rounding."""
    sums = []
    for chunk in (7, 600):
        run = trainer(plan=Plan(steps=20, expected_batch=60, chunk=chunk), clipping=rule)
        run._sum()
        sums.append(run.engine.flat.clone())
    torch.testing.assert_close(sums[0], sums[1], rtol=1e-4, atol=1e-7)
    assert sums[0].norm() > 0


def test_one_record_moves_the_sum_by_at_most_the_clip_norm() -> None:
    """Sensitivity, measured: leave each of some records out of a full batch."""
    x, y = problem(40)
    x[5] *= 1e4
    y[5] = 1 - y[5]

    def total(rows: list[int], clip_norm: float) -> Tensor:
        run = Trainer(
            network(),
            x[rows],
            y[rows],
            losses=default_losses,
            noise_multiplier=1.0,
            plan=Plan(steps=1, expected_batch=1, chunk=16),
            sampling=PoissonSampling(examples=len(rows), probability=1.0, capacity=len(rows)),
            clipping=Flat(clip_norm=clip_norm),
            seed=1,
        )
        run._sum()
        return run.engine.flat.double()

    everybody = list(range(40))
    for clip_norm in (0.1, 1.0):
        whole = total(everybody, clip_norm)
        moved = [
            float((whole - total([r for r in everybody if r != row], clip_norm)).norm())
            for row in (0, 5, 17)
        ]
        assert max(moved) <= clip_norm
        assert moved[1] > 0.999 * clip_norm


def test_noise_of_a_step_has_its_scale() -> None:
    """Learning rate 1, no examples drawn: the step is the noise, z C / B, and not 0.9 of it."""

    class Nothing:
        def words32(self, count: int) -> np.ndarray:
            return np.full(count, 2**32 - 1, dtype=np.uint32)

    model = nn.Linear(200, 100)
    run = Trainer(
        model,
        torch.zeros(50, 200),
        torch.zeros(50, dtype=torch.int64),
        losses=default_losses,
        noise_multiplier=1.5,
        plan=Plan(steps=1, expected_batch=10, learning_rate=1.0, momentum=0.0),
        sampling=poisson_sampling(50, 5),
        clipping=Flat(clip_norm=2.0),
    )
    run.words = Nothing()
    before = weights(run)
    run.step()
    spread = float((weights(run) - before).square().mean().sqrt())
    assert spread == pytest.approx(1.5 * 2.0 / 10, rel=0.03)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_resumed_run_goes_on_exactly(tmp_path: Path, adaptive: bool) -> None:
    def rule() -> Clipping:
        return AdaptiveQuantile(vote_sigma=3.0, expected_batch=60) if adaptive else Flat()

    plan = Plan(steps=20, expected_batch=60, chunk=25, averaging=0.9)
    through = trainer(network(0.2), clipping=rule(), plan=plan)
    for _ in range(4):
        through.step()
    save(through, tmp_path)
    for _ in range(4):
        through.step()
    resumed = trainer(network(0.2), clipping=rule(), plan=plan)
    restore(resumed, tmp_path)
    assert resumed.steps_done == 4
    for _ in range(4):
        resumed.step()
    assert torch.equal(weights(through), weights(resumed))
    assert all(torch.equal(a, b) for a, b in zip(through.average, resumed.average, strict=True))
    assert through.clipping.clip_norm == resumed.clipping.clip_norm
    assert (through.clipping.clip_norm != 1.0) == adaptive


def test_another_plan_is_not_resumed(tmp_path: Path) -> None:
    save(trainer(), tmp_path)
    other = trainer(noise_multiplier=0.5)
    with pytest.raises(BundleError, match="mechanism"):
        restore(other, tmp_path)


def test_steps_beyond_the_plan_are_refused() -> None:
    run = trainer(plan=Plan(steps=1, expected_batch=60))
    run.step()
    with pytest.raises(BudgetExhaustedError, match="steps=1"):
        run.step()


def test_a_model_that_mixes_examples_is_refused_at_the_first_batch() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x - x.mean(0))

    with pytest.raises(UnsupportedError, match="first batch"):
        trainer(Mixed()).step()


def test_constant_time_runs_every_piece() -> None:
    run = trainer(plan=Plan(steps=20, expected_batch=60, chunk=25, constant_time=True))
    sizes = []
    inner = run.engine.backward
    run.engine.backward = lambda losses, copies: (  # type: ignore
        sizes.append(len(losses)) or inner(losses, copies=copies)
    )
    run.step()
    # The first one is the check's.
    assert sizes[1:] == [25] * -(-run.sampling.capacity // 25)


def test_targets_must_match() -> None:
    with pytest.raises(DataError, match="600 inputs"):
        trainer(sampling=poisson_sampling(500, 50))
