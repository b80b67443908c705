"""The attack from inside on a recipe's private training: canaries, in a run of their own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from reticent.attacks.finding import Finding
from reticent.audit.scorecard import Scorecard, by_pillar
from reticent.audit.white_box import audit_training, private_run
from reticent.guarantee import Guarantee
from reticent.pipeline.private_training import clipping_of, losses_of, mechanism_of, plan_of
from reticent.pipeline.recipe import PrivateTable, Recipe
from reticent.pipeline.stage import Report, Stage

_CANARIES = 1000
_RECORDS = 500


def audit_stage(recipe: Recipe, stage: Stage, *, report: Report) -> list[Finding]:
    """`audit_private_training` of the stage's model."""
    return audit_private_training(
        recipe,
        stage.model,
        stage.guarantees,
        shape=stage.task.x.shape[1:],
        outputs=stage.answers.outputs,
        size=len(stage.partition.train),
        report=report,
    )


def audit_private_training(
    recipe: Recipe,
    model: nn.Module,
    claims: Sequence[Guarantee],
    *,
    shape: tuple[int, ...],
    outputs: int,
    size: int,
    report: Report,
) -> list[Finding]:
    """What a thousand canaries show of the trainer, noise, sampling and steps of [train.private].

    `shape` is that of a record, `outputs` the number of classes, `size` how many records were
    trained on. The canaries stand among records drawn at random in the inputs' range: nobody's
    record is read. Empty without private training, and for users, whose canaries would be users.
    """
    private = recipe.train.private
    stated = [claim for claim in claims if claim.id == "dp-sgd"]
    if private is None or not stated or recipe.task.unit != "record":
        return []
    report(f"attack the private training from inside ({_CANARIES} canaries)")
    generator = torch.Generator().manual_seed(recipe.seed)
    drawn = torch.rand(_RECORDS, *shape, generator=generator)
    mechanism = mechanism_of(private, size)
    probability = mechanism.sampling_probability
    assert probability is not None
    plan = replace(plan_of(private), expected_batch=probability * (_RECORDS + _CANARIES + 1))
    result = audit_training(
        private_run(
            noise_multiplier=mechanism.noise_multiplier,
            plan=plan,
            probability=probability,
            clipping=clipping_of(private),
            augment=private.augment,
            multiplicity=private.augmentations,
            shape=shape,
        ),
        model=copy.deepcopy(model),
        inputs=private.low + (private.high - private.low) * drawn,
        targets=_labels(private, outputs, generator),
        losses=losses_of(private),
        claim=stated[0],
        canaries=_CANARIES,
        seed=recipe.seed,
    )
    return list(result.findings())


def _labels(private: PrivateTable, outputs: int, generator: torch.Generator) -> Tensor:
    """Labels of random records: a class each, or a number in the labels' public range."""
    if private.label_span is None:
        return torch.randint(outputs, (_RECORDS,), generator=generator)
    low, high = private.label_span
    return low + (high - low) * torch.rand(_RECORDS, generator=generator)


def with_findings(card: Scorecard, found: Sequence[Finding]) -> Scorecard:
    """The scorecard with further findings beside its own."""
    rows = card.pillars.values()
    return replace(
        card,
        pillars=by_pillar(
            [claim for row in rows for claim in row.guarantees],
            [*(finding for row in rows for finding in row.findings), *found],
            alone=card.alone,
        ),
    )
