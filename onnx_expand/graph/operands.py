"""Read settings of nodes, which are attributes in some opsets and constant inputs in others."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.graph.attributes import default_of, schema_of
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.tensors import read_tensor

__all__ = ["integers", "operand", "setting", "slices_of", "slot_of"]


def operand(node: ir.Node, index: int) -> ir.Value | None:
    """Return an input of a node; None if it is omitted."""
    return node.inputs[index] if index < len(node.inputs) else None


@functools.cache
def slot_of(op_type: str, name: str, opset: int) -> int | None:
    """Return the index of the input that has a name in an op's schema; None if none has it."""
    schema = schema_of(op_type, opset)
    names = [] if schema is None else [port.name for port in schema.inputs]
    return names.index(name) if name in names else None


def setting(node: ir.Node, name: str, facts: Facts) -> npt.NDArray[Any] | None:
    """Return a setting as a flat array; empty if it is omitted, None if the model computes it.

    Args:
        node: A node of the default domain.
        name: The name of the attribute or the input in the op's schema.
        facts: Facts about the model.
    """
    slot = slot_of(node.op_type, name, facts.opset)
    if slot is None:
        attribute = node.attributes.get(name)
        default = default_of(node.op_type, name, facts.opset)
        value = default if attribute is None else attribute.value
        return np.asarray([] if value is None else value).reshape(-1)
    given = operand(node, slot)
    if given is None:
        return np.empty(0)
    return read_tensor(facts.tensor(given)).reshape(-1) if facts.is_constant(given) else None


def integers(node: ir.Node, name: str, facts: Facts) -> list[int] | None:
    """Return a setting of integers; see `setting`. None also for elements of another type."""
    numbers = setting(node, name, facts)
    if numbers is None or (numbers.size and numbers.dtype.kind not in "iu"):
        return None
    return [int(number) for number in numbers]


def slices_of(node: ir.Node, facts: Facts) -> dict[int, slice] | None:
    """Return by axis, as the node counts it, what a Slice takes; None if that is not constant."""
    found = [integers(node, name, facts) for name in ("starts", "ends", "axes", "steps")]
    starts, ends, axes, steps = (numbers or [] for numbers in found)
    axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
    if None in found or not len(starts) == len(ends) == len(axes) == len(steps):
        return None
    return dict(zip(axes, map(slice, starts, ends, steps), strict=True))
