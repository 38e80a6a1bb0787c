"""Maps that meet across a change of layout, and those that must not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnx_expand
from onnx_expand.graph.facts import Facts
from onnx_expand.passes import Policy
from tests.support.graphs_text import bn, fold, graph, ops, weights

pytest.importorskip("onnxruntime")


def assert_folds_to(
    model: onnx.ModelProto, *expected: str, policy: Policy = Policy.CHEAPEST
) -> None:
    """Assert the op types that remain, and that no number changes."""
    folded, report = fold(model, policy)
    reasons = [str(kept.refusal) for kept in report.kept]
    assert ops(folded) == list(expected), reasons
    verdict = onnx_expand.check(model, folded, samples=2)
    assert verdict, verdict.differences


def test_a_product_between_transposes_is_one_product() -> None:
    """Where the transposes undo each other, the product moves before the first of them."""
    model = graph(
        """
        g (float[N,6,4] x) => (float[N,5,4] y) {
            t = Transpose <perm: ints = [0, 2, 1]> (x)
            m = MatMul(t, w)
            y = Transpose <perm: ints = [0, 2, 1]> (m)
        }
        """,
        weights(w=(6, 5)),
    )
    assert_folds_to(model, "MatMul")


def test_a_convolution_meets_the_projection_behind_its_transpose() -> None:
    """Conv1d, Transpose and a narrowing MatMul become one Conv1d of the narrow width."""
    model = graph(
        """
        g (float[N,6,9] x) => (float[N,9,4] y) {
            c = Conv <pads: ints = [1, 1]> (x, v, b)
            t = Transpose <perm: ints = [0, 2, 1]> (c)
            y = MatMul(t, w)
        }
        """,
        weights(v=(8, 6, 3), b=(8,), w=(8, 4)),
    )
    assert_folds_to(model, "Conv", "Transpose")


def test_image_features_meet_the_first_projection() -> None:
    """Normalization, Reshape to a sequence, Transpose, then the weights of queries and keys."""
    model = graph(
        """
        g (float[N,8,H,W] x) => (float[N,L,12] y) {
            a = Conv(x, u)
            f = Relu(a)
            n = BatchNormalization(f, n_s, n_b, n_m, n_v)
            shape = Constant <value: tensor = int64[3] {0, 8, -1}> ()
            r = Reshape(n, shape)
            t = Transpose <perm: ints = [0, 2, 1]> (r)
            m = MatMul(t, w)
            y = Add(m, b)
        }
        """,
        weights(u=(8, 8, 1, 1), w=(8, 12), b=(12,)) | bn("n", 8),
    )
    folded, _ = fold(model)
    expected = ["Conv", "Relu", "Conv", "Reshape", "Transpose"]
    assert [op for op in ops(folded) if op != "Constant"] == expected
    assert onnx_expand.check(model, folded, samples=2)


def test_a_reshape_that_spells_the_channels_is_spelled_anew() -> None:
    """The merged convolution writes 3 channels where the Reshape was told of 8."""
    model = graph(
        """
        g (float[N,4,5,6] x) => (float[N,30,3] y) {
            c = Conv(x, v)
            shape = Constant <value: tensor = int64[3] {0, 8, 30}> ()
            r = Reshape(c, shape)
            t = Transpose <perm: ints = [0, 2, 1]> (r)
            y = MatMul(t, w)
        }
        """,
        weights(v=(8, 4, 1, 1), w=(8, 3)),
    )
    folded, _ = fold(model)
    assert "Conv" not in ops(folded) or "MatMul" not in ops(folded)
    assert onnx_expand.check(model, folded, samples=2)


def test_a_scale_of_channels_passes_a_flatten() -> None:
    """Each channel's scale goes to all features that were its positions."""
    model = graph(
        """
        g (float[N,3,2,5] x) => (float[N,4] y) {
            n = BatchNormalization(x, n_s, n_b, n_m, n_v)
            f = Flatten(n)
            y = Gemm <transB: int = 1> (f, w, b)
        }
        """,
        weights(w=(4, 30), b=(4,)) | bn("n", 3),
    )
    assert_folds_to(model, "Flatten", "Gemm")


