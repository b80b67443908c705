"""The plots: what is drawn where, read back from the SVG."""

from __future__ import annotations

import re
from dataclasses import replace

from specimen import contradicted, holds

from reticent.guarantee import Pillar
from reticent.report.figures import (
    alone_figure,
    frontier_figure,
    leakage_figures,
    strongest_rows,
)


def test_every_mechanism_is_named_in_the_frontier() -> None:
    drawn = frontier_figure(holds())
    for point in holds().frontier:
        assert f">{point.method}" in drawn
    assert ">center_noise ✕<" in drawn


def test_the_alternative_text_carries_the_numbers() -> None:
    label = re.search(r'aria-label="([^"]*)"', frontier_figure(contradicted()))
    assert label is not None
    assert "center_noise: utility 88.1\u00a0%, excess +30.8\u00a0points, contradicted" in label[1]


def test_names_do_not_cover_each_other() -> None:
    """Boxes as wide as the letters that are drawn; a touch is allowed, a cover is not."""
    drawn = frontier_figure(holds())
    boxes = [
        (float(x), float(y), float(x) + 4.4 * len(name), name)
        for x, y, name in re.findall(
            r'<text[^>]*? x="([-\d.]+)" y="([-\d.]+)"[^>]*>([^<]+)</text>', drawn
        )
        if name.split()[0] in {point.method.split()[0] for point in holds().frontier}
    ]
    assert len(boxes) == len(holds().frontier)
    for index, (x0, y0, x1, _name) in enumerate(boxes):
        for a0, b0, a1, other in boxes[index + 1 :]:
            apart = x1 <= a0 + 2 or a1 <= x0 + 2 or abs(y0 - b0) >= 7
            assert apart, (_name, other)


def test_one_panel_per_number_of_requests() -> None:
    panels = leakage_figures(contradicted())
    assert [count for count, _drawing in panels] == [1, 8, 32]
    for _count, drawing in panels:
        assert "person, known users" in drawing
        assert "sex, unseen users" in drawing


def test_a_contradiction_is_written_into_its_panel() -> None:
    one, eight, _many = (drawing for _count, drawing in leakage_figures(contradicted()))
    assert ">CONTRADICTED<" not in one
    assert eight.count(">CONTRADICTED<") == 1
    assert "var(--bad)" in eight
    assert "var(--bad)" not in one


def test_other_scales_are_not_drawn_on_the_percent_axis() -> None:
    card = holds()
    row = card.pillars[Pillar.INPUT]
    only = tuple(replace(f, metric="explained variance") for f in row.findings)
    card = replace(card, pillars=card.pillars | {Pillar.INPUT: replace(row, findings=only)})
    assert leakage_figures(card) == []


def test_the_strongest_finding_stands_for_its_row() -> None:
    base = contradicted().pillars[Pillar.INPUT].findings[0]
    weak = replace(base, excess=0.01)
    strong = replace(base, excess=0.2)
    broken = replace(base, excess=0.1, contradicts="input/center-noise")
    key = ("person, known users", base.requests)
    assert strongest_rows([weak, strong])[key] is strong
    assert strongest_rows([strong, broken, weak])[key] is broken


def test_decoding_without_the_server_is_drawn_only_where_measured() -> None:
    drawn = alone_figure(holds())
    assert ">naive split<" in drawn
    assert ">plain<" not in drawn


def test_an_error_metric_can_be_drawn() -> None:
    card = holds()
    points = tuple(replace(p, utility=-10 * p.utility, few_shot={}, alone=None)
                   for p in card.frontier)  # fmt: skip
    card = replace(
        card,
        utility=replace(card.utility, metric="RMSE", baseline=8.9, protected=9.2, loss=0.3),
        frontier=points,
    )
    assert "RMSE" in frontier_figure(card)
