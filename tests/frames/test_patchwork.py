"""Symbolic evaluation of nodes that move elements, and the frames that it finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnx_expand.frames import find_frames
from onnx_expand.frames.following import follow
from onnx_expand.frames.patchwork import Patchwork
from onnx_expand.frames.symbols import Size, UndecidedError
from onnx_expand.graph.facts import Facts
from onnx_expand.passes import Policy
from tests.support.graphs import Array, compute
from tests.support.graphs_text import fold, ops, weights

pytest.importorskip("onnxruntime")

# -- Sizes ------------------------------------------------------------------------------------

NUMBERS = st.integers(-4, 4)
SIZES = st.builds(
    lambda n, h, w: Size(n) + Size(0, {"h": 1}) * h + Size(0, {"w": 1}) * w,
    NUMBERS,
    st.integers(-2, 2),
    st.integers(-2, 2),
)


def at(size: Size, h: int, w: int) -> int:
    """Evaluate a size."""
    return size.number + sum((h if key == "h" else w) * n for key, n in size.symbols.items())


@given(a=SIZES, b=SIZES, factor=NUMBERS, h=st.integers(1, 9), w=st.integers(1, 9))
@settings(deadline=None)
def test_sizes_are_sums(a: Size, b: Size, factor: int, h: int, w: int) -> None:
    """Arithmetic commutes with evaluation, and comparisons hold for all values of the symbols."""
    assert at(a + b, h, w) == at(a, h, w) + at(b, h, w)
    assert at(a - b, h, w) == at(a, h, w) - at(b, h, w)
    assert at(a * factor, h, w) == at(a, h, w) * factor
    assert (a == b) == all(at(a, i, j) == at(b, i, j) for i in (1, 2, 5) for j in (1, 3, 7))
    try:
        decided = a >= b
    except UndecidedError:
        return
    assert decided == (at(a, h, w) >= at(b, h, w))


# -- Programs ---------------------------------------------------------------------------------


class Program:
    """Random nodes that move the elements of x, of shape [N, 3, H, W]."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.value = "x"
        self.order = [0, 1, 2, 3]  # the axis of the image at each position
        self.pad()
        for _ in range(int(rng.integers(1, 8))):
            getattr(self, str(rng.choice(["pad", "cut", "turn", "write", "write"])))()

    def add(self, op: str, inputs: list[str], **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def constant(self, *numbers: float, dtype: Any = np.int64) -> str:
        """Add a constant of these integers."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(numbers, dtype), name))
        return name

    def pad(self) -> None:
        """Pad the image with a constant."""
        spatial = [axis > 1 for axis in self.order]
        pads = [int(self.rng.integers(1, 3)) * s for s in spatial * 2]
        fill = self.constant(float(self.rng.integers(1, 9)), dtype=np.float32)
        self.value = self.add("Pad", [self.value, self.constant(*pads), fill])

    def turn(self) -> None:
        """Permute the axes."""
        perm = [int(axis) for axis in self.rng.permutation(4)]
        self.order = [self.order[axis] for axis in perm]
        self.value = self.add("Transpose", [self.value], perm=perm)

    def cut(self) -> None:
        """Slice off positions, perhaps those of a former padding."""
        axis = self.order.index(int(self.rng.integers(2, 4)))
        begin, end = int(self.rng.integers(0, 2)), int(self.rng.choice([-1, 1 << 62]))
        given = [self.constant(number) for number in (begin, end, axis)]
        self.value = self.add("Slice", [self.value, *given])

    def write(self) -> None:
        """Overwrite the first, the last or all rows with constants per channel."""
        axis = self.order.index(int(self.rng.integers(2, 4)))
        swap = [axis, *(i for i in range(4) if i != axis)]
        order = [self.order[i] for i in swap]
        data = self.add("Transpose", [self.value], perm=swap)
        shape = self.add("Shape", [data])
        rows = self.add("Gather", [shape, self.constant(0)], axis=0)
        scalar = self.add("Squeeze", [rows, self.constant(0)])
        zero, one = (self.constant(n) for n in (0, 1))
        first, step = (self.add("Squeeze", [v, self.constant(0)]) for v in (zero, one))
        span = self.add("Range", [first, scalar, step])
        begin, end = [(0, 1), (-1, 1 << 62), (0, 1 << 62), (1, 2)][int(self.rng.integers(4))]
        span = self.add("Slice", [span, self.constant(begin), self.constant(end)])
        count = self.add("Shape", [span])
        indices = self.add("Unsqueeze", [span, self.constant(1)])
        rest = self.add("Slice", [shape, self.constant(1), self.constant(4)])
        whole = self.add("Concat", [count, rest], axis=0)
        name = f"c{len(self.constants)}"
        fill = self.rng.integers(10, 99, [3 if i == 1 else 1 for i in order]).astype(np.float32)
        self.constants.append(numpy_helper.from_array(fill, name))
        rows = self.add("Expand", [name, whole])
        written = self.add("ScatterND", [data, indices, rows])
        back = [swap.index(i) for i in range(4)]
        self.value = self.add("Transpose", [written], perm=back)

    def model(self) -> onnx.ModelProto:
        """Return the model, with dynamic batch and extents."""
        x = helper.make_tensor_value_info("x", 1, ["N", 3, "H", "W"])
        y = helper.make_tensor_value_info(self.value, 1, None)
        graph = helper.make_graph(self.nodes, "g", [x], [y], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rendered(tensor: Patchwork, x: Array, value: ir.Value) -> Array:
    """Evaluate a patchwork for an input array."""

    def number(size: Size) -> int:
        return size.number + sum(x.shape[key[1]] * n for key, n in size.symbols.items())  # type: ignore[index]

    out = np.full([number(size) for size in tensor.shape], np.nan, np.float32)
    for box in tensor.boxes:
        begins, ends = ([number(s) for s in sizes] for sizes in (box.begins, box.ends))
        offsets = [number(s) for s in box.offsets]
        where = tuple(slice(b, max(b, e)) for b, e in zip(begins, ends, strict=True))
        shown = x.transpose(box.axes) if box.fill is None else box.fill
        parts = tuple(
            slice(None) if box.fill is not None and n == 1 else slice(b - o, max(b, e) - o)
            for n, b, e, o in zip(shown.shape, begins, ends, offsets, strict=True)
        )
        out[where] = shown[parts]
    assert value.name == "x"
    return out


@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_patchworks_equal_onnxruntime_at_every_size(seed: int) -> None:
    """A patchwork equals the result of onnxruntime at every size, unless it is undecided."""
    model = Program(np.random.default_rng(seed)).model()
    own = ir.serde.deserialize_model(model)
    facts, x = Facts(own), own.graph.inputs[0]
    try:
        tensor = follow(list(own.graph), x, own.graph.outputs[0], facts)
    except UndecidedError:
        return
    for size in ((1, 1), (1, 4), (3, 2), (6, 5)):
        array = np.random.default_rng(seed).standard_normal((2, 3, *size)).astype(np.float32)
        (expected,) = compute(model, {"x": array})
        np.testing.assert_array_equal(rendered(tensor, array, x), expected)


def test_most_programs_are_decided() -> None:
    """The test above would prove nothing if no program were decided."""
    decided = 0
    for seed in range(60):
        own = ir.serde.deserialize_model(Program(np.random.default_rng(seed)).model())
        try:
            follow(list(own.graph), own.graph.inputs[0], own.graph.outputs[0], Facts(own))
            decided += 1
        except UndecidedError:
            pass
    assert decided >= 30


# -- Frames -----------------------------------------------------------------------------------

FRAME = """g (float[N,4,H,W] x) => (float[N,4,P,Q] y) {
    a = Conv(x, w, b)
    p = Pad(a, pads)
    s = Shape(p)
    h = Gather<axis=0>(s, two)
    d = Transpose<perm=[2,1,0,3]>(p)
    r = Range(zero, h, one)
    i1 = Slice(r, l0, l1)
    k1 = Unsqueeze(i1, l1)
    t = Shape(d)
    rest = Slice(t, l1, l4)
    e1 = Concat<axis=0>(l1, rest)
    u1 = Expand(fill, e1)
    q = ScatterND(d, k1, u1)
    i2 = Slice(r, last, far)
    k2 = Unsqueeze(i2, l1)
    z = ScatterND(q, k2, u1)
    o = Transpose<perm=[2,1,0,3]>(z)
    c = Conv(o, v)
    y = Relu(c)
}"""


def framed(*, last: int = -1, far: int = 1 << 62, fill: float | None = None) -> onnx.ModelProto:
    """Build a layer whose output is padded with its bias above and below, at dynamic extents."""
    arrays: dict[str, Array] = weights(w=(4, 4, 1, 1), b=(4,), v=(4, 4, 3, 1))
    bias = arrays["b"].reshape(1, 4, 1, 1)
    arrays["fill"] = bias if fill is None else np.full_like(bias, fill)
    lists = {"l0": [0], "l1": [1], "l4": [4], "last": [last], "far": [far]}
    lists["pads"] = [0, 0, 1, 0, 0, 0, 1, 0]
    arrays |= {name: np.array(numbers) for name, numbers in lists.items()}
    arrays |= {name: np.array(n) for name, n in (("zero", 0), ("one", 1), ("two", 2))}
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> ' + FRAME)
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    onnx.checker.check_model(model)
    return model


def agree(model: onnx.ModelProto, folded: onnx.ModelProto) -> None:
    """Assert that two models compute the same at sizes down to one position."""
    for size in ((1, 1), (2, 5), (6, 3), (9, 1)):
        x = np.random.default_rng(0).standard_normal((2, 4, *size)).astype(np.float32)
        for e, a in zip(compute(model, {"x": x}), compute(folded, {"x": x}), strict=True):
            np.testing.assert_allclose(a, e, rtol=0, atol=1e-5)


def test_a_frame_of_dynamic_extents_folds() -> None:
    """Padding with the layer's bias merges with the two layers around it."""
    model = framed()
    folded, _ = fold(model, Policy.CHEAPEST)
    assert ops(folded) == ["Conv", "Relu"]
    agree(model, folded)


@pytest.mark.parametrize("change", [{"last": 3, "far": 4}, {"last": -2, "far": -1}, {"fill": 0.5}])
def test_a_frame_at_some_sizes_only_stays(change: dict[str, Any]) -> None:
    """Row 3 is the last row for an image of two rows, but an inner row for others.

    The witness: as a frame, the nodes would compute other values.
    """
    model = framed(**change)
    folded, _ = fold(model, Policy.CHEAPEST)
    assert ops(folded).count("Conv") == 2
    whole, _ = fold(framed(), Policy.CHEAPEST)
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 3)).astype(np.float32)
    (expected,), (wrong,) = compute(model, {"x": x}), compute(whole, {"x": x})
    assert np.abs(expected - wrong).max() > 1e-3
    (actual,) = compute(folded, {"x": x})
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


def test_frames_are_found_with_their_constants() -> None:
    """A frame has its padding per side and its constants per channel."""
    model = ir.serde.deserialize_model(framed())
    (frame,) = find_frames(model.graph, Facts(model))
    assert frame.pads == (1, 0, 1, 0)
    assert model.graph.initializers["b"].const_value is not None
    np.testing.assert_allclose(frame.fill, model.graph.initializers["b"].const_value.numpy())
