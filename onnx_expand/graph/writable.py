"""Decide which nodes may be written into a model: ops of its opset that runtimes implement."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

import onnx_ir as ir

from onnx_expand.errors import Reason, Refusal
from onnx_expand.graph.attributes import schema_of
from onnx_expand.graph.kernels import is_implemented

__all__ = ["Dialect", "Writable"]

_SPELLED = {
    ir.DataType.FLOAT: "float",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
    ir.DataType.DOUBLE: "double",
}


@dataclass(frozen=True)
class Dialect:
    """The opset of a model, and the kinds of nodes that it contains.

    Attributes:
        opset: The opset of the default domain.
        held: Op types of the model's own nodes, by the type that they compute.
    """

    opset: int
    held: Mapping[ir.DataType, Set[str]] = field(default_factory=dict)

    def of(self, dtype: ir.DataType | None) -> Writable:
        """Return the ops that may be written for one type; all ops while the type is unknown."""
        return Writable(self.opset, dtype, self.held.get(dtype, frozenset()) if dtype else set())


@dataclass(frozen=True)
class Writable:
    """The ops that may be written for values of one type.

    Attributes:
        opset: The opset of the default domain.
        dtype: The type, None while it is unknown.
        held: Op types that the model contains for that type; its runtime implements them.
    """

    opset: int
    dtype: ir.DataType | None
    held: Set[str] = frozenset()

    def refusal(self, *op_types: str) -> Refusal | None:
        """Return why one of some ops must not be written; None if all may."""
        return next((r for r in map(self._refusal, op_types) if r is not None), None)

    def allows(self, *op_types: str) -> bool:
        """Return whether all of some ops may be written."""
        return self.refusal(*op_types) is None

    def needs(self, op_type: str, index: int) -> bool:
        """Return whether an input of an op is required."""
        schema = schema_of(op_type, self.opset)
        return schema is not None and index < schema.min_input

    def _refusal(self, op_type: str) -> Refusal | None:
        if self.dtype is None:
            return None
        spelled = _SPELLED.get(self.dtype, self.dtype.name.lower())
        schema = schema_of(op_type, self.opset)
        if schema is None or "broadcast" in schema.attributes:
            # The attribute selects other rules of broadcasting.
            return self._refused(f"{op_type} is another op in operator set {self.opset}")
        if op_type in self.held:
            return None
        kind = schema.inputs[0].type_str
        types = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
        if f"tensor({spelled})" not in types.get(kind, (kind,)):
            return self._refused(f"{op_type} of {spelled} is not in operator set {self.opset}")
        if not is_implemented(op_type, spelled, self.opset):
            return self._refused(
                f"the model has no {op_type} of {spelled}, which onnxruntime's CPU lacks"
            )
        return None

    def _refused(self, message: str) -> Refusal:
        return Refusal(Reason.UNSUPPORTED, message)
