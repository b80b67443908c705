"""Numbers, claims and the verdict in plain words: what every rendering of a scorecard says."""

from __future__ import annotations

from collections.abc import Sequence

from reticent.attacks.finding import Finding
from reticent.audit import scorecard
from reticent.audit.scorecard import Gate, Scorecard, Status, Verdict
from reticent.guarantee import (
    SERVER,
    Attested,
    Computational,
    DifferentialPrivacy,
    Empirical,
    Guarantee,
    InformationBound,
    Pillar,
    Strength,
    Syntactic,
)

HEADLINE = {
    Verdict.HOLDS: "HOLDS",
    Verdict.CONTRADICTED: "CONTRADICTED",
    Verdict.GATE_FAILED: "GATE FAILED",
}
SYMBOL = {
    Status.VIOLATED: "✕",
    Status.CONSISTENT: "✓",
    Status.INCONCLUSIVE: "?",
    Status.NOT_TESTED: "○",
    Status.NOT_APPLICABLE: "–",
}


def share(value: float) -> str:
    """0.9021 -> '90.2 %'."""
    return f"{100 * value:.1f}\u00a0%".replace("-", "−")


def quantity(metric: str, value: float) -> str:
    """A value of `metric`: in per cent where the metric is a share, else with three decimals."""
    return share(value) if is_share(metric) else f"{value:.3f}".replace("-", "−")


def change(metric: str, value: float) -> str:
    """A signed difference in `metric`: percentage points where the metric is a share."""
    return f"{_signed(metric, value)}\u00a0points" if is_share(metric) else _signed(metric, value)


def interval(metric: str, bounds: tuple[float, float]) -> str:
    """'10.1 to 12.9' for values of `metric`, in the unit that `quantity` uses."""
    scale, places = (100, 1) if is_share(metric) else (1, 3)
    return " to ".join(f"{scale * bound:.{places}f}".replace("-", "−") for bound in bounds)


def signed_interval(metric: str, bounds: tuple[float, float]) -> str:
    """'−0.4 to +1.0' for differences in `metric`, in the unit that `change` uses."""
    return " to ".join(_signed(metric, bound) for bound in bounds)


def is_share(metric: str) -> bool:
    """Whether `metric` lies between 0 and 1 and reads best in per cent (an AUC doesn't)."""
    return scorecard.is_share(metric) and "auc" not in metric.lower()


def size(count: int) -> str:
    """1 -> '1 byte', 4096 -> '4.1 kB'."""
    if count < 1000:
        return f"{count}\u00a0byte{'' if count == 1 else 's'}"
    unit, scale = ("MB", 1e6) if count >= 1e6 else ("kB", 1e3)
    return f"{count / scale:.1f}\u00a0{unit}"


def requests(count: int) -> str:
    """'one request' or '8 pooled requests'."""
    return "one request" if count == 1 else f"{count} pooled requests"


def examples(count: int) -> str:
    """'one labelled example per class'."""
    return (
        "one labelled example per class" if count == 1 else f"{count} labelled examples per class"
    )


