"""What leaves the client: a code, features with noise, or bare features.

Everything that a guarantee rests on happens here, in the client's own numpy, after the provider's
encoder graph has run: the client need not believe the graph to keep the alphabet, the radius or
the noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reticent.errors import BundleError
from reticent.inference.channel import Tensors, TensorSpec
from reticent.random import SecureRandom, add_gaussian

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Code:
    """Sends the index of the nearest prototype: log2 K bits, at constant size.

    `prototypes` (K, d); `labels` (K,) the public label that each code stands for. With one code
    per label the code *is* the label, so nothing about any attribute crosses beyond the label.
    """

    prototypes: Array
    labels: NDArray[np.int64]

    @property
    def alphabet(self) -> int:
        """K, the number of codes."""
        return len(self.prototypes)

    @property
    def codes_per_label(self) -> int:
        """The largest number of codes that stand for one label."""
        return int(np.bincount(self.labels).max())

    @property
    def spec(self) -> TensorSpec:
        """The one request array: unsigned codes, shape (batch, 1)."""
        dtype = "uint8" if self.alphabet <= 256 else "uint16"
        return TensorSpec(name="code", dtype=dtype, shape=(None, 1))

    @property
    def bits(self) -> float:
        """Bits that one request carries at most."""
        return math.log2(self.alphabet)

    @property
    def nats_beyond_label(self) -> float:
        """Bound on what one request tells beyond the label: log of the codes per label."""
        return math.log(self.codes_per_label)

    def nearest(self, features: Array) -> NDArray[np.int64]:
        """Index of the nearest prototype (squared Euclidean) for features (n, d)."""
        return nearest(features, self.prototypes)

    def apply(self, features: Array, source: SecureRandom) -> Tensors:
        """The request for features (n, d)."""
        codes = self.nearest(features)
        return {"code": codes.astype(self.spec.dtype).reshape(-1, 1)}

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `release_from_json` restores."""
        return {
            "kind": "code",
            "prototypes": self.prototypes.tolist(),
            "labels": self.labels.tolist(),
        }


@dataclass(frozen=True, kw_only=True)
class Noisy:
    """Sends features plus fresh noise of a fixed absolute scale.

    `scale` is one number or one per coordinate (d,). With `prototypes` (C, d) and `radius` every
    feature is first pulled to within `radius` of its nearest prototype, which bounds what any
    single input can reveal beyond that prototype's label, whatever the encoder does.
    """

    scale: Array
    size: int
    shape: Literal["gaussian", "laplace"] = "gaussian"
    prototypes: Array | None = None
    radius: float | None = None
    offset: Array | None = None

    @property
    def spec(self) -> TensorSpec:
        """The one request array: float32 features, shape (batch, d)."""
        return TensorSpec(name="features", dtype="float32", shape=(None, self.size))

    @property
    def sigma(self) -> float:
        """The smallest noise scale of any coordinate."""
        return float(self.scale.min())

    @property
    def nats_beyond_label(self) -> float:
        """Worst-case bound per request, radius**2 / 2 sigma**2; infinite without a radius."""
        if self.radius is None or self.shape != "gaussian":
            return math.inf
        return self.radius**2 / (2 * self.sigma**2)

    @property
    def bits(self) -> float:
        """Bits that one request carries at most: unbounded for real-valued features."""
        return math.inf

    def contract(self, features: Array) -> Array:
        """Features (n, d) pulled to within `radius` of their nearest prototype."""
        if self.prototypes is None or self.radius is None:
            return features
        centers = self.prototypes[nearest(features, self.prototypes)]
        away = features.astype(np.float64) - centers
        length = np.linalg.norm(away, axis=1, keepdims=True)
        # The margin covers the rounding of centers and features to float32.
        shrink = np.minimum(1.0, self.radius * (1 - 1e-3) / np.maximum(length, 1e-12))
        return np.asarray(centers + away * shrink, dtype=np.float32)

    def apply(self, features: Array, source: SecureRandom) -> Tensors:
        """The request for features (n, d); noise comes from the secure source, afresh each time."""
        kept = self.contract(features)
        if self.offset is not None:
            kept = kept + self.offset
        if self.shape == "gaussian":
            noisy = add_gaussian(kept / self.scale, sigma=1.0, source=source)
            return {"features": np.asarray(noisy * self.scale, dtype=np.float32)}
        uniform = source.uniform(kept.shape) - 0.5
        noise = -np.sign(uniform) * np.log1p(-2 * np.abs(uniform))
        return {"features": np.asarray(kept + self.scale * noise, dtype=np.float32)}

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `release_from_json` restores."""
        return {
            "kind": "noisy",
            "scale": self.scale.tolist(),
            "size": self.size,
            "shape": self.shape,
            "prototypes": None if self.prototypes is None else self.prototypes.tolist(),
            "radius": self.radius,
            "offset": None if self.offset is None else self.offset.tolist(),
        }


@dataclass(frozen=True, kw_only=True)
class Bare:
    """Sends the features as they are: no claim."""

    size: int

    @property
    def spec(self) -> TensorSpec:
        """The one request array: float32 features, shape (batch, d)."""
        return TensorSpec(name="features", dtype="float32", shape=(None, self.size))

    @property
    def bits(self) -> float:
        """Bits that one request carries at most: unbounded for real-valued features."""
        return math.inf

    @property
    def nats_beyond_label(self) -> float:
        """No bound."""
        return math.inf

    def apply(self, features: Array, source: SecureRandom) -> Tensors:
        """The request for features (n, d)."""
        return {"features": features}

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `release_from_json` restores."""
        return {"kind": "bare", "size": self.size}


