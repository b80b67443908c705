"""Trees and forests as soft polynomial networks, with their agreement measured.

A tree is a network of three layers (Biau, Scornet & Welbl 2016, "Neural random forests"; under
encryption Huynh 2020, "Cryptotree"): every inner node compares one feature with its threshold,
every leaf is reached where all comparisons on its path say so, every class collects its leaves.
Both comparisons become tanh and then polynomials, distilled to answer as the forest does. Of each
class, the program's output is an approximate score whose largest is the forest's answer, mostly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reticent.errors import ConfigError, GateError
from reticent.inference.ckks.estimators import scaling
from reticent.inference.ckks.polynomialise import Polynomialised, polynomialise
from reticent.inference.ckks.program import Linear, Program, Values
from reticent.random import seeded

# How steep the soft comparisons start: of features in units of their spread, of paths in steps.
_NODE_SLOPE = 3.0
_LEAF_SLOPE = 1.0
_LOUDNESS = 4.0
_COPIES = 8
_LEAST_PROBABILITY = 0.02
# Agreement is gated here, against the trees themselves.
_ANY = 0.999


@dataclass(frozen=True, kw_only=True)
class SoftForest:
    """A program, and how often it agrees with the trees that it stands for.

    `agreement` is the share of `held_out` records on which both answer alike.
    """

    program: Program
    agreement: float
    held_out: int
    comparisons: int
    leaves: int
    fitted: Polynomialised = field(repr=False)


def from_trees(
    estimator: Any,
    inputs: Any,
    *,
    held_out: Any,
    tolerance: float = 0.05,
    degree: int = 2,
    epochs: int = 20,
    seed: int = 0,
) -> SoftForest:
    """A fitted tree or forest classifier, or a pipeline of scalers and one, as a soft program.

    `inputs` (n, features) need no labels; `held_out` (m, features) decide and must not be among
    them. Raises `GateError` when the program disagrees on more than `tolerance` of `held_out`,
    `ConfigError` for an estimator without trees.
    """
    scale, last = scaling(estimator)
    trees = [tree.tree_ for tree in getattr(last, "estimators_", [])] or (
        [last.tree_] if hasattr(last, "tree_") else []
    )
    if not trees or not hasattr(last, "classes_") or not hasattr(last, "predict_proba"):
        raise ConfigError(
            f"Expected a fitted tree or forest classifier, got {type(last).__name__}. "
            "Use from_estimator for other classifiers."
        )
    rows, others = (np.asarray(x, dtype=np.float64) for x in (inputs, held_out))
    own = _Affine.of(scale, rows)
    network = _network(trees, own, len(last.classes_))
    taught = _around(rows, seed)
    probabilities = np.maximum(last.predict_proba(scale(taught)), _LEAST_PROBABILITY)
    answers = np.searchsorted(last.classes_, last.predict(scale(others)))
    made = polynomialise(
        network,
        _tensor(own.run(taught)),
        held_out=_tensor(own.run(others)),
        labels=torch.from_numpy(answers),
        answers=_tensor(np.log(probabilities)),
        tolerance=_ANY,
        degree=degree,
        epochs=epochs,
        learning_rate=3e-3,
        seed=seed,
    )
    if not 1 - made.accuracy <= tolerance:
        raise GateError(
            f"Expected disagreement of at most tolerance={tolerance} with the trees, got "
            f"{1 - made.accuracy:.4f} on {made.held_out} held-out records:\n{made.table()}\n"
            "Give more inputs, a higher degree, or shallower or fewer trees."
        )
    return SoftForest(
        program=own.folded(
            made.program, bound=float(max(np.abs(rows).max(), np.abs(others).max()))
        ),
        agreement=made.accuracy,
        held_out=made.held_out,
        comparisons=_width(network[0]),
        leaves=_width(network[2]),
        fitted=made,
    )


@dataclass(frozen=True, kw_only=True)
class _Affine:
    """matrix x + shift: the pipeline's scalers, `inner`, then standard units, for training."""

    matrix: Values
    shift: Values
    spread: Values
    centre: Values

    @classmethod
    def of(cls, scale: Callable[[Values], Values], rows: Values) -> _Affine:
        """From what `scale` does to the unit vectors, and the rows' own mean and spread."""
        shift = scale(np.zeros((1, rows.shape[1])))[0]
        matrix = (scale(np.eye(rows.shape[1])) - shift).T
        scaled = rows @ matrix.T + shift
        centre, spread = scaled.mean(axis=0), scaled.std(axis=0)
        spread = np.where(spread > 1e-12, spread, 1.0)
        return cls(
            matrix=matrix / spread[:, None],
            shift=(shift - centre) / spread,
            spread=spread,
            centre=centre,
        )

    def run(self, rows: Values) -> Values:
        """Raw features to standard units."""
        return rows @ self.matrix.T + self.shift

    def folded(self, program: Program, *, bound: float) -> Program:
        """The program on raw features."""
        first = program.steps[0]
        assert isinstance(first.operation, Linear)
        weight = first.operation.weight
        operation = replace(
            first.operation,
            weight=weight @ self.matrix,
            bias=first.operation.bias + weight @ self.shift,
        )
        return Program(
            input_shape=(self.matrix.shape[1],),
            steps=(replace(first, operation=operation), *program.steps[1:]),
            bound=bound,
        )


