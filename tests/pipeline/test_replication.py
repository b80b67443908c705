"""A contradiction of ciphertexts counts once it is seen on fresh ones too."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from reticent.attacks.finding import Finding
from reticent.guarantee import Pillar
from reticent.inference.sealed.release import Sealed
from reticent.pipeline.attack import _replicated

CLEAN = Finding(
    attack="a", pillar=Pillar.INPUT, adversary="server", target="t", metric="accuracy",
    value=0.5, ci=(0.4, 0.6), floor=0.5, excess=0.0, excess_ci=(-0.1, 0.1), n=100,
)  # fmt: skip
BROKEN = replace(CLEAN, contradicts="input/server/sealed")


@pytest.mark.parametrize(
    ("is_sealed", "drawn", "measured", "contradicts"),
    [
        (True, [BROKEN, CLEAN], 2, None),
        (True, [BROKEN, BROKEN], 2, "input/server/sealed"),
        (True, [CLEAN, BROKEN], 1, None),
        (False, [BROKEN, CLEAN], 1, "input/server/sealed"),
    ],
)
def test_only_what_is_seen_twice_contradicts_ciphertexts(
    is_sealed: bool, drawn: list[Finding], measured: int, contradicts: str | None
) -> None:
    views: list[Any] = []

    def measure(view: Any) -> list[Finding]:
        views.append(view)
        return [drawn[len(views) - 1]]

    release = Sealed.__new__(Sealed) if is_sealed else object()
    hardened: Any = SimpleNamespace(halves=SimpleNamespace(release=release))
    stage: Any = SimpleNamespace(protected=lambda hardened, seed: "fresh")
    (found,) = _replicated(measure, "first", stage, hardened, 0)  # type: ignore[arg-type]
    assert found.contradicts == contradicts
    assert views == ["first", "fresh"][:measured]
    assert ("replicated" in found.details) is (measured == 2)
