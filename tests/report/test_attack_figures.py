"""The attack plots: what is drawn, read back from the SVG, and what the alternative text says."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from specimen import CLIENT, holds

from reticent.attacks.finding import Finding
from reticent.audit.epsilon import Confusion, epsilon_finding, judge
from reticent.audit.rates import roc
from reticent.audit.scorecard import PillarRow
from reticent.guarantee import DifferentialPrivacy, Guarantee, Pillar
from reticent.random import seeded
from reticent.report.attack_figures import (
    attack_figures,
    epsilon_figure,
    exposure_figure,
    fidelity_figure,
    roc_figure,
)

CLAIM = Guarantee(
    id="training/noise",
    pillar=Pillar.TRAINING_DATA,
    adversary=CLIENT,
    strength=DifferentialPrivacy(
        epsilon=2.0, delta=1e-5, neighboring_relation="add or remove", unit="record"
    ),
    mechanism="noise",
    assumptions=(),
    source="",
)


def membership(shift: float, **details: Any) -> Finding:
    """An attack on 2,000 + 2,000 records with the claim judged by it."""
    truth = np.arange(4000) < 2000
    scores = seeded(1, 1).normal(shift * truth, 1.0)
    found = judge(CLAIM, Confusion.at(scores, truth, 2.3))
    return epsilon_finding(
        found.epsilon,
        attack="likelihood ratio",
        target="membership",
        adversary="client",
        n=4000,
        perfect=found.perfect,
        judgement=found,
        details={**roc(scores, truth).details(), **details},
    )


def canaries() -> Finding:
    rng = seeded(2, 1)
    return replace(
        membership(0.0),
        attack="exposure",
        metric="bits",
        details={
            "exposures": [5.0, 6.0, 13.29, *rng.exponential(1.4, 9)],
            "control_exposures": list(rng.exponential(1.4, 9)),
            "log2_space": 13.29,
        },
    )


def stolen(name: str, end: float) -> Finding:
    return replace(
        membership(0.0),
        attack=name,
        metric="agreement",
        floor=0.1,
        details={"fidelity_curve": [[785, end], [10, 0.2], [100, 0.5]]},
    )


def label(drawn: str) -> str:
    found = re.search(r'aria-label="([^"]*)"', drawn)
    assert found is not None
    return found[1]


def test_the_alternative_text_of_a_roc_carries_rates_and_claim() -> None:
    finding = membership(1.0)
    said = label(roc_figure(finding, (CLAIM,)))
    rate = 100 * finding.details["tpr_at"]["0.01"]["value"]
    assert f"{rate:.1f}\u00a0% at 1\u00a0%" in said
    assert "The claim allows epsilon 2, delta 1e-05." in said
    assert "contradicts" not in said


def test_a_violated_claim_is_written_into_the_roc() -> None:
    drawn = roc_figure(membership(6.0), (CLAIM,))
    assert ">CONTRADICTED<" in drawn
    assert "contradicts the claim" in label(drawn)
    assert ">CONTRADICTED<" not in roc_figure(membership(0.0), (CLAIM,))


def test_the_region_is_drawn_only_for_a_claim_that_the_finding_names() -> None:
    finding = membership(1.0)
    assert "var(--allowed)" in roc_figure(finding, (CLAIM,))
    assert "var(--allowed)" not in roc_figure(finding, ())
    assert "var(--allowed)" not in roc_figure(finding, (replace(CLAIM, id="another"),))


def test_baseline_and_control_are_named_where_they_are_there() -> None:
    line = {"fpr": [0.0, 1.0], "tpr": [0.0, 1.0]}
    drawn = roc_figure(membership(1.0, blind_roc=line, control_roc=line), (CLAIM,))
    for name in ("the attack", "without the model", "unprotected model"):
        assert f">{name}<" in drawn
    assert ">the attack<" not in roc_figure(membership(1.0), (CLAIM,))


def test_every_canary_is_a_mark() -> None:
    finding = canaries()
    drawn = exposure_figure(finding)
    marks = len(re.findall(r"<use", drawn))
    assert marks >= 12 + 9
    said = label(drawn)
    assert "trained on: 12 canaries" in said
    assert "highest 13.29" in said
    assert "At most 13.29 bits" in said


def test_fidelity_is_read_in_the_order_of_queries() -> None:
    drawn = fidelity_figure([stolen("equations", 1.0), stolen("copycat", 0.93)])
    assert "equations: 100.0\u00a0% after 785 queries" in label(drawn)
    assert ">equations<" in drawn
    assert ">copycat<" in drawn


def test_names_at_the_ends_of_lines_keep_apart() -> None:
    drawn = fidelity_figure([stolen(f"attack {index}", 0.9) for index in range(4)])
    heights = sorted(float(y) for y, name in re.findall(r' y="([-\d.]+)"[^>]*>(attack \d)<', drawn))
    assert len(heights) == 4
    assert (np.diff(heights) > 7).all()


def test_bound_power_and_claim_are_said() -> None:
    finding = membership(6.0)
    said = label(epsilon_figure([finding], (CLAIM,)))
    assert f"at least {finding.value:.2f}" in said
    assert f"refutable up to {finding.details['max_epsilon']:.2f}" in said
    assert "claimed 2.00" in said
    assert "contradicts the claim" in said


def test_a_card_gives_the_figures_that_its_findings_hold() -> None:
    row = PillarRow(guarantees=(CLAIM,), findings=(membership(1.0), canaries()))
    theft = PillarRow(findings=(replace(stolen("equations", 1.0), pillar=Pillar.MODEL),))
    card = replace(holds(), pillars={Pillar.TRAINING_DATA: row, Pillar.MODEL: theft}, frontier=())
    titles = [title for title, _drawing in attack_figures(card)]
    assert titles == [
        "likelihood ratio on membership: ROC",
        "exposure on membership: exposure",
        "Fidelity of stolen models against queries",
        "Epsilon: shown, claimed, refutable",
    ]
    assert attack_figures(holds()) == []


@pytest.mark.parametrize(
    "draw", [lambda: roc_figure(membership(1.0)), lambda: exposure_figure(canaries())]
)
def test_the_same_findings_give_the_same_bytes(draw: Any) -> None:
    assert draw() == draw()


def test_drawings_of_one_page_share_no_ids() -> None:
    row = PillarRow(guarantees=(CLAIM,), findings=(membership(1.0), membership(0.5), canaries()))
    card = replace(holds(), pillars={Pillar.TRAINING_DATA: row}, frontier=())
    ids = [re.findall(r'\bid="([^"]+)"', drawing) for _title, drawing in attack_figures(card)]
    flat = [name for names in ids for name in set(names)]
    assert len(flat) == len(set(flat))


def test_an_attack_has_one_curve_however_many_figures_of_it_there_are() -> None:
    """The one that judges the claim is drawn: only there the claim's region is known."""
    judged = membership(1.0)
    plain = replace(judged, metric="AUC", details={"roc": judged.details["roc"]})
    card = holds()
    row = PillarRow(guarantees=(CLAIM,), findings=(plain, plain, judged))
    card = replace(card, pillars={**card.pillars, Pillar.TRAINING_DATA: row})
    curves = [drawing for title, drawing in attack_figures(card) if title.endswith("ROC")]
    assert len(curves) == 1
    assert "The claim allows epsilon 2" in label(curves[0])
