"""Trained weights are written into the model, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

import onnx_ir as ir  # noqa: E402

from onnx_expand.errors import UnsupportedError, UsageError  # noqa: E402
from onnx_expand.train import to_torch, write_back  # noqa: E402
from tests.support.classifiers import classifier  # noqa: E402
from tests.support.torch_graphs import images, parse, reference, with_weights  # noqa: E402


def test_an_untrained_module_gives_the_model_byte_for_byte() -> None:
    """Without training, write_back is the identity, metadata included."""
    model = classifier()
    onnx.helper.set_model_props(model, {"origin": "here"})
    onnx.helper.set_metadata_props(model.graph.node[0], {"unit": "1"})
    model.graph.initializer[0].doc_string = "a stem"
    before = model.SerializeToString()
    assert write_back(to_torch(model), model).SerializeToString() == before
    assert model.SerializeToString() == before


def test_the_written_model_computes_the_trained_function() -> None:
    """After a step, the written model equals the module; the source does not change."""
    model = classifier()
    before = model.SerializeToString()
    module = to_torch(model).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(torch.randn(8, 3, 5, 5)).square().mean().backward()
    optimizer.step()
    module.eval()
    trained = write_back(module, model)
    x = images(2, 3, 5, 5)
    (result,) = reference(trained, x)
    wanted = module(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-6)
    assert model.SerializeToString() == before
    changed = {
        old.name
        for old, new in zip(model.graph.initializer, trained.graph.initializer, strict=True)
        if old.SerializeToString() != new.SerializeToString()
    }
    assert "features.1.running_mean" in changed
    assert "limit" not in changed
    assert list(trained.graph.node) == list(model.graph.node)


def test_a_replaced_initializer_keeps_its_metadata() -> None:
    """Doc string and metadata of a tensor remain."""
    model = classifier()
    model.graph.initializer[0].doc_string = "a stem"
    module = to_torch(model)
    with torch.no_grad():
        module.get_parameter("features.0.weight").add_(1)
    tensor = write_back(module, model).graph.initializer[0]
    assert (tensor.name, tensor.doc_string) == ("features.0.weight", "a stem")


@pytest.mark.parametrize("name", ["float16", "bfloat16", "double"])
def test_the_element_type_stays(name: str) -> None:
    """Parameters have the model's element type, and are converted back from any other."""
    model = parse("y = MatMul(x, w)", f"({name}[n, 2] x) => ({name}[n, 2] y)")
    dtype: Any = ir.DataType[name.upper()]
    weight = ir.Tensor(images(2, 2).astype(dtype.numpy()), name="w")
    model.graph.initializer.append(ir.serde.serialize_tensor(weight))
    module = to_torch(model)
    assert str(next(module.parameters()).dtype) == f"torch.{name.replace('double', 'float64')}"
    with torch.no_grad():
        module.float().get_parameter("w").mul_(2)
    (tensor,) = write_back(module, model).graph.initializer
    assert tensor.data_type == dtype
    values = ir.serde.deserialize_tensor(tensor).numpy()
    np.testing.assert_array_equal(values, weight.numpy() * 2)


def test_a_value_that_the_element_type_cannot_hold_is_refused() -> None:
    """A float16 weight beyond the largest value is an error, not infinity."""
    model = parse("y = MatMul(x, w)", "(float16[n, 1] x) => (float16[n, 1] y)")
    model = with_weights(model, w=np.ones((1, 1), np.float16))
    module = to_torch(model).float()
    with torch.no_grad():
        module.get_parameter("w").fill_(1e6)
    with pytest.raises(UnsupportedError, match="'w' overflows"):
        write_back(module, model)


def test_a_module_of_another_model_is_refused() -> None:
    """A missing tensor and another shape are named."""
    module = to_torch(
        parse("y = Add(x, w)", "(float[2] x) => (float[2] y)", "float[2] w = {1, 2}")
    )
    other = parse("y = Add(x, v)", "(float[2] x) => (float[2] y)", "float[2] v = {1, 2}")
    with pytest.raises(UnsupportedError, match="no tensor for the initializer 'v'"):
        write_back(module, other)
    larger = parse("y = Add(x, w)", "(float[3] x) => (float[3] y)", "float[3] w = {1, 2, 3}")
    with pytest.raises(UnsupportedError, match=r"'w' has shape \[3\] in the model and \[2\]"):
        write_back(module, larger)


def test_any_module_with_these_names_is_accepted() -> None:
    """A hand-written module whose state_dict has the initializers' names is written back."""
    model = parse("y = MatMul(x, weight)", "(float[n, 2] x) => (float[n, 2] y)")
    model = with_weights(model, weight=images(2, 2))
    layer = torch.nn.Linear(2, 2)
    (tensor,) = write_back(layer, model).graph.initializer
    np.testing.assert_array_equal(
        onnx.numpy_helper.to_array(tensor), layer.weight.detach().numpy()
    )


def test_every_kind_of_model_comes_back_as_it_came(tmp_path: Path) -> None:
    """A path gives the path of a new file, an onnx-ir model a new model."""
    model = classifier()
    module = to_torch(model)
    with torch.no_grad():
        module.get_parameter("head.weight").zero_()
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    assert write_back(module, path) == tmp_path / "net.trained.onnx"
    assert write_back(module, str(path), tmp_path / "out.onnx") == str(tmp_path / "out.onnx")
    assert not to_torch(tmp_path / "out.onnx").get_parameter("head.weight").any()
    assert to_torch(path).get_parameter("head.weight").any()
    source = ir.serde.deserialize_model(model)
    result = write_back(module, source)
    assert isinstance(result, ir.Model)
    assert result is not source
    with pytest.raises(UsageError, match="output"):
        write_back(module, model, tmp_path / "out.onnx")
