"""From a PyTorch model to a polynomial program, by way of torch.export, in float64.

A value of the graph is a polynomial, per channel, of a step that already stands. Products and sums
of one step's polynomials stay polynomials, so x * x, x ** 2, batch normalisation and a quadratic
activation all come out as one step, or as none where they fold into a neighbour's weights.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reticent.errors import ConfigError, UnsupportedError
from reticent.inference.ckks.layers import Layers
from reticent.inference.ckks.polynomial import multiply, total
from reticent.inference.ckks.program import Convolution, Linear, Polynomial, Program, Shape, Values

# The batch that the graph is recorded with: a size that no layer is likely to have by chance.
_BATCH = 3
_PASSED = {
    "dropout", "feature_dropout", "alpha_dropout", "detach", "clone", "contiguous", "alias",
    "lift_fresh_copy", "identity", "to", "_to_copy", "type_as", "native_dropout",
}  # fmt: skip
_RESHAPED = {"flatten", "view", "reshape", "unsqueeze", "squeeze", "_unsafe_view", "unflatten"}
_ACTIVATIONS = {
    "relu", "relu_", "gelu", "silu", "silu_", "tanh", "sigmoid", "leaky_relu", "elu", "celu",
    "selu", "hardtanh", "hardswish", "hardsigmoid", "mish", "softplus", "relu6", "prelu",
}  # fmt: skip
_MONOTONE = {"softmax": "softmax", "log_softmax": "log-softmax", "sigmoid": "sigmoid"}


@dataclass(frozen=True, kw_only=True)
class _Value:
    """A polynomial of step `step`: `coefficients` (degree + 1, channels or 1).

    `shape` is what PyTorch calls the value, without the batch.
    """

    step: int
    coefficients: Values
    shape: Shape

    @property
    def is_plain(self) -> bool:
        """The step's own value."""
        return self.coefficients.shape == (2, 1) and bool(
            (self.coefficients == [[0.0], [1.0]]).all()
        )


def to_program(model: nn.Module, sample: Tensor) -> Program:
    """`model`, in evaluation mode, as a program; `sample` is a batch of inputs, shape (n, ...).

    Records of shape (channels, length) become (channels, 1, length). A softmax or a sigmoid at the
    very end is left out with a warning: the largest output, and the sign of a single one, stay
    what they were. The program's `bound` is the largest absolute value of the sample.
    Raises `UnsupportedError`, naming the layer and the remedy, for anything that is no polynomial
    or not yet understood.
    """
    rows = sample.detach()[:1].double()
    if rows.ndim < 2 or len(rows) == 0:
        raise ConfigError(
            f"Expected a sample of shape (n, ...), got shape={tuple(sample.shape)}. "
            "Give a batch of at least one record."
        )
    graph, constants = _recorded(model, rows)
    importer = _Importer(tuple(rows.shape[1:]), constants)
    return importer.program(graph, bound=float(sample.detach().abs().max()))


def _recorded(model: nn.Module, row: Tensor) -> tuple[torch.fx.Graph, dict[str, Tensor]]:
    batch = row.expand(_BATCH, *row.shape[1:]).contiguous()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            made = torch.export.export(copy.deepcopy(model).eval().double(), (batch,))
    except Exception as error:
        raise UnsupportedError(
            f"Not yet: torch.export can't record this {type(model).__name__} "
            f"({type(error).__name__}). Use a forward pass without branches on the data."
        ) from error
    signature = made.graph_signature
    held: dict[str, Any] = {**made.state_dict, **made.constants}
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    return made.graph, {name: held[target].detach() for name, target in names.items()}


