"""Plain words: numbers with their units, and sentences that may be signed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from specimen import NOISE, TRAINING, ZERO, contradicted, gate_failed, holds

from reticent.audit.scorecard import by_pillar
from reticent.guarantee import (
    SERVER,
    Attested,
    Computational,
    Empirical,
    Guarantee,
    InformationBound,
    Pillar,
    Strength,
    Syntactic,
)
from reticent.report import words


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (words.quantity("balanced accuracy", 0.9021), "90.2 %"),
        (words.quantity("AUC", 0.7024), "0.702"),
        (words.change("accuracy", 0.0031), "+0.3 points"),
        (words.change("accuracy", -0.011), "−1.1 points"),
        (words.change("accuracy", -0.0001), "0.0 points"),
        (words.change("R2", -0.02), "−0.020"),
        (words.interval("accuracy", (-0.004, 0.01)), "−0.4 to 1.0"),
        (words.signed_interval("accuracy", (-0.004, 0.01)), "−0.4 to +1.0"),
        (words.size(1), "1 byte"),
        (words.size(512), "512 bytes"),
        (words.size(4096), "4.1 kB"),
        (words.size(2_500_000), "2.5 MB"),
        (words.requests(1), "one request"),
        (words.requests(8), "8 pooled requests"),
        (words.enumerate_words(["a", "b", "c"]), "a, b and c"),
        (words.against("server"), "against the server"),
        (words.against("anyone"), "against anyone"),
    ],
)
def test_numbers_and_phrases(said: str, expected: str) -> None:
    assert plain(said) == expected


@pytest.mark.parametrize(
    ("claim", "said", "promised"),
    [
        (TRAINING.strength, "ε = 2, δ = 1e-5 (add or remove one, per record)", "e^2"),
        (Computational(bits=128, assumption="RLWE"), "128 bits (RLWE)", "2^128 operations"),
        (ZERO.strength, "zero beyond the public label", "nothing beyond the public label"),
        (NOISE.strength, "at most 5.0 points and 0.006 nats", "all requests together add at most"),
        (
            InformationBound(nats=0.1, total_variation=0.2, worst_case=True),
            "per query, for every input",
            "a request adds at most 20.0 points",
        ),
        (Attested(measurement="ab12"), "hardware attestation of ab12", "attested its software"),
        (Syntactic(k=5, l=2, t=0.3), "k = 5, l = 2, t = 0.3", "at least 4 others"),
        (Empirical(), "no claim beyond the attacks", "nothing beyond the attacks"),
    ],
)
def test_strengths_in_their_own_unit(claim: Strength, said: str, promised: str) -> None:
    made = Guarantee(
        id="g", pillar=Pillar.INPUT, adversary=SERVER, strength=claim, mechanism="m",
        assumptions=(), source="s",
    )  # fmt: skip
    assert said in plain(words.strength(claim))
    assert promised in plain(words.promise(made))


def test_a_shared_remark_is_made_once() -> None:
    assert words.verdict(holds()).count("no attack that was run contradicts this") == 1


def test_different_remarks_stand_with_their_claims() -> None:
    card = holds()
    inputs = card.pillars[Pillar.INPUT].findings
    said = words.verdict(replace(card, pillars=by_pillar((TRAINING, ZERO), inputs)))
    assert "(δ = 1e-5), and no attack has tested this; against the server" in said
    assert said.count("no attack that was run contradicts this") == 1


def test_power_is_not_taken_for_granted() -> None:
    card = holds()
    blunt = [replace(f, ceiling=None) for f in card.pillars[Pillar.INPUT].findings]
    said = words.verdict(replace(card, pillars=by_pillar((ZERO,), blunt)))
    assert "had no power to contradict this" in said
    assert words.headline(replace(card, pillars=by_pillar((ZERO,), blunt))) == (
        "HOLDS SO FAR, NOT TESTED"
    )


def test_the_worst_contradiction_leads() -> None:
    assert "32 pooled requests" in words.verdict(contradicted())
    assert "the input is protected" not in words.verdict(contradicted())


def test_a_second_claim_is_not_called_protected_when_it_is_broken() -> None:
    card = contradicted()
    said = words.verdict(replace(card, pillars=by_pillar((NOISE, TRAINING), card.findings)))
    assert "the output and the model are not protected" in said
    assert "is protected" not in said


def test_a_failed_gate_leads() -> None:
    assert words.verdict(gate_failed()).startswith("Not fit for release as stated: the gate max_ut")


def test_the_floor_that_grows_is_reported() -> None:
    said = plain(words.floor_growth(holds()) or "")
    assert "reaches 21.0 % on person after 32 requests (6.3 % after one)" in said
    single = [f for f in holds().findings if f.requests == 1]
    one = replace(holds(), pillars=by_pillar((), single))
    assert words.floor_growth(one) is None


def test_a_pillars_row_is_its_worst_claim() -> None:
    loose = replace(
        ZERO, id="loose", strength=InformationBound(nats=9, total_variation=1, scope="total")
    )
    card = holds()
    inputs = card.pillars[Pillar.INPUT].findings
    mixed = replace(card, pillars=by_pillar((ZERO, loose), inputs))
    assert words.pillar_status(mixed, Pillar.INPUT) == "inconclusive (power)"
    assert words.pillar_status(card, Pillar.MODEL) is None
    assert words.pillar_status(card, Pillar.OUTPUT) is None
    assert words.pillar_status(contradicted(), Pillar.INPUT) == "violated"


def test_a_server_that_is_not_told_the_answer_has_another_floor() -> None:
    card = holds()
    assert words.floor(card) == "the label alone"
    assert "the label alone gives" in plain(words.measured(card))
    sealed = Guarantee(
        id="output/server/sealed",
        pillar=Pillar.OUTPUT,
        adversary=SERVER,
        strength=Computational(bits=128, assumption="ring learning with errors"),
        mechanism="CKKS",
        assumptions=(),
        source="Cheon et al. 2017",
    )
    blind = replace(card, pillars=by_pillar((*card.guarantees, sealed), card.findings))
    assert words.hides_answer(blind)
    assert "a guess without anything gives" in plain(words.measured(blind))
