"""Random whole models: every kind of node that fold handles, and the other contents of files.

`random_model(seed, kind)` is a valid model that runs at every size in `sizes_of(model)`. The
generator is independent of the folding code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.support.random_models.builder import Builder, Dims, Scope, Value
from tests.support.random_models.control import CONTROL, DOMAIN, call
from tests.support.random_models.factors import FACTORS
from tests.support.random_models.joins import JOINS
from tests.support.random_models.linear import LINEAR
from tests.support.random_models.mixed import MIXED
from tests.support.random_models.moves import MOVES, PLAIN

__all__ = ["KINDS", "random_model", "sizes_of"]

KINDS = (
    *("images", "matrices", "sequences", "moves", "half", "double", "control", "functions"),
    *("factors", "half factors", "mixed", "structured"),
)
"""What a model has most of; `half` and `double` are the types of its numbers.

`structured` is one of the others, with weights that have structure.
"""
_STRUCTURED = ("images", "matrices", "sequences", "factors", "mixed", "moves")

_SYMBOLS: dict[str, tuple[int, ...]] = {
    "N": (2, 1, 3),
    "H": (8, 5, 11),
    "W": (7, 6, 12),
    "L": (6, 5, 9),
}
_NEWEST = min(26, onnx.defs.onnx_opset_version())


def random_model(seed: int, kind: str = "images") -> onnx.ModelProto:
    """Draw a model.

    Args:
        seed: The seed of the model, with the kind.
        kind: One of `KINDS`.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    is_structured = kind == "structured"
    if is_structured:
        kind = _STRUCTURED[int(rng.integers(len(_STRUCTURED)))]
    types: dict[str, type] = {
        "half": np.float16,
        "half factors": np.float16,
        "double": np.float64,
    }
    if kind == "mixed":
        types[kind] = ([np.float32] * 8 + [np.float16, np.float64])[rng.integers(10)]
    dtype = np.dtype(types.get(kind, np.float32))
    opset = int(
        rng.choice([7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 17, 17, 18, 19, 20, 21, 22, _NEWEST])
    )
    if kind == "functions":
        opset = max(opset, 13)
    b = Builder(Scope(rng, dtype, opset, 3, is_structured=is_structured))
    inputs = _inputs(b, kind)
    b.values += inputs
    fewest, most = (4, 25) if kind == "mixed" else (2, 15)
    _grow(b, kind, int(rng.integers(fewest, most)))
    return _finished(b, inputs)


def sizes_of(model: onnx.ModelProto) -> list[dict[str, int]]:
    """Return the extents of the symbols at which a model must run."""
    return [{name: sizes[i] for name, sizes in _SYMBOLS.items()} for i in range(3)]


def _inputs(b: Builder, kind: str) -> list[Value]:
    """Create one or two inputs, symbolic or not."""
    if kind not in {"images", "matrices", "sequences"}:
        layout = b.pick("images", "matrices", "sequences")
    else:
        layout = kind
    c = int(b.pick(1, 2, 3, 4, 4, 6))
    if kind == "mixed":
        c = int(b.pick(c, 4, 6, 8))
    free = b.pick("", "N", "N", "NHWL", "NHWL", "HWL")

    def extent(symbol: str) -> tuple[int, ...]:
        sizes = _SYMBOLS[symbol]
        return sizes if symbol in free else (int(b.pick(sizes[0], 1, 4)),) * 3

    side = (c,) * 3
    dims: Dims
    if layout == "images":
        square = b.chance(0.15)
        height = extent("H")
        dims = (extent("N"), side, height, height if square else extent("W"))
        if b.chance(0.15):
            dims = (dims[0], side, extent("L"))
        elif kind == "mixed" and b.chance(0.1):
            dims = (*dims[:2], extent("L"), extent("L"), extent("L"))
    elif layout == "matrices":
        dims = (side, side) if b.chance(0.2) else (extent("N"), side)
    else:
        dims = (extent("N"), extent("L"), side)
    found = [Value("x", dims)]
    if b.chance(0.25):
        found.append(Value("z", dims))
    return found


