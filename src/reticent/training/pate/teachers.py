"""Many teachers trained as one stack: one batched product where one by one there were many.

**Claim.** What a teacher becomes depends on its own part, on the template and on the public plan;
not on the other parts, their sizes, or how many of them are empty. Hence the choices here: every
teacher takes the same number of steps with batches of the same size, drawn with replacement from
its own rows by public random numbers; inputs are standardised by constants of its own part; a
teacher without records keeps its starting weights and still votes. **Assumption.** Batched products
compute each teacher's slice by itself, which `tests` check to the bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from reticent.errors import ConfigError, DataError, UnsupportedError
from reticent.models.networks import Standardise
from reticent.random import seeded
from reticent.training.pate.votes import PrivateVotes

_ROWS = 256  # questions at a time


@dataclass(frozen=True, kw_only=True)
class TeacherPlan:
    """How teachers are trained: public, fixed beforehand (AdamW, the rate falling as a cosine).

    `seed` draws starting weights and batches. It protects nobody and may be public.
    """

    steps: int = 200
    batch_size: int = 16
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.steps >= 1 and self.batch_size >= 2 and self.learning_rate > 0):
            raise ConfigError(f"Expected steps >= 1, batch_size >= 2, learning_rate > 0: {self}.")


class Teachers(Protocol):
    """Trained teachers: they vote, and the votes are private."""

    def votes(self, x: NDArray[np.float32]) -> PrivateVotes:
        """The votes on questions of shape (questions, ...)."""


class Predictor(Protocol):
    """What scikit-learn calls a classifier."""

    def predict(self, x: Any, /) -> Any:
        """Labels of shape (questions,) for inputs of shape (questions, ...)."""


class GivenTeachers:
    """Teachers that were trained elsewhere: functions from inputs to labels, or estimators.

    That no unit is in two of their training sets, and that none looked at another's data, is for
    whoever trained them to know. A teacher that fails votes for label 0, because a refusal would
    tell about its records.
    """

    def __init__(
        self,
        teachers: Sequence[Predictor | Callable[[NDArray[np.float32]], Any]],
        *,
        classes: int,
    ) -> None:
        if len(teachers) < 2:
            raise ConfigError(f"Expected two teachers or more, got teachers={len(teachers)}.")
        self._teachers, self._classes = list(teachers), classes

    def __len__(self) -> int:
        return len(self._teachers)

    def votes(self, x: NDArray[np.float32]) -> PrivateVotes:
        """See `Teachers.votes`."""
        labels = np.stack([_asked(teacher, x) for teacher in self._teachers])
        return PrivateVotes.of(labels, classes=self._classes)


def _asked(teacher: Any, x: NDArray[np.float32]) -> NDArray[np.int64]:
    try:
        found = np.asarray(teacher.predict(x) if hasattr(teacher, "predict") else teacher(x))
        labels = found.astype(np.int64)
    except Exception:
        return np.zeros(len(x), dtype=np.int64)
    return labels if labels.shape == (len(x),) else np.zeros(len(x), dtype=np.int64)


class StackedTeachers:
    """Networks of one architecture, their weights stacked along a first axis."""

    def __init__(
        self, template: nn.Module, weights: dict[str, Tensor], buffers: dict[str, Tensor]
    ) -> None:
        self._network = copy.deepcopy(template).to("meta").eval()
        self._weights, self._buffers = weights, buffers

    def __len__(self) -> int:
        return len(next(iter(self._weights.values())))

    def __repr__(self) -> str:
        return f"StackedTeachers(teachers={len(self)}, weights hidden)"

    def votes(self, x: NDArray[np.float32]) -> PrivateVotes:
        """See `Teachers.votes`."""
        with torch.no_grad():
            outputs = [
                _outputs(self._network, self._weights, self._buffers, part, shared=True)
                for part in torch.from_numpy(x).split(_ROWS)
            ]
        logits = torch.cat(outputs, dim=1)
        # A teacher that diverged votes for label 0 like any other.
        labels = torch.nan_to_num(logits, nan=-torch.inf).argmax(-1)
        return PrivateVotes.of(labels.numpy(), classes=logits.shape[-1])


def train_teachers(
    template: nn.Module,
    x: NDArray[np.float32],
    y: NDArray[np.integer],
    rows: Sequence[NDArray[np.int64]],
    *,
    plan: TeacherPlan | None = None,
) -> StackedTeachers:
    """One teacher per part, `rows[k]` being the rows of x (n, ...) and y (n,) that teacher k sees.

    `template` gives architecture and classes; its weights are drawn anew for each teacher, and each
    `Standardise` in it gets constants of the teacher's own part. Other buffers must be public.
    `UnsupportedError` for BatchNorm, whose running statistics a stack can't keep apart here, and
    for layers whose weights can't be drawn anew; `DataError` for a row in two parts.
    """
    plan = plan or TeacherPlan()
    _check(template, rows)
    weights, buffers = _starting_state(template, x, rows, plan.seed)
    network = copy.deepcopy(template).to("meta").train()
    optimiser = torch.optim.AdamW(
        list(weights.values()), lr=plan.learning_rate, weight_decay=plan.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, plan.steps)
    # One row more, all zeros: what a teacher without records is shown, at weight 0.
    inputs = torch.cat([torch.from_numpy(x), torch.zeros(1, *x.shape[1:])])
    targets = torch.cat([torch.from_numpy(np.asarray(y, dtype=np.int64)), torch.zeros(1).long()])
    shown = torch.tensor([float(len(own) > 0) for own in rows])
    rng = seeded(plan.seed, 2)
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(plan.seed)  # dropout's draws are public too
        for _ in range(plan.steps):
            picked = _batch(rows, rng.random((len(rows), plan.batch_size)), len(x))
            outputs = _outputs(network, weights, buffers, inputs[picked], shared=False)
            losses = functional.cross_entropy(
                outputs.flatten(0, 1), targets[picked].flatten(), reduction="none"
            )
            # A sum over teachers has, for each, its own gradient.
            (losses.view(len(rows), -1).mean(1) * shown).sum().backward()
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
    return StackedTeachers(
        template, {name: value.detach() for name, value in weights.items()}, buffers
    )


def _outputs(
    network: nn.Module,
    weights: dict[str, Tensor],
    buffers: dict[str, Tensor],
    x: Tensor,
    *,
    shared: bool,
) -> Tensor:
    """Outputs (teachers, batch, classes) of x: the same for all, or (teachers, batch, ...)."""

    def one(own: dict[str, Tensor], fixed: dict[str, Tensor], batch: Tensor) -> Any:
        return functional_call(network, (own, fixed), (batch,))

    mapped = vmap(one, in_dims=(0, 0, None if shared else 0), randomness="different")
    out: Tensor = mapped(weights, buffers, x)
    return out


def _batch(rows: Sequence[NDArray[np.int64]], uniform: NDArray[np.float64], empty: int) -> Tensor:
    """Rows drawn with replacement, each teacher's from its own; `empty` where it has none."""
    picked = [
        own[(draws * len(own)).astype(np.int64)] if len(own) else np.full(len(draws), empty)
        for own, draws in zip(rows, uniform, strict=True)
    ]
    return torch.from_numpy(np.stack(picked))


