"""Records rebuilt from the gradient that a client shared, where algebra alone does it.

A first fully connected layer gives its gradient away as a sum of outer products, one per record:
dL/dW = sum_b d_b x_b', dL/db = sum_b d_b. One record is their quotient; a batch behind a ReLU
comes apart because each d_b is zero wherever its record left a neuron silent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from reticent.attacks.spec import Access, AttackSpec
from reticent.attacks.target import InternalsTarget
from reticent.errors import DataError, UnsupportedError
from reticent.guarantee import Pillar
from reticent.random import seeded

Gradients = Mapping[str, NDArray[np.floating]]

_TRIALS = 4096
_QUIET = 1e-4
"""An entry below this share of the largest counts as zero; float32 gradients carry 1e-7."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Update:
    """What a client shared: the gradient of the mean loss over `batch` records, by parameter."""

    gradients: Gradients
    batch: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Rebuilt:
    """Records x (b, ...) float64 and labels y (b,) rebuilt from one update, in no given order.

    `mismatch` is the share of the update's squared norm that these records leave unexplained: all
    that the attacker itself can see of its success. It is 1 where the attack gave up, and `x` is
    then empty.
    """

    x: NDArray[np.float64]
    y: NDArray[np.int64]
    mismatch: float
    method: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """The fully connected layer that meets the record first: its input is scale * x + offset."""

    weight: str
    bias: str
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]


