"""The plain deployment: the client sends its input as it is, the server runs the whole model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from reticent.data.answers import Answers
from reticent.guarantee import Guarantee
from reticent.inference.split.halves import Halves
from reticent.inference.split.harden import Costs, Hardened
from reticent.inference.split.release import Bare
from reticent.models.cut import INPUT

METHOD = "plain"


def plain(
    model: nn.Module,
    sample: NDArray[np.float32],
    answers: Answers,
    guarantees: tuple[Guarantee, ...] = (),
) -> Hardened:
    """`model` behind the split's own interface, cut at the input; `sample` is (1, ...).

    Nothing is claimed about the input: `guarantees` are those of the training.
    """
    shape = sample.shape[1:]
    size = int(np.prod(shape))
    head = nn.Sequential(nn.Unflatten(1, shape), model) if len(shape) > 1 else model
    return Hardened(
        method=METHOD,
        cut=INPUT,
        halves=Halves(
            encoder=nn.Flatten(),
            release=Bare(size=size),
            head=head.eval(),
            answers=answers,
        ),
        guarantees=guarantees,
        costs=Costs(
            client_flops_share=0.0,
            client_params_share=0.0,
            request_bytes=4 * size,
            reply_bytes=4 * answers.outputs,
        ),
        validation_utility=float("nan"),
    )
