"""ONNX graph to torch module."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Mapping, Set
from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from onnx_expand.errors import UnsupportedError, UsageError
from onnx_expand.graph.attributes import defaults_of, int_of
from onnx_expand.graph.editing import label
from onnx_expand.graph.facts import Facts
from onnx_expand.model import ModelLike, read
from onnx_expand.train import ops as _ops  # noqa: F401  (registers the translations)
from onnx_expand.train.composed import Composition
from onnx_expand.train.decompose import decompose, inner_nodes
from onnx_expand.train.host import Known, as_tensor, find_host
from onnx_expand.train.module import OnnxModule, attach, identifier
from onnx_expand.train.names import CONSTANTS, SOURCE, STATEFUL, state_keys
from onnx_expand.train.registry import COMPUTED, STANDARDIZED, Op, find
from onnx_expand.train.tensors import DTYPES, to_tensor
from onnx_expand.train.unsigned import UNSIGNED, detour, direct

__all__ = ["to_torch"]

# What torch's exporter notes of an initializer: whether it was a parameter or a buffer.
_KIND, _PARAMETER = "pkg.torch.export.graph_signature.InputSpec.kind", "PARAMETER"

# Longer lists are data, not shapes.
_HOST_SIZE = 32


def to_torch(
    model: ModelLike, *, freeze: str | None = None, execution: str = "auto"
) -> OnnxModule:
    """A torch module that computes what a model computes, in evaluation mode.

    Each initializer becomes one parameter or buffer of the same name, shared where it is shared.
    Trained are those of floating-point type that a node uses as a weight: not running statistics,
    bounds, scales or shapes, and scalars only where a layer has its weights. Where torch's
    exporter noted what was a parameter and what a buffer, that decides. Constant nodes that hold
    such weights count as initializers named after their outputs.

    Args:
        model: A path, `onnx.ModelProto`, `onnx_ir.Model` or `onnx_graphsurgeon.Graph`. It is not
            changed.
        freeze: A regular expression; what it finds in an initializer's name is not trained.
        execution: How chains of linear layers run: `auto`, in each forward pass as one layer where
            that takes fewer multiply-accumulates, with the same gradients; `composed`, always as
            one; `layerwise`, each layer by itself. Parameters and their names do not depend on it.

    Raises:
        UsageError: `freeze` is no regular expression, or there is no such execution.
        ModelError: The model is not valid.
        UnsupportedError: Nodes have no translation (all of them are named), or a weight has an
            element type that torch does not have.
    """
    source = read(model)
    weights = {
        name: value.const_value
        for name, value in source.graph.initializers.items()
        if value.const_value is not None
    }
    try:
        frozen = None if freeze is None else re.compile(freeze)
    except re.error as error:
        raise UsageError(f"freeze: '{freeze}' is no regular expression: {error}") from None
    flat = decompose(source)
    plans = _plan(flat, weights.keys())
    kinds = {
        name: value.metadata_props.get(_KIND, "")
        for name, value in source.graph.initializers.items()
    }
    module = _Importer(flat, plans, weights, _held(source.graph, weights), kinds, frozen).run()
    return Composition.of(module).module(execution)


def _plan(model: ir.Model, weights: Set[str]) -> dict[ir.Node, Op]:
    """The translation of each node.

    Args:
        model: A model without operators that have none.
        weights: The names of the initializers, though some are graph inputs by now.

    Raises:
        UnsupportedError: A node uses a feature that its translation does not have.
    """
    opsets = model.graph.opset_imports
    plans: dict[ir.Node, Op] = {}
    problems = []
    for node in model.graph:
        if node.op_type == "Constant" and node.domain in {"", "ai.onnx"}:
            continue
        domain = node.domain
        if node.op_type == "BatchNormalization":
            if int_of(node, "training_mode") and _is_of_weights(node, weights):
                domain = STANDARDIZED
            elif _normalizes_by_computed(node):
                domain = COMPUTED
        plan = find(domain, node.op_type, opsets.get(node.domain, 1))
        assert plan is not None, "decompose leaves no node without a translation"
        plans[node] = plan
        problem = _problem(node, plan)
        if problem:
            problems.append(f"{inner_nodes([node])}: {problem}")
    if problems:
        raise UnsupportedError("cannot be trained: " + "; ".join(problems))
    return plans


def _normalizes_by_computed(node: ir.Node) -> bool:
    """Whether a BatchNormalization's statistics are computed or given, and no running ones."""
    for value in node.inputs[3:5] if node.op_type == "BatchNormalization" else ():
        producer = None if value is None else value.producer()
        if producer is not None and producer.op_type != "Constant":
            return True
        if producer is None and value is not None and value.const_value is None:
            return True
    return False


def _is_of_weights(node: ir.Node, weights: Set[str]) -> bool:
    """Whether a node's first input is computed from weights alone."""
    pending, seen = [node.inputs[0]], set[ir.Value | None]()
    while pending:
        value = pending.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        producer = value.producer()
        if producer is not None:
            pending += producer.inputs
        elif value.const_value is None and value.name not in weights:
            return False
    return True


