"""Which findings contradict which claims, when many findings test the same claim.

One 95 % interval among forty lies above a true bound by chance now and then. So the findings that
test one claim are one family, and those that contradict it are chosen by Holm's step-down
procedure (Holm 1979), which calls a true claim contradicted with probability 0.025 at most: the
chance that the lower end of a single 95 % interval leaves. A claim of exactly zero excess needs no
correction where it holds exactly: decisions identical to the floor's have the interval [0, 0].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from scipy import stats

from reticent.attacks.finding import Finding
from reticent.guarantee import DifferentialPrivacy, Guarantee, InformationBound

ERROR = 0.025
"""The chance that any finding of the family contradicts a claim that holds."""


def judged(findings: Sequence[Finding], guarantees: Sequence[Guarantee]) -> tuple[Finding, ...]:
    """The findings with `contradicts` set to the first of `guarantees` that each contradicts.

    Marks that can be computed are computed anew, from all the findings together; those that an
    audit set by a test of its own (`details["tests"]` names the claim, or the claim's scale is
    another) are kept.
    """
    by_id = {guarantee.id: guarantee for guarantee in guarantees}
    made = [
        replace(finding, contradicts=None)
        if finding.contradicts in by_id and _computed(finding, by_id[str(finding.contradicts)])
        else finding
        for finding in findings
    ]
    for guarantee in guarantees:
        for index in broken_by(guarantee, findings):
            if made[index].contradicts is None:
                made[index] = replace(made[index], contradicts=guarantee.id)
    return tuple(made)


def broken_by(guarantee: Guarantee, findings: Sequence[Finding]) -> tuple[int, ...]:
    """The places of the findings that contradict `guarantee`, judged as one family."""
    chances: list[tuple[float, int]] = []
    found: list[int] = []
    for index, finding in enumerate(findings):
        if not (_same(finding, guarantee) and comparable(finding, guarantee)):
            continue
        allowed = guarantee.allowed_excess(finding.requests)
        if allowed == 0:
            if finding.excess_ci[0] > 0:
                found.append(index)
        elif allowed is not None:
            chances.append((_chance(finding, allowed), index))
    chances.sort()
    for step, (chance, index) in enumerate(chances):
        if chance > ERROR / (len(chances) - step):
            break
        found.append(index)
    return tuple(sorted(found))


def family_size(guarantee: Guarantee, findings: Sequence[Finding]) -> int:
    """How many of `findings` share the error of `guarantee`; 1 for a claim of exactly zero."""
    sharing = [
        finding
        for finding in findings
        if _same(finding, guarantee)
        and comparable(finding, guarantee)
        and guarantee.allowed_excess(finding.requests) != 0
    ]
    return max(1, len(sharing))


def could_contradict(finding: Finding, guarantee: Guarantee, *, family: int = 1) -> bool:
    """Whether `finding` had the power to contradict `guarantee`, one of `family` that test it.

    Accuracy claims: had the attack reached its ceiling with the interval it has, widened for the
    family, the lower end would lie above what is allowed; without a ceiling there is no positive
    control, so no power. Differential privacy: the largest epsilon that a perfect attack could
    certify with this sample (`details["max_epsilon"]`) exceeds the claimed one.
    """
    if isinstance(guarantee.strength, DifferentialPrivacy):
        return float(finding.details.get("max_epsilon", 0.0)) > guarantee.strength.epsilon
    allowed = guarantee.allowed_excess(finding.requests)
    if allowed is None or finding.ceiling is None or not comparable(finding, guarantee):
        return False
    reach = max(0.0, finding.excess - finding.excess_ci[0])
    freedom = _freedom(finding)
    wider = float(stats.t.ppf(1 - ERROR / family, freedom) / stats.t.ppf(1 - ERROR, freedom))
    return finding.ceiling - finding.floor - wider * reach > allowed


def tests(finding: Finding, guarantee: Guarantee) -> bool:
    """Whether `finding` puts `guarantee` to the test.

    Accuracy claims are tested by every attack of their adversary; others only by an attack that
    names them, in `contradicts` or `details["tests"]`.
    """
    named = guarantee.id in (finding.contradicts, finding.details.get("tests"))
    return named or (_same(finding, guarantee) and comparable(finding, guarantee))


def comparable(finding: Finding, guarantee: Guarantee) -> bool:
    """Whether the finding's excess and what the claim allows are of one scale.

    An information bound limits accuracies. It says nothing about other measures, such as an
    explained variance, unless it allows nothing at all.
    """
    allowed = guarantee.allowed_excess(finding.requests)
    if isinstance(guarantee.strength, InformationBound):
        return allowed == 0 or is_accuracy(finding.metric)
    return allowed is not None


def is_accuracy(metric: str) -> bool:
    """Whether `metric` is an accuracy, the scale on which information bounds speak."""
    return "accuracy" in metric.lower()


def _same(finding: Finding, guarantee: Guarantee) -> bool:
    return finding.pillar is guarantee.pillar and finding.adversary == guarantee.adversary.name


def _computed(finding: Finding, guarantee: Guarantee) -> bool:
    own_test = finding.details.get("tests") == guarantee.id
    return not own_test and _same(finding, guarantee) and comparable(finding, guarantee)


def _chance(finding: Finding, allowed: float) -> float:
    """One-sided p-value of "the excess is at most `allowed`", read off the finding's interval.

    The lower half of the 95 % interval is taken for a t quantile times a standard error, so that
    a single finding is judged exactly as its interval says.
    """
    reach = finding.excess - finding.excess_ci[0]
    if not math.isfinite(reach):
        return 1.0
    freedom = _freedom(finding)
    if reach <= 0:
        return 0.0 if finding.excess_ci[0] > allowed else 1.0
    steps = (finding.excess - allowed) / reach * float(stats.t.ppf(1 - ERROR, freedom))
    return float(stats.t.sf(steps, freedom))


def _freedom(finding: Finding) -> float:
    """Degrees of freedom: one less than the independent units behind the interval, if known."""
    units = finding.details.get("independent units")
    return math.inf if not isinstance(units, int) or units < 2 else units - 1
