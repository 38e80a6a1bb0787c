"""Further pairs, written after `check` could distinguish the others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.support.pairs.base import Pair, changed, int64, normal, pair, scalar

__all__ = ["further_different", "further_equal"]


def further_different() -> Iterator[Pair]:
    """Pairs that differ."""
    yield pair(
        "swapped outputs",
        "float[N,4] x -> float[N,4] y, float[N,4] z",
        "y = Relu(x) z = Tanh(x)",
        "z = Relu(x) y = Tanh(x)",
    )
    yield pair(
        "roots of negatives",
        "float[N,4] x -> float[N,4] y",
        "y = Sqrt(x)",
        "a = Abs(x) y = Sqrt(a)",
    )
    yield pair(
        "trunc vs floor",
        "float[N,4] x -> int32[N,4] y",
        "y = Cast<to=6>(x)",
        "f = Floor(x) y = Cast<to=6>(f)",
    )
    yield pair(
        "all flags",
        "bool[N,30] x -> float[N,1] y",
        "f = Cast<to=1>(x) y = ReduceMin(f, i)",
        "z = Cast<to=1>(x) f = Sub(z, z) y = ReduceMin(f, i)",
        {"i": int64(1)},
    )
    yield pair(
        "gru reset",
        "float[5,N,3] x -> float[a,b,c,d] y",
        "y, h = GRU<hidden_size=4, linear_before_reset=0>(x, w, r, bb)",
        "y, h = GRU<hidden_size=4, linear_before_reset=1>(x, w, r, bb)",
        {"w": normal(1, 12, 3), "r": normal(1, 12, 4), "bb": normal(1, 24)},
    )
    yield pair(
        "causal",
        "float[N,S,4] x -> float[a,b,c] y",
        "t = Transpose<perm=[0,2,1]>(x) s = MatMul(x, t) l = Trilu<upper=0>(s) y = MatMul(l, x)",
        "t = Transpose<perm=[0,2,1]>(x) s = MatMul(x, t) l = Trilu<upper=0>(s, k) y = "
        "MatMul(l, x)",
        {"k": scalar(-1, np.int64)},
    )
    yield pair(
        "zp",
        "float[N,4] x -> uint8[N,4] y",
        "y = QuantizeLinear(x, s, z)",
        "",
        {"s": scalar(0.1), "z": scalar(128, np.uint8)},
        {"z": scalar(129, np.uint8)},
    )
    yield pair(
        "residual dropped",
        "float[N,8] x -> float[N,8] y",
        "a = MatMul(x, w) b = Relu(a) y = Add(b, x)",
        "a = MatMul(x, w) y = Relu(a)",
        {"w": normal(8, 8)},
    )
    yield pair(
        "slice bounded 128",
        "float[N,S] x -> float[a,b] y",
        "y = Relu(x)",
        "r = Relu(x) y = Slice(r, z, e, i)",
        {"z": int64(0), "e": int64(128), "i": int64(1)},
    )
    yield pair(
        "resize sizes baked",
        "float[N,3,H,W] x -> float[a,b,c,d] y",
        'y = Resize<mode="nearest">(x, , s)',
        "q = Shape(x) h = Slice(q, z, e) j = Concat<axis=0>(h, b) y = "
        'Resize<mode="nearest">(x, , , j)',
        {
            "s": np.asarray([1, 1, 2, 2], np.float32),
            "b": int64(128, 128),
            "z": int64(0),
            "e": int64(2),
        },
    )
    yield pair(
        "onehot depth",
        "int64[N] x -> float[a,b] y",
        "y = OneHot(x, d, v)",
        "",
        {"d": scalar(7, np.int64), "v": np.asarray([0, 1], np.float32)},
        {"d": scalar(8, np.int64)},
    )
    yield pair(
        "one bias of a channel",
        "float[N,3,H,W] x -> float[a,b,c,d] y",
        "y = Conv(x, w, b)",
        "",
        {"w": normal(4, 3, 3, 3), "b": normal(4)},
        {"b": changed(normal(4), 2, 1e-3)},
    )
    yield pair(
        "loop count",
        "float[N,4] x, int64 n -> float[a,b] y",
        "y = Loop(n, , x) <body = b (int64 i, bool c, float[p,q] u) => (bool d, "
        "float[p,q] v) { d = Identity(c) v = Mul(u, k) }>",
        "m = Max(n, one) y = Loop(m, , x) <body = b (int64 i, bool c, float[p,q] u) => "
        "(bool d, float[p,q] v) { d = Identity(c) v = Mul(u, k) }>",
        {"k": scalar(1.5), "one": scalar(1, np.int64)},
    )
    yield pair(
        "dilation",
        "float[N,3,H,W] x -> float[a,b,c,d] y",
        "y = Conv<pads=[1,1,1,1]>(x, w)",
        "y = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, w)",
        {"w": normal(4, 3, 3, 3)},
    )
    yield pair(
        "if by size",
        "float[N,8] x -> float[a,b] y",
        "y = Relu(x)",
        "s = Shape(x) b = Gather(s, z) f = Cast<to=1>(b) g = Sub(f, three) h = Abs(g) j = "
        "Min(h, one) k = Sub(one, j) r = Relu(x) y = Add(r, k)",
        {"z": scalar(0, np.int64), "three": scalar(3), "one": scalar(1)},
    )
    yield pair(
        "uint8 mean",
        "uint8[N,H,W,3] x -> float[a,b,c,d] y",
        "f = Cast<to=1>(x) s = Sub(f, m) t = Transpose<perm=[0,3,1,2]>(s) y = Conv(t, w)",
        "f = Cast<to=1>(x) s = Sub(f, m) t = Transpose<perm=[0,3,2,1]>(s) y = Conv(t, w)",
        {"m": normal(3), "w": normal(4, 3, 3, 3)},
    )
    yield pair(
        "a small mean that is lost",
        "uint8[N,H,W,3] x -> float[a,b,c,d] y",
        "f = Cast<to=1>(x) s = Sub(f, m) t = Transpose<perm=[0,3,1,2]>(s) y = Conv(t, w)",
        "f = Cast<to=1>(x) t = Transpose<perm=[0,3,1,2]>(f) y = Conv(t, w)",
        {"m": normal(3), "w": normal(4, 3, 3, 3)},
    )


def further_equal() -> Iterator[Pair]:
    """Pairs that are equal."""
    yield pair(
        "uint8 mean",
        "uint8[N,H,W,3] x -> float[a,b,c,d] y",
        "f = Cast<to=1>(x) s = Sub(f, m) t = Transpose<perm=[0,3,1,2]>(s) y = Conv(t, w)",
        "f = Cast<to=1>(x) t = Transpose<perm=[0,3,1,2]>(f) s = Sub(t, mm) y = Conv(s, w)",
        {"m": normal(3), "mm": normal(3)[:, None, None].copy(), "w": normal(4, 3, 3, 3)},
    )
    yield pair(
        "a small mean on the other side of a name",
        "uint8[N,H,W,3] x -> float[a,b,c,d] y",
        "f = Cast<to=1>(x) s = Sub(f, m) t = Transpose<perm=[0,3,1,2]>(s) y = Conv(t, w)",
        "f = Cast<to=1>(x) t = Transpose<perm=[0,3,1,2]>(f) u = Sub(t, mm) y = Conv(u, w)",
        {"m": normal(3), "mm": normal(3)[:, None, None].copy(), "w": normal(4, 3, 3, 3)},
    )
    yield pair(
        "mask fill",
        "float[N,S,4] x, int64[N,S] mask -> float[a,b,c] y",
        "m = Cast<to=9>(mask) i = Not(m) j = Unsqueeze(i, u) t = "
        "Transpose<perm=[0,2,1]>(x) s = MatMul(x, t) a = Where(j, f, s) p = Softmax(a) y "
        "= MatMul(p, x)",
        "e = Equal(mask, zero) j = Unsqueeze(e, u) t = Transpose<perm=[0,2,1]>(x) s = "
        "MatMul(x, t) a = Where(j, f, s) p = Softmax(a) y = MatMul(p, x)",
        {"u": int64(1), "f": scalar(-1e9), "zero": scalar(0, np.int64)},
    )
    yield pair(
        "mean var",
        "float[N,8] x -> float[N,8] y",
        "m = ReduceMean(x, i) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, i) e = Add(v, "
        "k) s = Sqrt(e) y = Div(d, s)",
        "m = ReduceMean(x, i) d = Sub(x, m) q = Pow(d, two) v = ReduceMean(q, i) e = "
        "Add(v, k) s = Sqrt(e) r = Reciprocal(s) y = Mul(d, r)",
        {"i": int64(1), "k": scalar(1e-5), "two": scalar(2)},
    )
    yield pair(
        "scan cumsum",
        "float[N,8] x -> float[N,8] y",
        "y = CumSum(x, k)",
        "y = MatMul(x, t)",
        {"k": scalar(1, np.int64), "t": np.triu(np.ones((8, 8), np.float32))},
    )
    yield pair(
        "select",
        "float[N,8] x, bool[N,8] c -> float[N,8] y",
        "n = Neg(x) y = Where(c, x, n)",
        "n = Neg(x) d = Not(c) y = Where(d, n, x)",
    )
    yield pair(
        "gate",
        "float[N,8] x -> float[N,4] y",
        "a, b = Split<axis=1, num_outputs=2>(x) s = Sigmoid(b) y = Mul(a, s)",
        "a = Slice(x, z, f, o) b = Slice(x, f, e, o) s = Sigmoid(b) y = Mul(s, a)",
        {"z": int64(0), "f": int64(4), "e": int64(8), "o": int64(1)},
    )
    yield pair(
        "unet",
        "float[N,3,H,W] x -> float[a,b,c,d] y",
        "p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x) q = "
        'MaxPool<kernel_shape=[2,2],strides=[2,2]>(p) u = Resize<mode="nearest">(q, , s) '
        "c = Concat<axis=1>(u, x) y = Conv(c, w)",
        "p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(x) q = "
        "MaxPool<kernel_shape=[2,2],strides=[2,2]>(p) i = Identity(q) u = "
        'Resize<mode="nearest">(i, , s) c = Concat<axis=1>(u, x) y = Conv(c, w)',
        {"s": np.asarray([1, 1, 4, 4], np.float32), "w": normal(4, 6, 1, 1)},
    )
    yield pair(
        "instance by reshape",
        "float[N,4,H,W] x -> float[a,b,c,d] y",
        "y = InstanceNormalization(x, s, b)",
        "m = ReduceMean(x, i) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, i) e = Add(v, "
        "k) r = Sqrt(e) t = Div(d, r) u = Mul(t, ss) y = Add(u, bb)",
        {
            "s": normal(4),
            "b": normal(4, seed=1),
            "ss": normal(4)[:, None, None].copy(),
            "bb": normal(4, seed=1)[:, None, None].copy(),
            "i": int64(2, 3),
            "k": scalar(1e-5),
        },
    )
    yield pair(
        "permuted hidden",
        "float[N,8] x -> float[N,5] y",
        "h = Gemm(x, w, b) r = Relu(h) y = MatMul(r, v)",
        "",
        {"w": normal(8, 6), "b": normal(6), "v": normal(6, 5)},
        {
            "w": normal(8, 6)[:, ::-1].copy(),
            "b": normal(6)[::-1].copy(),
            "v": normal(6, 5)[::-1].copy(),
        },
    )
    yield pair(
        "permuted hidden no bias",
        "float[N,8] x -> float[N,5] y",
        "h = MatMul(x, w) r = Relu(h) y = MatMul(r, v)",
        "",
        {"w": normal(8, 6), "v": normal(6, 5)},
        {"w": normal(8, 6)[:, ::-1].copy(), "v": normal(6, 5)[::-1].copy()},
    )
    yield pair(
        "slice end max",
        "float[N,8] x -> float[a,b] y",
        "y = Slice(x, z, e, i)",
        "",
        {"z": int64(1), "e": int64(2**63 - 1), "i": int64(1)},
        {"e": int64(2**31 - 1)},
    )
    yield pair(
        "clip none",
        "float[N,8] x -> float[a,b] y",
        "s = Sigmoid(x) y = Clip(s, l, h)",
        "s = Sigmoid(x) y = Identity(s)",
        {"l": scalar(0), "h": scalar(1)},
    )
