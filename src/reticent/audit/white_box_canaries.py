"""Canaries with orthogonal gradients, put into any training, and what an insider saw of them.

A canary is a record whose gradient points along a direction of its own that no other record
touches, far longer than the clip norm: after clipping it moves the released sum by exactly what
one record may move it. Directions reach the parameters by several routes, because a defect may sit
in one of them. A canary that is out is replaced by a record without any gradient, so that the
number of records is public. The insider sees every gradient that the optimiser is given (Nasr et
al. 2023, "Tight auditing of differentially private machine learning", whose gradients are Dirac
vectors too).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reticent.errors import ConfigError, DataError, UnsupportedError
from reticent.random import seeded
from reticent.training.dp_sgd.accountant import Mechanism
from reticent.training.dp_sgd.clipping import AdaptiveQuantile
from reticent.training.dp_sgd.trainer import PerExampleLoss, Trainer

PULL = 1000.0
_MOST_RECORDS = 1 << 24


class Steps(Protocol):
    """A training run that can be stepped; `Trainer` is one."""

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """Gets the released gradients."""

    def step(self) -> Any:
        """One step, which ends in one step of the optimiser."""


Make = Callable[[nn.Module, Tensor, Tensor, PerExampleLoss], Steps]
"""Makes the run under audit from (model, inputs, targets, losses), all with canaries in them."""


class Route(IntEnum):
    """How a canary's gradient reaches its parameters."""

    TABLE = 0
    WEIGHT = 1
    BIAS = 2
    SHARED = 3
    SPREAD = 4

    @property
    def tensors(self) -> int:
        """How many of the probe's four tensors have a part in the direction."""
        return 4 if self is Route.SPREAD else 1


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What a run says that it does: the mechanism, and the units of what it releases.

    The released gradient is (clipped sum + noise) / `divisor`. `per_layer`: every parameter tensor
    is clipped by itself, to `clip_norm` over the root of their number.
    """

    mechanism: Mechanism
    clip_norm: float
    divisor: float
    per_layer: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.clip_norm < np.inf and 0 < self.divisor < np.inf):
            raise ConfigError(f"Expected clip_norm > 0 and divisor > 0, got {self}.")
        if self.mechanism.records_per_user > 1:
            raise UnsupportedError(
                "Not yet: a white-box audit of user-level privacy, got records_per_user="
                f"{self.mechanism.records_per_user}. Audit the same run for records."
            )

    @classmethod
    def by(cls, run: Steps) -> Declared:
        """What a `Trainer` declares. Raises `ConfigError` for any other run."""
        if not isinstance(run, Trainer):
            raise ConfigError(
                f"Expected `declared` for a run of type {type(run).__name__}: only a Trainer "
                "says by itself what it does."
            )
        if isinstance(run.clipping, AdaptiveQuantile):
            raise UnsupportedError(
                "Not yet: a white-box audit of a clip norm that moves. Audit the run with Flat()."
            )
        return cls(
            mechanism=run.mechanism,
            clip_norm=run.clipping.clip_norm,
            divisor=run.plan.expected_batch,
            per_layer=run.clipping.per_layer,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Sight:
    """What an insider saw of T steps on n records, m of them canaries, s directions spare.

    In units of the clip norm: `scores` (T, m) are the released sums along each canary's direction,
    `spare` (T, s) along directions that no record touches. `draws` (T, n) says which records took
    part in which step; `records` (m,) where the canaries stand among them, `included` (m,) the
    coins, `routes` (m,) the routes. `tensors` counts the model's trainable parameter tensors.
    """

    scores: NDArray[np.float64]
    spare: NDArray[np.float64]
    draws: NDArray[np.bool_]
    records: NDArray[np.int64]
    included: NDArray[np.bool_]
    routes: NDArray[np.int64]
    tensors: int

    @property
    def drawn(self) -> NDArray[np.bool_]:
        """(T, m): the steps in which a canary's gradient was in the sum."""
        return np.asarray(self.draws[:, self.records] & self.included, dtype=np.bool_)


