"""Hardening refuses what it can't do, picks the earliest good cut, and claims what it can keep."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from split_specimens import POINTS, answers, code, encoder, halves, head, noisy, part
from torch import nn

from reticent.data.answers import Answers
from reticent.data.task import Kind
from reticent.errors import ConfigError
from reticent.guarantee import SERVER, Empirical, InformationBound, Pillar
from reticent.inference.split import harden as hardening
from reticent.inference.split.certificate import certify, radius_for
from reticent.inference.split.halves import Halves
from reticent.inference.split.harden import Costs, candidate_cuts, guarantees, harden
from reticent.inference.split.methods import METHODS, Method
from reticent.inference.split.problem import Problem
from reticent.inference.split.release import Bare, Code, Noisy, Release

TRAIN, HELD_OUT = part(120, 1), part(120, 2)


def model() -> nn.Sequential:
    """Three linear layers that answer like `head(encoder(x))`, with cuts a, b, c."""
    chain = nn.Sequential()
    chain.add_module("a", encoder()[0])
    for name in ("b", "c"):
        layer = nn.Linear(2, 2)
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
        chain.add_module(name, layer)
    chain.add_module("output", head())
    return chain.eval()


def ask(**changes: Any) -> hardening.Hardened:
    given: dict[str, Any] = {
        "train": TRAIN,
        "validation": HELD_OUT,
        "answers": answers(),
        "method": "adapter_code",
        "cut": "a",
        "epochs": 1,
    }
    return harden(model(), **(given | changes))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "prototype_cod"}, r"Expected method among \['prototype_code'"),
        ({"method": ""}, "adapter_code"),
        ({"cut": "bb"}, r"Expected a cut among \['a', 'b', 'c'\], got cut='bb'"),
        ({"cut": "output"}, "cut='output'"),
        ({"codes": 1}, "codes=1"),
        ({"codes": 0}, "codes=0"),
        ({"codes": 4}, "multiple of the 3 classes, got codes=4"),
        ({"method": "center_noise", "codes": 6}, "the method to send codes"),
        ({"method": "nopeek", "codes": 6}, "the method to send codes"),
        ({"method": "prototype_code", "retrain": False}, "Use method='adapter_code'"),
        ({"method": "center_noise", "options": {"total_variation": 1.0}}, "total_variation"),
        ({"method": "center_noise", "options": {"sigma": 0}}, "sigma"),
        ({"options": {"neck": "swan"}}, "neck='swan'"),
        ({"method": "center_noise", "options": {"sigmaa": 2.0}}, "got 'sigmaa'"),
    ],
)
def test_what_cannot_be_done_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ask(**wrong)


def test_the_methods_that_may_take_codes_are_those_that_send_them() -> None:
    assert {name for name, method in METHODS.items() if method.sends_codes} == {
        "adapter_code",
        "prototype_code",
    }
    assert all(name == method.name for name, method in METHODS.items())


def stub(accuracies: dict[str, float], seen: list[str]) -> Method:
    """A method whose utility at each cut is as given: the share of records it answers rightly."""

    def run(problem: Problem) -> Halves:
        seen.append(problem.cut)
        made = halves()
        right = round(accuracies[problem.cut] * len(HELD_OUT))

        class Wrong(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                features = x[:, :2].clone()
                # Moves every record after the first `right` ones to the opposite side.
                features[right:] *= -1
                return features

        return Halves(
            encoder=Wrong(),
            release=made.release,
            head=made.head,
            answers=made.answers,
            table=made.table,
        )

    return Method(name="stub", run=run, source="this test", retrains=False)


def costs(halves_: Halves, problem: Problem) -> Costs:
    """Costs of the encoder up to the problem's cut, whatever a stub encoder costs."""
    first, _ = problem.halves()
    return Costs(
        client_flops_share=problem.flops_share(first),
        client_params_share=0.5,
        request_bytes=1,
        reply_bytes=1,
    )


def choose(
    monkeypatch: pytest.MonkeyPatch, accuracies: dict[str, float], **settings: Any
) -> tuple[hardening.Hardened, str]:
    seen: list[str] = []
    monkeypatch.setitem(METHODS, "stub", stub(accuracies, seen))  # type: ignore[arg-type]
    monkeypatch.setattr(hardening, "_base_outcomes", lambda _: np.ones(len(HELD_OUT)))
    monkeypatch.setattr(hardening, "_costs", costs)
    made = ask(method="stub", cut="auto", **{"max_client_share": 1.0, **settings})
    assert made.validation_utility == pytest.approx(accuracies[made.cut], abs=0.01)
    return made, "".join(seen)


