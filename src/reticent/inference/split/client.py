"""The client half: runs the encoder it was given, and believes nothing about it.

Needs numpy and onnxruntime only. The alphabet, the radius and the noise are enforced here, after
the graph; `audit` checks the rest of what the provider promised on the client's own inputs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.data.task import Kind
from reticent.errors import AuditFailedError, BundleError, InputError
from reticent.guarantee import Guarantee
from reticent.inference.channel import Tensors, TensorSpec, decode_scores
from reticent.inference.graph import Graph
from reticent.inference.sealed.release import Sealed
from reticent.inference.split.odometer import Odometer
from reticent.inference.split.release import (
    Clear,
    Code,
    Noisy,
    Release,
    nearest,
    release_from_json,
)
from reticent.random import SecureRandom

SPEC_FILE, GRAPH_FILE = "spec.json", "encoder.onnx"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What the client is told about the service: shapes, release, answers, guarantees.

    `version` names the pair of halves: a client asks for its own pair, and a server that holds
    another has no such version.
    """

    model: str
    version: str
    kind: Kind
    shape: tuple[int, ...]
    release: Release
    answer: TensorSpec
    class_names: tuple[str, ...]
    guarantees: tuple[Guarantee, ...]
    synthetic: bool = False

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` restores."""
        return {
            "schema": 1,
            "model": self.model,
            "version": self.version,
            "kind": self.kind.value,
            "shape": list(self.shape),
            "release": self.release.to_json(),
            "answer": self.answer.to_json(),
            "class_names": list(self.class_names),
            "guarantees": [guarantee.to_json() for guarantee in self.guarantees],
            "synthetic": self.synthetic,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Spec:
        """The specification that `to_json` wrote. Raises `BundleError` for anything else."""
        try:
            if record["schema"] != 1:
                raise BundleError(
                    f"Expected client specification schema 1, got schema={record['schema']!r}. "
                    "Upgrade reticent, or ask the provider for an older bundle."
                )
            spec = cls(
                model=str(record["model"]),
                version=str(record["version"]),
                kind=Kind(record["kind"]),
                shape=tuple(int(size) for size in record["shape"]),
                release=release_from_json(record["release"]),
                answer=TensorSpec.from_json(record["answer"]),
                class_names=tuple(record["class_names"]),
                guarantees=tuple(Guarantee.from_json(entry) for entry in record["guarantees"]),
                synthetic=bool(record["synthetic"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(f"The client specification is malformed: {error!r}") from error
        spec._check_labels()
        return spec

    def _check_labels(self) -> None:
        """More labels than answers would let a provider call any code alphabet "the label"."""
        outputs = self.answer.shape[-1] or 0
        if isinstance(self.release, Code) and self.kind is not Kind.REGRESSION:
            largest = int(self.release.labels.max())
            if largest >= outputs:
                raise BundleError(f"A code stands for label={largest}, but answers have {outputs}.")


@dataclass(frozen=True, kw_only=True)
class ClientAudit:
    """What the client measured on its own inputs.

    `bits` and `nats_beyond_label` bound one request; `largest_radius` is how far any of these
    features lies from its prototype after enforcement, in noise standard deviations; `agreement`
    is the label accuracy where the client gave labels.
    """

    n: int
    bits: float
    nats_beyond_label: float
    constant_size: bool
    deterministic: bool
    batch_invariant: bool
    largest_radius: float | None
    agreement: float | None

    def to_json(self) -> dict[str, Any]:
        """A JSON object; infinite bounds are null."""
        return {
            key: (None if isinstance(value, float) and not math.isfinite(value) else value)
            for key, value in asdict(self).items()
        }


class SplitClient:
    """Encodes inputs and decodes replies; charges an odometer before anything leaves."""

    def __init__(
        self, spec: Spec, graph: Graph, *, odometer: Odometer | None = None, user: str = "default"
    ) -> None:
        if graph.shape != spec.shape:
            raise BundleError(
                f"The encoder takes shape={graph.shape}, its specification says {spec.shape}."
            )
        if isinstance(spec.release, Sealed):
            raise BundleError("Expected the client files of a split, got a sealed split's.")
        self.spec = spec
        self.graph = graph
        self._release: Clear = spec.release
        self._odometer = odometer
        self._user = user
        self._source = SecureRandom()

    @classmethod
    def load(
        cls, folder: Path, *, odometer: Odometer | None = None, user: str = "default"
    ) -> SplitClient:
        """The client half in `folder`. Raises `BundleError` when a file is missing or malformed."""
        spec = read_spec(folder)
        return cls(spec, Graph(folder / GRAPH_FILE), odometer=odometer, user=user)

    def features(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Clean features (n, d), which never leave the client like this."""
        return encoded(self.graph, x, self.spec.release.size)

    def encode(self, x: NDArray[np.float32]) -> Tensors:
        """The request for inputs (batch, *shape); the odometer is charged first."""
        features = self.features(x)
        release = self._release
        if self._odometer is not None:
            self._odometer.charge(
                self._user,
                requests=len(features),
                bits=release.bits,
                nats=release.nats_beyond_label,
            )
        request = release.apply(features, self._source)
        for value in request.values():
            if not release.spec.matches(value):
                raise AuditFailedError(
                    f"The request would not match {release.spec}. Nothing was sent."
                )
        return request

    def decode(self, reply: Tensors) -> NDArray[Any]:
        """Answers from scores (batch, outputs): class indices, or values for regression."""
        return decode_scores(reply, self.spec.answer, self.spec.kind)

    def audit(
        self,
        x: NDArray[np.float32],
        labels: NDArray[np.int64] | None = None,
        *,
        min_agreement: float | None = None,
    ) -> ClientAudit:
        """Check the encoder's promises on two or more of the client's own inputs, sending nothing.

        Raises `AuditFailedError` when a promise is broken: the same input gives two encodings, an
        encoding depends on its batch (of codes, more than 2 %: float rounding may move one at a
        border), a feature lies outside the radius, or the label accuracy is below
        `min_agreement` (a lying encoder can hide data in a wrong label). An encoder that behaves
        on these inputs and lies on others passes: only the alphabet and the radius are enforced
        on every request. Raises `InputError` where `min_agreement` can't be measured.
        """
        if len(x) < 2:
            raise InputError(f"Expected two inputs or more to audit with, got n={len(x)}.")
        if labels is not None and len(labels) != len(x):
            raise InputError(f"Expected {len(x)} labels, got {len(labels)}.")
        if min_agreement is not None and (labels is None or self.spec.kind is Kind.REGRESSION):
            raise InputError("min_agreement needs class labels to compare with: give `labels`.")
        features, again = self.features(x), self.features(x)
        single = np.concatenate([self.features(x[i : i + 1]) for i in range(min(len(x), 64))])
        release = self._release
        largest: float | None = None
        if isinstance(release, Code):
            codes = release.nearest(features)
            deterministic = bool((codes == release.nearest(again)).all())
            batch_invariant = bool((codes[: len(single)] == release.nearest(single)).mean() > 0.98)
        else:
            deterministic = bool(np.array_equal(features, again))
            batch_invariant = bool(np.allclose(features[: len(single)], single, atol=1e-3))
        if isinstance(release, Noisy) and release.prototypes is not None:
            kept = release.contract(features)
            away = kept - release.prototypes[nearest(kept, release.prototypes)]
            largest = float(np.linalg.norm(away, axis=1).max() / release.sigma)
            if release.radius is not None and largest > release.radius / release.sigma:
                raise AuditFailedError(
                    f"A feature lies {largest:g} sigma from its prototype, beyond the radius."
                )
        sizes = {sum(v.nbytes for v in release.apply(row[None], self._source).values())
                 for row in features[:16]}  # fmt: skip
        agreement = None
        if labels is not None and self.spec.kind is not Kind.REGRESSION:
            agreement = float((self._own_label(features) == labels).mean())
        found = ClientAudit(
            n=len(x),
            bits=release.bits,
            nats_beyond_label=release.nats_beyond_label,
            constant_size=len(sizes) == 1,
            deterministic=deterministic,
            batch_invariant=batch_invariant,
            largest_radius=largest,
            agreement=agreement,
        )
        self._judge(found, min_agreement)
        return found

    def _own_label(self, features: NDArray[np.float32]) -> NDArray[np.int64]:
        release = self._release
        if isinstance(release, Code):
            return release.labels[release.nearest(features)]
        if isinstance(release, Noisy) and release.prototypes is not None:
            return nearest(features, release.prototypes)
        raise InputError("This channel has no client-side label to compare: ask the server.")

    def _judge(self, found: ClientAudit, min_agreement: float | None) -> None:
        broken = [
            name
            for name in ("constant_size", "deterministic", "batch_invariant")
            if not getattr(found, name)
        ]
        if broken:
            raise AuditFailedError(
                f"The encoder breaks its promise: not {', '.join(broken)}. Don't use it."
            )
        if (
            min_agreement is not None
            and found.agreement is not None
            and found.agreement < min_agreement
        ):
            raise AuditFailedError(
                f"Label agreement={found.agreement:.3f} is below min_agreement={min_agreement}: "
                "the encoder may hide other information in wrong labels. Don't use it."
            )


def read_spec(folder: Path) -> Spec:
    """The specification in `folder`. Raises `BundleError` where there is no readable one."""
    try:
        record = json.loads((folder / SPEC_FILE).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"No readable {SPEC_FILE} in {folder.name!r}: {error}") from error
    return Spec.from_json(record)


def encoded(graph: Graph, x: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """What the provider's encoder makes of x: (n, `size`) finite features.

    Raises `InputError` for inputs that aren't finite, `AuditFailedError` for features that aren't.
    """
    checked = np.asarray(x, dtype=np.float32)
    if not np.isfinite(checked).all():
        raise InputError("The input holds NaN or infinity. Drop or impute such values.")
    made = graph(checked)
    if made.shape != (len(checked), size) or not np.isfinite(made).all():
        raise AuditFailedError(
            f"The encoder returned shape={made.shape} or non-finite values for {len(checked)} "
            f"inputs, expected {size} features each. Nothing was sent."
        )
    return made