def _starting_state(
    template: nn.Module, x: NDArray[np.float32], rows: Sequence[NDArray[np.int64]], seed: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    models = []
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        for own in rows:
            model = copy.deepcopy(template)
            for part in model.modules():
                if isinstance(part, Standardise) and len(own):
                    with np.errstate(all="ignore"):  # a part that can't be used says nothing
                        part.load_state_dict(Standardise.fit(x[own]).state_dict())
                elif callable(again := getattr(part, "reset_parameters", None)):
                    again()
            models.append(model)
    weights, buffers = stack_module_state(models)
    return {name: value.requires_grad_(True) for name, value in weights.items()}, buffers


def _check(template: nn.Module, rows: Sequence[NDArray[np.int64]]) -> None:
    for part in template.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise UnsupportedError(
                f"Not yet: {type(part).__name__} in a stack of teachers. Use GroupNorm, or give "
                "teachers that were trained one by one."
            )
        if next(part.parameters(recurse=False), None) is not None and not callable(
            getattr(part, "reset_parameters", None)
        ):
            raise UnsupportedError(
                f"Not yet: {type(part).__name__}, whose weights can't be drawn anew. Give it "
                "`reset_parameters`."
            )
    every = np.concatenate(list(rows))
    if len(rows) < 2 or len(np.unique(every)) < len(every):
        raise DataError(
            f"Expected two parts or more without a row in common, got {len(rows)} parts, "
            f"{len(every) - len(np.unique(every))} rows twice. Deal them with `Parting`."
        )
