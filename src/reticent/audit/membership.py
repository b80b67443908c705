"""Membership inference judged: how well the attacks tell a model's members from other records.

    findings = audit_membership(victim, members=trained_on, non_members=held_out, seed=0)

The attacks never see which candidate is a member; this module does. A score says how a record's
answer compares with answers of models trained with and without it. It is evidence of leakage over
many records and proves nothing about a single one (Zhang et al. 2024).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from reticent.attacks.finding import Finding
from reticent.attacks.membership.battery import SPEC as BATTERY
from reticent.attacks.membership.battery import Battery, prepare
from reticent.attacks.membership.label_only import boundary_distances, gap_scores, noise_scores
from reticent.attacks.membership.screens import loss_scores, quantile_scores
from reticent.attacks.membership.signals import References, Signals
from reticent.attacks.membership.users import Aggregation, user_scores
from reticent.attacks.shadow.bank import ShadowBank
from reticent.attacks.shadow.recipe import TrainingRecipe
from reticent.attacks.spec import Access, Labelled, Scores
from reticent.attacks.target import Victim
from reticent.audit.blind import Blind, blind_baseline
from reticent.audit.epsilon import Confusion, epsilon_finding, judge_bound
from reticent.audit.material import FEWEST, refuse_few
from reticent.audit.membership_controls import PositiveControl, negative_control, positive_control
from reticent.audit.membership_figures import (
    AUC,
    FPRS,
    figures,
    means,
    spreads,
    transferred_threshold,
)
from reticent.audit.rates import Roc, pooled, roc
from reticent.audit.region_test import sharp_epsilon_lower_bound, stronger_form
from reticent.errors import ConfigError, DataError
from reticent.guarantee import CLIENT, DifferentialPrivacy, Guarantee, Pillar
from reticent.random import seeded

TARGET = "training set"
_BOUNDARY_RECORDS = 500
_BOUNDARY_QUERIES = 120
_DELTA = 1e-5
_LIKELIHOOD_RATIOS = ("LiRA online", "BaVarIA", "learned")


@dataclass(kw_only=True, eq=False)
class _Audit:
    """What one run of the audit knows, the truth with it."""

    records: Labelled
    member: NDArray[np.bool_]
    name: str
    seed: int
    started: float = field(default_factory=time.process_time)
    findings: list[Finding] = field(default_factory=list)

    def add(
        self,
        attack: str,
        scores: Scores,
        details: Mapping[str, Any],
        *,
        every: bool = False,
        first: str | None = None,
        member: NDArray[np.bool_] | None = None,
        ceilings: Mapping[str, float] | None = None,
    ) -> None:
        """The findings of one attack: every metric, or the `first`, or the sharpest resolved."""
        curve = roc(scores, self.member if member is None else member)
        spent = time.process_time() - self.started
        told = {**curve.details(), **details, "cpu_seconds": spent}
        found = tuple(f for f in figures(curve) if first in (None, f.metric))
        self.findings += [
            Finding(
                attack=attack,
                pillar=Pillar.TRAINING_DATA,
                adversary=CLIENT.name,
                target=self.name,
                metric=each.metric,
                value=each.value,
                ci=each.ci,
                floor=each.floor,
                excess=each.value - each.floor,
                excess_ci=(each.ci[0] - each.floor, each.ci[1] - each.floor),
                n=curve.members + curve.non_members,
                ceiling=(ceilings or {}).get(each.metric),
                details=told,
            )
            for each in (found if every else found[:1])
        ]


def audit_membership(
    victim: Victim,
    *,
    members: Labelled,
    non_members: Labelled,
    population: Labelled | None = None,
    shadows: int = 64,
    bank: ShadowBank | None = None,
    access: Access = Access.SHADOW,
    guarantees: tuple[Guarantee, ...] = (),
    seed: int,
    progress: Callable[[str], None] | None = None,
    processes: int = 1,
    folder: Path | None = None,
    name: str = TARGET,
) -> tuple[Finding, ...]:
    """Findings of every membership attack that `access` allows, the battery's first.

    `members` were trained on, `non_members` were not; both should be drawn at random from one
    population, and `population` are further records of it that no model sees. Shadow models train
    on members + non_members, in this order, by the victim's recipe (a scikit-learn estimator's
    own parameters); `bank` gives them ready-made. The battery's scorer, and the threshold of its
    epsilon lower bound, are chosen on shadow models in the part of target, never on the victim.
    Its findings are TPR at 0.1 and 1 % FPR, advantage and AUC; the other attacks give the first of
    these that the sample resolves, with the rest in `details`. Each claim of differential privacy
    in `guarantees` gets an epsilon finding that is judged by records; claims per user cover them
    too. Where `members.users` and `non_members.users` name users, one more finding has n users.

    Raises `DataError` for fewer than 30 records on a side, where members and non-members can be
    told apart without the model, or where the attack "finds" the members of a model that knows
    nothing of them; `ConfigError` for a bank or recipe that doesn't fit.
    """
    say = progress or (lambda _text: None)
    refuse_few(members, non_members)
    records = Labelled.joined((members, non_members))
    member = np.arange(len(records)) < len(members)
    audit = _Audit(records=records, member=member, name=name, seed=seed)
    say("membership: blind baseline")
    blind = blind_baseline(records, member, seed=seed)
    _refuse_if_told(blind)
    told = {"classifier": blind.classifier, "access": str(Access.BLIND)}
    audit.add("blind", blind.scores, told, first=AUC, member=blind.member)
    if access >= Access.LABEL:
        _label_attacks(audit, victim, access, say)
    if access >= Access.SCORES:
        asked = records if population is None else Labelled.joined((records, population))
        handle = victim.at_shadow()
        say(f"membership: asking about {len(asked)} records")
        signals = Signals.of_answers(handle.predict_scores(asked.x), asked.y, pool=len(records))
        _score_attacks(audit, signals, population, handle.queries)
    if access >= Access.SHADOW:
        if bank is None:
            say(f"membership: training {shadows} shadow models")
            bank = ShadowBank.train(
                victim.blank(),
                _recipe(victim, members),
                records,
                population=population,
                count=shadows,
                seed=seed,
                processes=processes,
                folder=folder,
            )
        _refuse_other_bank(bank, victim, asked, len(records))
        say("membership: scoring")
        _shadow_attacks(audit, victim, signals, bank, population, guarantees, say)
    order = {BATTERY.name: 0, f"{BATTERY.name}, per user": 1}
    return tuple(sorted(audit.findings, key=lambda found: order.get(found.attack, 2)))


def _label_attacks(
    audit: _Audit, victim: Victim, access: Access, say: Callable[[str], None]
) -> None:
    told: dict[str, Any] = {"access": str(Access.LABEL)}
    handle = victim.at_label()
    scores = gap_scores(handle, audit.records)
    audit.add("label gap", scores, told | {"queries": handle.queries}, first=AUC)
    if access > Access.LABEL:
        return
    say("membership: label-only attacks")
    handle = victim.at_label()
    scores = noise_scores(handle, audit.records, seed=audit.seed)
    audit.add("noise robustness", scores, told | {"queries": handle.queries}, every=True)
    rng = seeded(audit.seed, 71)
    sides = np.flatnonzero(audit.member), np.flatnonzero(~audit.member)
    rows = np.concatenate([rng.permutation(side)[:_BOUNDARY_RECORDS] for side in sides])
    handle = victim.at_label()
    scores = boundary_distances(
        handle, audit.records.take(rows), queries=_BOUNDARY_QUERIES, seed=audit.seed
    )
    told |= {"queries": handle.queries}
    audit.add("boundary distance", scores, told, member=audit.member[rows])


def _score_attacks(
    audit: _Audit, signals: Signals, population: Labelled | None, queries: int
) -> None:
    told: dict[str, Any] = {"access": str(Access.SCORES), "queries": queries}
    scores = loss_scores(signals)
    audit.add("loss", scores, told | {"tail": _tail(scores, audit.member)})
    if population is not None and len(population) >= 2 * FEWEST:
        scores = quantile_scores(signals, audit.records, population, seed=audit.seed)
        audit.add("quantile", scores, told)


def _shadow_attacks(
    audit: _Audit,
    victim: Victim,
    signals: Signals,
    bank: ShadowBank,
    population: Labelled | None,
    guarantees: tuple[Guarantee, ...],
    say: Callable[[str], None],
) -> None:
    battery = prepare(References.of_bank(bank), seed=audit.seed)
    negative = negative_control(battery, audit.member)
    positive = positive_control(
        battery, victim, bank, audit.records, population, seed=audit.seed, say=say
    )
    told: dict[str, Any] = {
        "access": str(Access.SHADOW),
        "queries": signals.margin.shape[-1],
        "shadows": len(bank),
        "bank": bank.digest,
    }
    for name in battery.trials:
        targets = spreads(_curves(battery, name))
        audit.add(name, battery.score(signals, name), told | {"targets": targets})
    scores = battery.score(signals)
    told |= {
        "scorer": battery.chosen,
        "strength": dict(battery.strength),
        "controls": {"positive": positive.details(), "random truth": negative},
        "targets": spreads(_curves(battery, battery.chosen)),
    }
    ceilings = means(positive.curves)
    audit.add(BATTERY.name, scores, told, every=True, ceilings=ceilings)
    _users(audit, scores, battery.chosen, told)
    if len(battery.models):
        audit.findings += _epsilons(audit, scores, battery, positive, guarantees, told)


def _users(audit: _Audit, scores: Scores, scorer: str, told: dict[str, Any]) -> None:
    """The battery's finding per user, over users whose records are all on one side."""
    users = audit.records.users
    if users is None:
        return
    how: Aggregation = "sum" if scorer in _LIKELIHOOD_RATIOS else "mean"
    names, total = user_scores(scores, users, how=how)
    _names, share = user_scores(audit.member.astype(np.float64), users, how="mean")
    pure = (share == 0) | (share == 1)
    if min((share == 0).sum(), (share == 1).sum()) < 2 or len(names) == len(users):
        return
    told = told | {"aggregation": how, "mixed_users": int((~pure).sum())}
    audit.add(f"{BATTERY.name}, per user", total[pure], told, member=share[pure] == 1)


