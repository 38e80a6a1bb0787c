"""No pass keeps a file of weights open, or sees into it when it is done."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import onnx_expand
from onnx_expand.errors import UnsupportedError
from onnx_expand.passes import Expand, Fold, Policy
from onnx_expand.runtimes import Reference

_TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
g (TYPE[N,4,8,8] x) => (TYPE[N,4,8,8] y) {
    v = Transpose <perm = [1, 0, 2, 3]> (u)
    i = Reshape(v, shape)
    a = Conv(x, i)
    n = BatchNormalization(a, s, b, m, w)
    c = Add(n, t)
    o = Reshape(c, whole)
    r = Relu(o)
    p = Pad(r, pads)
    d = Conv(p, k)
    e = Relu(d)
    y = Conv(e, k)
}
"""
_SHAPES = {
    **dict.fromkeys("sbmw", (4,)),
    **{"u": (4, 4, 1, 1), "t": (4, 1, 1), "k": (4, 4, 1, 1)},
}
TYPES = {"float": np.float32, "double": np.float64, "float16": np.float16}
PASSES: dict[str, Callable[[ir.Model], Any]] = {
    "fold": lambda model: Fold()(model),
    "fold always": lambda model: Fold(Policy.ALWAYS)(model),
    "fold once more": lambda model: (Fold(Policy.ALWAYS)(model), Fold()(model)),
    "expand": lambda model: Expand(strategy="cl", include=".", rate=1)(model),
    "expand preserving": lambda model: Expand(strategy="cl", include=".", rate=1, init="preserve")(
        model
    ),
    "expand and fold": lambda model: (
        Expand(strategy="cl", include=".", rate=1)(model),
        Fold()(model),
    ),
    "contract": lambda model: Expand(strategy="cl", include=".", rate=1, init="contracted")(model),
    "inspect": onnx_expand.inspect,
    "check": lambda model: onnx_expand.check(model, model),
    "fold as a function": onnx_expand.fold,
    "expand as a function": lambda model: onnx_expand.expand(model, include=".", rate=1),
}


def saved(path: Path, kind: str) -> ir.Model:
    """A model all of whose weights lie in a second file, loaded."""
    proto = onnx.parser.parse_model(_TEXT.replace("TYPE", kind))
    rng = np.random.default_rng(0)
    arrays = {n: rng.uniform(0.5, 1, s).astype(TYPES[kind]) for n, s in _SHAPES.items()}
    for name, array in arrays.items():
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    # onnxruntime wants shapes in the model; what is no raw data stays there.
    for name, numbers in {"shape": [4, 4, 1, 1], "whole": [-1, 4, 8, 8], "pads": [0] * 8}.items():
        tensor = onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [len(numbers)], numbers)
        proto.graph.initializer.append(tensor)
    for node in proto.graph.node:
        node.name = f"n_{node.output[0]}"
    onnx.save(
        proto, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0
    )
    return ir.load(path)


@pytest.fixture
def _without_collector() -> Iterator[None]:
    """What lies in cycles stays, as it may for any time."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def outside(model: ir.Model) -> list[ir.ExternalTensor]:
    """The weights that lie in files."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return [tensor for tensor in tensors if isinstance(tensor, ir.ExternalTensor)]


def computed(model: ir.Model) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What a model makes of an image."""
    x = np.random.default_rng(1).standard_normal((2, 4, 8, 8))
    return Reference().session(model.clone(), "model").run({"x": x})["y"]


@pytest.mark.usefixtures("_without_collector")
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", PASSES)
def test_the_file_of_the_weights_can_be_written_again(
    name: str, kind: str, tmp_path: Path
) -> None:
    """Over itself, as onnx-ir does it; the result is the one in memory."""
    path = tmp_path / "net.onnx"
    model = saved(path, kind)
    tensors = outside(model)
    assert len(tensors) == 7
    with contextlib.suppress(UnsupportedError):  # onnxruntime has no Conv of float64
        PASSES[name](model)
    assert all(tensor.raw is None for tensor in tensors)
    expected = computed(model)
    ir.save(model, path, external_data=f"{path.name}.data", size_threshold_bytes=0)
    np.testing.assert_array_equal(computed(ir.load(path)), expected)


@pytest.mark.usefixtures("_without_collector")
@pytest.mark.parametrize("kind", TYPES)
def test_new_weights_outlive_the_file(kind: str, tmp_path: Path) -> None:
    """What was merged is there when the old weights are cut off or gone."""
    path = tmp_path / "net.onnx"
    model = saved(path, kind)
    Fold(Policy.ALWAYS)(model)
    old = path.with_name(f"{path.name}.data")
    new = [
        value.const_value
        for value in model.graph.initializers.values()
        if value.const_value is not None and getattr(value.const_value, "path", None) != str(old)
    ]
    assert new
    before = [np.array(tensor.numpy()) for tensor in new]
    old.write_bytes(b"")
    old.unlink()
    for tensor, array in zip(new, before, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_what_is_open_stays_open(tmp_path: Path) -> None:
    """A file that its owner looks into is left as it was found."""
    model = saved(tmp_path / "net.onnx", "float")
    tensors = {tensor.name: tensor for tensor in outside(model)}
    mine = tensors["u"].numpy()
    onnx_expand.inspect(model)
    Fold()(model)
    assert tensors["u"].raw is not None
    assert tensors["u"].numpy() is mine
