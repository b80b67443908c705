"""Harden a PyTorch model of your own on arrays of your own, and attack it.

    python examples/own_model.py

The records here are SYNTHETIC: a public shape, and a private mark of the person who drew it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import reticent


def make_records(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """1,800 series of 64 samples: four shapes are public, twelve people's tremor is private."""
    person = np.repeat(np.arange(12), 150)
    shape = rng.integers(0, 4, len(person))
    time = np.linspace(0, 1, 64)
    waves = np.sin(2 * np.pi * (shape[:, None] + 1) * time + rng.normal(0, 0.4, (len(person), 1)))
    tremor = 0.5 * np.sin(2 * np.pi * (8 + person[:, None]) * time)
    x = waves + tremor + rng.normal(0, 0.3, waves.shape)
    return {"x": x[:, None, :].astype(np.float32), "shape": shape, "person": person}


class Residual(nn.Module):
    """A block with a shortcut: such networks are cut between blocks, without any change."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 5, padding=2)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shapes: (batch, width, length) to the same."""
        return torch.relu(x + self.norm(self.conv(x)))


class Net(nn.Module):
    """Any module whose forward takes one tensor will do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 24, 5, stride=2, padding=2)
        self.first, self.second, self.third = Residual(24), Residual(24), Residual(24)
        self.out = nn.Linear(24 * 32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shapes: (batch, 1, 64) to (batch, 4)."""
        return self.out(self.third(self.second(self.first(self.stem(x)))).flatten(1))


def train(model: nn.Module, x: np.ndarray, y: np.ndarray) -> nn.Module:
    """Your own training loop, whatever it is."""
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    data = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    for _ in range(6):
        for records, labels in torch.utils.data.DataLoader(data, 64, shuffle=True):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(records), labels).backward()
            optimiser.step()
    return model.eval()


def main() -> None:
    """Train, harden, attack; print the claim, the attack and the utility side by side."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    records = make_records(np.random.default_rng(0))
    task = reticent.Task(
        name="tremor",
        x=records["x"],
        public=records["shape"],
        private={"person": records["person"]},
        users=records["person"],
        synthetic=True,
    )
    parts = reticent.partition(task, regime="known")
    model = train(Net(), task.x[parts.train], task.public[parts.train])
    deployment = reticent.harden(model, task, parts=parts, method="adapter_code")
    before, after = deployment.utility
    claim = deployment.guarantees[0]
    print(f"{task.title}: cut after {deployment.hardened.cut!r}")
    print(f"claim    {claim.mechanism}: excess at most {claim.allowed_excess(32):g} at 32 requests")
    for found in deployment.attack(requests=(1, 8), quick=True):
        print(
            f"attack   {found.target}, {found.requests} request(s): {found.value:.3f} "
            f"(label alone {found.floor:.3f}, undefended {found.ceiling or float('nan'):.3f})"
        )
    print(f"utility  {after:.3f} (undefended {before:.3f})")


if __name__ == "__main__":
    main()
