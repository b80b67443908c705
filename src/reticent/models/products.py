"""Matrix products by the faster of the two libraries that PyTorch carries.

PyTorch multiplies matrices with MKL, which doesn't use AVX-512 on processors of other makers than
its own; oneDNN, which PyTorch uses for convolutions, does, and takes half the time there for all
but small products.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

# Multiplications from which on oneDNN's greater cost per call is worth it.
_LARGE = 2_000_000


@cache
def _has_onednn() -> bool:
    """Whether oneDNN's product is there, and this processor one on which it gains."""
    found = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()
    return found and torch.backends.cpu.get_cpu_capability() == "AVX512"


def is_large(rows: int, inner: int, columns: int) -> bool:
    """Whether products of (rows, inner) and (inner, columns) should go to `product`."""
    return rows * inner * columns >= _LARGE and _has_onednn()


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a (m, k) times the transpose of b (n, k), plus bias (n,): (m, n), float32; no gradients.

    Either may be a transposed view.
    """
    found: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return found


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., k) times the transpose of weight (n, k), plus bias (n,): (..., n); no gradients."""
    rows = x.numel() // max(1, x.shape[-1])
    if x.dtype != torch.float32 or not is_large(rows, x.shape[-1], len(weight)):
        return functional.linear(x, weight, bias)
    return product(x.reshape(rows, -1), weight, bias).view(*x.shape[:-1], len(weight))


def add_product(out: Tensor, a: Tensor, b: Tensor, *, beta: int) -> None:
    """out = beta out + the transpose of a (k, m) times b (k, n), beta 0 or 1."""
    if out.dtype != torch.float32 or not is_large(a.shape[1], len(a), b.shape[1]):
        out.addmm_(a.t(), b, beta=beta)
    elif beta:
        out.add_(product(a.t(), b.t()))
    else:
        out.copy_(product(a.t(), b.t()))