class _Importer:
    """Walks a graph once; `layers` grows by the steps it needs."""

    def __init__(self, shape: Shape, constants: dict[str, Tensor]) -> None:
        self.layers = Layers(_lifted(shape))
        self.known: dict[torch.fx.Node, Any] = {}
        self.constants = constants
        self.input = _Value(step=0, coefficients=np.array([[0.0], [1.0]]), shape=shape)

    def program(self, graph: torch.fx.Graph, *, bound: float) -> Program:
        """The whole graph as a program."""
        for node in graph.nodes:
            if node.op == "placeholder":
                self.known[node] = self.constants.get(node.name, self.input)
            elif node.op == "call_function":
                self.known[node] = self._call(node)
            elif node.op == "output":
                answers = _flat([self._known(list(node.args))])
                if len(answers) != 1 or not isinstance(answers[0], _Value):
                    raise UnsupportedError(
                        "Never: expected one output that depends on the input, got "
                        f"outputs={len(answers)}. Return one tensor from the model."
                    )
                return self.layers.program(self._step(answers[0], "output"), bound=bound)
        raise AssertionError("A recorded graph ends in its output.")

    def _call(self, node: torch.fx.Node) -> Any:
        name = _operator(node)
        given = [self._known(value) for value in node.args]
        values = [value for value in _flat(given) if isinstance(value, _Value)]
        if not values:
            options = {key: self._known(value) for key, value in node.kwargs.items()}
            assert callable(node.target)
            return node.target(*given, **options)
        if name in _PASSED:
            return values[0]
        if name in _RESHAPED:
            return self._reshaped(node, values[0])
        if name in _MONOTONE and _is_last(node):
            warnings.warn(
                f"Layer {_layer(node)!r}: the {_MONOTONE[name]} at the end is left out; the "
                "largest output stays the largest. The client applies it after decryption.",
                stacklevel=4,
            )
            return values[0]
        handler: Callable[[torch.fx.Node, list[Any]], _Value] | None = getattr(
            self, f"_on_{name.rstrip('_')}", None
        )
        if handler is None:
            raise _refused(node, name)
        return handler(node, given)

    def _known(self, value: Any) -> Any:
        if isinstance(value, torch.fx.Node):
            return self.known[value]
        if isinstance(value, list | tuple):
            return [self._known(each) for each in value]
        return value

    # Sums and products ------------------------------------------------------------------------

    def _on_add(self, node: torch.fx.Node, given: list[Any]) -> _Value:
        left, right = given
        return self._plus(node, left, _scaled(right, _alpha(node)))

    def _on_sub(self, node: torch.fx.Node, given: list[Any]) -> _Value:
        left, right = given
        return self._plus(node, left, _scaled(right, -_alpha(node)))

    def _on_rsub(self, node: torch.fx.Node, given: list[Any]) -> _Value:
        left, right = given[:2]
        return self._plus(node, right, _scaled(left, -_alpha(node)))

    def _plus(self, node: torch.fx.Node, left: Any, right: Any) -> _Value:
        if isinstance(left, _Value) and isinstance(right, _Value):
            return self._sum(node, left, right)
        value, other = (left, right) if isinstance(left, _Value) else (right, left)
        value, constant = self._beside(node, value, other)
        return replace(value, coefficients=total(value.coefficients, constant[None]))

    def _on_neg(self, node: torch.fx.Node, given: list[Any]) -> _Value:
        made: _Value = _scaled(given[0], -1.0)
        return made

    def _on_mul(self, node: torch.fx.Node, given: list[Any]) -> _Value:
        left, right = given
        if isinstance(left, _Value) and isinstance(right, _Value):
            if left.step != right.step or left.shape != right.shape:
                raise UnsupportedError(
                    f"Not yet: layer {_layer(node)!r} multiplies two different values (a gate or "
                    "attention). Use sums, or products of a value with itself."
                )
            return replace(left, coefficients=multiply(left.coefficients, right.coefficients))
        value, other = (left, right) if isinstance(left, _Value) else (right, left)
        value, constant = self._beside(node, value, other)
        return replace(value, coefficients=value.coefficients * constant)

    def _on_div(self, node: torch.fx.Node, given: list[Any]) -> _Value:
        left, right = given
        if isinstance(right, _Value) or "rounding_mode" in node.kwargs:
            raise UnsupportedError(
                f"Never: layer {_layer(node)!r} divides by an encrypted value or rounds, which no "
                "polynomial does. Divide by a constant."
            )
        return self._on_mul(node, [left, 1.0 / right])

    def _on_pow(self, node: torch.fx.Node, given: list[Any]) -> _Value:
        value, power = given
        if not isinstance(value, _Value) or float(power) not in range(1, 17):
            raise UnsupportedError(
                f"Never: layer {_layer(node)!r} raises to a power that is no whole number from 1 "
                "to 16. Use x ** 2 or another small power."
            )
        made = value.coefficients
        for _ in range(int(power) - 1):
            made = multiply(made, value.coefficients)
        return replace(value, coefficients=made)

    def _on_square(self, node: torch.fx.Node, given: list[Any]) -> _Value:
        return self._on_pow(node, [given[0], 2])

    def _sum(self, node: torch.fx.Node, left: _Value, right: _Value) -> _Value:
        if left.shape != right.shape:
            raise UnsupportedError(
                f"Not yet: layer {_layer(node)!r} adds values of shapes {left.shape} and "
                f"{right.shape}. Add values of one shape."
            )
        if left.step == right.step:
            return replace(left, coefficients=total(left.coefficients, right.coefficients))
        name = _layer(node)
        sources = [self._step(value, name) for value in (left, right)]
        if len({self.layers.shape(source) for source in sources}) > 1:
            sources = [self.layers.flatten(source, name) for source in sources]
        return self._fresh(self.layers.add(name, sources), left.shape)

    def _beside(self, node: torch.fx.Node, value: _Value, other: Any) -> tuple[_Value, Values]:
        """`other` as one number per channel of `value`, which is flattened where it must be."""
        constant = (
            other if isinstance(other, Tensor) else torch.tensor(float(other), dtype=torch.float64)
        )
        full = constant.double()
        if full.ndim > len(value.shape):
            full = full.squeeze(0) if len(full) == 1 else full
        try:
            spread = np.broadcast_to(full.numpy(), value.shape)
        except ValueError as error:
            raise UnsupportedError(
                f"Not yet: layer {_layer(node)!r} spreads a value of shape {value.shape} over a "
                f"constant of shape {tuple(constant.shape)}. Use a constant per channel."
            ) from error
        channels, *inner = self.layers.shape(value.step)
        table = spread.reshape(channels, -1)
        if (table == table.flat[0]).all():
            return value, np.array([table.flat[0]])
        if (table == table[:, :1]).all():
            return value, table[:, 0]
        assert inner
        step = self.layers.flatten(self._step(value, _layer(node)), _layer(node))
        return self._fresh(step, value.shape), spread.reshape(-1)

    # Layers -----------------------------------------------------------------------------------

    def _on_linear(self, node: torch.fx.Node, given: list[Any]) -> _Value:
        value, weight, bias = (*given, None)[:3]
        if not isinstance(value, _Value) or len(value.shape) != 1:
            raise UnsupportedError(
                f"Not yet: layer {_layer(node)!r} applies one matrix along an axis of its input. "
                "Flatten before the layer, or write it as a convolution of width 1."
            )
        operation = Linear(name=_layer(node), weight=_array(weight), bias=_bias(bias, len(weight)))
        return self._fresh(
            self.layers.push(operation, self._step(value, _layer(node))), (len(weight),)
        )

    def _on_conv1d(self, node: torch.fx.Node, given: list[Any]) -> _Value:
        return self._convolved(node, given, 1)

    def _on_conv2d(self, node: torch.fx.Node, given: list[Any]) -> _Value:
        return self._convolved(node, given, 2)

    def _convolved(self, node: torch.fx.Node, given: list[Any], axes: int) -> _Value:
        usual = [None, None, None, 1, 0, 1, 1]
        value, weight, bias, stride, padding, dilation, groups = given + usual[len(given) :]
        kernel = _array(weight)
        kernel = kernel[:, :, None] if axes == 1 else kernel
        if isinstance(padding, str):
            padding = _same(node, kernel, dilation, axes) if padding == "same" else 0
        return self._place(
            node,
            value,
            Convolution(
                name=_layer(node),
                weight=kernel,
                bias=_bias(bias, len(kernel)),
                stride=_pair(stride, axes, 1),
                padding=_pair(padding, axes, 0),
                dilation=_pair(dilation, axes, 1),
                groups=int(groups),
            ),
        )

    def _on_avg_pool1d(self, node: torch.fx.Node, given: list[Any]) -> _Value:
        return self._pooled(node, given, 1)

    def _on_avg_pool2d(self, node: torch.fx.Node, given: list[Any]) -> _Value:
        return self._pooled(node, given, 2)

    def _pooled(self, node: torch.fx.Node, given: list[Any], axes: int) -> _Value:
        usual = [None, None, None, 0, False, True, None]
        value, size, stride, padding, ceil, counts, divisor = given + usual[len(given) :]
        kernel, padding = _pair(size, axes, 1), _pair(padding, axes, 0)
        if ceil or (padding != (0, 0) and not counts):
            raise UnsupportedError(
                f"Not yet: layer {_layer(node)!r} averages over windows of unequal size. "
                "Use ceil_mode=False and count_include_pad=True."
            )
        weight = 1.0 / float(divisor or np.prod(kernel))
        return self._average(node, value, kernel, _pair(stride or size, axes, 1), padding, weight)

    def _on_adaptive_avg_pool1d(self, node: torch.fx.Node, given: list[Any]) -> _Value:
        return self._on_adaptive_avg_pool2d(node, given)

    def _on_adaptive_avg_pool2d(self, node: torch.fx.Node, given: list[Any]) -> _Value:
        value, wanted = given
        have, want = value.shape[1:], [int(size) for size in _flat([wanted])]
        if any(old % new for old, new in zip(have, want, strict=True)):
            raise UnsupportedError(
                f"Not yet: layer {_layer(node)!r} averages {have} values into {tuple(want)} "
                "windows of unequal size. Choose an output size that divides the input's."
            )
        kernel = [old // new for old, new in zip(have, want, strict=True)]
        pair = _pair(kernel, len(kernel), 1)
        return self._average(node, value, pair, pair, (0, 0), 1.0 / float(np.prod(kernel)))

    def _on_mean(self, node: torch.fx.Node, given: list[Any]) -> _Value:
        value, axes = given[0], given[1] if len(given) > 1 else None
        rank = len(value.shape) + 1
        wanted = {axis % rank for axis in axes or range(rank)}
        if rank < 3 or wanted != set(range(2, rank)):
            raise UnsupportedError(
                f"Not yet: layer {_layer(node)!r} averages over other axes than height and width. "
                "Use a global average over all positions of a channel."
            )
        kernel = _pair(list(value.shape[1:]), rank - 2, 1)
        made = self._average(node, value, kernel, kernel, (0, 0), 1.0 / float(np.prod(kernel)))
        return replace(made, shape=_shape(node))

    def _average(
        self,
        node: torch.fx.Node,
        value: _Value,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int],
        weight: float,
    ) -> _Value:
        channels = value.shape[0]
        operation = Convolution(
            name=_layer(node),
            weight=np.full((channels, 1, *kernel), weight),
            bias=np.zeros(channels),
            stride=stride,
            padding=padding,
            groups=channels,
        )
        return self._place(node, value, operation)

    def _on_batch_norm(self, node: torch.fx.Node, given: list[Any]) -> _Value:
        value, weight, bias, mean, variance, training, _, epsilon = given[:8]
        if training or mean is None or variance is None:
            raise UnsupportedError(
                f"Never: layer {_layer(node)!r} normalises by the batch, which an encrypted query "
                "has not. Use track_running_stats=True."
            )
        shape = (-1,) + (1,) * (len(value.shape) - 1)
        scale = (variance + epsilon).rsqrt() * (1.0 if weight is None else weight)
        shift = (0.0 if bias is None else bias) - mean * scale
        scaled = self._on_mul(node, [value, scale.reshape(shape)])
        return self._plus(node, scaled, shift.reshape(shape))

    def _place(self, node: torch.fx.Node, value: _Value, operation: Convolution) -> _Value:
        if self.layers.shape(value.step) != _lifted(value.shape):
            raise UnsupportedError(
                f"Not yet: layer {_layer(node)!r} needs its input in a new shape halfway through "
                "the network. Reshape at the start, or use convolutions before linear layers."
            )
        step = self.layers.push(operation, self._step(value, _layer(node)))
        return self._fresh(step, _shape(node))

    def _reshaped(self, node: torch.fx.Node, value: _Value) -> _Value:
        shape = _shape(node)
        if int(np.prod(shape)) != int(np.prod(value.shape)) or node.meta["val"].shape[0] != _BATCH:
            raise UnsupportedError(
                f"Never: layer {_layer(node)!r} mixes the records of a batch. "
                "Keep the first axis as the batch."
            )
        if value.step == 0 and value.is_plain and self.layers.is_empty and len(shape) > 1:
            self.layers = Layers(_lifted(shape))
        return replace(value, shape=shape)

    def _step(self, value: _Value, name: str) -> int:
        """The step that computes `value`, made if it doesn't stand yet."""
        if value.is_plain:
            return value.step
        return self.layers.push(Polynomial(name=name, coefficients=value.coefficients), value.step)

    @staticmethod
    def _fresh(step: int, shape: Shape) -> _Value:
        return _Value(step=step, coefficients=np.array([[0.0], [1.0]]), shape=shape)


