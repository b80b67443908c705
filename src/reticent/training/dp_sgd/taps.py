"""Layers as autograd functions that note their factors and return no parameter gradient.

The forward pass is PyTorch's own kernel. The backward pass computes the input's gradient alone and
hands (inputs, output gradients) to the batch. Because no tap returns a gradient for a parameter, a
parameter whose `.grad` is set after the backward pass was used outside of every tap: its norms
would be too small, and the engine refuses.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reticent.models import products
from reticent.training.dp_sgd.batch import WHOLE, Batch, Part
from reticent.training.dp_sgd.convolution import Convolution, Geometry, convolution_backward
from reticent.training.dp_sgd.terms import Direct, Lookup, Outer, Sequence


def note_linear(
    batch: Batch,
    inputs: Tensor,
    outputs: Tensor,
    weight: nn.Parameter | None,
    bias: nn.Parameter | None,
    part: Part = WHOLE,
    bias_part: Part | None = None,
) -> None:
    """Note the use of `weight` and `bias` where they are trained; inputs (B, ..., I)."""
    bias_part = bias_part or part
    trains_bias = bias is not None and bias.requires_grad
    if inputs.dim() == 2:
        if weight is not None and weight.requires_grad:
            batch.add(weight, Outer(inputs, outputs), part)
        if bias is not None and trains_bias:
            batch.add(bias, Direct(outputs), bias_part)
        return
    inputs, outputs = _sequence(inputs), _sequence(outputs)
    if weight is not None and weight.requires_grad:
        batch.add(weight, Sequence(inputs, outputs, batch.tuner), part)
    if bias is not None and trains_bias:
        batch.add(bias, Direct(outputs.sum(1)), bias_part)


def _sequence(values: Tensor) -> Tensor:
    return values if values.dim() == 3 else values.reshape(len(values), -1, values.shape[-1])


def _owned(values: Tensor) -> Tensor:
    """The same memory, no longer a view: autograd forbids in-place use of a tap's view.

    Of what goes through here, only results with positions are views.
    """
    if values.dim() == 2:
        return values
    where = (values.storage_offset(), values.shape, values.stride())
    return values.new_empty(0).set_(values.untyped_storage(), *where)


def apply(tap: type[torch.autograd.Function], *args: Any) -> Tensor:
    """`tap.apply(*args)`, with a type."""
    run: Any = tap.apply
    made: Tensor = run(*args)
    return made


class LinearTap(torch.autograd.Function):
    """x W^T + b, or with some rows of W and b only."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        part: Part,
        bias_part: Part,
        batch: Batch,
    ) -> Tensor:
        """Shapes: (B, ..., I) to (B, ..., O)."""
        ctx.save_for_backward(inputs)
        ctx.noted = (weight, bias, part, bias_part)
        ctx.batch = batch
        ctx.rows = _rows(weight, part)
        offset = None if bias is None else _rows(bias, bias_part)
        return _owned(products.linear(inputs, ctx.rows, offset))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The input's gradient, where somebody asks for it."""
        (outputs,) = grads
        note_linear(ctx.batch, ctx.saved_tensors[0].detach(), outputs, *ctx.noted)
        gradient = products.linear(outputs, ctx.rows.t()) if ctx.needs_input_grad[0] else None
        return gradient, None, None, None, None, None


class FrozenLinearTap(torch.autograd.Function):
    """x W^T + b whose W and b aren't trained: nothing is noted, and nothing kept."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, module: nn.Linear) -> Tensor:
        """Shapes: (..., I) to (..., O)."""
        ctx.weight = module.weight
        return _owned(products.linear(inputs, module.weight, module.bias))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The input's gradient, where somebody asks for it."""
        return products.linear(grads[0], ctx.weight.t()) if ctx.needs_input_grad[0] else None, None


def _rows(parameter: nn.Parameter, part: Part) -> Tensor:
    return parameter if part is WHOLE else parameter[part.start : part.stop]


