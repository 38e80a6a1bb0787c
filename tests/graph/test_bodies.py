"""What constants around a body determine is known in it as it is outside."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_expand.graph.facts import Facts

# By op the numbers that it reads, and its attributes.
NODES: dict[str, tuple[list[int], dict[str, Any]]] = {
    "Split": ([1, 5], {"axis": 1}),
    "Pad": ([0, 1, 2, 0, 0, 0], {}),
    "Expand": ([2, 6, 4], {}),
    "Reshape": ([0, 3, -1], {}),
    "Tile": ([1, 2, 1], {}),
    "Unsqueeze": ([1, 3], {}),
    "ReduceMean": ([1], {"keepdims": 0}),
    "ReduceSum": ([2], {"keepdims": 1}),
}


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("op", NODES)
def test_a_body_knows_the_extents_that_constants_around_it_determine(
    op: str, stored: bool
) -> None:
    numbers, attributes = NODES[op]
    array = numpy_helper.from_array(np.array(numbers, np.int64), "numbers")
    names = ["y", "rest"][: 1 + (op == "Split")]
    node = helper.make_node(op, ["x", "numbers"], names, **attributes)
    outputs = [onnx.ValueInfoProto(name="y")]
    outputs[0].type.tensor_type.elem_type = TensorProto.FLOAT
    body = helper.make_graph([node], "body", [], outputs)
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "other", [], outputs)
    other.output[0].name = "z"
    branch = helper.make_node("If", ["flag"], ["w"], then_branch=body, else_branch=other)
    constants = [] if stored else [helper.make_node("Constant", [], ["numbers"], value=array)]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6, 4]),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
    ]
    outputs = [helper.make_tensor_value_info("w", TensorProto.FLOAT, None)]
    held = [array] if stored else []
    opsets = [helper.make_opsetid("", 18)]
    inside = helper.make_model(
        helper.make_graph([*constants, branch], "g", inputs, outputs, held), opset_imports=opsets
    )
    outside = helper.make_model(
        helper.make_graph([*constants, node], "g", inputs, body.output, held), opset_imports=opsets
    )
    shapes = []
    for model in map(ir.serde.deserialize_model, (inside, outside)):
        facts = Facts(model)
        values = [v for graph in model.graphs() for n in graph for v in n.outputs]
        shapes.append(next(facts.shape(value) for value in values if value.name == "y"))
    assert shapes[0] == shapes[1]
    assert shapes[1] is not None
    assert None not in shapes[1]