def test_channels_in_the_inner_place_are_tiled() -> None:
    """Flattened with the channels last, channel c is every third feature."""
    model = graph(
        """
        g (float[N,10,3] x) => (float[N,4] y) {
            s = Mul(x, f)
            r = Flatten(s)
            y = Gemm <transB: int = 1> (r, w)
        }
        """,
        weights(w=(4, 30), f=(3,)),
    )
    assert_folds_to(model, "Flatten", "Gemm")


@pytest.mark.parametrize(
    ("equation", "shape"),
    [
        ("bld,de->ble", (6, 5)),
        ("bld,ed->ble", (5, 6)),
        ("...d,de->...e", (6, 5)),
        ("b l d, d e -> b l e", (6, 5)),
    ],
)
def test_an_einsum_that_is_a_product_merges(equation: str, shape: tuple[int, int]) -> None:
    """Written as an Einsum, a product is a product."""
    model = graph(
        f"""
        g (float[N,4,6] x) => (float[N,4,3] y) {{
            e = Einsum <equation: string = "{equation}"> (x, v)
            y = MatMul(e, w)
        }}
        """,
        weights(v=shape, w=(5, 3)),
    )
    assert_folds_to(model, "MatMul")


def test_an_einsum_along_channels_of_images_is_a_convolution() -> None:
    """And one that scales along an axis is a scale."""
    model = graph(
        """
        g (float[N,4,5,5] x) => (float[N,3,5,5] y) {
            s = Einsum <equation: string = "bchw,c->bchw"> (x, f)
            e = Einsum <equation: string = "oc,bchw->bohw"> (v, s)
            y = Conv(e, w)
        }
        """,
        weights(f=(4,), v=(6, 4), w=(3, 6, 1, 1)),
    )
    assert_folds_to(model, "Conv")


@pytest.mark.parametrize(
    "equation", ["bld,de->bel", "bld,le->bde", "bll,le->be", "bld,dl->bd", "bld,de->bl"]
)
def test_an_einsum_that_moves_axes_is_none(equation: str) -> None:
    """The new axis lies elsewhere, or more than one axis is summed over: a factor goes on."""
    model = graph(
        f"""
        g (float[N,4,4] x) => (float y) {{
            e = Einsum <equation: string = "{equation}"> (x, v)
            t = Mul(e, two)
            y = ReduceSum <keepdims: int = 0> (t)
        }}
        """,
        weights(v=(4, 4)) | {"two": np.full((), 2, np.float32)},
    )
    assert ops(fold(model, Policy.ALWAYS)[0]) == ["Einsum", "ReduceSum", "Mul"]


def test_convolutions_of_different_layouts_stay_apart() -> None:
    """A kernel along the other axis is no kernel along this one: merging would mix positions."""
    model = graph(
        """
        g (float[N,6,6] x) => (float[N,6,6] y) {
            a = Conv <pads: ints = [1, 1]> (x, v)
            t = Transpose <perm: ints = [0, 2, 1]> (a)
            y = Conv <pads: ints = [1, 1]> (t, w)
        }
        """,
        weights(v=(6, 6, 3), w=(6, 6, 3)),
    )
    assert_folds_to(model, "Conv", "Transpose", "Conv", policy=Policy.ALWAYS)


def test_a_reshape_that_mixes_channels_and_positions_is_a_wall() -> None:
    """[4, 6] read as [6, 4] puts other numbers on the channel axis."""
    model = graph(
        """
        g (float[N,4,6] x) => (float[N,6,3] y) {
            a = Mul(x, f)
            shape = Constant <value: tensor = int64[3] {0, 6, 4}> ()
            r = Reshape(a, shape)
            y = MatMul(r, w)
        }
        """,
        weights(w=(4, 3)) | {"f": np.arange(1, 5, dtype=np.float32).reshape(4, 1)},
    )
    folded, _ = fold(model, Policy.ALWAYS)
    assert [op for op in ops(folded) if op != "Constant"] == ["Mul", "Reshape", "MatMul"]


