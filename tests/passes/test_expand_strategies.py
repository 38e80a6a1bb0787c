"""The laws of every strategy, which a new strategy inherits."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import onnx_expand
from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Reason, Refusal
from onnx_expand.factorize import (
    STRATEGIES,
    Average,
    Filled,
    Layer,
    Norm,
    Options,
    Start,
    Unit,
    as_affine,
    factorize,
    preserve,
    random_init,
    random_unit,
)
from tests.support.graphs import Array, compute, retrained
from tests.support.likeness import unlike_only_in_weights
from tests.support.strategies import layers, rounding, sample_input, with_numbers

RATES = st.sampled_from([0.25, 0.5, 1, 1.5, 2, 4])
EVERY = pytest.mark.parametrize("name", STRATEGIES)


@st.composite
def settings_of_units(draw: st.DrawFn) -> Options:
    """Draw any options of a unit."""
    return Options(
        draw(RATES),
        draw(st.booleans()),
        draw(st.sampled_from([2, 3])),
        draw(st.booleans()),
        draw(st.sampled_from([1, 2, 4])),
        draw(st.sampled_from([1, 2])),
    )


@EVERY
@settings(max_examples=60, deadline=None)
@given(layer=layers(), options=settings_of_units())
def test_a_unit_has_the_geometry_of_its_layer(
    name: str, layer: Geometry, options: Options
) -> None:
    """A unit has exactly the layer's geometry; only normalization adds a bias."""
    unit = factorize(layer, (name,), options)
    if isinstance(unit, Refusal):
        assert unit.reason is Reason.STRATEGY
        assert unit.message
        return
    steps = [step for branch in unit.branches for step in branch]
    normed = any(isinstance(step, Norm) for step in steps)
    assert unit.composed() == replace(layer, bias=layer.bias or normed)
    assert unit.strategy == name
    assert len(steps) + len(unit.branches) > 2
    # Every node can be written: no convolution crops its input.
    assert all(min(step.geometry.pads, default=0) >= 0 for step in steps)
    if len(unit.branches) > 1:
        main = unit.branches[0][0]
        assert replace(main.geometry, bias=layer.bias) == layer


@EVERY
@settings(max_examples=25, deadline=None)
@given(layer=layers(), options=settings_of_units(), seed=st.integers(0, 2**32 - 1))
def test_a_unit_acts_as_its_composition(
    name: str, layer: Geometry, options: Options, seed: int
) -> None:
    """Steps and branches compute the same as the composed map, at borders too."""
    unit = factorize(layer, (name,), options)
    if isinstance(unit, Refusal):
        return
    target = with_numbers(layer, seed)
    filled = random_unit(unit, target, np.random.default_rng(seed))
    x = sample_input(layer, seed, layer.rank, 16)
    y = functools.reduce(np.add, (_branch(parts, x) for parts in filled.parts))
    maps = [as_affine(part) for parts in filled.parts for part in parts]
    tolerance = rounding(*maps, filled.affine) * len(filled.parts)
    np.testing.assert_allclose(filled.affine(x), y, rtol=0, atol=tolerance)


def _branch(parts: Any, x: Array) -> Array:
    return functools.reduce(lambda value, part: as_affine(part)(value), parts, x)


@EVERY
@settings(max_examples=25, deadline=None)
@given(layer=layers(), options=settings_of_units(), seed=st.integers(0, 2**32 - 1))
def test_preserved_units_compute_the_layer(
    name: str, layer: Geometry, options: Options, seed: int
) -> None:
    """A preserved unit computes the layer up to rounding, or is refused with its residual."""
    unit = factorize(layer, (name,), options)
    if isinstance(unit, Refusal):
        return
    target = with_numbers(layer, seed)
    rng = np.random.default_rng(seed)
    filled = preserve(unit, target, rng, lambda array: array)
    if isinstance(filled, Refusal):
        assert filled.reason is Reason.STRATEGY
        assert filled.numbers["residual"] > 1e-14
        # If every inner width suffices, CL and FC are exact.
        if name in {"cl", "fc"}:
            assert not _is_wide(unit, layer)
        return
    assert filled.residual is not None
    assert filled.condition is not None
    assert filled.condition >= 1
    _assert_equal(filled.affine, target, 1e-11)
    _assert_alive(filled)


def _is_wide(unit: Unit, layer: Geometry) -> bool:
    inner = unit.widths[1:-1]
    behind = len(inner) == 1 or inner[-1] >= layer.out_channels
    return inner[0] >= layer.in_channels and behind


