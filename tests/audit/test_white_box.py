"""The white-box audit: the engine's gate, the verdicts, and every seeded defect."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from broken_trainers import DEFECTS, audit_defect, claimed
from torch import nn

import reticent
from reticent.audit.scorecard import Status
from reticent.audit.white_box import WhiteBoxResult, accounted, audit_training, private_run
from reticent.errors import ConfigError
from reticent.guarantee import DifferentialPrivacy, Guarantee, Pillar
from reticent.training.dp_sgd.accountant import Mechanism, calibrate
from reticent.training.dp_sgd.clipping import Automatic, Clipping, Flat, PerLayer
from reticent.training.dp_sgd.trainer import INSIDER, Plan, default_losses

# What each defect must be caught by, at least: a check, or a bound above the claim.
CAUGHT_BY = {
    "half_the_noise": ("epsilon", "noise level"),
    "noise_of_the_mean": ("epsilon", "noise level"),
    "clip_after_sum": ("contribution by table", "contribution by weight"),
    "drawn_divisor": ("noise steady",),
    "shuffled_loader": ("batch sizes", "repeats"),
    "fixed_size_batches": ("batch sizes",),
    "per_layer_without_root": ("epsilon", "contribution by spread"),
    "unclipped_bias": ("epsilon", "contribution by bias"),
    "tied_weight_counted_once": ("epsilon", "contribution by shared"),
    "repeated_noise": ("noise fresh",),
}

# Defects beyond the eight that every release must catch.
FURTHER = ("fixed_size_batches", "repeated_noise")


def claim(epsilon: float, delta: float = 1e-5) -> Guarantee:
    return Guarantee(
        id="stated",
        pillar=Pillar.TRAINING_DATA,
        adversary=INSIDER,
        strength=DifferentialPrivacy(
            epsilon=epsilon, delta=delta, neighboring_relation="add or remove one", unit="record"
        ),
        mechanism="DP-SGD",
        assumptions=(),
        source="test",
    )


def caught(result: WhiteBoxResult) -> set[str]:
    found = set(result.broken)
    strength = result.claim.strength
    assert isinstance(strength, DifferentialPrivacy)
    if result.epsilon_lower > strength.epsilon:
        found.add("epsilon")
    return found


def mixed() -> nn.Module:
    """Convolution, normalisation, a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 10)
    )


@pytest.mark.parametrize(
    ("rule", "multiplicity"),
    [(Flat(clip_norm=0.5), 1), (Automatic(), 1), (PerLayer(), 1), (Flat(clip_norm=0.5), 3)],
)
def test_the_engine_passes_its_gate(rule: Clipping, multiplicity: int) -> None:
    """The real trainer with its secure generators; a false alarm has a chance of 1 in 10^6."""
    pytest.importorskip("dp_accounting")
    task = reticent.load("digits", public="digit")
    result = audit_training(
        private_run(
            noise_multiplier=2.0,
            plan=Plan(steps=30, expected_batch=50, chunk=64),
            probability=0.125,
            clipping=rule,
            augment="flip and shift" if multiplicity > 1 else None,
            multiplicity=multiplicity,
            shape=(1, 8, 8),
        ),
        model=mixed(),
        inputs=torch.from_numpy(task.x[:100]).view(-1, 1, 8, 8),
        targets=torch.from_numpy(task.public[:100]),
        losses=default_losses,
        delta=1e-5,
        canaries=300,
        confidence=1 - 1e-6,
        seed=0,
    )
    assert result.verdict is not Status.VIOLATED, result.reason
    assert result.broken == ()
    assert result.bounds[0].n > 300


@pytest.mark.parametrize(
    "name",
    ["half_the_noise", "clip_after_sum", "drawn_divisor", "shuffled_loader", "unclipped_bias"],
)
def test_a_defect_is_caught(name: str) -> None:
    pytest.importorskip("dp_accounting")
    result = audit_defect(name, seed=100)
    assert result.verdict is Status.VIOLATED
    assert set(CAUGHT_BY[name]) <= caught(result)
    assert result.contradicts == "dp-sgd"