def _refused(node: torch.fx.Node, name: str) -> UnsupportedError:
    layer = _layer(node)
    if name in _ACTIVATIONS:
        return UnsupportedError(
            f"Never: layer {layer!r} is {name.rstrip('_')}, which is no polynomial. Call "
            "polynomialise(model, inputs, held_out=...) first, or train with x ** 2."
        )
    if name.startswith(("max_pool", "adaptive_max_pool")):
        return UnsupportedError(
            f"Never: layer {layer!r} takes a maximum, which is no polynomial. Call "
            "polynomialise(model, inputs, held_out=...) first, or use average pooling."
        )
    if name in _MONOTONE:
        return UnsupportedError(
            f"Never: layer {layer!r} is a softmax inside the network. Only the one at the very end "
            "can be left out; remove this one."
        )
    return UnsupportedError(
        f"Not yet: layer {layer!r} uses {name}, which the encrypted channel doesn't compute. Use "
        "linear and convolution layers, batch normalisation, average pooling, sums and powers."
    )


def _operator(node: torch.fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target)).split(".")[0]


def _layer(node: torch.fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if path]
    return str(paths[-1]) if paths else node.name


def _is_last(node: torch.fx.Node) -> bool:
    users = list(node.users)
    while len(users) == 1 and users[0].op != "output":
        if _operator(users[0]) not in _PASSED | _RESHAPED:
            return False
        users = list(users[0].users)
    return len(users) == 1


