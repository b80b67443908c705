"""A run's findings, utility and costs as one scorecard."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch

from reticent.attacks.finding import Finding
from reticent.audit.family import is_accuracy
from reticent.audit.frontier import Point
from reticent.audit.scorecard import (
    Alone,
    Cost,
    Encryption,
    Gate,
    Latency,
    Method,
    Packing,
    Replay,
    Scorecard,
    TaskSummary,
    Utility,
    by_pillar,
)
from reticent.audit.statistics import bootstrap_ratio
from reticent.audit.suite import Outcome
from reticent.data.answers import METRICS
from reticent.data.partition import Regime
from reticent.data.task import Kind, Task
from reticent.guarantee import Pillar
from reticent.inference.deployed import local_pair
from reticent.inference.export import export
from reticent.inference.graph import Graph
from reticent.inference.sealed.method import SealedHead
from reticent.inference.split.harden import Hardened
from reticent.pipeline.attack import Attacked, few_shot, shots_of
from reticent.pipeline.encrypted_traffic import plan_of
from reticent.pipeline.latency import median_ms
from reticent.pipeline.private_training import NO_LEDGER
from reticent.pipeline.recipe import Recipe
from reticent.pipeline.stage import Stage

_SPLIT = "The answer itself reaches the server: output privacy needs the sealed split."
_PLAIN = "The server sees input and answer: the plain channel protects neither."
_PRIVATE = (
    "The training records are protected in the model. The figures of this scorecard were measured "
    "on them, and on a twin trained without privacy, and are not covered by the guarantee."
)
_UNPAID = (
    "The private training was charged to no ledger: nothing keeps further runs from spending more "
    "of the same records' privacy."
)
_SEALED = (
    "The server sees neither input nor answer. Packing and masks are this project's own and "
    "unaudited; "
)
_FLOODED = (
    "replies are flooded: a reply to an honest request tells no more of the weights than its "
    "answer does, up to a statistical distance of 2^-{bits} each, by a bound on its noise."
)
_NOT_FLOODED = (
    "the noise in replies isn't flooded, so that a client may learn something of the weights "
    "beyond its answers (flooding_bits = 0)."
)
_BY_CHANNEL = {"split": _SPLIT, "plain": _PLAIN}


def score(
    recipe: Recipe,
    task: Task,
    attacked: Mapping[Regime, Attacked],
    points: tuple[Point, ...],
    outcome: Outcome,
    folder: Path,
) -> Scorecard:
    first = next(iter(attacked.values()))
    stage, hardened = first.stage, first.hardened
    shots = few_shot(stage, hardened)
    alone = Alone(utility=stage.alone(hardened, recipe), few_shot=shots_of(shots))
    measured = measure_utility(stage, hardened, recipe.seed)
    findings = [found for part in attacked.values() for found in part.findings]
    others = [*shots, *outcome.findings]
    card = Scorecard(
        task=TaskSummary.of(task, public=recipe.task.public or task.label, regimes=tuple(attacked)),
        method=Method(name=hardened.method, parameters={"cut": hardened.cut, **hardened.options}),
        utility=measured,
        cost=_cost(stage, hardened, folder),
        replay=Replay(
            command=f"reticent run recipe.toml --seed {recipe.seed}",
            versions=versions(),
            seeds=tuple(range(recipe.seed, recipe.seed + recipe.audit.seeds)),
            data_digest=data_digest(task),
        ),
        pillars=by_pillar(hardened.guarantees, findings + others, alone=alone),
        gates=gates(recipe, measured, findings, hardened),
        notices=_notices(recipe, task, attacked),
        untested={**outcome.untested, **first.untested},
    )
    if not points:
        return card
    own = replace(card.point(), chosen=True, parameters={"cut": hardened.cut})
    return replace(card, frontier=(own, *points))


def measure_utility(stage: Stage, hardened: Hardened, seed: int) -> Utility:
    base, kept = stage.undefended_outcomes(), stage.test_outcomes(hardened, seed=seed)
    users = stage.records("test").users
    owners = np.arange(len(base)) if users is None else users
    loss, ci = bootstrap_ratio(
        np.stack([base, kept], axis=1), np.ones(len(base)), owners
    ).difference(0, 1)
    return Utility(
        metric=METRICS[stage.task.kind],
        baseline=float(base.mean()),
        protected=float(kept.mean()),
        loss=loss,
        ci=ci,
        n=len(base),
    )


def _cost(stage: Stage, hardened: Hardened, folder: Path) -> Cost:
    return Cost(
        client_flops_share=hardened.costs.client_flops_share,
        client_params_share=hardened.costs.client_params_share,
        request_bytes=hardened.costs.request_bytes,
        reply_bytes=hardened.costs.reply_bytes,
        latency_ms=_latency(stage, folder),
        encryption=encryption(hardened),
    )


def encryption(hardened: Hardened) -> Encryption | None:
    """The figures of a sealed deployment's plan; None for any other."""
    plan = plan_of(hardened)
    if plan is None:
        return None
    packings = [
        Packing(**{each.name: getattr(made, each.name) for each in fields(Packing)})
        for made in (plan.estimate, *plan.others)
    ]
    return Encryption(
        levels=plan.parameters.levels,
        ring=plan.parameters.degree,
        modulus_bits=plan.parameters.bits,
        chosen=packings[0],
        others=tuple(packings[1:]),
    )