class ConvolutionTap(torch.autograd.Function):
    """A convolution in one, two or three dimensions with zero padding."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        geometry: Geometry,
        batch: Batch,
    ) -> Tensor:
        """Shapes: (B, C, *space) to (B, O, *space')."""
        ctx.save_for_backward(inputs)
        ctx.weight, ctx.bias, ctx.geometry, ctx.batch = weight, bias, geometry, batch
        axes = len(geometry.stride)
        kernel = (functional.conv1d, functional.conv2d, functional.conv3d)[axes - 1]
        made: Tensor = kernel(
            inputs,
            weight,
            bias,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            geometry.groups,
        )
        return _owned(made)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The input's gradient, where somebody asks for it."""
        (outputs,) = grads
        inputs = ctx.saved_tensors[0].detach()
        weight, bias, batch = ctx.weight, ctx.bias, ctx.batch
        if weight.requires_grad:
            term = Convolution(inputs, outputs, weight.detach(), ctx.geometry, batch.tuner)
            batch.add(weight, term)
        if bias is not None and bias.requires_grad:
            batch.add(bias, Direct(outputs.flatten(2).sum(2)))
        gradient = None
        if ctx.needs_input_grad[0]:
            mask = (True, False, False)
            gradient = convolution_backward(outputs, inputs, weight, ctx.geometry, mask)[0]
        return gradient, None, None, None, None


class EmbeddingTap(torch.autograd.Function):
    """Rows of a table by id."""

    @staticmethod
    def forward(
        ctx: Any, ids: Tensor, weight: nn.Parameter, padding: int | None, batch: Batch
    ) -> Tensor:
        """Shapes: (B, ...) to (B, ..., D)."""
        ctx.save_for_backward(ids)
        ctx.weight, ctx.padding, ctx.batch = weight, padding, batch
        return functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Nothing flows on: ids have no gradient."""
        (outputs,) = grads
        (ids,) = ctx.saved_tensors
        outputs = outputs.reshape(len(ids), -1, outputs.shape[-1])
        ids = ids.reshape(len(ids), -1)
        if ctx.padding is not None:
            outputs = outputs.masked_fill((ids == ctx.padding).unsqueeze(2), 0.0)
        ctx.batch.add(ctx.weight, Lookup(ids, outputs, len(ctx.weight)))
        return None, None, None, None


class LayerNormTap(torch.autograd.Function):
    """Layer normalisation over the last axes."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        shape: tuple[int, ...],
        weight: nn.Parameter | None,
        bias: nn.Parameter | None,
        eps: float,
        batch: Batch,
    ) -> Tensor:
        """Shapes: (B, ..., *shape) to the same."""
        out, mean, scale = torch.native_layer_norm(inputs, shape, weight, bias, eps)
        ctx.save_for_backward(inputs, mean, scale)
        ctx.shape, ctx.weight, ctx.bias, ctx.batch = shape, weight, bias, batch
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The input's gradient, where somebody asks for it."""
        (outputs,) = grads
        inputs, mean, scale = (saved.detach() for saved in ctx.saved_tensors)
        weight, bias, batch = ctx.weight, ctx.bias, ctx.batch
        if weight is not None and weight.requires_grad:
            normal = torch.sub(inputs, mean).mul_(scale).mul_(outputs)
            batch.add(weight, Direct(_over_positions(normal, weight)))
        if bias is not None and bias.requires_grad:
            batch.add(bias, Direct(_over_positions(outputs, bias)))
        gradient = None
        if ctx.needs_input_grad[0]:
            gradient = torch.ops.aten.native_layer_norm_backward(
                outputs, inputs, ctx.shape, mean, scale, weight, bias, (True, False, False)
            )[0]
        return gradient, None, None, None, None, None


def _over_positions(values: Tensor, parameter: Tensor) -> Tensor:
    """Sum (B, ..., *parameter) over the axes between; shape (B, *parameter)."""
    if values.dim() == parameter.dim() + 1:
        return values
    return values.reshape(len(values), -1, *parameter.shape).sum(1)


