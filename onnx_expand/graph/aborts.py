"""Attributes and outputs on which onnxruntime ends the process: it fails where it should raise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import onnx_ir as ir

__all__ = ["ABORTING", "Attributes", "abort_reason", "number"]

Attributes: TypeAlias = Mapping[str, ir.Attr]


def abort_reason(node: ir.Node, attributes: Attributes) -> str:
    """Return why onnxruntime would end the process on a node; empty if it would not.

    Args:
        node: The node.
        attributes: Its attributes; in a function, with the values of a call.
    """
    problem = _PROBLEMS.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
    text = "" if problem is None else problem(node, attributes)
    return f"{node.op_type} has {text}, on which onnxruntime ends the process" if text else ""


def number(attributes: Attributes, name: str, default: float) -> float:
    """Return the value of a numeric attribute, or the default."""
    value = attributes[name].value if name in attributes else default
    return value if isinstance(value, int | float) else default


def _uniform(node: ir.Node, attributes: Attributes) -> str:
    low, high = number(attributes, "low", 0.0), number(attributes, "high", 1.0)
    return "" if low <= high else f"low {low:g} above high {high:g}"


def _normal(node: ir.Node, attributes: Attributes) -> str:
    scale = number(attributes, "scale", 1.0)
    return "" if scale > 0 else f"scale {scale:g}, not above 0"


def _batched(node: ir.Node, attributes: Attributes) -> str:
    count = number(attributes, "batch_dims", 0)
    return "" if count >= 0 else f"batch_dims {count}, below 0"


def _split(node: ir.Node, attributes: Attributes) -> str:
    outputs = len(node.outputs)
    if any(out.name == "" for out in node.outputs):
        return "an omitted output"
    count = number(attributes, "num_outputs", outputs)
    return "" if count >= outputs else f"num_outputs {count} for {outputs} outputs"


_PROBLEMS: Mapping[str, Callable[[ir.Node, Attributes], str]] = {
    "GatherND": _batched,
    "RandomNormal": _normal,
    "RandomNormalLike": _normal,
    "RandomUniform": _uniform,
    "RandomUniformLike": _uniform,
    "Split": _split,
}

ABORTING = frozenset(_PROBLEMS)
"""The ops that some attributes make abort."""
