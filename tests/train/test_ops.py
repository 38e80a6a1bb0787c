"""Translations of operators equal onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from onnx_expand.train.registry import find, registered  # noqa: E402
from tests.support.torch_graphs import assert_same, images, parse, with_weights  # noqa: E402

UNARY = [
    "Abs",
    "Acos",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Ceil",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Mish",
    "Neg",
    "Relu",
    "Round",
    "Selu",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
    "Celu",
    "Shrink",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "LogSoftmax",
    "Softmax",
]

# Op and attributes, operator set, shape of x.
CASES = [
    ("y = Softmax<axis=1>(x)", 11, (2, 3, 4)),
    ("y = LogSoftmax<axis=1>(x)", 11, (2, 3, 4)),
    ("y = Softmax<axis=1>(x)", 17, (2, 3, 4)),
    ("y = Gelu(x)", 20, (2, 3)),
    ('y = Gelu<approximate="tanh">(x)', 20, (2, 3)),
    ("y = Clip<min=-0.5, max=0.5>(x)", 6, (2, 3)),
    ("lo = Constant<value=float {-0.5}>() y = Clip(x, lo)", 17, (2, 3)),
    ("y = Add(x, x)", 17, (2, 3)),
    ("y = Sub(x, x)", 17, (2, 3)),
    ("s = Sum(x, x, x) y = Mean(s, x)", 17, (2, 3)),
    ("n = Neg(x) a = Max(x, n) b = Min(x, n) y = Div(a, b)", 17, (2, 3)),
    ("two = Constant<value=float {2.0}>() y = Pow(x, two)", 17, (2, 3)),
    ("a = Abs(x) s = Sqrt(a) l = Log(a) r = Reciprocal(a) y = Sum(s, l, r)", 17, (2, 3)),
    ("n = Neg(x) g = Greater(x, n) y = Where(g, x, n)", 17, (2, 3)),
    ("y = LRN<size=3>(x)", 17, (2, 5, 4, 4)),
    ("y = MaxPool<kernel_shape=[3], strides=[2], pads=[1, 0]>(x)", 17, (2, 3, 8)),
    ("y = MaxPool<kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]>(x)", 17, (2, 3, 8, 7)),
    ("y = MaxPool<kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1>(x)", 17, (2, 3, 7, 8)),
    ("y = MaxPool<kernel_shape=[2, 2], dilations=[2, 2]>(x)", 17, (2, 3, 7, 8)),
    ('y = MaxPool<kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER">(x)', 17,
     (2, 3, 7, 8)),
    ("y = MaxPool<kernel_shape=[2, 2, 2]>(x)", 17, (2, 3, 4, 4, 4)),
    ("y = AveragePool<kernel_shape=[3], strides=[2]>(x)", 17, (2, 3, 9)),
    ("y = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(x)", 17, (2, 3, 6, 6)),
    ("y = AveragePool<kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1>(x)", 17,
     (2, 3, 6, 6)),
    ("y = AveragePool<kernel_shape=[3, 3], pads=[0, 1, 1, 0], strides=[2, 2]>(x)", 17,
     (2, 3, 6, 7)),
    ("y = AveragePool<kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1>(x)", 19, (2, 3, 5, 7)),
    ("y = Flatten<axis=2>(x)", 17, (2, 3, 4, 5)),
    ("y = Flatten<axis=0>(x)", 17, (2, 3)),
    ("y = Transpose(x)", 17, (2, 3, 4)),
    ("y = Transpose<perm=[1, 2, 0]>(x)", 17, (2, 3, 4)),
    ("s = Constant<value_ints=[0, -1]>() y = Reshape(x, s)", 17, (2, 3, 4)),
    ("y = Squeeze<axes=[1]>(x)", 11, (2, 1, 4)),
    ("a = Constant<value_ints=[-2]>() y = Squeeze(x, a)", 17, (2, 1, 4)),
    ("y = Unsqueeze<axes=[0, 3]>(x)", 11, (2, 4)),
    ("a = Constant<value_ints=[-1, 1]>() y = Unsqueeze(x, a)", 17, (2, 4)),
    ("n = Neg(x) y = Concat<axis=-1>(x, n)", 17, (2, 4)),
    ("a, b = Split<axis=1>(x) y = Sub(a, b)", 11, (2, 4)),
    ("s = Constant<value_ints=[1, 3]>() a, y = Split<axis=1>(x, s)", 17, (2, 4)),
    ("a, y = Split<axis=1, num_outputs=2>(x)", 18, (2, 5)),
    ("y = Slice<axes=[1], starts=[1], ends=[-1]>(x)", 9, (2, 5)),
    ("s = Constant<value_ints=[-1, 0]>() e = Constant<value_ints=[-10, 9]>()"
     "a = Constant<value_ints=[1, 0]>() t = Constant<value_ints=[-2, 1]>()"
     "y = Slice(x, s, e, a, t)", 17, (2, 5)),
    ("i = Constant<value_ints=[2, -1]>() y = Gather<axis=1>(x, i)", 17, (2, 5)),
    ("i = Constant<value_int=1>() y = Gather<axis=1>(x, i)", 17, (2, 5)),
    ("s = Constant<value_ints=[3, 1, 5]>() y = Expand(x, s)", 17, (2, 5)),
    ("s = Constant<value_ints=[2, 3]>() y = Tile(x, s)", 17, (2, 5)),
    ("p = Constant<value_ints=[0, 1, 0, 2]>() y = Pad(x, p)", 17, (2, 5)),
    ("p = Constant<value_ints=[1, -1, 0, 2]>() v = Constant<value=float {3.0}>()"
     "y = Pad(x, p, v)", 17, (2, 5)),
    ('p = Constant<value_ints=[0, 1, 0, 2]>() y = Pad<mode="reflect">(x, p)', 17, (2, 5)),
    ('p = Constant<value_ints=[0, 1, 0, 2]>() y = Pad<mode="edge">(x, p)', 17, (2, 5)),
    ("y = DepthToSpace<blocksize=2>(x)", 17, (2, 8, 3, 3)),
    ('y = DepthToSpace<blocksize=2, mode="CRD">(x)', 17, (2, 8, 3, 3)),
    ("y = SpaceToDepth<blocksize=2>(x)", 17, (2, 2, 4, 6)),
    ("y = ArgMax<axis=1, keepdims=0>(x)", 17, (2, 5)),
    ("y = Cast<to=6>(x)", 17, (2, 5)),
    ("y = Shape(x)", 17, (2, 5)),
    ("y = Dropout(x)", 17, (2, 5)),
    ('y = Einsum<equation="bij,bkj->bik">(x, x)', 17, (2, 3, 4)),
    ("s = Shape(x) y = ConstantOfShape<value=float[1] {2.5}>(s)", 17, (2, 5)),
]  # fmt: skip

REDUCTIONS = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]

RESIZES = [
    'mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"',
    'mode="nearest"',
    'mode="linear"',
    'mode="linear", coordinate_transformation_mode="align_corners"',
    'mode="linear", coordinate_transformation_mode="pytorch_half_pixel"',
    'mode="cubic"',
    'mode="cubic", cubic_coeff_a=-0.5, coordinate_transformation_mode="asymmetric"',
]


def _element(body: str) -> str:
    if "ArgMax" in body or body == "y = Shape(x)":
        return "int64"
    return "int32" if "to=6" in body else "float"


def _free(shape: tuple[int, ...]) -> str:
    return ", ".join(f"d{axis}" for axis in range(len(shape)))


@pytest.mark.parametrize("name", UNARY)
def test_activations_match_onnxruntime(name: str) -> None:
    """Each operator of one tensor computes what onnxruntime computes."""
    opset = 18 if name == "Mish" else 17
    model = parse(f"y = {name}(x)", "(float[n, 3, 4] x) => (float[n, a, b] y)", opset=opset)
    assert_same(model, np.clip(images(2, 3, 4) / 3, -0.9, 0.9))


@pytest.mark.parametrize(("body", "opset", "shape"), CASES)
def test_nodes_match_onnxruntime(body: str, opset: int, shape: tuple[int, ...]) -> None:
    """Attributes, and inputs that replace them in later opsets, are obeyed."""
    model = parse(body, f"(float[{_free(shape)}] x) => ({_element(body)}[] y)", opset=opset)
    assert_same(model, images(*shape))


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions_match_onnxruntime(name: str, keepdims: int) -> None:
    """Axes are an attribute or an input; without them all axes are reduced."""
    signature = "(float[n, c, w] x) => (float[] y)"
    x = np.abs(images(2, 3, 4)) + 0.1
    old = parse(f"y = Reduce{name}<axes=[1, -1], keepdims={keepdims}>(x)", signature, opset=11)
    assert_same(old, x)
    body = f"a = Constant<value_ints=[-2]>() y = Reduce{name}<keepdims={keepdims}>(x, a)"
    assert_same(parse(body, signature, opset=18), x)
    assert_same(parse(f"y = Reduce{name}<keepdims={keepdims}>(x)", signature, opset=18), x)


@pytest.mark.parametrize("attributes", RESIZES)
@pytest.mark.parametrize("scale", [2.0, 0.5, 1.6])
def test_resize_matches_onnxruntime(attributes: str, scale: float) -> None:
    """All modes agree for enlarging, shrinking and fractional factors."""
    body = f"s = Constant<value_floats=[1.0, 1.0, {scale}, {scale}]>() y = Resize<{attributes}>"
    model = parse(body + "(x, , s)", "(float[n, c, h, w] x) => (float[n, c, a, b] y)")
    assert_same(model, images(1, 2, 5, 5))


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_conv_matches_onnxruntime(data: Any) -> None:
    """Any kernel, stride, dilation, group, padding and automatic padding in 1 to 3 dimensions."""
    rank = data.draw(st.integers(1, 3))

    def sizes(low: int, high: int, count: int = rank) -> list[int]:
        drawn: list[int] = data.draw(
            st.lists(st.integers(low, high), min_size=count, max_size=count)
        )
        return drawn

    kernel, strides, dilations = sizes(1, 3), sizes(1, 2), sizes(1, 2)
    group = data.draw(st.sampled_from([1, 2]))
    auto = data.draw(st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if auto.startswith("SAME"):
        dilations = [1] * rank  # onnxruntime refuses the combination
    pads = f"pads={sizes(0, 2, 2 * rank)}" if auto == "NOTSET" else f'auto_pad="{auto}"'
    body = f"y = Conv<strides={strides}, dilations={dilations}, group={group}, {pads}>(x, w, b)"
    dims = ", ".join("hwd"[:rank])
    model = parse(
        body,
        f"(float[n, 4, {dims}] x, float[6, {4 // group}, {str(kernel)[1:-1]}] w, float[6] b)"
        " => (float[] y)",
    )
    weights = images(6, 4 // group, *kernel, seed=1)
    assert_same(model, images(2, 4, *sizes(5, 8)), weights, images(6, seed=2))


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_conv_transpose_matches_onnxruntime(data: Any) -> None:
    """Strides, dilations, groups, asymmetric padding and output padding are obeyed."""
    kernel = data.draw(st.integers(1, 3))
    stride = data.draw(st.integers(1, 3))
    dilation = data.draw(st.integers(1, 2))
    group = data.draw(st.sampled_from([1, 2]))
    pads = data.draw(st.lists(st.integers(0, 1), min_size=4, max_size=4))
    extra = data.draw(st.integers(0, stride - 1))
    model = parse(
        f"y = ConvTranspose<strides=[{stride}, {stride}], dilations=[{dilation}, {dilation}],"
        f"group={group}, pads={pads}, output_padding=[{extra}, {extra}]>(x, w, b)",
        f"(float[n, 4, h, v] x, float[4, 3, {kernel}, {kernel}] w, float[{3 * group}] b)"
        " => (float[] y)",
    )
    weights = images(4, 3, kernel, kernel, seed=1)
    assert_same(model, images(2, 4, 4, 5), weights, images(3 * group, seed=2))


@given(
    flip_a=st.booleans(),
    flip_b=st.booleans(),
    alpha=st.sampled_from([1.0, 0.5, -2.0]),
    beta=st.sampled_from([0.0, 1.0, 0.25]),
    c=st.sampled_from([None, (5,), (1, 5), (3, 1), (3, 5), (1,)]),
)
@settings(max_examples=60, deadline=None)
def test_gemm_matches_onnxruntime(
    flip_a: bool, flip_b: bool, alpha: float, beta: float, c: tuple[int, ...] | None
) -> None:
    """Both transpositions, both factors, and each broadcast of the third operand."""
    a, b = images(3, 4), images(4, 5, seed=1)
    a = np.ascontiguousarray(a.T) if flip_a else a
    b = np.ascontiguousarray(b.T) if flip_b else b
    inputs = ["a", "b"] + ([] if c is None else ["c"])
    arrays = [a, b] + ([] if c is None else [images(*c, seed=2)])
    typed = ", ".join(
        f"float[{str(list(x.shape))[1:-1]}] {n}" for n, x in zip(inputs, arrays, strict=True)
    )
    model = parse(
        f"y = Gemm<alpha={alpha}, beta={beta}, transA={int(flip_a)}, transB={int(flip_b)}>"
        f"({', '.join(inputs)})",
        f"({typed}) => (float[3, 5] y)",
    )
    assert_same(model, *arrays)


@pytest.mark.parametrize("opset", [9, 14, 17])
def test_normalizations_match_onnxruntime(opset: int) -> None:
    """BatchNormalization, in evaluation mode, uses the model's statistics."""
    body = "y = BatchNormalization<epsilon=0.01>(x, s, b, m, v)"
    model = parse(
        body, "(float[n, 3, h, w] x) => (float[n, 3, h, w] y)",
        "float[3] s = {1, 2, 3}, float[3] b = {0, 1, -1}, float[3] m = {0.5, 0, 1},"
        "float[3] v = {1, 2, 0.5}", opset,
    )  # fmt: skip
    assert_same(model, images(2, 3, 4, 4))


