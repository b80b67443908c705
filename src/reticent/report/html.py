"""The report: one HTML file that opens offline, verdict first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from reticent.audit.frontier import Point, pareto
from reticent.audit.scorecard import Cost, Scorecard, Status, Verdict, write_atomically
from reticent.guarantee import Empirical, Pillar
from reticent.report import words
from reticent.report.attack_figures import attack_figures
from reticent.report.figures import (
    alone_figure,
    frontier_figure,
    latency_figure,
    leakage_figures,
)
from reticent.report.gallery import Gallery, render_gallery
from reticent.report.markup import Html, element
from reticent.report.tables import costs, frontier_table, pillars

_TONE = {Verdict.HOLDS: "good", Verdict.CONTRADICTED: "bad", Verdict.GATE_FAILED: "warn"}
_GLOSSARY = (
    ("Floor", "What an attacker reaches who sees only the predicted public label."),
    ("Ceiling", "The same attack on the undefended system: proof that the attack works at all."),
    ("Excess", "Measured success minus floor, with its own 95 % interval."),
    (
        "Pooled requests",
        "An attacker may add up what m requests of one person give away. The floor rises with m.",
    ),
    (
        "Contradicted",
        "The lower end of the excess interval lies above what the claim allows. "
        "One contradiction decides; pillars are never averaged.",
    ),
    (
        "Consistent",
        "At least one attack could have contradicted the claim, and none did. That is no proof.",
    ),
    (
        "Inconclusive",
        "Attacks ran, but none could have contradicted the claim with this sample and ceiling.",
    ),
)


def render(
    scorecard: Scorecard, *, gallery: Gallery | None = None, rebuilt: Sequence[Gallery] = ()
) -> str:
    """The report as one HTML document: no script, nothing loaded, the same bytes every time.

    `gallery` shows what the server sees of a client's inputs, `rebuilt` what attackers made of the
    model or of gradients.
    """
    card = scorecard
    title = f"{card.task.title}: {words.headline(card)}"
    deployed = card.cost is not None
    sections = (
        _verdict(card),
        _key_numbers(card),
        _frontier(card) if deployed else None,
        _leakage(card) if deployed else None,
        _seen(card, gallery) if deployed or gallery else None,
        pillars(card),
        _drawn(card),
        _remade(rebuilt),
        costs(card),
        _replay(card),
    )
    page = element(
        "html",
        element(
            "head",
            Html('<meta charset="utf-8">'),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", title),
            element("style", Html(_css())),
        ),
        element("body", _header(card), element("main", *sections), _footer()),
        lang="en",
    )
    return f"<!doctype html>\n{page}\n"


def write_report(
    path: Path,
    scorecard: Scorecard,
    gallery: Gallery | None = None,
    *,
    rebuilt: Sequence[Gallery] = (),
) -> None:
    """Write the report to `path`; a reader never meets half a file."""
    write_atomically(path, render(scorecard, gallery=gallery, rebuilt=rebuilt))


def _css() -> str:
    return resources.files("reticent.report").joinpath("style.css").read_text(encoding="utf-8")


def _header(card: Scorecard) -> Html:
    task = card.task
    facts = [
        f"{task.kind}, {task.records:,} records",
        f"{task.users} people" if task.users is not None else "no user ids",
        f"public label: {task.public}" + (f" ({task.classes} classes)" if task.classes else ""),
        "private: " + (", ".join(f"{k} ({v})" for k, v in task.private.items()) or "none named"),
    ]
    if task.regimes:
        facts.append("tested on " + " and ".join(f"{name} users" for name in task.regimes))
    # The badge says SYNTHETIC already; the task's own title repeats it in brackets.
    shown = task.title.removesuffix(" (SYNTHETIC)") if task.synthetic else task.title
    badge = element("span", "SYNTHETIC DATA", class_="badge") if task.synthetic else None
    return element(
        "header",
        element("p", "Reticent privacy scorecard", class_="kicker"),
        element("h1", shown, " " if badge else None, badge),
        element("p", "; ".join(facts), ".", class_="facts"),
        element("p", f"Source: {task.source}", class_="facts") if task.source else None,
    )


def _verdict(card: Scorecard) -> Html:
    headline = words.headline(card)
    symbol = {Verdict.HOLDS: "✓", Verdict.CONTRADICTED: "✕", Verdict.GATE_FAILED: "!"}[card.verdict]
    settled = headline == words.HEADLINE[card.verdict]
    box = element(
        "div",
        element("p", f"{symbol if settled else '○'} {headline}", class_="word"),
        element("p", words.verdict(card), class_="lead"),
        *(element("p", text, class_="support") for text in _support(card)),
        _broken(card),
        class_=f"verdict {_TONE[card.verdict] if settled else ''}".strip(),
    )
    notices = [element("li", element("b", "Note: "), notice) for notice in card.notices]
    if words.needs_synthetic_note(card):
        note = "These data are SYNTHETIC. The figures say nothing about real people."
        notices.insert(0, element("li", element("b", "Note: "), note))
    return element(
        "section",
        element("h2", "Verdict", class_="muted"),
        box,
        element("ul", *notices, class_="notices") if notices else None,
        _brief(card),
        aria_label="Verdict",
    )


def _support(card: Scorecard) -> list[str]:
    if card.cost is None:
        said = [words.measured_of(card, pillar) for pillar in Pillar]
    else:
        said = [words.measured(card), words.floor_growth(card)]
    return [text for text in said if text is not None]


def _broken(card: Scorecard) -> Html | None:
    """Every contradiction by name: none is folded into a count."""
    if not card.contradictions:
        return None
    ordered = sorted(card.contradictions, key=lambda f: -f.excess)
    said = (words.contradiction_line(card, finding) for finding in ordered)
    items = (element("li", f"CONTRADICTED: {text}.") for text in said)
    return element("ul", *items, class_="broken")


def _brief(card: Scorecard) -> Html:
    claims = [g for g in card.guarantees if not isinstance(g.strength, Empirical)]
    standing = [g for g in claims if card.status(g) is not Status.VIOLATED]
    adversaries = {g.adversary.name: g.adversary for g in claims}
    rest = [
        f"{pillar.value[0].upper()}{pillar.value[1:]}: {reason}."
        for pillar, reason in words.unprotected(card)
    ]
    decode = words.alone(card)
    if decode is not None:
        rest.append(decode)
    blocks = (
        (
            "What holds",
            [f"{words.capital(g.pillar.value)}: {words.promise(g)}." for g in standing],
            "No claim stands.",
        ),
        (
            "Against whom",
            [
                f"{words.capital(words.against(a.name))}. Sees: {a.sees}. Knows: {a.knows}."
                for a in adversaries.values()
            ],
            "Nobody.",
        ),
        (
            "How strong",
            [f"{words.capital(g.strength.kind)}: {words.strength(g.strength)}." for g in standing],
            "No claim stands.",
        ),
        ("What is not protected", rest, "Every pillar carries a claim."),
    )
    return element(
        "dl",
        *(
            element(
                "div",
                element("dt", title),
                *(element("dd", text) for text in (texts or [empty])),
            )
            for title, texts, empty in blocks
        ),
        class_="brief",
    )


def _key_numbers(card: Scorecard) -> Html:
    if card.cost is None:
        # A finished model was audited: one tile per pillar says the most.
        tiles = [*_utility_tiles(card), *(_worst_tile(card, pillar) for pillar in Pillar)]
    else:
        tiles = [
            *_utility_tiles(card),
            _worst_tile(card, Pillar.INPUT, "Worst excess leakage"),
            _decode_tile(card),
            *_cost_tiles(card.cost),
        ]
    if card.gates or card.cost is not None:
        tiles.append(_gate_tile(card))
    return element("section", element("h2", "Key numbers"), element("div", *tiles, class_="tiles"))


def _utility_tiles(card: Scorecard) -> list[Html]:
    utility = card.utility
    if utility is None:
        return []
    metric = utility.metric
    return [
        _tile(
            f"Utility: {metric}",
            words.quantity(metric, utility.protected),
            f"{words.quantity(metric, utility.baseline)} undefended; loss "
            f"{words.change(metric, utility.loss)} (95 % interval "
            f"{words.signed_interval(metric, utility.ci)}), n = {utility.n:,}",
        )
    ]


def _worst_tile(card: Scorecard, pillar: Pillar, name: str | None = None) -> Html:
    worst = card.strongest(pillar)
    name = name or f"Worst excess: {pillar.value}"
    if worst is None:
        return _tile(name, "not tested", f"No attack on {words.the(pillar)} was run.")
    said = worst.metric + ": " if card.cost is None else ""
    return _tile(
        name,
        words.change(worst.metric, worst.excess),
        f"{said}{worst.target}, {words.requests(worst.requests)}; 95 % interval "
        f"{words.signed_interval(worst.metric, worst.excess_ci)}"
        + (f"; contradicts {worst.contradicts}" if worst.contradicts else ""),
        "bad" if worst.contradicts else None,
    )


def _cost_tiles(cost: Cost) -> list[Html]:
    latency = _latency(cost)
    return [
        _tile(
            "The client computes",
            words.share(cost.client_flops_share),
            f"of the model's operations, and holds {words.share(cost.client_params_share)} "
            "of its parameters",
        ),
        _tile(
            "One request",
            words.size(cost.request_bytes),
            f"reply {words.size(cost.reply_bytes)}" + (f"; {latency}" if latency else ""),
        ),
    ]


def _tile(name: str, figure: str, text: str, tone: str | None = None) -> Html:
    return element(
        "div",
        element("p", name, class_="name"),
        element("p", figure, class_=f"figure {tone or ''}".strip()),
        element("p", text, class_="muted"),
        class_="tile",
    )


def _decode_tile(card: Scorecard) -> Html:
    facts, metric = card.alone, words.task_metric(card)
    if not facts.few_shot and facts.utility is None:
        return _tile(
            "A client without the server", "not tested", "Few-shot decoding was not measured."
        )
    counts = sorted(facts.few_shot)
    parts = [f"with {words.examples(counts[0])}"] if counts else []
    parts += [f"{words.quantity(metric, facts.few_shot[k])} with {k} per class" for k in counts[1:]]
    if facts.utility is not None:
        parts.append(f"{words.quantity(metric, facts.utility)} by a classifier of the same cost")
    shown = facts.few_shot[counts[0]] if counts else facts.utility
    return _tile(
        "A client without the server reaches",
        words.quantity(metric, shown or 0.0),
        "; ".join(parts),
        "warn",
    )


def _gate_tile(card: Scorecard) -> Html:
    if not card.gates:
        return _tile("Gates", "none", "The recipe states no limit.")
    passed = sum(gate.passed for gate in card.gates.values())
    said = "; ".join(words.gate_words(name, gate) for name, gate in card.gates.items())
    tone = None if passed == len(card.gates) else "warn"
    return _tile("Gates passed", f"{passed} of {len(card.gates)}", said, tone)


def _frontier(card: Scorecard) -> Html | None:
    decode = words.alone(card)
    warning = element(
        "div",
        element(
            "p",
            "The client holds what lies before the cut, and the answers; what lies behind it "
            "stays with the server."
            if words.hides_answer(card)
            else "Features that carry only the label make the client's half the classifier.",
            class_="lead",
        ),
        element(
            "p",
            decode or "What a client can do without the server was not tested for this deployment.",
        ),
        element(
            "p",
            "It is paid with bytes and time; and nothing bounds what is learnt from the answers."
            if words.hides_answer(card)
            else "Input privacy against the server is paid with model privacy against the client. "
            "A split whose head stays encrypted is the way to have both.",
        ),
        class_="callout",
    )
    heading = element("h2", "What protection costs")
    if not card.frontier:
        text = "No other mechanism was measured on this task, so there is no frontier to show."
        return element("section", heading, element("p", text, class_="muted"), warning)
    plots = [
        element(
            "div",
            element("h3", "Utility against leakage"),
            element("p", "Each mark is one mechanism at its worst attribute and pooling."),
            frontier_figure(card),
            _frontier_legend(card.frontier),
            class_="panel",
        )
    ]
    if any(point.few_shot or point.alone is not None for point in card.frontier):
        plots.append(
            element(
                "div",
                element("h3", "What a client reaches without the server"),
                element("p", "Close to the bar: the model's owner has little left to sell."),
                alone_figure(card),
                _alone_legend(card.frontier),
                class_="panel",
            )
        )
    if any(point.latency_ms is not None for point in card.frontier):
        plots.append(
            element(
                "div",
                element("h3", "What a query takes"),
                element("p", "Both halves in one process, without the network between them."),
                latency_figure(card),
                class_="panel",
            )
        )
    return element(
        "section",
        heading,
        warning,
        element("div", *plots, class_="pair"),
        frontier_table(card),
    )


def _frontier_legend(points: Sequence[Point]) -> Html:
    entries = [
        ('<circle class="k-m" cx="11" cy="7" r="4"/>', "stands on a guarantee"),
        ('<circle class="k-h" cx="11" cy="7" r="4"/>', "attacks only, no claim"),
    ]
    if any(point.contradicted for point in points):
        entries.append(('<path class="k-x" d="M7 3l8 8M15 3l-8 8"/>', "claim contradicted"))
    if any(point.chosen for point in points):
        entries.append(('<circle class="k-c" cx="11" cy="7" r="6"/>', "this deployment"))
    if len(pareto(points, ("utility", "excess"))) > 1:
        entries.append(('<path class="k-l" d="M1 7h20"/>', "best trade-offs of the two"))
    return _legend(entries)


def _alone_legend(points: Sequence[Point]) -> Html:
    counts = sorted({count for point in points for count in point.few_shot})
    faces = ["k-o"] * (len(counts) > 1) + ["k-f"] * len(counts)
    entries = [
        (f'<circle class="{face}" cx="11" cy="7" r="4"/>', f"with {words.examples(count)}")
        for face, count in zip(faces, counts, strict=False)
    ]
    entries.append(('<path class="k-d" d="M11 3l4 4-4 4-4-4z"/>', "classifier of the same cost"))
    entries.append(('<path class="k-b" d="M11 1v12"/>', "the service"))
    return _legend(entries)


def _legend(entries: Iterable[tuple[str, str]]) -> Html:
    return element(
        "ul",
        *(
            element(
                "li",
                Html(f'<svg viewBox="0 0 22 14" aria-hidden="true">{drawing}</svg>'),
                text,
            )
            for drawing, text in entries
        ),
        class_="legend",
    )


def _leakage(card: Scorecard) -> Html:
    heading = element("h2", "What leaks, attribute by attribute")
    panels = leakage_figures(card)
    if not panels:
        return element(
            "section",
            heading,
            element("p", "Not tested: no attribute attack on the input was run.", class_="muted"),
        )
    entries = [
        ('<path class="k-fl" d="M11 1v12"/>', f"floor: {words.floor(card)}"),
        ('<path class="k-i" d="M1 7h20"/><circle class="k-m" cx="11" cy="7" r="4"/>',
         "strongest attack, 95 % interval"),
        ('<path class="k-ce" d="M11 3l4 4-4 4-4-4z"/>', "ceiling: undefended"),
        ('<rect class="k-a" x="1" y="3" width="20" height="8"/>', "what the claim allows"),
    ]  # fmt: skip
    if any(finding.contradicts for finding in card.pillars[Pillar.INPUT].findings):
        entries.append(('<path class="k-x" d="M7 3l8 8M15 3l-8 8"/>', "contradicts the claim"))
    return element(
        "section",
        heading,
        element(
            "p",
            "How often the server's best attack names the attribute. The figure at the right is "
            "the excess over the floor.",
        ),
        _legend(entries),
        element(
            "div",
            *(
                element(
                    "div", element("h3", words.capital(words.requests(m))), drawing, class_="panel"
                )
                for m, drawing in panels
            ),
            class_="panels",
        ),
    )


def _seen(card: Scorecard, gallery: Gallery | None) -> Html:
    heading = element("h2", "What the server sees")
    if gallery is None:
        text = "No reconstructions were handed to this report."
        return element("section", heading, element("p", text, class_="muted"), *_rebuilt(card))
    drawn = {
        "image": "Same attacker, same effort.",
        "series": "Same attacker, same effort. The faint line is the true signal.",
        "vector": "Same attacker, same effort. The short marks are the true values.",
    }[gallery.shown_as]
    text = (
        "Inputs beside the best reconstruction of each from what reaches the server. A protected "
        "reconstruction that looks like a typical record of its class is what "
        f"{words.floor(card)} gives. "
    )
    return element(
        "section", heading, element("p", text + drawn), *_rebuilt(card), render_gallery(gallery)
    )


def _drawn(card: Scorecard) -> Html | None:
    """Curves of the attacks on training data and model, where findings hold them."""
    figures = attack_figures(card)
    if not figures:
        return None
    return element(
        "section",
        element("h2", "How strong the attacks were"),
        element(
            "div",
            *(element("div", element("h3", title), drawing, class_="panel")
              for title, drawing in figures),
            class_="panels",
        ),
    )  # fmt: skip


def _remade(rebuilt: Sequence[Gallery]) -> Html | None:
    if not rebuilt:
        return None
    return element(
        "section",
        element("h2", "What attackers rebuilt"),
        element("p", "True records beside the reconstruction of each, and what a guess would be."),
        *(render_gallery(gallery) for gallery in rebuilt),
    )


def _rebuilt(card: Scorecard) -> list[Html]:
    """What reconstruction scored: findings about the input that are no accuracy."""
    said = (
        f"{words.capital(f.attack)} of the {f.target}, measured as {f.metric}: "
        f"{words.quantity(f.metric, f.value)} (95 % interval {words.interval(f.metric, f.ci)}); "
        f"{words.floor(card)} gives {words.quantity(f.metric, f.floor)}"
        + ("" if f.ceiling is None else f", undefended {words.quantity(f.metric, f.ceiling)}")
        for f in card.pillars[Pillar.INPUT].findings
        if not words.is_share(f.metric)
    )
    return [element("p", f"{text}.") for text in said]


def _replay(card: Scorecard) -> Html:
    replay, method = card.replay, card.method
    parameters = ", ".join(f"{name} = {value}" for name, value in method.parameters.items())
    facts = (
        ("Method", f"{method.name}" + (f" ({parameters})" if parameters else "")),
        ("Seeds", ", ".join(map(str, replay.seeds)) or "none"),
        ("Versions", ", ".join(f"{name} {number}" for name, number in replay.versions.items())),
        ("Data digest", replay.data_digest),
    )
    return element(
        "section",
        element("h2", "How to replay this"),
        element("pre", element("code", replay.command), tabindex="0"),
        element(
            "dl",
            *(part for t, d in facts for part in (element("dt", t), element("dd", d))),
            class_="replay",
        ),
    )


def _footer() -> Html:
    terms = (part for t, d in _GLOSSARY for part in (element("dt", t), element("dd", d)))
    return element("footer", element("h2", "How to read this page"), element("dl", *terms))


def _latency(cost: Cost) -> str:
    latency = cost.latency_ms
    return (
        "" if latency is None else f"{latency.protected:.2f} ms ({latency.plain:.2f} ms undefended)"
    )
