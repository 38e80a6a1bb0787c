"""Pairs that compute the same function with few equal nodes."""

# fmt: off
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.support.pairs.base import (
    IDS,
    IMAGE,
    ROWS,
    Pair,
    int64,
    normal,
    pair,
    scalar,
    together,
)
from tests.support.pairs.further import further_equal

__all__ = ["equal"]


def _linear() -> Iterator[Pair]:
    """Linear layers in other forms."""
    w, v = normal(8, 6, scale=0.4), normal(6, 5, seed=1, scale=0.4)
    b, c = normal(6, seed=2), normal(5, seed=3)
    numbers = {"w": w, "v": v, "b": b, "c": c, "wt": w.T.copy(), "k": scalar(3), "u": w * 3,
               "h": scalar(1 / 3), "wv": w @ v, "e": b @ v + c, "z": int64(0, -1), "one": int64(1),
               "f": int64(-1, 8), "n": scalar(-1)}
    for name, a, other in (
        ("bias apart", "y = Gemm(x, w, b)", "m = MatMul(x, w) y = Add(m, b)"),
        ("bias first", "m = MatMul(x, w) y = Add(m, b)", "m = MatMul(x, w) y = Add(b, m)"),
        ("transB", "y = MatMul(x, w)", "y = Gemm<transB=1>(x, wt)"),
        ("transA", "y = MatMul(x, w)", "t = Transpose(x) y = Gemm<transA=1>(t, w)"),
        ("alpha", "m = MatMul(x, w) y = Mul(m, k)", "y = Gemm<alpha=3.0>(x, w)"),
        ("scale in the weight", "m = MatMul(x, w) y = Mul(m, k)", "y = MatMul(x, u)"),
        ("scale before", "m = MatMul(x, w) y = Mul(m, k)", "s = Mul(x, k) y = MatMul(s, w)"),
        ("two merged", "m = Gemm(x, w, b) y = Gemm(m, v, c)", "y = Gemm(x, wv, e)"),
        ("two associated", "m = MatMul(x, w) y = MatMul(m, v)",
         "m = MatMul(w, v) y = MatMul(x, m)"),
        ("einsum", "y = MatMul(x, w)", "y = Einsum<equation=\"ij,jk->ik\">(x, w)"),
        ("a convolution", "y = MatMul(x, wt2)",
         "u1 = Unsqueeze(x, i2) m = Conv(u1, w3) y = Squeeze(m, i2)"),
        ("subtracted", "m = MatMul(x, w) y = Add(m, b)", "m = MatMul(x, w) n = Neg(b) "
         "y = Sub(m, n)"),
        ("divided", "m = MatMul(x, w) y = Mul(m, k)", "m = MatMul(x, w) y = Div(m, h)"),
        ("the sign moved", "m = MatMul(x, w) y = Neg(m)", "m = Mul(w, n) y = MatMul(x, m)"),
        ("a sum distributed", "a = Add(x, x) y = MatMul(a, w)", "m = MatMul(x, w) y = Add(m, m)"),
        ("a flattening", "m = MatMul(x, w) y = Relu(m)",
         "f1 = Flatten(x) m = MatMul(f1, w) y = Relu(m)"),
        ("reshaped twice", "y = MatMul(x, w)", "r = Reshape(x, f) m = MatMul(r, w) "
         "y = Reshape(m, g)"),
    ):
        more = {"wt2": w, "w3": w.T[:, :, None].copy(), "i2": int64(2), "g": int64(-1, 6)}
        yield pair(name, "float[N,8] x -> float[a,b1] y", a, other, {**numbers, **more})
    k3, one = normal(4, 3, 3, 3, scale=0.3), normal(5, 4, 1, 1, seed=1)
    norm = {"s": normal(4, seed=2) + 2, "t": normal(4, seed=3), "m": normal(4, seed=4),
            "v": np.abs(normal(4, seed=5)) + np.float32(0.5)}
    gain = norm["s"] / np.sqrt(norm["v"] + np.float32(1e-5))
    numbers = {**norm, "w": k3, "o": one, "oc": np.einsum("omhw,miab->oiab", one, k3),
               "wf": k3 * gain[:, None, None, None], "bf": norm["t"] - norm["m"] * gain,
               "g4": gain[:, None, None], "h4": (norm["t"] - norm["m"] * gain)[:, None, None],
               "p": int64(0, 0, 1, 1, 0, 0, 1, 1), "w2": k3 * 2, "two": scalar(2),
               "half": scalar(0.5), "od2": one / 2,
               "wt5": np.pad(k3, [(0, 0), (0, 0), (1, 1), (1, 1)]),
               "ws": k3[:, :, ::-1, ::-1].transpose(1, 0, 2, 3).copy()}
    conv = "a = Conv<pads=[1,1,1,1]>(x, w) "
    for name, a, other in (
        ("normalization folded", conv + "y = BatchNormalization(a, s, t, m, v)",
         "y = Conv<pads=[1,1,1,1]>(x, wf, bf)"),
        ("normalization as a map", conv + "y = BatchNormalization(a, s, t, m, v)",
         conv + "q = Mul(a, g4) y = Add(q, h4)"),
        ("1 x 1 merged", conv + "y = Conv(a, o)", "y = Conv<pads=[1,1,1,1]>(x, oc)"),
        ("padding apart", "y = Conv<pads=[1,1,1,1]>(x, w)", "q = Pad(x, p) y = Conv(q, w)"),
        ("a larger kernel", "y = Conv<pads=[1,1,1,1]>(x, w)", "y = Conv<pads=[2,2,2,2]>(x, wt5)"),
        ("same padding", "y = Conv<pads=[1,1,1,1]>(x, w)",
         "y = Conv<auto_pad=\"SAME_UPPER\">(x, w)"),
        ("a transposed convolution", "y = Conv<pads=[1,1,1,1]>(x, w)",
         "y = ConvTranspose<pads=[1,1,1,1]>(x, ws)"),
        ("scale across Relu", conv + "r = Relu(a) y = Conv(r, o)",
         "a = Conv<pads=[1,1,1,1]>(x, w2) r = Relu(a) y = Conv(r, od2)"),
        ("scale into the weights", conv + "y = Mul(a, two)", "y = Conv<pads=[1,1,1,1]>(x, w2)"),
        ("Relu before a maximum", conv + "r = Relu(a) y = MaxPool<kernel_shape=[2,2]>(r)",
         conv + "q = MaxPool<kernel_shape=[2,2]>(a) y = Relu(q)"),
        ("mean before 1 x 1", conv + "q = Conv(a, o) y = GlobalAveragePool(q)",
         conv + "q = GlobalAveragePool(a) y = Conv(q, o)"),
        ("average before 1 x 1", conv + "q = AveragePool<kernel_shape=[2,2]>(a) y = Conv(q, o)",
         conv + "q = Conv(a, o) y = AveragePool<kernel_shape=[2,2]>(q)"),
        ("transposes cancel", conv + "y = Relu(a)",
         conv + "q = Transpose<perm=[0,2,3,1]>(a) r = Relu(q) y = Transpose<perm=[0,3,1,2]>(r)"),
        ("split and joined", conv + "y = Relu(a)",
         conv + "q, r = Split<axis=1, num_outputs=2>(a) j = Concat<axis=1>(q, r) y = Relu(j)"),
        ("other names", conv + "y = Relu(a)", conv.replace("a =", "other =") + "y = Relu(other)"),
        ("nodes that do nothing", conv + "y = Relu(a)",
         "n = Identity(x) a = Conv<pads=[1,1,1,1]>(n, w) r = Relu(a) y = Identity(r)"),
    ):
        yield pair(name, "float[N,3,H,W] x -> float[c1,d1,e1,f1] y", a, other, numbers)


