"""N models of one architecture that are run and trained together.

Layers exchanged for stacked ones (`LayerStack`), `torch.func.vmap` over the network (`VmapStack`),
or one model after the other (`LoopStack`); for perceptrons see `dense`, for the choice `choice`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from reticent.attacks.shadow.layers import StackedConvolution, StackedLayer, stacked_layer
from reticent.errors import UnsupportedError


class Stack(ABC):
    """N models that answer (N, B, ...) with (N, B, outputs); each learns only from its own rows.

    `shares_records` says whether `answers` reads records once for all models.
    """

    shares_records = False

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.count = len(models)
        self.template = models[0]

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Outputs (N, B, outputs) of records (N, B, ...)."""

    def answers(self, x: Tensor) -> Tensor:
        """Outputs (N, B, outputs) of each model to the same records x (B, ...)."""
        return self(x.expand(self.count, *x.shape))

    @property
    @abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser moves."""

    def set_gradients(self, x: Tensor, y: Tensor) -> None:
        """Set the gradients of each model's mean loss on its records (N, B, ...), labels (N, B)."""
        self.clear_gradients()
        logits = two_columns(self(x)).flatten(0, 1)
        # The sum over models has, for each, its own gradient.
        loss = functional.cross_entropy(logits, y.flatten(), reduction="sum")
        (loss / y.shape[1]).backward()

    def clear_gradients(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @abstractmethod
    def train(self, mode: bool) -> None:
        """Training mode (dropout, batch statistics) or evaluation mode."""

    @abstractmethod
    def state(self, model: int) -> dict[str, Tensor]:
        """Views of one model's parameters and buffers, by their names in the network."""

    def models(self) -> list[nn.Module]:
        """Each model by itself, in evaluation mode, sharing no memory with the stack."""
        apart = []
        for index in range(self.count):
            model = copy.deepcopy(self.template)
            model.load_state_dict(self.state(index))
            apart.append(model.eval().requires_grad_(False))
        return apart


class LayerStack(Stack):
    """The network with each layer exchanged for N of them; its own `forward` runs unchanged."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__(models)
        every = [list(model.named_parameters(remove_duplicate=False)) for model in models]
        if len(every[0]) != len(list(models[0].parameters())):
            raise UnsupportedError("Not yet: a parameter shared by two layers of a stack.")
        self.network = copy.deepcopy(models[0])
        stacks: dict[int, StackedLayer] = {}
        self._stacked: set[str] = set()
        for name, part in models[0].named_modules(remove_duplicate=False):
            if next(part.parameters(recurse=False), None) is None and not _has_statistics(part):
                continue
            if id(part) not in stacks:
                stacks[id(part)] = stacked_layer([m.get_submodule(name) for m in models])
            layer = stacks[id(part)]
            if name:
                self.network.set_submodule(name, layer)
            else:
                self.network = layer
            self._stacked.update(f"{name}.{own}" if name else own for own in layer.state_dict())

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs (N, B, outputs) of records (N, B, ...)."""
        out: Tensor = self.network(x.flatten(0, 1))
        return out.view(self.count, -1, *out.shape[1:])

    @property
    def layers(self) -> list[StackedLayer]:
        """The exchanged layers."""
        return [part for part in self.network.modules() if isinstance(part, StackedLayer)]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """One parameter per parameter of the network, with a first axis of N."""
        return [p for p in self.network.parameters() if p.requires_grad]

    def train(self, mode: bool) -> None:
        """Training mode (dropout, batch statistics) or evaluation mode."""
        self.network.train(mode)

    def state(self, model: int) -> dict[str, Tensor]:
        """Views of one model's parameters and buffers, by their names in the network."""
        state = self.network.state_dict()
        return {
            name: value[model] if name in self._stacked else value for name, value in state.items()
        }


class ChannelsLastStack(LayerStack):
    """A `LayerStack` whose images lie channels last in memory: faster, but not for each `forward`.

    Raises `UnsupportedError` without convolutions over images.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__(models)
        images = [
            layer
            for layer in self.layers
            if isinstance(layer, StackedConvolution) and layer.convolve is functional.conv2d
        ]
        if not images:
            raise UnsupportedError("Not here: a network without convolutions over images.")
        for layer in images:
            layer.channels_last = True


class VmapStack(Stack):
    """The network mapped over stacked parameters; dropout differs from model to model."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__(models)
        every, self.fixed = stack_module_state(list(models))
        self.learnt: dict[str, Tensor] = {}
        for name, given in models[0].named_parameters():
            value = every[name].detach()
            if given.requires_grad:
                self.learnt[name] = nn.Parameter(value)
            else:
                self.fixed[name] = value
        # Only its structure is run: the tensors come from the stack.
        self.network = copy.deepcopy(models[0]).to("meta")

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs (N, B, outputs) of records (N, B, ...)."""

        def one(learnt: dict[str, Tensor], fixed: dict[str, Tensor], own: Tensor) -> Any:
            return functional_call(self.network, (learnt, fixed), (own,))

        out: Tensor = vmap(one, randomness="different")(self.learnt, self.fixed, x)
        return out

    @property
    def parameters(self) -> list[nn.Parameter]:
        """One parameter per parameter of the network, with a first axis of N."""
        return [p for p in self.learnt.values() if isinstance(p, nn.Parameter)]

    def train(self, mode: bool) -> None:
        """Training mode (dropout, batch statistics) or evaluation mode."""
        self.network.train(mode)

    def state(self, model: int) -> dict[str, Tensor]:
        """Views of one model's parameters and buffers, by their names in the network."""
        every = {**self.learnt, **self.fixed}
        return {name: every[name].detach()[model] for name in self.template.state_dict()}


class LoopStack(Stack):
    """The models one after the other: for networks that neither stack nor `vmap` can run."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__(models)
        self._models = [copy.deepcopy(model) for model in models]

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs (N, B, outputs) of records (N, B, ...)."""
        return torch.stack([model(own) for model, own in zip(self._models, x, strict=True)])

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters of each model in turn."""
        return [p for model in self._models for p in model.parameters() if p.requires_grad]

    def train(self, mode: bool) -> None:
        """Training mode (dropout, batch statistics) or evaluation mode."""
        for model in self._models:
            model.train(mode)

    def state(self, model: int) -> dict[str, Tensor]:
        """Views of one model's parameters and buffers, by their names in the network."""
        return self._models[model].state_dict()


class ImagesLoop(LoopStack):
    """The models one after the other, channels last: for convolutions of many numbers.

    Pooling, convolution and its gradients are up to four times faster in this memory format, and
    one model's activations stay in the cache. ReLU and max pooling, where a `Sequential` has them
    in this order, change places: the answers are the same, and ReLU has less to do. Raises
    `UnsupportedError` without convolutions over images.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__(models)
        if not any(isinstance(part, nn.Conv2d) for part in models[0].modules()):
            raise UnsupportedError("Not here: a network without convolutions over images.")
        for model in self._models:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            for part in list(model.modules()):
                if type(part) is nn.Sequential:
                    _pool_first(part)

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs (N, B, outputs) of records (N, B, ...)."""
        return torch.stack(
            [model(_channels_last(own)) for model, own in zip(self._models, x, strict=True)]
        )

    def set_gradients(self, x: Tensor, y: Tensor) -> None:
        """See `Stack.set_gradients`; one model's backward pass is done before the next begins."""
        self.clear_gradients()
        for model, own, labels in zip(self._models, x, y, strict=True):
            logits = two_columns(model(_channels_last(own)))
            functional.cross_entropy(logits, labels).backward()


def two_columns(logits: Tensor) -> Tensor:
    """Logits (..., C); one column is the second of two classes, the first being 0."""
    if logits.shape[-1] > 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], dim=-1)


def _channels_last(x: Tensor) -> Tensor:
    """Images (B, channels, h, w), the same but for their strides; other records as they are."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _pool_first(layers: nn.Sequential) -> None:
    """max(0, .) and the largest of a window commute."""
    for place in range(len(layers) - 1):
        first, then = layers[place], layers[place + 1]
        if type(first) is nn.ReLU and type(then) is nn.MaxPool2d and not then.return_indices:
            layers[place], layers[place + 1] = then, nn.ReLU(inplace=first.inplace)


def _has_statistics(part: nn.Module) -> bool:
    return isinstance(part, nn.modules.batchnorm._NormBase) and part.track_running_stats
