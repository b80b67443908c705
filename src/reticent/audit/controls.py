"""Controls: the audit must see a leak that was planted, and none where there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.attribute.inference import QUICK, attack_attribute
from reticent.attacks.attribute.material import draw
from reticent.attacks.finding import Finding
from reticent.attacks.view import Observed, ServerView
from reticent.audit.attribute import judge
from reticent.errors import DataError
from reticent.random import seeded

_QUIET = 1e-3
_ABOVE_NOISE = 4.0
_CONFIDENCE = 0.99


class Plant(StrEnum):
    """Where a planted leak sits in real-valued features."""

    DIRECTION = "quiet direction"
    DIGITS = "low-order digits"
    PRODUCT = "product of signs"


@dataclass(frozen=True, kw_only=True)
class Control:
    """One control: what was expected of the audit, what it found, and whether that agrees.

    `leaky` controls pass when the excess is at least half of what perfect inference would give (on
    a finite alphabet: perfect inference from the codes that the attacker's records hold, since
    nobody can count what never occurred) and its 99 % interval lies above 0; the others pass when
    the 99 % interval of the excess reaches down to 0 (so a sound suite fails one of them in about
    200 by chance).
    """

    name: str
    leaky: bool
    finding: Finding
    passed: bool


def controls(
    view: ServerView,
    *,
    attribute: str,
    seed: int = 0,
    families: Sequence[str] | None = QUICK,
    plants: Sequence[Plant] = (Plant.DIRECTION,),
) -> list[Control]:
    """The suite's controls on the user's own data, for one attribute and single requests.

    Positive: the attribute is planted into this view's features (or codes) and must be found.
    Negative: a view whose features are the predicted label alone, and this very view with the
    attribute's values shuffled over all records, must show no excess.
    """
    made: list[tuple[str, bool, ServerView]] = []
    kinds = plants if view.alphabet is None and view.redraw is None else (Plant.DIRECTION,)
    made += [
        (f"planted: {kind}", True, plant(view, attribute, kind=kind, seed=seed)) for kind in kinds
    ]
    made.append(("label only", False, label_only(view)))
    made.append(("random truth", False, shuffled(view, attribute, seed=seed)))
    return [
        _control(name, leaky, altered, attribute, families, seed) for name, leaky, altered in made
    ]


def _control(
    name: str,
    leaky: bool,
    view: ServerView,
    attribute: str,
    families: Sequence[str] | None,
    seed: int,
) -> Control:
    scores = attack_attribute(view, attribute, seed=seed, families=families)
    judged = judge([scores], view.test, requests=(1,))[0]
    finding = judged.finding()
    excess, interval = judged.balanced.difference(0, 1, confidence=_CONFIDENCE)
    seen = interval[0] > 0
    found = seen and excess >= 0.5 * _met(view) * (1 - finding.floor)
    passed = found if leaky else not seen
    return Control(name=name, leaky=leaky, finding=finding, passed=passed)


def _met(view: ServerView) -> float:
    """Share of test records whose code occurs in the attacker's records; 1 for real features."""
    if view.alphabet is None:
        return 1.0
    return float(np.isin(view.test.features, view.attacker_train.features).mean())


def plant(
    view: ServerView, attribute: str, *, kind: Plant = Plant.DIRECTION, seed: int = 0
) -> ServerView:
    """A deliberately leaky twin of `view`: its features carry `attribute` as well.

    On a finite alphabet each code is split by the attribute's value. Under noise the leak is four
    noise deviations loud. Otherwise DIRECTION empties random directions and writes the bits of
    the value there, at a thousandth of a feature's deviation; DIGITS writes the value into the
    third decimal; PRODUCT makes the product of two features' signs a bit of the value, each
    feature alone staying as it was.
    """
    if view.alphabet is not None:
        codes = 1 + max(
            int(part.private[attribute].max())
            for part in (view.attacker_train, view.attacker_validation, view.test)
        )

        def split(features: NDArray[np.float32], value: NDArray[np.int64]) -> NDArray[np.float32]:
            return (features * codes + value.reshape(-1, 1)).astype(np.float32)

        altered = _altered(view, attribute, split)
        return replace(altered, alphabet=view.alphabet * codes)
    if kind is Plant.DIGITS:
        return _altered(view, attribute, _write_digits)
    if kind is Plant.PRODUCT:
        return _altered(view, attribute, _Signs(view, attribute))
    return _altered(view, attribute, _Directions(view, attribute, seed))


