"""Canaries move the released gradients of the real trainer along their own directions only."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reticent.audit.white_box import private_run
from reticent.audit.white_box_canaries import Declared, Make, Route, Sight, watch
from reticent.errors import ConfigError, DataError, UnsupportedError
from reticent.training.dp_sgd.accountant import Mechanism
from reticent.training.dp_sgd.clipping import AdaptiveQuantile, Automatic, Clipping, Flat, PerLayer
from reticent.training.dp_sgd.sampling import SeededWords
from reticent.training.dp_sgd.trainer import Plan, Trainer, default_losses

RECORDS, CANARIES = 40, 60
TOTAL = RECORDS + CANARIES + 1


class Silence:
    is_secure = False

    def add_to(self, flat: Tensor, *, sigma: float, clip_norm: float) -> None:
        """No noise."""


def problem() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(RECORDS, 6, generator=generator), torch.arange(RECORDS) % 2


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(6, 2)


def seen(
    *, steps: int = 3, rate: float = 0.5, clipping: Clipping | None = None, keep: Any = None
) -> Sight:
    """A noiseless run of the real trainer."""
    sound = private_run(
        noise_multiplier=1.0,
        plan=Plan(steps=steps, expected_batch=rate * TOTAL, chunk=25, momentum=0.0),
        probability=rate,
        clipping=clipping,
        seed=5,
    )

    def make(*given: Any) -> Trainer:
        run = sound(*given)
        assert isinstance(run, Trainer)
        run.noise = Silence()
        if keep is not None:
            keep(run)
        return run

    return watched(make)


def watched(make: Make, **options: Any) -> Sight:
    x, y = problem()
    given = {"canaries": CANARIES, "spare": 30, "declared": None, "seed": 1, **options}
    return watch(make, network(), x, y, default_losses, **given)[0]


@pytest.mark.parametrize(
    ("rule", "level"),
    [
        (Flat(clip_norm=0.7), lambda route: 1.0),
        (Automatic(clip_norm=2.0), lambda route: 1.0),
        # The probe's five tensors and the network's two, each clipped to C / sqrt(7).
        (PerLayer(), lambda route: float(np.sqrt(Route(route).tensors / 7))),
    ],
)
def test_a_drawn_canary_moves_the_sum_by_the_clip_norm_along_its_own_direction(
    rule: Clipping, level: Any
) -> None:
    sight = seen(clipping=rule)
    assert sight.tensors == 7
    moved = np.array([level(route) for route in sight.routes])
    np.testing.assert_allclose(sight.scores, np.where(sight.drawn, moved, 0.0), atol=3e-4)
    assert (sight.scores[sight.drawn] <= 1 + 1e-6).all()
    assert not sight.spare.any()
    for route in Route:
        assert (sight.drawn & (sight.routes == route)).any()


def test_records_seen_are_those_the_sampler_drew() -> None:
    sight, words = seen(steps=4), SeededWords(5)
    for step in sight.draws:
        drawn = words.words32(TOTAL) < 2**31
        np.testing.assert_array_equal(step[1:], drawn[1:])


def test_the_network_gets_the_gradients_of_the_real_records_alone() -> None:
    """Against one-by-one autograd over the real records of the batch."""
    runs: list[Trainer] = []
    sight = seen(steps=1, rate=1.0, keep=runs.append)
    found = [p.grad for name, p in runs[0].model.named_parameters() if name.startswith("model.")]
    x, y = problem()
    expected = [torch.zeros(2, 6), torch.zeros(2)]
    for index in range(RECORDS):
        own = network()
        default_losses(own(x[index : index + 1]), y[index : index + 1]).sum().backward()
        grads = [p.grad for p in own.parameters() if p.grad is not None]
        norm = torch.cat([g.flatten() for g in grads]).norm()
        for total, gradient in zip(expected, grads, strict=True):
            total += gradient * min(1.0, float(1 / norm))
    for own_found, total in zip(found, expected, strict=True):
        assert own_found is not None
        torch.testing.assert_close(own_found * TOTAL, total, rtol=1e-3, atol=1e-3)
    assert sight.draws.all()


def test_coins_are_fair_and_change_no_count() -> None:
    sights = [watched(_quick(), seed=seed) for seed in range(6)]
    assert {sight.draws.shape for sight in sights} == {(1, TOTAL)}
    assert 120 < sum(int(sight.included.sum()) for sight in sights) < 240
    assert not np.array_equal(sights[0].included, sights[1].included)


def test_token_ids_reach_the_network_as_they_are() -> None:
    ids = torch.randint(0, 50, (20, 5))
    met: list[Tensor] = []

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(50, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            met.append(x.detach().clone())
            out: Tensor = self.head(self.table(x).mean(1))
            return out

    watch(
        _quick(), Reader(), ids, torch.arange(20) % 2, default_losses,
        canaries=10, spare=5, declared=None, seed=0,
    )  # fmt: skip
    assert {x.dtype for x in met} == {torch.int64}
    rows = {tuple(row.tolist()) for x in met for row in x}
    assert rows <= {tuple(row.tolist()) for row in ids}


def _quick(**options: Any) -> Make:
    given: dict[str, Any] = {
        "noise_multiplier": 1.0,
        "plan": Plan(steps=1, expected_batch=10, chunk=25),
        "probability": 0.5,
        "seed": 0,
    }
    return private_run(**{**given, **options})


def test_what_cannot_be_audited_is_refused() -> None:
    moving = _quick(clipping=AdaptiveQuantile(vote_sigma=3.0, expected_batch=10))
    with pytest.raises(UnsupportedError, match="clip norm that moves"):
        watched(moving)
    users = Mechanism(noise_multiplier=1.0, steps=1, sampling_probability=0.5, records_per_user=3)
    with pytest.raises(UnsupportedError, match="records_per_user=3"):
        Declared(mechanism=users, clip_norm=1.0, divisor=1.0)
    with pytest.raises(ConfigError, match="10 canaries or more"):
        watched(_quick(), canaries=9)

    class Foreign:
        def __init__(self, model: nn.Module, *_: Any) -> None:
            self.optimiser = torch.optim.SGD(model.parameters(), lr=0.1)

        def step(self) -> None:
            """Releases nothing."""

    with pytest.raises(ConfigError, match="`declared` for a run of type Foreign"):
        watched(Foreign)
    with pytest.raises(DataError, match="pass through its optimiser"):
        watched(
            Foreign,
            declared=Declared(
                mechanism=Mechanism(noise_multiplier=1.0, steps=2, sampling_probability=0.5),
                clip_norm=1.0,
                divisor=1.0,
            ),
        )


def test_the_trainer_is_left_as_it_was() -> None:
    """Hooks are gone, and the network given is not the one trained."""
    runs: list[Trainer] = []
    x, y = problem()
    model = network()
    before = [p.detach().clone() for p in model.parameters()]

    def make(*given: Any) -> Trainer:
        run = _quick()(*given)
        assert isinstance(run, Trainer)
        runs.append(run)
        return run

    from reticent.audit.white_box import audit_training

    audit_training(
        make, model=model, inputs=x, targets=y, losses=default_losses, delta=1e-5,
        canaries=10, spare=10, seed=0,
    )  # fmt: skip
    assert not runs[0].optimiser._optimizer_step_pre_hooks
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