def _nonlinear() -> Iterator[Pair]:
    """Functions written out, and different forms of one function."""
    numbers = {"z": scalar(0), "one": scalar(1), "half": scalar(0.5), "six": scalar(6),
               "r2": scalar(2**0.5), "sixth": scalar(1 / 6), "three": scalar(3), "i": int64(1),
               "eps": scalar(1e-5), "s": normal(8, seed=1), "b": normal(8, seed=2),
               "two": scalar(2), "n": scalar(-1), "big": scalar(1e30), "a": scalar(0.1)}
    for name, a, other in (
        ("relu as maximum", "y = Relu(x)", "y = Max(x, z)"),
        ("relu as clip", "y = Relu(x)", "y = Clip(x, z)"),
        ("relu as product", "y = Relu(x)", "c = Greater(x, z) f = Cast<to=1>(c) y = Mul(x, f)"),
        ("relu6", "y = Clip(x, z, six)", "r = Relu(x) y = Min(r, six)"),
        ("sigmoid written out", "y = Sigmoid(x)", "q = Neg(x) e = Exp(q) d = Add(e, one) "
         "y = Reciprocal(d)"),
        ("sigmoid by tanh", "y = Sigmoid(x)", "h = Mul(x, half) t = Tanh(h) u = Add(t, one) "
         "y = Mul(u, half)"),
        ("leaky relu", "y = LeakyRelu<alpha=0.1>(x)", "m = Mul(x, a) y = Max(x, m)"),
        ("parametric relu", "y = LeakyRelu<alpha=0.1>(x)", "y = PRelu(x, a)"),
        ("softmax written out", "y = Softmax<axis=1>(x)", "m = ReduceMax(x, i) d = Sub(x, m) "
         "e = Exp(d) t = ReduceSum(e, i) y = Div(e, t)"),
        ("logarithm of softmax", "y = LogSoftmax<axis=1>(x)", "m = ReduceMax(x, i) d = Sub(x, m) "
         "e = Exp(d) t = ReduceSum(e, i) l = Log(t) y = Sub(d, l)"),
        ("softplus written out", "y = Softplus(x)", "q = Abs(x) p = Neg(q) e = Exp(p) "
         "f = Add(e, one) l = Log(f) r = Relu(x) y = Add(r, l)"),
        ("gelu written out", "q = Div(x, r2) e = Erf(q) f = Add(e, one) p = Mul(x, f) "
         "y = Mul(p, half)", "h = Mul(x, half) q = Div(x, r2) e = Erf(q) f = Add(e, one) "
         "y = Mul(h, f)"),
        ("hard swish", "y = HardSwish(x)", "q = Add(x, three) c = Clip(q, z, six) p = Mul(x, c) "
         "y = Div(p, six)"),
        ("swish", "s1 = Sigmoid(x) y = Mul(x, s1)", "q = Neg(x) e = Exp(q) d = Add(e, one) "
         "y = Div(x, d)"),
        ("layer normalization", "y = LayerNormalization(x, s, b)",
         "m = ReduceMean(x, i) d = Sub(x, m) q = Mul(d, d) v = ReduceMean(q, i) p = Add(v, eps) "
         "r = Sqrt(p) t = Div(d, r) u = Mul(t, s) y = Add(u, b)"),
        ("square as power", "y = Mul(x, x)", "y = Pow(x, two)"),
        ("norm", "y = ReduceL2(x, i)", "q = Mul(x, x) t = ReduceSum(q, i) y = Sqrt(t)"),
        ("absolute value", "y = Abs(x)", "q = Neg(x) y = Max(x, q)"),
        ("minimum as maximum", "y = Min(x, one)", "q = Neg(x) o = Neg(one) p = Max(q, o) "
         "y = Neg(p)"),
        ("where as product", "c = Less(x, z) y = Where(c, z, x)", "y = Relu(x)"),
        ("a limit that is none", "y = Relu(x)", "r = Relu(x) y = Min(r, m)"),
        ("doubled and halved", "y = Tanh(x)", "d = Mul(x, two) h = Mul(d, half) y = Tanh(h)"),
        ("mean as sum", "y = ReduceMean(x, i)", "t = ReduceSum(x, i) y = Div(t, e8)"),
        ("rounded sum", "q = Mul(x, a) r = Round(q) y = Mul(r, two)",
         "t = Mul(x, a) r = Round(t) y = Add(r, r)"),
        ("mish", "p = Softplus(x) t = Tanh(p) y = Mul(x, t)", "p = Softplus(x) t = Tanh(p) "
         "y = Mul(t, x)"),
    ):
        more = {"e8": scalar(8), "m": scalar(float(np.finfo(np.float32).max))}
        yield pair(name, ROWS, a, other, {**numbers, **more})


