"""Audit models of your own, trained without Reticent: a scikit-learn forest and a PyTorch network.

    python examples/audit_your_model.py

Needs only three things: the model, records it was trained on, and records it was not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import nn
from torch.nn import functional

import reticent
from reticent.audit.material import parse_claim

# 5,000 real MNIST digits that come with a package. The split is at random: members and
# non-members must differ in nothing but membership.
task = reticent.load("mnist5k", public="digit")
rows = np.random.default_rng(0).permutation(len(task))
members, non_members, population = rows[:1500], rows[1500:3000], rows[3000:4000]
x, y = task.x, task.public


def train_network(epochs: int = 30) -> nn.Module:
    """A small network, trained until it knows its records by heart."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    own_x, own_y = torch.from_numpy(x[members]), torch.from_numpy(y[members])
    for _ in range(epochs):
        for batch in torch.randperm(len(own_x)).split(64):
            optimiser.zero_grad()
            functional.cross_entropy(model(own_x[batch]), own_y[batch]).backward()
            optimiser.step()
    return model.eval()


def main() -> None:
    """Two audits: the forest as a client sees it, the network with reference models."""
    forest = RandomForestClassifier(60, random_state=0).fit(
        x[members].reshape(len(members), -1), y[members]
    )
    card = reticent.audit_model(
        forest, task, members=members, non_members=non_members, population=population, access="L2"
    )
    show("forest", card)

    card = reticent.audit_model(
        train_network(),
        task,
        members=members,
        non_members=non_members,
        population=population,
        access="L3",
        # What reference models must repeat: they measure this training, not another.
        recipe=reticent.TrainingRecipe(
            size=len(members), epochs=30, batch_size=64, optimiser="sgd", learning_rate=0.1,
            momentum=0.9, weight_decay=0.0, schedule="constant",
        ),
        # A claim that is false on purpose: the audit must say so.
        claims=[parse_claim("epsilon=0.5,delta=1e-5")],
        report=print,
    )  # fmt: skip
    show("network", card)
    page = Path("runs") / "audit.html"
    page.parent.mkdir(exist_ok=True)
    reticent.write_report(page, card)
    print(f"report: {page}")


def show(name: str, card: reticent.Scorecard) -> None:
    """The strongest finding per pillar, and what was not run."""
    print(f"\n{name}: {card.verdict.value}")
    for pillar in reticent.Pillar:
        worst = card.strongest(pillar)
        if worst is not None:
            print(
                f"  {pillar.value:14} {worst.attack}: {worst.metric} {worst.value:.3f} "
                f"(floor {worst.floor:.3f}, 95 % interval {worst.ci[0]:.3f} to {worst.ci[1]:.3f})"
            )
    for attack, reason in card.untested.items():
        print(f"  not run: {attack}: {reason}")


if __name__ == "__main__":
    main()
