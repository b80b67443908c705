"""Where a network can be cut in two, and the cutting.

A cut is a place where one single tensor carries everything that later layers need. In an
`nn.Sequential` these are its children; any other module, and a Sequential with a forward of its
own, is traced with torch.fx and every node that alone crosses from before to after is a cut, so
residual networks can be cut between blocks.
"""

from __future__ import annotations

import copy
import difflib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from reticent.errors import ConfigError, UnsupportedError
from reticent.models.cost import flops, parameters

INPUT = "input"  # the cut before everything: all of the model is behind it


@dataclass(frozen=True, kw_only=True)
class CutPoint:
    """A place to cut: its name, what the client's part costs, what would cross."""

    name: str
    index: int
    flops_share: float
    params_share: float
    feature_shape: tuple[int, ...]


def cut_points(model: nn.Module, sample: Tensor) -> list[CutPoint]:
    """All cuts of `model` from early to late; `sample` is one input of shape (1, ...)."""
    total_flops, total_params = flops(model, sample), parameters(model)
    if total_flops == 0:
        raise UnsupportedError(
            "The model does no matrix product or convolution, so cuts have no cost to compare."
        )
    points = []
    for index, name in enumerate(_names(model)):
        encoder, _ = cut_at(model, name)
        with torch.no_grad():
            feature = encoder.eval()(sample)
        if not isinstance(feature, Tensor):
            continue
        points.append(
            CutPoint(
                name=name,
                index=index,
                flops_share=flops(encoder, sample) / total_flops,
                params_share=parameters(encoder) / max(total_params, 1),
                feature_shape=tuple(feature.shape[1:]),
            )
        )
    return points


def cut_at(model: nn.Module, name: str) -> tuple[nn.Module, nn.Module]:
    """(encoder, head): copies of the parts of `model` before and after the cut `name`.

    head(encoder(x)) equals model(x) in evaluation mode; a traced model's functional dropout stays
    off in training mode too. "input" is the cut before the first layer. Raises `ConfigError` for a
    name that is no cut.
    """
    names = _names(model)
    if name == INPUT and INPUT not in names:
        return nn.Identity(), copy.deepcopy(model)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3) or names
        raise ConfigError(f"Expected a cut among {names}, got cut={name!r}. Nearest: {near}.")
    model = copy.deepcopy(model)
    if _is_chain(model):
        children = _children(model)
        at = names.index(name) + 1
        return _chain(children[:at]), _chain(children[at:])
    return _cut_graph(model, name)


def _names(model: nn.Module) -> list[str]:
    if _is_chain(model):
        return [name for name, _ in _children(model)][:-1]
    return [node.name for node in _crossings(_trace(model))]


def _is_chain(model: nn.Module) -> bool:
    return isinstance(model, nn.Sequential) and type(model).forward is nn.Sequential.forward


def _children(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Children in order; one that occurs twice, such as a shared ReLU, is named twice."""
    return [
        (name, child)
        for name, child in model.named_modules(remove_duplicate=False)
        if name and "." not in name
    ]


def _chain(children: list[tuple[str, nn.Module]]) -> nn.Sequential:
    chain = nn.Sequential()
    for name, child in children:
        chain.add_module(name, child)
    return chain


def _trace(model: nn.Module) -> fx.Graph:
    # In evaluation mode: tracing writes `self.training` into the graph as a constant.
    try:
        return fx.Tracer().trace(copy.deepcopy(model).eval())
    except Exception as error:
        raise UnsupportedError(
            f"torch.fx can't trace this {type(model).__name__}: {error}. "
            "Write the model as an nn.Sequential of blocks, whose borders are then the cuts."
        ) from error


def _crossings(graph: fx.Graph) -> list[fx.Node]:
    """Computed nodes that, right after they run, are the only value still needed."""
    nodes = [node for node in graph.nodes if node.op != "get_attr"]
    last_use = {node: max((nodes.index(user) for user in node.users), default=-1) for node in nodes}
    found = []
    for position, node in enumerate(nodes):
        if node.op in ("placeholder", "output"):
            continue
        alive = [earlier for earlier in nodes[: position + 1] if last_use[earlier] > position]
        if alive == [node] and nodes[position + 1].op != "output":
            found.append(node)
    return found


def _cut_graph(model: nn.Module, name: str) -> tuple[nn.Module, nn.Module]:
    graph = _trace(model)
    nodes = list(graph.nodes)
    at = next(index for index, node in enumerate(nodes) if node.name == name)
    front, back = fx.Graph(), fx.Graph()
    copied: dict[fx.Node, Any] = {}
    for node in nodes[: at + 1]:
        copied[node] = front.node_copy(node, lambda used: copied[used])
    front.output(copied[nodes[at]])
    entered: dict[fx.Node, Any] = {nodes[at]: back.placeholder("features")}
    for node in nodes:
        if node.op == "get_attr" or nodes.index(node) > at:
            entered[node] = back.node_copy(node, lambda used: entered[used])
    return _module(model, front), _module(model, back)


def _module(model: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """`graph` over those parts of `model` that it uses."""
    for node in reversed(graph.nodes):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    return fx.GraphModule(model, graph)
