"""Train one network with differential privacy and one without, and attack both.

    python examples/audit_private_training.py

Outside, with 64 reference models (LiRA and its kin): does the attacker find the members? Inside,
with a thousand canaries in one run: does the training keep its epsilon, and is it what it says?
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import reticent
from reticent.audit.scorecard import by_pillar
from reticent.audit.white_box import WhiteBoxResult, audit_training, private_run
from reticent.training.dp_sgd.trainer import Plan, PrivatelyTrained, default_losses, train_dp

EPSILON, DELTA = 2.0, 1e-5
EPOCHS, BATCH, RATE = 20, 320, 0.5

# 1,797 real digits of 8 x 8 pixels. Members and non-members are split at random.
task = reticent.load("digits", public="digit")
rows = np.random.default_rng(0).permutation(len(task))
members, non_members, population = rows[:640], rows[640:1280], rows[1280:]
x, y = torch.from_numpy(task.x), torch.from_numpy(task.public)

# What reference models must repeat. The plain twin trains without clipping and
# noise, in small batches and for longer: it shows what happens when nobody protects the members.
recipe = reticent.TrainingRecipe(
    size=len(members), epochs=EPOCHS, batch_size=BATCH, optimiser="sgd", learning_rate=RATE,
    momentum=0.9, weight_decay=0.0, schedule="constant", clip_norm=1.0,
)  # fmt: skip
plain_recipe = replace(recipe, epochs=40, batch_size=64, learning_rate=0.1, clip_norm=None)
plan = Plan(
    steps=EPOCHS * len(members) // BATCH, expected_batch=BATCH, learning_rate=RATE, momentum=0.9
)


def network() -> nn.Module:
    """A perceptron of one hidden layer."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def train_plainly(inputs: Tensor, targets: Tensor) -> nn.Module:
    """Ordinary SGD by `plain_recipe`."""
    model = network()
    optimiser = torch.optim.SGD(model.parameters(), lr=plain_recipe.learning_rate, momentum=0.9)
    for _ in range(plain_recipe.epochs):
        for batch in torch.randperm(len(inputs)).split(plain_recipe.batch_size):
            optimiser.zero_grad()
            functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
            optimiser.step()
    return model.eval()


def audit_from_inside(made: PrivatelyTrained) -> WhiteBoxResult:
    """The same trainer, noise, sampling and steps, with canaries among 500 of the members."""
    probability = made.mechanism.sampling_probability
    assert probability is not None
    few = members[:500]
    return audit_training(
        private_run(
            noise_multiplier=made.mechanism.noise_multiplier,
            plan=replace(plan, expected_batch=probability * (len(few) + 1001)),
            probability=probability,
        ),
        model=network(),
        inputs=x[few],
        targets=y[few],
        losses=default_losses,
        claim=made.guarantee,
        canaries=1000,
        seed=0,
    )


def main() -> None:
    """Both models, both audits, one report each."""
    plain = train_plainly(x[members], y[members])
    made = train_dp(
        network(), x[members], y[members],
        losses=default_losses, epsilon=EPSILON, delta=DELTA, plan=plan,
    )  # fmt: skip
    assert made.guarantee is not None
    noise = made.mechanism.noise_multiplier
    inside = audit_from_inside(made)
    print(f"inside: {inside.verdict.value}; {inside.reason}")
    for name, model, own, claims in (
        ("plain", plain, plain_recipe, []),
        ("private", made.model, replace(recipe, noise_multiplier=noise), [made.guarantee]),
    ):
        card = reticent.audit_model(
            copy.deepcopy(model),
            task,
            members=members,
            non_members=non_members,
            population=population,
            attacks=("membership",),
            access="L3",
            recipe=own,
            claims=claims,
            undefended=None if model is plain else plain,
            shadows=64,
            report=print,
        )
        if claims:
            found = (*card.findings, *inside.findings())
            card = replace(card, pillars=by_pillar(claims, found))
        show(name, card)
        page = Path("runs") / f"{name}_training.html"
        page.parent.mkdir(exist_ok=True)
        reticent.write_report(page, card)
        print(f"report: {page}")


def show(name: str, card: reticent.Scorecard) -> None:
    """What was found about the members, beside what was claimed and what it cost."""
    print(f"\n{name}: {card.verdict.value}")
    if card.utility is not None:
        print(f"  accuracy {card.utility.protected:.3f}, plain twin {card.utility.baseline:.3f}")
    for claim in card.guarantees:
        print(f"  claim: {claim.strength}: {card.status(claim).value}")
    for finding in card.findings:
        print(
            f"  {finding.attack}: {finding.metric} {finding.value:.3f} (floor {finding.floor:.3f})"
        )


if __name__ == "__main__":
    main()