@pytest.mark.slow
@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_is_caught_every_time(name: str) -> None:
    pytest.importorskip("dp_accounting")
    seeds = 5 if name in FURTHER else 20
    for seed in range(seeds):
        result = audit_defect(name, seed)
        assert result.verdict is Status.VIOLATED, seed
        assert set(CAUGHT_BY[name]) & caught(result), seed


@pytest.mark.slow
def test_a_sound_trainer_passes_every_time() -> None:
    """20 runs at a false-alarm rate of 1 % each: two alarms have a chance of 2 %."""
    pytest.importorskip("dp_accounting")
    found = [audit_defect(None, seed) for seed in range(20)]
    assert sum(result.verdict is Status.VIOLATED for result in found) <= 1


@pytest.mark.slow
def test_the_bound_comes_near_a_claim_of_four() -> None:
    """1,000 canaries, sampling probability 0.05, 400 steps: 0.9 of the claim, on average."""
    pytest.importorskip("dp_accounting")
    q = round(0.05 * 2**32) / 2**32
    asked = Mechanism(noise_multiplier=1.0, steps=400, sampling_probability=q)
    mechanism = calibrate(4.0, 1e-5, mechanism=asked)
    stated = accounted(mechanism, 1e-5)
    shown = []
    for seed in range(2):
        started = time.process_time()
        result = audit_training(
            private_run(
                noise_multiplier=mechanism.noise_multiplier,
                plan=Plan(steps=400, expected_batch=1101 * q, chunk=128),
                probability=q,
                seed=seed,
            ),
            model=nn.Linear(6, 2),
            inputs=torch.randn(100, 6, generator=torch.Generator().manual_seed(0)),
            targets=torch.arange(100) % 2,
            losses=default_losses,
            claim=stated,
            seed=seed,
        )
        assert time.process_time() - started < 60
        shown.append(result.epsilon_lower)
    assert np.mean(shown) >= 0.9 * 4
    assert max(shown) <= 4


def test_a_claim_below_what_the_run_spends_is_violated() -> None:
    pytest.importorskip("dp_accounting")
    result = audit_defect(None, 3)
    assert result.verdict is Status.CONSISTENT
    low = audit_defect(None, 3, stated=claim(0.5 * result.epsilon_lower))
    assert low.broken == ()
    assert low.verdict is Status.VIOLATED
    assert low.contradicts == "stated"
    assert "shown: epsilon >=" in low.reason
    over = [finding.contradicts for finding in low.findings()]
    assert over[0] == "stated"


def test_the_result_is_plain_json_and_its_findings_say_what_each_bound_assumes() -> None:
    pytest.importorskip("dp_accounting")
    result = audit_defect(None, 3)
    told = json.loads(json.dumps(result.to_json()))
    assert {"epsilon_lower", "confidence", "canaries", "claim", "verdict"} <= set(told)
    assert told["epsilon_lower"] == result.epsilon_lower == max(b.epsilon for b in result.bounds)
    assert told["canaries"] == 240
    assert Guarantee.from_json(told["claim"]) == claimed()
    findings = result.findings()
    assert [f.attack for f in findings] == [
        f"white-box audit ({name})" for name in ("drawn", "insider", "guesses")
    ]
    assert [f.contradicts for f in findings] == [None] * 3
    assert findings[2].details["assumes"] == "nothing but the auditor's coins"
    assert json.loads(json.dumps([f.to_json() for f in findings]))
    # More knowledge shows more.
    assert result.bounds[0].epsilon > result.bounds[1].epsilon > result.bounds[2].epsilon


def test_too_few_canaries_are_inconclusive() -> None:
    pytest.importorskip("dp_accounting")
    result = audit_defect(None, 0, canaries=20)
    assert result.verdict is Status.INCONCLUSIVE
    assert "more canaries" in result.reason


def test_claims_that_cannot_be_judged_are_refused() -> None:
    with pytest.raises(ConfigError, match="delta > 0"):
        audit_defect(None, 0, stated=claim(1.0, delta=0.0))
    with pytest.raises(ConfigError, match="confidence=1"):
        audit_defect(None, 0, confidence=1.0)
    with pytest.raises(ConfigError, match="delta where there is no claim"):
        accounted(Mechanism(noise_multiplier=1.0, steps=1, sampling_probability=0.5), None)
