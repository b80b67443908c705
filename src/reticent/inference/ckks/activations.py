"""Polynomials in place of a network's activations, and averages in place of its maxima."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from reticent.errors import UnsupportedError
from reticent.inference.ckks.polynomial import fitted

_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "leaky_relu": nn.functional.leaky_relu,
    "elu": nn.functional.elu,
    "selu": nn.functional.selu,
    "celu": nn.functional.celu,
    "softplus": nn.functional.softplus,
    "mish": nn.functional.mish,
    "hardtanh": nn.functional.hardtanh,
    "hardswish": nn.functional.hardswish,
    "hardsigmoid": nn.functional.hardsigmoid,
    "relu6": nn.functional.relu6,
}
_AVERAGES = {
    "max_pool1d": torch.ops.aten.avg_pool1d.default,
    "max_pool2d": torch.ops.aten.avg_pool2d.default,
}


class PolynomialActivation(nn.Module):
    """A polynomial per channel (axis 1), with coefficients that training may move.

    It is written in z = (x - centre) / reach, which lies in [-1, 1] over the range that it was
    fitted on; `coefficients` has shape (degree + 1, channels).
    """

    coefficients: nn.Parameter
    centre: Tensor
    reach: Tensor

    def __init__(self, name: str, kind: str, degree: int, channels: int) -> None:
        super().__init__()
        self.name, self.kind, self.degree = name, kind, degree
        self.coefficients = nn.Parameter(torch.zeros(degree + 1, channels))
        self.register_buffer("centre", torch.zeros(channels))
        self.register_buffer("reach", torch.ones(channels))
        self.misfit = float("nan")

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, ...) to the same, by Horner's rule."""
        z = self.scaled(x)
        shape = (-1,) + (1,) * (x.ndim - 2)
        made = self.coefficients[self.degree].reshape(shape)
        for power in range(self.degree - 1, -1, -1):
            made = made * z + self.coefficients[power].reshape(shape)
        return made

    def scaled(self, x: Tensor) -> Tensor:
        """x in units of the fitted range: beyond 1 in size, it is outside."""
        shape = (-1,) + (1,) * (x.ndim - 2)
        return (x - self.centre.reshape(shape)) / self.reach.reshape(shape)

    def fit(self, x: Tensor, activation: Callable[[Tensor], Tensor]) -> None:
        """Weighted least squares to `activation` on recorded pre-activations x, per channel.

        A value z spreads from the mean counts 1 + z^2 times: later layers square what goes wrong
        at the ends. `misfit` becomes the share of the activation's variance that is left.
        """
        rows = x.detach().double().movedim(1, -1).reshape(-1, x.shape[1])
        low, high = rows.amin(dim=0), rows.amax(dim=0)
        self.centre.copy_((low + high) / 2)
        self.reach.copy_(((high - low) / 2).clamp(min=1e-6))
        z = (rows - self.centre) / self.reach
        y = activation(rows)
        spread = ((rows - rows.mean(0)) / rows.std(0).clamp(min=1e-6)) ** 2
        made = fitted(z.numpy(), y.numpy(), (1 + spread).numpy(), self.degree)
        with torch.no_grad():
            self.coefficients.copy_(torch.from_numpy(made))
            left = (self.forward(rows.float()).double() - y).var()
        self.misfit = float(left / y.var().clamp(min=1e-12))


def replaced(model: nn.Module, sample: Tensor, *, degree: int) -> fx.GraphModule:
    """A copy of `model` in which every activation is a `PolynomialActivation`, still zero.

    Maximum pooling becomes average pooling. The copy is in evaluation mode for good: batch
    normalisation keeps its running statistics, dropout does nothing.
    Raises `UnsupportedError` where torch.export can't record the model.
    """
    recorded = _recorded(model, sample)
    for node in list(recorded.graph.nodes):
        name = str(getattr(node.target, "__name__", "")).split(".")[0].rstrip("_")
        if node.op == "call_module" and node.target == "_guards_fn":
            recorded.graph.erase_node(node)
        elif node.op != "call_function":
            continue
        elif name in _AVERAGES:
            _average(node, name)
        elif name in _ACTIVATIONS and not _ends(node, name):
            _exchange(recorded, node, name, degree)
    recorded.graph.eliminate_dead_code()
    return fx.GraphModule(recorded, recorded.graph)


def fit_activations(student: fx.GraphModule, inputs: Tensor) -> None:
    """Fit every polynomial in turn on what reaches it once those before it are polynomials."""
    with torch.no_grad():
        _Fitter(student).run(inputs)


class _Fitter(fx.Interpreter):
    def run_node(self, n: fx.Node) -> Any:
        """One node; a polynomial is fitted to its input first."""
        if n.op == "call_module":
            module = self.fetch_attr(str(n.target))
            if isinstance(module, PolynomialActivation):
                given, _ = self.fetch_args_kwargs_from_env(n)
                options = n.meta["activation_options"]
                function = _ACTIVATIONS[module.kind]
                module.fit(given[0], lambda x: function(x, *options[0], **options[1]))
        return super().run_node(n)


def _recorded(model: nn.Module, sample: Tensor) -> fx.GraphModule:
    rows = sample[:1].detach().float()
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            own = copy.deepcopy(model).eval().float()
            made = torch.export.export(
                own, (torch.cat([rows] * 3),), dynamic_shapes=({0: batch},)
            ).module()
    except Exception as error:
        raise UnsupportedError(
            f"Not yet: torch.export can't record this {type(model).__name__} "
            f"({type(error).__name__}). Use a forward pass without branches on the data, for any "
            "number of records."
        ) from error
    assert isinstance(made, fx.GraphModule)
    return made


def _exchange(model: fx.GraphModule, node: fx.Node, kind: str, degree: int) -> None:
    channels = int(node.meta["val"].shape[1])
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    name = str(stack[-1][0] if stack and stack[-1][0] else node.name)
    place = f"{kind}_{name.replace('.', '_')}"
    while hasattr(model, place):
        place += "_"
    model.add_submodule(place, PolynomialActivation(name, kind, degree, channels))
    with model.graph.inserting_after(node):
        made = model.graph.call_module(place, (node.args[0],))
    made.meta["activation_options"] = (node.args[1:], dict(node.kwargs))
    node.replace_all_uses_with(made)
    model.graph.erase_node(node)


def _average(node: fx.Node, name: str) -> None:
    usual: list[Any] = [None, None, [], 0, 1, False]
    given: list[Any] = [*node.args, *usual[len(node.args) :]]
    x, size, stride, padding, dilation, ceil = given
    if dilation not in (1, [1], [1, 1]):
        raise UnsupportedError(
            f"Not yet: layer {node.name!r} takes maxima over positions apart. Use dilation=1."
        )
    node.target = _AVERAGES[name]
    node.args = (x, size, stride or size, padding, ceil, True)


def _ends(node: fx.Node, name: str) -> bool:
    """A sigmoid at the very end is left to the client."""
    return name == "sigmoid" and all(user.op == "output" for user in node.users)
