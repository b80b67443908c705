"""How a target was trained, exactly enough to train models like it."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Literal

from reticent.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """One training procedure; a shadow that deviates from it measures another model's leak.

    `size` records, drawn without replacement; `epochs` passes in shuffled batches of `batch_size`
    (a last batch of one record is dropped). `optimiser` with `learning_rate`, `momentum` (SGD
    only) and `weight_decay`, all as in `torch.optim`; `schedule` "cosine" falls to 0 over the
    epochs, stepped once per epoch. `keep` is "last", or "best": the epoch with the least loss on
    `held_out` further records. With `clip_norm`, per-example gradients are clipped to it and
    Gaussian noise of `noise_multiplier` * `clip_norm` is added to each batch's sum (DP-SGD, Abadi
    et al. 2016, Alg. 1); batches are then Poisson-sampled with rate batch_size / size, an epoch has
    as many of them as it would have batches (rounded up), and the sum is divided by `batch_size`.
    """

    size: int
    epochs: int = 12
    batch_size: int = 64
    optimiser: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: float = 1e-3
    momentum: float = 0.0
    weight_decay: float = 1e-4
    schedule: Literal["constant", "cosine"] = "cosine"
    keep: Literal["last", "best"] = "last"
    held_out: int = 0
    clip_norm: float | None = None
    noise_multiplier: float = 0.0

    def __post_init__(self) -> None:
        choices = {
            "optimiser": ("sgd", "adam", "adamw"),
            "schedule": ("constant", "cosine"),
            "keep": ("last", "best"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"Expected {name} among {list(known)}, got {name}={getattr(self, name)!r}."
                )
        for name in ("size", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Expected {name} >= 1, got {name}={getattr(self, name)}.")
        for name in ("learning_rate", "momentum", "weight_decay", "noise_multiplier"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"Expected a finite {name} >= 0, got {name}={value}.")
        if self.clip_norm is not None and not 0 < self.clip_norm < math.inf:
            raise ConfigError(f"Expected clip_norm > 0, got clip_norm={self.clip_norm}.")
        if self.noise_multiplier > 0 and self.clip_norm is None:
            raise ConfigError(
                f"Expected clip_norm beside noise_multiplier={self.noise_multiplier}: noise "
                "without clipping protects nobody."
            )
        if (self.keep == "best") != (self.held_out > 0):
            raise ConfigError(
                f'Expected held_out > 0 with keep="best" and only there, got keep={self.keep!r}, '
                f"held_out={self.held_out}."
            )

    def digest(self) -> str:
        """SHA-256 of the recipe, in hexadecimal."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
