"""A small recurrent language model over characters, to plant canaries in and to search fast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from reticent.attacks.memorisation.search import sequence_costs
from reticent.errors import ConfigError


class CharacterModel(nn.Module):
    """Embedding, one GRU layer and a linear output: tokens (n, T) to logits (n, T, V).

    It is a `SequenceModel`: `step` reads one token and `pick` selects states (1, n, hidden).
    """

    def __init__(
        self, *, vocabulary: int, hidden: int = 64, embedding: int = 16, seed: int = 0
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(vocabulary, embedding)
            self.recurrence = nn.GRU(embedding, hidden, batch_first=True)
            self.output = nn.Linear(hidden, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (n, T, V) of the token after each of `tokens` (n, T)."""
        outputs, _state = self.recurrence(self.embedding(tokens))
        logits: Tensor = self.output(outputs)
        return logits

    @torch.no_grad()
    def step(self, tokens: NDArray[np.int64], state: Any) -> tuple[NDArray[np.float64], Any]:
        """Log-probabilities (n, V) in nats after `tokens` (n,), and the new state."""
        fed = self.embedding(torch.from_numpy(np.ascontiguousarray(tokens)))[:, None]
        outputs, after = self.recurrence(fed, state)
        logits = self.output(outputs[:, 0]).double()
        return np.asarray(functional.log_softmax(logits, dim=1).numpy()), after

    def pick(self, state: Any, rows: NDArray[np.int64]) -> Any:
        """The states of the sequences `rows`."""
        return state.index_select(1, torch.from_numpy(np.ascontiguousarray(rows)))

    def log_perplexity(self, sequences: NDArray[np.int64]) -> NDArray[np.float64]:
        """Costs (n,) in nats of sequences (n, T), given their first token."""
        return sequence_costs(self, sequences)


def train_characters(
    model: CharacterModel,
    sequences: NDArray[np.int64],
    *,
    epochs: int,
    batch_size: int = 32,
    learning_rate: float = 5e-3,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> CharacterModel:
    """`model`, trained in place to predict each next token of `sequences` (n, T) (Adam).

    Raises `ConfigError` for sequences without a second token.
    """
    if sequences.ndim != 2 or sequences.shape[1] < 2:
        raise ConfigError(f"Expected sequences (n, T) with T >= 2, got shape={sequences.shape}.")
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
    data = torch.from_numpy(np.ascontiguousarray(sequences, dtype=np.int64))
    model.train()
    for epoch in range(epochs):
        order = torch.randperm(len(data), generator=generator)
        for rows in torch.split(order, batch_size):
            optimiser.zero_grad()
            logits = model(data[rows, :-1])
            functional.cross_entropy(logits.flatten(0, 1), data[rows, 1:].flatten()).backward()
            optimiser.step()
        if progress is not None:
            progress((epoch + 1) / epochs)
    return model.eval()