def _moving(model: ir.Model, plans: Mapping[ir.Node, Op]) -> set[ir.Value]:
    """The values that outputs depend on by their numbers, and not as sizes or settings.

    A constant that only tells a Resize its scales, by way of a Concat, is no weight.
    """

    @functools.cache
    def facts() -> Facts:
        return Facts(model)  # takes far longer than the import itself: only where it must

    def is_number(value: ir.Value) -> bool:
        dtype = value.dtype if value.dtype is not None else facts().dtype(value)
        return dtype is None or dtype.is_floating_point()

    found: set[ir.Value] = set()
    pending = [value for value in model.graph.outputs if is_number(value)]
    while pending:
        value = pending.pop()
        if value in found:
            continue
        found.add(value)
        node = value.producer()
        plan = plans.get(node) if node is not None else None
        if node is None or plan is None or plan.host_rank is not None:
            continue
        for slot, operand in enumerate(node.inputs):
            if operand is not None and slot not in plan.static and is_number(operand):
                pending.append(operand)
    return found


def _detours(model: ir.Model, plans: Mapping[ir.Node, Op]) -> dict[ir.Node, Callable[..., Any]]:
    """How nodes are computed that read types which torch does not compute with.

    Raises:
        UnsupportedError: Some are not computed at all.
    """
    wide = {kind for kind, dtype in DTYPES.items() if dtype in UNSIGNED}
    if not wide & _kinds(model):
        return {}
    facts = Facts(model)
    found, problems = {}, []
    for node in plans:
        kinds = (facts.dtype(value) for value in node.inputs if value is not None)
        types = [kind for kind in kinds if kind is not None and kind in wide]
        if not types:
            continue
        kind = types[0]
        try:
            way = detour(node.op_type, _attributes(node), DTYPES[kind])
        except NotImplementedError:
            problems.append(f"{inner_nodes([node])}: torch does not compute it with {kind}")
            continue
        if way is not direct:
            found[node] = way
    if problems:
        raise UnsupportedError("cannot be trained: " + "; ".join(problems))
    return found


def _kinds(model: ir.Model) -> set[int]:
    """The element types that inputs, constants and attributes name."""
    found = {int(value.dtype) for value in model.graph.inputs if value.dtype is not None}
    for value in model.graph.initializers.values():
        found |= set() if value.const_value is None else {int(value.const_value.dtype)}
    for node in model.graph:
        for name, attribute in node.attributes.items():
            if attribute.type == ir.AttributeType.TENSOR:
                found.add(int(attribute.as_tensor().dtype))
            elif name in {"to", "dtype", "output_dtype"}:
                found.add(attribute.as_int())
    return found


def _problem(node: ir.Node, plan: Op) -> str:
    attributes = _attributes(node)
    for name in attributes:
        if name not in plan.parameters:
            return f"attribute '{name}' is not supported"
    if "outputs" not in plan.parameters:
        for slot, value in enumerate(node.outputs[1:], 1):
            if value.uses() or value.is_graph_output():
                return f"its output {slot} is not supported"
    return plan.check(attributes) if plan.check is not None else ""


def _attributes(node: ir.Node) -> dict[str, Any]:
    """A node's attributes as Python values; a tensor of one element as (number, dtype)."""
    values: dict[str, Any] = {}
    for name, attribute in node.attributes.items():
        value = attribute.value
        if attribute.type == ir.AttributeType.TENSOR:
            tensor = to_tensor(attribute.as_tensor(), name)
            value = (tensor.reshape(-1)[0].item(), tensor.dtype) if tensor.numel() == 1 else None
        values[name] = list(value) if isinstance(value, tuple) and name != "value" else value
    return values


def _held(graph: ir.Graph, weights: Mapping[str, ir.TensorProtocol]) -> dict[str, torch.Tensor]:
    """The floating-point tensors that Constant nodes hold under names of their own.

    Those of functions are no weights: one body may serve many calls, which would each train it.
    """
    found = {}
    for node in graph:
        if node.op_type != "Constant" or node.domain not in {"", "ai.onnx"}:
            continue
        value = node.outputs[0]
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None or not value.name or value.name in weights:
            continue
        if tensor.dtype in DTYPES and tensor.dtype.is_floating_point():
            found[value.name] = to_tensor(tensor, value.name)
    return found


