"""The register: every kind of attack that the suite can run on a finished model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from torch import nn

from reticent.attacks.finding import Finding
from reticent.attacks.spec import Access, Labelled
from reticent.attacks.target import Victim
from reticent.audit.extraction import audit_extraction
from reticent.audit.material import Material
from reticent.audit.membership import audit_membership
from reticent.audit.model_inversion import audit_model_inversion
from reticent.audit.output_attributes import People, audit_output_attributes
from reticent.audit.property_inference import audit_property
from reticent.audit.suite import Entry, Settings
from reticent.audit.training_reconstruction import (
    audit_gradients,
    audit_informed,
    audit_stored_records,
)
from reticent.errors import UnsupportedError
from reticent.guarantee import Pillar
from reticent.random import seeded

_GRADIENTS = 16
_SHARES = (0.3, 0.7)
_MOST_PROPERTY_SHADOWS = 32


def _always(victim: Victim, material: Material) -> str | None:
    return None


def _is_trained(victim: Victim) -> bool:
    """Whether it is known how to train models like the victim."""
    blank = victim.blank()
    if hasattr(blank, "get_params"):
        return True
    return victim.recipe is not None and isinstance(blank, nn.Module)


def _membership(victim: Victim, material: Material, settings: Settings) -> Sequence[Finding]:
    most = Access.SCORES if victim.scores is not None else Access.LABEL
    if victim.scores is not None and _is_trained(victim):
        most = Access.SHADOW
    return audit_membership(
        victim,
        members=material.members,
        non_members=material.non_members,
        population=material.population,
        shadows=settings.shadows,
        access=min(settings.access, most),
        guarantees=settings.guarantees,
        seed=settings.seed,
        progress=settings.report,
    )


def _lacks_attributes(victim: Victim, material: Material) -> str | None:
    if not material.private:
        return "the records name no private attribute"
    return None if material.population is not None else "needs a population of the attacker's own"


def _attributes(victim: Victim, material: Material, settings: Settings) -> Sequence[Finding]:
    assert material.population is not None
    level = Access.SCORES if victim.scores is not None else Access.LABEL
    recipe = victim.recipe if isinstance(victim.blank(), nn.Module) else None
    if recipe is not None and recipe.size + recipe.held_out <= len(material.population):
        level = Access.SHADOW
    found: list[Finding] = []
    for name in material.private:
        people = [
            People(records=part, attribute=material.attribute(name, place))
            for place, part in enumerate(material.parts)
        ]
        found += audit_output_attributes(
            victim,
            *people,
            name=name,
            access=min(settings.access, level),
            seed=settings.seed,
            progress=settings.report,
        )
    return found


def _lacks_properties(victim: Victim, material: Material) -> str | None:
    binary = [name for name, values in material.private.items() if int(values.max()) == 1]
    if not binary:
        return "the records name no private attribute of two values"
    if victim.recipe is None or not isinstance(victim.blank(), nn.Module):
        return "needs a network, and to know how it was trained"
    return None


def _properties(victim: Victim, material: Material, settings: Settings) -> Sequence[Finding]:
    assert victim.recipe is not None
    pool = Labelled.joined(material.parts)
    found: list[Finding] = []
    for name, values in material.private.items():
        if int(values.max()) != 1:
            continue
        group = values == 1
        # Both hypotheses must find their share of either kind of record in half the pool.
        rarest = min(int(group.sum()), int((~group).sum())) // 2
        size = min(victim.recipe.size, int(0.9 * rarest / max(_SHARES)))
        smaller = replace(victim, recipe=replace(victim.recipe, size=max(size, 1)))
        audit = partial(
            audit_property,
            smaller,
            pool,
            group,
            name=f"{name} = 1",
            shares=_SHARES,
            shadows=min(settings.shadows, _MOST_PROPERTY_SHADOWS),
            seed=settings.seed,
            progress=settings.report,
        )
        found += audit(access=Access.SHADOW)
        if settings.access is Access.WEIGHTS:
            try:
                found += audit(access=Access.WEIGHTS)
            except UnsupportedError as error:
                settings.report(f"property inference stays with answers: {error}")
    return found


def _is_no_network(victim: Victim, material: Material) -> str | None:
    return None if isinstance(victim.model, nn.Module) else "needs a PyTorch network's gradients"


def _lacks_public(victim: Victim, material: Material) -> str | None:
    lack = _is_no_network(victim, material)
    if lack is None and material.population is None:
        lack = "needs a population, which the attacker has anyway"
    return lack


def _gradients(victim: Victim, material: Material, settings: Settings) -> Sequence[Finding]:
    assert material.population is not None
    chosen = seeded(settings.seed, 401).permutation(len(material.members))[:_GRADIENTS]
    return audit_gradients(
        victim,
        material.members.take(chosen),
        public=material.population,
        seed=settings.seed,
        keep=settings.keep,
        progress=settings.report,
    )


def _stored(victim: Victim, material: Material, settings: Settings) -> Sequence[Finding]:
    return audit_stored_records(
        victim,
        material.members,
        material.non_members,
        seed=settings.seed,
        progress=settings.report,
    )


def _informed(victim: Victim, material: Material, settings: Settings) -> Sequence[Finding]:
    return audit_informed(
        victim,
        material.members,
        seed=settings.seed,
        keep=settings.keep,
        progress=settings.report,
    )


def _lacks_images(victim: Victim, material: Material) -> str | None:
    lack = _lacks_public(victim, material)
    if lack is None and material.members.x.ndim < 3:
        lack = "needs records that can be looked at: images or series"
    return lack


def _inversion(victim: Victim, material: Material, settings: Settings) -> Sequence[Finding]:
    assert material.population is not None
    return audit_model_inversion(
        victim,
        material.population,
        material.non_members,
        seed=settings.seed,
        keep=settings.keep,
        progress=settings.report,
    )


def _lacks_queries(victim: Victim, material: Material) -> str | None:
    return None if material.population is not None else "needs a population to ask about"


def _extraction(victim: Victim, material: Material, settings: Settings) -> Sequence[Finding]:
    assert material.population is not None
    level = Access.SCORES if victim.scores is not None else Access.LABEL
    return audit_extraction(
        victim,
        queries=material.population,
        test=material.non_members,
        access=min(settings.access, level),
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
    Entry(
        name="attributes",
        pillar=Pillar.TRAINING_DATA,
        access=Access.LABEL,
        says="private attributes from the model's answers, beyond what anyone could guess",
        unfit=_lacks_attributes,
        run=_attributes,
    ),
    Entry(
        name="property",
        pillar=Pillar.TRAINING_DATA,
        access=Access.SHADOW,
        says="the share of a group in the training set",
        unfit=_lacks_properties,
        run=_properties,
    ),
    Entry(
        name="gradients",
        pillar=Pillar.TRAINING_DATA,
        access=Access.INTERNALS,
        says="records from the gradients that training on them would share",
        unfit=_lacks_public,
        run=_gradients,
    ),
    Entry(
        name="stored_records",
        pillar=Pillar.TRAINING_DATA,
        access=Access.WEIGHTS,
        says="training records that stand in the model's file",
        unfit=_always,
        run=_stored,
    ),
    Entry(
        name="informed",
        pillar=Pillar.TRAINING_DATA,
        access=Access.WEIGHTS,
        says="the last training record, by an insider who knows all the others",
        unfit=_always,
        run=_informed,
    ),
    Entry(
        name="model_inversion",
        pillar=Pillar.TRAINING_DATA,
        access=Access.WEIGHTS,
        says="what a class looks like, from the model's gradients",
        unfit=_lacks_images,
        run=_inversion,
    ),
    Entry(
        name="extraction",
        pillar=Pillar.MODEL,
        access=Access.LABEL,
        says="a copy of the model from its answers",
        unfit=_lacks_queries,
        run=_extraction,
    ),
)
