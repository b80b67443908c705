"""Per-example clipped gradient sums of any model, in one forward and one backward pass.

    engine = Engine(model)
    with engine.recording(len(x)):
        losses = loss(model(x), y)                     # one number per example, shape (B,)
        batch = engine.backward(losses)
    factors = clipping.factors(batch.squared_norms(engine.groups()))
    engine.fill(batch, factors)                        # every .grad is the clipped sum

The model keeps its classes, parameters and state-dict names. While a batch is recorded, modules
with trainable parameters run through taps; otherwise they run as ever.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reticent.errors import ConfigError, UnsupportedError
from reticent.training.dp_sgd.attention import attention
from reticent.training.dp_sgd.batch import Batch
from reticent.training.dp_sgd.batch_norm import BatchNorm
from reticent.training.dp_sgd.fallback import fallback
from reticent.training.dp_sgd.rules import Rule, check_supported, rule_for
from reticent.training.dp_sgd.taps import FrozenLinearTap, PoolingTap, apply
from reticent.training.dp_sgd.tuning import Tuner

_MANY_CHANNELS = 4


class Recorder:
    """Holds the batch that is being recorded, if any."""

    def __init__(self) -> None:
        self.batch: Batch | None = None


def _forward(module: nn.Module, rule: Rule, recorder: Recorder, *args: Any, **kwargs: Any) -> Any:
    if recorder.batch is None or not torch.is_grad_enabled():
        return type(module).forward(module, *args, **kwargs)
    return rule(module, recorder.batch, *args, **kwargs)


def _pool(module: nn.MaxPool2d, recorder: Recorder, inputs: Tensor) -> Tensor:
    """Max pooling by the tap, where it gains."""
    if recorder.batch is None or inputs.dim() != 4 or inputs.shape[1] < _MANY_CHANNELS:
        made: Tensor = nn.MaxPool2d.forward(module, inputs)
        return made
    return apply(PoolingTap, inputs, module)


def _frozen(module: nn.Linear, recorder: Recorder, inputs: Tensor) -> Tensor:
    """A linear layer that isn't trained, by the faster library."""
    if recorder.batch is None or not torch.is_grad_enabled():
        return nn.Linear.forward(module, inputs)
    return apply(FrozenLinearTap, inputs, module)