def test_a_layout_that_is_read_twice_stays() -> None:
    """The transposed value is an output as well, with the scale in it."""
    model = graph(
        """
        g (float[N,4,6] x) => (float[N,6,3] y, float[N,6,4] t) {
            a = Mul(x, f)
            t = Transpose <perm: ints = [0, 2, 1]> (a)
            y = MatMul(t, w)
        }
        """,
        weights(w=(4, 3)) | {"f": np.arange(1, 5, dtype=np.float32).reshape(4, 1)},
    )
    assert_folds_to(model, "Mul", "Transpose", "MatMul", policy=Policy.ALWAYS)


def test_a_batch_in_another_place_is_no_channel() -> None:
    """A Transpose may move the batch; what is mapped is still the channels."""
    model = graph(
        """
        g (float[N,4,6] x) => (float[6,N,3] y) {
            a = Mul(x, f)
            t = Transpose <perm: ints = [2, 0, 1]> (a)
            y = MatMul(t, w)
        }
        """,
        weights(w=(4, 3)) | {"f": np.arange(1, 5, dtype=np.float32).reshape(4, 1)},
    )
    assert_folds_to(model, "MatMul", "Transpose")  # where there are fewer numbers to move


def flattened(extents: str) -> str:
    """A layer whose normalization flattens what it reads, and restores it by the layer's shape."""
    return f"""
        g (float[{extents},6] x) => (float[{extents},5] y) {{
            a = MatMul(x, w)
            s = Shape(a)
            f = Flatten<axis=-1>(a)
            b = BatchNormalization(f, n_s, n_b, n_m, n_v)
            y = Reshape(b, s)
        }}
        """


def test_a_shape_that_is_read_is_written_down() -> None:
    """What a Reshape is told of the layer before does not keep the layer from merging."""
    model = graph(flattened("N,4"), {**weights(w=(6, 5)), **bn("n", 5)})
    folded, report = fold(model)
    assert "BatchNormalization" not in ops(folded)
    assert "Shape" not in ops(folded)
    assert "s" in report.cleaned.constants
    assert onnx_expand.check(model, folded, samples=1, providers=["cpu"])


def test_shapes_of_which_more_is_unknown_are_computed() -> None:
    """Two unknown extents are no -1: a Reshape that was told so would be none."""
    model = graph(flattened("N,M"), {**weights(w=(6, 5)), **bn("n", 5)})
    folded, _ = fold(model)
    assert "Shape" in ops(folded)
    assert onnx_expand.check(model, folded, samples=1, providers=["cpu"])


def test_a_shape_that_others_read_is_computed() -> None:
    """An Expand takes -1 for an extent of its own."""
    end = "z = Reshape(b, s) o = Expand(e, s) y = Add(z, o)"
    text = flattened("N,4").replace("y = Reshape(b, s)", end)
    numbers = {**weights(w=(6, 5)), **bn("n", 5), "e": np.ones((1, 1, 5), np.float32)}
    model = graph(text, numbers)
    folded, _ = fold(model)
    assert "Shape" in ops(folded)
    assert onnx_expand.check(model, folded, samples=1, providers=["cpu"])


def test_extents_follow_through_a_reshape_of_symbolic_ones() -> None:
    """The batch cancels: [N, C, H, W] to [N, C, -1] has H W positions."""
    model = graph(
        """
        g (float[N,3,4,5] x) => (float[N,P,3] y) {
            s = Shape<start=0, end=2>(x)
            m = Constant<value_ints=[-1]>()
            t = Concat<axis=0>(s, m)
            r = Reshape(x, t)
            y = Transpose<perm=[0,2,1]>(r)
        }
        """,
        {},
    )
    read = ir.serde.deserialize_model(model)
    facts = Facts(read)
    node = next(node for node in read.graph if node.op_type == "Reshape")
    assert facts.shape(node.outputs[0]) == (None, 3, 20)