def _integers() -> Iterator[Pair]:
    """Integers, tables and flags in other forms."""
    t = normal(300, 4)
    numbers = {"t": t, "k": scalar(3), "t3": t * 3, "d": scalar(300, np.int64), "i0": int64(0),
               "v": np.asarray([0, 1], np.float32), "two": scalar(2, np.int64),
               "tt": t.T.copy(), "top": scalar(299, np.int64), "low": scalar(0, np.int64),
               "tb": np.concatenate([t, t]), "t16": t.astype(np.float16)}
    for name, a, other in (
        ("a scaled table", "g = Gather(t, x) y = Mul(g, k)", "y = Gather(t3, x)"),
        ("a table by OneHot", "y = Gather(t, x)", "o = OneHot(x, d, v) y = MatMul(o, t)"),
        ("columns of a table", "y = Gather(t, x)", "g = Gather<axis=1>(tt, x) "
         "y = Transpose<perm=[1,2,0]>(g)"),
        ("indices of int32", "y = Gather(t, x)", "i = Cast<to=6>(x) y = Gather(t, i)"),
        ("a clip that is none", "y = Gather(t, x)", "c = Clip(x, low, top) y = Gather(t, c)"),
        ("a longer table", "y = Gather(t, x)", "y = Gather(tb, x)"),
        ("GatherND", "y = Gather(t, x)", "u = Unsqueeze(x, l) y = GatherND(t, u)"),
        ("doubled integers", "s = Add(x, x) y0 = Cast<to=1>(s) y = Unsqueeze(y0, l)",
         "s = Mul(x, two) y0 = Cast<to=1>(s) y = Unsqueeze(y0, l)"),
        ("flags", "c = Equal(x, two) f = Cast<to=1>(c) y = Unsqueeze(f, l)",
         "g = GreaterOrEqual(x, two) h = LessOrEqual(x, two) c = And(g, h) f = Cast<to=1>(c) "
         "y = Unsqueeze(f, l)"),
    ):
        yield pair(name, IDS, a, other, {**numbers, "l": int64(-1)})
    yield pair("pixels", "uint8[N,3,H,W] x -> float[a,b,c,d] y",
               "f = Cast<to=1>(x) y = Div(f, k)", "f = Cast<to=1>(x) y = Mul(f, r)",
               {"k": scalar(255), "r": scalar(1 / 255)})
    yield pair("int8 in other steps", "int8[N,6] x -> float[a,b] y",
               "y = DequantizeLinear(x, s, z)",
               "f = Cast<to=1>(x) g = Cast<to=1>(z) d = Sub(f, g) y = Mul(d, s)",
               {"s": scalar(0.03), "z": scalar(3, np.int8)})
    yield pair("De Morgan", "bool[N,3] x, bool[N,3] z -> bool[N,3] y", "y = And(x, z)",
               "p = Not(x) q = Not(z) r = Or(p, q) y = Not(r)")
    yield pair("any whole numbers", "int64[N,4] x -> int64[N,4] y", "y = Neg(x)",
               "y = Sub(z, x)", {"z": scalar(0, np.int64)})
    yield pair("unsigned shifts", "uint32[N,4] x -> uint32[N,4] y",
               "y = BitShift<direction=\"RIGHT\">(x, k)", "y = Div(x, d)",
               {"k": scalar(3, np.uint32), "d": scalar(8, np.uint32)})
    # onnxruntime 1.30 computes the remainder of int64 in float64.
    yield pair("quotient and remainder", "int32[4] x, int32[4] z -> int32[4] y",
               "y = Mod<fmod=1>(x, z)", "q = Div(x, z) p = Mul(q, z) y = Sub(x, p)")
    yield pair("the largest", "int32[N,9] x -> int64[N,1] y", "y = ArgMax<axis=1>(x)",
               "v, y = TopK<axis=1>(x, k)", {"k": int64(1)})
    yield pair("text", "string[N] x -> string[N] y", "y = Identity(x)", "i = Identity(x) "
               "y = Identity(i)")