@pytest.mark.parametrize(
    ("accuracies", "tolerance", "chosen", "tried"),
    [
        ({"a": 1.0, "b": 1.0, "c": 1.0}, 0.01, "a", "a"),
        ({"a": 0.9, "b": 0.995, "c": 1.0}, 0.01, "b", "ab"),
        ({"a": 0.9, "b": 0.92, "c": 1.0}, 0.01, "c", "abc"),
        ({"a": 0.8, "b": 0.95, "c": 1.0}, 0.06, "b", "ab"),
        ({"a": 0.7, "b": 0.9, "c": 0.8}, 0.01, "b", "abc"),
        # Two of 120 records: a loss of 0.017 that isn't shown to exceed 0.01.
        ({"a": 118 / 120, "b": 1.0, "c": 1.0}, 0.01, "a", "a"),
    ],
)
def test_auto_takes_the_earliest_cut_not_shown_to_lose_too_much_or_else_the_best(
    monkeypatch: pytest.MonkeyPatch,
    accuracies: dict[str, float],
    tolerance: float,
    chosen: str,
    tried: str,
) -> None:
    made, seen = choose(monkeypatch, accuracies, max_utility_loss=tolerance)
    assert (made.cut, seen) == (chosen, tried)


def test_the_share_of_flops_is_a_hard_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut b takes 12 of 22 multiplications, c 16: c is never tried, however good it is."""
    made, seen = choose(monkeypatch, {"a": 0.5, "b": 0.6, "c": 1.0}, max_client_share=0.6)
    assert (made.cut, seen) == ("b", "ab")
    assert "every cut within the client's share loses more than 0.01" in made.choices[0]


def test_where_no_cut_keeps_within_the_share_the_cheapest_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, seen = choose(monkeypatch, {"a": 0.5, "b": 1.0, "c": 1.0}, max_client_share=0.1)
    assert (made.cut, seen) == ("a", "a")
    assert "no cut keeps the client within 0.1" in made.choices[0]


def test_the_choice_says_on_what_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = choose(monkeypatch, {"a": 1.0, "b": 1.0, "c": 1.0})
    (said,) = made.choices
    for word in ("cut a", "earliest", "120 validation records", "95% limits"):
        assert word in said
    assert ask(cut="a").choices == ()


def test_a_vector_may_be_cut_before_any_work_where_an_adapter_can_do_it_all() -> None:
    chain = nn.Sequential()
    chain.add_module("input", nn.Flatten())
    for name, layer in model().named_children():
        chain.add_module(name, layer)
    names = [point.name for point in candidate_cuts(chain.eval(), TRAIN, from_input=True)]
    assert names == ["input", "a", "b", "c"]
    assert [point.name for point in candidate_cuts(chain, TRAIN)] == ["a", "b", "c"]


def test_candidate_cuts_have_done_some_work_and_are_eight_at_most() -> None:
    chain = nn.Sequential(nn.Flatten(), *(nn.Linear(4, 4) for _ in range(20)))
    points = candidate_cuts(chain.eval(), TRAIN)
    assert len(points) == 8
    assert points[0].name == "1"
    assert points[-1].name == "19"
    with pytest.raises(ConfigError, match="two layers or more"):
        candidate_cuts(nn.Sequential(nn.Flatten(), nn.Linear(4, 4)).eval(), TRAIN)


def claimed(release: Release) -> Any:
    """The one guarantee that a release gets."""
    made = halves(release)
    certificate = None
    if isinstance(release, Noisy) and release.prototypes is not None:
        certificate = certify(made.features(HELD_OUT.x), release, attributes=HELD_OUT.private)
    (guarantee,) = guarantees(made, "center_noise", certificate)
    assert guarantee.pillar is Pillar.INPUT
    assert guarantee.adversary == SERVER
    return guarantee


def test_one_code_per_label_claims_zero_for_ever() -> None:
    guarantee = claimed(code())
    strength = guarantee.strength
    assert strength == InformationBound(
        nats=0.0, total_variation=0.0, scope="total", worst_case=True
    )
    assert guarantee.allowed_excess(10**6) == 0
    said = " ".join(guarantee.assumptions)
    for word in ("alphabet", "relative to the answer", "audit", "not when"):
        assert word in said


def doubled() -> Code:
    return Code(prototypes=np.concatenate([POINTS, POINTS + 1]), labels=np.tile(np.arange(3), 2))


def test_two_codes_per_label_claim_log_2_a_request() -> None:
    strength = claimed(doubled()).strength
    assert strength.nats == pytest.approx(math.log(2))
    assert strength.scope == "per query"
    assert strength.total_variation == 0.5
    assert strength.nats_after(3) == pytest.approx(3 * math.log(2))


@pytest.mark.parametrize("per_label", [2, 3])
@pytest.mark.parametrize("requests", [1, 2])
def test_no_attacker_gains_more_from_several_codes_than_is_claimed(
    per_label: int, requests: int
) -> None:
    """Random joint laws of attribute, label and m codes: the best attacker is their maximum."""
    points = np.arange(3 * per_label, dtype=np.float32)[:, None] * np.ones((1, 2), np.float32)
    labels = np.tile(np.arange(3), per_label)
    strength = claimed(Code(prototypes=points, labels=labels)).strength
    allowed = strength.total_variation_after(requests)
    rng, gains = np.random.default_rng(5), []
    for _ in range(300):
        symbols = per_label**requests
        joint = rng.dirichlet(np.full(4 * symbols, 0.03)).reshape(4, symbols)
        gains.append(joint.max(axis=0).sum() - joint.sum(axis=1).max())
    assert max(gains) <= allowed
    assert max(gains) > 0.5 * (1 - 1 / per_label**requests)


def test_a_radius_claims_the_worst_case_that_it_was_chosen_for() -> None:
    radius = radius_for(0.1, sigma=1.0, requests=8)
    guarantee = claimed(noisy(radius))
    strength = guarantee.strength
    assert strength.worst_case
    assert strength.sigmas == pytest.approx(radius)
    assert strength.total_variation_after(8) == pytest.approx(0.1)
    assert strength.nats == pytest.approx(radius**2 / 2)
    assert not [word for word in guarantee.assumptions if "average" in word]


def test_without_a_radius_only_an_average_is_claimed_and_its_limits_are_said() -> None:
    guarantee = claimed(noisy(None))
    strength = guarantee.strength
    assert not strength.worst_case
    assert strength.sigmas is None
    made = halves(noisy(None))
    certificate = certify(made.features(HELD_OUT.x), noisy(None), attributes=HELD_OUT.private)
    assert strength.total_variation == certificate.tau_limit > certificate.tau
    said = " ".join(guarantee.assumptions)
    for word in ("average", "95% confidence", "n = 120", "independent", "without a limit"):
        assert word in said


@pytest.mark.parametrize(
    "release",
    [Bare(size=2), Noisy(scale=np.ones(1, np.float32), size=2)],
    ids=["bare", "noise without prototypes"],
)
def test_everything_else_claims_nothing(release: Release) -> None:
    guarantee = claimed(release)
    assert guarantee.strength == Empirical()
    assert guarantee.allowed_excess() is None


def test_records_apart_are_certified_where_there_are_any() -> None:
    """The claim's figure is taken on them, and its text no longer confesses a choice."""
    made = halves(noisy(None))
    apart = part(60, 7)
    certificate = hardening._certificate(made, HELD_OUT, apart)
    assert certificate is not None
    assert certificate.n == 60
    said = {
        kept: " ".join(guarantees(made, "ceb", certificate, apart=kept)[0].assumptions)
        for kept in (False, True)
    }
    assert "were chosen on the certified records" in said[False]
    assert "no choice was made on the certified records" in said[True]


