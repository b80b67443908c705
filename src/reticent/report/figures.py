"""The report's plots as inline SVG that takes its colours from the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from reticent.attacks.finding import Finding
from reticent.audit.frontier import Point, pareto
from reticent.audit.scorecard import Scorecard
from reticent.guarantee import Pillar
from reticent.report.drawing import (
    ALLOWED,
    BAD,
    CEILING,
    FLOOR,
    INK,
    LETTER,
    MEASURED,
    MUTED,
    PAPER,
    RULE,
    drawing_axes,
    inline_svg,
)
from reticent.report.markup import Html
from reticent.report.words import change, is_share, quantity, regime, task_metric


def frontier_figure(card: Scorecard) -> Html:
    """Utility over worst excess leakage, one mark per mechanism, with the Pareto line."""
    points, metric = card.frontier, task_metric(card)
    baseline = max(p.utility for p in points) if card.utility is None else card.utility.baseline
    scale = 100.0 if is_share(metric) else 1.0
    with drawing_axes(4.0, 3.3, left=28, top=20) as (figure, axes):
        spots = [(100 * max(0.0, p.excess), scale * p.utility) for p in points]
        _frame(axes, spots, scale * baseline)
        axes.axhline(scale * baseline, color=MUTED, linewidth=0.8, dashes=(4, 3))
        limit = _excess_limit(card)
        if limit is not None:
            axes.axvspan(axes.get_xlim()[0], 100 * limit, color=ALLOWED, alpha=0.16, linewidth=0)
        front = sorted(
            (100 * max(0.0, p.excess), scale * p.utility)
            for p in pareto(points, ("utility", "excess"))
        )
        axes.plot(*zip(*front, strict=True), color=MEASURED, linewidth=1.0, alpha=0.5)
        for point, spot in zip(points, spots, strict=True):
            _mark(axes, point, spot)
        _label_points(axes, points, spots, 100 * (limit or 0.0))
        unit = "%" if is_share(metric) else ""
        axes.set_xlabel("worst excess leakage, percentage points  (left is better)")
        axes.set_title(
            f"{metric}{', ' if unit else ''}{unit}  (up is better; dashes: undefended)",
            loc="left",
            fontsize=8.5,
            color=MUTED,
            parse_math=False,
        )
        return inline_svg(figure, "frontier", _frontier_alt(points, metric))


def latency_figure(card: Scorecard) -> Html:
    """Utility over the time of one query, one mark per mechanism that was timed."""
    points, metric = [p for p in card.frontier if p.latency_ms is not None], task_metric(card)
    scale = 100.0 if is_share(metric) else 1.0
    spots = [(math.log10(max(p.latency_ms or 0.0, 1e-3)), scale * p.utility) for p in points]
    across, up = zip(*spots, strict=True)
    room = (max(up) - min(up)) or 1.0
    with drawing_axes(4.0, 3.3, left=28, top=20) as (figure, axes):
        axes.set_xlim(math.floor(min(across)) - 0.1, math.ceil(max(across)) + 0.9)
        axes.set_ylim(min(up) - 0.14 * room, max(up) + 0.14 * room)
        powers = range(math.floor(min(across)), math.ceil(max(across)) + 1)
        axes.set_xticks(list(powers), [f"{10.0**power:g}" for power in powers])
        axes.grid()
        for point, spot in zip(points, spots, strict=True):
            _mark(axes, point, spot)
        _label_points(axes, points, spots, 0.0)
        unit = ", %" if is_share(metric) else ""
        axes.set_xlabel("milliseconds a query, both halves  (left is better)")
        axes.set_title(
            f"{metric}{unit}  (up is better)", loc="left", fontsize=8.5, color=MUTED,
            parse_math=False,
        )  # fmt: skip
        said = "; ".join(
            f"{p.method}: {p.latency_ms:.2f} ms, {quantity(metric, p.utility)}" for p in points
        )
        return inline_svg(figure, "latency", f"Utility and the time of one query. {said}.")


def alone_figure(card: Scorecard) -> Html:
    """Per mechanism: what a client decodes without the server, beside the service itself."""
    metric = task_metric(card)
    scale = 100.0 if is_share(metric) else 1.0
    points = [p for p in card.frontier if p.few_shot or p.alone is not None]
    values = [
        scale * value
        for p in points
        for value in (*p.few_shot.values(), p.utility, p.alone)
        if value is not None
    ]
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or 1.0
    left = 12 + LETTER * max(len(_name(point)) for point in points)
    with drawing_axes(4.0, 0.55 + 0.29 * len(points), left=left) as (figure, axes):
        axes.set_xlim(low - room, high + room)
        axes.set_ylim(len(points) - 0.4, -0.6)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=5, steps=[1, 2, 5, 10])
        axes.grid(axis="x")
        for row, point in enumerate(points):
            _alone_row(axes, row, point, scale)
        axes.set_xlabel(f"{metric}{', %' if scale == 100 else ''}", parse_math=False)
        said = "; ".join(
            f"{p.method}: "
            + ", ".join(f"{quantity(metric, v)} with {k}" for k, v in sorted(p.few_shot.items()))
            for p in points
        )
        return inline_svg(
            figure, "alone", f"Decoding without the server, examples per class. {said}."
        )


def leakage_figures(card: Scorecard) -> list[tuple[int, Html]]:
    """Per number of pooled requests m: floor, strongest attack with interval, ceiling."""
    findings = [f for f in card.pillars[Pillar.INPUT].findings if is_share(f.metric)]
    rows = strongest_rows(findings)
    targets = list(dict.fromkeys(_row_name(f) for f in findings))
    drawn = []
    for count in sorted({f.requests for f in findings}):
        shown = [rows[target, count] for target in targets if (target, count) in rows]
        drawn.append((count, _leakage_panel(card, count, shown)))
    return drawn


def strongest_rows(findings: Sequence[Finding]) -> dict[tuple[str, int], Finding]:
    """The strongest finding per target and number of requests; a contradiction comes first."""
    rows: dict[tuple[str, int], Finding] = {}
    for finding in findings:
        key = (_row_name(finding), finding.requests)
        if key not in rows or _strength(finding) > _strength(rows[key]):
            rows[key] = finding
    return rows


def _leakage_panel(card: Scorecard, count: int, findings: Sequence[Finding]) -> Html:
    with drawing_axes(3.4, 0.3 + 0.55 * len(findings), bottom=18) as (figure, axes):
        axes.set_xlim(-2, 102)
        axes.set_ylim(len(findings) - 0.45, -0.65)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xticks([0, 25, 50, 75, 100], ["0 %", "25", "50", "75", "100"])
        axes.grid(axis="x")
        for row, finding in enumerate(findings):
            _leakage_row(axes, row, finding, _allowed(card, finding))
        said = "; ".join(_leakage_alt(finding) for finding in findings)
        return inline_svg(figure, f"leak{count}", f"Attacks that pool {count} requests. {said}.")


def _leakage_row(axes: Any, row: int, finding: Finding, allowed: float | None) -> None:
    broken = finding.contradicts is not None
    colour = BAD if broken else MEASURED
    value, floor = 100 * finding.value, 100 * finding.floor
    low, high = (100 * bound for bound in finding.ci)
    axes.plot([0, 100], [row, row], color=RULE, linewidth=0.8, zorder=1)
    if allowed is not None:
        end = min(100.0, floor + 100 * allowed)
        axes.fill_between([floor, end], row - 0.16, row + 0.16, color=ALLOWED, alpha=0.3, lw=0)
    if finding.ceiling is not None:
        axes.plot(
            [100 * finding.ceiling], [row], marker="D", markersize=4.6, color=CEILING,
            markerfacecolor=PAPER, zorder=3,
        )  # fmt: skip
    axes.plot([floor, value], [row, row], color=colour, linewidth=2.6, alpha=0.35, zorder=2)
    axes.plot([floor, floor], [row - 0.2, row + 0.2], color=FLOOR, linewidth=1.8, zorder=4)
    axes.plot([low, high], [row, row], color=colour, linewidth=1.3, zorder=5)
    axes.plot(
        [value], [row], marker="X" if broken else "o", markersize=6.5 if broken else 5.0,
        color=colour, markeredgecolor=PAPER, markeredgewidth=0.6, zorder=6,
    )  # fmt: skip
    name = _row_name(finding)
    name = name if len(name) <= 34 else f"{name[:33]}…"
    said = change(finding.metric, finding.excess)
    weight = "bold" if broken else "normal"
    over = {"va": "bottom", "fontweight": weight, "parse_math": False}
    axes.text(0, row - 0.25, name, color=BAD if broken else INK, **over)
    axes.text(100, row - 0.25, f"✕ {said}" if broken else said, ha="right", color=colour, **over)
    if broken:
        axes.text(
            100, row + 0.17, "CONTRADICTED", ha="right", va="top", color=BAD, fontsize=7,
            fontweight="bold",
        )  # fmt: skip


def _alone_row(axes: Any, row: int, point: Point, scale: float) -> None:
    marks = [scale * value for _, value in sorted(point.few_shot.items())]
    service = scale * point.utility
    reach = [*marks, service]
    axes.plot([min(reach), max(reach)], [row, row], color=RULE, linewidth=2.4, zorder=1)
    axes.plot([service, service], [row - 0.2, row + 0.2], color=INK, linewidth=1.8, zorder=4)
    for index, value in enumerate(marks):
        face = PAPER if index == 0 and len(marks) > 1 else CEILING
        axes.plot(
            [value], [row], marker="o", markersize=5.2, color=CEILING, markerfacecolor=face,
            zorder=3,
        )  # fmt: skip
    if point.alone is not None:
        axes.plot(
            [scale * point.alone], [row], marker="D", markersize=4.4, color=MUTED,
            markerfacecolor=PAPER, zorder=2,
        )  # fmt: skip
    axes.annotate(
        _name(point), (0, row), xycoords=("axes fraction", "data"), xytext=(-6, 0),
        textcoords="offset points", ha="right", va="center", parse_math=False,
        annotation_clip=False, color=BAD if point.contradicted else INK,
        fontweight="bold" if point.chosen else "normal",
    )  # fmt: skip


def _mark(axes: Any, point: Point, spot: tuple[float, float]) -> None:
    colour = BAD if point.contradicted else MEASURED
    marker = "X" if point.contradicted else "o"
    face = colour if point.guaranteed or point.contradicted else PAPER
    if point.chosen:
        axes.plot(*spot, marker="o", markersize=12, color=INK, fillstyle="none", mew=1.2, zorder=4)
    axes.plot(
        *spot, marker=marker, markersize=7.5 if point.contradicted else 6, color=colour,
        markerfacecolor=face, zorder=5, clip_on=False,
    )  # fmt: skip


def _frame(axes: Any, spots: Sequence[tuple[float, float]], baseline: float) -> None:
    across, up = zip(*spots, strict=True)
    low, high = min(*up, baseline), max(*up, baseline)
    room, width = (high - low) or 1.0, max(*across, 1.0)
    axes.set_xlim(-0.05 * width, 1.24 * width)
    axes.set_ylim(low - 0.14 * room, high + 0.14 * room)
    # The room at the right is for names; an excess can't exceed 100 points.
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= min(100, 1.12 * width)])
    axes.grid()


def _label_points(
    axes: Any, points: Sequence[Point], spots: Sequence[tuple[float, float]], limit: float
) -> None:
    """Place each name beside its mark where it covers least: no other mark, no other name."""
    place = axes.transData.transform
    frame = axes.bbox
    pixels = [tuple(place(spot)) for spot in spots]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in pixels]
    order = sorted(range(len(points)), key=lambda i: (not points[i].chosen, pixels[i]))
    for index in order:
        name, (x, y) = _name(points[index]), pixels[index]
        width = LETTER * len(name) * (1.1 if points[index].chosen else 1.0)
        candidates = [
            (dx if side > 0 else dx - width, dy)
            for dx, dy, side in (
                (9, -3, 1), (-9, -3, -1), (7, 6, 1), (7, -12, 1), (-7, 6, -1), (-7, -12, -1),
                (-width / 2, 9, 1), (-width / 2, -16, 1), (12, 13, 1), (12, -20, 1),
                (-width / 2, 19, 1), (-width / 2, -26, 1),
            )
        ]  # fmt: skip
        boxes = [(x + dx, y + dy, x + dx + width, y + dy + 8.5) for dx, dy in candidates]
        costs = [
            sum(_overlap(box, other) for other in taken)
            + 100 * (box[0] < frame.x0 or box[2] > frame.x1 + 8 or box[1] < frame.y0)
            + rank * 0.5
            for rank, box in enumerate(boxes)
        ]
        best = costs.index(min(costs))
        taken.append(boxes[best])
        axes.annotate(
            name, spots[index], xytext=candidates[best], textcoords="offset points",
            parse_math=False, annotation_clip=False, zorder=6,
            color=BAD if points[index].contradicted else INK,
            fontweight="bold" if points[index].chosen else "normal",
        )  # fmt: skip


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    up = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, up)


def _excess_limit(card: Scorecard) -> float | None:
    gates = [gate.limit for name, gate in card.gates.items() if "excess" in name]
    return min(gates, default=None)


def _allowed(card: Scorecard, finding: Finding) -> float | None:
    """What the tightest claim of the same adversary allows this finding to exceed its floor by."""
    limits = [
        claim.allowed_excess(finding.requests)
        for claim in card.pillars[finding.pillar].guarantees
        if claim.adversary.name == finding.adversary
    ]
    return min((limit for limit in limits if limit is not None), default=None)


def _strength(finding: Finding) -> tuple[bool, float]:
    return finding.contradicts is not None, finding.excess


def _row_name(finding: Finding) -> str:
    said = regime(finding)
    return finding.target if said is None else f"{finding.target}, {said}"


def _name(point: Point) -> str:
    return f"{point.method} ✕" if point.contradicted else point.method


def _frontier_alt(points: Sequence[Point], metric: str) -> str:
    said = "; ".join(
        f"{p.method}: utility {quantity(metric, p.utility)}, excess "
        f"{change('accuracy', max(0.0, p.excess))}{', contradicted' if p.contradicted else ''}"
        for p in points
    )
    return f"Utility over worst excess leakage per mechanism. {said}."


def _leakage_alt(finding: Finding) -> str:
    ceiling = (
        "" if finding.ceiling is None else f", ceiling {quantity(finding.metric, finding.ceiling)}"
    )
    return (
        f"{_row_name(finding)}: floor {quantity(finding.metric, finding.floor)}, measured "
        f"{quantity(finding.metric, finding.value)}{ceiling}"
        f"{', contradicts the claim' if finding.contradicts else ''}"
    )
