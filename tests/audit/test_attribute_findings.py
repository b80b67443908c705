import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from attack_views import gaussian, view

from reticent.attacks.attribute.inference import attack_attribute
from reticent.attacks.finding import Finding
from reticent.attacks.view import ServerView
from reticent.audit.attribute import audit_attributes, judge
from reticent.errors import ConfigError, DataError
from reticent.guarantee import SERVER, Guarantee, InformationBound, Pillar

FAST = ("linear", "count table")


def _bound(total_variation: float) -> Guarantee:
    return Guarantee(
        id="bound",
        pillar=Pillar.INPUT,
        adversary=SERVER,
        strength=InformationBound(nats=10.0, total_variation=total_variation),
        mechanism="test",
        assumptions=(),
        source="test",
    )


def _codes(rng, label, secret):
    return label[:, None].astype(np.float32)


@pytest.mark.parametrize("secret", ["identity", "binary", "free"])
def test_a_label_only_code_has_an_excess_of_exactly_zero(secret: str) -> None:
    server = view(_codes, secret=secret, alphabet=4)
    found = audit_attributes(server, guarantees=(_bound(0.0),))
    assert [finding.requests for finding in found] == ([1] if secret == "free" else [1, 8, 32])
    for finding in found:
        assert finding.excess == 0.0
        assert finding.excess_ci == (0.0, 0.0)
        assert finding.value == finding.floor
        assert finding.contradicts is None
        assert finding.seeds == 3


def test_a_leak_is_found_grows_with_pooling_and_contradicts_a_bound_that_denies_it() -> None:
    server = view(gaussian(12, leak=0.35), secret="identity", users=12)
    found = audit_attributes(server, families=FAST, seeds=(0, 1), guarantees=(_bound(0.02),))
    values = [finding.value for finding in found]
    assert values == sorted(values)
    assert values[2] > values[0] + 0.2
    assert found[0].excess_ci[0] > 0.02
    low, high = found[0].details["excess_ci over records"]
    assert high - low < np.ptp(found[0].excess_ci)
    assert found[0].contradicts == "bound"
    assert all(
        found_.contradicts is None
        for found_ in audit_attributes(server, families=FAST, seeds=(0,), guarantees=(_bound(1.0),))
    )


def test_the_excess_is_value_minus_floor_and_its_interval_is_paired() -> None:
    """The label tells the secret in 80 %: value and floor share that noise, the excess doesn't."""

    def told(part):
        rng = np.random.default_rng(len(part.users))
        lie = rng.random(len(part)) < 0.2
        return replace(
            part, predicted=np.where(lie, 1 - part.private["secret"], part.private["secret"])
        )

    server = view(gaussian(4), classes=2)
    server = replace(
        server,
        attacker_train=told(server.attacker_train),
        attacker_validation=told(server.attacker_validation),
        test=told(server.test),
    )
    (finding,) = audit_attributes(server, families=FAST, seeds=(0,), requests=(1,))
    assert finding.floor == pytest.approx(0.8, abs=0.04)
    assert finding.excess == pytest.approx(finding.value - finding.floor)
    assert finding.excess_ci[0] <= 0 <= finding.excess_ci[1]
    assert np.ptp(finding.excess_ci) < np.ptp(finding.ci) or np.ptp(finding.excess_ci) == 0


def test_the_ceiling_is_the_same_attack_on_the_undefended_view_or_given() -> None:
    defended, plain = view(_codes, alphabet=4), view(gaussian(8, leak=1.0))
    (both,) = audit_attributes(defended, undefended=plain, requests=(1,), seeds=(0,), families=FAST)
    (alone,) = audit_attributes(plain, requests=(1,), seeds=(0,), families=FAST)
    assert both.ceiling == alone.value
    assert both.ceiling > 0.75
    (given,) = audit_attributes(defended, undefended=[alone], requests=(1,), seeds=(0,))
    assert given.ceiling == alone.value
    (without,) = audit_attributes(defended, requests=(1,), seeds=(0,))
    assert without.ceiling is None


