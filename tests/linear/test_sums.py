"""Law: a scale of one term of a sum goes behind it where the others take in its inverse."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.graphs_text import fold, graph, ops, weights
from tests.support.numbers import assert_same

_TERMS = {
    "scaled": "{1} = Mul({0}, k)",
    "scaled alike": "{1} = Mul({0}, c)",
    "shifted": "h{1} = Mul({0}, k) {1} = Add(h{1}, j)",
    "divided": "{1} = Div({0}, c)",
    "layer": "{1} = Conv({0}, w)",
    "positive": "h{1} = Conv({0}, w) {1} = Relu(h{1})",
    "plain": "{1} = Sigmoid({0})",
}
_READERS = {
    "layer": "r = Relu(s) y = Conv(r, v)",
    "padded": "r = Relu(s) y = Conv<pads=[1,1,1,1]>(r, v)",
    "straight": "y = Conv<pads=[1,1,1,1]>(s, v)",
    "pooled": "y = GlobalAveragePool(s)",
    "no layer": "y = Tanh(s)",
}


def _model(terms: list[str], op: str, reader: str, opset: int = 17) -> onnx.ModelProto:
    """A sum of terms of an image, each behind a function of its own, and what reads it."""
    heads = ("Sigmoid", "Tanh", "Softplus")
    text = "".join(
        f"i{n} = {heads[n]}(x) {_TERMS[term].format(f'i{n}', f't{n}')} "
        for n, term in enumerate(terms)
    )
    text += f"s = {op}({', '.join(f't{n}' for n in range(len(terms)))}) {_READERS[reader]}"
    constants = weights(w=(4, 4, 1, 1), v=(3, 4, 3, 3), j=(4, 1, 1)) | {
        "k": np.array([0.5, 2, -1.5, 0.75], np.float32).reshape(4, 1, 1),
        "c": np.array(0.3, np.float32),
    }
    used = {word.strip("(),") for word in text.replace("(", " ").split()}
    kept = {name: array for name, array in constants.items() if name in used}
    model = f"g (float[N,4,7,6] x) => (float[A,B,C,D] y) {{ {text} }}"
    return graph(model, kept, opset=opset)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(_TERMS)), min_size=2, max_size=3),
    st.sampled_from(["Add", "Sub", "Sum", "Mean"]),
    st.sampled_from(sorted(_READERS)),
    st.sampled_from([11, 13, 17, 21]),
)
def test_scales_at_a_sum_change_no_number(
    terms: list[str], op: str, reader: str, opset: int
) -> None:
    """Whatever is added and whatever reads it: the numbers stay, and no node more is there."""
    model = _model(terms[:2] if op in {"Add", "Sub"} else terms, op, reader, opset)
    folded, _ = fold(model)
    assert_same(model, folded, 0)
    assert len(folded.graph.node) <= len(model.graph.node)
    assert fold(folded)[0] == folded


@pytest.mark.parametrize("op", ["Add", "Sub", "Sum", "Mean"])
@pytest.mark.parametrize("scale", ["scaled", "scaled alike", "divided"])
@pytest.mark.parametrize("other", ["scaled", "scaled alike", "divided", "layer"])
def test_a_scale_goes_into_the_layer_behind(op: str, scale: str, other: str) -> None:
    """Where all terms are layers or scaled, no scale is left of the first one."""
    model = _model([scale, other], op, "straight")
    folded, _ = fold(model)
    assert sum(n in {"Mul", "Div"} for n in ops(folded)) < sum(
        n in {"Mul", "Div"} for n in ops(model)
    )
    assert_same(model, folded, 0)


@pytest.mark.parametrize("other", ["plain", "positive"])
def test_a_scale_stays_where_another_term_takes_none(other: str) -> None:
    """An activation takes in no scale, or none that is negative: as a node it would cost more."""
    model = _model(["scaled", other], "Add", "straight")
    folded, report = fold(model)
    assert "Mul" in ops(folded)
    assert any("t0" in kept.nodes for kept in report.kept)
    # The witness: without the scale beside it the sum would be another one.
    wrong = _model(["scaled", other], "Add", "straight")
    kernel = next(t for t in wrong.graph.initializer if t.name == "v")
    scale = np.array([0.5, 2, -1.5, 0.75], np.float32).reshape(1, 4, 1, 1)
    array = onnx.numpy_helper.to_array(kernel) * scale
    kernel.CopyFrom(onnx.numpy_helper.from_array(array, "v"))
    multiply = next(n for n in wrong.graph.node if n.op_type == "Mul")
    multiply.op_type = "Identity"
    del multiply.input[1:]
    with pytest.raises(AssertionError):
        assert_same(model, wrong, 0)
