"""Small files whose naive processing would exhaust time or memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["MODELS", "PLANS"]

_OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
_ROW: list[str | int | None] = ["N", 4]


def _port(
    name: str, shape: Sequence[str | int | None] | None, kind: int = 1
) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[str | int | None],
    functions: Sequence[onnx.FunctionProto] = (),
    **constants: object,
) -> onnx.ModelProto:
    held = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "g", [_port("x", shape)], [_port("y", None)], held)
    return helper.make_model(graph, opset_imports=_OPSETS, functions=functions, ir_version=10)


def _node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"n_{outputs}", **attributes)


def _call(name: str, inputs: str, output: str) -> onnx.NodeProto:
    return helper.make_node(name, inputs.split(), [output], domain="own")


def _calls(leaf: str, depth: int, fan: int = 2, extra: str = "") -> list[onnx.FunctionProto]:
    """Build functions each of which calls the previous one several times."""
    taken = ["p", *extra.split()]
    body = [helper.make_node(leaf, taken, ["q"])]
    found = [helper.make_function("own", "f0", taken, ["q"], body, _OPSETS)]
    for level in range(1, depth + 1):
        names = ["p", *[f"t{i}" for i in range(fan - 1)], "q"]
        body = [_call(f"f{level - 1}", f"{names[i]} {extra}", names[i + 1]) for i in range(fan)]
        found.append(helper.make_function("own", f"f{level}", taken, ["q"], body, _OPSETS))
    return found


def _loops(depth: int) -> onnx.ModelProto:
    """Build nested loops of 2^31 iterations."""
    body: onnx.GraphProto | None = None
    for level in range(depth):
        nodes = [_node("Identity", f"go{level}", f"on{level}")]
        if body is None:
            nodes.append(_node("Neg", f"s{level}", f"o{level}"))
        else:
            nodes.append(_inner(level, body))
        inputs = [
            _port(f"i{level}", [], TensorProto.INT64),
            _port(f"go{level}", [], TensorProto.BOOL),
            _port(f"s{level}", _ROW),
        ]
        outputs = [_port(f"on{level}", [], TensorProto.BOOL), _port(f"o{level}", _ROW)]
        body = helper.make_graph(nodes, f"body{level}", inputs, outputs)
    loop = helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)
    return _model([loop], _ROW, n=np.array(2**31))


def _inner(level: int, body: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("Loop", ["n", "", f"s{level}"], [f"o{level}"], body=body)


def _doubling(op: str, times: int) -> onnx.ModelProto:
    """Build repeated concatenations of a value with itself."""
    nodes = [_node("Conv", "x w", "t0")]
    attributes = {"axis": 1} if op == "Concat" else {}
    for i in range(times):
        target = "y" if i == times - 1 else f"t{i + 1}"
        nodes.append(_node(op, f"t{i} t{i}", target, **attributes))
    return _model(nodes, ["N", 4, "H", "W"], w=_ones(4, 4, 1, 1))


def _diamonds(times: int) -> onnx.ModelProto:
    """Build a chain of pairs of parallel convolutions: 2^times paths."""
    nodes = []
    for i in range(times):
        source = f"t{i - 1}" if i else "x"
        target = "y" if i == times - 1 else f"t{i}"
        nodes += [_node("Conv", f"{source} w", f"l{i}"), _node("Conv", f"{source} w", f"r{i}")]
        nodes.append(_node("Add", f"l{i} r{i}", target))
    return _model(nodes, ["N", 4, "H", "W"], w=_ones(4, 4, 1, 1))


def _ones(*shape: int) -> object:
    return np.ones(shape, np.float32)


def _pair(op: str, inputs: str = "a w", **attributes: object) -> onnx.ModelProto:
    """Build a pointwise convolution, a node with extreme attributes, and another convolution."""
    nodes = [
        _node("Conv", "x v b", "a"),
        _node(op, inputs, "c", **attributes),
        _node("Conv", "c v", "y"),
    ]
    image: list[str | int | None] = ["N", 4, 8, 8]
    return _model(nodes, image, v=_ones(4, 4, 1, 1), w=_ones(4, 4, 3, 3), b=_ones(4))


def _pads(*amounts: int) -> onnx.ModelProto:
    nodes = [_node("Conv", "x v b", "a"), _node("Pad", "a p", "c"), _node("Conv", "c w", "y")]
    v, w, b = _ones(4, 4, 1, 1), _ones(4, 4, 3, 3), _ones(4)
    return _model(nodes, ["N", 4, 8, 8], p=np.array(amounts), v=v, w=w, b=b)


_WIDE = 30_000


def _split(**attributes: object) -> onnx.ModelProto:
    return _model([_node("Split", "x", "a y", axis=1, **attributes)], _ROW)


def _low_rank(bias: bool) -> onnx.ModelProto:
    """Build a product of 30,000 by 1 by 30,000, which would take 3.6 GB if merged."""
    last = _node("Add", "t b", "y") if bias else _node("MatMul", "t b", "y")
    nodes = [_node("MatMul", "x a", "t"), last]
    return _model(nodes, ["N", _WIDE], a=_ones(_WIDE, 1), b=_ones(1, _WIDE))


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "functions": lambda: _model([_call("f40", "x", "y")], _ROW, _calls("Relu", 40)),
    "linear functions": lambda: _model([_call("f40", "x", "y")], _ROW, _calls("Neg", 40)),
    "functions of weights": lambda: _model(
        [_call("f40", "x w", "y")], _ROW, _calls("MatMul", 40, extra="w"), w=_ones(4, 4)
    ),
    "functions of constants": lambda: _model(
        [_call("f40", "w", "v"), _node("MatMul", "x v", "y")],
        _ROW,
        _calls("Neg", 40),
        w=_ones(4, 4),
    ),
    "eight calls each": lambda: _model([_call("f11", "x", "y")], _ROW, _calls("Neg", 11, 8)),
    "a chain of functions": lambda: _model([_call("f900", "x", "y")], _ROW, _calls("Neg", 900, 1)),
    "split in 2^31": lambda: _split(num_outputs=2**31),
    "split in 2^40": lambda: _split(num_outputs=2**40),
    "split in 0": lambda: _split(num_outputs=0),
    "loops": lambda: _loops(12),
    "sums": lambda: _doubling("Add", 40),
    "diamonds": lambda: _diamonds(24),
    "low rank": lambda: _low_rank(bias=False),
    "an outer sum": lambda: _low_rank(bias=True),
    "an endless kernel": lambda: _pair("Conv", kernel_shape=[2**40, 2**40]),
    "endless pads": lambda: _pair("Conv", pads=[2**31 - 1] * 4),
    "endless steps": lambda: _pair("Conv", dilations=[2**40, 2**20], strides=[2**62, 1]),
    "no group": lambda: _pair("Conv", group=0),
    "2^40 groups": lambda: _pair("Conv", group=2**40),
    "an endless window": lambda: _pair(
        "AveragePool", "a", kernel_shape=[2**20] * 2, pads=[2**19] * 4, count_include_pad=1
    ),
    "an endless transposed one": lambda: _pair("ConvTranspose", strides=[2**31, 2**31]),
    "padded without end": lambda: _pads(0, 0, 2**40, 0, 0, 0, 0, 0),
    "channels without end": lambda: _pads(0, 2**33, 0, 0, 0, 0, 0, 0),
    "cut without end": lambda: _pads(0, 0, -(2**62), 0, 0, 0, 0, 0),
}
"""Models, by what is wrong with them."""


def _laughs() -> str:
    lines = ["rules: &a [x, x, x, x, x, x, x, x, x]"]
    for name, before in zip("bcdefghijklmnop", "abcdefghijklmno", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    return "\n".join(lines)


PLANS: dict[str, tuple[str, Callable[[], str]]] = {
    "nested lists": ("json", lambda: "[" * 100_000 + "]" * 100_000),
    "nested mappings": ("json", lambda: '{"a":' * 100_000 + "1" + "}" * 100_000),
    "nested YAML": ("yaml", lambda: "[" * 5_000 + "]" * 5_000),
    "aliases": ("yaml", _laughs),
    "aliases in a rule": ("yaml", lambda: _laughs().replace("p: &p", "rules: &p", 1)),
    "an alias of itself": ("yaml", lambda: "rules: &a\n  - *a\n"),
    "a number of digits": ("json", lambda: '{"rules": [{"rate": ' + "9" * 100_000 + "}]}"),
}
"""Plan files: suffix and text, by what is wrong with them."""
