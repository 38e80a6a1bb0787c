"""Weights in Constant nodes, weights that are not trained, and recurrent layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

pytest.importorskip("torch")

import torch

from onnx_expand.errors import UsageError
from onnx_expand.train import to_torch, write_back
from tests.support.graphs_text import graph, weights


def held() -> onnx.ModelProto:
    """Build two layers, the first one's weight in a Constant node, and a scalar there too."""
    model = graph(
        """
        g (float[N,3] x) => (float[N,2] y) {
            a = MatMul(x, v)
            h = Mul(a, half)
            y = Gemm(h, w, b)
        }
        """,
        weights(v=(3, 4), w=(4, 2), b=(2,)) | {"half": np.full((), 0.5, np.float32)},
    )
    for name in ("v", "half"):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        node = onnx.helper.make_node("Constant", [], [name], value=tensor)
        model.graph.initializer.remove(tensor)
        model.graph.node.insert(0, node)
    onnx.checker.check_model(model, full_check=True)
    return model


def test_weights_in_constant_nodes_are_trained_and_written_back() -> None:
    """They are parameters named after the node's output; other values do not change."""
    model = held()
    module = to_torch(model)
    assert {name for name, _ in module.named_parameters()} == {"v", "w", "b"}
    module(torch.randn(5, 3)).square().sum().backward()
    with torch.no_grad():
        for parameter in module.parameters():
            assert parameter.grad is not None
            parameter.sub_(parameter.grad, alpha=0.1)
    trained = write_back(module, model)
    values = {
        node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
        for node in trained.graph.node
        if node.op_type == "Constant"
    }
    np.testing.assert_array_equal(values["v"], module.get_parameter("v").detach().numpy())
    assert values["half"] == 0.5
    assert [n.output[0] for n in trained.graph.node] == [n.output[0] for n in model.graph.node]
    x = torch.randn(2, 3)
    torch.testing.assert_close(to_torch(trained)(x), module(x))


@pytest.mark.parametrize("form", ["value", "value_floats", "value_float"])
def test_every_form_of_a_constant_is_written_back(form: str) -> None:
    """Trained lists and scalars are written back in place."""
    numbers: dict[str, Any] = {
        "value": helper.make_tensor("c", 1, [2], [1.0, 2.0]),
        "value_floats": [1.0, 2.0],
        "value_float": 3.0,
    }
    model = graph(
        "g (float[N,2] x) => (float[N,2] y) { h = MatMul(x, w) y = Add(h, c) }",
        weights(w=(2, 2), c=(2,)),
    )
    model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == "c"))
    node = helper.make_node("Constant", [], ["c"], **{form: numbers[form]})
    model.graph.node.insert(0, node)
    onnx.checker.check_model(model, full_check=True)
    module = to_torch(model)
    module(torch.randn(5, 2)).square().sum().backward()
    with torch.no_grad():
        for parameter in module.parameters():
            assert parameter.grad is not None
            parameter.sub_(parameter.grad, alpha=0.1)
    assert ("c" in dict(module.named_parameters())) == (form != "value_float")
    x = torch.randn(3, 2)
    torch.testing.assert_close(to_torch(write_back(module, model))(x), module(x))


def test_constants_of_functions_are_not_trained() -> None:
    """The calls of a function share its body, so that none may change it."""
    model = onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[N,2] x) => (float[N,2] y) { h = own.f(x) y = own.f(h) }
        <domain: "own", opset_import: ["" : 17]>
        f (a) => (b) { c = Constant<value_floats = [0.5, 2.0]>() b = Mul(a, c) }
        """
    )
    module = to_torch(model)
    assert dict(module.named_parameters()) == {}
    x = torch.randn(3, 2)
    torch.testing.assert_close(to_torch(write_back(module, model))(x), module(x))


def test_an_untrained_module_changes_nothing() -> None:
    """Written back without training, the model is equal byte for byte."""
    model = ir.serde.deserialize_model(held())
    proto = ir.serde.serialize_model(model)
    assert write_back(to_torch(proto), proto).SerializeToString() == proto.SerializeToString()


def test_names_can_be_frozen() -> None:
    """Matching weights do not change, and the others are trained."""
    module = to_torch(held(), freeze="^(v|b)$")
    assert {name for name, _ in module.named_parameters()} == {"w"}
    assert set(module.state_dict()) >= {"w", "b"}
    with pytest.raises(UsageError, match="regular expression"):
        to_torch(held(), freeze="(")


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_recurrent_layers_have_correct_gradients(op: str) -> None:
    """Gradients equal finite differences, in float64, for both directions."""
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
    model = graph(
        f"""
        g (float[4,2,3] x) => (float[4,2,2,2] y) {{
            y = {op} <hidden_size: int = 2, direction: string = "bidirectional"> (x, w, r, b)
        }}
        """,
        weights(w=(2, 2 * gates, 3), r=(2, 2 * gates, 2), b=(2, 4 * gates)),
    )
    module = to_torch(model).double()
    assert len(list(module.parameters())) == 3
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in module.named_parameters()]

    def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.func.functional_call(
            module, dict(zip(names, values, strict=True)), (x,)
        )
        return result

    values = [p.detach().clone().requires_grad_() for p in module.parameters()]
    assert torch.autograd.gradcheck(run, (x, *values))


def test_indirect_settings_are_not_weights() -> None:
    """Scales that reach a Resize through a Concat, and compared values, are not trained."""
    model = graph(
        """
        g (float[N,2,4,4] x) => (float[N,2,8,8] y) {
            s = Concat<axis=0>(ones, twos)
            r = Resize<mode="nearest">(x, , s)
            c = Greater(r, bound)
            z = Mul(r, factor)
            y = Where(c, z, r)
        }
        """,
        {
            "ones": np.ones(2, np.float32),
            "twos": np.full(2, 2, np.float32),
            "bound": np.zeros((1, 2, 1, 1), np.float32),
            "factor": np.ones((1, 2, 1, 1), np.float32),
        },
    )
    module = to_torch(model)
    assert [name for name, _ in module.named_parameters()] == ["factor"]


def test_the_exporters_record_decides() -> None:
    """A buffer is not trained although it multiplies; a parameter of one element is."""
    model = graph(
        "g (float[N,3] x) => (float[N,3] y) "
        "{ a = Mul(x, buffer) b = Mul(a, weight) y = Mul(b, t) }",
        {
            "buffer": np.ones(3, np.float32),
            "weight": np.ones(3, np.float32),
            "t": np.ones((), np.float32),
        },
    )
    assert {n for n, _ in to_torch(model).named_parameters()} == {"buffer", "weight"}
    for name, kind in (("buffer", "BUFFER"), ("weight", "PARAMETER"), ("t", "PARAMETER")):
        tensor = next(t for t in model.graph.initializer if t.name == name)
        info = helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
        key = "pkg.torch.export.graph_signature.InputSpec.kind"
        info.metadata_props.add(key=key, value=kind)
        model.graph.value_info.append(info)
    assert {n for n, _ in to_torch(model).named_parameters()} == {"weight", "t"}
