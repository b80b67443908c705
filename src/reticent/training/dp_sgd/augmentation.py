"""Random views of every record, whose mean gradient is clipped: augmentation multiplicity.

A record is seen K times in a step, each time changed at random, and the mean of its K gradients is
clipped and summed as one gradient was (De et al. 2022, arXiv 2204.13650, section 4.2). The mean's
noise is smaller than one view's; its sensitivity, and so the charge, is the same.

The draws need no secure source. They are keyed by the record's own content and the step, so that
what a record adds to a sum is a function of that record and of public constants alone: even to
somebody who knows every draw, one record moves the sum by no more than the clip norm. A stream that
the batch's records shared wouldn't do: leaving one out would change the draws of those after it.
For the same reason a transform sees one record at a time.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from reticent.errors import ConfigError

Transform = Callable[[Tensor], Tensor]
"""From K equal copies of one record, shape (K, *record), to K views of it, same shape and type."""


def flip(copies: Tensor) -> Tensor:
    """Each mirrored left to right with probability a half; shape (K, ..., rows, columns)."""
    mirrored = torch.rand(len(copies), *(1,) * (copies.dim() - 1)) < 0.5
    return torch.where(mirrored, copies.flip(-1), copies)


def shift(copies: Tensor) -> Tensor:
    """Each moved by up to an eighth of its sides, edges repeated; shape (K, ..., rows, columns).

    Four pixels of 32, as De et al. move CIFAR-10's.
    """
    for axis in (-2, -1):
        side = copies.shape[axis]
        most = side // 8
        moves = torch.randint(-most, most + 1, (len(copies), 1))
        places = (torch.arange(side) + moves).clamp(0, side - 1)
        shape = [len(copies), *(1,) * (copies.dim() - 1)]
        shape[axis] = side
        copies = copies.gather(axis, places.view(shape).expand_as(copies))
    return copies


def flip_and_shift(copies: Tensor) -> Tensor:
    """Both, as usual for photographs."""
    return shift(flip(copies))


NAMED: Mapping[str, Transform] = {"flip": flip, "shift": shift, "flip and shift": flip_and_shift}


class Views:
    """`multiplicity` views of each record by `augment`: a name, or a transform of your own.

    A transform may draw from PyTorch's global generator, which is keyed before each call and put
    back afterwards; other sources must know nothing of the records. Raises `ConfigError` for an
    unknown name, a multiplicity that makes no sense, records that are no images.
    """

    def __init__(self, augment: Transform | str | None, multiplicity: int, *, key: int = 0) -> None:
        if multiplicity < 1 or (augment is None and multiplicity > 1):
            raise ConfigError(
                "Expected multiplicity >= 1, and augment where it is above 1, got "
                f"multiplicity={multiplicity}, augment={augment!r}: equal copies teach nothing."
            )
        if isinstance(augment, str) and augment not in NAMED:
            raise ConfigError(f"Expected augment among {[*NAMED]}, got augment={augment!r}.")
        self.is_named = isinstance(augment, str)
        self.transform = NAMED[augment] if isinstance(augment, str) else augment
        self.name = augment if isinstance(augment, str) else getattr(augment, "__name__", "own")
        self.multiplicity, self._key = multiplicity, key

    def check(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Raises `ConfigError` where records of `shape` can't be changed so; reads none of them."""
        if self.is_named and len(shape) < 2:
            raise ConfigError(
                f"Expected images, (..., rows, columns), for augment={self.name!r}, got records of "
                f"shape={shape}. Give a transform of your own."
            )
        self.of(torch.zeros(1, *shape, dtype=dtype), step=0)

    def of(self, records: Tensor, *, step: int) -> Tensor:
        """(B, *record) to (B K, *record), the views of one record adjacent."""
        transform = self.transform
        if transform is None:
            return records
        made, generator = [], torch.default_generator
        with torch.random.fork_rng(devices=[]):
            for record in records:
                content = record.detach().flatten().view(torch.uint8).numpy()
                generator.manual_seed(zlib.crc32(content, (self._key + step) % 2**32))
                copies = record.expand(self.multiplicity, *record.shape)
                views = transform(copies.clone())
                if views.shape != copies.shape or views.dtype != copies.dtype:
                    raise ConfigError(
                        f"Expected views of shape={tuple(copies.shape)} and dtype={copies.dtype}, "
                        f"got shape={tuple(views.shape)}, dtype={views.dtype} from augment="
                        f"{self.name!r}."
                    )
                made.append(views)
        return torch.cat(made)
