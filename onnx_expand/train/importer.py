"""Convert an ONNX graph to a torch module."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from onnx_expand.errors import UnsupportedError, UsageError
from onnx_expand.graph.editing import label
from onnx_expand.graph.facts import Facts
from onnx_expand.model import ModelLike, read
from onnx_expand.train.composed.cost import EXECUTIONS
from onnx_expand.train.composed.find import FoundChain, find
from onnx_expand.train.composed.layers import Lifter
from onnx_expand.train.composed.unit import ComposedChain
from onnx_expand.train.decompose import decompose, inner_nodes
from onnx_expand.train.host import Known, as_tensor, find_host
from onnx_expand.train.module import OnnxModule, attach, identifier
from onnx_expand.train.names import COMPOSED, CONSTANTS, SOURCE, STATEFUL, state_keys
from onnx_expand.train.registry import Translation
from onnx_expand.train.tensors import DTYPES, to_tensor
from onnx_expand.train.translations import (
    attributes_of,
    contributing,
    held_tensors,
    require_computable,
    settings_of,
    translations_of,
)

__all__ = ["to_torch"]

# The metadata in which torch's exporter marks an initializer as parameter or buffer.
_KIND, _PARAMETER = "pkg.torch.export.graph_signature.InputSpec.kind", "PARAMETER"

# Longer lists are data rather than shapes.
_HOST_SIZE = 32


def to_torch(
    model: ModelLike, *, freeze: str | None = None, execution: str = "auto"
) -> OnnxModule:
    """Convert a model to a torch module, in evaluation mode.

    Each initializer becomes one parameter or buffer of the same name, shared where it is shared.
    An initializer is trained if it is in floating point and a node uses it as a weight: not as a
    running statistic, bound, scale or shape, and as a scalar only in the weight input of a layer.
    If torch's exporter recorded its kind, a buffer is not trained, and a scalar parameter is.
    Constant nodes with such weights count as initializers named after their outputs.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model` or `onnx_graphsurgeon.Graph`, which is
            not modified.
        freeze: A regular expression; initializers whose name it matches are not trained.
        execution: How chains of linear layers run: `auto`, as one layer in each forward pass in
            which that takes fewer multiply-accumulates, with equal gradients; `composed`, always
            as one layer; `layerwise`, each layer separately. Parameters and their names do not
            depend on it.

    Raises:
        UsageError: `freeze` is not a regular expression, or there is no such execution.
        ModelError: The model is invalid.
        UnsupportedError: Nodes have no translation (all of them are named), or a weight has an
            element type that torch does not have.
    """
    if execution not in EXECUTIONS:
        raise UsageError(f"execution '{execution}' is none of {', '.join(EXECUTIONS)}")
    try:
        frozen = None if freeze is None else re.compile(freeze)
    except re.error as error:
        raise UsageError(f"freeze: '{freeze}' is not a regular expression: {error}") from None
    source = read(model)
    values = source.graph.initializers.values()
    weights = {v.name or "": v.const_value for v in values if v.const_value is not None}
    kinds = {v.name or "": v.metadata_props.get(_KIND, "") for v in values}
    held = held_tensors(source.graph, weights)
    flat = decompose(source)
    _restore(flat.graph, weights)
    return _Importer(flat, weights, held, kinds, frozen).run(execution)


def _restore(graph: ir.Graph, weights: Mapping[str, ir.TensorProtocol]) -> None:
    """Turn graph inputs that were initializers back into these, since a module owns them."""
    for value in list(graph.inputs):
        tensor = weights.get(value.name or "")
        if tensor is not None:
            graph.inputs.remove(value)
            value.const_value = tensor
            graph.register_initializer(value)


class _Importer:
    """Builds the module, node by node."""

    def __init__(
        self,
        model: ir.Model,
        weights: Mapping[str, ir.TensorProtocol],
        held: Mapping[str, torch.Tensor],
        kinds: Mapping[str, str],
        frozen: re.Pattern[str] | None = None,
    ) -> None:
        self.graph = model.graph
        self.opset = model.graph.opset_imports.get("", 1)
        self.facts = Facts(model)
        self.translations = translations_of(model)
        require_computable(model, self.translations, self.facts)
        self.frozen = frozen
        self.kinds = kinds
        self.moving = contributing(model, self.translations, self.facts)
        self.held: dict[ir.Node, tuple[ir.Value, torch.Tensor]] = {}
        for node in model.graph:
            name = (node.outputs[0].name or "") if node.outputs else ""
            if node.op_type == "Constant" and name in held:
                value, tensor = node.outputs[0], held[name]
                if self._trainable(value, tensor):
                    self.held[node] = (value, tensor)
        names = (value.name or "" for value, _ in self.held.values())
        self.keys = state_keys([*weights, *names])
        self.root = torch.nn.Module()
        self.fx = fx.Graph()
        self.values: dict[ir.Value, fx.Node | Known] = {}
        self.constants: dict[ir.Value, tuple[str, torch.Tensor]] = {}
        self.tensors: dict[str, fx.Node] = {}
        self.like: fx.Node | None = None
        self.units = 0
        self.weights = weights

    def run(self, execution: str) -> OnnxModule:
        """Return the finished module, in evaluation mode."""
        self._initializers()
        for index, value in enumerate(self.graph.inputs):
            name = identifier(value.name or "", f"input_{index}")
            self.values[value] = placeholder = self.fx.placeholder(name)
            self.like = self.like or placeholder
        for index, node in enumerate(self.graph):
            if node not in self.translations:
                self._constant(node, index)
        functions = {
            node: (translation, settings_of(node, translation, self.opset))
            for node, translation in self.translations.items()
            if translation.is_function
        }
        lifter = Lifter(self.facts, functions, self.constants)
        chains, apart = find(self.graph, lifter)
        last = {found.nodes[-1]: found for found in chains}
        inner = {node for found in chains for node in found.nodes}
        for index, node in enumerate(self.graph):
            if node in last:
                self._unit(last[node], lifter.fixed, execution)
            elif node in self.translations and node not in inner:
                self._node(node, self.translations[node], index)
        results = [self._tensor(value) for value in self.graph.outputs]
        self.fx.output(results[0] if len(results) == 1 else tuple(results))
        module = OnnxModule(self.root, self.fx, self.keys, apart)
        module.eval()
        return module

    def _unit(self, found: FoundChain, fixed: Mapping[str, torch.Tensor], execution: str) -> None:
        """Add one call for a chain of linear nodes."""
        chain, nodes = found.chain, found.nodes
        for path in chain.paths:
            if path in fixed:
                self._keep(path.removeprefix(f"{CONSTANTS}."), fixed[path])
        args = (self._tensor(found.root), *(self._attr(path) for path in chain.paths))
        unit = ComposedChain(chain, found.root.is_graph_input(), execution)
        result = self.fx.call_module(self._module(COMPOSED, f"unit_{self.units}", unit), args)
        self.units += 1
        result.meta[SOURCE] = f"one of '{label(nodes[0])}' to '{label(nodes[-1])}'"
        self.values[nodes[-1].outputs[0]] = result

    def _initializers(self) -> None:
        """Create one tensor for each initializer."""
        values = self.graph.initializers
        for name, weight in self.weights.items():
            tensor = to_tensor(weight, name)
            value = values.get(name)
            if value is not None and self._trainable(value, tensor):
                tensor = torch.nn.Parameter(tensor)
            attach(self.root, self.keys[name], tensor)
            if value is not None:
                self.constants[value] = (self.keys[name], tensor)
        for value, tensor in self.held.values():
            key = self.keys[value.name or ""]
            attach(self.root, key, torch.nn.Parameter(tensor))
            self.constants[value] = (key, tensor)
        for name, value in self.graph.initializers.items():
            if name not in self.weights and value.const_value is not None:
                self._buffer(value, to_tensor(value.const_value, name), name)

    def _trainable(self, value: ir.Value, tensor: torch.Tensor) -> bool:
        """Return whether some node uses a tensor as a weight."""
        if not tensor.is_floating_point() or value not in self.moving:
            return False
        if self.frozen is not None and self.frozen.search(value.name or ""):
            return False
        kind = self.kinds.get(value.name or "", "")
        if kind and kind != _PARAMETER:
            return False
        for use in value.uses():
            translation = self.translations.get(use.node)
            if translation is None or use.idx in translation.frozen | translation.static:
                continue
            if tensor.numel() > 1 or use.idx in translation.weights or kind == _PARAMETER:
                return True
        return False

    def _constant(self, node: ir.Node, index: int) -> None:
        value = node.outputs[0]
        if node in self.held:
            return
        is_valid = len(node.attributes) == 1
        tensor = ir.convenience.get_const_tensor(value) if is_valid else None
        if tensor is None:
            raise UnsupportedError(f"{inner_nodes([node])}: torch cannot hold this constant")
        self._buffer(value, to_tensor(tensor, value.name or "constant"), str(index))

    def _buffer(self, value: ir.Value, tensor: torch.Tensor, name: str) -> None:
        """Register a constant that is not an initializer."""
        key = self._keep("constant_" + name.replace(".", "_"), tensor)
        self.constants[value] = (key, tensor)

    def _keep(self, name: str, tensor: torch.Tensor) -> str:
        """Register a buffer that moves with the module, outside state_dict; return its path."""
        if CONSTANTS not in self.root._modules:
            self.root.add_module(CONSTANTS, torch.nn.Module())
        self.root.get_submodule(CONSTANTS).register_buffer(name, tensor, persistent=False)
        return f"{CONSTANTS}.{name}"

    def _module(self, room: str, name: str, module: torch.nn.Module) -> str:
        """Add a submodule that computes a part of the graph; return its path."""
        if room not in self.root._modules:
            self.root.add_module(room, torch.nn.Module())
        self.root.get_submodule(room).add_module(name, module)
        return f"{room}.{name}"

    def _node(self, node: ir.Node, translation: Translation, index: int) -> None:
        if self._on_host(node, attributes_of(node)):
            return
        attributes = settings_of(node, translation, self.opset)
        args = [
            self._argument(value, slot in translation.static)
            for slot, value in enumerate(node.inputs)
        ]
        while args and args[-1] is None:
            args.pop()
        if translation.is_module:
            name = f"{node.op_type}_{index}"
            path = self._module(STATEFUL, name, translation.target(**attributes))
            result = self.fx.call_module(path, tuple(args))
        else:
            if "outputs" in translation.parameters:
                attributes["outputs"] = len(node.outputs)
            if "like" in translation.parameters:
                attributes["like"] = self.like
            result = self.fx.call_function(translation.target, tuple(args), attributes)
        result.meta[SOURCE] = f"'{label(node)}' ({node.op_type})"
        if "outputs" in translation.parameters:
            for slot, value in enumerate(node.outputs):
                self.values[value] = self.fx.call_function(operator.getitem, (result, slot))
        elif translation.host_rank is not None:
            self.values[node.outputs[0]] = Known(result, torch.int64, translation.host_rank)
        else:
            self.values[node.outputs[0]] = result

    def _on_host(self, node: ir.Node, attributes: dict[str, Any]) -> bool:
        """Compute a node with Python numbers if all its inputs are such."""
        host = find_host(node.domain, node.op_type)
        if host is None:
            return False
        inputs = [self._host_value(value) for value in node.inputs if value is not None]
        known = [value for value in inputs if value is not None]
        # A computation on constants alone is a shape if they are integers, otherwise data.
        started = any(isinstance(value.value, fx.Node) for value in known) or not any(
            value.dtype.is_floating_point for value in known
        )
        if not started or not known or len(known) != len(node.inputs):
            return False
        rank = host.rank(known, attributes)
        if rank > 1:
            return False
        if node.op_type == "Cast":
            dtype = DTYPES[attributes["to"]]
        else:
            dtype = torch.bool if host.like is None else known[host.like].dtype
        args = (*host.first, *(value.value for value in known))
        call = self.fx.call_function(host.function, args, attributes)
        self.values[node.outputs[0]] = Known(call, dtype, rank)
        return True

    def _host_value(self, value: ir.Value) -> Known | None:
        """Return a value as Python numbers, if it derives from a shape or is a small constant."""
        known = self.values.get(value)
        if isinstance(known, Known):
            return known
        if value in self.constants:
            tensor = self.constants[value][1]
            small = tensor.ndim <= 1 and tensor.numel() <= _HOST_SIZE
            if small and not isinstance(tensor, torch.nn.Parameter):
                return Known(tensor.tolist(), tensor.dtype, tensor.ndim)
        return None

    def _argument(self, value: ir.Value | None, static: bool) -> Any:
        if value is None:
            return None
        if static:
            if value in self.constants:
                return self.constants[value][1].tolist()
            known = self.values.get(value)
            if isinstance(known, Known):
                return known.value
        return self._tensor(value)

    def _tensor(self, value: ir.Value) -> fx.Node:
        """Return the fx node of a value as a tensor."""
        if value not in self.values:
            return self._attr(self.constants[value][0])
        known = self.values[value]
        if isinstance(known, Known):
            # Created once, even if several nodes read it.
            return self.fx.call_function(as_tensor, (known.value, known.dtype, self.like))
        return known

    def _attr(self, path: str) -> fx.Node:
        """Return the fx node of a tensor of the module."""
        if path not in self.tensors:
            self.tensors[path] = self.fx.get_attr(path)
        return self.tensors[path]
