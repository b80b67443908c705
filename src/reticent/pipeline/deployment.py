"""A protected model, ready to serve: the plain Python way in, for a user's own model and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reticent.attacks.finding import Finding
from reticent.data.partition import Partition, partition
from reticent.data.task import Task
from reticent.guarantee import Guarantee
from reticent.inference import bundle as bundles
from reticent.inference.bundle import Bundle
from reticent.inference.split import harden as hardening
from reticent.inference.split.harden import Hardened
from reticent.inference.split.publish import publish
from reticent.models.cut import CutPoint
from reticent.pipeline.attack import attack
from reticent.pipeline.recipe import AuditTable
from reticent.pipeline.stage import Stage, answers_of


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A hardened model with the data parts it was hardened and will be attacked on."""

    stage: Stage
    hardened: Hardened

    @property
    def guarantees(self) -> tuple[Guarantee, ...]:
        """What the deployment claims."""
        return self.hardened.guarantees

    @property
    def utility(self) -> tuple[float, float]:
        """Test utility of the model as it was, and of the deployment."""
        return (
            float(self.stage.test_outcomes().mean()),
            float(self.stage.test_outcomes(self.hardened).mean()),
        )

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Outputs (n, o) as clients get them, in process, with experiment noise."""
        return self.hardened.halves.predict(x)

    def attack(
        self,
        attributes: Sequence[str] = (),
        *,
        requests: Sequence[int] = (1, 8, 32),
        seeds: int = 3,
        quick: bool = False,
    ) -> tuple[Finding, ...]:
        """Attribute inference and reconstruction against this deployment, with controls."""
        audit = AuditTable(requests=tuple(requests), seeds=seeds, quick=quick)
        names = tuple(attributes) or tuple(self.stage.task.private)
        return attack(
            self.stage,
            self.hardened,
            names,
            audit=audit,
            seed=0,
            report=lambda text: None,
            full=True,
        ).findings

    def publish(self, folder: Path | str, *, name: str) -> Bundle:
        """Write the bundle that `reticent serve` reads; it carries no scorecard."""
        hardened = self.hardened

        def fill(work: Path) -> Mapping[str, Any]:
            return {"version": publish(work, hardened, self.stage.task, name=name)}

        manifest = {
            "name": name,
            "channel": hardened.channel,
            "method": hardened.method,
            "cut": hardened.cut,
            "synthetic": self.stage.task.synthetic,
            "guarantees": [guarantee.to_json() for guarantee in hardened.guarantees],
            "costs": vars(hardened.costs),
            "ledger": [],
        }
        return bundles.write(Path(folder), manifest, fill)


def harden(
    model: nn.Module,
    task: Task,
    *,
    parts: Partition | None = None,
    levels: int | None = None,
    **settings: Any,
) -> Deployment:
    """Harden `model`, already trained on the defender's part of `task`.

    `model` maps (batch, *record shape) to (batch, classes), or (batch, 1) for regression. `parts`
    defaults to `partition(task)`; give the partition whose `train` rows the model was trained on,
    else utility and leakage are measured on rows that it has seen. `settings` are those of
    `reticent.inference.split.harden.harden`: method, cut, codes, retrain, options, ...
    """
    stage = _stage(model, task, parts, levels)
    hardened = hardening.harden(
        stage.model,
        train=stage.records("train"),
        validation=stage.records("validation"),
        answers=stage.answers,
        certify=stage.records("certify") if len(stage.partition.certify) else None,
        **settings,
    )
    return Deployment(stage=stage, hardened=hardened)


def suggest_cut(
    model: nn.Module,
    task: Task,
    *,
    parts: Partition | None = None,
    levels: int | None = None,
    **settings: Any,
) -> list[tuple[CutPoint, Deployment]]:
    """The model hardened at every candidate cut, early to late."""
    stage = _stage(model, task, parts, levels)
    swept = hardening.suggest_cut(
        stage.model,
        train=stage.records("train"),
        validation=stage.records("validation"),
        answers=stage.answers,
        **settings,
    )
    return [(point, Deployment(stage=stage, hardened=made)) for point, made in swept]


def _stage(model: nn.Module, task: Task, parts: Partition | None, levels: int | None) -> Stage:
    parts = parts or partition(task)
    answers = answers_of(task, parts, levels)
    return Stage(task=task, answers=answers, partition=parts, network="own", model=model.eval())
