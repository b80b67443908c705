"""A short model card in Markdown, with a privacy section."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reticent.audit.scorecard import Scorecard, Status
from reticent.guarantee import Empirical, Pillar
from reticent.report import words


def model_card(card: Scorecard) -> str:
    """The model card as Markdown: what it is for, how good, how private, how to replay."""
    return "\n\n".join((*_about(card), *_privacy(card), *_end(card))) + "\n"


def _about(card: Scorecard) -> list[str]:
    task = card.task
    people = f" of {task.users} people" if task.users is not None else ""
    parts = [
        f"# {_plain(task.title)}",
        f"**{words.headline(card)}.** {_plain(words.verdict(card))}",
        *(f"> Note: {_plain(notice)}" for notice in card.notices),
        "## Task and utility",
        f"{words.capital(task.kind)} of {_plain(task.public)} from {task.records:,} records"
        f"{people}. Method: `{_code(card.method.name)}`.",
        *_utility(card),
    ]
    if task.synthetic:
        parts.insert(1, "**SYNTHETIC data: the figures say nothing about real people.**")
    return parts


def _utility(card: Scorecard) -> list[str]:
    utility = card.utility
    if utility is None:
        return []
    return [
        f"{words.capital(_plain(utility.metric))}: "
        f"{words.quantity(utility.metric, utility.protected)} protected, "
        f"{words.quantity(utility.metric, utility.baseline)} undefended; loss "
        f"{words.change(utility.metric, utility.loss)} (95 % interval "
        f"{words.signed_interval(utility.metric, utility.ci)}, n = {utility.n:,})."
    ]


def _privacy(card: Scorecard) -> list[str]:
    parts = ["## Privacy"]
    for pillar, row in card.pillars.items():
        lines = [f"### {words.capital(pillar.value)}", ""]
        for claim in row.guarantees:
            status = card.status(claim)
            shown = "CONTRADICTED" if status is Status.VIOLATED else status.value
            lines.append(
                f"- **{shown}**: {_plain(claim.mechanism)}, "
                f"{_plain(words.strength(claim.strength))}; "
                f"{_plain(words.against(claim.adversary.name))}, who sees "
                f"{_plain(claim.adversary.sees)}. "
                f"Assumes: {_plain('; '.join(claim.assumptions)) or 'nothing further'}."
            )
        if not any(not isinstance(claim.strength, Empirical) for claim in row.guarantees):
            lines.append("- Not protected: nothing is claimed.")
        strongest = card.strongest(pillar)
        if strongest is None:
            lines.append("- Not tested: no attack was run.")
        elif pillar is Pillar.INPUT:
            lines.append(f"- {_plain(words.measured(card))}")
        else:
            lines.append(
                f"- Strongest attack: {_plain(strongest.attack)} on {_plain(strongest.target)}, "
                f"{words.quantity(strongest.metric, strongest.value)} (floor "
                f"{words.quantity(strongest.metric, strongest.floor)})."
            )
        said = words.alone(card) if pillar is Pillar.MODEL else None
        if said:
            lines.append(f"- {_plain(said)}")
        parts.append("\n".join(lines))
    contradicted = [words.contradiction(card, f) for f in card.contradictions]
    parts += [f"**CONTRADICTED:** {_plain(text)}." for text in contradicted]
    return parts


def _end(card: Scorecard) -> list[str]:
    replay = card.replay
    gates = [
        f"- {_plain(words.capital(words.gate_words(name, gate)))}"
        for name, gate in card.gates.items()
    ]
    untested = [f"- {_plain(name)}: {_plain(why)}" for name, why in card.untested.items()]
    versions = ", ".join(f"{name} {number}" for name, number in replay.versions.items())
    return [
        *_cost(card),
        *_block("## Gates", gates),
        *_block("## Attacks that were not run", untested),
        "## Replay",
        _fenced(replay.command),
        f"Seeds {', '.join(map(str, replay.seeds))}; {_plain(versions)}; "
        f"data `{_code(replay.data_digest)}`.",
    ]


def _cost(card: Scorecard) -> list[str]:
    cost = card.cost
    if cost is None:
        return []
    return [
        "## Cost",
        f"The client computes {words.share(cost.client_flops_share)} of the operations and holds "
        f"{words.share(cost.client_params_share)} of the parameters. One request is "
        f"{words.size(cost.request_bytes)}, one reply {words.size(cost.reply_bytes)}.",
    ]


def _block(title: str, lines: Sequence[str]) -> list[str]:
    return [title, "\n".join(lines)] if lines else []


def _plain(text: str) -> str:
    """Data as Markdown text on one line, with nothing that Markdown or HTML would act on."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _code(text: str) -> str:
    return " ".join(text.replace("`", "'").split())


def _fenced(text: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}sh\n{text}\n{fence}"
