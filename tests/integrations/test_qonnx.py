"""QONNX: fold as a transformation; annotations stay true."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnx_expand

pytest.importorskip("onnxruntime")
pytest.importorskip("qonnx")


def quantized() -> onnx.ModelProto:
    """Quant, then a convolution with integer weights, and a scale; then a plain convolution."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.integers(-3, 4, (3, 2, 3, 3)),
        "s": np.array([0.3, 0.5, 0.7]).reshape(3, 1, 1),
        "v": rng.normal(size=(4, 3, 1, 1)),
        "t": rng.normal(size=(4, 1, 1)),
        "step": np.array(0.1),
        "zero": np.array(0.0),
        "bits": np.array(4.0),
    }
    h = onnx.helper
    nodes = [
        h.make_node("Quant", ["x", "step", "zero", "bits"], ["q"], "quant",
                    domain="qonnx.custom_op.general", signed=1, narrow=0, rounding_mode="ROUND"),
        h.make_node("Conv", ["q", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
        h.make_node("Mul", ["c", "s"], ["m"], "scale"),
        h.make_node("Relu", ["m"], ["r"], "relu"),
        h.make_node("Conv", ["r", "v"], ["d"], "pointwise"),
        h.make_node("Add", ["d", "t"], ["y"], "shift"),
    ]  # fmt: skip
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", 1, [1, 2, 8, 8])],
        [h.make_tensor_value_info("y", 1, [1, 4, 8, 8])],
        [onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()],
    )
    graph.value_info.append(h.make_tensor_value_info("q", 1, [1, 2, 8, 8]))
    opsets = [h.make_opsetid("", 13), h.make_opsetid("qonnx.custom_op.general", 1)]
    return h.make_model(graph, opset_imports=opsets, ir_version=8)


def test_a_transformation_folds_and_annotations_stay_true() -> None:
    """Nodes of QONNX stay, values are as before, and no weight is annotated as what it is not."""
    from qonnx.core.datatype import DataType
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    from onnx_expand.integrations.qonnx import FoldLinear

    wrapper = ModelWrapper(quantized())
    wrapper.set_tensor_datatype("w", DataType["INT3"])
    wrapper.set_tensor_datatype("x", DataType["FLOAT32"])
    wrapper.set_tensor_datatype("q", DataType["SCALEDINT<4>"])
    folded = wrapper.transform(FoldLinear(policy="cheapest"))
    assert [node.op_type for node in folded.graph.node] == ["Quant", "Conv", "Relu", "Conv"]
    assert folded.get_tensor_datatype("q") == DataType["SCALEDINT<4>"]
    for value in folded.graph.initializer:
        datatype = folded.get_tensor_datatype(value.name)
        assert np.all(datatype.allowed(onnx.numpy_helper.to_array(value)))
    image = {"x": np.random.default_rng(1).normal(size=(1, 2, 8, 8)).astype(np.float32)}
    inferred = [m.transform(InferShapes()) for m in (wrapper, folded)]
    before, after = (execute_onnx(m, image)["y"] for m in inferred)
    np.testing.assert_allclose(before, after, atol=1e-5)


def test_options_are_those_of_fold() -> None:
    """A wrong option is a usage error."""
    from qonnx.core.modelwrapper import ModelWrapper

    from onnx_expand.integrations.qonnx import FoldLinear

    with pytest.raises(onnx_expand.UsageError, match="policy 'best'"):
        ModelWrapper(quantized()).transform(FoldLinear(policy="best"))