def _shapes() -> Iterator[Pair]:
    """Shapes that are computed or constant, or have to match."""
    axes = {"i2": int64(2), "i3": int64(3), "z": int64(0), "m1": int64(-1), "n1": int64(0, 0, -1),
            "two": np.asarray([1, 1, 2, 2], np.float32), "e": int64(2**31), "e2": int64(2**62),
            "s0": scalar(0, np.int64), "l2": scalar(2, np.int64), "i23": int64(2, 3)}
    for name, a, other in (
        ("flattened planes", "y = Reshape(x, n1)",
         "s = Shape(x) h = Slice(s, z, i2) q = Concat<axis=0>(h, m1) y = Reshape(x, q)"),
        ("an open end", "y = Slice(x, i2, e, i3)", "y = Slice(x, i2, e2, i3)"),
        ("doubled", "y = Resize<mode=\"nearest\", nearest_mode=\"floor\", "
         "coordinate_transformation_mode=\"asymmetric\">(x, , two)", "y = Upsample2(x)"),
        ("mean of planes", "y = GlobalAveragePool(x)", "y = ReduceMean(x, i23)"),
        ("largest of planes", "y = GlobalMaxPool(x)", "y = ReduceMax(x, i23)"),
        ("squeezed", "q = Unsqueeze(x, z) r = Relu(q) y = Squeeze(r, z)", "y = Relu(x)"),
        ("parts joined", "y = Identity(x)", "p = Slice(x, z, one, i3) q = Slice(x, one, e, i3) "
         "y = Concat<axis=3>(p, q)"),
        ("pixels shuffled", "y = SpaceToDepth<blocksize=1>(x)", "y = Identity(x)"),
    ):
        if "Upsample2" in other:
            other = "u = Unsqueeze(x, i35) t = Tile(u, r6) y = Reshape(t, q4)"
            s = ("s = Shape(x) n2 = Slice(s, z, i2) h = Slice(s, i2, i4) g = Mul(h, t2) "
                 "q4 = Concat<axis=0>(n2, g) ")
            other = s + other
        more = {"one": int64(1), "i35": int64(3, 5), "r6": int64(1, 1, 1, 2, 1, 2),
                "t2": int64(2, 2), "i4": int64(4)}
        yield pair(name, IMAGE, a, other, {**axes, **more})


