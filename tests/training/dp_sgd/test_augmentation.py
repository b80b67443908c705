"""Many views of a record count as one gradient: their mean, clipped; the charge doesn't change."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reticent.errors import BundleError, ConfigError
from reticent.privacy.ledger import Cap, Ledger
from reticent.training.dp_sgd.augmentation import NAMED, Views, flip, shift
from reticent.training.dp_sgd.charged import digests, train_charged
from reticent.training.dp_sgd.clipping import MARGIN, Clipping, Flat, PerLayer
from reticent.training.dp_sgd.resume import restore, save
from reticent.training.dp_sgd.sampling import PoissonSampling
from reticent.training.dp_sgd.trainer import Plan, Trainer, default_losses, train_dp


def images(count: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, 8, 8, generator=generator)
    return x, torch.arange(count) % 3


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.Tanh(), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(144, 3)
        )


def trainer(rows: Tensor, **options: Any) -> Trainer:
    """One step over every one of `rows` (their numbers)."""
    x, y = images()
    x[5] *= 100
    return Trainer(
        copy.deepcopy(network()),
        x[rows],
        y[rows],
        losses=default_losses,
        noise_multiplier=1.0,
        sampling=PoissonSampling(examples=len(rows), probability=1.0, capacity=len(rows)),
        seed=1,
        **{
            "plan": Plan(steps=2, expected_batch=1, chunk=16),
            "clipping": Flat(clip_norm=0.5),
            "augment": "flip and shift",
            "multiplicity": 4,
            **options,
        },
    )


def total(rows: Tensor, **options: Any) -> Tensor:
    run = trainer(rows, **options)
    run._sum()
    return run.engine.flat.double()


def test_a_flip_mirrors_about_half() -> None:
    torch.manual_seed(0)
    one = torch.arange(12.0).view(1, 3, 4)
    made = flip(one.expand(2000, 1, 3, 4).clone())
    mirrored = (made == one.flip(-1)).flatten(1).all(1)
    kept = (made == one).flatten(1).all(1)
    assert bool((mirrored ^ kept).all())
    # Five standard deviations of a fair coin: 112.
    assert abs(int(mirrored.sum()) - 1000) < 112


def test_a_shift_moves_whole_images_by_every_offset() -> None:
    """Columns of 16 pixels move by up to 2, all five alike; edges repeat."""
    torch.manual_seed(0)
    ramp = torch.arange(16.0).repeat(16, 1)
    made = shift(ramp.expand(3000, 16, 16).clone())
    moves = made[:, 0, 8] - 8
    counts = torch.tensor([int((moves == move).sum()) for move in range(-2, 3)])
    assert int(counts.sum()) == 3000
    assert float(((counts - 600) ** 2 / 600).sum()) < 23.5  # chi-square of 4, 1 in 10,000
    expected = (ramp + moves.view(-1, 1, 1)).clamp(0, 15)
    assert torch.equal(made, expected)
    # An image that is too small to move stays.
    small = torch.rand(3, 7, 7)
    assert torch.equal(shift(small.clone()), small)


def test_a_records_views_depend_on_nothing_but_itself_and_the_step() -> None:
    x, _ = images()
    views = Views("flip and shift", 5)
    state = torch.random.get_rng_state()
    whole = views.of(x, step=3).unflatten(0, (-1, 5))
    order = torch.tensor([7, 2, 20])
    assert torch.equal(views.of(x[order], step=3).unflatten(0, (-1, 5)), whole[order])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(views.of(x, step=4).unflatten(0, (-1, 5)), whole)
    different = {tuple(view.flatten().tolist()) for view in whole[0]}
    assert len(different) > 1


@pytest.mark.parametrize("rule", [Flat(clip_norm=7.0), PerLayer(clip_norm=0.5)])
def test_the_sum_is_that_of_clipped_mean_gradients_in_float64(rule: Clipping) -> None:
    """Autograd of each record's mean loss over its views, clipped, summed: the definition."""
    rows = torch.arange(24)
    run = trainer(rows, clipping=rule)
    twin = copy.deepcopy(run.model).double()
    views = run.views.of(run.inputs, step=0).double().unflatten(0, (-1, 4))
    bound = rule.clip_norm * (1 - MARGIN)
    expected = torch.zeros(run.engine.flat.numel(), dtype=torch.float64)
    clipped = 0
    for record, label in zip(views, run.targets, strict=True):
        loss = default_losses(twin(record), label.expand(4)).mean()
        found = torch.autograd.grad(loss, list(twin.parameters()))
        if rule.per_layer:
            share = bound / len(found) ** 0.5
            found = [g * min(1.0, share / float(g.norm())) for g in found]
        flat = torch.cat([g.flatten() for g in found])
        clipped += float(flat.norm()) > bound
        expected += flat * min(1.0, bound / float(flat.norm()))
    run._sum()
    error = (run.engine.flat.double() - expected).norm() / expected.norm()
    assert float(error) < 1e-5
    if not rule.per_layer:
        assert 0 < clipped < 24
    # Clipping each view and averaging afterwards is another sum.
    single = total(rows, clipping=rule, augment=None, multiplicity=1)
    assert float((single - expected).norm() / expected.norm()) > 1e-2


