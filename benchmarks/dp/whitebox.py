"""The white-box audit of the package's own trainer: how near its bound comes, how often it errs.

Digits with a linear layer, sampling probability 0.05, 400 steps, 1,000 canaries, delta 1e-5, 99 %
family-wise confidence. The claim is the accountant's; a run above it, or one called broken, is a
false alarm. The seeded defects are those of the test suite.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "audit"))

import numpy as np
import torch
from rows import Row, row
from torch import nn

import reticent
from reticent.audit.scorecard import Status
from reticent.audit.white_box import WhiteBoxResult, accounted, audit_training, private_run
from reticent.training.dp_sgd.accountant import Mechanism, calibrate
from reticent.training.dp_sgd.trainer import Plan, default_losses

DELTA, CANARIES, RECORDS = 1e-5, 1000, 500


def audits(epsilon: float, *, steps: int, rate: float, runs: int) -> list[tuple[Any, float]]:
    """(result, CPU seconds) of `runs` audits of a trainer that is calibrated to `epsilon`."""
    q = round(rate * 2**32) / 2**32
    mechanism = calibrate(
        epsilon,
        DELTA,
        mechanism=Mechanism(noise_multiplier=1.0, steps=steps, sampling_probability=q),
    )
    task = reticent.load("digits", public="digit")
    x, y = torch.from_numpy(task.x[:RECORDS]), torch.from_numpy(task.public[:RECORDS])
    plan = Plan(steps=steps, expected_batch=q * (RECORDS + CANARIES + 1), chunk=128)
    claim, made = accounted(mechanism, DELTA), []
    for seed in range(runs):
        start = time.process_time()
        result = audit_training(
            private_run(
                noise_multiplier=mechanism.noise_multiplier, plan=plan, probability=q, seed=seed
            ),
            model=nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 10)),
            inputs=x,
            targets=y,
            losses=default_losses,
            claim=claim,
            canaries=CANARIES,
            seed=seed,
        )
        made.append((result, time.process_time() - start))
    return made


def rows(*, quick: bool) -> Iterable[Row]:
    """Bounds at four claims, false alarms at epsilon 4, and the seeded defects."""
    for epsilon in (4.0,) if quick else (1.0, 2.0, 4.0, 8.0):
        # No more than this many at the other claims: their false alarms aren't counted.
        runs = 5 if quick else 100 if epsilon == 4.0 else 10
        found = audits(epsilon, steps=400, rate=0.05, runs=runs)
        yield from bound_rows(epsilon, found)
    yield from defect_rows(3 if quick else 20)


def bound_rows(epsilon: float, found: list[tuple[WhiteBoxResult, float]]) -> Iterable[Row]:
    """Mean bounds, alarms and time of audits at one claim."""
    case, n = f"epsilon {epsilon:g}, 1,000 canaries", len(found)
    add = partial(row, case, rival_name="claim", n=n)
    for index, bound in enumerate(found[0][0].bounds):
        values = np.array([result.bounds[index].epsilon for result, _ in found])
        yield add(
            f"lower bound ({bound.name})",
            float(values.mean()),
            epsilon,
            higher=True,
            unit="epsilon",
            spread=[round(float(v), 3) for v in (values.min(), values.max())],
            at_least_nine_tenths=int((values >= 0.9 * epsilon).sum()),
        )
    above = sum(result.epsilon_lower > epsilon for result, _ in found)
    yield add("runs above the claim", above, None, unit="runs")
    broken = sum(bool(result.broken) for result, _ in found)
    yield add("sound runs called broken", broken, None, unit="runs")
    cpu = max(seconds for _, seconds in found)
    yield add("longest audit, CPU", cpu, None, unit="s")


def defect_rows(seeds: int) -> Iterable[Row]:
    """How many of `seeds` runs of each broken trainer are caught, and by what."""
    from broken_trainers import DEFECTS, audit_defect

    for name in DEFECTS:
        found = [audit_defect(name, seed) for seed in range(seeds)]
        caught = [result for result in found if result.verdict is Status.VIOLATED]
        yield row(
            name.replace("_", " "),
            "caught",
            len(caught),
            None,
            "",
            unit="runs",
            n=seeds,
            by_epsilon=sum(r.epsilon_lower > r.claim.strength.epsilon for r in caught),
            by_checks=sorted(set.intersection(*(set(r.broken) for r in caught)) if caught else ()),
        )
