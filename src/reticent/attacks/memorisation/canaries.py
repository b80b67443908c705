"""Canaries: records with a secret part, planted in training data so that a leak can be counted.

A template fixes a format such as "the code is ####"; the secret fills its open positions with
uniform choices. The space R of all fillings is what an attacker has to search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reticent.errors import ConfigError
from reticent.random import SecureRandom, seeded

DIGITS = "0123456789"
_LARGEST = 2**62


@dataclass(frozen=True, kw_only=True)
class Template:
    """The space R of token sequences with one of `positions[t]` at place t, in that order.

    A fixed place has one choice. Sequences are numbered in mixed radix, the last place fastest,
    so neighbours share prefixes. Raises `ConfigError` where nothing is secret or a choice is
    listed twice.
    """

    positions: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        for place, choices in enumerate(self.positions):
            if not choices or len(set(choices)) < len(choices):
                raise ConfigError(
                    f"Expected different tokens to choose from at every place, got "
                    f"choices={choices} at place {place}."
                )
        if self.size < 2:
            raise ConfigError(
                f"Expected at least one open place, got {len(self.positions)} fixed ones: nothing "
                "would be secret."
            )

    @classmethod
    def of_text(
        cls, text: str, tokens: Mapping[str, int], *, blank: str = "#", choices: str = DIGITS
    ) -> Template:
        """The template of a text, one token per character; each `blank` is one of `choices`.

        Raises `ConfigError` for characters that `tokens` lacks.
        """
        unknown = sorted((set(text) - {blank} | set(choices)) - set(tokens))
        if unknown:
            raise ConfigError(f"Expected characters that have a token, got {unknown}.")
        open_place = tuple(tokens[choice] for choice in choices)
        return cls(
            positions=tuple(
                open_place if character == blank else (tokens[character],) for character in text
            )
        )

    @property
    def size(self) -> int:
        """|R|, the number of sequences."""
        return math.prod(len(choices) for choices in self.positions)

    @property
    def log2_size(self) -> float:
        """log2 |R|, the exposure of a canary that is the likeliest of all."""
        return sum(math.log2(len(choices)) for choices in self.positions)

    def sequences(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sequences (n, places) by their numbers (n,) in 0..|R|-1."""
        if self.size > _LARGEST:
            raise ConfigError(
                f"Expected a space that 62 bits number, got log2 |R|={self.log2_size:.0f}. "
                "Draw sequences instead."
            )
        left = np.asarray(numbers, dtype=np.int64)
        found = np.empty((len(left), len(self.positions)), dtype=np.int64)
        for place in range(len(self.positions) - 1, -1, -1):
            choices = np.asarray(self.positions[place], dtype=np.int64)
            left, rest = np.divmod(left, len(choices))
            found[:, place] = choices[rest]
        return found

    def draw(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Uniform sequences (count, places) with replacement."""
        columns = [
            np.asarray(choices, dtype=np.int64)[rng.integers(len(choices), size=count)]
            for choices in self.positions
        ]
        return np.stack(columns, axis=1)


@dataclass(frozen=True, kw_only=True)
class Canary:
    """One template with its secret filled in: `tokens`, one per place."""

    template: Template
    tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        fits = len(self.tokens) == len(self.template.positions) and all(
            token in choices
            for token, choices in zip(self.tokens, self.template.positions, strict=True)
        )
        if not fits:
            raise ConfigError(f"Expected tokens that the template allows, got {self.tokens}.")

    @property
    def sequence(self) -> NDArray[np.int64]:
        """The tokens as an array (places,)."""
        return np.asarray(self.tokens, dtype=np.int64)


def draw_canaries(templates: Sequence[Template], *, seed: int | None = None) -> tuple[Canary, ...]:
    """One canary per template, its secret uniform and independent of the others.

    Without `seed` the secrets come from the operating system's entropy, as they must where
    somebody else trains the model: whoever can guess a secret can pass the audit. A seed is for
    experiments. Give every canary a context of its own (another name before the secret), or
    canaries compete with each other for the same probability.
    """
    secure = SecureRandom()
    rng = None if seed is None else seeded(seed, 101)
    made = []
    for template in templates:
        tokens = []
        for choices in template.positions:
            if rng is None:
                picked = int(secure.integers(len(choices), (1,))[0])
            else:
                picked = int(rng.integers(len(choices)))
            tokens.append(choices[picked])
        made.append(Canary(template=template, tokens=tuple(tokens)))
    return tuple(made)
