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
from reticent.inference.sealed.release import Sealed, sealed_from_json
from reticent.random import SecureRandom, add_gaussian

Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Code:
    """Sends the index of the nearest prototype: log2 K bits, at constant size.

    `prototypes` (K, d); `labels` (K,) the public label that each code stands for. With one code
    per label the code *is* the label, so nothing about any attribute crosses beyond the label:
    the label that this encoder gives. That it is the honest one, the client's audit has to check.
    Raises `ValueError` for shapes that don't fit, and for fewer than 2 or more than 65,536 codes.
    """

    prototypes: Array
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        _check_matrix(self.prototypes)
        if self.labels.shape != (self.alphabet,) or not 2 <= self.alphabet <= 65536:
            raise ValueError(f"labels of shape {self.labels.shape} for {self.alphabet} codes")
        if self.labels.min() < 0:
            raise ValueError(f"labels must not be negative, got {self.labels.min()}")

    @property
    def size(self) -> int:
        """d, the number of features that the encoder gives."""
        return int(self.prototypes.shape[1])

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

    `scale` is one number, shape (1,), or one per coordinate (d,). With `prototypes` (C, d) and
    `radius` every feature is first pulled to within `radius` of its nearest prototype, which
    bounds what any single input can reveal beyond that prototype's label, whatever the encoder
    does. Raises `ValueError` for parts that don't fit, such as a radius without prototypes.
    """

    scale: Array
    size: int
    shape: Literal["gaussian", "laplace"] = "gaussian"
    prototypes: Array | None = None
    radius: float | None = None
    offset: Array | None = None

    def __post_init__(self) -> None:
        if self.shape not in ("gaussian", "laplace"):
            raise ValueError(f"noise must be gaussian or laplace, got shape={self.shape!r}")
        if self.scale.shape not in ((1,), (self.size,)):
            raise ValueError(f"scale of shape {self.scale.shape} for {self.size} features")
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise ValueError("noise scale must be positive and finite")
        if self.prototypes is not None:
            _check_matrix(self.prototypes)
            if self.prototypes.shape[1] != self.size or len(self.prototypes) == 0:
                raise ValueError(f"prototypes {self.prototypes.shape} for {self.size} features")
        if self.radius is not None and not (
            self.prototypes is not None and 0 <= self.radius < math.inf
        ):
            raise ValueError(f"a radius needs prototypes and must be >= 0, got {self.radius}")
        if self.offset is not None and not (
            self.offset.shape == (self.size,) and np.isfinite(self.offset).all()
        ):
            raise ValueError(f"offset must be finite, one per feature, got {self.offset.shape}")

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
        """Features (n, d) pulled to within `radius` of their nearest prototype.

        Where float32 is too coarse to stay within the radius, the prototype itself is sent.
        """
        if self.prototypes is None or self.radius is None:
            return features
        centers = self.prototypes[nearest(features, self.prototypes)]
        away = features.astype(np.float64) - centers
        length = np.linalg.norm(away, axis=1, keepdims=True)
        shrink = np.minimum(1.0, self.radius * (1 - 1e-3) / np.maximum(length, 1e-300))
        kept = np.asarray(centers + away * shrink, dtype=np.float32)
        left = np.linalg.norm(kept.astype(np.float64) - centers, axis=1, keepdims=True)
        return np.where(left <= self.radius, kept, centers)

    def apply(self, features: Array, source: SecureRandom) -> Tensors:
        """The request for features (n, d); noise comes from the secure source, afresh each time."""
        kept = self.contract(features).astype(np.float64)
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

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"expected size >= 1, got size={self.size}")

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


Clear = Code | Noisy | Bare
Release = Clear | Sealed


def release_from_json(record: Mapping[str, Any]) -> Release:
    """The release that `to_json` wrote. Raises `BundleError` for anything else."""
    try:
        kind = record["kind"]
        if kind == "sealed":
            return sealed_from_json(record)
        if kind == "code":
            return Code(
                prototypes=np.asarray(record["prototypes"], dtype=np.float32),
                labels=_integers(record["labels"]),
            )
        if kind == "noisy":
            radius = record["radius"]
            return Noisy(
                scale=np.asarray(record["scale"], dtype=np.float32),
                size=int(record["size"]),
                shape=record["shape"],
                prototypes=_floats(record["prototypes"]),
                radius=None if radius is None else float(radius),
                offset=_floats(record["offset"]),
            )
        if kind == "bare":
            return Bare(size=int(record["size"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BundleError(
            f"The client specification's 'release' is malformed: {error!r}"
        ) from error
    raise BundleError(f"Expected a release of kind code, noisy, bare or sealed, got kind={kind!r}.")


def nearest(features: Array, prototypes: Array) -> NDArray[np.int64]:
    """Index of the nearest row of `prototypes` (K, d) for each row of `features` (n, d).

    Distances are taken in float64, from the mean prototype so that a common offset costs no
    digits, and ties go to the lowest index: machines that compute the same features give the same
    code, but for features within float64 rounding of a border.
    """
    middle = prototypes.astype(np.float64).mean(axis=0)
    wide, rows = features - middle, prototypes - middle
    scores = wide @ rows.T - 0.5 * (rows**2).sum(axis=1)
    return np.asarray(scores.argmax(axis=1), dtype=np.int64)


def _check_matrix(matrix: Array) -> None:
    if matrix.ndim != 2 or not np.isfinite(matrix).all():
        raise ValueError(f"prototypes must be a finite matrix, got shape={matrix.shape}")


def _floats(values: Any) -> Array | None:
    return None if values is None else np.asarray(values, dtype=np.float32)


def _integers(values: Any) -> NDArray[np.int64]:
    made = np.asarray(values)
    if made.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers, got dtype={made.dtype}")
    return made.astype(np.int64)
