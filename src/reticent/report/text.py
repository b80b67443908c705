"""The scorecard in the terminal: one screen, verdict first."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from reticent.audit.scorecard import Scorecard, Status, Verdict
from reticent.guarantee import Pillar
from reticent.report import words

_TONE = {Verdict.HOLDS: "green", Verdict.CONTRADICTED: "bold red", Verdict.GATE_FAILED: "yellow"}
_COLOUR = {Status.VIOLATED: "bold red", Status.CONSISTENT: "green", Status.INCONCLUSIVE: "yellow"}
_MOST = 3


def render_text(card: Scorecard) -> RenderableType:
    """The scorecard for a `rich` console; at most a screen of 100 columns and 40 lines.

    Everything from data enters as `Text`, so that square brackets stay what they are.
    """
    headline = words.headline(card)
    settled = headline == words.HEADLINE[card.verdict]
    tone = _TONE[card.verdict] if settled else "default"
    broken = sorted(card.contradictions, key=lambda finding: -finding.excess)
    lead = Text(words.verdict(card))
    parts: list[RenderableType] = [
        Panel(lead, title=Text(headline, style=tone), title_align="left", border_style=tone)
    ]
    parts += [
        Text(f"✕ {words.contradiction_line(card, finding)}", "bold red")
        for finding in broken[:_MOST]
    ]
    if len(broken) > _MOST:
        more = f"✕ and {len(broken) - _MOST} more contradictions; the report lists them all"
        parts.append(Text(more, "bold red"))
    if words.needs_synthetic_note(card):
        parts.append(Text("SYNTHETIC data: these figures say nothing about real people.", "yellow"))
    parts += [Text(f"Note: {notice}", "yellow") for notice in card.notices]
    parts.append(_table(card))
    decode = words.alone(card)
    parts += [Text(line) for line in (_utility(card), _cost(card), decode, _untested(card)) if line]
    parts += [
        Text(words.capital(words.gate_words(name, gate)), "default" if gate.passed else "bold red")
        for name, gate in card.gates.items()
    ]
    return Group(*parts)


def _table(card: Scorecard) -> Table:
    table = Table(title=Text(card.task.title, "bold"), title_justify="left", expand=True)
    for name, ratio in (("pillar", 2), ("claimed", 5), ("strongest attack", 5), ("status", 3)):
        table.add_column(name, ratio=ratio)
    for pillar in Pillar:
        table.add_row(
            Text(pillar.value), Text(_claimed(card, pillar)), _attack(card, pillar),
            _status(card, pillar),
        )  # fmt: skip
    return table


def _claimed(card: Scorecard, pillar: Pillar) -> str:
    claims = card.pillars[pillar].guarantees
    return "; ".join(words.strength(claim.strength) for claim in claims) or "not protected"


def _attack(card: Scorecard, pillar: Pillar) -> Text:
    finding = card.strongest(pillar)
    if finding is None:
        return Text("not tested", "dim")
    said = (
        f"{finding.target}, m={finding.requests}: {words.quantity(finding.metric, finding.value)}"
        f" (floor {words.quantity(finding.metric, finding.floor)})"
    )
    return Text(said, "bold red" if finding.contradicts else "default")


def _status(card: Scorecard, pillar: Pillar) -> Text:
    status = words.pillar_status(card, pillar)
    if status is None:
        return Text("○ not protected", "dim")
    said = "CONTRADICTED" if status is Status.VIOLATED else status.value
    return Text(f"{words.SYMBOL[status]} {said}", _COLOUR.get(status, "default"))


def _utility(card: Scorecard) -> str | None:
    utility = card.utility
    if utility is None:
        return None
    return (
        f"Utility ({utility.metric}): {words.quantity(utility.metric, utility.protected)}, "
        f"undefended {words.quantity(utility.metric, utility.baseline)}, loss "
        f"{words.change(utility.metric, utility.loss)} "
        f"[{words.signed_interval(utility.metric, utility.ci)}]"
    )


def _cost(card: Scorecard) -> str | None:
    cost = card.cost
    if cost is None:
        return None
    return (
        f"The client computes {words.share(cost.client_flops_share)} of the operations; "
        f"request {words.size(cost.request_bytes)}, reply {words.size(cost.reply_bytes)}."
    )


def _untested(card: Scorecard) -> str | None:
    if not card.untested:
        return None
    return f"Not run: {', '.join(card.untested)}. The report says why."
