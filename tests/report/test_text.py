"""The terminal: one screen, the verdict first, nothing from data interpreted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console
from specimen import TASK, audited, contradicted, gate_failed, holds

from reticent.audit.scorecard import Scorecard
from reticent.report import render_text


def printed(card: Scorecard, width: int = 100, *, colour: bool = False) -> str:
    console = Console(width=width, color_system="standard" if colour else None, force_terminal=True)
    with console.capture() as capture:
        console.print(render_text(card))
    return capture.get().replace("\u00a0", " ")


@pytest.mark.parametrize("make", [holds, contradicted, gate_failed, audited])
def test_fits_one_screen(make: Callable[[], Scorecard]) -> None:
    lines = printed(make()).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("make", "word"),
    [(holds, "HOLDS"), (contradicted, "CONTRADICTED"), (gate_failed, "GATE FAILED")],
)
def test_the_verdict_is_the_first_line(make: Callable[[], Scorecard], word: str) -> None:
    assert word in printed(make()).splitlines()[0]


def test_a_contradiction_is_red_and_in_words() -> None:
    said = printed(contradicted(), colour=True)
    assert "\x1b[1;31m CONTRADICTED" in said
    assert "✕ CONTRADICTED" in printed(contradicted())
    assert printed(contradicted()).count("✕ input/center-noise, by") == 2


def test_many_contradictions_are_counted_not_dropped() -> None:
    card = contradicted()
    row = card.pillars[card.findings[0].pillar]
    more = tuple(f for f in row.findings if f.contradicts) * 3
    pillars = card.pillars | {card.findings[0].pillar: replace(row, findings=more)}
    said = printed(replace(card, pillars=pillars))
    assert "3 more contradictions" in said
    assert len(said.splitlines()) <= 40


def test_all_pillars_and_the_price_are_there() -> None:
    said = printed(holds())
    for part in ("training", "input", "output", "model", "not tested", "not protected",
                 "one labelled example per", "stand-alone classifier"):  # fmt: skip
        assert part in said


def test_generated_data_say_synthetic() -> None:
    assert "SYNTHETIC" in printed(gate_failed())


def test_square_brackets_are_text() -> None:
    card = replace(holds(), task=replace(TASK, title="[red]tricky[/red] [/]"), notices=("[bold]",))
    said = printed(card)
    assert "[red]tricky[/red] [/]" in said
    assert "[bold]" in said


def test_attacks_that_were_not_run_are_named() -> None:
    assert "Not run: stored_records." in printed(audited())
