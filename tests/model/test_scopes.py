"""Names with two meanings are refused, where runtimes really differ in which one they take."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

import onnx_expand
from onnx_expand.errors import ModelError, UnsupportedError
from tests.support.graphs_text import weights

ort = pytest.importorskip("onnxruntime")

Array = npt.NDArray[np.float32]

_IF = """
g (float[N,3,8,8] x, bool c) => (float[N,2,8,8] y) {
    y = If(c) <
        then_branch = t () => (float[N,2,8,8] p) { a = Conv(x, w) p = Conv(a, v) },
        else_branch = e () => (float[N,2,8,8] q) { b = Conv(x, w) q = Conv(b, v) }
    >
}
"""
_WEIGHTS = weights(w=(4, 3, 1, 1), v=(2, 4, 1, 1))
_X = {"x": weights(5, x=(2, 3, 8, 8))["x"], "c": np.array(True)}


def _model(inner: Array | None) -> onnx.ModelProto:
    """The If, with `v` also as an initializer of its first branch."""
    model: onnx.ModelProto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 17]>' + _IF
    )
    for name, array in _WEIGHTS.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    if inner is not None:
        branch = next(a.g for a in model.graph.node[0].attribute if a.name == "then_branch")
        branch.initializer.append(numpy_helper.from_array(inner, "v"))
    return model


def _run(model: onnx.ModelProto, *, optimized: bool = False) -> Array:
    options = ort.SessionOptions()
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options)
    given = {i.name: _X[i.name] for i in session.get_inputs()}
    (y,) = session.run(None, given)
    return np.asarray(y)


def test_an_initializer_that_hides_another_is_refused() -> None:
    """The runtime reads one of them with its optimizations and the other without."""
    model = _model(-_WEIGHTS["v"])
    assert np.allclose(_run(model, optimized=True), -_run(model, optimized=False))
    assert np.abs(_run(model)).max() > 0.01
    with pytest.raises(ModelError, match="initializer 'v' of the subgraph 't' hides another"):
        onnx_expand.fold(model)


def test_an_initializer_that_repeats_an_outer_one_is_united_with_it() -> None:
    """With equal numbers both readings agree: the model folds, and computes the same."""
    model = _model(_WEIGHTS["v"])
    folded = onnx_expand.fold(model, verify=True)
    assert np.allclose(_run(folded), _run(model), atol=1e-5)
    branches = [attribute.g for attribute in folded.graph.node[0].attribute]
    assert [len(branch.node) for branch in branches] == [1, 1]


_CALL = """
g (float[N,3,8,8] x) => (float[N,2,8,8] y) { h = OWN.Relu(x) a = Conv(h, w) y = Conv(a, v) }
<domain: "OWN", opset_import: ["" : 17]>
Relu (x) => (y) { y = Neg(x) }
"""


@pytest.mark.parametrize(
    ("domain", "name", "is_refused"),
    [
        ("", "Relu", True),
        ("ai.onnx", "Relu", True),
        ("com.microsoft", "Gelu", True),
        ("own", "Relu", False),
    ],
)
def test_functions_with_the_name_of_an_operator_are_refused(
    domain: str, name: str, is_refused: bool
) -> None:
    """A runtime that knows the operator runs it; fold would inline the body of the function."""
    model: onnx.ModelProto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 17, "OWN" : 1]>' + _CALL
    )
    for key, array in _WEIGHTS.items():
        model.graph.initializer.append(numpy_helper.from_array(array, key))
    call, function = model.graph.node[0], model.functions[0]
    call.domain = function.domain = domain
    call.op_type = function.name = name
    del model.opset_import[1:]
    if domain not in {"", "ai.onnx"}:
        model.opset_import.add(domain=domain, version=1)
    if is_refused:
        with pytest.raises(UnsupportedError, match=f"its function '{name}' has the name of an op"):
            onnx_expand.fold(model)
    else:
        folded = onnx_expand.fold(model, verify=True)
        assert np.allclose(_run(folded), _run(model), atol=1e-5)


def test_onnxruntime_runs_its_operator_instead() -> None:
    """The witness: the call of a function Relu that negates computes a Relu."""
    model: onnx.ModelProto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 17]>'
        "g (float[N] x) => (float[N] y) { y = Relu(x) }"
        '<domain: "", opset_import: ["" : 17]> Relu (x) => (y) { y = Neg(x) }'
    )
    x = np.array([-1, 2], np.float32)
    (y,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    assert y.tolist() == [0, 2]
