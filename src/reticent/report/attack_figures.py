"""What attacks on training data, output and model measured, drawn from the findings' details."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reticent.attacks.finding import Finding
from reticent.audit.epsilon import dp_region
from reticent.audit.scorecard import Scorecard
from reticent.guarantee import DifferentialPrivacy, Guarantee
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
from reticent.report.words import share

_CHANCE_EXPOSURE = 1 / math.log(2)  # mean of an exposure without memorisation, in bits
_SHOWN = 6
_CURVES = {
    "roc": "the attack",
    "control_roc": "unprotected model",
    "blind_roc": "without the model",
}


def attack_figures(card: Scorecard) -> list[tuple[str, Html]]:
    """Title and drawing of every figure that the card's findings hold the numbers for.

    `details` may hold `roc`, `exposures`, `fidelity_curve` and `epsilon_lower_bound`; a card whose
    findings hold none of them gives an empty list.
    """
    findings, guarantees = card.findings, card.guarantees
    drawn = [
        (f"{finding.attack} on {finding.target}: ROC", roc_figure(finding, guarantees, name=name))
        for name, finding in _with(findings, "roc", "roc")
    ]
    drawn += [
        (f"{finding.attack} on {finding.target}: exposure", exposure_figure(finding, name=name))
        for name, finding in _with(findings, "exposures", "exposure")
    ]
    curves = [finding for _name, finding in _with(findings, "fidelity_curve", "fidelity")]
    if curves:
        drawn.append(("Fidelity of stolen models against queries", fidelity_figure(curves)))
    bounds = [finding for _name, finding in _with(findings, "epsilon_lower_bound", "epsilon")]
    if bounds:
        drawn.append(("Epsilon: shown, claimed, refutable", epsilon_figure(bounds, guarantees)))
    return drawn


def roc_figure(
    finding: Finding, guarantees: Sequence[Guarantee] = (), *, name: str = "roc"
) -> Html:
    """True over false positives, both logarithmic, over the region that the claim allows.

    `details["roc"]` is {"fpr": [...], "tpr": [...]}; `control_roc` (the same attack on an
    unprotected model) and `blind_roc` (no model at all) are drawn too where they are there.
    """
    curves = {
        key: curve
        for key in ("control_roc", "blind_roc", "roc")
        if (curve := _curve(finding.details.get(key))) is not None
    }
    positive = [value for curve in curves.values() for value in curve[curve > 0]]
    edge = 10 ** math.floor(math.log10(min([0.01, *positive])) - 1e-9)
    claim = _claim(finding, guarantees)
    with drawing_axes(3.6, 3.3, left=36, top=16) as (figure, axes):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(edge, 1.0)
        axes.set_ylim(edge, 1.0)
        ticks = [10.0**power for power in range(round(math.log10(edge)), 1)]
        axes.set_xticks(ticks, [f"{100 * tick:g}" for tick in ticks])
        axes.set_yticks(ticks[1:], [f"{100 * tick:g}" for tick in ticks[1:]])
        axes.minorticks_off()
        axes.grid()
        axes.plot([edge, 1], [edge, 1], color=FLOOR, linewidth=0.9, dashes=(4, 3), zorder=2)
        if claim is not None:
            across = np.geomspace(edge, 1.0, 200)
            allowed = dp_region(across, epsilon=claim.epsilon, delta=claim.delta)
            axes.fill_between(across, edge, np.maximum(allowed, edge), color=ALLOWED, alpha=0.14)
            axes.plot(across, np.maximum(allowed, edge), color=ALLOWED, linewidth=1.0, zorder=3)
        for key, curve in curves.items():
            axes.plot(
                *np.maximum(curve, edge),
                color=_curve_colour(key, finding),
                linewidth=1.8 if key == "roc" else 1.1,
                drawstyle="steps-post",
                zorder=5 if key == "roc" else 4,
            )
        said = [(_CURVES[key], _curve_colour(key, finding)) for key in curves if len(curves) > 1]
        said += [("CONTRADICTED", BAD)] if finding.contradicts else []
        for line, (label, colour) in enumerate(reversed(said)):
            axes.text(
                0.97, 0.04 + 0.055 * line, label, transform=axes.transAxes, ha="right",
                color=colour, fontweight="bold" if label == "CONTRADICTED" else "normal",
                fontsize=7 if label == "CONTRADICTED" else 8.5,
            )  # fmt: skip
        axes.set_xlabel("false positives, %  (non-members called members)")
        axes.set_title("true positives, %  (dashes: chance)", loc="left", fontsize=8.5, color=MUTED)
        return inline_svg(figure, name, _roc_alt(finding, curves, claim))


def exposure_figure(finding: Finding, *, name: str = "exposure") -> Html:
    """Every canary's exposure in bits, the controls' beside it, up to the most there can be.

    `details["exposures"]` [..] and `log2_space`, the exposure of a canary that ranks first;
    `control_exposures`, of canaries never trained on, where they are there.
    """
    exposures = np.asarray(finding.details["exposures"], dtype=np.float64)
    controls = np.asarray(finding.details.get("control_exposures", ()), dtype=np.float64)
    most = finding.details.get("log2_space")
    top = max([*exposures, *controls, 2 * _CHANCE_EXPOSURE, *([most] if most else [])])
    rows = [("trained on", exposures, MEASURED), ("controls", controls, FLOOR)]
    rows = [row for row in rows if len(row[1])]
    left = 12 + LETTER * max(len(label) for label, _values, _colour in rows)
    with drawing_axes(4.0, 0.75 + 0.42 * len(rows), left=left) as (figure, axes):
        axes.set_xlim(-0.02 * top, 1.04 * top)
        axes.set_ylim(len(rows) - 0.5, -0.75)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.axvline(_CHANCE_EXPOSURE, color=MUTED, linewidth=0.8, dashes=(4, 3))
        if most:
            axes.axvline(most, color=CEILING, linewidth=1.2)
            axes.text(most, -0.72, "most ", ha="right", va="top", color=CEILING, fontsize=7)
        for row, (label, values, colour) in enumerate(rows):
            axes.plot(
                values, row + _spread_out(values, top), linestyle="none", marker="o",
                markersize=4.2, color=colour, alpha=0.55, markeredgewidth=0, zorder=3,
            )  # fmt: skip
            middle = float(np.median(values))
            axes.plot([middle, middle], [row - 0.3, row + 0.3], color=colour, lw=1.8, zorder=4)
            _row_label(axes, row, label, BAD if finding.contradicts and row == 0 else INK)
        axes.set_xlabel("exposure, bits  (dashes: mean by chance)")
        said = "; ".join(
            f"{label}: {len(values)} canaries, median {np.median(values):.2f}, "
            f"highest {values.max():.2f}"
            for label, values, _colour in rows
        )
        limit = f" At most {most:.2f} bits." if most else ""
        return inline_svg(figure, name, f"Exposure of canaries in bits. {said}.{limit}")


def fidelity_figure(findings: Sequence[Finding], *, name: str = "fidelity") -> Html:
    """How often a stolen model agrees with the service, over the queries it took.

    `details["fidelity_curve"]` is [[queries, fidelity], ...] of one finding per line.
    """
    curves = [
        (finding, np.asarray(sorted(finding.details["fidelity_curve"]), dtype=np.float64).T)
        for finding in findings[:_SHOWN]
    ]
    queries = np.concatenate([curve[0] for _finding, curve in curves])
    lowest = 100 * min(float(curve[1].min()) for _finding, curve in curves)
    with drawing_axes(4.6, 2.9, left=28, top=16) as (figure, axes):
        axes.set_xscale("log")
        first, last = max(1.0, float(queries.min())), max(10.0, float(queries.max()))
        axes.set_xlim(first / 1.15, last * (last / first) ** 0.45)
        axes.set_ylim(max(0.0, lowest - 5), 101.5)
        low, high = math.ceil(math.log10(first) - 1e-9), math.floor(math.log10(last) + 1e-9)
        ticks = [10.0**power for power in range(low, high + 1)] or [first, last]
        axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        axes.minorticks_off()
        axes.grid()
        floor = max(finding.floor for finding, _curve in curves)
        axes.axhline(100 * floor, color=FLOOR, linewidth=0.9, dashes=(4, 3))
        ends = []
        for index, (finding, curve) in enumerate(curves):
            colour = BAD if finding.contradicts else (MEASURED, CEILING, INK, MUTED)[index % 4]
            axes.plot(
                np.maximum(curve[0], first), 100 * curve[1], color=colour, linewidth=1.5,
                marker="o", markersize=3.6, markerfacecolor=PAPER if index >= 4 else colour,
            )  # fmt: skip
            ends.append((float(curve[0, -1]), 100 * float(curve[1, -1]), finding.attack, colour))
        _label_ends(axes, ends)
        axes.set_xlabel("queries")
        axes.set_title(
            "agreement with the service, %  (dashes: floor)",
            loc="left",
            fontsize=8.5,
            color=MUTED,
        )
        said = "; ".join(
            f"{finding.attack}: {share(float(curve[1, -1]))} after {curve[0, -1]:.0f} queries"
            for finding, curve in curves
        )
        return inline_svg(figure, name, f"Fidelity of stolen models over queries. {said}.")


def epsilon_figure(
    findings: Sequence[Finding], guarantees: Sequence[Guarantee] = (), *, name: str = "epsilon"
) -> Html:
    """Per audit: the epsilon it shows at least, the one it could have shown, and the claim's."""
    shown = list(findings)[:_SHOWN]
    claims = [_claim(finding, guarantees) for finding in shown]
    limits = [_number(finding.details, "max_epsilon") for finding in shown]
    bounds = [_number(finding.details, "epsilon_lower_bound") or 0.0 for finding in shown]
    claimed = [
        claim.epsilon if claim else _number(finding.details, "claimed_epsilon")
        for claim, finding in zip(claims, shown, strict=True)
    ]
    top = max([1.0, *bounds, *(value for value in (*limits, *claimed) if value is not None)])
    names = [_shortened(f"{finding.attack}, {finding.target}") for finding in shown]
    with drawing_axes(4.6, 0.6 + 0.5 * len(shown), bottom=30) as (figure, axes):
        axes.set_xlim(0, 1.05 * top)
        axes.set_ylim(len(shown) - 0.5, -0.75)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        for row, finding in enumerate(shown):
            colour = BAD if finding.contradicts else MEASURED
            limit, claim = limits[row], claimed[row]
            if limit is not None:
                axes.barh([row], [limit], height=0.3, color=RULE, alpha=0.6, zorder=2)
            axes.barh([row], [bounds[row]], height=0.3, color=colour, zorder=3)
            if claim is not None:
                axes.plot([claim, claim], [row - 0.17, row + 0.24], color=ALLOWED, lw=2.2, zorder=4)
            inked = colour if finding.contradicts else INK
            axes.text(0, row - 0.22, names[row], va="bottom", color=inked, parse_math=False)
        axes.set_xlabel("epsilon  (bar: shown at least; pale: refutable at most; stroke: claimed)")
        said = "; ".join(
            f"{label}: at least {bound:.2f}"
            + ("" if limit is None else f", refutable up to {limit:.2f}")
            + ("" if claim is None else f", claimed {claim:.2f}")
            + (", contradicts the claim" if finding.contradicts else "")
            for label, bound, limit, claim, finding in zip(
                names, bounds, limits, claimed, shown, strict=True
            )
        )
        return inline_svg(figure, name, f"Lower bounds on epsilon. {said}.")