def _grow(b: Builder, kind: str, length: int) -> None:
    linear = (*LINEAR, *JOINS)
    makers = {
        "images": (*linear, *linear, *PLAIN, *MOVES),
        "moves": (*linear, *PLAIN, *MOVES, *MOVES, *MOVES),
        "factors": FACTORS,
        "half factors": FACTORS,
        "mixed": MIXED,
        "control": (*linear, *PLAIN, *MOVES, *CONTROL * 4),
        "functions": (*linear, *PLAIN, *[call] * 14),
    }.get(kind, (*linear, *linear, *PLAIN, *MOVES, *CONTROL[:2]))
    functions = b.opset >= 13
    for _ in range(8 * length):
        if len(b.nodes) >= length:
            break
        # Recent values make chains, older ones forks.
        x = b.values[-1] if b.chance(0.75) else b.pick(*b.values)
        maker = b.pick(*makers)
        if x.largest > 6000 or (maker is call and not functions):
            continue
        maker(b, x)
    if not b.nodes:
        b.add("Identity", [b.values[0].name], b.values[0].dims)


def _finished(b: Builder, inputs: list[Value]) -> onnx.ModelProto:
    read = _read(b.nodes)
    made = [v for v in b.values if v not in inputs]
    outputs = [v for v in made if v.name not in read] or [made[-1]]
    for value in made:
        if b.chance(0.06) and value not in outputs:
            outputs.append(value)
    if b.chance(0.02):
        outputs.append(inputs[0])
    stale = b.chance(0.2)
    ports = [_input(b, value) for value in inputs]
    ports += b.extra_inputs
    for tensor in b.overridable:
        ports.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    infos = [_claim(b, value, stale) for value in made if b.chance(0.15 if not stale else 0.5)]
    named = {value.name for value in outputs}
    graph = helper.make_graph(
        b.nodes,
        "random",
        ports,
        [ports[inputs.index(v)] if v in inputs else _output(b, v) for v in outputs],
        [*b.initializers, *b.overridable],
        value_info=[info for info in infos if info.name not in named],
    )
    opsets = [helper.make_opsetid("", b.opset)]
    if b.scope.functions or b.chance(0.1):
        opsets.append(helper.make_opsetid(DOMAIN, 1))
    newest = b.opset > 21
    model = helper.make_model(
        graph, opset_imports=opsets, functions=b.scope.functions, ir_version=10 if newest else 8
    )
    if b.chance(0.2):
        helper.set_model_props(model, {"origin": "random"})
    return model


def _read(nodes: Any) -> set[str]:
    """Return the names that nodes and their subgraphs read."""
    found = set()
    for node in nodes:
        found |= set(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found |= _read(attribute.g.node) | {value.name for value in attribute.g.output}
    return found


def _symbols(dims: Dims) -> list[str | int | None]:
    names = {sizes: name for name, sizes in _SYMBOLS.items()}
    return [names.get(axis) if len(set(axis)) > 1 else axis[0] for axis in dims]


def _input(b: Builder, value: Value) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(value.name, b.kind, _symbols(value.dims))


def _output(b: Builder, value: Value) -> onnx.ValueInfoProto:
    shape = _symbols(value.dims)
    if b.chance(0.15):
        shape = [None] * len(shape)
    return helper.make_tensor_value_info(value.name, b.kind, shape)


def _claim(b: Builder, value: Value, stale: bool) -> onnx.ValueInfoProto:
    """Declare the shape of a value: correctly or, for a free size, with that of another run."""
    shape = _symbols(value.dims)
    if stale:
        shape = [
            axis[0] if b.chance(0.7) else s for axis, s in zip(value.dims, shape, strict=True)
        ]
    elif b.chance(0.3):
        shape = [None if b.chance(0.5) else s for s in shape]
    return helper.make_tensor_value_info(value.name, b.kind, shape)