def _assert_equal(found: AffineConv, wanted: AffineConv, rtol: float) -> None:
    whole = found.embedded(replace(wanted.geometry, bias=found.geometry.bias))
    scale = np.max(np.abs(wanted.weight))
    np.testing.assert_allclose(whole.weight, wanted.weight, rtol=0, atol=rtol * scale)
    none = np.zeros(len(whole.weight))
    own, bias = (none if f.bias is None else f.bias for f in (whole, wanted))
    np.testing.assert_allclose(own, bias, rtol=0, atol=rtol * max(1, np.max(np.abs(bias))))


def _assert_alive(filled: Filled) -> None:
    """Assert that no inner channel has only zeros as incoming or outgoing weights."""
    for branch, parts in zip(filled.unit.branches, filled.parts, strict=True):
        for step, part in zip(branch, parts, strict=True):
            if isinstance(step, Layer) and step.start is Start.RANDOM:
                weight = as_affine(part).weight
                assert np.all(np.any(weight.reshape(len(weight), -1) != 0, axis=1))
                inputs = np.abs(weight).reshape(step.geometry.group, -1, *weight.shape[1:])
                axes = (1, *range(3, inputs.ndim))
                assert np.all(inputs.max(axis=axes) > 0)


def test_random_starts_are_the_frameworks() -> None:
    """Weights are uniform within 1 / sqrt(fan-in), normalizations the identity, averages even."""
    layer = Geometry(64, 64, (3, 3), pads=(1,) * 4)
    unit = factorize(layer, ("dbb",), Options(norm=True))
    assert isinstance(unit, Unit)
    filled = random_unit(unit, with_numbers(layer, 0), np.random.default_rng(0))
    for branch, parts in zip(unit.branches, filled.parts, strict=True):
        for step, part in zip(branch, parts, strict=True):
            affine = as_affine(part)
            if isinstance(step, Layer):
                bound = 1 / math.sqrt(math.prod(step.geometry.weight_shape[1:]))
                assert np.max(np.abs(affine.weight)) <= bound
                assert np.std(affine.weight) == pytest.approx(bound / math.sqrt(3), rel=0.05)
            elif isinstance(step, Average):
                assert set(affine.weight.ravel()) == {1 / 9}
            else:
                np.testing.assert_allclose(affine.weight, 1, rtol=1e-5)
                assert not np.any(affine.bias)


def test_a_transposed_layer_starts_as_in_pytorch() -> None:
    """The fan-in of a transposed convolution is that of torch: outputs times taps."""
    layer = Geometry(64, 16, (3, 3), strides=(2, 2), transposed=True)
    weight = random_init(layer, np.random.default_rng(0)).weight
    bound = 1 / math.sqrt(16 * 9)
    assert 0.98 * bound < np.max(np.abs(weight)) <= bound


# -- On graphs -------------------------------------------------------------------------------