def _around(rows: Values, seed: int) -> Values:
    """The rows, and copies of them moved: the trees label anything, so more points cost nothing.

    Each copy moves along every feature by a Gaussian of a tenth to a half of its spread.
    """
    rng = seeded(seed, 1)
    spread = rows.std(axis=0)
    size = rng.uniform(0.1, 0.5, size=(_COPIES, len(rows), 1))
    moved = rows + size * spread * rng.normal(size=(_COPIES, *rows.shape))
    return np.concatenate([rows, moved.reshape(-1, rows.shape[1])])


def _network(trees: Sequence[Any], own: _Affine, classes: int) -> nn.Sequential:
    """All trees side by side on features in standard units."""
    paths = [_paths(tree) for tree in trees]
    nodes = sum(len(inner) for inner, _ in paths)
    leaves = sum(len(found) for _, found in paths)
    compare = np.zeros((nodes, len(own.spread))), np.zeros(nodes)
    reach = np.zeros((leaves, nodes)), np.zeros(leaves)
    collect = np.zeros((classes, leaves))
    node = leaf = 0
    for tree, (inner, found) in zip(trees, paths, strict=True):
        for offset, place in enumerate(inner):
            feature = tree.feature[place]
            compare[0][node + offset, feature] = _NODE_SLOPE
            threshold = (tree.threshold[place] - own.centre[feature]) / own.spread[feature]
            compare[1][node + offset] = -_NODE_SLOPE * threshold
        position = {place: node + offset for offset, place in enumerate(inner)}
        for place, path in found:
            for above, sign in path:
                reach[0][leaf, position[above]] = _LEAF_SLOPE * sign
            reach[1][leaf] = -_LEAF_SLOPE * (len(path) - 0.5)
            share = tree.value[place, 0]
            collect[:, leaf] = _LOUDNESS * share / share.sum() / len(trees)
            leaf += 1
        node += len(inner)
    return nn.Sequential(
        _layer(*compare), nn.Tanh(), _layer(*reach), nn.Tanh(), _layer(collect, np.zeros(classes))
    )


def _paths(tree: Any) -> tuple[list[int], list[tuple[int, list[tuple[int, int]]]]]:
    """Inner nodes, and every leaf with the signs on its path: +1 where x > threshold."""
    inner: list[int] = []
    leaves: list[tuple[int, list[tuple[int, int]]]] = []
    waiting: list[tuple[int, list[tuple[int, int]]]] = [(0, [])]
    while waiting:
        place, path = waiting.pop()
        left, right = int(tree.children_left[place]), int(tree.children_right[place])
        if left == right:
            leaves.append((place, path))
            continue
        inner.append(place)
        waiting += [(left, [*path, (place, -1)]), (right, [*path, (place, 1)])]
    return inner, leaves


def _layer(weight: Values, bias: Values) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        made.weight.copy_(_tensor(weight))
        made.bias.copy_(_tensor(bias))
    return made


def _width(layer: nn.Module) -> int:
    assert isinstance(layer, nn.Linear)
    return layer.out_features


def _tensor(values: Values) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))