def _epsilons(
    audit: _Audit,
    scores: Scores,
    battery: Battery,
    positive: PositiveControl,
    guarantees: tuple[Guarantee, ...],
    told: dict[str, Any],
) -> list[Finding]:
    """The epsilon finding per claim of differential privacy; one without claim where none is."""
    claims = [
        claim
        for claim in guarantees
        if claim.pillar is Pillar.TRAINING_DATA and isinstance(claim.strength, DifferentialPrivacy)
    ]
    curves = _curves(battery, battery.chosen)
    inside, outside = int(audit.member.sum()), int((~audit.member).sum())
    found = []
    for claim in (*claims, *([] if claims else [None])):
        delta = _DELTA
        if claim is not None and isinstance(claim.strength, DifferentialPrivacy):
            delta = claim.strength.delta
        threshold = transferred_threshold(curves, members=inside, non_members=outside, delta=delta)
        confusion = Confusion.at(scores, audit.member, threshold)
        expected = pooled(curves).at_threshold(threshold)
        form = stronger_form(expected.tpr.value, expected.fpr.value, delta=delta)
        bound, perfect, control = (
            sharp_epsilon_lower_bound(each, delta=delta, form=form)
            for each in (
                confusion,
                Confusion(tp=inside, fn=0, fp=0, tn=outside),
                positive.confusion(delta=delta),
            )
        )
        judgement = None
        if claim is not None:
            judgement = judge_bound(claim, bound, perfect=perfect, control=control)
        found.append(
            epsilon_finding(
                bound,
                attack=BATTERY.name,
                target=audit.name,
                adversary=CLIENT.name,
                n=inside + outside,
                perfect=perfect,
                control=control,
                judgement=judgement,
                details={
                    **told,
                    "delta": delta,
                    "threshold": threshold,
                    "tested form": form,
                    "threshold_from": f"{len(curves)} shadow models in the part of target",
                    "confusion": {
                        "tp": confusion.tp,
                        "fn": confusion.fn,
                        "fp": confusion.fp,
                        "tn": confusion.tn,
                    },
                    "roc": roc(scores, audit.member).points(),
                    **({"control_roc": pooled(positive.curves).points()} if positive.twins else {}),
                    "assumption": "records of one model count as independent draws",
                    "cpu_seconds": time.process_time() - audit.started,
                },
            )
        )
    return found