class GroupNormTap(torch.autograd.Function):
    """Group normalisation."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        groups: int,
        weight: nn.Parameter,
        bias: nn.Parameter,
        eps: float,
        batch: Batch,
    ) -> Tensor:
        """Shapes: (B, C, ...) to the same."""
        inputs = inputs.contiguous()
        size, channels = inputs.shape[:2]
        area = inputs[0, 0].numel()
        out, mean, scale = torch.native_group_norm(
            inputs, weight, bias, size, channels, area, groups, eps
        )
        ctx.save_for_backward(inputs, mean, scale)
        ctx.groups, ctx.weight, ctx.bias, ctx.batch = groups, weight, bias, batch
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The input's gradient, where somebody asks for it."""
        outputs = grads[0].contiguous()
        inputs, mean, scale = (saved.detach() for saved in ctx.saved_tensors)
        weight, bias, batch = ctx.weight, ctx.bias, ctx.batch
        size, channels = inputs.shape[:2]
        sums = outputs.view(size, channels, -1).sum(2)
        if weight.requires_grad:
            width = channels // ctx.groups
            products = torch.mul(outputs, inputs).view(size, channels, -1).sum(2)
            means = mean.repeat_interleave(width, 1)
            scales = scale.repeat_interleave(width, 1)
            batch.add(weight, Direct((products - means * sums).mul_(scales)))
        if bias.requires_grad:
            batch.add(bias, Direct(sums))
        gradient = None
        if ctx.needs_input_grad[0]:
            gradient = torch.ops.aten.native_group_norm_backward(
                outputs,
                inputs,
                mean,
                scale,
                weight,
                size,
                channels,
                inputs[0, 0].numel(),
                ctx.groups,
                (True, False, False),
            )[0]
        return gradient, None, None, None, None, None


class ScaleTap(torch.autograd.Function):
    """values * weight + bias along the last axes: the affine part of any normalisation."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: nn.Parameter, bias: nn.Parameter | None, batch: Batch
    ) -> Tensor:
        """Shapes: (B, ..., *weight) to the same."""
        ctx.save_for_backward(inputs)
        ctx.weight, ctx.bias, ctx.batch = weight, bias, batch
        return inputs * weight if bias is None else torch.addcmul(bias, inputs, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The input's gradient, where somebody asks for it."""
        (outputs,) = grads
        inputs = ctx.saved_tensors[0].detach()
        weight, bias, batch = ctx.weight, ctx.bias, ctx.batch
        if weight.requires_grad:
            batch.add(weight, Direct(_over_positions(outputs * inputs, weight)))
        if bias is not None and bias.requires_grad:
            batch.add(bias, Direct(_over_positions(outputs, bias)))
        gradient = outputs * weight if ctx.needs_input_grad[0] else None
        return gradient, None, None, None


class PoolingTap(torch.autograd.Function):
    """Max pooling over images, faster where the channels of a place lie side by side.

    Nothing is noted: it has no parameters. What comes and goes lies in memory as ever, since other
    layers are slow where formats differ.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, module: nn.MaxPool2d) -> Tensor:
        """Shapes: (B, C, h, w) to (B, C, h', w')."""
        stride = module.stride if module.stride is not None else module.kernel_size
        moves = [_pair(each) for each in (module.kernel_size, stride, module.padding)]
        ctx.options = (*moves, _pair(module.dilation), module.ceil_mode)
        beside = inputs.contiguous(memory_format=torch.channels_last)
        out, places = torch.ops.aten.max_pool2d_with_indices(beside, *ctx.options)
        ctx.save_for_backward(places)
        ctx.shape = inputs.shape
        made: Tensor = out.contiguous()
        return made

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """The input's gradient."""
        (places,) = ctx.saved_tensors
        outputs = grads[0].contiguous(memory_format=torch.channels_last)
        # Of the inputs only shape and format are asked for: nothing is kept for them.
        like = outputs.new_empty(ctx.shape).contiguous(memory_format=torch.channels_last)
        gradient = torch.ops.aten.max_pool2d_with_indices_backward(
            outputs, like, *ctx.options, places
        )
        return gradient.contiguous(), None


def _pair(size: int | tuple[int, ...]) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size)