def single(op: str, weight: Array, extents: tuple[int | str, ...], **attributes: Any) -> Any:
    """Build a model of one layer between two activations."""
    channels = weight.shape[0 if op == "ConvTranspose" else 1]
    outputs = weight.shape[1 if op == "ConvTranspose" else 0]
    if op == "Conv":
        channels *= attributes.get("group", 1)
    elif op == "ConvTranspose":
        outputs *= attributes.get("group", 1)
    rng = np.random.default_rng(3)
    constants = {"w": weight, "b": np.asarray(rng.standard_normal(outputs), weight.dtype)}
    kind = helper.np_dtype_to_tensor_dtype(weight.dtype)
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "before"),
        helper.make_node(op, ["a", "w", "b"], ["c"], "layer", **attributes),
        helper.make_node("Relu", ["c"], ["y"], "after"),
    ]
    made = helper.make_graph(
        nodes,
        "single",
        [helper.make_tensor_value_info("x", kind, ["N", channels, *extents])],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.producer_version = "1"
    return onnx.shape_inference.infer_shapes(model)


def _weight(*shape: int, dtype: Any = np.float32) -> Array:
    scale = math.sqrt(math.prod(shape[1:]))
    numbers = np.asarray(np.random.default_rng(1).standard_normal(shape) / scale)
    return numbers.astype(dtype)


CASES: dict[str, Any] = {
    "1-D": lambda: single("Conv", _weight(6, 4, 5), (19,), pads=[2, 2]),
    "2-D": lambda: single("Conv", _weight(6, 6, 3, 3), (12, 11), pads=[1] * 4),
    "3-D": lambda: single("Conv", _weight(4, 3, 3, 3, 3), (7, 6, 8), pads=[1] * 6),
    "dilated": lambda: single(
        "Conv", _weight(6, 6, 5, 5), (19, 18), pads=[4] * 4, dilations=[2, 2]
    ),
    "strided": lambda: single("Conv", _weight(8, 4, 3, 3), (12, 11), pads=[1] * 4, strides=[2, 2]),
    "asymmetric": lambda: single("Conv", _weight(8, 4, 4, 4), (12, 11), pads=[1, 0, 2, 3]),
    "7x1": lambda: single("Conv", _weight(8, 4, 7, 1), (12, 11), pads=[3, 0, 3, 0]),
    "grouped": lambda: single("Conv", _weight(8, 2, 3, 3), (12, 11), pads=[1] * 4, group=2),
    "depthwise": lambda: single("Conv", _weight(6, 1, 5, 5), (12, 11), pads=[2] * 4, group=6),
    "same": lambda: single("Conv", _weight(8, 4, 3, 3), ("H", "W"), auto_pad="SAME_UPPER"),
    "same strided": lambda: single(
        "Conv", _weight(8, 4, 3, 3), (12, 11), auto_pad="SAME_LOWER", strides=[2, 2]
    ),
    "unpadded": lambda: single("Conv", _weight(8, 4, 5, 5), ("H", "W")),
    "transposed": lambda: single(
        "ConvTranspose", _weight(4, 6, 3, 3), (6, 7), strides=[2, 2], pads=[1] * 4
    ),
    "transposed grouped": lambda: single(
        "ConvTranspose",
        _weight(4, 3, 2, 2),
        (6, 7),
        strides=[2, 2],
        group=2,
        output_padding=[1, 0],
    ),
    "gemm": lambda: single("Gemm", _weight(16, 12), (), transB=1, alpha=0.5, beta=2.0),
}
SHAPES = {"same": (12, 11), "unpadded": (12, 11)}
LONG = "ck+cl+fc"


def _feeds(model: onnx.ModelProto, case: str) -> dict[str, Array]:
    value = model.graph.input[0].type.tensor_type
    dims = [d.dim_value for d in value.shape.dim]
    shape = (2, dims[1], *SHAPES.get(case, tuple(dims[2:])))
    dtype = helper.tensor_dtype_to_np_dtype(value.elem_type)
    return {"x": np.random.default_rng(5).standard_normal(shape).astype(dtype)}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("norm", ["none", "bn"])
@EVERY
def test_fold_restores_expanded_layers(name: str, norm: str, case: str) -> None:
    """Folding restores the graph, and after training an equal model."""
    model = CASES[case]()
    expanded = onnx_expand.expand(model, strategy=name, norm=norm, rate=2, rank=2)
    onnx.checker.check_model(expanded, full_check=True)
    assert unlike_only_in_weights(onnx_expand.fold(expanded), model)
    if len(expanded.graph.node) == 3:
        return  # the strategy does not apply, which its own tests cover
    trained = retrained(expanded, 2)
    folded = onnx_expand.fold(trained)
    assert [n.op_type for n in folded.graph.node] == [n.op_type for n in model.graph.node]
    pytest.importorskip("onnxruntime")
    feeds = _feeds(model, case)
    (before,), (after,) = compute(trained, feeds), compute(folded, feeds)
    assert np.max(np.abs(before)) > 0
    scale = np.max(np.abs(before))
    np.testing.assert_allclose(after, before, rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("norm", ["none", "bn"])
@EVERY
def test_weights_that_begin_equal_learn_apart(name: str, norm: str, case: str) -> None:
    """Each constant of a unit has one consumer, so that training changes it alone."""
    expanded = onnx_expand.expand(CASES[case](), strategy=name, norm=norm, rate=2, rank=2)
    constants = {t.name for t in expanded.graph.initializer}
    read = [name for node in expanded.graph.node for name in node.input if name in constants]
    assert len(read) == len(set(read))


@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", [LONG, "dbb+lowrank", "mobileone+lowrank"])
def test_a_preserved_model_is_equal(name: str, case: str, dtype: Any) -> None:
    """With trained weights, the expanded model passes the tool's own check, in both types."""
    pytest.importorskip("onnxruntime")
    model = CASES[case]()
    if dtype is np.float16:
        model = _halved(model)
    options: dict[str, Any] = {"init": "preserve", "rate": 4, "first_width": "expand", "rank": 2}
    expanded = onnx_expand.expand(model, strategy=name, **options)
    if name == LONG:
        assert len(expanded.graph.node) > 3
    assert onnx_expand.check(model, expanded, samples=1, providers=["cpu"])
    folded = onnx_expand.fold(expanded)
    assert unlike_only_in_weights(folded, model)
    assert onnx_expand.check(model, folded, samples=1, providers=["cpu"])


def _halved(model: onnx.ModelProto) -> onnx.ModelProto:
    half = onnx.TensorProto.FLOAT16
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        value.type.tensor_type.elem_type = half
    onnx.checker.check_model(model, full_check=True)
    return model