def _with(findings: Sequence[Finding], key: str, name: str) -> list[tuple[str, Finding]]:
    """The findings whose details hold `key`, each with an id of its own for the drawing.

    An attack has one curve, however many figures of it are reported (the one that judges a claim
    is drawn, with the claim's region); it has one bound per claim.
    """
    held: dict[tuple[str, ...], Finding] = {}
    for finding in sorted(findings, key=lambda each: "tests" not in each.details):
        if finding.details.get(key) is not None:
            claim = str(finding.details.get("tests")) if key == "epsilon_lower_bound" else ""
            held.setdefault((finding.attack, finding.target, claim), finding)
    shown = list(held.values())[:_SHOWN]
    return [(f"{name}{index}", finding) for index, finding in enumerate(shown)]


def _curve(points: Any) -> NDArray[np.float64] | None:
    """(2, k): false and true positives, or None."""
    if points is None:
        return None
    return np.asarray([points["fpr"], points["tpr"]], dtype=np.float64)


def _claim(finding: Finding, guarantees: Sequence[Guarantee]) -> DifferentialPrivacy | None:
    """The claim of differential privacy that the finding names."""
    named = (finding.contradicts, finding.details.get("tests"))
    for guarantee in guarantees:
        if guarantee.id in named and isinstance(guarantee.strength, DifferentialPrivacy):
            return guarantee.strength
    return None


