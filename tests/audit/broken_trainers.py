"""Trainers with one defect each: the package's own `Trainer`, with one part exchanged.

Each function breaks a trainer in place. None of them changes what the trainer declares.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reticent.audit.white_box import WhiteBoxResult, accounted, audit_training, private_run
from reticent.audit.white_box_canaries import Declared, Make
from reticent.guarantee import Guarantee
from reticent.training.dp_sgd.accountant import Mechanism
from reticent.training.dp_sgd.clipping import _scale
from reticent.training.dp_sgd.sampling import Draw, Words
from reticent.training.dp_sgd.trainer import Plan, Trainer, default_losses

Break = Callable[[Trainer], None]


class _Noise:
    """The trainer's noise, times a factor; `after` sees the buffer once the noise is in."""

    is_secure = False

    def __init__(
        self, inner: Any, factor: float = 1.0, after: Callable[[Tensor], Any] | None = None
    ) -> None:
        self.inner, self.factor, self.after = inner, factor, after

    def add_to(self, flat: Tensor, *, sigma: float, clip_norm: float) -> None:
        self.inner.add_to(flat, sigma=self.factor * sigma, clip_norm=clip_norm)
        if self.after is not None:
            self.after(flat)


@dataclass
class _Sampling:
    """The trainer's sampling with another `draw`; remembers the last size."""

    inner: Any
    rows: Callable[[Words], np.ndarray]
    last: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def draw(self, words: Words) -> Draw:
        rows = self.rows(words)
        self.last = len(rows)
        return Draw(rows=rows, truncated=0)


@dataclass
class _Clipping:
    """A clipping rule made of a function."""

    clip_norm: float
    rule: Callable[[Tensor], Tensor]
    per_layer: bool = False

    def factors(self, squared_norms: Tensor) -> Tensor:
        return self.rule(squared_norms)


def half_the_noise(run: Trainer) -> None:
    """sigma C / 2."""
    run.noise = _Noise(run.noise, 0.5)


def noise_of_the_mean(run: Trainer) -> None:
    """Noise for the mean's sensitivity, C / B, on the sum, and then the division by B."""
    run.noise = _Noise(run.noise, 1 / run.plan.expected_batch)


def clip_after_sum(run: Trainer) -> None:
    """The sum is clipped to C, not what each example adds to it."""
    clip_norm, share, summed = run.clipping.clip_norm, 1 / run.plan.expected_batch, run._sum
    run.clipping = _Clipping(clip_norm, torch.ones_like)

    def total() -> float:
        votes = summed()
        run.engine.flat.mul_(
            min(1.0, clip_norm * share / max(1e-12, float(run.engine.flat.norm())))
        )
        return votes

    run._sum = total  # type: ignore[method-assign]


def drawn_divisor(run: Trainer) -> None:
    """(sum + noise) / batch size drawn, in place of the expected one."""
    plain = run.sampling
    sampling = _Sampling(plain, lambda words: plain.draw(words).rows)
    run.sampling = sampling  # type: ignore[assignment]
    run.noise = _Noise(
        run.noise,
        after=lambda flat: flat.mul_(run.plan.expected_batch / max(1, sampling.last)),
    )


def shuffled_loader(run: Trainer) -> None:
    """Every epoch deals the shuffled records in batches of one size."""
    size, deck = round(run.plan.expected_batch), np.zeros(0, dtype=np.int64)

    def deal(words: Words) -> np.ndarray:
        nonlocal deck
        if len(deck) < size:
            deck = np.argsort(words.words32(run.sampling.examples)).astype(np.int64)
        dealt, deck = np.sort(deck[:size]), deck[size:]
        return dealt

    run.sampling = _Sampling(run.sampling, deal)  # type: ignore[assignment]


def fixed_size_batches(run: Trainer) -> None:
    """Every step draws the same number of records, afresh."""
    size = round(run.plan.expected_batch)

    def draw(words: Words) -> np.ndarray:
        return np.sort(np.argsort(words.words32(run.sampling.examples))[:size]).astype(np.int64)

    run.sampling = _Sampling(run.sampling, draw)  # type: ignore[assignment]


def per_layer_without_root(run: Trainer) -> None:
    """Every layer is clipped to C, not to C / sqrt(L)."""
    clip_norm = run.clipping.clip_norm
    run.clipping = _Clipping(clip_norm, lambda squares: _scale(squares, clip_norm), per_layer=True)


