"""The report's tables: mechanisms, pillars with their claims and attacks, costs and gates."""

from __future__ import annotations

from collections.abc import Sequence

from reticent.attacks.finding import Finding
from reticent.audit.frontier import pareto
from reticent.audit.scorecard import Encryption, Packing, Scorecard, Status
from reticent.guarantee import Guarantee, Pillar
from reticent.report import words
from reticent.report.figures import strongest_rows
from reticent.report.markup import Html, element, join

_CHIP = {Status.VIOLATED: "bad", Status.CONSISTENT: "good", Status.INCONCLUSIVE: "warn"}


def frontier_table(card: Scorecard) -> Html:
    """One row per mechanism with everything the two plots show."""
    metric = words.task_metric(card)
    counts = sorted({count for point in card.frontier for count in point.few_shot})
    best = pareto(card.frontier)
    timed = any(point.latency_ms is not None for point in card.frontier)
    head = ["Mechanism", words.capital(metric), "Worst excess", "Client computes",
            *["One query"] * timed,
            *(f"Client alone, {count} per class" for count in counts),
            "Classifier of same cost", "Undominated"]  # fmt: skip
    rows = []
    for p in card.frontier:
        bounds = words.signed_interval("accuracy", p.excess_ci) if p.excess_ci else "no interval"
        where = f"{p.target}, m = {p.requests}; {bounds}" if p.target else bounds
        decoded = [p.few_shot.get(count) for count in counts]
        cells = [
            words.quantity(metric, p.utility),
            _two(words.change("accuracy", p.excess), where),
            words.share(p.client_flops_share),
            *["not measured" if p.latency_ms is None else f"{p.latency_ms:.2f} ms"] * timed,
            *(_measured(metric, value) for value in (*decoded, p.alone)),
            "yes" if p in best else "no",
        ]
        notes = ["this deployment"] * p.chosen + ["CONTRADICTED"] * p.contradicted
        name = _two(p.method, ", ".join(notes) or None)
        kind = "broken-row" if p.contradicted else "chosen" if p.chosen else None
        rows.append(_row(name, cells, kind))
    note = (
        "Undominated: no other mechanism is at least as good in utility, leakage, client cost, "
        "decoding with the fewest examples and latency, and better in one of them."
    )
    return _table(head, rows, note)


def pillars(card: Scorecard) -> Html:
    rows = []
    for pillar, row in card.pillars.items():
        strongest = card.strongest(pillar)
        attack = "not tested" if strongest is None else _attack_words(strongest)
        decode = words.alone(card) if pillar is Pillar.MODEL else None
        if decode is not None:
            attack = decode if strongest is None else f"{attack}. {decode}"
        claims = [
            f"{g.mechanism}: {words.strength(g.strength)} ({words.against(g.adversary.name)})"
            for g in row.guarantees
        ]
        claimed = join(element("div", claim) for claim in claims) if claims else "not protected"
        worst = words.pillar_status(card, pillar)
        contradicted = strongest is not None and strongest.contradicts
        rows.append(
            element(
                "tr",
                element("th", words.capital(pillar.value), scope="row"),
                element("td", _chip(worst), data_label="Worst status"),
                element("td", claimed, data_label="Claimed"),
                element("td", attack, data_label="Strongest attack"),
                class_="broken-row" if contradicted else None,
            )
        )
    table = _table(["Pillar", "Worst status", "Claimed", "Strongest attack"], rows, None, "medium")
    return element(
        "section",
        element("h2", "Claims and attacks, pillar by pillar"),
        element(
            "p",
            "A pillar counts as its worst row. Nothing here is averaged.",
            class_="muted",
        ),
        table,
        *(_pillar(card, pillar) for pillar in Pillar),
        _untested(card),
    )


def _untested(card: Scorecard) -> Html | None:
    """Every attack that was not run, with the reason: silence would read as a pass."""
    if not card.untested:
        return None
    items = (element("li", element("b", name), f": {why}") for name, why in card.untested.items())
    return element(
        "article",
        element("header", element("h3", "Attacks that were not run")),
        element("ul", *items, class_="empty"),
        class_="pillar",
    )