def _curve_colour(key: str, finding: Finding) -> str:
    if key == "roc":
        return BAD if finding.contradicts else MEASURED
    return CEILING if key == "control_roc" else FLOOR


def _roc_alt(
    finding: Finding,
    curves: Mapping[str, NDArray[np.float64]],
    claim: DifferentialPrivacy | None,
) -> str:
    said = [f"ROC of {finding.attack} on {finding.target}, both axes logarithmic."]
    for key, curve in curves.items():
        rates = ", ".join(
            f"{share(_tpr_at(curve, fpr))} at {_percent(fpr)}" for fpr in (0.001, 0.01, 0.1)
        )
        said.append(f"{_CURVES[key].capitalize()}: true positives {rates} false positives.")
    if claim is not None:
        said.append(f"The claim allows epsilon {claim.epsilon:g}, delta {claim.delta:g}.")
    if finding.contradicts:
        said.append("The curve contradicts the claim.")
    return " ".join(said)


def _tpr_at(curve: NDArray[np.float64], fpr: float) -> float:
    within = curve[1][curve[0] <= fpr + 1e-12]
    return float(within.max()) if len(within) else 0.0


def _spread_out(values: NDArray[np.float64], top: float) -> NDArray[np.float64]:
    """Offsets that keep marks of nearby values from covering each other."""
    shelf = np.floor(values / top * 40)
    order = np.argsort(shelf, kind="stable")
    place = np.zeros(len(values))
    for level in np.unique(shelf):
        same = order[shelf[order] == level]
        place[same] = np.arange(len(same)) - (len(same) - 1) / 2
    return np.clip(0.07 * place, -0.3, 0.3)


def _label_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Name each line at its last point, from the top down, pushed apart where they would touch."""
    low, high = axes.get_ylim()
    room = 10 * (high - low) / axes.bbox.height
    below = math.inf
    for x, y, label, colour in sorted(ends, key=lambda end: (-end[1], end[2])):
        below = min(y, below - room)
        axes.annotate(
            _shortened(label), (x, below), xytext=(6, -3), textcoords="offset points",
            color=colour, parse_math=False, annotation_clip=False,
        )  # fmt: skip


def _row_label(axes: Any, row: int, label: str, colour: str) -> None:
    axes.annotate(
        label, (0, row), xycoords=("axes fraction", "data"), xytext=(-6, 0),
        textcoords="offset points", ha="right", va="center", annotation_clip=False, color=colour,
    )  # fmt: skip


def _shortened(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _percent(rate: float) -> str:
    return f"{100 * rate:g}\u00a0%"


def _number(details: Mapping[str, Any], key: str) -> float | None:
    value = details.get(key)
    return None if value is None else float(value)