def label_only(view: ServerView) -> ServerView:
    """A twin of `view` whose features are the predicted label, one-hot, without noise."""

    def reduced(part: Observed) -> Observed:
        return replace(part, features=np.eye(view.classes, dtype=np.float32)[part.predicted])

    return replace(_mapped(view, reduced), encoder=None, redraw=None, alphabet=None)


def shuffled(view: ServerView, attribute: str, *, seed: int = 0) -> ServerView:
    """A twin of `view` whose values of `attribute` are permuted over each part; no users."""
    rng = seeded(seed, 83)

    def mixed(part: Observed) -> Observed:
        values = {attribute: rng.permutation(part.private[attribute])}
        return replace(part, private={**part.private, **values}, users=None)

    return _mapped(view, mixed)


def _mapped(view: ServerView, change: Callable[[Observed], Observed]) -> ServerView:
    return replace(
        view,
        attacker_train=change(view.attacker_train),
        attacker_validation=change(view.attacker_validation),
        test=change(view.test),
    )


def _altered(
    view: ServerView,
    attribute: str,
    write: Callable[[NDArray[np.float32], NDArray[np.int64]], NDArray[np.float32]],
) -> ServerView:
    def changed(part: Observed) -> Observed:
        return replace(part, features=write(part.features, part.private[attribute]))

    return replace(_mapped(view, changed), encoder=None)


def _bits(value: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """The low `count` bits of each value as -1 or 1, (n, count)."""
    return np.asarray(2.0 * ((value[:, None] >> np.arange(count)) & 1) - 1.0)


def _bits_needed(view: ServerView, attribute: str) -> int:
    return max(1, int(view.attacker_train.private[attribute].max()).bit_length())


class _Directions:
    """Writes the bits of a value along directions that it empties first."""

    def __init__(self, view: ServerView, attribute: str, seed: int) -> None:
        features = view.attacker_train.features
        flat = features.reshape(len(features), -1).astype(np.float64)
        self.count = min(_bits_needed(view, attribute), flat.shape[1])
        rng = seeded(seed, 89)
        self.turn = np.linalg.qr(rng.standard_normal((flat.shape[1], self.count)))[0]
        if view.redraw is None:
            spread = flat.std(axis=0)
            self.scale, self.amplitude = np.where(spread > 0, spread, 1.0), _QUIET
        else:
            noise = draw(view.redraw, features) - features
            self.scale = np.ones(flat.shape[1])
            self.amplitude = _ABOVE_NOISE * float(noise.std())
        self.mean = flat.mean(axis=0)

    def __call__(
        self, features: NDArray[np.float32], value: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        flat = features.reshape(len(features), -1).astype(np.float64)
        z = (flat - self.mean) / self.scale
        z += (self.amplitude * _bits(value, self.count) - z @ self.turn) @ self.turn.T
        planted = z * self.scale + self.mean
        return np.asarray(planted.reshape(features.shape), dtype=np.float32)


class _Signs:
    """Flips every second feature so that its sign times its neighbour's is a bit of the value."""

    def __init__(self, view: ServerView, attribute: str) -> None:
        features = view.attacker_train.features
        flat = features.reshape(len(features), -1)
        self.mean = flat.mean(axis=0)
        self.count = min(_bits_needed(view, attribute), flat.shape[1] // 2)
        if self.count == 0:
            raise DataError("Expected two features or more to plant a product of signs, got 1.")

    def __call__(
        self, features: NDArray[np.float32], value: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        z = features.reshape(len(features), -1) - self.mean
        first, second = z[:, 0 : 2 * self.count : 2], z[:, 1 : 2 * self.count : 2]
        wanted = _bits(value, self.count) * np.where(first >= 0, 1.0, -1.0)
        z[:, 1 : 2 * self.count : 2] = np.abs(second) * wanted
        return np.asarray((z + self.mean).reshape(features.shape), dtype=np.float32)


def _write_digits(features: NDArray[np.float32], value: NDArray[np.int64]) -> NDArray[np.float32]:
    """Third decimals of the first features become the decimal digits of the value."""
    flat = features.reshape(len(features), -1).astype(np.float64)
    places = min(max(1, len(str(int(value.max())))), flat.shape[1])
    for place in range(places):
        digit = value // 10**place % 10
        size = np.floor(np.abs(flat[:, place]) * 100) / 100 + 0.001 * digit + 0.0005
        flat[:, place] = np.where(flat[:, place] < 0, -size, size)
    return flat.reshape(features.shape).astype(np.float32)
