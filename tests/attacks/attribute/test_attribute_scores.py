from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from attack_views import gaussian, view

from reticent.attacks.attribute.inference import attack_attribute, poolable
from reticent.errors import ConfigError, DataError

FAST = ("linear", "count table")


class Closed(Mapping[str, Any]):
    """Private attributes that nobody may open."""

    def __getitem__(self, name: str) -> Any:
        raise AssertionError("the attack opened the truth of the test part")

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("the attack opened the truth of the test part")

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("families", [None, FAST])
def test_no_attacker_sees_the_truth_of_the_test_part(families: tuple[str, ...] | None) -> None:
    server = view(gaussian(6, leak=1.0), sizes=(200, 80, 100))
    blank = np.full_like(server.test.inputs, np.nan)
    closed = replace(server, test=replace(server.test, private=Closed(), inputs=blank))
    scores = attack_attribute(closed, "secret", seed=0, families=families, requests=(1, 4))
    for found in scores.families.values():
        assert found.shape == (100, 2)
        assert np.isfinite(found).all()


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
@pytest.mark.parametrize("secret", ["identity", "binary", "free"])
def test_a_label_only_code_gives_the_floors_scores_bit_for_bit(
    secret: str, order: list[int]
) -> None:
    """Whatever the code's numbering, for every record, every m and every seed."""

    def codes(rng, label, value):
        return np.array(order, dtype=np.float32)[label][:, None]

    server = view(codes, secret=secret, alphabet=4, sizes=(700, 250, 700))
    for seed in (0, 1, 2):
        scores = attack_attribute(server, "secret", seed=seed, requests=(1, 8, 32))
        assert set(scores.groups) == ({1} if secret == "free" else {1, 8, 32})
        for m in scores.groups:
            assert np.array_equal(scores.pooled(m), scores.pooled_floor(m))
            assert np.array_equal(scores.pooled(m, "count table"), scores.pooled_floor(m))


def test_a_code_that_tells_more_than_the_label_is_used() -> None:
    def codes(rng, label, value):
        return (2 * label + value)[:, None].astype(np.float32)

    server = view(codes, alphabet=8)
    scores = attack_attribute(server, "secret", seed=0)
    assert scores.chosen[1] == "count table"
    hits = scores.pooled(1).argmax(axis=1) == server.test.private["secret"]
    assert hits.all()


def test_the_floor_knows_what_the_label_tells() -> None:
    """The label equals the secret: the floor is perfect, and features add nothing."""
    server = view(lambda rng, label, value: rng.normal(size=(len(label), 4)).astype(np.float32))

    def told(part):
        return replace(part, predicted=part.private["secret"])

    server = replace(
        server,
        attacker_train=told(server.attacker_train),
        attacker_validation=told(server.attacker_validation),
        test=told(server.test),
    )
    scores = attack_attribute(server, "secret", seed=0, families=FAST)
    truth = server.test.private["secret"]
    assert (scores.floor.argmax(axis=1) == truth).all()
    assert (scores.pooled(1).argmax(axis=1) == truth).all()


def test_features_without_a_leak_gain_nothing_on_average() -> None:
    gains = []
    for seed in range(8):
        server = view(gaussian(6), seed=seed)
        scores = attack_attribute(server, "secret", seed=0, families=FAST)
        truth = server.test.private["secret"]
        right = [found.argmax(axis=1) == truth for found in (scores.pooled(1), scores.floor)]
        gains.append(right[0].mean() - right[1].mean())
    # The difference of two coin-like rates over 8 * 900 records: three deviations are 2.5 points.
    assert abs(np.mean(gains)) < 0.025


def test_the_same_seed_gives_the_same_scores_and_leaves_global_randomness_alone() -> None:
    server = view(
        gaussian(5, leak=0.5),
        redraw=lambda clean: clean + torch.randn_like(clean),
        sizes=(200, 80, 60),
    )
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    runs = [
        attack_attribute(server, "secret", seed=seed, families=["linear", "perceptron"])
        for seed in (3, 3, 4)
    ]
    assert torch.equal(torch.rand(1), expected)
    assert np.array_equal(runs[0].pooled(1), runs[1].pooled(1))
    assert not np.array_equal(runs[0].pooled(1), runs[2].pooled(1))


def test_pooling_needs_an_attribute_that_is_constant_per_user() -> None:
    assert poolable(view(gaussian(3), secret="identity"), "secret")
    assert not poolable(view(gaussian(3), secret="free"), "secret")
    server = view(gaussian(3), secret="free")
    scores = attack_attribute(server, "secret", seed=0, families=["linear"], requests=(1, 8))
    assert set(scores.groups) == {1}


def test_unknown_attributes_and_families_are_refused_by_name() -> None:
    server = view(gaussian(3), sizes=(60, 30, 30))
    with pytest.raises(DataError, match="attribute='age'"):
        attack_attribute(server, "age", seed=0)
    with pytest.raises(ConfigError, match="oracle"):
        attack_attribute(server, "secret", seed=0, families=["oracle"])
