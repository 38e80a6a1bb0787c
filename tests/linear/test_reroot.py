"""A shared map moves into its readers where all of them together cost less."""

from __future__ import annotations

import pytest

import onnx_expand
from onnx_expand.errors import Reason
from onnx_expand.passes import Policy
from tests.support.graphs_text import bn, fold, graph, ops, weights

pytest.importorskip("onnxruntime")


def test_a_scale_and_shift_move_into_three_projections() -> None:
    """The affine part of a layer normalization, read by queries, keys and values."""
    model = graph(
        """
        g (float[N,L,8] x) => (float[N,L,8] q, float[N,L,8] k, float[N,L,4] v) {
            s = Mul(x, gamma)
            t = Add(s, beta)
            q0 = MatMul(t, wq)
            q = Add(q0, bq)
            k0 = MatMul(t, wk)
            k = Add(k0, bk)
            v0 = MatMul(t, wv)
            v = Add(v0, bv)
        }
        """,
        weights(gamma=(8,), beta=(8,), wq=(8, 8), wk=(8, 8), wv=(8, 4), bq=(8,), bk=(8,), bv=(4,)),
    )
    folded, report = fold(model)
    assert ops(folded) == ["MatMul", "Add"] * 3
    assert onnx_expand.check(model, folded)
    assert len(report.sites) >= 3
    again, second = fold(folded)
    assert again.SerializeToString() == folded.SerializeToString()
    assert not second.sites


def test_a_normalization_moves_into_two_unpadded_convolutions() -> None:
    """Both branches read the normalized image; neither pads."""
    model = graph(
        """
        g (float[N,4,7,7] x) => (float[N,6,7,7] y, float[N,6,5,5] z) {
            n = BatchNormalization(x, n_s, n_b, n_m, n_v)
            y = Conv(n, v)
            z = Conv(n, w)
        }
        """,
        weights(v=(6, 4, 1, 1), w=(6, 4, 3, 3)) | bn("n", 4),
    )
    folded, _ = fold(model)
    assert ops(folded) == ["Conv", "Conv"]
    assert onnx_expand.check(model, folded)


def test_a_reader_that_pads_keeps_the_shift() -> None:
    """The padded convolution cannot take the shift in; the scale goes into both readers."""
    model = graph(
        """
        g (float[N,4,7,7] x) => (float[N,6,7,7] y, float[N,6,7,7] z) {
            n = BatchNormalization(x, n_s, n_b, n_m, n_v)
            y = Conv(n, v)
            z = Conv <pads: ints = [1, 1, 1, 1]> (n, w)
        }
        """,
        weights(v=(6, 4, 1, 1), w=(6, 4, 3, 3)) | bn("n", 4),
    )
    folded, report = fold(model, Policy.ALWAYS)
    assert ops(folded) == ["Add", "Conv", "Conv"]
    assert Reason.SHARED in {kept.refusal.reason for kept in report.kept}


def test_a_layer_that_two_read_is_not_computed_twice() -> None:
    """Merged into both readers, the 3x3 would cost its products twice."""
    model = graph(
        """
        g (float[N,8,7,7] x) => (float[N,8,7,7] y, float[N,8,7,7] z) {
            c = Conv <pads: ints = [1, 1, 1, 1]> (x, u)
            y = Conv(c, v)
            z = Conv(c, w)
        }
        """,
        weights(u=(8, 8, 3, 3), v=(8, 8, 1, 1), w=(8, 8, 1, 1)),
    )
    folded, _ = fold(model)
    assert ops(folded) == ["Conv", "Conv", "Conv"]


def test_a_wide_middle_that_two_read_goes() -> None:
    """From 4 channels to 64 and back to 4 in each reader: two narrow layers are cheaper."""
    model = graph(
        """
        g (float[N,4,7,7] x) => (float[N,4,7,7] y, float[N,4,7,7] z) {
            c = Conv <pads: ints = [1, 1, 1, 1]> (x, u)
            y = Conv(c, v)
            z = Conv(c, w)
        }
        """,
        weights(u=(64, 4, 3, 3), v=(4, 64, 1, 1), w=(4, 64, 1, 1)),
    )
    folded, _ = fold(model)
    assert ops(folded) == ["Conv", "Conv"]
    assert onnx_expand.check(model, folded)


def test_an_output_in_the_middle_stays() -> None:
    """The shared value is asked for by the caller."""
    model = graph(
        """
        g (float[N,8] x) => (float[N,8] t, float[N,4] y, float[N,4] z) {
            t = Mul(x, f)
            y = MatMul(t, v)
            z = MatMul(t, w)
        }
        """,
        weights(f=(8,), v=(8, 4), w=(8, 4)),
    )
    assert ops(fold(model, Policy.ALWAYS)[0]) == ["Mul", "MatMul", "MatMul"]


def test_another_reader_keeps_the_shared_map() -> None:
    """An activation reads the value too, which has to be computed for it anyway."""
    model = graph(
        """
        g (float[N,8] x) => (float[N,8] r, float[N,4] y, float[N,4] z) {
            t = Mul(x, f)
            y = MatMul(t, v)
            z = MatMul(t, w)
            r = Relu(t)
        }
        """,
        weights(f=(8,), v=(8, 4), w=(8, 4)),
    )
    assert ops(fold(model, Policy.ALWAYS)[0]) == ["Mul", "MatMul", "MatMul", "Relu"]