def test_pooling_that_is_impossible_is_said_not_silently_dropped() -> None:
    varies = view(gaussian(3), secret="free")
    (finding,) = audit_attributes(varies, families=FAST, seeds=(0,))
    assert set(finding.details["not pooled"]) == {"8", "32"}
    few = view(gaussian(3), sizes=(300, 100, 16 * 10))
    found = audit_attributes(few, families=FAST, seeds=(0,))
    assert [one.requests for one in found] == [1, 8]
    assert set(found[0].details["not pooled"]) == {"32"}


def test_records_without_users_are_their_own_clusters() -> None:
    server = view(gaussian(4, leak=0.6))
    parts = {
        name: replace(getattr(server, name), users=None)
        for name in ("attacker_train", "attacker_validation", "test")
    }
    (finding,) = audit_attributes(
        replace(server, **parts), families=FAST, seeds=(0, 1), requests=(1, 8)
    )
    assert finding.details["interval"] == "bootstrap over records"
    assert finding.details["independent units"] == finding.n == 900


def test_noise_is_drawn_afresh_for_each_seed() -> None:
    server = view(gaussian(6, leak=0.5), redraw=lambda clean: clean + torch.randn_like(clean))
    (finding,) = audit_attributes(server, families=FAST, seeds=(0, 1, 2), requests=(1,))
    assert len(set(finding.details["value by seed"])) == 3
    assert finding.value == pytest.approx(np.mean(finding.details["value by seed"]))


def test_quick_is_one_seed_and_three_families() -> None:
    (finding,) = audit_attributes(
        view(gaussian(4, leak=0.5), sizes=(300, 100, 200)), quick=True, requests=(1,)
    )
    assert finding.seeds == 1
    assert set(finding.details["value by family"]) == {
        "label table", "linear", "perceptron", "ensemble",
    }  # fmt: skip


def test_findings_survive_json() -> None:
    (finding,) = audit_attributes(
        view(gaussian(4, leak=0.5)), families=FAST, seeds=(0,), requests=(1,)
    )
    assert Finding.from_json(json.loads(json.dumps(finding.to_json()))) == finding
    assert finding.details["area under ROC"]["value"] > finding.details["area under ROC"]["floor"]


def test_identity_of_people_never_met_is_refused() -> None:
    server = view(gaussian(4), secret="identity")
    strangers = replace(
        server.test,
        private={"secret": server.test.private["secret"] + 100},
        users=server.test.users + 100,
    )
    with pytest.raises(DataError, match="known users"):
        audit_attributes(replace(server, test=strangers), families=FAST, seeds=(0,))


def test_no_seed_or_no_request_is_refused() -> None:
    server = view(gaussian(4))
    with pytest.raises(ConfigError, match="seeds="):
        audit_attributes(server, seeds=())
    with pytest.raises(ConfigError, match="requests="):
        audit_attributes(server, requests=(0,))


def _chosen(finding_view: ServerView, family: str) -> Finding:
    """The finding when validation had chosen `family`, whatever its strength."""
    scores = [
        attack_attribute(finding_view, "secret", seed=seed, families=("linear", "quadratic"))
        for seed in (0, 1)
    ]
    forced = [replace(one, chosen=dict.fromkeys(one.chosen, family)) for one in scores]
    return judge(forced, finding_view.test, requests=(1,))[0].finding()


def test_a_bad_choice_on_validation_is_overruled_where_the_test_part_shows_it() -> None:
    """The label table is chosen though a linear rule reads the secret: the linear rule counts."""
    leaky = view(gaussian(8, leak=1.0))
    good = _chosen(leaky, "linear")
    assert "choice overruled" not in good.details
    bad = _chosen(leaky, "label table")
    said = bad.details["choice overruled"]
    assert said["value of the choice"] == pytest.approx(bad.floor)
    assert bad.value >= good.value
    assert bad.value == pytest.approx(np.mean(bad.details["value by seed"]))
    assert bad.value == pytest.approx(bad.details["value by family"][said["by"]])


@pytest.mark.slow
def test_chance_does_not_overrule_the_choice() -> None:
    """No family can know a secret that isn't there: the lucky one of them doesn't count."""
    overruled = [
        "choice overruled" in _chosen(view(gaussian(4), seed=seed), "label table").details
        for seed in range(10)
    ]
    assert sum(overruled) <= 2
