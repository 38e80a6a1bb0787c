"""Plan how to compute each node of a graph in torch, and which tensors to train."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import onnx_ir as ir
import torch

from onnx_expand.errors import UnsupportedError
from onnx_expand.graph.attributes import defaults_of, int_of
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.upstream import upstream
from onnx_expand.train import ops as _ops  # noqa: F401  (registers the translations)
from onnx_expand.train.decompose import inner_nodes
from onnx_expand.train.registry import COMPUTED, STANDARDIZED, Translation, find
from onnx_expand.train.tensors import DTYPES, to_tensor

__all__ = [
    "attributes_of",
    "contributing",
    "held_tensors",
    "require_computable",
    "settings_of",
    "translations_of",
]

_UNSIGNED = {ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64}
_MOVES = {
    *("Cast", "CastLike", "Compress", "Concat", "ConstantOfShape", "DepthToSpace"),
    *("DequantizeLinear", "Expand", "Flatten", "Gather", "GatherND", "Identity", "Pow", "Range"),
    *("Reshape", "Shape", "Size", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile"),
    *("Transpose", "Unsqueeze", "Where"),
}


def translations_of(model: ir.Model) -> dict[ir.Node, Translation]:
    """Return the translation of each node.

    Args:
        model: A model in which every operator has a translation.

    Raises:
        UnsupportedError: A node uses a feature that its translation does not support.
    """
    opsets = model.graph.opset_imports
    translations: dict[ir.Node, Translation] = {}
    problems, tied = [], []
    for node in model.graph:
        if node.op_type == "Constant" and node.domain in {"", "ai.onnx"}:
            continue
        domain = node.domain
        if node.op_type == "BatchNormalization":
            if int_of(node, "training_mode") and _is_of_weights(node):
                domain = STANDARDIZED
            else:
                tied += [node] if _is_tied(node) else []
                domain = COMPUTED if node in tied or _normalizes_by_computed(node) else domain
        translation = find(domain, node.op_type, opsets.get(node.domain, 1))
        assert translation is not None, "decompose leaves no node without a translation"
        translations[node] = translation
        problem = _problem(node, translation)
        if problem:
            problems.append(f"{inner_nodes([node])}: {problem}")
    if problems:
        raise UnsupportedError("cannot be trained: " + "; ".join(problems))
    if tied:
        warnings.warn(
            f"{inner_nodes(tied[:1])}{f' and {len(tied) - 1} more' if tied[1:] else ''}: running "
            "statistics are one tensor with other weights, as exporters tie equal ones, and will "
            "not follow the batches; export anew with dynamo=True or TrainingMode.PRESERVE",
            stacklevel=2,
        )
    return translations


def _is_tied(node: ir.Node) -> bool:
    """Return whether a running statistic is a weight as well, or one of another normalization.

    Two calls of one normalization share all their tensors, which is meant.
    """
    own = [_origin(value) for value in node.inputs[1:5]]
    for origin in own[2:]:
        if origin is None or not origin.is_initializer():
            continue
        if own.count(origin) > 1:
            return True
        for user in _users(origin):
            if user.op_type != "BatchNormalization" or own != [*map(_origin, user.inputs[1:5])]:
                return True
    return False


def _origin(value: ir.Value | None) -> ir.Value | None:
    """Return what a value is a copy of."""
    while value is not None and (producer := value.producer()) is not None:
        if producer.op_type != "Identity":
            break
        value = producer.inputs[0]
    return value


def _users(origin: ir.Value) -> Iterator[ir.Node]:
    """Yield the nodes that read a value or a copy of it."""
    for use in origin.uses():
        if use.node.op_type == "Identity":
            yield from _users(use.node.outputs[0])
        else:
            yield use.node


def _normalizes_by_computed(node: ir.Node) -> bool:
    """Return whether a BatchNormalization's statistics are computed or given, not running."""
    for value in node.inputs[3:5] if node.op_type == "BatchNormalization" else ():
        producer = None if value is None else value.producer()
        if producer is not None and producer.op_type != "Constant":
            return True
        if producer is None and value is not None and value.const_value is None:
            return True
    return False