class FullyConnectedInversion:
    """Exact records from the gradient of a first fully connected layer with a bias.

    One record: Phong et al. 2017, section 3 (the quotient of weight and bias gradients). Batches
    before a ReLU: Dimitrov et al. 2024 (SPEAR), sections 3 and 4.
    """

    spec = AttackSpec(
        name="gradient inversion, fully connected",
        pillar=Pillar.TRAINING_DATA,
        goal="the records behind one client's gradient",
        access=Access.INTERNALS,
        auxiliary="none",
        reference="Phong et al. 2017; Dimitrov et al. 2024, Algorithm 1",
        queries=0,
    )

    def fit(
        self, target: InternalsTarget, auxiliary: None = None, *, seed: int = 0
    ) -> FittedFullyConnected:
        """Finds the layer. Raises `UnsupportedError` where no such layer meets the record."""
        module = target.architecture
        if not isinstance(module, nn.Module):
            raise UnsupportedError(f"Never with {type(module).__name__}: it has no gradients.")
        entry = entry_layer(module, target.shape)
        if entry is None:
            raise UnsupportedError(
                "Never with this network: its first layer is not a fully connected one with a "
                "bias. Use gradient matching."
            )
        return FittedFullyConnected(
            entry=entry, head=output_bias(module), shape=target.shape, seed=seed
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedFullyConnected:
    """The attack with its layer found; scoring asks the target nothing."""

    entry: Entry
    head: str | None
    shape: tuple[int, ...]
    seed: int

    def score(self, target: InternalsTarget, candidates: Sequence[Update]) -> tuple[Rebuilt, ...]:
        """The records behind each update."""
        return tuple(self._one(update) for update in candidates)

    def _one(self, update: Update) -> Rebuilt:
        weight = _matrix(update.gradients, self.entry.weight)
        bias = np.asarray(update.gradients[self.entry.bias], dtype=np.float64)
        if update.batch == 1:
            seen, mismatch = quotient(weight, bias)
            method = "quotient"
        else:
            seen, mismatch = separate(weight, bias, update.batch, seed=self.seed)
            method = "sparse separation"
        usable = np.where(self.entry.scale == 0, np.inf, self.entry.scale)
        rows = ((seen - self.entry.offset) / usable).reshape(len(seen), *self.shape)
        labels = np.full(len(rows), -1)
        if self.head is not None and len(rows) == update.batch == 1:
            labels = infer_labels(update.gradients[self.head], 1)
        return Rebuilt(x=rows, y=labels, mismatch=mismatch, method=method)


def quotient(
    weight: NDArray[np.floating], bias: NDArray[np.floating]
) -> tuple[NDArray[np.float64], float]:
    """The layer's input (1, d) from gradients (m, d) and (m,) of one record, and the mismatch.

    Least squares over the m rows dW_i = db_i x: sum_i db_i dW_i / sum_i db_i^2, which is exact
    without noise and the best linear estimate under noise. Empty with mismatch 1 where the whole
    bias gradient is zero (every neuron silent).
    """
    weight, bias = weight.astype(np.float64), bias.astype(np.float64)
    energy = float(bias @ bias)
    if energy == 0 or not np.isfinite(energy):
        return np.empty((0, weight.shape[1])), 1.0
    found = bias @ weight / energy
    left = weight - np.outer(bias, found)
    return found[None], float((left**2).sum() / max(float((weight**2).sum()), 1e-300))


def separate(
    weight: NDArray[np.floating],
    bias: NDArray[np.floating],
    batch: int,
    *,
    seed: int = 0,
    trials: int = 300_000,
) -> tuple[NDArray[np.float64], float]:
    """The inputs (b, d) of `batch` records from gradients (m, d) and (m,), and the mismatch.

    dW = D' X has rank b; its column space L = D' Q^-1 holds the d_b, which a ReLU makes sparse.
    A random choice of b - 1 rows on which one d_b happens to vanish spans all but one direction,
    and that direction is d_b. Choices are tried until b independent sparse ones are found or
    `trials` are spent (about 2^(b-1) are needed); their scale follows from db = sum_b d_b.
    Empty with mismatch 1 where the rank is not `batch`, or too few are found.
    """
    weight, bias = weight.astype(np.float64), bias.astype(np.float64)
    failed = np.empty((0, weight.shape[1])), 1.0
    left, values, right = np.linalg.svd(weight, full_matrices=False)
    if batch > len(values) or values[batch - 1] < 1e-6 * values[0]:
        return failed
    basis = left[:, :batch] * values[:batch]
    rows = right[:batch]
    awake = np.flatnonzero(np.linalg.norm(basis, axis=1) > 1e-7 * values[0])
    if len(awake) <= batch:
        return failed
    directions = _sparse_directions(basis[awake], batch, seeded(seed, 131), trials)
    if directions is None:
        return failed
    scales = np.linalg.lstsq(basis @ directions, bias, rcond=None)[0]
    mixed = directions * scales
    if np.linalg.cond(mixed) > 1e12:
        return failed
    unexplained = bias - basis @ mixed.sum(axis=1)
    mismatch = float((unexplained**2).sum() / max(float(bias @ bias), 1e-300))
    return np.linalg.solve(mixed, rows), mismatch


def _sparse_directions(
    basis: NDArray[np.float64], batch: int, rng: np.random.Generator, trials: int
) -> NDArray[np.float64] | None:
    """Directions (b, b) in columns, each making basis @ q zero on many rows; None if too few.

    Mixtures of right directions vanish where all their parts do, on fewer rows, so the sparsest
    independent ones are taken; as some may be found late, the search goes on until a second
    search as long as the first has changed nothing.
    """
    pool = best = np.empty((0, basis.shape[1]))
    # A wrong direction vanishes on its own b - 1 rows only; chance needs a margin above them.
    enough = batch + 1 + len(basis) // 20
    unit = basis / np.linalg.norm(basis, axis=1, keepdims=True)
    chunk = min(_TRIALS, 32 << (batch - 1))
    trials = min(trials, 512 << (batch - 1))
    spent, settled = 0, 0
    while spent < trials:
        chosen = rng.random((chunk, len(basis))).argpartition(batch - 1, axis=1)[:, : batch - 1]
        normals = np.linalg.svd(unit[chosen], full_matrices=True)[2][:, -1]
        spent += chunk
        for silent in _patterns(normals, unit, enough):
            # All its zero rows together give the direction to more digits than b - 1 of them.
            direction = np.linalg.svd(unit[silent])[2][-1]
            # Rows that were small without being zero have left the refined direction by now.
            direction = np.linalg.svd(unit[np.abs(unit @ direction) < _QUIET / 10])[2][-1]
            if not (np.abs(pool @ direction) > 1 - 1e-6).any():
                pool = np.vstack([pool, direction])
        sparsity = (np.abs(pool @ unit.T) < _QUIET).sum(axis=1)
        pool = pool[np.argsort(-sparsity, kind="stable")][: 8 * batch]
        sparsest = _independent(pool, batch)
        if not np.array_equal(sparsest, best):
            best, settled = sparsest, max(2 * spent, 64 << (batch - 1))
        if len(best) == batch and spent >= settled:
            zeros = np.sort((np.abs(best @ unit.T) < _QUIET).sum(axis=1))
            if 3 * zeros[0] > zeros[-1]:
                return best.T
    return None


def _patterns(
    directions: NDArray[np.float64], unit: NDArray[np.float64], enough: int
) -> NDArray[np.bool_]:
    """The distinct sets of rows (k, m) that some direction makes zero, `enough` rows or more."""
    silent = np.abs(directions @ unit.T) < _QUIET
    packed = np.packbits(silent[silent.sum(axis=1) >= enough], axis=1)
    distinct = np.unique(packed, axis=0)
    return np.unpackbits(distinct, axis=1, count=len(unit)).astype(bool)


def _independent(pool: NDArray[np.float64], batch: int) -> NDArray[np.float64]:
    """The first `batch` rows or fewer that are linearly independent of those before them."""
    taken = pool[:0]
    for direction in pool:
        tried = np.vstack([taken, direction])
        if len(taken) < batch and np.linalg.svd(tried, compute_uv=False)[-1] > 1e-6:
            taken = tried
    return taken


def infer_labels(
    bias: NDArray[np.floating], batch: int, *, expected: NDArray[np.floating] | None = None
) -> NDArray[np.int64]:
    """The labels (b,), ascending, from the gradient (C,) of the last layer's bias.

    Under cross-entropy it is the mean over the batch of p - onehot(y). One record: the label is
    the only negative entry (Zhao et al. 2020, iDLG). A batch: label c occurs
    b (p_c - gradient_c) times with p the mean prediction, `expected` (C,), or 1 / C where nothing
    is known; counts are rounded by largest remainder, as in Wainakh et al. 2022 (LLG), and a
    negative entry always counts once. Raises `DataError` for fewer than two outputs.
    """
    gradient = np.asarray(bias, dtype=np.float64)
    if gradient.ndim != 1 or len(gradient) < 2:
        raise DataError(f"Expected a bias gradient of two classes or more, got {gradient.shape}.")
    if batch == 1:
        return np.array([int(gradient.argmin())])
    likely = np.full(len(gradient), 1 / len(gradient)) if expected is None else expected
    share = batch * (likely - gradient)
    counts = np.maximum(np.floor(share), gradient < 0).astype(np.int64)
    while counts.sum() < batch:
        counts[(share - counts).argmax()] += 1
    while counts.sum() > batch:
        counts[np.where(counts > 0, share - counts, np.inf).argmin()] -= 1
    return np.repeat(np.arange(len(gradient)), counts)


def entry_layer(module: nn.Module, shape: tuple[int, ...]) -> Entry | None:
    """The first fully connected layer with a bias, where it meets the record itself.

    "Itself" up to an affine map of each entry, such as standardisation, which is read off three
    probes. None where the network has none.
    """
    size = int(np.prod(shape))
    probes = np.stack([np.zeros(size), np.ones(size), seeded(7, 137).random(size)])
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Linear) or layer.bias is None or layer.in_features != size:
            continue
        met = _inputs(module, layer, probes.reshape(3, *shape))
        if met is None or met.shape != (3, size):
            continue
        offset, scale = met[0], met[1] - met[0]
        if not np.allclose(scale * probes[2] + offset, met[2], rtol=1e-4, atol=1e-5):
            continue
        prefix = f"{name}." if name else ""
        return Entry(weight=f"{prefix}weight", bias=f"{prefix}bias", scale=scale, offset=offset)
    return None


def output_bias(module: nn.Module) -> str | None:
    """The name of the last layer's bias where it has one: its gradient is p - onehot(y)."""
    last = None
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            prefix = f"{name}." if name else ""
            last = f"{prefix}bias" if layer.bias is not None else None
    return last


def _inputs(
    module: nn.Module, layer: nn.Module, probes: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    seen: list[NDArray[np.float64]] = []
    hook = layer.register_forward_pre_hook(
        lambda _layer, given: seen.append(given[0].detach().double().numpy())
    )
    weight = next(module.parameters())
    try:
        with torch.no_grad():
            module(torch.from_numpy(probes).to(weight.dtype))
    finally:
        hook.remove()
    return seen[0] if seen else None


def _matrix(gradients: Gradients, name: str) -> NDArray[np.float64]:
    if name not in gradients:
        raise DataError(f"Expected a gradient of {name!r} in the update, got {list(gradients)}.")
    return np.asarray(gradients[name], dtype=np.float64)