def _alpha(node: torch.fx.Node) -> float:
    given: Any = node.kwargs.get("alpha", 1)
    return float(given)


def _scaled(value: Any, weight: float) -> Any:
    if isinstance(value, _Value):
        return replace(value, coefficients=weight * value.coefficients)
    return weight * value


def _flat(values: Sequence[Any]) -> list[Any]:
    made: list[Any] = []
    for value in values:
        made.extend(_flat(value) if isinstance(value, list | tuple) else [value])
    return made


def _shape(node: torch.fx.Node) -> Shape:
    return tuple(int(size) for size in node.meta["val"].shape[1:])


def _lifted(shape: Shape) -> Shape:
    return (shape[0], 1, shape[1]) if len(shape) == 2 else shape


def _array(values: Tensor) -> Values:
    return values.detach().double().numpy()


def _bias(values: Tensor | None, count: int) -> Values:
    return np.zeros(count) if values is None else _array(values)


def _pair(given: Any, axes: int, neutral: int) -> tuple[int, int]:
    sizes = [int(size) for size in _flat([given])]
    sizes = sizes * axes if len(sizes) == 1 else sizes
    first, second = [neutral, *sizes] if axes == 1 else sizes
    return first, second


def _same(node: torch.fx.Node, kernel: Values, dilation: Any, axes: int) -> list[int]:
    reach = [d * (k - 1) for d, k in zip(_pair(dilation, axes, 1), kernel.shape[2:], strict=True)]
    if any(size % 2 for size in reach):
        raise UnsupportedError(
            f"Not yet: layer {_layer(node)!r} pads one side more than the other. "
            "Use an odd kernel or a padding in numbers."
        )
    return [size // 2 for size in reach][2 - axes :]
