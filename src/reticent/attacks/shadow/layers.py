"""Layers of N models as one: the weights gain a first axis, the records of all lie end to end.

Shapes: N models, B records each. Every layer takes (N*B, ...) and gives (N*B, ...), so a network's
own `forward` (residuals, flattening, concatenation, activations, pooling) runs unchanged; only
layers with weights or statistics are exchanged. The order is model by model: row n*B + b.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from reticent.errors import UnsupportedError
from reticent.models.patches import patches

# Numbers in one model's batch from which on convolutions in turn beat a grouped one.
LARGE = 8192
# Weights of one filter up to which a first convolution is a product with patches.
_FEW = 32


class StackedLayer(nn.Module):
    """One layer of N models; tensors of the same names, each with a first axis of N."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.count = len(layers)
        first = layers[0]
        for name, given in first.named_parameters(recurse=False):
            values = torch.stack([layer.get_parameter(name).detach() for layer in layers])
            self.register_parameter(name, nn.Parameter(values, given.requires_grad))
        for name, _ in first.named_buffers(recurse=False):
            self.register_buffer(name, torch.stack([layer.get_buffer(name) for layer in layers]))

    def squared_norms(self, x: Tensor, gradient: Tensor) -> Tensor | None:
        """Squared norms (N*B,) of each record's gradient with respect to this layer's parameters.

        x is the layer's input and `gradient` the loss's gradient at its output, (N*B, ...) both;
        None where this layer can't tell.
        """
        return None


class StackedLinear(StackedLayer):
    """N linear layers as one batched product."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__(layers)
        self.has_bias = cast(nn.Linear, layers[0]).bias is not None

    def forward(self, x: Tensor) -> Tensor:
        """(N*B, ..., in) to (N*B, ..., out)."""
        rows = x.reshape(self.count, -1, x.shape[-1])
        weight = self.get_parameter("weight").transpose(1, 2)
        if self.has_bias:
            out = torch.baddbmm(self.get_parameter("bias").unsqueeze(1), rows, weight)
        else:
            out = torch.bmm(rows, weight)
        return out.view(*x.shape[:-1], out.shape[-1])

    def squared_norms(self, x: Tensor, gradient: Tensor) -> Tensor:
        """|x|^2 |gradient|^2 for one product per record; else of the sum of outer products."""
        x, gradient = x.unflatten(0, (len(x), 1)), gradient.unflatten(0, (len(x), 1))
        return _product_norms(x.flatten(1, -2), gradient.flatten(1, -2), self.has_bias)


class StackedConvolution(StackedLayer):
    """N convolutions: small ones as one with N times the groups, large ones in turn.

    With `channels_last`, images leave in that memory format, in which the layers behind (pooling
    above all) are several times faster. It shows in nothing but strides, which `Tensor.view` minds.
    """

    channels_last = False

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__(layers)
        first = cast(Any, layers[0])
        self.has_bias = first.bias is not None
        self.convolve = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[
            len(first.kernel_size)
        ]
        self.options = (first.stride, first.padding, first.dilation)
        self.groups = first.groups

    def forward(self, x: Tensor) -> Tensor:
        """(N*B, channels, ...) to (N*B, channels', ...')."""
        if self._is_first(x):
            out = self._as_products(x)
        elif x.numel() >= self.count * LARGE:
            out = self._in_turn(x)
        else:
            wide = _side_by_side(x, self.count)
            weight = self.get_parameter("weight").flatten(0, 1)
            bias = self.get_parameter("bias").flatten() if self.has_bias else None
            out = self.convolve(wide, weight, bias, *self.options, groups=self.count * self.groups)
            out = _end_to_end(out, self.count)
        return out.contiguous(memory_format=torch.channels_last) if self.channels_last else out

    def _is_first(self, x: Tensor) -> bool:
        """Whether it reads the records themselves, whose gradient nobody needs, in few patches."""
        wide = self.get_parameter("weight")[0, 0].numel()
        plain = self.groups == 1 and not isinstance(self.options[1], str)
        return x.ndim == 4 and plain and not x.requires_grad and wide <= _FEW

    def _as_products(self, x: Tensor) -> Tensor:
        """With few input channels, products of weights and patches are cheaper."""
        weight = self.get_parameter("weight")
        seen, shape = patches(x, tuple(weight.shape[3:]), *self.options)
        own = seen.unflatten(0, (self.count, -1))
        out = torch.matmul(weight.flatten(2).unsqueeze(1), own)
        if self.has_bias:
            out = out + self.get_parameter("bias").view(self.count, 1, -1, 1)
        return out.view(len(x), -1, *shape)

    def _in_turn(self, x: Tensor) -> Tensor:
        weights = self.get_parameter("weight").unbind()
        biases = self.get_parameter("bias").unbind() if self.has_bias else [None] * self.count
        parts = [
            self.convolve(own, weight, bias, *self.options, groups=self.groups)
            for own, weight, bias in zip(x.chunk(self.count), weights, biases, strict=True)
        ]
        return torch.cat(parts)

    def squared_norms(self, x: Tensor, gradient: Tensor) -> Tensor | None:
        """Those of the products of patches and output gradients; None in three dimensions."""
        stride, padding, dilation = self.options
        if x.ndim != 4 or self.groups > 1 or isinstance(padding, str):
            return None
        kernel = tuple(self.get_parameter("weight").shape[-2:])
        seen, _ = patches(x, kernel, stride, padding, dilation)
        return _product_norms(seen.mT, gradient.flatten(2).mT, self.has_bias)


class StackedBatchNorm(StackedLayer):
    """N batch normalisations, each with its own statistics."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__(layers)
        first = cast(nn.BatchNorm1d, layers[0])
        self.eps, self.momentum, self.affine = first.eps, first.momentum, first.affine
        self.tracked = first.track_running_stats

    def forward(self, x: Tensor) -> Tensor:
        """(N*B, channels, ...) to the same."""
        weight = self.get_parameter("weight").flatten() if self.affine else None
        bias = self.get_parameter("bias").flatten() if self.affine else None
        mean = variance = None
        momentum = self.momentum
        if self.tracked:
            mean = self.get_buffer("running_mean").view(-1)
            variance = self.get_buffer("running_var").view(-1)
            if self.training:
                seen = self.get_buffer("num_batches_tracked").add_(1)
                momentum = 1 / float(seen.flatten()[0]) if momentum is None else momentum
        out = functional.batch_norm(
            _side_by_side(x, self.count),
            mean,
            variance,
            weight,
            bias,
            training=self.training or not self.tracked,
            momentum=0.0 if momentum is None else momentum,
            eps=self.eps,
        )
        return _end_to_end(out, self.count)