def _pillar(card: Scorecard, pillar: Pillar) -> Html:
    row = card.pillars[pillar]
    decode = words.alone(card) if pillar is Pillar.MODEL else None
    return element(
        "article",
        element(
            "header",
            element("h3", words.capital(pillar.value)),
            _chip(words.pillar_status(card, pillar)),
        ),
        *(_claim(card, guarantee) for guarantee in row.guarantees),
        None
        if row.guarantees
        else element("p", "Not protected: nothing is claimed.", class_="empty"),
        element("p", decode, class_="empty") if decode else None,
        _findings(row.findings)
        if row.findings
        else element("p", "Not tested: no attack was run.", class_="empty"),
        class_="pillar",
    )


def _claim(card: Scorecard, guarantee: Guarantee) -> Html:
    tests = card.tests(guarantee)
    power = card.powerful(guarantee)
    tested = "none"
    if tests:
        noun = "measurement" if len(tests) == 1 else "measurements"
        tested = f"{len(tests)} {noun}, {len(power)} able to contradict"
    details: list[tuple[str, str | Html]] = [
        ("Claim", f"{words.capital(words.promise(guarantee))}."),
        ("Strength", f"{guarantee.strength.kind}: {words.strength(guarantee.strength)}"),
        ("Adversary", f"{guarantee.adversary.name}: sees {guarantee.adversary.sees}; "
                      f"knows {guarantee.adversary.knows}"),
        ("Assumes", element("ul", *(element("li", text) for text in guarantee.assumptions))
                    if guarantee.assumptions else "nothing further"),
        ("Tests", tested),
        ("Source", guarantee.source),
    ]  # fmt: skip
    return element(
        "div",
        element("div", _chip(card.status(guarantee)), element("p", element("code", guarantee.id))),
        element(
            "div",
            element("h3", guarantee.mechanism),
            element(
                "dl", *(part for t, d in details for part in (element("dt", t), element("dd", d)))
            ),
        ),
        class_="claim",
    )


def _findings(findings: Sequence[Finding]) -> Html:
    """The strongest attack per target and m, and every contradiction; the rest folded below."""
    strongest = list(strongest_rows(findings).values())
    shown = [f for f in findings if f.contradicts or f in strongest]
    rest = [f for f in findings if f not in shown]
    if not rest:
        return _findings_table(shown, None)
    return join(
        (
            _findings_table(shown, "The strongest attack on each target, and every contradiction."),
            element(
                "details",
                element("summary", f"{len(rest)} weaker measurements"),
                _findings_table(rest, None),
            ),
        )
    )


def _findings_table(findings: Sequence[Finding], caption: str | None) -> Html:
    head = ["On", "m", "Attack", "Measured", "Floor", "Ceiling", "Excess", "n", "Contradicts"]
    order = list(dict.fromkeys((f.target, words.regime(f)) for f in findings))
    rows = []
    for f in sorted(
        findings,
        key=lambda f: (
            f.contradicts is None, order.index((f.target, words.regime(f))), f.requests, -f.excess
        ),
    ):  # fmt: skip
        cells = [
            str(f.requests),
            _two(f.attack, f"{f.metric}, by {f.adversary}"),
            _two(words.quantity(f.metric, f.value), words.interval(f.metric, f.ci)),
            words.quantity(f.metric, f.floor),
            _measured(f.metric, f.ceiling),
            _two(words.change(f.metric, f.excess), words.signed_interval(f.metric, f.excess_ci)),
            _two(f"{f.n:,}", None if f.seeds == 1 else f"{f.seeds} seeds"),
            _two("CONTRADICTED", f.contradicts) if f.contradicts else "no",
        ]
        kind = "broken-row" if f.contradicts else None
        rows.append(_row(_two(f.target, words.regime(f)), cells, kind, text=(1,)))
    return _table(head, rows, caption, text=(0, 2))


def costs(card: Scorecard) -> Html | None:
    """Utility, costs and gates; None where a finished model was audited without any of them."""
    rows = [*_utility_rows(card), *_cost_rows(card)]
    if not rows and not card.gates:
        return None
    gates = [
        _row(
            name,
            [f"{gate.limit:g}", f"{gate.value:.4g}", "passed" if gate.passed else "FAILED"],
            None if gate.passed else "broken-row",
        )
        for name, gate in card.gates.items()
    ]
    return element(
        "section",
        element("h2", "Costs and gates"),
        _table(["", "Undefended", "Protected"], rows, None, "") if rows else None,
        _table(["Gate", "Limit", "Measured", "Outcome"], gates, None, "") if gates else None,
    )


