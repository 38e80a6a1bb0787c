"""Law: the order of channels goes past what is alike in all of them, into a layer that mixes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnx_expand
from onnx_expand.errors import Reason
from tests.support.graphs_text import fold, graph, ops, weights
from tests.support.numbers import assert_same

_C = 8
_SHUFFLE = "s1 = Reshape({0}, cut) s2 = Transpose<perm=[0,2,1,3,4]>(s1) {1} = Reshape(s2, whole)"
_ORDERS = {
    "shuffle": _SHUFFLE,
    "gather": "{1} = Gather<axis=1>({0}, order)",
    "parts": "p1, p2 = Split<axis=1>({0}, halves) {1} = Concat<axis=1>(p2, p1)",
    "reversed": "{1} = Slice({0}, last, least, one, back)",
}
_NUMBERS = {
    "order": np.array([3, 0, 7, 1, 2, 6, 4, 5]),
    "halves": np.array([4, 4]),
    "last": np.array([-1]),
    "least": np.array([-(2**31)]),
    "one": np.array([1]),
    "back": np.array([-1]),
    "cut": np.array([-1, 2, 4, 9, 7]),
    "whole": np.array([-1, _C, 9, 7]),
}
_BETWEEN = {
    "Relu": "{1} = Relu({0})",
    "LeakyRelu": "{1} = LeakyRelu<alpha=0.2>({0})",
    "Mul": "{1} = Mul({0}, k)",
    "Add": "{1} = Add({0}, j)",
    "depthwise": "{1} = Conv<group=8, pads=[1,1,1,1]>({0}, d, db)",
    "MaxPool": "{1} = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>({0})",
    "AveragePool": "{1} = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>({0})",
    "Clip": "{1} = Clip({0}, low, high)",
    "Sigmoid": "{1} = Sigmoid({0})",
    "HardSwish": "{1} = HardSwish({0})",
}
_MOVING = {"Gather", "Split", "Concat", "Transpose", "Reshape", "Slice"}


def _model(order: str, between: list[str], *, before: bool, group: int = 1) -> onnx.ModelProto:
    """A layer, what lies between and a permutation; or the other way round."""
    steps = [_ORDERS[order], *(_BETWEEN[b] for b in between)]
    layer = f"{{1}} = Conv<group={group}, kernel_shape=[1,1]>({{0}}, w)"
    chain = [layer, *steps[1:], steps[0], "{1} = Sigmoid({0})"]
    if not before:
        chain = ["{1} = Sigmoid({0})", *steps, layer]
    names = ["x", *(f"t{i}" for i in range(len(chain) - 1)), "y"]
    text = " ".join(s.format(a, b) for s, a, b in zip(chain, names, names[1:], strict=False))
    constants = weights(w=(_C, _C // group, 1, 1), d=(_C, 1, 3, 3), db=(_C,)) | _NUMBERS
    constants |= weights(1, k=(_C, 1, 1), j=(_C, 1, 1))
    constants |= {"low": np.float32(-0.5), "high": np.float32(1)}
    used = {word.strip("(),") for word in text.replace("(", " ").split()}
    kept = {name: array for name, array in constants.items() if name in used}
    return graph(f"g (float[N,{_C},9,7] x) => (float[A,B,C,D] y) {{ {text} }}", kept)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(_ORDERS)),
    st.lists(st.sampled_from(sorted(_BETWEEN)), min_size=1, max_size=3),
    st.booleans(),
)
def test_an_order_goes_into_a_layer(order: str, between: list[str], before: bool) -> None:
    """However it is spelled, whatever lies between and on whichever side: nothing permutes."""
    model = _model(order, between, before=before)
    folded, report = fold(model)
    assert_same(model, folded, 0)
    assert not _MOVING & set(ops(folded)), (ops(folded), report.kept)
    assert fold(folded)[0] == folded
    before_, after = onnx_expand.inspect(model), onnx_expand.inspect(folded)
    assert before_.macs is not None
    assert after.macs is not None
    assert after.macs <= before_.macs


@pytest.mark.parametrize("before", [False, True])
def test_an_order_across_groups_stays(before: bool) -> None:
    """The witness: a grouped layer that mixes other channels is none of these groups."""
    model = _model("gather", ["Relu"], before=before, group=2)
    folded, report = fold(model)
    assert "Gather" in ops(folded)
    assert any(kept.refusal.reason is Reason.COST for kept in report.kept)
    assert_same(model, folded, 0)
    # In the order of another weight with as many groups the numbers would be others.
    kernel = next(t for t in model.graph.initializer if t.name == "w")
    array = onnx.numpy_helper.to_array(kernel)[_NUMBERS["order"]]
    other = _model("gather", ["Relu"], before=before, group=2)
    del other.graph.node[:]
    other.graph.node.extend(n for n in model.graph.node if n.op_type != "Gather")
    gather = next(n for n in model.graph.node if n.op_type == "Gather")
    for node in other.graph.node:
        node.input[:] = [gather.input[0] if i == gather.output[0] else i for i in node.input]
    next(t for t in other.graph.initializer if t.name == "w").CopyFrom(
        onnx.numpy_helper.from_array(array, "w")
    )
    assert not onnx_expand.check(model, other, samples=1)


@pytest.mark.parametrize("before", [False, True])
def test_an_order_within_groups_goes_into_a_grouped_layer(before: bool) -> None:
    """Where no channel changes its group, a grouped layer takes the order in."""
    model = _model("gather", ["Relu"], before=before, group=2)
    order = onnx.numpy_helper.from_array(np.array([2, 1, 3, 0, 7, 4, 5, 6]), "order")
    next(t for t in model.graph.initializer if t.name == "order").CopyFrom(order)
    folded, _ = fold(model)
    assert "Gather" not in ops(folded)
    assert_same(model, folded, 0)


@pytest.mark.parametrize("reader", ["z = Relu(r)", "z = Identity(r)"])
def test_what_something_else_reads_keeps_its_order(reader: str) -> None:
    """An activation that another node reads, too, computes its channels in their order."""
    model = graph(
        "g (float[N,8,9,7] x) => (float[A,B,C,D] y, float[E,F,G,H] z) "
        "{ s = Sigmoid(x) g = Gather<axis=1>(s, order) r = Relu(g) "
        f"y = Conv(r, w) {reader} }}",
        weights(w=(4, 8, 1, 1)) | {"order": _NUMBERS["order"]},
    )
    folded, _ = fold(model)
    assert "Gather" in ops(folded)
    assert_same(model, folded, 0)


def test_free_height_and_width() -> None:
    """A shuffle whose extents are computed from those of the image is one all the same."""
    model = graph(
        "g (float[N,8,H,W] x) => (float[A,B,C,D] y) "
        "{ s = Sigmoid(x) shape = Shape(s) n = Slice(shape, q0, q1) hw = Slice(shape, q2, q4) "
        "cut = Concat<axis=0>(n, groups, hw) a = Reshape(s, cut) "
        "b = Transpose<perm=[0,2,1,3,4]>(a) c = Reshape(b, shape) r = Relu(c) y = Conv(r, w) }",
        weights(w=(4, 8, 3, 3))
        | {f"q{i}": np.array([i]) for i in (0, 1, 2, 4)}
        | {"groups": np.array([4, 2])},
    )
    folded, _ = fold(model)
    assert ops(folded) == ["Sigmoid", "Relu", "Conv"]
    verdict = onnx_expand.check(model, folded, samples=1)
    assert verdict, verdict.differences