class StackedLayerNorm(StackedLayer):
    """N layer normalisations: one normalisation, N scales and offsets."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__(layers)
        first = cast(nn.LayerNorm, layers[0])
        self.shape, self.eps = first.normalized_shape, first.eps

    def forward(self, x: Tensor) -> Tensor:
        """(N*B, ..., *normalised shape) to the same."""
        out = functional.layer_norm(x, self.shape, eps=self.eps)
        inner = (1,) * (x.ndim - len(self.shape))
        return _scaled(self, out, inner, ())

    def squared_norms(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Of scale and offset."""
        plain = functional.layer_norm(x, self.shape, eps=self.eps)
        inner = range(1, x.ndim - len(self.shape))
        return _scale_norms(self, plain, gradient, tuple(inner))


class StackedGroupNorm(StackedLayer):
    """N group normalisations: one normalisation, N scales and offsets."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__(layers)
        first = cast(nn.GroupNorm, layers[0])
        self.groups, self.eps = first.num_groups, first.eps

    def forward(self, x: Tensor) -> Tensor:
        """(N*B, channels, ...) to the same."""
        out = functional.group_norm(x, self.groups, eps=self.eps)
        return _scaled(self, out, (1,), (1,) * (x.ndim - 2))

    def squared_norms(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Of scale and offset."""
        plain = functional.group_norm(x, self.groups, eps=self.eps)
        return _scale_norms(self, plain, gradient, tuple(range(2, x.ndim)))