def _is_of_weights(node: ir.Node) -> bool:
    """Return whether a node's first input is computed from weights alone."""
    behind = upstream(node.inputs[0])
    return all(v.producer() is not None or v.const_value is not None for v in behind)


def contributing(
    model: ir.Model, translations: Mapping[ir.Node, Translation], facts: Facts
) -> set[ir.Value]:
    """Return the values that affect outputs by their content, not as sizes or settings.

    A constant that only provides scales to a Resize, through a Concat, is not a weight.
    """

    def is_number(value: ir.Value) -> bool:
        dtype = value.dtype if value.dtype is not None else facts.dtype(value)
        return dtype is None or dtype.is_floating_point()

    def moved(node: ir.Node) -> Iterator[ir.Value]:
        translation = translations.get(node)
        if translation is None or translation.host_rank is not None:
            return
        for slot, operand in enumerate(node.inputs):
            if operand is not None and slot not in translation.static and is_number(operand):
                yield operand

    return set(upstream(*filter(is_number, model.graph.outputs), through=moved))


def require_computable(
    model: ir.Model, translations: Mapping[ir.Node, Translation], facts: Facts
) -> None:
    """Check that nodes only move or convert unsigned integers of more than 8 bits.

    torch stores these, but computes hardly anything with them.

    Raises:
        UnsupportedError: Some nodes compute with them.
    """
    problems = []
    for node in translations:
        types = {facts.dtype(value) for value in node.inputs if value is not None}
        for dtype in types & _UNSIGNED if node.op_type not in _MOVES else ():
            problems.append(f"{inner_nodes([node])}: torch does not compute it with {dtype}")
    if problems:
        raise UnsupportedError("cannot be trained: " + "; ".join(problems))


def _problem(node: ir.Node, translation: Translation) -> str:
    if "outputs" not in translation.parameters:
        for slot, value in enumerate(node.outputs[1:], 1):
            if value.uses() or value.is_graph_output():
                return f"its output {slot} is not supported"
    return translation.problem(attributes_of(node))


def attributes_of(node: ir.Node) -> dict[str, Any]:
    """Return a node's attributes as Python values; a tensor of one element as (number, dtype)."""
    values: dict[str, Any] = {}
    for name, attribute in node.attributes.items():
        value = attribute.value
        if attribute.type == ir.AttributeType.TENSOR:
            tensor = to_tensor(attribute.as_tensor(), name)
            value = (tensor.reshape(-1)[0].item(), tensor.dtype) if tensor.numel() == 1 else None
        values[name] = list(value) if isinstance(value, tuple) and name != "value" else value
    return values


def settings_of(node: ir.Node, translation: Translation, opset: int) -> dict[str, Any]:
    """Return the attributes of a node, with defaults for missing ones."""
    attributes = attributes_of(node)
    if node.domain in {"", "ai.onnx"}:
        defaults = defaults_of(node.op_type, opset)
        given = {name: defaults[name] for name in translation.parameters & defaults.keys()}
        attributes = given | attributes
    return {**attributes, **translation.preset}


def held_tensors(
    graph: ir.Graph, weights: Mapping[str, ir.TensorProtocol]
) -> dict[str, torch.Tensor]:
    """Return the floating-point tensors of Constant nodes by the names of their outputs.

    Tensors of functions are not weights: several calls of one body would train the same tensor.
    """
    found = {}
    for node in graph:
        if node.op_type != "Constant" or node.domain not in {"", "ai.onnx"}:
            continue
        if len(node.attributes) != 1:
            continue  # no constant
        value = node.outputs[0]
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None or not value.name or value.name in weights:
            continue
        if tensor.dtype in DTYPES and tensor.dtype.is_floating_point():
            found[value.name] = to_tensor(tensor, value.name)
    return found
