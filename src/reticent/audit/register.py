"""The register: every kind of attack that the suite can run on a finished model."""

from __future__ import annotations

from collections.abc import Sequence

from reticent.attacks.finding import Finding
from reticent.attacks.spec import Access
from reticent.attacks.target import Victim
from reticent.audit.material import Material
from reticent.audit.membership import audit_membership
from reticent.audit.suite import Entry, Settings
from reticent.guarantee import Pillar


def _always(victim: Victim, material: Material) -> str | None:
    return None


def _membership(victim: Victim, material: Material, settings: Settings) -> Sequence[Finding]:
    answers_scores = victim.scores is not None
    trained = victim.recipe is not None or hasattr(victim.model, "get_params")
    most = Access.SHADOW if answers_scores and trained else Access.SCORES
    return audit_membership(
        victim,
        members=material.members,
        non_members=material.non_members,
        population=material.population,
        shadows=settings.shadows,
        access=min(settings.access, most if answers_scores else Access.LABEL),
        guarantees=settings.guarantees,
        seed=settings.seed,
        progress=settings.report,
    )


ENTRIES: tuple[Entry, ...] = (
    Entry(
        name="membership",
        pillar=Pillar.TRAINING_DATA,
        access=Access.LABEL,
        says="which records the model was trained on",
        unfit=_always,
        run=_membership,
    ),
)