def _utility_rows(card: Scorecard) -> list[Html]:
    utility = card.utility
    if utility is None:
        return []
    values = (utility.baseline, utility.protected)
    shown = [words.quantity(utility.metric, value) for value in values]
    return [_row(words.capital(utility.metric), shown)]


def _cost_rows(card: Scorecard) -> list[Html]:
    cost = card.cost
    if cost is None:
        return []
    times = ("not measured",) * 2
    if cost.latency_ms is not None:
        latency = cost.latency_ms
        times = (f"{latency.plain:.2f} ms", f"{latency.protected:.2f} ms")
    return [
        _row("Median latency of one query", times),
        _row("Client's operations", [words.share(0.0), words.share(cost.client_flops_share)]),
        _row("Client's parameters", [words.share(0.0), words.share(cost.client_params_share)]),
        _row("Request", ["the whole input", words.size(cost.request_bytes)]),
        _row("Reply", ["the answer", words.size(cost.reply_bytes)]),
        *_encryption_rows(cost.encryption),
    ]


def _encryption_rows(made: Encryption | None) -> list[Html]:
    """What the planner settled; the packings that it did not choose below."""
    if made is None:
        return []
    ring = f"levels {made.levels}, ring {made.ring:,}, modulus {made.modulus_bits} bits"
    rows = [
        ("Encryption, as planned", ring),
        (f"Packing: {made.chosen.packing}", _packing(made.chosen)),
        *((f"Not chosen: {other.packing}", _packing(other)) for other in made.others),
    ]
    return [_row(name, ["none", said]) for name, said in rows]


def _packing(made: Packing) -> str:
    return (
        f"{made.rotations} rotations, keys {words.size(made.key_bytes)}, upload "
        f"{words.size(made.upload_bytes)}, reply {words.size(made.reply_bytes)}, about "
        f"{made.server_ms:.0f} ms of the server's CPU"
    )


def _two(first: str, second: str | None) -> Html:
    """A cell of two lines: what counts, and below it what qualifies it."""
    return join((first, element("small", second) if second else None))


def _measured(metric: str, value: float | None) -> str:
    return "not tested" if value is None else words.quantity(metric, value)


def _row(
    name: str, cells: Sequence[str], kind: str | None = None, *, text: Sequence[int] = ()
) -> Html:
    return element(
        "tr",
        element("th", name, scope="row"),
        *(
            element("td", cell, class_=None if index in text else "num")
            for index, cell in enumerate(cells)
        ),
        class_=kind,
    )


def _table(
    head: Sequence[str],
    rows: Sequence[Html],
    caption: str | None,
    size: str = "wide",
    *,
    text: Sequence[int] | None = None,
) -> Html:
    """A table in its own scroll container, so that it can't widen the page."""
    left = range(len(head)) if size == "medium" else text or (0,)
    return element(
        "div",
        element(
            "table",
            element("caption", caption) if caption else None,
            element(
                "thead",
                element(
                    "tr",
                    *(
                        element("th", name, scope="col", class_=None if i in left else "num")
                        for i, name in enumerate(head)
                    ),
                ),
            ),
            element("tbody", *rows),
            class_=size or None,
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption or ", ".join(filter(None, head[:3])),
    )


def _chip(status: Status | None) -> Html:
    if status is None:
        return element("span", "○ not protected", class_="chip")
    tone = _CHIP.get(status)
    return element(
        "span",
        f"{words.SYMBOL[status]} {'CONTRADICTED' if status is Status.VIOLATED else status.value}",
        class_=f"chip {tone}" if tone else "chip",
    )


def _attack_words(finding: Finding) -> str:
    return (
        f"{finding.attack} on {finding.target}, {words.requests(finding.requests)}: "
        f"{words.quantity(finding.metric, finding.value)} "
        f"(floor {words.quantity(finding.metric, finding.floor)})"
        + (f"; CONTRADICTS {finding.contradicts}" if finding.contradicts else "")
    )
