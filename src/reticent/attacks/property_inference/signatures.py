"""Signatures: one vector per model, from its answers or from its weights.

Weights of one function can stand in many orders: neurons of a hidden layer may be permuted
(Ganju et al. 2018, section 4). The weight signature here doesn't change under such permutations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reticent.errors import UnsupportedError

Layer = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Weights (N, out, in) and biases (N, out) of one layer of N models."""
_QUANTILES = np.linspace(0.05, 0.95, 10)
_CLIP = 15.0
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)


def answer_signature(answers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log-odds of each class in every answer (N, q, C), as (N, q C), clipped at 15 nats."""
    top = np.minimum(answers, -1e-7)
    odds = top - np.log(-np.expm1(top))
    columns = odds[:, :, 1:] if odds.shape[2] == 2 else odds
    return np.asarray(np.clip(columns, -_CLIP, _CLIP).reshape(len(answers), -1))


def quantile_signature(answers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ten quantiles over the probes of each class's log-odds, and the mean answer, (N, 11 C)."""
    top = np.minimum(answers, -1e-7)
    odds = np.clip(top - np.log(-np.expm1(top)), -_CLIP, _CLIP)
    parts = [np.quantile(odds, _QUANTILES, axis=1).transpose(1, 0, 2).reshape(len(answers), -1)]
    return np.hstack([*parts, np.exp(answers).mean(axis=1)])


def weight_signature(layers: Sequence[Layer]) -> NDArray[np.float64]:
    """Products of weights along all paths from input to output, per model, (N, d).

    Sums over hidden neurons, so their order doesn't matter: W_L ... W_1, the same with positive
    parts (where rectifiers let through) and with absolute values, and the biases' way to the
    output. Sorted biases and norms of hidden neurons join in.
    """
    parts = []
    for change in (lambda w: w, lambda w: np.maximum(w, 0.0), np.abs):
        path, shift = change(layers[0][0]), layers[0][1]
        for weight, bias in layers[1:]:
            path = np.einsum("noi,nid->nod", change(weight), path)
            shift = np.einsum("noi,ni->no", change(weight), shift) + bias
        parts += [path.reshape(len(path), -1), shift]
    for weight, bias in layers[:-1]:
        parts += [np.sort(bias, axis=1), np.sort(np.linalg.norm(weight, axis=2), axis=1)]
    return np.hstack(parts)


def read_layers(module: nn.Module) -> tuple[Layer, ...]:
    """The layers of one network of `Linear` and `Conv2d` in a row, with N = 1.

    A kernel counts by its sum over space; weights after a flattening are summed over places. The
    scale and shift of a normalisation are folded into the layer before it (a batch
    normalisation's statistics too).
    Raises `UnsupportedError` for networks in which one layer doesn't follow from the last.
    """
    layers: list[Layer] = []
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            layers.append(_read(part, layers[-1][0].shape[1] if layers else None))
        elif isinstance(part, _NORMS) and layers:
            layers[-1] = _folded(part, layers[-1])
        elif any(True for _ in part.parameters(recurse=False)):
            raise UnsupportedError(
                f"Not yet with {type(part).__name__}: weights are read from networks of Linear "
                "and Conv2d layers. Attack by answers (level L3) instead."
            )
    if not layers:
        raise UnsupportedError("Never with a model without Linear or Conv2d layers.")
    return tuple(layers)


def _read(part: nn.Linear | nn.Conv2d, before: int | None) -> Layer:
    weight = part.weight.detach().numpy().astype(np.float64)
    weight = weight.reshape(*weight.shape[:2], -1).sum(axis=2)
    if before is not None:
        if weight.shape[1] % before:
            raise UnsupportedError(
                f"Never with a layer of {weight.shape[1]} inputs after one of {before} outputs: "
                "the network isn't a chain of layers. Attack by answers (level L3)."
            )
        weight = weight.reshape(len(weight), before, -1).sum(axis=2)
    bias = np.zeros(len(weight)) if part.bias is None else part.bias.detach().numpy()
    return weight[None], bias.astype(np.float64)[None]


def _folded(norm: nn.Module, layer: Layer) -> Layer:
    weight, bias = layer

    def vector(name: str, default: float) -> NDArray[np.float64]:
        found = getattr(norm, name, None)
        if found is None:
            return np.full(bias.shape[1], default)
        values = found.detach().numpy().astype(np.float64).reshape(-1)
        if len(values) != bias.shape[1]:
            raise UnsupportedError(
                f"Never with a normalisation of {len(values)} values after a layer of "
                f"{bias.shape[1]} outputs. Attack by answers (level L3)."
            )
        return np.asarray(values)

    scale = vector("weight", 1.0) / np.sqrt(vector("running_var", 1.0) + 1e-5)
    shift = vector("bias", 0.0) - vector("running_mean", 0.0) * scale
    return weight * scale[None, :, None], bias * scale + shift
