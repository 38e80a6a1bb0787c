"""Each op lets just those factors, shifts and channels pass that its record says."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_expand.graph.facts import Facts
from onnx_expand.linear.terms.scaling import SCALING, scaling_of
from tests.support.graphs import compute
from tests.support.opsets import NEWEST

pytest.importorskip("onnxruntime")

Array = npt.NDArray[Any]

IMAGE = (2, 3, 4, 6)
MATRIX = (2, 3, 4)


def ints(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


def floats(*numbers: float) -> Array:
    return np.array(numbers, np.float32)


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# Op, what it reads (a tuple is computed, of that shape; an array is a constant), attributes, and
# the first and last operator set.
NODES: list[tuple[str, list[Any], dict[str, Any], int, int]] = [
    ("Relu", [IMAGE], {}, 7, 23),
    ("LeakyRelu", [IMAGE], {"alpha": 0.2}, 7, 23),
    ("PRelu", [IMAGE, random(3, 1, 1)], {}, 9, 23),
    ("PRelu", [IMAGE, (3, 1, 1)], {}, 9, 23),
    ("Abs", [IMAGE], {}, 7, 23),
    ("Clip", [IMAGE, np.float32(0)], {}, 11, 23),
    ("Clip", [IMAGE, "", np.float32(0)], {}, 12, 23),
    ("Clip", [IMAGE], {"min": 0.0}, 7, 10),
    ("Cast", [IMAGE], {"to": TensorProto.DOUBLE}, 7, 23),
    ("Reciprocal", [IMAGE], {}, 7, 23),
    ("Transpose", [IMAGE], {"perm": [0, 2, 3, 1]}, 7, 23),
    ("Reshape", [IMAGE, ints(2, 3, -1)], {}, 7, 23),
    ("Flatten", [IMAGE], {}, 7, 23),
    ("Squeeze", [(2, 1, 3), ints(1)], {}, 13, 23),
    ("Unsqueeze", [MATRIX, ints(1)], {}, 13, 23),
    ("DepthToSpace", [(1, 8, 2, 2)], {"blocksize": 2}, 11, 23),
    ("SpaceToDepth", [IMAGE], {"blocksize": 2}, 11, 23),
    ("Compress", [IMAGE, np.array([True, False, True])], {"axis": 1}, 11, 23),
    ("GatherElements", [MATRIX, np.zeros((2, 1, 4), np.int64)], {"axis": 1}, 11, 23),
    ("GatherND", [MATRIX, ints(1, 2).reshape(1, 2)], {}, 11, 23),
    ("ReverseSequence", [(3, 2, 4), ints(1, 3)], {}, 10, 23),
    ("CumSum", [MATRIX, np.int64(1)], {}, 11, 23),
    ("Trilu", [MATRIX], {}, 14, 23),
    ("Slice", [IMAGE, ints(1), ints(3), ints(2)], {}, 10, 23),
    ("Slice", [IMAGE, ints(-1), ints(-9), ints(3), ints(-2)], {}, 10, 23),
    ("Slice", [IMAGE, ints(1, 0), ints(3, 2)], {}, 10, 23),
    ("Slice", [IMAGE], {"starts": [1], "ends": [3], "axes": [1]}, 7, 9),
    ("Gather", [MATRIX, np.int64(1)], {"axis": 1}, 11, 23),
    ("Gather", [MATRIX, ints(0, 2)], {"axis": 1}, 11, 23),
    ("Gather", [MATRIX, ints(0, -1, 0, 1).reshape(2, 2)], {"axis": 2}, 11, 23),
    ("Expand", [(1, 3, 1, 6), ints(2, 3, 4, 6)], {}, 8, 23),
    ("Expand", [(3, 1), ints(2, 3, 4)], {}, 8, 23),
    ("Tile", [MATRIX, ints(1, 2, 1)], {}, 7, 23),
    ("Pad", [IMAGE, ints(0, 0, 1, 2, 0, 0, 0, -1)], {}, 11, 23),
    ("Pad", [IMAGE, ints(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "edge"}, 11, 23),
    ("Pad", [IMAGE, ints(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "reflect"}, 11, 23),
    ("Pad", [IMAGE, ints(1, 2), np.float32(0), ints(3)], {}, 18, 23),
    ("Pad", [IMAGE], {"pads": [0, 0, 1, 2, 0, 0, 0, 1]}, 7, 10),
    ("Resize", [IMAGE, "", floats(1, 1, 2, 2)], {"mode": "nearest"}, 13, 23),
    ("Resize", [IMAGE, "", floats(1, 1, 1.5, 2)], {"mode": "linear"}, 13, 23),
    ("Resize", [IMAGE, "", floats(1, 1, 1.5, 2)], {"mode": "cubic"}, 13, 23),
    ("Resize", [IMAGE, "", "", ints(2, 3, 7, 5)], {"mode": "linear"}, 13, 23),
    ("Resize", [IMAGE, floats(1, 1, 2, 2)], {"mode": "linear"}, 10, 10),
    ("Upsample", [IMAGE, floats(1, 1, 2, 2)], {"mode": "linear"}, 9, 9),
    ("Upsample", [IMAGE], {"mode": "nearest", "scales": [1.0, 1.0, 2.0, 2.0]}, 7, 8),
    ("GridSample", [IMAGE, random(2, 3, 3, 2)], {}, 16, 19),
    ("GridSample", [IMAGE, random(2, 3, 3, 2)], {"padding_mode": "border"}, 16, 19),
    ("MaxPool", [IMAGE], {"kernel_shape": [2, 2], "pads": [1, 0, 0, 1]}, 8, 23),
    ("MaxPool", [IMAGE], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, 10, 23),
    ("AveragePool", [IMAGE], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, 7, 23),
    ("AveragePool", [IMAGE], {"kernel_shape": [2, 3], "auto_pad": "SAME_UPPER"}, 7, 23),
    (
        "AveragePool",
        [IMAGE],
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
        7,
        23,
    ),
    ("AveragePool", [IMAGE], {"kernel_shape": [2, 2]}, 7, 23),
    ("LpPool", [IMAGE], {"kernel_shape": [2, 2]}, 11, 23),
    ("GlobalAveragePool", [IMAGE], {}, 7, 23),
    ("GlobalMaxPool", [IMAGE], {}, 7, 23),
    ("GlobalLpPool", [IMAGE], {}, 7, 21),
    ("ReduceMean", [IMAGE], {"axes": [2, 3], "keepdims": 0}, 7, 17),
    ("ReduceMean", [IMAGE, ints(2, -1)], {"keepdims": 0}, 18, 23),
    ("ReduceMean", [IMAGE, ints(1)], {}, 18, 23),
    ("ReduceMean", [IMAGE], {}, 7, 23),
    ("ReduceMean", [IMAGE], {"noop_with_empty_axes": 1}, 18, 23),
    ("ReduceSum", [IMAGE, ints(2, 3)], {}, 13, 23),
    ("ReduceSum", [IMAGE], {"axes": [1]}, 7, 12),
    ("ReduceMax", [IMAGE], {"axes": [2], "keepdims": 0}, 7, 17),
    ("ReduceMin", [IMAGE, ints(2)], {}, 18, 23),
    ("ReduceL1", [IMAGE, ints(1)], {}, 18, 23),
    ("ReduceL2", [IMAGE], {"axes": [1, 2]}, 7, 17),
    ("ReduceSumSquare", [IMAGE], {"axes": [2, 3]}, 7, 17),
    ("Max", [IMAGE, (3, 1, 1)], {}, 8, 23),
    ("Min", [IMAGE, IMAGE], {}, 8, 23),
    ("Mul", [IMAGE, (2, 3, 1, 1)], {}, 7, 23),
    ("Mul", [(3, 1), (2, 3, 3, 6)], {}, 7, 23),
    ("Mul", [IMAGE, random(3, 4, 6)], {}, 7, 23),
    ("Div", [IMAGE, (2, 1, 4, 6)], {}, 7, 23),
    ("Div", [np.float32(2), IMAGE], {}, 7, 23),
    ("MatMul", [(2, 3, 4), (2, 4, 5)], {}, 7, 23),
    ("MatMul", [(2, 3, 4), (4, 5)], {}, 7, 23),
    ("MatMul", [(2, 1, 3, 4), (3, 4, 5)], {}, 7, 23),
    ("MatMul", [(4,), (2, 4, 5)], {}, 7, 23),
    ("MatMul", [(2, 3, 4), random(2, 4, 5)], {}, 7, 23),
    ("Gemm", [(2, 3), (4, 3)], {"transB": 1, "alpha": 0.5}, 11, 23),
    ("Gemm", [(3, 2), (3, 4)], {"transA": 1}, 11, 23),
    ("Conv", [IMAGE, (5, 3, 2, 2)], {"pads": [1, 1, 0, 0]}, 7, 23),
    ("ConvTranspose", [IMAGE, (3, 5, 2, 2)], {"strides": [2, 2]}, 7, 23),
    ("Einsum", [(2, 3, 4), (2, 4, 5)], {"equation": "bij,bjk->bki"}, 12, 23),
    ("Einsum", [(2, 3, 4)], {"equation": "bij->bi"}, 12, 23),
    ("Einsum", [(3, 3, 2), (2, 2)], {"equation": "iij,jk->ik"}, 12, 23),
]

# No factor passes these, although their ops let some pass.
REFUSED: list[tuple[str, list[Any], dict[str, Any], int]] = [
    ("Clip", [IMAGE, np.float32(0), np.float32(1)], {}, 13),
    ("Clip", [IMAGE, np.float32(-1)], {}, 13),
    ("Pad", [IMAGE, ints(0, 0, 1, 2, 0, 0, 0, 1), np.float32(1)], {}, 13),
    ("Gemm", [(2, 3), (4, 3), random(4)], {"transB": 1}, 13),
    ("Conv", [IMAGE, (5, 3, 2, 2), random(5)], {}, 13),
    (
        "Resize",
        [IMAGE, floats(0, 0, 0, 0, 1, 1, 2, 2), floats(1, 1, 2, 2)],
        {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 1.0},
        13,
    ),
    ("Max", [IMAGE, np.float32(1)], {}, 13),
]


def _opsets(first: int, last: int) -> list[int]:
    newest = min(last, NEWEST)
    steps = {first, newest, 13, 18}
    return sorted(opset for opset in steps if first <= opset <= newest)


def _id(case: tuple[Any, ...]) -> str:
    return f"{case[0]}-{case[3]}"


CASES = [(*node[:3], opset) for node in NODES for opset in _opsets(*node[3:])]


class _Node:
    """A model of one node, and what it computes."""

    def __init__(self, op: str, reads: list[Any], attributes: dict[str, Any], opset: int) -> None:
        names, inputs, constants = [], [], []
        self.feeds: dict[str, Array] = {}
        for i, read in enumerate(reads):
            names.append("" if isinstance(read, str) else f"i{i}")
            if isinstance(read, tuple):
                inputs.append(helper.make_tensor_value_info(f"i{i}", TensorProto.FLOAT, read))
                # No zeros and no ties: whatever compares numbers has one answer.
                self.feeds[f"i{i}"] = random(*read, seed=i + 1) + np.float32(0.01)
            elif not isinstance(read, str):
                constants.append(numpy_helper.from_array(np.asarray(read), f"i{i}"))
        node = helper.make_node(op, names, ["y"], name="n", **attributes)
        kind = TensorProto.DOUBLE if op == "Cast" else TensorProto.FLOAT
        graph = helper.make_graph(
            [node], "g", inputs, [helper.make_tensor_value_info("y", kind, None)], constants
        )
        opsets = [helper.make_opsetid("", opset)]
        self.model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
        own = onnx.ModelProto()
        own.CopyFrom(self.model)
        read_model = ir.serde.deserialize_model(own)
        self.scaling = scaling_of(next(iter(read_model.graph)), Facts(read_model))

    def run(self, **changed: Array) -> Array:
        return compute(self.model, {**self.feeds, **changed})[0]


def _close(a: Array, b: Array) -> bool:
    return bool(np.allclose(a, b, rtol=2e-5, atol=2e-5))


def _along(axis: int, numbers: Array, rank: int) -> Array:
    return numbers.reshape(*[-1 if i == axis else 1 for i in range(rank)])


@pytest.mark.parametrize("case", CASES, ids=_id)
def test_factors_come_out_to_the_power_of_their_degree(case: tuple[Any, ...]) -> None:
    """One factor for all numbers, negative where that is let pass, in one input at a time."""
    node = _Node(*case)
    scaling, before = node.scaling, node.run()
    assert scaling is not None
    slots = [[*scaling.degrees]] if scaling.joint else [[slot] for slot in scaling.degrees]
    for together in slots:
        degree = scaling.degrees[together[0]]
        for factor in (1.7, 0.3, *([] if scaling.positive else [-1.3])):
            fed = {f"i{i}": node.feeds[f"i{i}"] * np.float32(factor) for i in together}
            assert _close(node.run(**fed), before * factor**degree)


@pytest.mark.parametrize("case", CASES, ids=_id)
def test_channels_come_out_where_the_record_says(case: tuple[Any, ...]) -> None:
    """Factors along each axis that is followed."""
    node = _Node(*case)
    scaling, before = node.scaling, node.run()
    assert scaling is not None
    for slot, channels in scaling.channels.items():
        if scaling.joint:
            continue
        x = node.feeds[f"i{slot}"]
        for axis, out in channels.items():
            factors = np.linspace(0.5, 2, x.shape[axis]).astype(np.float32)
            if not scaling.positive:
                factors[::2] *= -1
            found = node.run(**{f"i{slot}": x * _along(axis, factors, x.ndim)})
            wanted = before * _along(out, factors, before.ndim) ** scaling.degrees[slot]
            assert _close(found, wanted), (slot, axis, out)


@pytest.mark.parametrize("case", CASES, ids=_id)
def test_shifts_come_out_times_the_gain(case: tuple[Any, ...]) -> None:
    """For all numbers, and along each axis; where there is no gain there is no such law."""
    node = _Node(*case)
    scaling, before = node.scaling, node.run()
    assert scaling is not None
    x = node.feeds.get("i0")
    if x is None:
        assert scaling.gain is None
        return
    moved = node.run(i0=x + np.float32(0.8)) - before
    if scaling.gain is None:
        # A reduction of which the extents are known may have one all the same.
        assert np.ptp(moved) > 1e-3 or case[0] in {"Cast", "Einsum", "ReduceL1", "ReduceL2"}
        return
    assert _close(moved, np.full_like(moved, 0.8 * scaling.gain))
    for axis, out in scaling.channels.get(0, {}).items():
        shifts = np.linspace(-1, 1, x.shape[axis]).astype(np.float32)
        moved = node.run(i0=x + _along(axis, shifts, x.ndim)) - before
        wanted = np.broadcast_to(_along(out, shifts, before.ndim), before.shape)
        assert _close(moved, wanted * scaling.gain), (axis, out)


@pytest.mark.parametrize("case", CASES, ids=_id)
def test_a_part_is_all_that_is_read(case: tuple[Any, ...]) -> None:
    """What else the input holds does not matter, and every place of the part does."""
    node = _Node(*case)
    part = None if node.scaling is None else node.scaling.part
    if part is None:
        # A Slice of several axes, or one of them without its number, is no part of one axis.
        assert case[0] != "Gather"
        assert case[0] != "Slice" or len(case[1]) == 3
        return
    x, before = node.feeds["i0"], node.run()
    assert x.shape[part.axis] == part.size
    for place in range(part.size):
        other = x.copy()
        other[(slice(None),) * part.axis + (place,)] += 1
        assert bool(np.array_equal(node.run(i0=other), before)) == (place not in part.places)


@pytest.mark.parametrize("case", [c for c in CASES if c[3] in {7, 13, 18}], ids=_id)
def test_negative_factors_are_refused_only_where_they_change_a_number(
    case: tuple[Any, ...],
) -> None:
    node = _Node(*case)
    scaling, before = node.scaling, node.run()
    assert scaling is not None
    if scaling.positive:
        fed = {f"i{i}": -node.feeds[f"i{i}"] for i in scaling.degrees}
        assert not _close(node.run(**fed), -before)


@pytest.mark.parametrize("case", REFUSED, ids=_id)
def test_what_is_refused_changes_numbers(case: tuple[Any, ...]) -> None:
    node = _Node(*case)
    assert node.scaling is None
    before = node.run()
    for name, x in node.feeds.items():
        assert not _close(node.run(**{name: 2 * x}), 2 * before)


def test_every_op_of_the_table_is_tried() -> None:
    assert {case[0] for case in CASES} | {"CastLike"} == set(SCALING)


def test_what_no_factor_passes_has_no_record() -> None:
    for op in ("Softmax", "Sigmoid", "LayerNormalization", "Erf", "Exp", "Add", "Floor", "LRN"):
        assert op not in SCALING


def test_integers_and_further_outputs_are_refused() -> None:
    """Integers wrap around, and who reads the places of the largest reads no scaled number."""
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> g (int32[2, 3] x, float[1, 1, 4, 4] z) => '
        "(int32[2, 3] y, float[a, b, c, d] p, int64[a, b, c, d] q) "
        "{ y = Relu(x) p, q = MaxPool<kernel_shape=[2, 2]>(z) }"
    )
    model = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    facts = Facts(model)
    assert [scaling_of(node, facts) for node in model.graph] == [None, None]