class Engine:
    """The taps in one model, and the flat buffer that its gradients live in.

    Raises `UnsupportedError` when a module mixes examples, or when a trainable parameter belongs
    to no module that can be recorded.
    """

    def __init__(self, model: nn.Module, *, tuner: Tuner | None = None) -> None:
        self.model, self.tuner = model, tuner or Tuner()
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise ConfigError("Expected a model with trainable parameters, got none.")
        kinds = {(p.dtype, p.device.type) for p in self.parameters}
        if kinds != {(torch.float32, "cpu")}:
            raise UnsupportedError(f"Expected float32 parameters on the CPU, got {kinds}.")
        self._recorder = Recorder()
        self._tapped: list[nn.Module] = []
        self.flat = torch.zeros(sum(p.numel() for p in self.parameters))
        self.views = _views(self.flat, self.parameters)
        self._attach()
        # What `train()` and `eval()` change between batches.
        self._watched = [
            (name, module)
            for name, module in self.model.named_modules()
            if isinstance(module, BatchNorm)
        ]

    def _attach(self) -> None:
        found = plan(self.model)
        covered = {p for module, _ in found for p in module.parameters()}
        missed = [name for name, p in self.model.named_parameters() if p not in covered]
        missed = [n for n in missed if self.model.get_parameter(n).requires_grad]
        if missed:
            raise UnsupportedError(f"No rule covers the trainable parameters {missed}.")
        for module, _ in found:
            if "forward" in module.__dict__:
                raise UnsupportedError(
                    f"{type(module).__name__} has its forward method replaced already. Detach the "
                    "other engine, or put the change into a subclass."
                )
        for module, rule in found:
            tapped = functools.partial(_forward, module, rule, self._recorder)
            self._tap(module, tapped)
        # What the fallback maps over examples must stay as it is.
        mapped = {inner for module, rule in found if rule is fallback for inner in module.modules()}
        for module in self.model.modules():
            if module in mapped or "forward" in module.__dict__:
                continue
            if type(module) is nn.MaxPool2d and not module.return_indices:
                self._tap(module, functools.partial(_pool, module, self._recorder))
            elif type(module) is nn.Linear and not _is_trained(module):
                self._tap(module, functools.partial(_frozen, module, self._recorder))

    def _tap(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        module.__dict__["forward"] = forward
        self._tapped.append(module)

    def detach(self) -> None:
        """Take every tap out again; the model is as it was."""
        for module in self._tapped:
            module.__dict__.pop("forward", None)
        self._tapped.clear()

    @contextmanager
    def recording(self, size: int) -> Iterator[Batch]:
        """While open, the model's forward and backward passes over `size` examples are noted."""
        if size < 1 or self._recorder.batch is not None:
            raise ConfigError(f"Expected one batch at a time of size >= 1, got size={size}.")
        for name, module in self._watched:
            check_supported(name, module)
        for parameter in self.parameters:
            parameter.grad = None
        batch = Batch(size, self.tuner)
        self._recorder.batch = batch
        try:
            yield batch
        finally:
            self._recorder.batch = None

    def backward(self, losses: Tensor, *, copies: int = 1) -> Batch:
        """Backward pass from one loss per row, shape (B,); returns what was noted.

        Every `copies` adjacent rows are one example, whose gradient is that of their mean loss.
        Raises `UnsupportedError` when a parameter was used where no tap saw it.
        """
        batch = self._recorder.batch
        if batch is None:
            raise ConfigError("Expected backward() inside recording().")
        if losses.shape != (batch.size,):
            raise ConfigError(
                f"Expected one loss per example, shape ({batch.size},), got "
                f"shape={tuple(losses.shape)}. Use reduction='none', and average over anything "
                "but the examples."
            )
        if copies < 1 or batch.size % copies:
            raise ConfigError(f"Expected copies that divide size={batch.size}, got {copies=}.")
        torch.autograd.backward((losses,), (torch.full_like(losses, 1 / copies),))
        if any(parameter.grad is not None for parameter in self.parameters):
            unseen = [n for n, p in self.model.named_parameters() if p.grad is not None]
            raise UnsupportedError(
                f"Parameters {unseen} are used outside of the modules that own them: their norms "
                "would be too small. Call the owning module, or wrap the use in a module."
            )
        batch.finish()
        if copies > 1:
            batch.merge(copies)
        return batch

    def groups(self, per_layer: bool = False) -> Sequence[Sequence[nn.Parameter]]:
        """All parameters as one group, or one group per parameter."""
        return [[p] for p in self.parameters] if per_layer else [self.parameters]

    def fill(self, batch: Batch, factors: Tensor, *, add: bool = False) -> None:
        """Write sum_b factors[b] g_b into the flat buffer and point every `.grad` into it.

        `factors` has shape (B,), or (groups, B) for one group per parameter. With `add`, on top
        of what the buffer holds (the noise, or earlier parts of the same logical batch).
        """
        rows = [factors] * len(self.parameters) if factors.dim() == 1 else list(factors)
        for parameter, view, weights in zip(self.parameters, self.views, rows, strict=True):
            batch.add_weighted(parameter, weights, view, int(add))

    def assign(self) -> None:
        """Point every parameter's `.grad` into the flat buffer."""
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view


def _is_trained(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


def plan(model: nn.Module) -> list[tuple[nn.Module, Rule]]:
    """Every module that owns trainable parameters, with its rule.

    A module with a rule answers for its own parameters, attention also for its output projection;
    a module without one answers, by the fallback, for everything below it.
    """
    found: list[tuple[nn.Module, Rule]] = []
    taken: set[nn.Module] = set()
    for name, module in model.named_modules():
        check_supported(name, module)
        owns = any(p.requires_grad for p in module.parameters(recurse=False))
        rule = rule_for(module)
        whole = rule is attention and _is_trained(module)
        if module in taken or not (owns or whole):
            continue
        found.append((module, rule or fallback))
        taken.update(module.modules())
    return found


def _views(flat: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    views, start = [], 0
    for parameter in parameters:
        views.append(flat[start : start + parameter.numel()].view(parameter.shape))
        start += parameter.numel()
    return views
