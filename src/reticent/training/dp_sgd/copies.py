"""Several rows of a batch as one example: its gradient is the mean over its rows.

Clipping then bounds the mean, not each row: the per-example gradient of augmentation multiplicity
(De et al. 2022, arXiv 2204.13650, section 4.2). The rows of one example are adjacent, and their
losses were scaled by one over their number before the backward pass, so that gradients only add.
Shapes: B examples of K rows each, T positions, I inputs, O outputs.
"""

from __future__ import annotations

from torch import Tensor

from reticent.training.dp_sgd.convolution import Convolution
from reticent.training.dp_sgd.terms import Direct, Lookup, Outer, Sequence, Term
from reticent.training.dp_sgd.tuning import Tuner


def merged(term: Term, copies: int, tuner: Tuner) -> Term:
    """A term of B examples whose gradients are the sums over `copies` rows of `term`'s each.

    Rows become further positions where the layer has positions, so that no gradient is formed;
    a convolution's are summed by its own weight gradient.
    """
    if isinstance(term, Outer | Sequence):
        return Sequence(_longer(term.inputs, copies), _longer(term.outputs, copies), tuner)
    if isinstance(term, Lookup):
        ids = term.ids.reshape(-1, copies * term.ids.shape[1])
        return Lookup(ids, _longer(term.outputs, copies), term.vocabulary)
    if isinstance(term, Convolution):
        return Direct(term.by_images(copies))
    return Direct(term.per_example().unflatten(0, (-1, copies)).sum(1))


def _longer(values: Tensor, copies: int) -> Tensor:
    """(B K, I) or (B K, T, I) to (B, K T, I)."""
    return values.reshape(len(values) // copies, -1, values.shape[-1])