def _curves(battery: Battery, name: str) -> tuple[Roc, ...]:
    return tuple(
        roc(scores, truth)
        for scores, truth in zip(battery.trials[name], battery.truth, strict=True)
    )


def _tail(scores: Scores, member: NDArray[np.bool_]) -> dict[str, float]:
    """The share of non-members whose loss exceeds all but q of the members' losses.

    Members leave the high-loss tail; how empty they leave it foretells what reference models would
    find at low FPR (arXiv 2510.19773).
    """
    losses, others = -scores[member], -scores[~member]
    return {
        f"tnr at {fpr:.1%} fnr": float((others > np.quantile(losses, 1 - fpr)).mean())
        for fpr in FPRS
    }


def _refuse_if_told(blind: Blind) -> None:
    if blind.tells:
        low, high = blind.interval
        raise DataError(
            f"Expected members and non-members that only the model can tell apart, but a "
            f"{blind.classifier} classifier without it reaches AUC {blind.curve.auc:.3f} "
            f"(99.5 % interval {low:.3f} to {high:.3f}). They come from different sources or "
            "times, and every attack would measure that. Draw both at random from one population."
        )


def _recipe(victim: Victim, members: Labelled) -> TrainingRecipe:
    if victim.recipe is not None:
        return victim.recipe
    if isinstance(victim.blank(), BaseEstimator):
        return TrainingRecipe(size=len(members))
    return victim.at_shadow().recipe


def _refuse_other_bank(bank: ShadowBank, victim: Victim, asked: Labelled, pool: int) -> None:
    if bank.pool != pool or not np.array_equal(bank.y, asked.y):
        raise ConfigError(
            f"Expected a bank trained on members + non_members ({pool} rows) and then asked about "
            f"the population ({len(asked) - pool}), in this order; got pool={bank.pool}, "
            f"population={bank.population}, or other labels."
        )
    if victim.recipe is not None and bank.recipe != victim.recipe:
        own, other = asdict(victim.recipe), asdict(bank.recipe)
        apart = {name: (other[name], own[name]) for name in own if own[name] != other[name]}
        raise ConfigError(
            "Expected shadow models trained by the victim's recipe: others measure another model's "
            f"leak. They differ in (bank, victim): {apart}."
        )