def expected_moves(sight: Sight, declared: Declared) -> NDArray[np.float64]:
    """How far each canary should move the sum when drawn, in clip norms, shape (m,)."""
    if not declared.per_layer:
        return np.ones(len(sight.routes))
    tensors = np.array([route.tensors for route in Route])
    return np.asarray(np.sqrt(tensors[sight.routes] / sight.tensors), dtype=np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layout:
    """Per record (n,): its canary's part in each of the four tensors (n, 4), and its slot there."""

    parts: Tensor
    slots: Tensor
    real: Tensor
    sizes: tuple[int, int, int, int]
    spare: int


class _Probed(nn.Module):
    """A model beside a probe: inputs (B, 1 + d) are a record's number and its values.

    Returns the model's outputs, the canary's own loss (B,), and which records are real (B,).
    """

    parts: Tensor
    slots: Tensor
    real: Tensor

    def __init__(
        self, model: nn.Module, shape: torch.Size, dtype: torch.dtype, layout: _Layout, pull: float
    ) -> None:
        super().__init__()
        self.model, self.shape, self.dtype, self.pull = model, shape, dtype, pull
        table, weight, bias, shared = layout.sizes
        self.spare = layout.spare
        self.table = nn.Embedding(1 + table + layout.spare, 1)
        self.weight = nn.Linear(1, weight, bias=False)
        self.bias = nn.Linear(1, bias)
        self.shared = nn.Linear(1, shared, bias=False)
        self.register_buffer("parts", layout.parts, persistent=False)
        self.register_buffer("slots", layout.slots, persistent=False)
        self.register_buffer("real", layout.real, persistent=False)
        self.seen: list[NDArray[np.int64]] = []
        for parameter in self.tensors:
            nn.init.zeros_(parameter)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors that routes lead to, in the order of `Route`."""
        return self.table.weight, self.weight.weight, self.bias.bias, self.shared.weight

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        records = inputs[:, 0].long()
        self.seen.append(records.numpy().copy())
        values = inputs[:, 1:].reshape(len(inputs), *self.shape).to(self.dtype)
        parts, slots = self.parts[records], self.slots[records]
        one = values.new_ones(len(inputs), 1, dtype=torch.float32)
        # Row 0 of the table belongs to all that are no canaries; their part in it is zero.
        rows = torch.where(parts[:, 0] > 0, slots + 1, 0)
        outputs = torch.stack(
            [
                self.table(rows)[:, 0],
                _pick(self.weight(one), slots),
                _pick(self.bias(one * 0), slots),
                # One tensor, used twice: the gradient is the sum of both uses.
                _pick(self._shared(one) + self._shared(one), slots),
            ],
            1,
        )
        own = self.pull * (outputs * parts).sum(1)
        return self.model(values), own, self.real[records]

    def _shared(self, one: Tensor) -> Tensor:
        made: Tensor = self.shared(one.unsqueeze(1))[:, 0]
        return made

    def released(self) -> list[NDArray[np.float64]]:
        """The gradients of the four tensors, flat."""
        made = []
        for tensor in self.tensors:
            if tensor.grad is None:
                raise DataError("Expected gradients when the optimiser steps, got none.")
            made.append(tensor.grad.detach().double().flatten().numpy())
        return made


def watch(
    make: Make,
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    losses: PerExampleLoss,
    *,
    canaries: int,
    spare: int,
    declared: Declared | None,
    pull: float = PULL,
    seed: int,
) -> tuple[Sight, Declared]:
    """Run all the steps declared with canaries in them; what the insider saw of it.

    `inputs` (n, ...) and `targets` (n, ...) are the records among which the canaries stand.
    """
    if canaries < 2 * len(Route) or spare < 2 or len(inputs) != len(targets) or not len(inputs):
        raise ConfigError(
            f"Expected {2 * len(Route)} canaries or more, spare >= 2 and as many inputs as "
            f"targets, got canaries={canaries}, spare={spare}, inputs={len(inputs)}, "
            f"targets={len(targets)}."
        )
    total = 1 + canaries + len(inputs)
    if total > _MOST_RECORDS:
        raise ConfigError(f"Expected at most {_MOST_RECORDS} records, got {total}.")
    rng = seeded(seed, 41)
    included = rng.random(canaries) < 0.5
    # The first record is a blank that isn't counted: trainers pad with it.
    places = 1 + rng.permutation(total - 1)
    records, others = places[:canaries], np.sort(places[canaries:])
    routes = np.arange(canaries) % len(Route)
    layout = _layout(total, records, others, included, routes, spare)
    probed = _Probed(model, inputs.shape[1:], inputs.dtype, layout, pull)
    source = torch.zeros(total, dtype=torch.int64)
    source[torch.from_numpy(others)] = torch.arange(len(inputs))
    numbered = torch.cat(
        [torch.arange(total).float().unsqueeze(1), inputs.flatten(1)[source].float()], 1
    )

    def with_canaries(outputs: Any, wanted: Tensor) -> Tensor:
        given, own, real = outputs
        return torch.where(real, losses(given, wanted), own)

    run = make(probed, numbered, targets[source], with_canaries)
    declared = declared or Declared.by(run)
    scores, spares, draws = _record(run, probed, declared, records, routes, total)
    sight = Sight(
        scores=scores,
        spare=spares,
        draws=draws,
        records=records,
        included=included,
        routes=routes,
        tensors=sum(p.requires_grad for p in probed.parameters()),
    )
    return sight, declared


def _layout(
    total: int,
    records: NDArray[np.int64],
    others: NDArray[np.int64],
    included: NDArray[np.bool_],
    routes: NDArray[np.int64],
    spare: int,
) -> _Layout:
    counts = np.bincount(routes, minlength=len(Route))
    spread = counts[Route.SPREAD]
    parts, slots = np.zeros((total, 4), dtype=np.float32), np.zeros(total, dtype=np.int64)
    slots[records] = _slots(routes)
    for record, route in zip(records[included], routes[included], strict=True):
        if route == Route.SPREAD:
            # Half a part in the tensor that is used twice: the same in all four.
            parts[record] = (1.0, 1.0, 1.0, 0.5)
        else:
            parts[record, route] = 1.0
    real = np.zeros(total, dtype=bool)
    real[others] = True
    table, weight, bias, shared = (int(count + spread) for count in counts[:4])
    return _Layout(
        parts=torch.from_numpy(parts),
        slots=torch.from_numpy(slots),
        real=torch.from_numpy(real),
        sizes=(table, weight, bias, shared),
        spare=spare,
    )


def _slots(routes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each canary's entry is in its tensors: those that spread over all come first."""
    spread = int((routes == Route.SPREAD).sum())
    made = np.zeros(len(routes), dtype=np.int64)
    for route in Route:
        own = np.flatnonzero(routes == route)
        made[own] = np.arange(len(own)) + (0 if route is Route.SPREAD else spread)
    return made


def _record(
    run: Steps,
    probed: _Probed,
    declared: Declared,
    records: NDArray[np.int64],
    routes: NDArray[np.int64],
    total: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    scores, spares, draws = [], [], []
    unit = declared.divisor / declared.clip_norm
    slots = _slots(routes)

    def note(*_: Any) -> None:
        table, *rest = probed.released()
        tensors = [table[1 : len(table) - probed.spare], *rest]
        seen = np.zeros(total, dtype=bool)
        for rows in probed.seen:
            seen[rows] = True
        probed.seen.clear()
        scores.append(unit * _along(tensors, slots, routes))
        spares.append(unit * table[len(table) - probed.spare :])
        draws.append(seen)

    handle = run.optimiser.register_step_pre_hook(note)
    try:
        for _ in range(declared.mechanism.steps):
            run.step()
    finally:
        handle.remove()
    if len(scores) != declared.mechanism.steps:
        raise DataError(
            f"Expected one step of the optimiser for each of steps={declared.mechanism.steps}, "
            f"got {len(scores)}. What a run releases must pass through its optimiser."
        )
    return np.stack(scores), np.stack(spares), np.stack(draws)


def _along(
    tensors: list[NDArray[np.float64]], slots: NDArray[np.int64], routes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The released gradient along each canary's direction of length 1, shape (m,)."""
    made = np.zeros(len(routes))
    for route in Route:
        own = routes == route
        if route is Route.SPREAD:
            made[own] = sum(tensor[slots[own]] for tensor in tensors) / 2
        else:
            made[own] = tensors[route][slots[own]]
    return made


def _pick(values: Tensor, slots: Tensor) -> Tensor:
    """values[b, slots[b]], the slot cut to the width: who has no part there has the factor zero."""
    return values.gather(1, slots.clamp(max=values.shape[1] - 1).unsqueeze(1))[:, 0]