def enumerate_words(items: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def capital(text: str) -> str:
    """`text` with its first letter in capitals, the rest as it is."""
    return text[:1].upper() + text[1:]


def the(pillar: Pillar) -> str:
    """'the input'."""
    return f"the {pillar.value}"


def against(adversary: str) -> str:
    """'against the server', 'against anyone'."""
    bare = adversary.lower() in ("anyone", "everyone", "nobody")
    return f"against {adversary}" if bare else f"against the {adversary}"


def strength(claim: Strength) -> str:
    """How strong a claim is, in its own unit, short enough for a table."""
    match claim:
        case DifferentialPrivacy():
            return (
                f"ε = {claim.epsilon:g}, δ = {_tiny(claim.delta)} "
                f"({claim.neighboring_relation}, per {claim.unit})"
            )
        case Computational():
            return f"{claim.bits} bits ({claim.assumption})"
        case InformationBound():
            if _is_zero(claim):
                return "zero beyond the public label, for every attacker and number of requests"
            case = "for every input" if claim.worst_case else "on average over certified inputs"
            return (
                f"at most {100 * claim.total_variation:.1f}\u00a0points and {claim.nats:.3g}"
                f"\u00a0nats beyond the public label, {claim.scope}, {case}"
            )
        case Attested():
            return f"hardware attestation of {claim.measurement}"
        case Syntactic():
            return f"k = {claim.k}, l = {claim.l}, t = {claim.t:g}"
        case Empirical():
            return "no claim beyond the attacks that were run"


def promise(guarantee: Guarantee) -> str:
    """What the claim promises about its pillar, as the rest of a sentence."""
    claim = guarantee.strength
    match claim:
        case DifferentialPrivacy():
            return (
                f"whether any one {claim.unit} took part shifts what can be seen by a factor of "
                f"at most e^{claim.epsilon:g} (δ = {_tiny(claim.delta)})"
            )
        case Computational():
            return (
                f"reading it takes about 2^{claim.bits} operations or breaking {claim.assumption}"
            )
        case InformationBound():
            if _is_zero(claim):
                return (
                    "a request carries nothing beyond the public label, whatever the attacker "
                    "and however many requests are pooled"
                )
            case = "for every input" if claim.worst_case else "on average"
            whole = "a request adds" if claim.scope == "per query" else "all requests together add"
            return (
                f"{whole} at most {100 * claim.total_variation:.1f} points to any "
                f"attacker's accuracy beyond the public label, {case}"
            )
        case Attested():
            return "it is opened only inside hardware that attested its software"
        case Syntactic():
            return f"every released record looks like at least {claim.k - 1} others"
        case Empirical():
            return "nothing beyond the attacks that were run"


def headline(card: Scorecard) -> str:
    """The verdict in capitals; a verdict that no attack has put to the test says so."""
    if card.verdict is Verdict.HOLDS and not _claims(card):
        return "NOTHING CLAIMED"
    if card.verdict is Verdict.HOLDS and not any(
        card.status(claim) is Status.CONSISTENT for claim in _claims(card)
    ):
        return "HOLDS SO FAR, NOT TESTED"
    return HEADLINE[card.verdict]


def verdict(card: Scorecard) -> str:
    """One sentence to sign: what holds, against whom, how strong, what is not protected."""
    rest = _not_protected_clause(card)
    if card.contradictions:
        return f"Do not rely on this protection: {contradiction(card, _worst(card))}{rest}."
    claims = _kept(card) or "no protection is claimed"
    failed = [(name, gate) for name, gate in card.gates.items() if not gate.passed]
    if failed:
        gates = enumerate_words([gate_words(name, gate) for name, gate in failed])
        return f"Not fit for release as stated: {gates}; {claims}{rest}."
    return f"{capital(claims)}{rest}."


def contradiction(card: Scorecard, finding: Finding) -> str:
    """What one finding contradicts, with the measured and the allowed figure."""
    claim = next(g for g in card.guarantees if g.id == finding.contradicts)
    reached = (
        f"the claim “{claim.id}” ({claim.mechanism}) {against(claim.adversary.name)} is "
        f"contradicted: the attack “{finding.attack}” reached "
        f"{quantity(finding.metric, finding.value)} {finding.metric} on {finding.target} from "
        f"{requests(finding.requests)}"
    )
    allowed = claim.allowed_excess(finding.requests)
    if allowed is None:
        return f"{reached}, which the claim ({strength(claim.strength)}) rules out"
    limit = quantity(finding.metric, min(1.0, finding.floor + allowed))
    return f"{reached}, where the claim allows at most {limit}"


def contradiction_line(card: Scorecard, finding: Finding) -> str:
    """One finding beside what the claim allows, short enough for a list."""
    claim = next(g for g in card.guarantees if g.id == finding.contradicts)
    allowed = claim.allowed_excess(finding.requests)
    limit = (
        f"the claim ({strength(claim.strength)}) rules it out"
        if allowed is None
        else f"allowed at most {quantity(finding.metric, min(1.0, finding.floor + allowed))}"
    )
    return (
        f"{claim.id}, by {finding.attack} on {finding.target} from {requests(finding.requests)}: "
        f"measured {quantity(finding.metric, finding.value)} {finding.metric}, {limit}"
    )


def hides_answer(card: Scorecard) -> bool:
    """Whether it is claimed that the server doesn't learn the answer."""
    claims = card.pillars[Pillar.OUTPUT].guarantees
    return any(claim.adversary.name == SERVER.name for claim in claims)


def floor(card: Scorecard) -> str:
    """What the floor of attacks on the input is: all that a server must learn in any case."""
    return "a guess without anything" if hides_answer(card) else "the label alone"


def measured(card: Scorecard) -> str:
    """The strongest attack on the input, against floor and ceiling, in one sentence."""
    finding = card.strongest(Pillar.INPUT)
    if finding is None:
        return "No attack on the input was run."
    ceiling = (
        ""
        if finding.ceiling is None
        else f"; on the undefended system the same attack reaches "
        f"{quantity(finding.metric, finding.ceiling)}"
    )
    count = len(card.pillars[Pillar.INPUT].findings)
    return (
        f"Strongest of {count} measurement{'' if count == 1 else 's'} on the input: "
        f"{finding.attack} on {finding.target} from {requests(finding.requests)} reaches "
        f"{quantity(finding.metric, finding.value)}; {floor(card)} gives "
        f"{quantity(finding.metric, finding.floor)} (excess "
        f"{change(finding.metric, finding.excess)}, 95 % interval "
        f"{signed_interval(finding.metric, finding.excess_ci)}){ceiling}."
    )


def measured_of(card: Scorecard, pillar: Pillar) -> str | None:
    """The strongest attack on a pillar in one sentence; None where none was run."""
    finding = card.strongest(pillar)
    if finding is None:
        return None
    count = len(card.pillars[pillar].findings)
    return (
        f"Strongest of {count} measurement{'' if count == 1 else 's'} on {the(pillar)}: "
        f"{finding.attack} on {finding.target} reaches "
        f"{quantity(finding.metric, finding.value)} {finding.metric}; the floor is "
        f"{quantity(finding.metric, finding.floor)} (excess "
        f"{change(finding.metric, finding.excess)}, 95 % interval "
        f"{signed_interval(finding.metric, finding.excess_ci)})."
    )


def floor_growth(card: Scorecard) -> str | None:
    """What the answers themselves give away as requests pile up; no encoder can change it."""
    findings = [f for f in card.pillars[Pillar.INPUT].findings if is_share(f.metric)]
    if not findings:
        return None
    most = max(findings, key=lambda f: (f.requests, f.floor - _floor_of_one(findings, f)))
    first = _floor_of_one(findings, most)
    if most.requests == 1 or most.floor <= first:
        return None
    return (
        f"The answers themselves still tell something: from the public labels alone an attacker "
        f"reaches {quantity(most.metric, most.floor)} on {most.target} after "
        f"{most.requests} requests ({quantity(most.metric, first)} after one). No encoder can "
        "change that; only asking less can."
    )


def task_metric(card: Scorecard) -> str:
    """The public task's own metric."""
    return "accuracy" if card.utility is None else card.utility.metric


def alone(card: Scorecard) -> str | None:
    """What a client can do without the server: the price in model privacy, as a sentence."""
    facts, metric = card.alone, task_metric(card)
    said = [
        f"{quantity(metric, value)} with {examples(count)}"
        for count, value in sorted(facts.few_shot.items())
    ]
    sentence = (
        f"Without the server, a client decodes its own half's output to {enumerate_words(said)}"
        if said
        else ""
    )
    if facts.utility is not None:
        sentence += "; a" if sentence else "A"
        sentence += (
            f" stand-alone classifier of the same client cost reaches "
            f"{quantity(metric, facts.utility)}"
        )
    if not sentence:
        return None
    if card.utility is None:
        return f"{sentence}."
    return f"{sentence} (the service: {quantity(metric, card.utility.protected)})."


def unprotected(card: Scorecard) -> list[tuple[Pillar, str]]:
    """The pillars that nothing protects, each with the reason."""
    found = []
    for pillar, row in card.pillars.items():
        claims = [claim for claim in row.guarantees if not isinstance(claim.strength, Empirical)]
        if any(card.status(claim) is Status.VIOLATED for claim in claims):
            found.append((pillar, "the claim is contradicted"))
        elif not claims and row.guarantees:
            found.append((pillar, "no claim beyond the attacks that were run"))
        elif not claims:
            found.append((pillar, "nothing is claimed"))
    return found


def pillar_status(card: Scorecard, pillar: Pillar) -> Status | None:
    """The row's worst status (never an average); None where nothing protects the pillar."""
    order = (
        Status.VIOLATED,
        Status.NOT_TESTED,
        Status.INCONCLUSIVE,
        Status.CONSISTENT,
        Status.NOT_APPLICABLE,
    )
    statuses = [card.status(claim) for claim in card.pillars[pillar].guarantees]
    worst = min(statuses, key=order.index, default=None)
    return None if worst is Status.NOT_APPLICABLE else worst


def gate_words(name: str, gate: Gate) -> str:
    """'the gate max_utility_loss failed (limit 0.01, measured 0.023)'."""
    outcome = "passed" if gate.passed else "failed"
    figures = f"limit {gate.limit:g}, measured {gate.value:.3g}".replace(" -", " −")
    return f"the gate {name} {outcome} ({figures})"


def needs_synthetic_note(card: Scorecard) -> bool:
    """Whether generated data still have to be named, because no notice does."""
    return card.task.synthetic and not any("SYNTHETIC" in notice for notice in card.notices)


def regime(finding: Finding) -> str | None:
    """'known users' or 'unseen users' where the finding says which; None otherwise."""
    named = finding.details.get("regime")
    return (
        None if named is None else f"{named} users" if named in ("known", "unseen") else f"{named}"
    )


def _claims(card: Scorecard) -> list[Guarantee]:
    return [claim for claim in card.guarantees if not isinstance(claim.strength, Empirical)]


_TESTED = {
    Status.CONSISTENT: "no attack that was run contradicts this",
    Status.INCONCLUSIVE: "the attacks that were run had no power to contradict this",
    Status.NOT_TESTED: "no attack has tested this",
}


def _kept(card: Scorecard) -> str:
    """Every claim with what the attacks say about it; said once where it is true of all."""
    said = [
        (
            f"{against(claim.adversary.name)}, {the(claim.pillar)} is protected: {promise(claim)}",
            _TESTED.get(card.status(claim), "an attack contradicts this"),
        )
        for claim in _claims(card)
    ]
    if len({tested for _, tested in said}) == 1:
        return f"{'; '.join(claim for claim, _ in said)}; {said[0][1]}"
    return "; ".join(f"{claim}, and {tested}" for claim, tested in said)


def _not_protected_clause(card: Scorecard) -> str:
    contradicted = {finding.pillar for finding in card.contradictions}
    names = [the(pillar) for pillar, _ in unprotected(card) if pillar not in contradicted]
    if not names:
        return ""
    verb = "is" if len(names) == 1 else "are"
    return f"; {enumerate_words(names)} {verb} not protected"


def _worst(card: Scorecard) -> Finding:
    return max(card.contradictions, key=lambda finding: finding.excess)


def _floor_of_one(findings: Sequence[Finding], like: Finding) -> float:
    """The floor of one request for the same target and regime as `like` (its own otherwise)."""
    singles = [
        f.floor
        for f in findings
        if f.requests == 1 and f.target == like.target and regime(f) == regime(like)
    ]
    return min(singles, default=like.floor)


def _is_zero(claim: InformationBound) -> bool:
    return claim.nats == 0 and claim.total_variation == 0


def _tiny(value: float) -> str:
    """1e-05 -> '1e-5'."""
    return f"{value:g}".replace("e-0", "e-")


def _signed(metric: str, value: float) -> str:
    scaled = f"{100 * value:+.1f}" if is_share(metric) else f"{value:+.3f}"
    return scaled[1:] if float(scaled) == 0 else scaled.replace("-", "−")