def _latency(stage: Stage, folder: Path) -> Latency:
    """Median milliseconds of one query in process, one thread: compute only, no network."""
    x = stage.records("test").x[:1]
    client, server = local_pair(folder)
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "plain.onnx"
        export(stage.model, torch.from_numpy(x), path)
        plain = Graph(path)
    return Latency(
        plain=median_ms(lambda: plain(x)),
        protected=median_ms(lambda: client.decode(server.answer(client.encode(x)))),
    )


def gates(
    recipe: Recipe, measured: Utility, findings: Sequence[Finding], hardened: Hardened
) -> dict[str, Gate]:
    """Stated limits against what was measured; total variation against what is claimed.

    A limit on leakage that nothing measured has not passed: it is judged as total leakage.
    """
    attributes = [
        found for found in findings if found.pillar is Pillar.INPUT and is_accuracy(found.metric)
    ]
    strength = hardened.guarantees[0].allowed_excess(max(recipe.audit.requests))
    values = {
        "max_excess_leakage": max((found.excess for found in attributes), default=1.0),
        "max_utility_loss": measured.loss,
        "max_client_flops_share": hardened.costs.client_flops_share,
        "max_total_variation": 1.0 if strength is None else strength,
    }
    return {
        name: Gate.at_most(limit, values[name]) for name, limit in recipe.gates.stated().items()
    }


def _sealed_notice(chosen: Hardened) -> str:
    head = chosen.halves.head
    assert isinstance(head, SealedHead)
    flood = head.layout.plan.flood
    return _SEALED + (_NOT_FLOODED if flood is None else _FLOODED.format(bits=flood.bits))


def _notices(recipe: Recipe, task: Task, attacked: Mapping[Regime, Attacked]) -> tuple[str, ...]:
    notices = []
    if task.synthetic:
        notices.append("The data are SYNTHETIC: nothing here is about real people.")
    chosen = next(iter(attacked.values())).hardened
    notices += [f"Chosen automatically, {choice}." for choice in chosen.choices]
    if recipe.audit.quick:
        notices.append("Quick audit: fewer attackers, one seed, one regime. Not for signing.")
    for regime, part in list(attacked.items())[1:]:
        twin = measure_utility(part.stage, part.hardened, recipe.seed)
        notices.append(
            f"On {regime} users (a twin of the deployment, trained without them) the "
            f"{twin.metric} is {twin.baseline:.3f} undefended and {twin.protected:.3f} protected."
        )
    if task.kind is Kind.REGRESSION:
        notices.append(
            f"Answers are quantised to {next(iter(attacked.values())).stage.answers.levels} values."
        )
    notices.append(_BY_CHANNEL.get(chosen.channel) or _sealed_notice(chosen))
    if recipe.train.private is not None:
        notices.append(_PRIVATE)
        if recipe.train.private.ledger == NO_LEDGER:
            notices.append(_UNPAID)
    return tuple(notices)


def data_digest(task: Task) -> str:
    """SHA-256 over the task's records and labels, in hexadecimal."""
    made = hashlib.sha256()
    for values in (task.x, task.public, *(task.private[name] for name in sorted(task.private))):
        made.update(np.ascontiguousarray(values).tobytes())
    return made.hexdigest()


def versions() -> dict[str, str]:
    packages = ("reticent", "torch", "numpy", "scikit-learn", "onnxruntime")
    return {
        "python": platform.python_version(),
        "platform": sys.platform,
        **{name: importlib.metadata.version(name) for name in packages},
    }
