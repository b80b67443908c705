"""Reference networks, each a plain `nn.Sequential` whose children are the places to cut."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reticent.errors import ConfigError
from reticent.models.one_class import one_class_network


class Standardise(nn.Module):
    """Per-channel (x - mean) / std with constants that training data fixed beforehand."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (batch, channels, ...) to the same."""
        return (x - self.mean) / self.std

    @classmethod
    def fit(cls, x: NDArray[np.float32]) -> Standardise:
        """Constants from records of shape (n, channels, ...); constant channels keep scale 1."""
        axes = (0, *range(2, x.ndim))
        shape = (1, x.shape[1]) + (1,) * (x.ndim - 2)
        mean = x.mean(axis=axes, dtype=np.float64).reshape(shape)
        std = x.std(axis=axes, dtype=np.float64).reshape(shape)
        std[std < 1e-6] = 1.0
        return cls(torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32))


class Rescale(nn.Module):
    """Scale and offset that turn a unit-scale output into the answer's own unit (regression)."""

    scale: Tensor
    offset: Tensor

    def __init__(self, scale: float = 1.0, offset: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("offset", torch.tensor(offset))

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (batch, 1) to the same."""
        return x * self.scale + self.offset


def mlp(
    *, shape: tuple[int, ...], outputs: int, standardise: Standardise, widths: Any = (256, 128, 64)
) -> nn.Sequential:
    """A multilayer perceptron for records of shape (features,) or anything that flattens."""
    size = int(np.prod(shape))
    layers: dict[str, nn.Module] = {"input": nn.Sequential(standardise, nn.Flatten())}
    for index, width in enumerate(widths):
        layers[f"block{index + 1}"] = nn.Sequential(nn.Linear(size, int(width)), nn.ReLU())
        size = int(width)
    layers["output"] = _output(size, outputs)
    return _sequential(layers)


def convnet1d(
    *,
    shape: tuple[int, ...],
    outputs: int,
    standardise: Standardise,
    widths: Any = (32, 64, 128),
    hidden: Any = (128, 32),
    kernel: int = 5,
    norm: str = "batch",
) -> nn.Sequential:
    """A convolutional network for series of shape (channels, length); `norm` batch or group."""
    if len(shape) != 2:
        raise ConfigError(f"convnet1d expects records of shape (channels, length), got {shape}.")
    layers = (nn.Conv1d, nn.MaxPool1d, _normalisation(norm, nn.BatchNorm1d))
    return _convnet(shape, outputs, standardise, widths, hidden, kernel, *layers)


def convnet2d(
    *,
    shape: tuple[int, ...],
    outputs: int,
    standardise: Standardise,
    widths: Any = (16, 32, 64),
    hidden: Any = (128, 32),
    kernel: int = 3,
    norm: str = "batch",
) -> nn.Sequential:
    """A convolutional network for images of shape (channels, h, w); `norm` batch or group."""
    if len(shape) != 3:
        raise ConfigError(f"convnet2d expects records of shape (channels, h, w), got {shape}.")
    layers = (nn.Conv2d, nn.MaxPool2d, _normalisation(norm, nn.BatchNorm2d))
    return _convnet(shape, outputs, standardise, widths, hidden, kernel, *layers)


def _normalisation(norm: str, batch: Callable[[int], nn.Module]) -> Callable[[int], nn.Module]:
    """Batch normalisation mixes the records of a batch, which private training can't allow."""
    if norm not in ("batch", "group"):
        raise ConfigError(f'Expected norm "batch" or "group", got norm={norm!r}.')
    return batch if norm == "batch" else lambda width: nn.GroupNorm(math.gcd(width, 32), width)


def _convnet(
    shape: tuple[int, ...],
    outputs: int,
    standardise: Standardise,
    widths: Any,
    hidden: Any,
    kernel: int,
    conv: Callable[..., nn.Module],
    pool: Callable[[int], nn.Module],
    norm: Callable[[int], nn.Module],
) -> nn.Sequential:
    if kernel % 2 == 0:
        raise ConfigError(f"Expected an odd kernel, which keeps the length, got kernel={kernel}.")
    layers: dict[str, nn.Module] = {"input": standardise}
    channels, sizes = shape[0], list(shape[1:])
    for index, width in enumerate(widths):
        layers[f"conv{index + 1}"] = nn.Sequential(
            conv(channels, int(width), kernel, padding=kernel // 2, bias=False),
            norm(int(width)),
            nn.ReLU(),
            pool(2),
        )
        channels, sizes = int(width), [size // 2 for size in sizes]
    if min(sizes) < 1:
        raise ConfigError(
            f"Records of shape {shape} are too small for {len(widths)} pooling blocks. "
            "Give fewer widths under [model.options]."
        )
    size = channels * int(np.prod(sizes))
    for index, width in enumerate(hidden):
        block: list[nn.Module] = [nn.Flatten()] if index == 0 else []
        layers[f"dense{index + 1}"] = nn.Sequential(*block, nn.Linear(size, int(width)), nn.ReLU())
        size = int(width)
    layers["output"] = _output(size, outputs)
    return _sequential(layers)


def one_class(
    *,
    shape: tuple[int, ...],
    outputs: int,
    standardise: Standardise,
    widths: Any = (64, 32),
    size: int = 16,
) -> nn.Sequential:
    """An anomaly detector that learns from normal records alone, for records of any shape."""
    if outputs != 2:
        raise ConfigError(
            f"one_class answers normal or anomaly, but the task has {outputs} outputs. "
            "Use it for a public label of two classes, 0 normal and 1 anomaly."
        )
    return one_class_network(shape, standardise=standardise, widths=widths, size=size)


NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "convnet1d": convnet1d,
    "convnet2d": convnet2d,
    "one_class": one_class,
}


def default_network(shape: tuple[int, ...]) -> str:
    """The reference network that fits records of this shape."""
    return {2: "convnet1d", 3: "convnet2d"}.get(len(shape), "mlp")


def build(
    name: str,
    *,
    shape: tuple[int, ...],
    outputs: int,
    x: NDArray[np.float32] | None = None,
    y: NDArray[Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A fresh network by reference name, or by "package.module:factory".

    A factory is called with `shape`, `outputs` and the options, and returns an `nn.Module` that
    maps (batch, *shape) to (batch, outputs). `x` fixes the standardisation of reference networks
    and `y` the unit of a single regression output; without them the constants are placeholders
    for a checkpoint to fill.
    """
    options = dict(options or {})
    if ":" in name:
        return _factory(name)(shape=shape, outputs=outputs, **options)
    if name not in NETWORKS:
        raise ConfigError(
            f"Expected model name among {sorted(NETWORKS)} or 'package.module:factory', "
            f"got name={name!r}."
        )
    if x is None:
        x = np.zeros((1, *shape), dtype=np.float32)
    try:
        network = NETWORKS[name](
            shape=shape, outputs=outputs, standardise=Standardise.fit(x), **options
        )
    except TypeError as error:
        raise ConfigError(f"Model {name!r} refused its options {options}: {error}.") from error
    if y is not None and outputs == 1:
        spread = float(np.std(y))
        network.get_submodule("output.1").load_state_dict(
            Rescale(spread if spread > 0 else 1.0, float(np.mean(y))).state_dict()
        )
    return network


def _factory(name: str) -> Callable[..., nn.Module]:
    module, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"Expected an importable factory, got name={name!r}: {error}.") from error
    if not callable(factory):
        raise ConfigError(f"Expected a callable factory, got name={name!r}.")
    made: Callable[..., nn.Module] = factory
    return made


def _output(size: int, outputs: int) -> nn.Module:
    linear = nn.Linear(size, outputs)
    return nn.Sequential(linear, Rescale()) if outputs == 1 else linear


def _sequential(layers: Mapping[str, nn.Module]) -> nn.Sequential:
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    return network