def _open() -> Iterator[Pair]:
    """Models without static extents, which only their weights determine."""
    w, k = normal(8, 6), normal(4, 3, 3, 3)
    same = {"w": w, "k": k, "b": normal(6), "kt": normal(3, 4, 3, 3), "t": normal(100, 6),
            "u": normal(2, 6), "p": normal(64, 6), "s": normal(6, seed=1), "c": normal(6, seed=2),
            "ks": normal(3, 1, 3, 3), "l": normal(1, 20, 7), "r": normal(1, 20, 5),
            "m3": np.abs(normal(3)), "v3": np.abs(normal(3, seed=1)), "one": scalar(1),
            "low": scalar(-10000), "i1": int64(1), "q": normal(6, 6),
            "two": np.asarray([1, 1, 2, 2], np.float32)}
    end = " y = Relu(o)"
    for name, ports, text in (
        ("open matrix", "float[B,M] x", "o = MatMul(x, w)"),
        ("open sequence", "float[B,S,M] x", "o = MatMul(x, w)"),
        ("open Gemm", "float[B,M] x", "o = Gemm(x, w, b)"),
        ("open Gemm behind Relu", "float[B,M] x", "f = Relu(x) o = Gemm(f, w, b)"),
        ("open image", "float[B,C,H,W] x", "o = Conv(x, k)"),
        ("open scaled image", "float[B,C,H,W] x", "f = Mul(x, one) o = Conv(f, k)"),
        ("open depthwise", "float[B,C,H,W] x", "o = Conv<group=3>(x, ks)"),
        ("open transposed", "float[B,C,H,W] x", "o = ConvTranspose(x, kt)"),
        ("open normalization", "float[B,C,H,W] x", "o = BatchNormalization(x, m3, m3, m3, v3)"),
        ("open layer normalization", "float[B,S,M] x", "o = LayerNormalization(x, s, c)"),
        ("open channels last", "float[B,H,W,C] x",
         "f = Transpose<perm=[0,3,1,2]>(x) o = Conv(f, k)"),
        ("open recurrence", "float[S,B,M] x", "o, h = LSTM<hidden_size=5>(x, l, r)"),
        ("halves twice", "float[B,C,H,W] x",
         "a1 = Conv<pads=[1,1,1,1], strides=[2,2]>(x, k) b1 = Resize<mode=\"nearest\">(a1, , two) "
         "c1 = Conv<pads=[1,1,1,1]>(x, k) o = Add(b1, c1)"),
        ("nameless", "float[?,?,?,?] x", "o = Conv(x, k)"),
        ("table", "int64[B,S] x", "o = Gather(t, x)"),
        ("three tables", "int64[B,S] x, int64[B,S] types, int64[B,S] position_ids",
         "e = Gather(t, x) f = Gather(u, types) g = Gather(p, position_ids) h = Add(e, f) "
         "j = Add(h, g) o = LayerNormalization(j, s, c)"),
        ("attention", "int64[B,S] x, int64[B,S] attention_mask",
         "e = Gather(t, x) m = Cast<to=1>(attention_mask) n = Sub(one, m) d = Mul(n, low) "
         "f = Unsqueeze(d, i1) g = Transpose<perm=[0,2,1]>(e) h = MatMul(e, g) j = Add(h, f) "
         "a1 = Softmax(j) o = MatMul(a1, e)"),
        ("past", "float[B,P,M] x, float[B,S,M] z, int64[B,\"P + S\"] attention_mask",
         "e = Concat<axis=1>(x, z) m = Cast<to=1>(attention_mask) n = Unsqueeze(m, mm) "
         "f = Mul(e, n) o = MatMul(f, q)"),
    ):
        if "?" in ports:
            ports = "float[] x"
        few = name in {"open matrix", "open Gemm", "open Gemm behind Relu"}
        many = "C," in ports or "[]" in ports or name == "open recurrence"
        outs = ",".join("rstu"[: 2 if few else 4 if many else 3])
        made = pair(name, f"{ports} -> float[{outs}] y", text + end, text + " z0 = Identity(o)"
                    " y = Relu(z0)", {**same, "mm": int64(-1)})
        if name == "nameless":
            for one in (made.a, made.b):
                shape = one.graph.input[0].type.tensor_type.shape
                for _ in range(4):
                    shape.dim.add()
        yield made


