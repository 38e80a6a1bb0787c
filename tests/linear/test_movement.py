"""What moves numbers without computing: fold adds none of it where it saves no product."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
import pytest

import onnx_expand
from onnx_expand.cost import MACHINE, inspect_model
from onnx_expand.model import read
from tests.support.graphs_text import graph, ops, weights
from tests.support.numbers import assert_same
from tests.support.random_layouts import random_layouts

_STEPS = {"Add", "Sub", "Mul", "Div", "Neg", "Sum", "BatchNormalization"}
_COPIES = {"Concat", "Split"}
_PRODUCTS = {"MatMul", "Gemm", "Conv"}


def estimate(model: onnx.ModelProto) -> tuple[int, int]:
    """Products, and what all else takes by the machine's figures, counted from shapes alone."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    known = {
        v.name: [d.dim_value or 1 for d in v.type.tensor_type.shape.dim]
        for v in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    }
    known |= {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    total = 0
    for node in inferred.graph.node:
        numbers = sum(prod(known[out]) for out in node.output)
        moves = node.op_type == "Transpose" and _moves(node, known)
        total += MACHINE.launch
        total += MACHINE.elementwise * numbers * (node.op_type in _STEPS)
        total += MACHINE.copied * numbers * (node.op_type in _COPIES)
        total += MACHINE.transposed * numbers * moves
        if node.op_type in _PRODUCTS:
            total += MACHINE.start + MACHINE.copied * prod(known[node.input[0]])
    stored = sum(prod(t.dims) for t in model.graph.initializer if t.data_type == t.FLOAT)
    macs = inspect_model(read(model)).macs
    assert macs is not None
    return macs, total + MACHINE.stored * stored


def _moves(node: onnx.NodeProto, known: dict[str, list[int]]) -> bool:
    perm = next(list(a.ints) for a in node.attribute if a.name == "perm")
    longer = [axis for axis in perm if known[node.input[0]][axis] != 1]
    return longer != sorted(longer)


@pytest.mark.parametrize("seed", range(60))
def test_the_estimate_never_grows(seed: int) -> None:
    """Of graphs whose layout changes, folded ones take no product more and move no more."""
    model = random_layouts(seed, length=3 + seed % 8)
    folded = onnx_expand.fold(model, policy="cheapest")
    assert_same(model, folded, seed)
    assert estimate(folded) <= estimate(model)


@pytest.mark.parametrize("wide", [1, 2, 4])
@pytest.mark.parametrize("narrows", [True, False])
def test_a_transpose_stays_where_there_are_fewer_numbers(wide: int, narrows: bool) -> None:
    """Between a narrow and a wide layer the Transpose is on the narrow side, as it was."""
    n, m = (8 * wide, 8) if narrows else (8, 8 * wide)
    before, after = ("", "t = Transpose <perm = [0, 3, 1, 2]> (b)")
    if not narrows:
        before, after = "t = Transpose <perm = [0, 2, 3, 1]> (x)", ""
    inner = f"float[1,{n},6,6]" if not narrows else f"float[1,6,6,{n}]"
    outer = f"float[1,{m},6,6]" if narrows else f"float[1,6,6,{m}]"
    first, last = ("x", "t") if narrows else ("t", "b")
    model = graph(
        f"g ({inner} x) => ({outer} y) {{ {before} a = MatMul({first}, w) b = Mul(a, s) {after} "
        f"y = Relu({last}) }}",
        weights(w=(n, m), s=(m,)),
    )
    folded = onnx_expand.fold(model, policy="cheapest")
    kept = ops(model)
    kept.remove("Mul")
    assert ops(folded) == kept


def test_a_transpose_goes_where_there_are_fewer_numbers() -> None:
    """Behind a layer that widens, it is cheaper in front of it, in the other form."""
    rng = np.random.default_rng(0)
    model = graph(
        "g (float[1,6,6,8] x) => (float[1,64,6,6] y) "
        "{ a = MatMul(x, w) b = Transpose <perm = [0, 3, 1, 2]> (a) y = Relu(b) }",
        {"w": rng.standard_normal((8, 64)).astype(np.float32)},
    )
    assert ops(onnx_expand.fold(model, policy="cheapest")) == ["Transpose", "Conv", "Relu"]
