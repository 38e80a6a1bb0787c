"""The module of a graph: an fx graph, and one tensor for each initializer."""

from __future__ import annotations

import copy
import keyword
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import fx

__all__ = ["OnnxModule", "attach", "identifier"]

Record: TypeAlias = "tuple[str, str, Any, Any, Any]"


class OnnxModule(fx.GraphModule):
    """An ONNX graph as a torch module.

    `forward` takes the graph's inputs in order, without initializers, and returns the output, or a
    tuple if there are several. The module can be pickled, deep-copied, moved and compiled like any
    other.

    Attributes:
        initializers: The key in `state_dict` of each initializer of the ONNX graph. Both names are
            equal except where torch cannot express a name.
        apart: Neighbouring linear layers of the ONNX graph that do not form a chain, with reasons.
    """

    initializers: dict[str, str]
    apart: tuple[Any, ...]

    def __init__(
        self,
        root: torch.nn.Module,
        graph: fx.Graph,
        initializers: Mapping[str, str],
        apart: Sequence[Any] = (),
    ) -> None:
        super().__init__(torch.nn.Module(), fx.Graph(), "OnnxModule")
        self.initializers = dict(initializers)
        # GraphModule would adopt only tensors that the graph reads; weights that nothing reads, or
        # that the graph contains as Python numbers, are also part of the model.
        self._parameters.update(root._parameters)
        self._buffers.update(root._buffers)
        self._modules.update(root._modules)
        self._non_persistent_buffers_set.update(root._non_persistent_buffers_set)
        self.training = root.training
        self.apart = tuple(apart)
        self.graph = graph

    def sharing(self, graph: fx.Graph | None = None) -> OnnxModule:
        """Return another module with the same tensors and submodules, and a given graph."""
        graph = self.graph if graph is None else graph
        return OnnxModule(self, graph, self.initializers, self.apart)

    # GraphModule would retrace its generated code, through the functions that it calls.

    def __reduce__(self) -> Any:
        return _restore, (_records(self.graph), _state(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxModule:
        return _restore(_records(self.graph), copy.deepcopy(_state(self), memo))


def attach(root: torch.nn.Module, key: str, tensor: torch.Tensor) -> None:
    """Register a parameter or buffer at a dotted path, creating the modules on the way.

    An existing tensor stays.
    """
    *path, leaf = key.split(".")
    for name in path:
        if name not in root._modules:
            root.add_module(name, torch.nn.Module())
        root = root.get_submodule(name)
    if leaf in root._parameters or leaf in root._buffers:
        return
    if isinstance(tensor, torch.nn.Parameter):
        root.register_parameter(leaf, tensor)
    else:
        root.register_buffer(leaf, tensor)


def identifier(name: str, otherwise: str) -> str:
    """Return the name if it is a valid Python parameter name, or an alternative."""
    plain = name.isidentifier() and not keyword.iskeyword(name) and name != "self"
    return name if plain else otherwise


def _state(module: OnnxModule) -> dict[str, Any]:
    """Return the attributes except for the graph and what is generated from it."""
    derived = {"_graph", "_code", "_lineno_map", "_prologue_start"}
    return {name: value for name, value in module.__dict__.items() if name not in derived}


def _records(graph: fx.Graph) -> list[Record]:
    """Return the nodes as plain tuples, with nodes in arguments replaced by their indices."""
    place = {node: _Place(index) for index, node in enumerate(graph.nodes)}
    return [
        (
            node.op,
            node.name,
            node.target,
            fx.map_arg(node.args, place.__getitem__),
            fx.map_arg(node.kwargs, place.__getitem__),
        )
        for node in graph.nodes
    ]


class _Place(int):
    """A reference to a node by its index."""


def _restore(records: list[Record], state: dict[str, Any]) -> OnnxModule:
    module = OnnxModule(torch.nn.Module(), fx.Graph(), {})
    module.__dict__.update(state)
    module.graph = _graph(records)
    return module


def _graph(records: list[Record]) -> fx.Graph:
    graph = fx.Graph()
    nodes: list[fx.Node] = []

    def resolve(value: Any) -> Any:
        if isinstance(value, _Place):
            return nodes[value]
        if isinstance(value, tuple | list):
            return type(value)(resolve(item) for item in value)
        if isinstance(value, dict):
            return {key: resolve(item) for key, item in value.items()}
        return value

    for kind, name, target, args, kwargs in records:
        nodes.append(graph.create_node(kind, target, resolve(args), resolve(kwargs), name))
    return graph
