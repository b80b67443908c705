"""Test the test: planted leaks are caught, and nothing is seen where nothing is."""

import numpy as np
import pytest
import torch
from attack_views import gaussian, view

from reticent.attacks.attribute.inference import FAMILIES, attack_attribute
from reticent.audit.attribute import judge
from reticent.audit.controls import Plant, controls, label_only, plant, shuffled


@pytest.mark.parametrize(
    ("kind", "family"),
    [(Plant.DIRECTION, "linear"), (Plant.DIGITS, "digits"), (Plant.PRODUCT, "boosting")],
)
@pytest.mark.parametrize("secret", ["binary", "identity"])
def test_planted_leaks_are_caught(kind: Plant, family: str, secret: str) -> None:
    clean = view(gaussian(12), secret=secret, users=8)
    (control, *_rest) = controls(clean, attribute="secret", families=[family], plants=[kind])
    assert control.leaky
    assert control.passed, control
    assert control.finding.excess_ci[0] > 0.25


def test_the_same_features_without_the_plant_show_nothing() -> None:
    clean = view(gaussian(12))
    for family in ("linear", "digits", "boosting"):
        scores = attack_attribute(clean, "secret", seed=0, families=[family])
        finding = judge([scores], clean.test, requests=(1,))[0].finding()
        assert finding.excess_ci[0] <= 0, family


def test_a_leak_planted_under_noise_and_in_codes_is_caught() -> None:
    noisy = view(gaussian(6), redraw=lambda clean: clean + 0.5 * torch.randn_like(clean))
    codes = view(lambda rng, label, value: label[:, None].astype(np.float32), alphabet=4)
    for server in (noisy, codes):
        made = controls(server, attribute="secret", families=["count table", "linear"])
        assert [control.name for control in made if control.leaky] == ["planted: quiet direction"]
        assert all(control.passed for control in made), made
    assert plant(codes, "secret").alphabet == 8


def test_a_planted_code_counts_as_found_where_the_attacker_could_have_met_it() -> None:
    """16 codes split by 30 people, 400 records: a third of the cells never occur in training."""

    def codes(rng, label, value):
        return (4 * label + rng.integers(4, size=len(label)))[:, None].astype(np.float32)

    server = view(codes, secret="identity", users=30, alphabet=16, sizes=(400, 300, 900))
    planted = plant(server, "secret")
    met = np.isin(planted.test.features, planted.attacker_train.features).mean()
    assert 0.3 < met < 0.8
    leaky, *clean = controls(server, attribute="secret")
    assert leaky.passed, leaky
    assert leaky.finding.excess < 0.9 * (1 - leaky.finding.floor)
    assert all(control.passed for control in clean)


def test_a_code_table_that_learns_nothing_fails_the_control(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(FAMILIES, "count table", lambda material, seed: None)  # type: ignore[index]
    codes = view(lambda rng, label, value: label[:, None].astype(np.float32), alphabet=4)
    leaky, *_rest = controls(codes, attribute="secret")
    assert not leaky.passed


def test_a_suite_without_power_fails_the_positive_control() -> None:
    made = controls(
        view(gaussian(8)), attribute="secret", families=["linear"], plants=[Plant.PRODUCT]
    )
    assert [control.passed for control in made] == [False, True, True]


def test_a_label_only_view_shows_no_excess_to_any_family() -> None:
    server = label_only(view(gaussian(8, leak=2.0), sizes=(400, 150, 400)))
    scores = attack_attribute(server, "secret", seed=0, requests=(1, 8))
    for judged in judge([scores], server.test, requests=(1, 8)):
        low, high = judged.finding().excess_ci
        assert low <= 0 <= high


def test_random_truth_is_not_found_more_often_than_stated() -> None:
    """Twenty shuffles of a leaky view: each 95 % interval may miss 0 on one side with 2.5 %.

    Four or more of twenty has probability below 0.002.
    """
    alarms = 0
    for seed in range(20):
        server = shuffled(view(gaussian(6, leak=1.0), seed=seed), "secret", seed=seed)
        scores = attack_attribute(server, "secret", seed=seed, families=["linear"])
        finding = judge([scores], server.test, requests=(1,))[0].finding()
        alarms += finding.excess_ci[0] > 0
    assert alarms < 4