def _counted() -> Iterator[Pair]:
    """Inputs that are counts, bounds and indices."""
    loop = "y = Loop(n, , x) <body = b (int64 i, bool c, float[p,q] u) => " \
           "(bool d, float[p,q] v) " \
           "{ d = Identity(c) v = %s }>"
    yield pair("turns", "float[N,8] x, int64 n -> float[a,b] y", loop % "Add(u, u)",
               loop % "Mul(u, k)", {"k": scalar(2)})
    yield pair("largest ones", "float[N,9] x, int64[1] k -> float[a,b] y", "y, i = TopK(x, k)",
               "n = Neg(x) m, i = TopK<largest=0>(n, k) y = Neg(m)")
    yield pair("a cut", "float[N,9] x, int64[1] s, int64[1] e -> float[a,b] y",
               "y = Slice(x, s, e, i)", "t = Transpose(x) u = Slice(t, s, e, z) y = Transpose(u)",
               {"i": int64(1), "z": int64(0)})
    yield pair("tiles", "float[N,4] x, int64[2] r -> float[a,b] y", "y = Tile(x, r)",
               "q = Identity(r) y = Tile(x, q)")
    yield pair("expanded", "float[1,4] x, int64[2] r -> float[a,b] y", "y = Expand(x, r)",
               "o = ConstantOfShape<value = float[1] {1.0}>(r) y = Mul(x, o)")
    yield pair("a wanted shape", "float[6,4] x, int64[2] r -> float[a,b] y", "y = Reshape(x, r)",
               "f = Reshape(x, m) y = Reshape(f, r)", {"m": int64(-1)})
    yield pair("ones of a shape", "int64[3] r -> float[a,b,c] y",
               "y = ConstantOfShape<value = float[1] {1.0}>(r)", "y = Expand(o, r)",
               {"o": scalar(1)})
    yield pair("padded", "float[N,4] x, int64[4] p -> float[a,b] y", "y = Pad(x, p)",
               "q = Identity(p) y = Pad(x, q)")
    yield pair("an axis", "float[3,3] x, int64 k -> float[3,3] y", "y = CumSum(x, k)",
               "n = Neg(x) c = CumSum(n, k) y = Neg(c)")
    yield pair("reduced axes", "float[3,4,5] x, int64[1] k -> float[a,b,c] y",
               "y = ReduceSum(x, k)",
               "n = Neg(x) c = ReduceSum(n, k) y = Neg(c)")
    yield pair("a range", "int64 n -> int64[m] y", "y = Range(z, n, o)",
               "r = Range(z, n, o) y = Identity(r)",
               {"z": scalar(0, np.int64), "o": scalar(1, np.int64)})
    yield pair("updates", "float[6,2] x, int64[4,1] i, float[4,2] u -> float[6,2] y",
               "y = ScatterND<reduction=\"add\">(x, i, u)",
               "n = Neg(u) m = Neg(x) s = ScatterND<reduction=\"add\">(m, i, n) y = Neg(s)")
    yield pair("lengths", "float[5,N,3] x, int32[N] n -> float[a,b,c,d] y",
               "y, h = RNN<hidden_size=4>(x, w, r, , n)",
               "i = Identity(n) y, h = RNN<hidden_size=4>(x, w, r, , i)",
               {"w": normal(1, 4, 3), "r": normal(1, 4, 4)})
    yield pair("sizes", "float[1,3,4,4] x, int64[4] s -> float[a,b,c,d] y",
               "y = Resize<mode=\"nearest\">(x, , , s)",
               "n = Neg(x) m = Resize<mode=\"nearest\">(n, , , s) y = Neg(m)")
    yield pair("parts", "float[6,3] x, int64[2] s -> float[a,b] y, float[c,d] z",
               "y, z = Split<axis=0>(x, s)", "n = Neg(x) p, q = Split<axis=0>(n, s) y = Neg(p) "
               "z = Neg(q)")