Release = Code | Noisy | Bare


def release_from_json(record: Mapping[str, Any]) -> Release:
    """The release that `to_json` wrote. Raises `BundleError` for anything else."""
    try:
        kind = record["kind"]
        if kind == "code":
            made = Code(
                prototypes=_matrix(record["prototypes"]),
                labels=np.asarray(record["labels"], dtype=np.int64),
            )
            if made.labels.shape != (made.alphabet,) or not 1 < made.alphabet <= 65536:
                raise ValueError(f"labels of shape {made.labels.shape} for {made.alphabet} codes")
            return made
        if kind == "noisy":
            scale = np.asarray(record["scale"], dtype=np.float32)
            if not (np.isfinite(scale).all() and (scale > 0).all()):
                raise ValueError("noise scale must be positive and finite")
            return Noisy(
                scale=scale,
                size=int(record["size"]),
                shape=record["shape"],
                prototypes=None if record["prototypes"] is None else _matrix(record["prototypes"]),
                radius=record["radius"],
                offset=None
                if record["offset"] is None
                else np.asarray(record["offset"], dtype=np.float32),
            )
        if kind == "bare":
            return Bare(size=int(record["size"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"The client specification's 'release' is malformed: {error}") from error
    raise BundleError(f"Expected a release of kind code, noisy or bare, got kind={kind!r}.")


def nearest(features: Array, prototypes: Array) -> NDArray[np.int64]:
    """Index of the nearest row of `prototypes` (K, d) for each row of `features` (n, d).

    Distances are taken in float64 and ties go to the lowest index, so that the code is the same
    on every machine that computes the same features.
    """
    wide, rows = features.astype(np.float64), prototypes.astype(np.float64)
    scores = wide @ rows.T - 0.5 * (rows**2).sum(axis=1)
    return np.asarray(scores.argmax(axis=1), dtype=np.int64)


def _matrix(values: Any) -> Array:
    matrix = np.asarray(values, dtype=np.float32)
    if matrix.ndim != 2 or not np.isfinite(matrix).all():
        raise ValueError(f"prototypes must be a finite matrix, got shape={matrix.shape}")
    return matrix