def test_layer_and_instance_normalization_match_onnxruntime() -> None:
    """Normalizations without state agree, also for a broadcast scale."""
    signature = "(float[n, 3, 4] x) => (float[n, 3, 4] y)"
    layer = parse("y = LayerNormalization<axis=1>(x, s, b)", signature)
    assert_same(with_weights(layer, s=images(3, 4), b=images(3, 4, seed=1)), images(2, 3, 4))
    instance = parse("y = InstanceNormalization(x, s, b)", signature)
    assert_same(with_weights(instance, s=images(3), b=images(3, seed=1)), images(2, 3, 4))


def test_weights_of_every_float_type_keep_it() -> None:
    """Double and half models run in their own type."""
    for name, dtype in (("double", np.float64), ("float16", np.float16)):
        model = parse("y = MatMul(x, w)", f"({name}[n, 3] x) => ({name}[n, 2] y)")
        model = with_weights(model, w=images(3, 2).astype(dtype))
        assert_same(model, np.ones((4, 3), dtype))


def test_a_batch_size_may_change() -> None:
    """Shapes computed from the input's shape follow the batch."""
    model = parse(
        "s = Shape(x) i = Constant<value_int=0>() n = Gather(s, i)"
        "a = Constant<value_ints=[0]>() l = Unsqueeze(n, a) m = Constant<value_ints=[-1]>()"
        "t = Concat<axis=0>(l, m) y = Reshape(x, t)",
        "(float[n, 3, 4] x) => (float[n, m] y)",
    )
    for batch in (1, 5):
        assert_same(model, images(batch, 3, 4))


def test_shape_arithmetic_stays_python_numbers() -> None:
    """The module compiles into one graph, which tensors in shape arithmetic would break."""
    from onnx_expand.train import to_torch

    model = parse(
        "s = Shape(x) i = Constant<value_int=1>() c = Gather(s, i)"
        "f = Cast<to=1>(c) r = Sqrt(f) y = Div(x, r)",
        "(float[n, c] x) => (float[n, c] y)",
    )
    x = images(2, 4)
    assert_same(model, x)
    compiled = torch.compile(to_torch(model), backend="eager", fullgraph=True)
    np.testing.assert_allclose(compiled(torch.from_numpy(x)), x / 2)


def test_the_newest_definition_of_the_opset_is_used() -> None:
    """Softmax has one translation before opset 13, and another from 13 on."""
    old, new = find("", "Softmax", 12), find("", "Softmax", 13)
    assert old is not None
    assert new is not None
    assert (old.since, new.since) == (1, 13)
    assert find("", "Gemm", 6) is None
    assert ("", "Conv") in registered()
