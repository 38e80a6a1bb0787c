"""What hands on the value that it reads, in every spelling, and what only seems to."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

import onnx_expand
from onnx_expand.graph.facts import Facts
from onnx_expand.linear.terms.noops import forwarded
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
    found = forwarded(read.graph[1], Facts(read))
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


@pytest.mark.parametrize("kind", ["float", "int64"])
@pytest.mark.parametrize(
    ("extents", "target", "dropped"),
    [
        ("3", "-1", True),
        ("N", "-1", True),
        ("2,9", "-1,9", True),
        ("N,9", "-1,9", True),
        ("N,9", "0,-1", True),
        ("N,4", "4,-1", False),
        ("2,9", "9,-1", False),
        ("N,1", "-1", False),
        ("N,4", "1,-1,4", False),
    ],
)
def test_a_reshape_to_its_own_shape_is_the_value(
    kind: str, extents: str, target: str, dropped: bool
) -> None:
    """Of numbers of any type; at each size, 0 too, the output has the source's shape."""
    wanted = target.split(",")
    ends = ",".join("?" * len(wanted))
    model = graph(
        f"g ({kind}[{extents}] x) => ({kind}[{ends}] y)"
        " { a = Neg (x) b = Reshape (a, s) y = Abs (b) }",
        {"s": np.array(wanted, np.int64)},
    )
    folded = onnx_expand.fold(model)
    assert ("Reshape" not in [node.op_type for node in folded.graph.node]) == dropped
    dtype = np.float32 if kind == "float" else np.int64
    for size in (4, 1, 0):
        shape = [size if extent == "N" else int(extent) for extent in extents.split(",")]
        x = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
        try:
            expected = _run(model, x)
        except RuntimeError:
            assert not x.size
            continue
        found = _run(folded, x)
        assert found.shape == expected.shape
        np.testing.assert_array_equal(found, expected)


def test_a_transpose_of_integers_in_order_is_the_value() -> None:
    model = graph(
        "g (int64[N,2] x) => (int64[N,2] y) { a = Neg (x) b = Transpose <perm = [0, 1]> (a)"
        " y = Abs (b) }",
        {},
    )
    assert [node.op_type for node in onnx_expand.fold(model).graph.node] == ["Neg", "Abs"]


def _run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    try:
        return np.asarray(session.run(None, {"x": x})[0])
    except Exception as error:  # of its own class, which it does not export
        raise RuntimeError from error
