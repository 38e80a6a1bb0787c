"""Whatever the model, with everything that files hold: folded it computes the same, and runs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

pytest.importorskip("onnxruntime")

from tests.support.fuzz import WRAPPED, try_one
from tests.support.judge import Source, judge
from tests.support.random_models import KINDS, random_model, sizes_of
from tests.support.shrink import shrink
from tests.support.wrapped_nodes import count, wrapped


@pytest.mark.parametrize("kind", KINDS)
def test_random_models_fold(kind: str) -> None:
    """A sample of what `make fuzz` runs: every policy, expansion, borders, inlining."""
    findings = [try_one(seed, kind) for seed in range(1, 7)]
    assert [vars(f) for f in findings if f.problems] == []
    assert sum(f.runs for f in findings) >= 5


def test_node_tests_between_linear_neighbours_fold() -> None:
    """Every operator, as ONNX tests it, computes the same once its neighbours are folded."""
    findings = [try_one(seed, WRAPPED) for seed in range(1, count(), 29)]
    assert [vars(f) for f in findings if f.problems] == []
    assert sum(f.runs for f in findings) >= 25


def test_random_models_hold_everything() -> None:
    """The generator makes what the judge is to be asked about, and the same each time."""
    models = [random_model(seed, kind) for seed in range(60) for kind in KINDS]
    twin = random_model(5, "control")
    assert twin.SerializeToString() == random_model(5, "control").SerializeToString()
    ops = {n.op_type for m in models for n in m.graph.node}
    ops |= {n.op_type for m in models for f in m.functions for n in f.node}
    expected = (
        "Conv ConvTranspose Gemm MatMul Einsum BatchNormalization AveragePool Split Pad If Loop"
    )
    assert set(expected.split()) <= ops
    assert {m.opset_import[0].version for m in models} >= {7, 9, 11, 13, 17, 22}
    assert any(m.functions for m in models)
    gemms = [n for m in models for n in m.graph.node if n.op_type == "Gemm"]
    held = [{t.name for t in m.graph.initializer} for m in models]
    assert any(n.input[0] in set().union(*held) for n in gemms)


def test_wrapped_nodes_hold_everything() -> None:
    """Node tests get every neighbour, at several opsets, and the same each time."""
    found = [model for model in map(wrapped, range(1, count(), 5)) if model is not None]
    models = [model for model, _ in found]
    assert {m.opset_import[0].version for m in models} >= {9, 11, 13, 17, 20}
    ops = {n.op_type for m in models for n in m.graph.node}
    assert {"Mul", "Div", "Add", "MatMul", "Conv", "BatchNormalization"} <= ops
    assert len(ops) > 100
    dims = [d for m in models for v in m.graph.input for d in v.type.tensor_type.shape.dim]
    assert {bool(d.dim_param) for d in dims} == {True, False}
    again = wrapped(1)
    assert again is not None
    assert again[0].SerializeToString() == models[0].SerializeToString()


def _changed(model: onnx.ModelProto, by: float) -> onnx.ModelProto:
    """The model with one number of one weight off."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    tensor = max(other.graph.initializer, key=lambda t: int(np.prod(t.dims)))
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[0] += by
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return other


TEXT = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3,H,W] x) => (float[N,2,H,W] y) {
  v = Relu(x) a = Conv(v, w) b = Add(a, s) y = Sigmoid(b)
}"""


def small() -> onnx.ModelProto:
    """A model with something to change."""
    model: onnx.ModelProto = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for name, shape in (("w", (2, 3, 1, 1)), ("s", (2, 1, 1))):
        array = rng.standard_normal(shape, dtype=np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def test_the_judge_sees_one_number_that_is_off() -> None:
    """One weight off by a ten-thousandth is seen, one off by a rounding is not."""
    model = small()
    source = Source(model, sizes_of(model))
    assert judge(source, model) == []
    assert judge(source, _changed(model, 1e-7)) == []
    assert any("off" in problem for problem in judge(source, _changed(model, 1e-4)))


def test_the_judge_sees_other_interfaces() -> None:
    """Other outputs, frozen extents and models that do not load are problems."""
    model = small()
    source = Source(model, sizes_of(model))
    frozen = onnx.ModelProto.FromString(model.SerializeToString())
    frozen.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 8
    assert any("inputs changed" in problem for problem in judge(source, frozen))
    broken = onnx.ModelProto.FromString(model.SerializeToString())
    broken.graph.node[1].op_type = "Convolution"
    assert any("does not load" in problem for problem in judge(source, broken))


def test_failures_are_made_small() -> None:
    """What has nothing to do with a failure is taken out of the model."""
    model = shrink(small(), lambda m: any(n.op_type == "Conv" for n in m.graph.node))
    assert [n.op_type for n in model.graph.node] == ["Conv"]
    assert {t.name for t in model.graph.initializer} == {"w"}
