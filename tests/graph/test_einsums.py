"""What is known of the result of an Einsum is what it computes, also where it broadcasts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from onnx_expand.graph.facts import Facts

EQUATIONS = (
    "c,abc->abc",
    "abc,c->abc",
    "bqd,bkd->bqk",
    "ab,ab->ab",
    "ab,ac,bc->c",
    "...c,c->...c",
)


def _model(equation: str, shapes: Sequence[Sequence[int | str]]) -> onnx.ModelProto:
    names = [f"x{i}" for i in range(len(shapes))]
    inputs = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in zip(names, shapes, strict=True)
    ]
    node = helper.make_node("Einsum", names, ["y"], equation=equation)
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
    graph = helper.make_graph([node], "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("equation", EQUATIONS)
def test_known_extents_are_those_of_the_result(equation: str) -> None:
    """Whichever operands have an extent of 1, and whichever extents are symbols."""
    ort = pytest.importorskip("onnxruntime")
    terms = equation.split("->")[0].replace("...", "zy").split(",")
    letters = sorted(set("".join(terms)))
    sizes = {letter: 2 + i for i, letter in enumerate(letters)}
    places = [(i, letter) for i, term in enumerate(terms) for letter in term]
    rng, complete = np.random.default_rng(0), 0
    for _ in range(60):
        single = {place for place in places if rng.random() < 0.3}
        symbols = {place for place in places if rng.random() < 0.2}
        shape = {p: 1 if p in single else sizes[p[1]] for p in places}
        given = [[shape[i, letter] for letter in term] for i, term in enumerate(terms)]
        stated = [
            [f"s{i}{letter}" if (i, letter) in symbols else shape[i, letter] for letter in term]
            for i, term in enumerate(terms)
        ]
        session = ort.InferenceSession(
            _model(equation, given).SerializeToString(), providers=["CPUExecutionProvider"]
        )
        feeds = {f"x{i}": np.ones(own, np.float32) for i, own in enumerate(given)}
        found = session.run(None, feeds)[0].shape
        model = ir.serde.deserialize_model(_model(equation, stated))
        known = Facts(model).shape(model.graph.outputs[0])
        for own, size in zip(known or (), found, strict=False):
            assert own in {None, size}, (equation, stated)
        complete += known == found
    assert complete > 10
