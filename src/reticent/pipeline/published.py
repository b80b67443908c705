"""Auditing a bundle: the attacks run against the very files that are served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from reticent.audit.scorecard import Scorecard, by_pillar
from reticent.data.answers import Answers
from reticent.errors import BundleError
from reticent.inference.bundle import Bundle
from reticent.inference.deployed import client_half
from reticent.inference.graph import Graph
from reticent.inference.sealed.client import SealedClient
from reticent.inference.sealed.files import load_layout
from reticent.inference.sealed.method import SealedHead
from reticent.inference.sealed.release import Sealed
from reticent.inference.split.client import SplitClient
from reticent.inference.split.halves import Halves
from reticent.inference.split.harden import Costs, Hardened
from reticent.inference.split.server import CodeServer, load_server
from reticent.pipeline.attack import Attacked, attack, few_shot
from reticent.pipeline.model_audit import audit_service
from reticent.pipeline.private_audit import audit_stage
from reticent.pipeline.recipe import Recipe, apply_overrides
from reticent.pipeline.score import data_digest, gates, measure_utility
from reticent.pipeline.stage import Report, by_regime, restored
from reticent.pipeline.subject import imitated
from reticent.pipeline.tasks import load_task


class Published(nn.Module):
    """A served graph as a module: the same numbers, without gradients."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._graph = graph

    def forward(self, x: Tensor) -> Tensor:
        """Shapes as the graph's."""
        return torch.from_numpy(self._graph(x.numpy()))

    def __deepcopy__(self, memo: object) -> Published:
        return self


def audit_bundle(
    bundle: Bundle, overrides: Sequence[str], *, seed: int | None = None, report: Report
) -> tuple[Scorecard, Attacked]:
    """The bundle's scorecard with fresh findings, against its client and server files.

    `overrides` change the recipe that the bundle carries (audit.requests=[1,64], or the data);
    `seed` is the attackers' own (default: the recipe's). The partition stays the deployment's.
    White-box optimisation is left out, since a served graph has no gradients; `run` has it.
    Raises `BundleError` for a bundle without scorecard, recipe or deployed checkpoint.
    """
    if "recipe" not in bundle.manifest or not (bundle.folder / "scorecard.json").exists():
        raise BundleError(
            f"The bundle {bundle.name!r} carries no recipe or scorecard to replay. "
            "Publish it with: reticent run"
        )
    recipe = Recipe.from_dict(apply_overrides(bundle.manifest["recipe"], overrides))
    before = Scorecard.read(bundle.folder / "scorecard.json")
    report(f"load {recipe.task.data}")
    task = load_task(recipe)
    regime, names = next(iter(by_regime(recipe, task).items()))
    stage = restored(recipe, task, regime, bundle.server / "deployed")
    hardened = published(bundle, stage.answers)
    attacked = attack(
        stage,
        hardened,
        names,
        audit=recipe.audit,
        seed=recipe.seed if seed is None else seed,
        report=report,
        full=True,
    )
    utility = measure_utility(stage, hardened, recipe.seed)
    outcome = audit_service(
        stage,
        hardened,
        recipe.audit,
        seed=recipe.seed if seed is None else seed,
        report=report,
        training=imitated(recipe, stage),
    )
    findings = [
        *attacked.findings,
        *few_shot(stage, hardened),
        *outcome.findings,
        *audit_stage(recipe, stage, report=report),
    ]
    notices = list(before.notices)
    if data_digest(task) != before.replay.data_digest:
        notices.append("Audited on other data than the deployment was made with.")
    after = replace(
        before,
        utility=utility,
        pillars=by_pillar(hardened.guarantees, findings, alone=before.alone),
        gates=gates(recipe, utility, attacked.findings, hardened),
        replay=replace(
            before.replay,
            command=f"reticent audit {Path(bundle.folder).name}",
            data_digest=data_digest(task),
        ),
        notices=tuple(notices),
        untested={**outcome.untested, **attacked.untested},
    )
    return after, attacked


def published(bundle: Bundle, answers: Answers) -> Hardened:
    """The halves that a bundle serves, as the attacks take them."""
    client = client_half(bundle.client)
    if isinstance(client.spec.release, Sealed):
        return _published_sealed(bundle, client, answers)
    server = load_server(bundle.server)
    is_code = isinstance(server, CodeServer)
    table = np.asarray(server.table) if isinstance(server, CodeServer) else None
    halves = Halves(
        encoder=Published(client.graph),
        release=client.spec.release,
        head=nn.Identity() if is_code else Published(Graph(bundle.server / "head.onnx")),
        answers=answers,
        table=table,
    )
    return _hardened(bundle, halves)


def _published_sealed(
    bundle: Bundle, client: SplitClient | SealedClient, answers: Answers
) -> Hardened:
    halves = Halves(
        encoder=Published(client.graph),
        release=client.spec.release,
        head=SealedHead(load_layout(bundle.server)),
        answers=answers,
    )
    return _hardened(bundle, halves)


def _hardened(bundle: Bundle, halves: Halves) -> Hardened:
    return Hardened(
        method=str(bundle.manifest["method"]),
        cut=str(bundle.manifest["cut"]),
        halves=halves,
        guarantees=bundle.guarantees,
        costs=Costs(**bundle.manifest["costs"]),
        validation_utility=float("nan"),
    )
