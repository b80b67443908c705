"""N multilayer perceptrons as one, with the gradient written out: no graph to record per step.

Small networks spend most of their time on bookkeeping, so the same products without a graph are
several times faster, and few enough models at a time stay in the cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reticent.attacks.shadow.stack import Stack
from reticent.errors import UnsupportedError
from reticent.models.networks import Standardise
from reticent.models.products import is_large, linear, product

_FIXED = (nn.Flatten, nn.Identity, Standardise)
_aten = torch.ops.aten


@dataclass(frozen=True, kw_only=True)
class Activation:
    """A function in place, and its gradient in place from its own output (gradient, output)."""

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.ReLU: Activation(
        forward=torch.relu_,
        backward=lambda g, out: _aten.threshold_backward.grad_input(g, out, 0, grad_input=g),
    ),
    nn.Tanh: Activation(
        forward=torch.tanh_,
        backward=lambda g, out: _aten.tanh_backward.grad_input(g, out, grad_input=g),
    ),
    nn.Sigmoid: Activation(
        forward=torch.sigmoid_,
        backward=lambda g, out: _aten.sigmoid_backward.grad_input(g, out, grad_input=g),
    ),
}
"""What may stand after a linear layer; exact types."""


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One linear layer of N models: values and gradients are views of two flat tensors."""

    name: str
    weight: Tensor
    weight_gradient: Tensor
    bias: Tensor | None
    bias_gradient: Tensor | None
    activation: Activation | None


class DenseStack(Stack):
    """Linear layers with activations between them, after layers that have nothing to learn."""

    shares_records = True

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__(models)
        parts = list(_leaves(models[0], ""))
        start = next((i for i, (_, p) in enumerate(parts) if isinstance(p, nn.Linear)), None)
        if start is None or not all(type(part) in _FIXED for _, part in parts[:start]):
            raise UnsupportedError("Not yet: a network that does not begin with linear layers.")
        self._before = [part for _, part in parts[:start]]
        plan: list[tuple[str, Activation | None]] = []
        for name, part in parts[start:]:
            if type(part) is nn.Linear and all(p.requires_grad for p in part.parameters()):
                plan.append((name, None))
            elif type(part) in ACTIVATIONS and plan and plan[-1][1] is None:
                plan[-1] = (plan[-1][0], ACTIVATIONS[type(part)])
            elif type(part) is not nn.Identity:
                raise UnsupportedError(f"Not yet: {type(part).__name__} in a dense stack.")
        names = [name for name, _ in plan]
        if len(set(names)) < len(names) or plan[-1][1] is not None:
            raise UnsupportedError("Not yet: a layer twice, or an activation last.")
        states = [dict(model.named_parameters()) for model in models]
        sizes = [value.numel() * self.count for value in states[0].values()]
        self._flat = nn.Parameter(torch.empty(sum(sizes)))
        self._flat.grad = torch.zeros_like(self._flat)
        values = dict(zip(states[0], self._flat.detach().split(sizes), strict=True))
        gradients = dict(zip(states[0], self._flat.grad.split(sizes), strict=True))
        self._values: dict[str, Tensor] = {}
        for name, given in states[0].items():
            self._values[name] = values[name].view(self.count, *given.shape)
            self._values[name].copy_(torch.stack([own[name].detach() for own in states]))
            gradients[name] = gradients[name].view(self.count, *given.shape)
        self._layers = [
            _Layer(
                name=name,
                weight=self._values[f"{name}weight"],
                weight_gradient=gradients[f"{name}weight"],
                bias=self._values.get(f"{name}bias"),
                bias_gradient=gradients.get(f"{name}bias"),
                activation=activation,
            )
            for name, activation in plan
        ]

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs (N, B, outputs) of records (N, B, ...)."""
        with torch.no_grad():
            return self._outputs(x)[-1]

    @torch.no_grad()
    def answers(self, x: Tensor) -> Tensor:
        """See `Stack.answers`; the first layers of all models are one product."""
        first = self._layers[0]
        bias = None if first.bias is None else first.bias.flatten()
        out = linear(self._ready(x), first.weight.flatten(0, 1), bias)
        own = out.view(len(x), self.count, -1).transpose(0, 1).contiguous()
        return self._following(own)[-1]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters of all models as one tensor."""
        return [self._flat]

    @torch.no_grad()
    def set_gradients(self, x: Tensor, y: Tensor) -> None:
        """Set the gradients of each model's mean loss on its records (N, B, ...), labels (N, B)."""
        outputs = self._outputs(x)
        gradient = _loss_gradient(outputs[-1], y)
        for index in reversed(range(len(self._layers))):
            layer, given = self._layers[index], outputs[index]
            _products(gradient.mT, given.mT, out=layer.weight_gradient)
            if layer.bias_gradient is not None:
                torch.sum(gradient, dim=1, out=layer.bias_gradient)
            if index > 0:
                gradient = _products(gradient, layer.weight.mT)
                before = self._layers[index - 1].activation
                if before is not None:
                    before.backward(gradient, given)

    def train(self, mode: bool) -> None:
        """Nothing here depends on the mode."""

    def state(self, model: int) -> dict[str, Tensor]:
        """Views of one model's parameters and buffers, by their names in the network."""
        return {
            name: self._values[name][model] if name in self._values else value
            for name, value in self.template.state_dict().items()
        }

    def _outputs(self, x: Tensor) -> list[Tensor]:
        """The input (N, B, features) and each layer's output (N, B, ...)."""
        flat = self._ready(x.flatten(0, 1))
        given = flat.reshape(self.count, -1, flat.shape[-1])
        first = self._layers[0]
        return [given, *self._following(_products(given, first.weight, bias=first.bias))]

    def _ready(self, x: Tensor) -> Tensor:
        """Records (M, ...) after the layers that have nothing to learn: (M, features)."""
        for part in self._before:
            x = part(x)
        return x

    def _following(self, out: Tensor) -> list[Tensor]:
        """Each layer's output from the first one's (N, B, ...), which its activation changes."""
        found: list[Tensor] = []
        for layer in self._layers:
            if found:
                out = _products(found[-1], layer.weight, bias=layer.bias)
            found.append(out if layer.activation is None else layer.activation.forward(out))
        return found


