"""Which tap stands in for which module while a batch is being recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

from torch import Tensor, nn
from torch.nn import functional

from reticent.errors import UnsupportedError
from reticent.training.dp_sgd.attention import attention, is_plain
from reticent.training.dp_sgd.batch import WHOLE, Batch
from reticent.training.dp_sgd.batch_norm import BatchNorm
from reticent.training.dp_sgd.convolution import Geometry
from reticent.training.dp_sgd.recurrent import gru, lstm
from reticent.training.dp_sgd.taps import (
    ConvolutionTap,
    EmbeddingTap,
    GroupNormTap,
    LayerNormTap,
    LinearTap,
    ScaleTap,
    apply,
)


class Rule(Protocol):
    """Runs a module's forward pass with its parameters' uses noted in `batch`."""

    def __call__(self, module: Any, batch: Batch, *args: Any, **kwargs: Any) -> Any:
        """The module's own result."""


def linear(module: nn.Linear, batch: Batch, inputs: Tensor) -> Tensor:
    """`nn.Linear`."""
    batch.check_batch_first(inputs, "Linear")
    return apply(LinearTap, inputs, module.weight, module.bias, WHOLE, WHOLE, batch)


def convolution(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, batch: Batch, inputs: Tensor) -> Tensor:
    """`nn.Conv1d`, `nn.Conv2d`, `nn.Conv3d`, any padding mode."""
    batch.check_batch_first(inputs, "Convolution")
    axes = len(module.kernel_size)
    padding: tuple[int, ...] = (0,) * axes
    ends = _padding(module)
    if module.padding_mode != "zeros":
        inputs = functional.pad(inputs, ends, mode=module.padding_mode)
    elif ends[::2] == ends[1::2]:
        padding = tuple(reversed(ends[::2]))
    else:
        inputs = functional.pad(inputs, ends)
    geometry = Geometry(
        stride=tuple(module.stride),
        padding=padding,
        dilation=tuple(module.dilation),
        groups=module.groups,
    )
    return apply(ConvolutionTap, inputs, module.weight, module.bias, geometry, batch)


def _padding(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> list[int]:
    """(before, after) per axis, last axis first, as `functional.pad` takes them."""
    axes = len(module.kernel_size)
    ends: list[int] = []
    for axis in reversed(range(axes)):
        if module.padding == "same":
            total = module.dilation[axis] * (module.kernel_size[axis] - 1)
            ends += [total // 2, total - total // 2]
        elif module.padding == "valid":
            ends += [0, 0]
        else:
            ends += [int(module.padding[axis])] * 2
    return ends


def embedding(module: nn.Embedding, batch: Batch, ids: Tensor) -> Tensor:
    """`nn.Embedding`; ids without a batch axis (positions) are the same for every example."""
    if ids.dim() == 1 and len(ids) != batch.size:
        ids = ids.unsqueeze(0)
    if len(ids) == 1 and ids.dim() > 1 and batch.size > 1:
        ids = ids.expand(batch.size, *ids.shape[1:])
    if len(ids) != batch.size:
        batch.check_batch_first(ids, "Embedding")
    return apply(EmbeddingTap, ids, module.weight, module.padding_idx, batch)


def layer_norm(module: nn.LayerNorm, batch: Batch, inputs: Tensor) -> Tensor:
    """`nn.LayerNorm`."""
    batch.check_batch_first(inputs, "LayerNorm")
    return apply(
        LayerNormTap, inputs, module.normalized_shape, module.weight, module.bias, module.eps, batch
    )


def group_norm(module: nn.GroupNorm, batch: Batch, inputs: Tensor) -> Tensor:
    """`nn.GroupNorm`."""
    batch.check_batch_first(inputs, "GroupNorm")
    return apply(
        GroupNormTap, inputs, module.num_groups, module.weight, module.bias, module.eps, batch
    )


def rms_norm(module: nn.RMSNorm, batch: Batch, inputs: Tensor) -> Tensor:
    """`nn.RMSNorm`: PyTorch's kernel without the scale, then the scale."""
    batch.check_batch_first(inputs, "RMSNorm")
    normal = functional.rms_norm(inputs, module.normalized_shape, None, module.eps)
    return apply(ScaleTap, normal, module.weight, None, batch)


def instance_norm(
    module: nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d, batch: Batch, inputs: Tensor
) -> Tensor:
    """Instance normalisation without running statistics: one group per channel."""
    batch.check_batch_first(inputs, "InstanceNorm")
    channels = inputs.shape[1]
    return apply(GroupNormTap, inputs, channels, module.weight, module.bias, module.eps, batch)


_RULES: dict[Callable[..., Any], Rule] = {
    nn.Linear.forward: linear,
    nn.Conv1d.forward: convolution,
    nn.Conv2d.forward: convolution,
    nn.Conv3d.forward: convolution,
    nn.Embedding.forward: embedding,
    nn.LayerNorm.forward: layer_norm,
    nn.GroupNorm.forward: group_norm,
    nn.RMSNorm.forward: rms_norm,
}
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_RECURRENT: dict[Callable[..., Any], Rule] = {nn.LSTM.forward: lstm, nn.GRU.forward: gru}
_OWN_NAMES = {"weight", "bias"}


def rule_for(module: nn.Module) -> Rule | None:
    """The rule that is exact for this module, or None.

    A subclass counts only with its base's own forward pass, and only where weight and bias are
    plain parameters: `torch.nn.utils.parametrize` and `weight_norm` make them results of others.
    """
    if hasattr(module, "parametrizations"):
        return None
    if _has_forward_of(module, nn.MultiheadAttention):
        return attention if is_plain(cast(nn.MultiheadAttention, module)) else None
    if isinstance(module, nn.LSTM | nn.GRU) and not module.proj_size:
        return _RECURRENT.get(type(module).forward)
    if {name for name, _ in module.named_parameters(recurse=False)} - _OWN_NAMES:
        return None
    if isinstance(module, nn.GroupNorm | nn.RMSNorm) and getattr(module, "weight", None) is None:
        return None
    if isinstance(module, _INSTANCE_NORMS) and not module.track_running_stats:
        return instance_norm
    return _RULES.get(type(module).forward)


def _has_forward_of(module: nn.Module, kind: type[nn.Module]) -> bool:
    return type(module).forward is kind.forward


def check_supported(name: str, module: nn.Module) -> None:
    """Raises `UnsupportedError` for a module that mixes examples or keeps what it saw."""
    kind = type(module).__name__
    if isinstance(module, BatchNorm) and module.training:
        raise UnsupportedError(
            f"{kind} at {name!r} in training mode makes every example's gradient depend on the "
            "others: there is no per-example bound, ever. Replace it by GroupNorm with "
            "`without_batch_norm(model)`, or keep it in evaluation mode."
        )
    if isinstance(module, _INSTANCE_NORMS) and module.track_running_stats:
        raise UnsupportedError(
            f"{kind} at {name!r} stores statistics of the data outside of any noise. "
            "Build it with track_running_stats=False."
        )
    if isinstance(module, nn.Embedding) and (
        module.max_norm is not None or module.scale_grad_by_freq or module.sparse
    ):
        raise UnsupportedError(
            f"Embedding at {name!r} rescales by batch content or has sparse gradients. Build it "
            "with max_norm=None, scale_grad_by_freq=False, sparse=False."
        )
    if any(isinstance(p, nn.UninitializedParameter) for p in module.parameters(recurse=False)):
        raise UnsupportedError(f"{kind} at {name!r} has no shape yet. Run it once before.")
