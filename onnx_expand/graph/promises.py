"""Types that op schemas promise for outputs, which ONNX's inference does not infer everywhere.

Most ops of `ai.onnx.ml` have no inference function although their outputs have a fixed type, such
as float for LinearRegressor.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import onnx

from onnx_expand.graph.claims import describe
from onnx_expand.model.outline import inner_graphs

__all__ = ["state_promised"]

_DEFAULT = {"", "ai.onnx"}


def state_promised(model: onnx.ModelProto) -> None:
    """Declare the output types that schemas fix, in place, for the ops of other domains."""
    versions = {entry.domain: entry.version for entry in model.opset_import}
    for graph in inner_graphs(model.graph):
        promised: dict[str, onnx.TypeProto] = {}
        for node in graph.node:
            if node.domain in _DEFAULT:
                continue
            kinds = _outputs(node.op_type, versions.get(node.domain, 0), node.domain)
            for name, kind in zip(node.output, kinds, strict=False):
                if name and kind:
                    promised[name] = onnx.helper.make_tensor_type_proto(kind, None)
        describe(graph, promised)


@functools.cache
def _outputs(op: str, version: int, domain: str) -> tuple[int, ...]:
    """Return the element type of each output of an op; 0 where it is not fixed."""
    if not onnx.defs.has(op, version, domain):
        return ()
    schema = onnx.defs.get_schema(op, version, domain)
    variables = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    return tuple(_element(variables.get(o.type_str, [o.type_str])) for o in schema.outputs)


def _element(texts: Sequence[str]) -> int:
    """Return the element type that a text such as `tensor(float)` names, if it is the only one."""
    name = texts[0].removeprefix("tensor(").removesuffix(")").upper()
    is_fixed = len(texts) == 1 and texts[0].startswith("tensor(")
    return onnx.TensorProto.DataType.Value(name) if is_fixed else 0