def test_laplace_noise_and_uneven_scales_get_no_certificate() -> None:
    scale = np.ones(1, np.float32)
    for release in (
        Noisy(scale=scale, size=2, shape="laplace", prototypes=POINTS),
        Noisy(scale=np.array([1.0, 2.0], np.float32), size=2, prototypes=POINTS),
        Noisy(scale=scale, size=2),
        Bare(size=2),
    ):
        assert hardening._certificate(halves(release), HELD_OUT) is None


def test_hardening_by_a_code_keeps_utility_and_counts_its_costs() -> None:
    made = ask(epochs=10, cut="b", options={"neck": "linear"})
    assert made.label == "adapter_code@b"
    assert made.validation_utility > 0.95
    assert made.costs.request_bytes == 1
    assert made.costs.reply_bytes == 12
    # Client: 4x2, 2x2 and a 2x2 adapter; model: 4x2, 2x2, 2x2, 2x3.
    assert made.costs.client_flops_share == pytest.approx((8 + 4 + 4) / (8 + 4 + 4 + 6))
    assert made.guarantees[0].allowed_excess(99) == 0


def test_more_codes_are_opted_into_and_say_so() -> None:
    made = ask(codes=6, options={"neck": "linear"})
    release = made.halves.release
    assert isinstance(release, Code)
    assert release.alphabet == 6
    assert made.guarantees[0].strength.nats == pytest.approx(math.log(2))  # type: ignore[union-attr]
    assert "6 codes for 3 answers" in made.guarantees[0].mechanism


def test_the_same_seed_gives_the_same_halves() -> None:
    first, second = (ask(options={"neck": "linear"}, seed=3) for _ in range(2))
    np.testing.assert_array_equal(
        first.halves.features(HELD_OUT.x), second.halves.features(HELD_OUT.x)
    )


def test_regression_has_a_code_per_level() -> None:
    rng = np.random.default_rng(0)
    y = (TRAIN.x[:, 0] + 0.01 * rng.normal(size=len(TRAIN))).astype(np.float32)
    made = Answers.of(Kind.REGRESSION, y, classes=0, levels=5)
    assert made.outputs == 1
    release = Code(prototypes=np.arange(5, dtype=np.float32)[:, None], labels=np.arange(5))
    (guarantee,) = guarantees(
        Halves(
            encoder=nn.Identity(),
            release=release,
            head=nn.Identity(),
            answers=made,
            table=np.zeros((5, 1), np.float32),
        ),
        "adapter_code",
        None,
    )
    assert guarantee.allowed_excess(100) == 0
    assert "5 codes for 5 answers" in guarantee.mechanism
