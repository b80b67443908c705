"""LSTM and GRU layers run by hand, so that every step's gate gradients are at hand.

A recurrent layer's parameters act at each step as linear maps on the step's input and on the last
state. Their per-example gradients are therefore those of two linear layers over the sequence,
with the gates' pre-activation gradients as output gradients; those come from one pass back through
time. Inside, time comes first, so that one step is one block of memory. Shapes: B examples, T
steps, I inputs, H states.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from reticent.errors import UnsupportedError
from reticent.models import products
from reticent.training.dp_sgd.batch import Batch
from reticent.training.dp_sgd.taps import apply, note_linear

Parameters = tuple[nn.Parameter, nn.Parameter, nn.Parameter | None, nn.Parameter | None]


class LSTMTap(torch.autograd.Function):
    """One direction of one LSTM layer; gates in PyTorch's order (input, forget, cell, output)."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        hidden: Tensor,
        cell: Tensor,
        batch: Batch,
        w_in: nn.Parameter,
        w_state: nn.Parameter,
        b_in: nn.Parameter | None,
        b_state: nn.Parameter | None,
    ) -> tuple[Tensor, Tensor]:
        """(B, T, I), (B, H), (B, H) to all states (B, T, H) and the last cell (B, H)."""
        inputs = inputs.transpose(0, 1).contiguous()
        steps, size, width = len(inputs), inputs.shape[1], w_state.shape[1]
        bias = None if b_in is None or b_state is None else b_in + b_state
        gates = products.linear(inputs, w_in, bias)
        states = inputs.new_empty(steps + 1, size, width)
        cells = inputs.new_empty(steps + 1, size, width)
        squashed = inputs.new_empty(steps, size, width)
        states[0], cells[0] = hidden, cell
        turned = w_state.t()
        for step in range(steps):
            gate = gates[step].addmm_(states[step], turned)
            gate[:, : 2 * width].sigmoid_()
            gate[:, 2 * width : 3 * width].tanh_()
            gate[:, 3 * width :].sigmoid_()
            i, f, g, o = gate.split(width, 1)
            new = torch.mul(f, cells[step], out=cells[step + 1]).addcmul_(i, g)
            torch.mul(o, torch.tanh(new, out=squashed[step]), out=states[step + 1])
        ctx.save_for_backward(inputs, gates, states, cells, squashed)
        ctx.batch, ctx.noted = batch, (w_in, w_state, b_in, b_state)
        return _by_example(states[1:]), cells[-1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Back through time; the inputs' and first states' gradients."""
        inputs, gates, states, cells, squashed = (saved.detach() for saved in ctx.saved_tensors)
        w_in, w_state, b_in, b_state = ctx.noted
        outputs, dc = grads[0].transpose(0, 1), grads[1]
        steps, _, width = squashed.shape
        # What multiplies the incoming gradient at each gate, all steps at once.
        i, f, g, o = gates.split(width, 2)
        slope = gates * (1 - gates)
        torch.sub(1, g.square(), out=slope[:, :, 2 * width : 3 * width])
        through = (1 - squashed.square()).mul_(o)
        slope[:, :, :width].mul_(g)
        slope[:, :, width : 2 * width].mul_(cells[:-1])
        slope[:, :, 2 * width : 3 * width].mul_(i)
        slope[:, :, 3 * width :].mul_(squashed)
        dh = outputs[-1]
        for step in reversed(range(steps)):
            here = slope[step]
            dc = torch.addcmul(dc, dh, through[step])
            here[:, : 3 * width].unflatten(1, (3, width)).mul_(dc.unsqueeze(1))
            here[:, 3 * width :].mul_(dh)
            dc = dc * f[step]
            dh = torch.addmm(outputs[step - 1], here, w_state) if step else here @ w_state
        by_example = slope.transpose(0, 1)
        note_linear(ctx.batch, inputs.transpose(0, 1), by_example, w_in, b_in)
        note_linear(ctx.batch, states[:-1].transpose(0, 1), by_example, w_state, b_state)
        below = (
            products.linear(slope, w_in.t()).transpose(0, 1) if ctx.needs_input_grad[0] else None
        )
        return below, dh, dc, None, None, None, None, None


class GRUTap(torch.autograd.Function):
    """One direction of one GRU layer; gates in PyTorch's order (reset, update, new)."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        hidden: Tensor,
        batch: Batch,
        w_in: nn.Parameter,
        w_state: nn.Parameter,
        b_in: nn.Parameter | None,
        b_state: nn.Parameter | None,
    ) -> Tensor:
        """(B, T, I), (B, H) to all states (B, T, H)."""
        inputs = inputs.transpose(0, 1).contiguous()
        steps, size, width = len(inputs), inputs.shape[1], w_state.shape[1]
        gates = products.linear(inputs, w_in, b_in)
        states = inputs.new_empty(steps + 1, size, width)
        states[0] = hidden
        recalled = inputs.new_empty(steps, size, width)
        for step in range(steps):
            last, gate = states[step], gates[step]
            from_state = functional.linear(last, w_state, b_state)
            recalled[step] = from_state[:, 2 * width :]
            both = gate[:, : 2 * width].add_(from_state[:, : 2 * width]).sigmoid_()
            r, z = both.split(width, 1)
            new = gate[:, 2 * width :].addcmul_(r, recalled[step]).tanh_()
            torch.lerp(new, last, z, out=states[step + 1])
        ctx.save_for_backward(inputs, gates, states, recalled)
        ctx.batch, ctx.noted = batch, (w_in, w_state, b_in, b_state)
        return _by_example(states[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Back through time; the inputs' and the first state's gradients."""
        inputs, gates, states, recalled = (saved.detach() for saved in ctx.saved_tensors)
        w_in, w_state, b_in, b_state = ctx.noted
        outputs = grads[0].transpose(0, 1)
        steps, _, width = recalled.shape
        r, z, new = gates.split(width, 2)
        # As for the LSTM: the slopes of all steps at once.
        at_new = (1 - z) * (1 - new.square())
        at_reset = at_new * recalled * r * (1 - r)
        at_update = (states[:-1] - new) * z * (1 - z)
        at_input, at_state = torch.empty_like(gates), torch.empty_like(gates)
        dh = torch.zeros_like(outputs[0])
        for step in reversed(range(steps)):
            dh = dh + outputs[step]
            inner = dh * at_new[step]
            turn, keep, held = dh * at_reset[step], dh * at_update[step], inner * r[step]
            torch.cat((turn, keep, inner), 1, out=at_input[step])
            torch.cat((turn, keep, held), 1, out=at_state[step])
            dh = torch.addmm(dh * z[step], at_state[step], w_state)
        before = states[:-1].transpose(0, 1)
        note_linear(ctx.batch, inputs.transpose(0, 1), at_input.transpose(0, 1), w_in, b_in)
        note_linear(ctx.batch, before, at_state.transpose(0, 1), w_state, b_state)
        below = (
            products.linear(at_input, w_in.t()).transpose(0, 1) if ctx.needs_input_grad[0] else None
        )
        return below, dh, None, None, None, None, None


def _by_example(values: Tensor) -> Tensor:
    """(T, B, H) to a fresh (B, T, H)."""
    return values.transpose(0, 1).clone(memory_format=torch.contiguous_format)


def lstm(
    module: nn.LSTM, batch: Batch, inputs: Tensor, hx: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """What `nn.LSTM` returns."""
    values = _batch_first(module, batch, inputs)
    first = (None, None) if hx is None else hx
    last: tuple[list[Tensor], list[Tensor]] = ([], [])
    for layer in range(module.num_layers):
        directions = []
        for direction in range(2 if module.bidirectional else 1):
            where = len(last[0])
            hidden, cell = (_state(module, batch, part, where) for part in first)
            run: Any = LSTMTap.apply
            given = values.flip(1) if direction else values
            states, end = run(given, hidden, cell, batch, *_parameters(module, layer, direction))
            last[0].append(states[:, -1])
            last[1].append(end)
            directions.append(states.flip(1) if direction else states)
        values = _between(module, layer, directions)
    out = values if module.batch_first else values.transpose(0, 1)
    return out, (torch.stack(last[0]), torch.stack(last[1]))


def gru(
    module: nn.GRU, batch: Batch, inputs: Tensor, hx: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What `nn.GRU` returns."""
    values = _batch_first(module, batch, inputs)
    last: list[Tensor] = []
    for layer in range(module.num_layers):
        directions = []
        for direction in range(2 if module.bidirectional else 1):
            hidden = _state(module, batch, hx, len(last))
            given = values.flip(1) if direction else values
            states = apply(GRUTap, given, hidden, batch, *_parameters(module, layer, direction))
            last.append(states[:, -1])
            directions.append(states.flip(1) if direction else states)
        values = _between(module, layer, directions)
    return values if module.batch_first else values.transpose(0, 1), torch.stack(last)


def _batch_first(module: nn.RNNBase, batch: Batch, inputs: Any) -> Tensor:
    if not isinstance(inputs, Tensor):
        raise UnsupportedError(
            f"{type(module).__name__} got a {type(inputs).__name__}. Packed sequences are not "
            "supported yet: pad to one length, and mask the losses of the padding."
        )
    values = inputs if module.batch_first or inputs.dim() != 3 else inputs.transpose(0, 1)
    batch.check_batch_first(values, type(module).__name__)
    return values


def _state(module: nn.RNNBase, batch: Batch, given: Tensor | None, where: int) -> Tensor:
    return torch.zeros(batch.size, module.hidden_size) if given is None else given[where]


def _parameters(module: nn.RNNBase, layer: int, direction: int) -> Parameters:
    end = f"l{layer}" + ("_reverse" if direction else "")
    biases = (None, None)
    if module.bias:
        biases = (getattr(module, f"bias_ih_{end}"), getattr(module, f"bias_hh_{end}"))
    return getattr(module, f"weight_ih_{end}"), getattr(module, f"weight_hh_{end}"), *biases


def _between(module: nn.RNNBase, layer: int, directions: list[Tensor]) -> Tensor:
    values = directions[0] if len(directions) == 1 else torch.cat(directions, 2)
    if module.dropout and layer < module.num_layers - 1:
        values = functional.dropout(values, module.dropout, module.training)
    return values
