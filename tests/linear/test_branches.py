"""Linear nodes that meet where values of several roots are joined."""

from __future__ import annotations

import pytest

import onnx_expand
from onnx_expand.passes import Policy
from tests.support.graphs_text import bn, fold, graph, ops, weights

pytest.importorskip("onnxruntime")


def test_a_normalization_behind_a_concatenation_goes_into_the_layers() -> None:
    """Two depthwise convolutions of different sizes take in their halves of it."""
    model = graph(
        """
        g (float[N,4,7,7] x) => (float[N,8,7,7] y) {
            a = Conv <group: int = 4, pads: ints = [1, 1, 1, 1]> (x, v)
            b = Conv <group: int = 4, pads: ints = [2, 2, 2, 2]> (x, w)
            c = Concat <axis: int = 1> (a, b)
            y = BatchNormalization(c, n_s, n_b, n_m, n_v)
        }
        """,
        weights(v=(4, 1, 3, 3), w=(4, 1, 5, 5)) | bn("n", 8),
    )
    folded, _ = fold(model)
    assert ops(folded) == ["Conv", "Conv", "Concat"]
    assert onnx_expand.check(model, folded)


@pytest.mark.parametrize("op", ["Add", "Sub", "Sum", "Mean"])
def test_a_normalization_behind_a_sum_of_two_roots_goes_into_both(op: str) -> None:
    """The scale goes into both layers, the shift is counted once."""
    model = graph(
        f"""
        g (float[N,4,7,7] x, float[N,3,7,7] z) => (float[N,8,7,7] y) {{
            a = Conv(x, v)
            b = Conv(z, w)
            c = {op}(a, b)
            y = BatchNormalization(c, n_s, n_b, n_m, n_v)
        }}
        """,
        weights(v=(8, 4, 1, 1), w=(8, 3, 1, 1)) | bn("n", 8),
    )
    folded, _ = fold(model)
    assert ops(folded) == ["Conv", "Conv", op]
    assert onnx_expand.check(model, folded)


def test_a_branch_that_is_read_elsewhere_keeps_its_numbers() -> None:
    """One of the concatenated values is an output: it must not be scaled."""
    model = graph(
        """
        g (float[N,4,7,7] x) => (float[N,8,7,7] y, float[N,4,7,7] b) {
            a = Conv(x, v)
            b = Conv(x, w)
            c = Concat <axis: int = 1> (a, b)
            y = BatchNormalization(c, n_s, n_b, n_m, n_v)
        }
        """,
        weights(v=(4, 4, 1, 1), w=(4, 4, 1, 1)) | bn("n", 8),
    )
    folded, _ = fold(model, Policy.ALWAYS)
    assert ops(folded) == ["Conv", "Conv", "Concat", "BatchNormalization"]
    assert onnx_expand.check(model, folded)


def test_behind_a_concatenation_of_positions_each_half_takes_the_whole_map() -> None:
    """The scales belong to channels, and both halves have all of these."""
    model = graph(
        """
        g (float[N,4,7,7] x) => (float[N,4,14,7] y) {
            a = Conv(x, v)
            b = Conv(x, w)
            c = Concat <axis: int = 2> (a, b)
            y = BatchNormalization(c, n_s, n_b, n_m, n_v)
        }
        """,
        weights(v=(4, 4, 1, 1), w=(4, 4, 1, 1)) | bn("n", 4),
    )
    folded, _ = fold(model)
    assert ops(folded) == ["Conv", "Conv", "Concat"]


@pytest.mark.parametrize("sum_of", ["s = Add(a, r)\n y = Add(s, c)", "y = Sum(a, r, c)"])
def test_branches_that_fit_are_added_first(sum_of: str) -> None:
    """Of three branches the middle one is no convolution; the other two become one."""
    model = graph(
        f"""
        g (float[N,4,7,7] x) => (float[N,4,7,7] y) {{
            a = Conv <pads: ints = [1, 1, 1, 1]> (x, v)
            r = Relu(x)
            c = Conv(x, w)
            {sum_of}
        }}
        """,
        weights(v=(4, 4, 3, 3), w=(4, 4, 1, 1)),
    )
    folded, _ = fold(model)
    assert sorted(ops(folded)) == ["Add", "Conv", "Relu"]
    assert onnx_expand.check(model, folded)
    again, report = fold(folded)
    assert not report.sites
    assert again.SerializeToString() == folded.SerializeToString()


def test_branches_of_other_strides_are_left_out() -> None:
    """An average that leaves out the padding is no convolution; a 3x3 and the input are one."""
    model = graph(
        """
        g (float[N,4,7,7] x) => (float[N,4,7,7] y) {
            a = Conv <pads: ints = [1, 1, 1, 1]> (x, v)
            p = AveragePool <kernel_shape: ints = [3, 3], pads: ints = [1, 1, 1, 1]> (x)
            s = Add(p, x)
            y = Add(s, a)
        }
        """,
        weights(v=(4, 4, 3, 3)),
    )
    folded, _ = fold(model)
    assert sorted(ops(folded)) == ["Add", "AveragePool", "Conv"]
    assert onnx_expand.check(model, folded)
