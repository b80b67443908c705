"""Which strategy each layer uses, chosen by timing them on made-up numbers of the same shape.

The fastest way to a layer's per-example norms depends on its shape and on the machine, and no
formula in the literature predicts it well on a CPU. Data never take part in the choice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from reticent.errors import ConfigError

_ROUNDS = 3


class Tuner:
    """Remembers the winner per shape; `choices` can be stored and given back.

    Rounding differs between strategies, so a run that must be repeated to the bit needs the same
    choices: pass those of the first run.
    """

    def __init__(self, choices: Mapping[str, str] | None = None) -> None:
        self.choices: dict[str, str] = dict(choices or {})

    def choose(self, key: str, names: tuple[str, ...], trial: Callable[[str], None]) -> str:
        """The name whose `trial` was fastest, or the one that was chosen for `key` before."""
        if key in self.choices:
            chosen = self.choices[key]
            if chosen not in names:
                raise ConfigError(
                    f"Expected a strategy among {names} for {key!r}, got strategy={chosen!r}. "
                    "Drop the stored choices to tune again."
                )
            return chosen
        if len(names) == 1:
            self.choices[key] = names[0]
            return names[0]
        best = dict.fromkeys(names, float("inf"))
        for name in names:
            trial(name)
        for _ in range(_ROUNDS):
            for name in names:
                start = time.thread_time()
                trial(name)
                best[name] = min(best[name], time.thread_time() - start)
        self.choices[key] = min(best, key=lambda name: best[name])
        return self.choices[key]
