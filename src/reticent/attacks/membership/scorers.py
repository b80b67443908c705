"""The scorers with shadow models by name, each with what stands on its label."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from reticent.attacks.membership.bavaria import bavaria
from reticent.attacks.membership.lira import lira_offline, lira_online
from reticent.attacks.membership.rmia import rmia_offline, rmia_online
from reticent.attacks.membership.screens import difficulty_scores
from reticent.attacks.membership.signals import References, Signals
from reticent.attacks.spec import Access, AttackSpec, Scores
from reticent.guarantee import Pillar

GOAL = "membership of a record in the training set"


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A score per candidate from the target's signals and its references'."""

    spec: AttackSpec
    score: Callable[[Signals, References], Scores]


def statement(
    name: str, access: Access, auxiliary: str, reference: str, queries: int | None = None
) -> AttackSpec:
    """The statement of a membership attack."""
    return AttackSpec(
        name=name,
        pillar=Pillar.TRAINING_DATA,
        goal=GOAL,
        access=access,
        auxiliary=auxiliary,
        reference=reference,
        queries=queries,
    )


_ONLINE = "records like the members, shadow models trained with and without each candidate"
_OFFLINE = "records like the members, shadow models trained without each candidate"
_LIRA = "Carlini et al. 2022, Algorithm 1"
_RMIA = "Zarifzadeh, Liu & Shokri 2024, equations 2-4"

SCORERS: Mapping[str, Scorer] = {
    name: Scorer(spec=statement(name, Access.SHADOW, auxiliary, reference), score=score)
    for name, auxiliary, reference, score in (
        ("LiRA online", _ONLINE, _LIRA, lira_online),
        ("LiRA offline", _OFFLINE, _LIRA, lira_offline),
        ("RMIA online", _ONLINE, _RMIA, rmia_online),
        ("RMIA offline", _OFFLINE, _RMIA + " and Appendix B", rmia_offline),
        ("BaVarIA", _ONLINE, "after arXiv 2603.11799 (2026), with its own prior", bavaria),
        ("difficulty", _ONLINE, "Watson et al. 2022, section 3", difficulty_scores),
    )
}
"""All scorers that need no fit of their own."""
