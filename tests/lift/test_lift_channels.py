"""Nodes that repeat or move channels lift to maps that compute the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_expand.errors import Reason, Refusal
from tests.support.graphs_text import graph
from tests.support.lifting import acts_as_its_node, lifted, normal, one_node

FAR = (1 << 63) - 1
ONE, THREE = (2, 1, 5, 4), (2, 3, 5, 4)


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (3, 1, 1), (1, 3, 5, 4), (2, 3, 1, 1), (3, 1, 4)])
def test_expand(shape: tuple[int, ...]) -> None:
    """An Expand of one axis of extent 1 is a column of ones, for any form of its shape."""
    x = normal(*ONE)
    text = "g (double[2,1,5,4] x) => (double[2,3,5,4] y) { y = Expand(x, s) }"
    linear = acts_as_its_node(graph(text, {"s": np.array(shape)}), x)
    assert linear.axes == (1, 1)


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("count", [2, 3])
def test_tile(axis: int, count: int) -> None:
    """A Tile of one axis repeats its channels in their order."""
    x = normal(*THREE)
    repeats = [count if i == axis else 1 for i in range(4)]
    linear = acts_as_its_node(one_node("y = Tile(x, r)", x, r=np.array(repeats)), x)
    assert linear.axes == (axis, axis)


@pytest.mark.parametrize(
    "text",
    [*(f"y = {op}(x, c)" for op in ("Add", "Sub", "Mul", "Div"))]
    + [f"y = {op}(c, x)" for op in ("Add", "Sub", "Mul")],
)
@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 3, 1, 1), (4,)])
def test_constants_that_broadcast(text: str, shape: tuple[int, ...]) -> None:
    """A constant per channel expands an axis of extent 1."""
    x = normal(2, 1, 5, 1)
    model = one_node(text, x, c=normal(*shape))
    linear = acts_as_its_node(model, x)
    assert (linear.geometry.in_channels, linear.geometry.out_channels) == (1, max(shape))


def test_a_sum_that_broadcasts() -> None:
    """The constants of a Sum may expand an axis of extent 1."""
    x = normal(*ONE)
    acts_as_its_node(one_node("y = Sum(a, x, b)", x, a=normal(3, 1, 1), b=normal(1)), x)


@pytest.mark.parametrize("block", [1, 2, 3])
def test_space_to_depth(block: int) -> None:
    """Blocks of positions become channels."""
    x = normal(2, 3, 6, 12)
    acts_as_its_node(one_node(f"y = SpaceToDepth<blocksize={block}>(x)", x), x)


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 28, reason="onnx has no modes of it")
@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_space_to_depth_in_either_order(mode: str) -> None:
    """From opset 28 on, the mode decides whether blocks or channels come first."""
    x = normal(2, 3, 4, 6)
    text = f'y = SpaceToDepth<blocksize=2, mode="{mode}">(x)'
    acts_as_its_node(one_node(text, x, 28), x)


@pytest.mark.parametrize("cut", [(0, FAR, 2), (1, FAR, 2), (2, FAR, 3), (1, -1, 2), (0, 6, 4)])
@pytest.mark.parametrize("size", ["8", "9", "H"])
def test_strided_slices(cut: tuple[int, int, int], size: str) -> None:
    """Slices of every second or third row, with static and dynamic extents."""
    if size == "H" and cut[1] == 6:
        return  # the result depends on the extent
    constants = dict(zip(("s", "e", "t"), (np.array([v]) for v in cut), strict=True))
    text = f"g (double[N,2,{size},5] x) => (double[N,2,P,5] y) {{ y = Slice(x, s, e, a, t) }}"
    model = graph(text, constants | {"a": np.array([2])})
    for rows in (7, 8, 9, 10) if size == "H" else (int(size),):
        acts_as_its_node(model, normal(2, 2, rows, 5))


REFUSED = {
    "steps backwards": (
        "g (double[2,1,5,4] x) => (double[A,B,C,D] y) { y = Slice(x, s, e, a, s) }",
        {"s": np.array([-1]), "e": np.array([-9]), "a": np.array([2])},
        Reason.UNSUPPORTED,
    ),
    "steps up to a row of unknown number": (
        "g (double[2,1,H,4] x) => (double[A,B,C,D] y) { y = Slice(x, s, e, s, t) }",
        {"s": np.array([2]), "e": np.array([6]), "t": np.array([2])},
        Reason.UNSUPPORTED,
    ),
    "Expand along two axes": (
        "g (double[2,1,1,4] x) => (double[2,3,5,4] y) { y = Expand(x, s) }",
        {"s": np.array([3, 5, 1])},
        Reason.UNSUPPORTED,
    ),
    "Expand to more axes": (
        "g (double[1,4] x) => (double[3,1,4] y) { y = Expand(x, s) }",
        {"s": np.array([3, 1, 4])},
        Reason.UNSUPPORTED,
    ),
    "Expand of what may be more than one": (
        "g (double[N,C,5,4] x) => (double[N,3,5,4] y) { y = Expand(x, s) }",
        {"s": np.array([1, 3, 1, 1])},
        Reason.UNKNOWN_SHAPE,
    ),
    "Expand to a shape that is given": (
        "g (double[2,1,5,4] x, int64[4] s) => (double[A,B,C,D] y) { y = Expand(x, s) }",
        {},
        Reason.DYNAMIC,
    ),
    "Tile of two axes": (
        "g (double[2,1,5,4] x) => (double[2,3,10,4] y) { y = Tile(x, s) }",
        {"s": np.array([1, 3, 2, 1])},
        Reason.UNSUPPORTED,
    ),
    "Tile of nothing": (
        "g (double[2,1,5,4] x) => (double[2,0,5,4] y) { y = Tile(x, s) }",
        {"s": np.array([1, 0, 1, 1])},
        Reason.UNSUPPORTED,
    ),
    "Tile of an unknown extent": (
        "g (double[2,C,5,4] x) => (double[2,D,5,4] y) { y = Tile(x, s) }",
        {"s": np.array([1, 2, 1, 1])},
        Reason.UNKNOWN_SHAPE,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name: str) -> None:
    """Other or possibly other repetitions are refused with the reason."""
    text, constants, reason = REFUSED[name]
    refusal = lifted(graph(text, constants))
    assert isinstance(refusal, Refusal), refusal
    assert refusal.reason is reason
    assert refusal.message
