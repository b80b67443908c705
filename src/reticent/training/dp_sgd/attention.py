"""PyTorch's multi-head attention with its projections noted."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from reticent.training.dp_sgd.batch import WHOLE, Batch, Part
from reticent.training.dp_sgd.taps import LinearTap, apply


def is_plain(module: nn.MultiheadAttention) -> bool:
    """Whether `attention` is exact for it: no learned extra keys, no added zero key."""
    return module.bias_k is None and module.bias_v is None and not module.add_zero_attn


def attention(
    module: nn.MultiheadAttention,
    batch: Batch,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """What `nn.MultiheadAttention` returns; self-, cross- and kdim/vdim attention."""
    projected = _project(module, batch, query, key, value)
    q, k, v = (_heads(part, module.num_heads) for part in projected)
    size, length, source = len(q), q.shape[2], k.shape[2]
    bias = _bias(attn_mask, key_padding_mask, (size, module.num_heads, length, source))
    dropout = module.dropout if module.training else 0.0
    weights = None
    if need_weights:
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
        weights = torch.softmax(scores if bias is None else scores + bias, -1)
        weights = functional.dropout(weights, dropout) if dropout else weights
        mixed = weights @ v
        weights = weights.mean(1) if average_attn_weights else weights
    else:
        mixed = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, dropout_p=dropout, is_causal=is_causal and bias is None
        )
    mixed = mixed.transpose(1, 2).flatten(2)
    out = module.out_proj
    made = apply(LinearTap, mixed, out.weight, out.bias, WHOLE, WHOLE, batch)
    return made if module.batch_first else made.transpose(0, 1), weights


def _project(
    module: nn.MultiheadAttention, batch: Batch, query: Tensor, key: Tensor, value: Tensor
) -> list[Tensor]:
    """Queries, keys, values, each (B, T, E)."""
    width, bias = module.embed_dim, module.in_proj_bias
    given = [query, key, value]
    if getattr(module, "in_proj_weight", None) is None:
        weights = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
        return [
            apply(
                LinearTap,
                _batch_first(module, batch, values),
                weight,
                bias,
                WHOLE,
                Part(index * width, (index + 1) * width),
                batch,
            )
            for index, (values, weight) in enumerate(zip(given, weights, strict=True))
        ]
    # Arguments that are one tensor share one product.
    runs: list[tuple[int, Tensor]] = []
    for values in given:
        if runs and runs[-1][1] is values:
            runs[-1] = (runs[-1][0] + 1, values)
        else:
            runs.append((1, values))
    parts: list[Tensor] = []
    for count, values in runs:
        start = len(parts)
        part = WHOLE if count == 3 else Part(start * width, (start + count) * width)
        inputs = _batch_first(module, batch, values)
        made = apply(LinearTap, inputs, module.in_proj_weight, bias, part, part, batch)
        parts.extend(made.chunk(count, -1))
    return parts


def _batch_first(module: nn.MultiheadAttention, batch: Batch, values: Tensor) -> Tensor:
    if values.dim() == 3 and not module.batch_first:
        values = values.transpose(0, 1)
    batch.check_batch_first(values, "MultiheadAttention")
    return values


def _heads(values: Tensor, count: int) -> Tensor:
    """(B, T, E) to (B, heads, T, E / heads)."""
    split: Tensor = values.unflatten(2, (count, -1))
    return split.transpose(1, 2)


def _bias(
    mask: Tensor | None, padding: Tensor | None, shape: tuple[int, int, int, int]
) -> Tensor | None:
    """What is added to the scores, broadcastable to (B, heads, T, S)."""
    parts = []
    if mask is not None:
        mask = _additive(mask)
        parts.append(mask if mask.dim() == 2 else mask.view(shape))
    if padding is not None:
        parts.append(_additive(padding).view(shape[0], 1, 1, shape[3]))
    return cast(Tensor, sum(parts)) if parts else None


def _additive(mask: Tensor) -> Tensor:
    if mask.dtype is not torch.bool:
        return mask
    return torch.zeros(mask.shape).masked_fill_(mask, -math.inf)
