"""The first batch, checked: the engine's gradients against PyTorch's own, one example at a time.

A norm that is silently too small is the one error that breaks the guarantee without a sign. The
engine refuses what it can see; what it can't, such as a model that averages over the batch or
takes positions for examples, differs from what each example gives alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from reticent.errors import UnsupportedError
from reticent.training.dp_sgd.engine import Engine

Losses = Callable[..., Tensor]
_DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    nn.MultiheadAttention,
    nn.RNNBase,
)
_TOLERANCE = 1e-3


def check_first_batch(
    engine: Engine,
    losses: Losses,
    inputs: Sequence[Tensor],
    *,
    examples: int = 3,
    copies: int = 1,
) -> None:
    """Compare up to `examples` examples of a batch; `losses(*inputs)` has shape (B,).

    An example is `copies` adjacent rows, and its loss their mean. Dropout is off meanwhile. Raises
    `UnsupportedError`, with the parameters' names, when a norm or a gradient differs by more than a
    part in 1000, and when the loss of an example depends on who else is in the batch.
    """
    size = len(inputs[0]) // copies
    rows = sorted({round(k * (size - 1) / max(1, examples - 1)) for k in range(examples)})
    with _without_dropout(engine.model):
        with engine.recording(size * copies):
            together = losses(*inputs)
            batch = engine.backward(together, copies=copies)
        norms = batch.squared_norms(engine.groups(per_layer=True)).sqrt()
        for row in rows:
            here = slice(row * copies, (row + 1) * copies)
            alone = losses(*(values[here] for values in inputs)).mean()
            _check_loss(float(together[here].detach().mean()), float(alone.detach()), row)
            exact = torch.autograd.grad(alone, engine.parameters, allow_unused=True)
            weights = torch.zeros(size)
            weights[row] = 1.0
            engine.fill(batch, weights)
            _check_gradients(engine, exact, norms[:, row], row)


def _check_loss(together: float, alone: float, row: int) -> None:
    if abs(together - alone) > _TOLERANCE * max(1.0, abs(alone)):
        raise UnsupportedError(
            f"Example {row} of the first batch has loss {together} in the batch and {alone} alone: "
            "the model or the loss mixes examples. Remove what averages over the batch."
        )


def _check_gradients(
    engine: Engine, exact: Sequence[Tensor | None], norms: Tensor, row: int
) -> None:
    whole = torch.stack([torch.zeros(()) if g is None else g.norm() for g in exact]).norm()
    names = {p: name for name, p in engine.model.named_parameters()}
    wrong = []
    for parameter, view, gradient, norm in zip(
        engine.parameters, engine.views, exact, norms, strict=True
    ):
        expected = torch.zeros_like(parameter) if gradient is None else gradient
        slack = _TOLERANCE * (expected.norm() + _TOLERANCE * whole)
        if not ((norm - expected.norm()).abs() <= slack and (view - expected).norm() <= slack):
            wrong.append(names[parameter])
    if wrong:
        raise UnsupportedError(
            f"Example {row} of the first batch has other gradients alone than in the batch, at "
            f"{wrong}: the model mixes examples, or takes another axis for the batch's."
        )


@contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    changed = [m for m in model.modules() if isinstance(m, _DROPOUTS) and m.training]
    for module in changed:
        module.training = False
    try:
        yield
    finally:
        for module in changed:
            module.training = True
