"""Defaults of attributes are those of ONNX's schemas, everywhere."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnx_expand
from onnx_expand.graph.attributes import defaults_of, float_of, int_of, schema_of, text_of
from onnx_expand.lift.base import LIFTERS
from tests.support.graphs_text import fold, graph, ops

SOURCE = Path(onnx_expand.__file__).parent
READERS = {"flag_of", "float_of", "int_of", "text_of"}
OPSETS = range(1, onnx.defs.onnx_opset_version() + 1)


def calls() -> list[tuple[str, int, ast.Call]]:
    """Every call of a function or method in the package: file, line, call."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                found.append((path.relative_to(SOURCE).as_posix(), node.lineno, node))
    return found


def test_attributes_are_read_in_one_place() -> None:
    """No module reads a node's attribute with a default of its own."""
    getters = {"get_float", "get_int", "get_ints", "get_string"}
    wild = [
        f"{file}:{line}"
        for file, line, call in calls()
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in getters
        and file != "graph/attributes.py"
    ]
    assert not wild


def test_defaults_without_an_operator_set_never_changed() -> None:
    """Where no operator set is named, every one has the same default for every op of that name."""
    names = {
        str(call.args[1].value)
        for _, _, call in calls()
        if isinstance(call.func, ast.Name) and call.func.id in READERS and len(call.args) == 2
        if isinstance(call.args[1], ast.Constant)
    }
    assert names
    for op in ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"):
        for name in names:
            values = {v[name] for n in OPSETS if name in (v := defaults_of(op, n))}
            assert len(values) <= 1, f"{op}.{name}"


@pytest.mark.parametrize("op", sorted(LIFTERS))
def test_a_lifted_op_has_the_defaults_of_its_schema(op: str) -> None:
    """Whatever a lifted op leaves out is read as its schema says, to the last bit."""
    for opset in OPSETS:
        schema = schema_of(op, opset)
        if schema is None:
            continue
        node = ir.Node("", op, [])
        for name, attribute in schema.attributes.items():
            default = attribute.default_value
            if default.type == onnx.AttributeProto.FLOAT:
                assert float_of(node, name, opset) == default.f
            elif default.type == onnx.AttributeProto.INT:
                assert int_of(node, name, opset) == default.i
            elif default.type == onnx.AttributeProto.STRING:
                assert text_of(node, name, opset) == default.s.decode()


@pytest.mark.parametrize("stated", ["", "<epsilon: float = 0.00001>"])
def test_a_normalization_in_float64_folds_with_its_epsilon(stated: str) -> None:
    """The epsilon of a BatchNormalization is a float32, whether it is written or left out."""
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    constants = {
        name: rng.uniform(0.5, 2, shape)
        for name, shape in {"w": (5, 6), "s": (6,), "b": (6,), "m": (6,), "v": (6,)}.items()
    }
    model = graph(
        "g (double[N,5] x) => (double[N,6] y) { t = MatMul(x, w) y = BatchNormalization"
        f"{stated}(t, s, b, m, v) }}",
        constants,
    )
    folded, _ = fold(model)
    assert ops(folded) == ["Gemm"]
    assert onnx_expand.check(model, folded)


@pytest.mark.parametrize("flag", [0, 1, 2, -1, 7])
@pytest.mark.parametrize("first", [True, False])
def test_any_number_but_zero_transposes(flag: int, first: bool) -> None:
    """A Gemm's flags are read by their truth, by fold and by check, as onnxruntime reads them."""
    pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    shape = (6, 5) if flag else (5, 6)
    constants = {"w": rng.standard_normal(shape), "v": rng.standard_normal((4, 4))}
    text = (
        f"{{ t = Gemm <transA = {flag}> (w, x) y = Gemm(t, v) }}"
        if first
        else f"{{ s = Gemm(x, v) y = Gemm <transB = {flag}> (s, w) }}"
    )
    shapes = ("6,4", "5,4") if first else ("N,4", "N,6")
    if not first:
        constants["v"] = rng.standard_normal((4, 5))
    model = graph(
        f"g (float[{shapes[0]}] x) => (float[{shapes[1]}] y) {text}",
        {name: array.astype(np.float32) for name, array in constants.items()},
    )
    model.graph.input[0].type.tensor_type.shape.dim[0 if first else 1].Clear()
    folded = onnx_expand.fold(model, verify=True)
    assert onnx_expand.check(model, folded)
    assert first or ops(folded) == ["Gemm"]
