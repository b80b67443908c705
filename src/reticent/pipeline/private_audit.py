"""The attack from inside on a recipe's private training: canaries, in a run of their own."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from reticent.attacks.finding import Finding
from reticent.audit.white_box import audit_training, private_run
from reticent.pipeline.private_training import clipping_of, mechanism_of, plan_of
from reticent.pipeline.recipe import Recipe
from reticent.pipeline.stage import Report, Stage
from reticent.training.dp_sgd.trainer import default_losses

_CANARIES = 1000
_RECORDS = 500


def audit_private_training(recipe: Recipe, stage: Stage, *, report: Report) -> list[Finding]:
    """What a thousand canaries show of the trainer, noise, sampling and steps of [train.private].

    They are trained on among records of the attacker's own part, so that no record with a budget
    is read again. Empty without private training, and for users, whose canaries would be users.
    """
    private = recipe.train.private
    claims = [claim for claim in stage.guarantees if claim.id == "dp-sgd"]
    if private is None or not claims or recipe.task.unit != "record":
        return []
    report(f"attack the private training from inside ({_CANARIES} canaries)")
    rows = stage.partition.attacker_train[:_RECORDS]
    records = stage.task.take(rows)
    mechanism = mechanism_of(private, len(stage.partition.train))
    probability = mechanism.sampling_probability
    assert probability is not None
    plan = replace(plan_of(private), expected_batch=probability * (len(rows) + _CANARIES + 1))
    result = audit_training(
        private_run(
            noise_multiplier=mechanism.noise_multiplier,
            plan=plan,
            probability=probability,
            clipping=clipping_of(private),
        ),
        model=copy.deepcopy(stage.model),
        inputs=torch.from_numpy(records.x),
        targets=torch.from_numpy(records.public).long(),
        losses=default_losses,
        claim=claims[0],
        canaries=_CANARIES,
        seed=recipe.seed,
    )
    return list(result.findings())