def test_one_record_moves_the_sum_by_at_most_the_clip_norm() -> None:
    """Whoever is left out: the others' views stay what they were."""
    everybody = torch.arange(24)
    for multiplicity in (1, 8):
        whole = total(everybody, multiplicity=multiplicity)
        moved = [
            float((whole - total(everybody[everybody != row], multiplicity=multiplicity)).norm())
            for row in (0, 5, 11)
        ]
        assert max(moved) <= 0.5
        assert max(moved) > 0.999 * 0.5


def test_pieces_give_the_sum_of_the_whole() -> None:
    everybody = torch.arange(24)
    sums = [total(everybody, plan=Plan(steps=2, expected_batch=1, chunk=c)) for c in (1, 10, 400)]
    for made in sums[1:]:
        torch.testing.assert_close(made, sums[0], rtol=1e-4, atol=1e-6)


def test_the_mean_gradient_varies_less_than_one_views() -> None:
    """What multiplicity is for: over steps, the sum of records' gradients is steadier."""
    everybody, spread = torch.arange(24), []
    for multiplicity in (1, 16):
        run = trainer(everybody, multiplicity=multiplicity, clipping=Flat(clip_norm=1e3))
        sums = []
        for step in range(6):
            run.steps_done = step
            run._sum()
            sums.append(run.engine.flat.clone())
        spread.append(float(torch.stack(sums).var(0).sum()))
    assert spread[1] < spread[0] / 6


def test_views_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiplicity"):
        Views(None, 4)
    with pytest.raises(ConfigError, match="multiplicity"):
        Views("flip", 0)
    with pytest.raises(ConfigError, match="flip and shift"):
        Views("mirror", 2)
    with pytest.raises(ConfigError, match="images"):
        Views("flip", 2).check((64,), torch.float32)
    with pytest.raises(ConfigError, match="shape"):
        Views(lambda copies: copies[:1], 2).check((64,), torch.float32)
    for name in NAMED:
        Views(name, 2).check((3, 8, 8), torch.uint8)


def test_a_resumed_run_has_the_views_it_began_with(tmp_path: Path) -> None:
    everybody = torch.arange(24)
    first = trainer(everybody)
    first.step()
    save(first, tmp_path)
    second = trainer(everybody)
    restore(second, tmp_path)
    first.step()
    second.step()
    assert torch.equal(first.engine.flat, second.engine.flat)
    with pytest.raises(BundleError, match="views"):
        restore(trainer(everybody, multiplicity=2), tmp_path)


def test_views_cost_nothing_and_impossible_ones_charge_nothing(tmp_path: Path) -> None:
    pytest.importorskip("dp_accounting")
    x, y = images()
    plan = Plan(steps=3, expected_batch=12)
    common: dict[str, Any] = {"epsilon": 2.0, "delta": 1e-5, "plan": plan}
    plain = train_dp(network(), x, y, losses=default_losses, **common)
    ledger = Ledger.create(tmp_path / "ledger.db")
    ledger.grant("pictures", digests(x, y), cap=Cap(epsilon=4, delta=1e-4))
    common |= {"ledger": ledger, "dataset": "pictures", "key": "only"}
    for wrong in ({"augment": "mirror"}, {"augment": lambda c: c[..., :4]}, {"multiplicity": 3}):
        with pytest.raises(ConfigError):
            train_charged(network(), x, y, **common, **wrong)
    assert not ledger.balances()[0].epsilon
    paid = train_charged(network(), x, y, **common, augment="shift", multiplicity=3)
    assert paid.trained.mechanism == plain.mechanism
    assert 0 < ledger.balances()[0].epsilon <= 2.0