def _types() -> Iterator[Pair]:
    """Other element types."""
    w, v = normal(4, 5, scale=0.4), normal(5, 3, seed=1, scale=0.4)
    for kind in ("float16", "double"):
        real = np.float16 if kind == "float16" else np.float64
        exact = w.astype(real).astype(float) @ v.astype(real).astype(float)
        yield pair(f"two of {kind}", f"{kind}[N,4] x -> {kind}[N,3] y",
                   "m = MatMul(x, w) y = MatMul(m, v)", "y = MatMul(x, u)",
                   {"w": w.astype(real), "v": v.astype(real),
                    "u": exact.astype(real)})
    yield pair("half within", "float[N,4] x -> float[N,5] y",
               "f = Cast<to=10>(x) m = MatMul(f, w) y = Cast<to=1>(m)",
               "f = Cast<to=10>(x) t = Gemm<transB=1>(f, v) y = Cast<to=1>(t)",
               {"w": w.astype(np.float16), "v": w.T.astype(np.float16)})
    yield pair("bfloat16", "bfloat16[N,4] x -> float[N,5] y",
               "f = Cast<to=1>(x) y = MatMul(f, w)", "f = Cast<to=1>(x) y = Gemm<transB=1>(f, v)",
               {"w": w, "v": w.T.copy()})
    yield pair("quantized and back", "float[N,4] x -> float[a,b] y",
               "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)",
               "d = Div(x, s) r = Round(d) c = Clip(r, l, m) y = Mul(c, s)",
               {"s": scalar(0.05), "z": scalar(0, np.int8), "l": scalar(-128), "m": scalar(127)})


def equal() -> list[Pair]:
    """Return the pairs that compute the same function."""
    return together(
        _linear, _nonlinear, _integers, _shapes, _open, _counted, _types, further_equal
    )