def unclipped_bias(run: Trainer) -> None:
    """Biases are summed as they are."""
    engine, fill = run.engine, run.engine.fill
    biases = _named(run, "bias")

    def leaky(batch: Any, factors: Tensor, *, add: bool = False) -> None:
        before = {p: view.clone() for p, view in _views(run, biases)}
        fill(batch, factors, add=add)
        drawn = (factors > 0).float() / run.plan.expected_batch
        for parameter, view in _views(run, biases):
            view.copy_(before[parameter] if add else torch.zeros_like(view))
            batch.add_weighted(parameter, drawn, view)

    engine.fill = leaky  # type: ignore[method-assign]
    run._checked = True


def tied_weight_counted_once(run: Trainer) -> None:
    """The norm of a weight that is used twice is that of one use."""
    backward, tied = run.engine.backward, _named(run, "shared.weight")

    def miscounted(losses: Tensor, **options: Any) -> Any:
        batch = backward(losses, **options)
        exact = batch.squared_norms

        def norms(groups: Sequence[Sequence[nn.Parameter]]) -> Tensor:
            parts = exact([[p] for group in groups for p in group])
            shares = torch.tensor([0.25 if p in tied else 1.0 for group in groups for p in group])
            return (parts * shares.unsqueeze(1)).sum(0, keepdim=True)

        batch.squared_norms = norms  # type: ignore[method-assign]
        return batch

    run.engine.backward = miscounted  # type: ignore[method-assign]
    run._checked = True


def repeated_noise(run: Trainer) -> None:
    """The generator is seeded anew at every step."""

    class Again:
        is_secure = False

        def add_to(self, flat: Tensor, *, sigma: float, clip_norm: float) -> None:
            flat.add_(torch.randn(flat.shape, generator=_generator()), alpha=sigma)

    def _generator() -> torch.Generator:
        return torch.Generator().manual_seed(run.seed or 0)

    run.noise = Again()


DEFECTS: dict[str, Break] = {
    made.__name__: made
    for made in (
        half_the_noise,
        noise_of_the_mean,
        clip_after_sum,
        drawn_divisor,
        shuffled_loader,
        fixed_size_batches,
        per_layer_without_root,
        unclipped_bias,
        tied_weight_counted_once,
        repeated_noise,
    )
}


def broken_run(defect: Break, **options: Any) -> Make:
    """`private_run(**options)` with `defect` in it."""
    sound = private_run(**options)

    def make(*given: Any) -> Trainer:
        run = sound(*given)
        assert isinstance(run, Trainer)
        defect(run)
        return run

    return make


NOISE, STEPS, RATE, CANARIES, RECORDS = 1.1, 30, round(0.1 * 2**32) / 2**32, 240, 160
DELTA = 1e-5


@functools.cache
def claimed() -> Guarantee:
    """What the accountant says of the runs here: epsilon about 3.5."""
    mechanism = Mechanism(noise_multiplier=NOISE, steps=STEPS, sampling_probability=RATE)
    return accounted(mechanism, DELTA)


def audit_defect(
    name: str | None,
    seed: int,
    *,
    canaries: int = CANARIES,
    stated: Guarantee | None = None,
    **options: Any,
) -> WhiteBoxResult:
    """The audit of a short run with a defect, or of a sound one."""
    batch = RATE * (1 + canaries + RECORDS)
    given: dict[str, Any] = {
        "noise_multiplier": NOISE,
        "plan": Plan(steps=STEPS, expected_batch=batch, chunk=64),
        "probability": RATE,
        "seed": seed,
    }
    mechanism = Mechanism(noise_multiplier=NOISE, steps=STEPS, sampling_probability=RATE)
    return audit_training(
        private_run(**given) if name is None else broken_run(DEFECTS[name], **given),
        model=nn.Linear(6, 2),
        inputs=torch.randn(RECORDS, 6, generator=torch.Generator().manual_seed(0)),
        targets=torch.arange(RECORDS) % 2,
        losses=default_losses,
        claim=stated or claimed(),
        declared=Declared(mechanism=mechanism, clip_norm=1.0, divisor=batch),
        canaries=canaries,
        seed=seed,
        **options,
    )


def _named(run: Trainer, ending: str) -> set[nn.Parameter]:
    return {p for name, p in run.model.named_parameters() if name.endswith(ending)}


def _views(run: Trainer, wanted: set[nn.Parameter]) -> list[tuple[nn.Parameter, Tensor]]:
    pairs = zip(run.engine.parameters, run.engine.views, strict=True)
    return [(parameter, view) for parameter, view in pairs if parameter in wanted]