def _products(
    a: Tensor, b: Tensor, *, bias: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """a (N, m, k) times the transposes of b (N, n, k), plus bias (N, n): (N, m, n)."""
    if not is_large(a.shape[1], a.shape[2], b.shape[1]) or a.dtype != torch.float32:
        if bias is not None:
            return torch.baddbmm(bias.unsqueeze(1), a, b.mT)
        return torch.bmm(a, b.mT) if out is None else torch.bmm(a, b.mT, out=out)
    biases = itertools.repeat(None) if bias is None else bias
    every = zip(a, b, biases, strict=False)
    if out is None:
        return torch.stack([product(left, right, shift) for left, right, shift in every])
    for own, (left, right, shift) in zip(out, every, strict=True):
        own.copy_(product(left, right, shift))
    return out


def _loss_gradient(logits: Tensor, y: Tensor) -> Tensor:
    """The gradient (N, B, C) of each model's mean cross-entropy with respect to its logits."""
    if logits.shape[-1] == 1:
        return (torch.sigmoid(logits) - y.unsqueeze(-1)) / y.shape[1]
    # As softmax, which takes three times as long where the last axis is short.
    found = (logits - logits.amax(dim=-1, keepdim=True)).exp_()
    found.div_(found.sum(dim=-1, keepdim=True))
    found.scatter_add_(2, y.unsqueeze(-1), -torch.ones(1).expand(*y.shape, 1))
    return found.div_(y.shape[1])


def _leaves(part: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The layers of nested `nn.Sequential`s, in the order in which they run, with name prefixes."""
    if type(part) is nn.Sequential:
        for child, inner in part.named_children():
            yield from _leaves(inner, f"{name}{child}.")
    else:
        yield name, part
