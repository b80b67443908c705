"""Rebuilt training records judged: planted leaks are found, protected and clean models aren't."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from torch import nn

from reticent.attacks.finding import Finding
from reticent.attacks.reconstruction.gradient_matching import GradientMatching
from reticent.attacks.reconstruction.gradients import FullyConnectedInversion
from reticent.attacks.spec import Labelled
from reticent.attacks.target import Victim
from reticent.audit.rebuilt import Prior, chance, closeness, pair, rebuilt
from reticent.audit.training_reconstruction import (
    audit_gradients,
    audit_informed,
    audit_stored_records,
)
from reticent.data.embedded import digits
from reticent.errors import DataError
from reticent.guarantee import Pillar

TASK = digits(public="digit")
ALL = Labelled(x=TASK.x, y=TASK.public)
MEMBERS, OTHERS = ALL.take(np.arange(300)), ALL.take(np.arange(300, 700))


def network(width: int = 48) -> Victim:
    torch.manual_seed(0)
    layers = (nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    model = nn.Sequential(nn.Flatten(), *layers).eval()
    return Victim.of_module(model, sample=TASK.x)


def classifier(estimator: object) -> Victim:
    flat = MEMBERS.x.reshape(len(MEMBERS), -1).astype(np.float64)
    return Victim.of_estimator(estimator.fit(flat, MEMBERS.y), sample=MEMBERS.x)


def noise(gradients: dict, rng: np.random.Generator) -> dict:
    return {name: part + rng.normal(0, 0.1, part.shape) for name, part in gradients.items()}


def survives(finding: Finding) -> None:
    assert finding.pillar is Pillar.TRAINING_DATA
    assert Finding.from_json(json.loads(json.dumps(finding.to_json()))) == finding


def test_open_gradients_give_every_record_and_noise_takes_it_back() -> None:
    attacks = (FullyConnectedInversion(),)
    records = MEMBERS.take(np.arange(12))
    (open_,) = audit_gradients(network(), records, public=OTHERS, attacks=attacks)
    assert (open_.value, open_.floor, open_.ceiling) == (1.0, 0.0, 1.0)
    assert open_.excess_ci[0] > 0.7
    assert open_.details["worst PSNR"] > 120
    assert open_.details["labels read"] == 1.0
    (hidden,) = audit_gradients(network(), records, public=OTHERS, attacks=attacks, share=noise)
    assert (hidden.value, hidden.ceiling) == (0.0, 1.0)
    assert hidden.details["power"]
    assert hidden.excess_ci[0] == 0
    survives(open_)
    survives(hidden)


def test_batches_are_matched_to_their_records_in_any_order() -> None:
    (found,) = audit_gradients(
        network(width=160),
        MEMBERS.take(np.arange(8)),
        public=OTHERS,
        batch=4,
        attacks=(FullyConnectedInversion(),),
    )
    assert found.value == 1.0
    assert found.n == 8
    guesses = np.array([[1.0, 1.0], [0.0, 0.1]])
    truth = np.array([[0.0, 0.0], [5.0, 5.0], [1.0, 1.0]])
    placed = pair(guesses, truth)
    assert placed[[0, 2]].tolist() == [[0.0, 0.1], [1.0, 1.0]]
    assert np.isnan(placed[1]).all()


def test_an_attack_that_fails_without_protection_says_that_it_has_no_power() -> None:
    weak = GradientMatching(objective="cosine", steps=2, starts=1)
    seen = []
    (found,) = audit_gradients(
        network(),
        MEMBERS.take(np.arange(3)),
        public=OTHERS,
        attacks=(weak,),
        share=noise,
        keep=seen.append,
    )
    assert found.value == found.ceiling == 0
    assert not found.details["power"]
    assert seen[0].inputs.shape == seen[0].best.shape == seen[0].floor.shape == (3, 1, 8, 8)


def test_a_public_record_is_no_secret() -> None:
    with pytest.raises(DataError, match="duplicates"):
        audit_gradients(network(), MEMBERS.take(np.arange(2)), public=MEMBERS)
    with pytest.raises(DataError, match="batch"):
        audit_gradients(network(), MEMBERS.take(np.arange(2)), public=OTHERS, batch=3)


def test_what_counts_as_rebuilt_by_hand() -> None:
    prior = Prior.of(Labelled(x=np.array([[0.0, 0.0], [2.0, 0.0]], np.float32), y=np.array([0, 0])))
    truth = np.array([[1.0, 1.0], [0.0, 3.0]])
    reach = prior.reach(truth)
    # The mean (1, 0) is nearest to the first, the record (0, 0) to the second.
    assert reach == pytest.approx([1.0, 9.0])
    guesses = np.array([[1.0, 1.3], [0.0, 2.1]])
    assert rebuilt(guesses, truth, reach).tolist() == [True, True]
    assert rebuilt(guesses + 0.1, truth, reach).tolist() == [False, True]
    assert rebuilt(np.full((2, 2), np.nan), truth, reach).tolist() == [False, False]
    assert chance(truth[::-1], truth, reach) == 1.0
    assert chance(truth, truth, reach) == 0.0
    assert closeness(np.full((2, 2), np.nan), truth, spread=1.0) == {"guessed": 0.0}


def test_support_vectors_are_found_and_coefficients_are_not() -> None:
    machine = classifier(SVC())
    (found,) = audit_stored_records(machine, MEMBERS, OTHERS)
    assert found.value == len(machine.model.support_) / len(MEMBERS)
    assert (found.floor, found.ceiling) == (0.0, 1.0)
    assert found.excess_ci[0] > 0.5
    survives(found)
    (clean,) = audit_stored_records(classifier(LogisticRegression(max_iter=200)), MEMBERS, OTHERS)
    assert clean.value == 0
    assert clean.excess_ci[0] < 0 < clean.excess_ci[1]


def test_random_membership_shows_no_excess() -> None:
    mixed = np.random.default_rng(0).permutation(600)
    first, second = (ALL.take(mixed[part]) for part in (slice(0, 300), slice(300, 600)))
    (found,) = audit_stored_records(classifier(SVC()), first, second)
    assert found.value > 0.2
    assert found.excess_ci[0] < 0 < found.excess_ci[1]


def test_lonely_leaves_are_counted_but_are_no_records() -> None:
    (found,) = audit_stored_records(
        classifier(DecisionTreeClassifier(random_state=0)), MEMBERS, OTHERS
    )
    assert found.value == 0
    assert found.details["members alone in a leaf"] > 0


def test_an_insider_rebuilds_the_rows_of_an_optimum_and_not_of_a_sloppy_fit() -> None:
    exact, sloppy = (
        audit_informed(classifier(model), MEMBERS, count=20)[0]
        for model in (RidgeClassifier(), LogisticRegression(tol=0.5, max_iter=3))
    )
    assert (exact.value, exact.floor, exact.ceiling) == (1.0, 0.0, 1.0)
    assert exact.details["largest error"] < 1e-6
    assert exact.details["labels right"] == 1.0
    assert sloppy.value < 0.5
    assert sloppy.ceiling == 1.0
    survives(exact)