class _Importer:
    """Builds the module, node by node."""

    def __init__(
        self,
        model: ir.Model,
        plans: Mapping[ir.Node, Op],
        weights: Mapping[str, ir.TensorProtocol],
        held: Mapping[str, torch.Tensor],
        kinds: Mapping[str, str],
        frozen: re.Pattern[str] | None = None,
    ) -> None:
        self.graph = model.graph
        self.opset = model.graph.opset_imports.get("", 1)
        self.plans = plans
        self.detours = _detours(model, plans)
        self.frozen = frozen
        self.kinds = kinds
        self.moving = _moving(model, plans)
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
        self.like: fx.Node | None = None
        self.weights = weights

    def run(self) -> OnnxModule:
        """The finished module, in evaluation mode."""
        self._initializers()
        for index, value in enumerate(v for v in self.graph.inputs if v not in self.constants):
            name = identifier(value.name or "", f"input_{index}")
            self.values[value] = placeholder = self.fx.placeholder(name)
            self.like = self.like or placeholder
        for index, node in enumerate(self.graph):
            if node in self.plans:
                self._node(node, self.plans[node], index)
            else:
                self._constant(node, index)
        results = [self._tensor(value) for value in self.graph.outputs]
        self.fx.output(results[0] if len(results) == 1 else tuple(results))
        module = OnnxModule(self.root, self.fx, self.keys)
        module.eval()
        return module

    def _initializers(self) -> None:
        """One tensor for each initializer, though decomposition made graph inputs of some."""
        values = {value.name: value for value in self.graph.inputs}
        values.update(self.graph.initializers)
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
        """Whether some node uses a tensor as a weight."""
        if not tensor.is_floating_point() or value not in self.moving:
            return False
        if self.frozen is not None and self.frozen.search(value.name or ""):
            return False
        kind = self.kinds.get(value.name or "", "")
        if kind and kind != _PARAMETER:
            return False
        for use in value.uses():
            plan = self.plans.get(use.node)
            if plan is None or use.idx in plan.frozen | plan.static:
                continue
            if tensor.numel() > 1 or use.idx in plan.weights or kind == _PARAMETER:
                return True
        return False

    def _constant(self, node: ir.Node, index: int) -> None:
        value = node.outputs[0]
        if node in self.held:
            return
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None:
            raise UnsupportedError(f"{inner_nodes([node])}: torch cannot hold this constant")
        self._buffer(value, to_tensor(tensor, value.name or "constant"), str(index))

    def _buffer(self, value: ir.Value, tensor: torch.Tensor, name: str) -> None:
        """A constant that is no initializer: it moves with the module, outside state_dict."""
        if CONSTANTS not in self.root._modules:
            self.root.add_module(CONSTANTS, torch.nn.Module())
        name = "constant_" + name.replace(".", "_")
        self.root.get_submodule(CONSTANTS).register_buffer(name, tensor, persistent=False)
        self.constants[value] = (f"{CONSTANTS}.{name}", tensor)

    def _node(self, node: ir.Node, plan: Op, index: int) -> None:
        attributes = _attributes(node)
        if self._on_host(node, attributes):
            return
        if node.domain in {"", "ai.onnx"}:
            defaults = defaults_of(node.op_type, self.opset)
            given = {name: defaults[name] for name in plan.parameters & defaults.keys()}
            attributes = given | attributes
        args = [
            self._argument(value, slot in plan.static) for slot, value in enumerate(node.inputs)
        ]
        while args and args[-1] is None:
            args.pop()
        if plan.is_module:
            if STATEFUL not in self.root._modules:
                self.root.add_module(STATEFUL, torch.nn.Module())
            name = f"{node.op_type}_{index}"
            self.root.get_submodule(STATEFUL).add_module(name, plan.target(**attributes))
            result = self.fx.call_module(f"{STATEFUL}.{name}", tuple(args))
        else:
            if "outputs" in plan.parameters:
                attributes["outputs"] = len(node.outputs)
            if "like" in plan.parameters:
                attributes["like"] = self.like
            way = self.detours.get(node)
            if way is None:
                result = self.fx.call_function(plan.target, tuple(args), attributes)
            else:
                args = [node.op_type, self.opset, *args]
                result = self.fx.call_function(way, tuple(args), attributes)
        result.meta[SOURCE] = f"'{label(node)}' ({node.op_type})"
        if "outputs" in plan.parameters:
            for slot, value in enumerate(node.outputs):
                self.values[value] = self.fx.call_function(operator.getitem, (result, slot))
        elif plan.host_rank is not None:
            self.values[node.outputs[0]] = Known(result, torch.int64, plan.host_rank)
        else:
            self.values[node.outputs[0]] = result

    def _on_host(self, node: ir.Node, attributes: dict[str, Any]) -> bool:
        """Compute a node with Python numbers, if that is what all its inputs are."""
        host = find_host(node.domain, node.op_type)
        if host is None:
            return False
        inputs = [self._host_value(value) for value in node.inputs if value is not None]
        known = [value for value in inputs if value is not None]
        # What begins with constants alone is a shape if they are integers; else it is data.
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
        call = self.fx.call_function(
            host.function, tuple(value.value for value in known), attributes
        )
        self.values[node.outputs[0]] = Known(call, dtype, rank)
        return True

    def _host_value(self, value: ir.Value) -> Known | None:
        """A value as Python numbers: one from a shape, or a small constant that is not trained."""
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
        """A value as a tensor."""
        if value not in self.values:
            self.values[value] = self.fx.get_attr(self.constants[value][0])
        known = self.values[value]
        if isinstance(known, Known):
            # Made once, though several nodes may ask.
            return self.fx.call_function(as_tensor, (known.value, known.dtype, self.like))
        return known
