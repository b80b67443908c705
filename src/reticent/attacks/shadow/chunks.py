"""The answers of a bank's models, chunk by chunk: memory is one chunk's, however many there are."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reticent.attacks.shadow.cluster import spread
from reticent.attacks.shadow.estimators import (
    estimator_log_probabilities,
    fit_estimator,
    is_estimator,
)
from reticent.attacks.shadow.files import read_arrays, write_arrays
from reticent.attacks.shadow.identity import Identity
from reticent.attacks.shadow.masks import held_out_rows, rows_of
from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.shadow.training import chunk_size, fresh, log_probabilities, train_stack
from reticent.errors import ConfigError, DataError

_ESTIMATORS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """Everything that training a bank's models takes: x (n+z, ...), y (n+z,), member (N, n)."""

    architecture: Any
    recipe: TrainingRecipe
    x: NDArray[np.float32]
    y: NDArray[np.int64]
    member: NDArray[np.bool_]
    seed: int

    @property
    def chunk(self) -> int:
        """How many models are trained at once."""
        if is_estimator(self.architecture):
            return _ESTIMATORS
        few = torch.from_numpy(self.x[:2])
        return chunk_size(self.architecture, self.recipe, few, seed=self.seed)


def answers(
    job: Job,
    *,
    processes: int,
    cluster: bool,
    progress: Callable[[float], None] | None,
    folder: Path | None,
    identity: Identity,
) -> NDArray[np.float32]:
    """Log-probabilities (N, n+z, C) of all models to all rows.

    Chunks in `folder` that an earlier run of the same `identity` finished are read, not trained.
    """
    if processes < 1:
        raise ConfigError(f"Expected processes >= 1, got processes={processes}.")
    _check_labels(job)
    if folder is not None:
        _claim(folder, identity)
    size = job.chunk
    starts = list(range(0, len(job.member), size))
    found: dict[int, NDArray[np.float32]] = {}
    for start in starts:
        path = _path(folder, start, size)
        if path is not None and path.is_file():
            found[start] = read_arrays(path)[0]["log_probabilities"]
    left = [start for start in starts if start not in found]
    made_now = _on_cluster(job, left, size) if cluster else _made(job, left, size, processes)
    for start, made in made_now:
        found[start] = made
        path = _path(folder, start, size)
        if path is not None:
            write_arrays(path, {"log_probabilities": made}, {})
        if progress is not None:
            progress(len(found) / len(starts))
    return np.concatenate([found[start] for start in starts])


def chunk_answers(job: Job, start: int, size: int) -> NDArray[np.float32]:
    """Log-probabilities (chunk, n+z, C) of models `start` to `start` + `size`."""
    member = job.member[start : start + size]
    rows = rows_of(member)
    if is_estimator(job.architecture):
        classes = int(job.y.max()) + 1
        every = []
        for number, own in enumerate(rows, start):
            fitted = fit_estimator(
                job.architecture, job.x[own], job.y[own], seed=job.seed, number=number
            )
            every.append(estimator_log_probabilities(fitted, job.x, classes=classes))
        return np.stack(every)
    held_out = held_out_rows(job.member, size=job.recipe.held_out, seed=job.seed)
    x, y = torch.from_numpy(np.ascontiguousarray(job.x)), torch.from_numpy(job.y)
    made = train_stack(
        job.architecture,
        job.recipe,
        x,
        y,
        rows=rows,
        held_out=held_out[start : start + size],
        seed=job.seed,
        first=start,
    )
    return log_probabilities(made, x)


def _made(
    job: Job, starts: list[int], size: int, processes: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    if processes == 1 or len(starts) < 2:
        for start in starts:
            yield start, chunk_answers(job, start, size)
        return
    # Spawned, not forked: a fork of a process whose threads hold locks can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(processes, len(starts)), mp_context=context, initializer=_start, initargs=(job, size)
    ) as pool:
        yield from zip(starts, pool.map(_work, starts), strict=True)


def _on_cluster(
    job: Job, starts: list[int], size: int
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    return spread(_work_of, (job, size), starts)


def _work_of(given: tuple[Job, int], start: int) -> NDArray[np.float32]:
    torch.set_num_threads(1)
    job, size = given
    return chunk_answers(job, start, size)


_given: list[tuple[Job, int]] = []


def _start(job: Job, size: int) -> None:
    torch.set_num_threads(1)
    _given.append((job, size))


def _work(start: int) -> NDArray[np.float32]:
    job, size = _given[0]
    return chunk_answers(job, start, size)


def _path(folder: Path | None, start: int, size: int) -> Path | None:
    return None if folder is None else folder / f"models-{start:06d}-{size}.safetensors"


def _claim(folder: Path, identity: Identity) -> None:
    """Mark an empty folder as this bank's; refuse another bank's."""
    path = folder / "bank.safetensors"
    if not path.is_file():
        write_arrays(path, {"empty": np.zeros(0, np.float32)}, identity)
        return
    known = read_arrays(path)[1]
    differing = sorted(n for n in {*known, *identity} if known.get(n) != identity.get(n))
    if differing:
        raise ConfigError(
            f"Expected the folder {folder.name!r} to hold chunks of this bank, got one of which "
            f"{', '.join(differing)} differ. Give another folder."
        )


def _check_labels(job: Job) -> None:
    if is_estimator(job.architecture):
        return
    model = fresh(job.architecture, seed=job.seed, number=0)
    with torch.no_grad():
        out = model.eval()(torch.from_numpy(job.x[:2]))
    if not isinstance(out, torch.Tensor) or out.ndim != 2 or not isinstance(model, nn.Module):
        raise DataError("Expected a network from (n, ...) to logits (n, C), got other outputs.")
    classes = max(2, out.shape[1])
    if int(job.y.max()) >= classes:
        raise DataError(
            f"Expected labels below the network's {classes} classes, got {int(job.y.max())}."
        )
