"""What hands on the value that it reads, in every spelling, and what only seems to."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

import onnx_expand
from onnx_expand.graph.facts import Facts
from onnx_expand.linear.terms.noops import handed_on
from tests.support.graphs_text import graph

_TYPES = {
    "FLOAT16": np.float16,
    "FLOAT": np.float32,
    "DOUBLE": np.float64,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
}


@pytest.mark.parametrize(("own", "other"), [*itertools.permutations(_TYPES, 2)])
def test_a_detour_over_a_wider_type_is_the_value(own: str, other: str) -> None:
    """There and back is taken for nothing only where every number comes back as it was."""
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=getattr(TensorProto, other)),
        helper.make_node("Cast", ["a"], ["y"], to=getattr(TensorProto, own)),
    ]
    kind = getattr(TensorProto, own)
    ports = [helper.make_tensor_value_info(name, kind, ["N"]) for name in "xy"]
    whole = helper.make_graph(nodes, "g", ports[:1], ports[1:])
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    read = ir.serde.deserialize_model(model)
    found = handed_on(read.graph[1], Facts(read))
    there, back = np.dtype(_TYPES[other]), np.dtype(_TYPES[own])
    holds = np.can_cast(back, there, "safe")
    assert found is None or (found.name == "x" and holds)
    if back.kind == there.kind:
        assert (found is not None) == holds


def test_a_value_that_only_a_branch_reads_runs_after_a_detour() -> None:
    """Of two conversions that undo each other onnxruntime would lose what an If reads."""
    model = graph(
        "g (bool f, float[N,4] x) => (float[N,4] y) { r = Relu(x) d = Cast<to = 11>(r)"
        " a = Cast<to = 1>(d) t = Transpose<perm = [0,1]>(a) y = If(f) <"
        " then_branch = b () => (float[N,4] p) { p = Sub(t, t) },"
        " else_branch = c () => (float[N,4] q) { q = Neg(t) }> }",
        {},
    )
    folded = onnx_expand.fold(model)
    assert [node.op_type for node in folded.graph.node] == ["Relu", "If"]
    verdict = onnx_expand.check(model, folded, samples=1, providers=["cpu"])
    assert verdict, verdict.summary()


@pytest.mark.parametrize(
    "way", ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
)
def test_a_resize_by_one_is_the_value(way: str) -> None:
    """By every way to reckon positions but one, which reads half a position further on."""
    for mode, reckoned in itertools.product(("nearest", "linear"), (way, "tf_half_pixel_for_nn")):
        model = onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 11]> g (float[1,1,4,5] x) => (float[1,1,4,5] y)'
            " <float[4] s = {1,1,1,1}, float[0] r = {}> { a = Relu(x) b = Resize<"
            f'mode = "{mode}", coordinate_transformation_mode = "{reckoned}">(a, r, s)'
            " y = Neg(b) }"
        )
        folded = onnx_expand.fold(model)
        left = [node.op_type for node in folded.graph.node]
        assert ("Resize" in left) == (reckoned != way)