class StackedEmbedding(StackedLayer):
    """N embeddings as one table of N * words rows."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__(layers)
        first = cast(nn.Embedding, layers[0])
        if first.max_norm is not None or first.sparse or first.padding_idx is not None:
            raise UnsupportedError("Not yet: stacked embeddings with max_norm, padding or sparse.")
        self.words = first.num_embeddings

    def forward(self, x: Tensor) -> Tensor:
        """Words (N*B, ...) to vectors (N*B, ..., size)."""
        own = x.reshape(self.count, -1, *x.shape[1:])
        start = torch.arange(self.count).mul_(self.words).view(-1, *(1,) * (own.ndim - 1))
        table = self.get_parameter("weight").flatten(0, 1)
        return functional.embedding((own + start).flatten(0, 1), table)


KINDS: dict[type[nn.Module], Callable[[Sequence[nn.Module]], StackedLayer]] = {
    nn.Linear: StackedLinear,
    nn.Conv1d: StackedConvolution,
    nn.Conv2d: StackedConvolution,
    nn.Conv3d: StackedConvolution,
    nn.BatchNorm1d: StackedBatchNorm,
    nn.BatchNorm2d: StackedBatchNorm,
    nn.BatchNorm3d: StackedBatchNorm,
    nn.LayerNorm: StackedLayerNorm,
    nn.GroupNorm: StackedGroupNorm,
    nn.Embedding: StackedEmbedding,
}
"""What stands in for which layer; exact types, since a subclass may compute something else."""


def stacked_layer(layers: Sequence[nn.Module]) -> StackedLayer:
    """The stack of one layer of each model. Raises `UnsupportedError` where no kind fits."""
    first = layers[0]
    kind = KINDS.get(type(first))
    padded = getattr(first, "padding_mode", "zeros")
    if kind is None or padded != "zeros":
        raise UnsupportedError(f"Not yet: {type(first).__name__} in one stack of models.")
    return kind(layers)


def _side_by_side(x: Tensor, count: int) -> Tensor:
    """(N*B, channels, ...) to (B, N*channels, ...)."""
    return x.reshape(count, -1, *x.shape[1:]).transpose(0, 1).flatten(1, 2)


def _end_to_end(x: Tensor, count: int) -> Tensor:
    """(B, N*channels, ...) to (N*B, channels, ...)."""
    return x.view(len(x), count, -1, *x.shape[2:]).transpose(0, 1).flatten(0, 1)


def _scaled(
    layer: StackedLayer, x: Tensor, before: tuple[int, ...], after: tuple[int, ...]
) -> Tensor:
    """Each model's scale and offset on its records (N*B, ...); axes of size 1 around the weight."""
    own = x.view(layer.count, -1, *x.shape[1:])
    for name in ("weight", "bias"):
        value = layer._parameters.get(name)
        if value is not None:
            shaped = value.view(layer.count, *before, *value.shape[1:], *after)
            own = own * shaped if name == "weight" else own + shaped
    return own.view(x.shape)


def _product_norms(x: Tensor, gradient: Tensor, has_bias: bool) -> Tensor:
    """Squared norms (M,) of sum_t gradient_t x_t' (and of sum_t gradient_t, for a bias).

    x is (M, T, in), gradient (M, T, out). With few t, by inner products; else by the sums.
    """
    times, wide, out = x.shape[1], x.shape[2], gradient.shape[2]
    if times == 1:
        norms = x.square().sum(dim=(1, 2)) * gradient.square().sum(dim=(1, 2))
    elif times * times < wide * out:
        norms = (torch.bmm(x, x.mT) * torch.bmm(gradient, gradient.mT)).sum(dim=(1, 2))
    else:
        norms = torch.bmm(gradient.mT, x).square().sum(dim=(1, 2))
    return norms + gradient.sum(dim=1).square().sum(dim=1) if has_bias else norms


def _scale_norms(
    layer: StackedLayer, plain: Tensor, gradient: Tensor, shared: tuple[int, ...]
) -> Tensor:
    """Squared norms (M,) for a scale and an offset that the axes `shared` have in common."""
    norms = torch.zeros(len(plain))
    for name, part in (("weight", gradient * plain), ("bias", gradient)):
        if layer._parameters.get(name) is not None:
            summed = part.sum(dim=shared) if shared else part
            norms += summed.flatten(1).square().sum(dim=1)
    return norms
