"""Pairs that compute different functions, each in a way that inputs can miss."""

# fmt: off
from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.support.pairs.base import (
    IDS,
    IMAGE,
    ROWS,
    SQUARE,
    Pair,
    changed,
    int64,
    normal,
    pair,
    scalar,
    together,
)
from tests.support.pairs.further import further_different

__all__ = ["different"]


def _limits() -> Iterator[Pair]:
    """Pairs that only large, small, negative or rare values distinguish."""
    relu = "y = Relu(x)"
    for bound in (6.0, 50.0, 1e4):
        yield pair(f"clip at {bound:g}", IMAGE, "y = Identity(x)", "y = Min(x, m)",
                   {"m": scalar(bound)})
    for bound in (1e5, 1e9):
        yield pair(f"a clip at {bound:g} behind a small layer", IMAGE,
                   "c = Conv(x, w) y = Relu(c)", "c = Conv(x, w) y = Clip(c, l, m)",
                   {"w": normal(4, 3, 3, 3, scale=0.01), "l": scalar(0), "m": scalar(bound)})
        yield pair(f"a branch above {bound:g} of squares", ROWS,
                   "m = MatMul(x, w) y = Mul(m, m)",
                   "m = MatMul(x, w) q = Mul(m, m) c = Greater(q, k) y = Where(c, k, q)",
                   {"w": normal(8, 8, scale=0.01), "k": scalar(bound)})
    yield pair("clip at 0 and 6", IMAGE, relu, "y = Clip(x, l, m)",
               {"l": scalar(0), "m": scalar(6)})
    for kind, number in (
        *(("int8", 126), ("int8", -127), ("uint8", 254), ("int16", 30000), ("uint16", 60000)),
        *(("int32", 1_000_000), ("int32", -70_000), ("int64", 2**40), ("int64", -5)),
        *(("uint32", 2**31), ("uint64", 2**33)),
    ):
        op = "Max" if number < 0 else "Min"
        yield pair(f"{kind} ends at {number}", f"{kind}[N,5] x -> {kind}[N,5] y",
                   "y = Identity(x)", f"y = {op}(x, m)", {"m": scalar(number, kind)})
    yield pair("int8 of an uint8", "uint8[N,5] x -> float[N,5] y", "y = Cast<to=1>(x)",
               "a = Cast<to=3>(x) y = Cast<to=1>(a)")
    yield pair("int32 of an int64", "int64[N,5] x -> float[N,5] y", "y = Cast<to=1>(x)",
               "a = Cast<to=6>(x) y = Cast<to=1>(a)")
    yield pair("division rounds down", "int32[N,6] x -> int32[N,6] y", "y = Div(x, k)",
               "f = Cast<to=11>(x) q = Div(f, d) r = Floor(q) y = Cast<to=6>(r)",
               {"k": scalar(3, np.int32), "d": scalar(3, np.float64)})
    yield pair("remainder of negatives", "int64[N,6] x -> int64[N,6] y", "y = Mod<fmod=0>(x, k)",
               "y = Mod<fmod=1>(x, k)", {"k": scalar(7, np.int64)})
    for name, text in (
        ("above 50", "c = Greater(x, k)"),
        ("below 3e-3", "m = Abs(x) n = Neg(m) p = Neg(k) d = Reciprocal(p) c = Greater(n, d)"),
    ):
        k = scalar(50 if "50" in name else 300)
        yield pair(f"a branch {name}", ROWS, "y = Identity(x)",
                   f"{text} t = Mul(x, h) y = Where(c, t, x)", {"k": k, "h": scalar(2)})
    yield pair("exactly 1.25", ROWS, "y = Identity(x)",
               "c = Equal(x, k) y = Where(c, z, x)", {"k": scalar(1.25), "z": scalar(0)})
    yield pair("exactly 7 of int64", "int64[N,6] x -> int64[N,6] y", "y = Identity(x)",
               "c = Equal(x, k) y = Where(c, z, x)",
               {"k": scalar(7777, np.int64), "z": scalar(0, np.int64)})
    yield pair("ties go up", ROWS, "y = Round(x)", "s = Add(x, h) y = Floor(s)",
               {"h": scalar(0.5)})
    yield pair("ties of uint8 go up", "float[N,8] x -> uint8[N,8] y",
               "y = QuantizeLinear(x, s, z)",
               "q = Div(x, s) h = Add(q, k) f = Floor(h) o = Add(f, o128) "
               "c = Clip(o, l, m) y = Cast<to=2>(c)",
               {"s": scalar(0.5), "z": scalar(128, np.uint8), "k": scalar(0.5),
                "o128": scalar(128), "l": scalar(0), "m": scalar(255)})
    yield pair("ties go away from zero", "float[N,8] x -> int8[N,8] y",
               "r = Round(x) c = Clip(r, l, m) y = Cast<to=3>(c)",
               "a = Abs(x) h = Add(a, k) f = Floor(h) s = Sign(x) r = Mul(s, f) "
               "c = Clip(r, l, m) y = Cast<to=3>(c)",
               {"k": scalar(0.5), "l": scalar(-128), "m": scalar(127)})
    yield pair("wraps, does not saturate", "int16[N,6] x -> int8[N,6] y", "y = Cast<to=3>(x)",
               "c = Clip(x, l, m) y = Cast<to=3>(c)",
               {"l": scalar(-128, np.int16), "m": scalar(127, np.int16)})
    yield pair("exponentials overflow", ROWS, "y = ReduceLogSumExp<keepdims=1>(x, i)",
               "e = Exp(x) s = ReduceSum<keepdims=1>(e, i) y = Log(s)", {"i": int64(1)})
    yield pair("squares overflow", ROWS, "y = Abs(x)", "q = Mul(x, s) p = Mul(q, q) r = Sqrt(p) "
               "y = Mul(r, t)", {"s": scalar(1e18), "t": scalar(1e-18)})
    yield pair("or for and", "bool[N,3] x, bool[N,3] z -> bool[N,3] y", "y = And(x, z)",
               "y = Or(x, z)")
    yield pair("not equal for or", "bool[N,3] x, bool[N,3] z -> bool[N,3] y", "y = Or(x, z)",
               "y = Xor(x, z)")
    yield pair("the first of equals", "int32[N,9] x -> int64[N,1] y", "y = ArgMax<axis=1>(x)",
               "y = ArgMax<axis=1, select_last_index=1>(x)")
    yield pair("sign of zero", ROWS, "y = Sign(x)", "c = Less(x, z) y = Where(c, n, p)",
               {"z": scalar(0), "n": scalar(-1), "p": scalar(1)})
    yield pair("float for double", "double[N,4] x -> double[N,5] y", "y = MatMul(x, w)",
               "f = Cast<to=1>(x) v = Cast<to=1>(w) m = MatMul(f, v) y = Cast<to=11>(m)",
               {"w": normal(4, 5).astype(np.float64)})


def _functions() -> Iterator[Pair]:
    """Functions and attributes that are nearly equal."""
    for name, a, b in (
        ("slope 0.011", "y = LeakyRelu<alpha=0.01>(x)", "y = LeakyRelu<alpha=0.011>(x)"),
        ("alpha 1.01", "y = Elu<alpha=1.0>(x)", "y = Elu<alpha=1.01>(x)"),
        ("slope of a hard sigmoid", "y = HardSigmoid<alpha=0.2>(x)",
         "y = HardSigmoid<alpha=0.1666667>(x)"),
        ("sigmoid for hard sigmoid", "y = HardSwish(x)", "s = Sigmoid(x) y = Mul(x, s)"),
        ("softmax of channels", "y = Softmax<axis=-1>(x)", "y = Softmax<axis=1>(x)"),
        ("softmax of rows", "y = Softmax<axis=3>(x)", "y = Softmax<axis=2>(x)"),
        ("absolute sums", "y = LpNormalization<p=2>(x)", "y = LpNormalization<p=1>(x)"),
        ("average with padding", "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)",
         "y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x)"),
        ("rounded up", "y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)",
         "y = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(x)"),
        ("stride on even rows", "y = MaxPool<kernel_shape=[1,1], strides=[2,2]>(x)",
         "y = MaxPool<kernel_shape=[1,1], strides=[2,1]>(x)"),
        ("nearest of the lower", "y = Resize<mode=\"nearest\", nearest_mode=\"floor\">(x, , s)",
         "y = Resize<mode=\"nearest\", nearest_mode=\"ceil\">(x, , s)"),
        ("corners", "y = Resize<mode=\"linear\">(x, , s)",
         "y = Resize<mode=\"linear\", coordinate_transformation_mode=\"align_corners\">(x, , s)"),
        ("exclusive sum", "y = CumSum(x, k)", "y = CumSum<reverse=1>(x, k)"),
        ("lower triangle", "y = Trilu<upper=0>(x)", "y = Trilu<upper=0>(x, one)"),
        ("mirrored border", "y = Pad<mode=\"reflect\">(x, p)", "y = Pad<mode=\"edge\">(x, p)"),
        ("border of 0.001", "y = Pad(x, p)", "y = Pad(x, p, v)"),
    ):
        numbers = {"s": np.asarray([1, 1, 2, 2], np.float32), "k": scalar(2, np.int64),
                   "one": scalar(1, np.int64), "p": int64(0, 0, 1, 1, 0, 0, 1, 1),
                   "v": scalar(1e-3)}
        yield pair(name, IMAGE, a, b, numbers)
    yield pair("tanh for erf", ROWS, "d = Div(x, r) e = Erf(d) f = Add(e, o) m = Mul(x, f) "
               "y = Mul(m, h)",
               "q = Mul(x, x) p = Mul(q, x) k = Mul(p, c) i = Add(x, k) j = Mul(i, t) "
               "e = Tanh(j) f = Add(e, o) m = Mul(x, f) y = Mul(m, h)",
               {"r": scalar(2**0.5), "o": scalar(1), "h": scalar(0.5), "c": scalar(0.044715),
                "t": scalar(0.7978846)})
    norm = {"s": normal(8, seed=1), "b": normal(8, seed=2)}
    for eps in ("0.00002", "0.001", "0.000000000001"):
        yield pair(f"layer epsilon {eps}", ROWS,
                   "y = LayerNormalization<epsilon=0.00001>(x, s, b)",
                   f"y = LayerNormalization<epsilon={eps}>(x, s, b)", norm)
    planes = {"s": normal(3, seed=1), "b": normal(3, seed=2)}
    yield pair("instance epsilon", IMAGE, "y = InstanceNormalization<epsilon=0.00001>(x, s, b)",
               "y = InstanceNormalization<epsilon=0.0001>(x, s, b)", planes)
    batch = {**planes, "m": normal(3, seed=3), "v": np.asarray([1, 0.01, 1e-3], np.float32)}
    yield pair("batch epsilon", IMAGE, "y = BatchNormalization<epsilon=0.00001>(x, s, b, m, v)",
               "y = BatchNormalization<epsilon=0.00002>(x, s, b, m, v)", batch)


def _tables() -> Iterator[Pair]:
    """A single row of a table, or the treatment of an index."""
    gather = "y = Gather(t, x)"
    for rows, place in (
        *((2, 1), (10, 0), (10, 9), (300, 137), (300, 299), (5000, 4321), (50_000, 40_000)),
    ):
        table = normal(rows, 4)
        yield pair(f"row {place} of {rows}", IDS, gather, "", {"t": table},
                   {"t": changed(table, place)})
    table = normal(3000, 4)
    yield pair("one number of a row", "int32[1,5] x -> float[1,5,4] y", gather, "", {"t": table},
               {"t": changed(table, (2222, 3), 0.01)})
    yield pair("a row of a scaled table", IDS, "g = Gather(t, x) y = Mul(g, k)",
               "y = Gather(u, x)",
               {"t": table, "k": scalar(3)}, {"u": changed(table * np.float32(3), 1234)})
    small = normal(200, 4)
    yield pair("a row behind a normalization", IDS,
               "g = Gather(t, x) h = LayerNormalization(g, s, b) y = MatMul(h, w)", "",
               {"t": small, "s": normal(4, seed=1), "b": normal(4, seed=2), "w": normal(4, 4)},
               {"t": changed(small, (77, 2))})
    yield pair("the last row is clipped", IDS, gather, "c = Min(x, k) y = Gather(t, c)",
               {"t": small, "k": scalar(198, np.int64)})
    yield pair("positions from 2", IDS, "p = Add(x, o) y = Gather(t, p)", "",
               {"t": small, "o": scalar(2, np.int64)}, {"t": changed(small, 199)})
    yield pair("one of two tables", "int64[N,S] x, int64[N,S] z -> float[a,b,c] y",
               "g = Gather(t, x) h = Gather(u, z) y = Add(g, h)", "",
               {"t": small, "u": normal(2, 4)}, {"u": changed(normal(2, 4), 1)})
    yield pair("inputs swapped", "int64[N,S] x, int64[N,S] z -> float[a,b,c] y",
               "g = Gather(t, x) h = Gather(t, z) y = Sub(g, h)",
               "g = Gather(t, z) h = Gather(t, x) y = Sub(g, h)", {"t": small})
    labels = np.arange(600, dtype=np.int64)
    yield pair("one of the integers", "int64[3] x -> int64[3] y", gather, "", {"t": labels},
               {"t": changed(labels, 555, 1)})
    square = normal(9, 9)
    yield pair("columns for rows", "int64[5] x -> float[a,b] y", gather,
               "h = Gather<axis=1>(t, x) y = Transpose(h)", {"t": square})
    elements = normal(40, 3)
    yield pair("an element", "int64[4,3] x -> float[4,3] y",
               "y = GatherElements<axis=0>(t, x)", "",
               {"t": elements}, {"t": changed(elements, (39, 1))})
    yield pair("an element by two indices", "int64[4,2] x -> float[4] y", "y = GatherND(t, x)", "",
               {"t": elements}, {"t": changed(elements, (39, 2))})
    yield pair("a column behind OneHot", "int64[N,2] x -> float[a,b,c] y",
               "o = OneHot(x, d, v) y = MatMul(o, t)", "",
               {"d": scalar(90, np.int64), "v": np.asarray([0, 1], np.float32),
                "t": normal(90, 4)}, {"t": changed(normal(90, 4), 88)})
    yield pair("sums where indices meet",
               "float[6,2] x, int64[4,1] i, float[4,2] u -> float[6,2] y",
               "y = ScatterND<reduction=\"add\">(x, i, u)", "y = ScatterND(x, i, u)")
    yield pair("scatters to the last row", "float[70,2] x, int64[2,2] i -> float[70,2] y",
               "y = ScatterElements<axis=0>(x, i, u)",
               "c = Min(i, k) y = ScatterElements<axis=0>(x, c, u)",
               {"u": normal(2, 2), "k": scalar(68, np.int64)})
    bins = normal(256, 3)
    yield pair("a row for uint8", "uint8[N,4] x -> float[a,b,c] y",
               "i = Cast<to=7>(x) y = Gather(t, i)", "", {"t": bins}, {"t": changed(bins, 255)})


def _geometry() -> Iterator[Pair]:
    """Borders, sizes, axes of extent one, and batches."""
    w = normal(4, 3, 3, 3)
    conv = "y = Conv<pads=[1,1,1,1]>(x, w)"
    yield pair("shifted padding", IMAGE, conv, "y = Conv<pads=[1,1,1,1]>(x, v)", {"w": w},
               {"v": np.roll(w, 1, axis=3)})
    yield pair("another corner", IMAGE, "y = Conv<pads=[1,1,1,1]>(x, w)",
               "y = Conv<pads=[0,1,2,1]>(x, w)", {"w": w})
    yield pair("the kernel transposed", IMAGE, conv, "y = Conv<pads=[1,1,1,1]>(x, v)", {"w": w},
               {"v": w.transpose(0, 1, 3, 2)})
    yield pair("the other side for even sizes", IMAGE,
               "y = Conv<auto_pad=\"SAME_UPPER\", strides=[2,2]>(x, w)",
               "y = Conv<auto_pad=\"SAME_LOWER\", strides=[2,2]>(x, w)", {"w": w})
    yield pair("padding of a static size", IMAGE,
               "y = Conv<auto_pad=\"SAME_UPPER\", strides=[2,2]>(x, w)",
               "y = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w)", {"w": w})
    one, three = normal(3, 3, 1, 1), normal(4, 3, 3, 3, seed=1)
    bias = normal(3, seed=2, scale=0.01)
    merged = np.einsum("omhw,miab->oihw", three, one)
    yield pair("bias across a border", IMAGE,
               "h = Conv(x, p, q) y = Conv<pads=[1,1,1,1]>(h, t)",
               "y = Conv<pads=[1,1,1,1]>(x, m, n)", {"p": one, "q": bias, "t": three},
               {"m": merged, "n": np.einsum("omhw,m->o", three, bias)})
    take = "s = Shape(x) i = Gather(s, two) c = %s(i, k) e = Cast<to=1>(c) f = Mul(e, h) "
    for name, test, number in (
        ("above 200", "Greater", 200), ("odd above 3", "Less", 4), ("of 224", "Equal", 224),
        ("of 64", "Equal", 64), ("of 1", "Equal", 1),
    ):
        text = take % test + "y = Add(x, f)"
        numbers = {"two": scalar(2, np.int64), "k": scalar(number, np.int64), "h": scalar(1)}
        yield pair(f"heights {name}", IMAGE, "y = Identity(x)", text, numbers)
    numbers = {"o": scalar(0, np.int64), "k": scalar(2, np.int64), "h": scalar(1)}
    batch = "s = Shape(x) i = Gather(s, o) c = Equal(i, k) e = Cast<to=1>(c) y = Add(x, e)"
    yield pair("batches of two", ROWS, "y = Identity(x)", batch, numbers)
    yield pair("batches of three", ROWS, "y = Identity(x)", batch,
               {**numbers, "k": scalar(3, np.int64)})
    yield pair("unequal sides", IMAGE, "y = Identity(x)",
               "s = Shape(x) i = Gather(s, p) j = Gather(s, q) c = Equal(i, j) n = Not(c) "
               "e = Cast<to=1>(n) y = Add(x, e)",
               {"p": scalar(2, np.int64), "q": scalar(3, np.int64)})
    yield pair("equal sides", IMAGE, "y = Identity(x)",
               "s = Shape(x) i = Gather(s, p) j = Gather(s, q) c = Equal(i, j) "
               "e = Cast<to=1>(c) y = Add(x, e)",
               {"p": scalar(2, np.int64), "q": scalar(3, np.int64)})
    for size in (64, 40, 33):
        yield pair(f"cropped at {size}", IMAGE, "y = Relu(x)",
                   "r = Relu(x) y = Slice(r, z, e, i)",
                   {"z": int64(0), "e": int64(size), "i": int64(3)})
        yield pair(f"runs at {size} only", IMAGE, "y = Relu(x)", "r = Relu(x) y = Reshape(r, s)",
                   {"s": int64(-1, 3, size, size)})
    yield pair("runs at one batch only", ROWS, "y = Relu(x)", "r = Relu(x) y = Reshape(r, s)",
               {"s": int64(1, 8)})
    yield pair("no small sizes", IMAGE, "a = Conv<pads=[1,1,1,1]>(x, w) y = Relu(a)",
               "p = Pad<mode=\"reflect\">(x, f) q = Pad(x, g) z = Sub(q, q) o = Mul(p, k) "
               "b = Add(q, z) c = Conv(b, w) r = Relu(c) m = ReduceSum<keepdims=1>(o) "
               "n = Mul(m, k) y = Add(r, n)",
               {"w": w, "f": int64(0, 0, 2, 2, 0, 0, 2, 2), "g": int64(0, 0, 1, 1, 0, 0, 1, 1),
                "k": scalar(0)})
    yield pair("the mean of the batch", ROWS, "m = ReduceMean<keepdims=1>(x, i) y = Sub(x, m)",
               "m = ReduceMean<keepdims=1>(x, j) y = Sub(x, m)", {"i": int64(1), "j": int64(0, 1)})
    yield pair("axes swapped", SQUARE, "y = Identity(x)", "y = Transpose<perm=[0,2,1]>(x)")
    yield pair("a matrix transposed", ROWS, "y = MatMul(x, w)", "y = Gemm<transB=1>(x, w)",
               {"w": normal(8, 8)})
    yield pair("sums of columns", SQUARE, "y = ReduceSum<keepdims=1>(x, i)",
               "y = ReduceSum<keepdims=1>(x, j)", {"i": int64(1), "j": int64(2)})
    yield pair("odd rows", IMAGE, "y = Slice(x, z, e, i, s)", "y = Slice(x, o, e, i, s)",
               {"z": int64(0), "o": int64(1), "e": int64(2**31), "i": int64(2), "s": int64(2)})
    yield pair("blocks of depth", "float[N,8,H,W] x -> float[a,b,c,d] y",
               "y = DepthToSpace<blocksize=2, mode=\"DCR\">(x)",
               "y = DepthToSpace<blocksize=2, mode=\"CRD\">(x)")
    yield pair("the last column", ROWS, "y = Identity(x)", "y = Mul(x, m)",
               {"m": changed(np.ones(8, np.float32), 7, 1e-3)})
    yield pair("the last of a batch", ROWS, "y = Identity(x)",
               "l = Slice(x, m, e, z) k = Mul(l, h) f = Slice(x, z, m, z) "
               "y = Concat<axis=0>(f, k)",
               {"m": int64(-1), "e": int64(2**31), "z": int64(0), "h": scalar(2)})
    yield pair("another order of groups", "float[N,4,H,W] x -> float[a,b,c,d] y",
               "y = Conv<group=2>(x, w)", "y = Conv<group=2>(x, v)", {"w": normal(4, 2, 1, 1)},
               {"v": normal(4, 2, 1, 1)[[2, 3, 0, 1]]})
    yield pair("one of many channels", "float[N,256,H,W] x -> float[a,b,c,d] y",
               "y = Conv(x, w)", "", {"w": normal(8, 256, 1, 1)},
               {"w": changed(normal(8, 256, 1, 1), (7, 255, 0, 0), 0.05)})
    yield pair("other extents", IMAGE, conv, "y = Conv(x, w)", {"w": w})
    yield pair("an axis of one more", ROWS, "y = ReduceSum<keepdims=1>(x, i)",
               "s = ReduceSum<keepdims=0>(x, i) y = Unsqueeze(s, z)",
               {"i": int64(1), "z": int64(0)})


def _control() -> Iterator[Pair]:
    """Branches, loops, and inputs that are shapes, counts and indices."""
    branch = "{} = If(c) <then_branch = t () => (float[p,q] u) {{ u = Mul(x, k) }}, " \
             "else_branch = e () => (float[p,q] v) {{ v = Mul(x, l) }}>"
    body = branch.format("y")
    for name, test in (
        ("behind a large sum", "s = ReduceSum<keepdims=0>(x) c = Greater(s, h)"),
        ("behind a large number", "s = ReduceMax<keepdims=0>(x) c = Greater(s, h)"),
    ):
        yield pair(f"a branch {name}", ROWS, f"{test} {body}", "",
                   {"h": scalar(50), "k": scalar(2), "l": scalar(3)}, {"k": scalar(2.5)})
    yield pair("the other branch of a flag", "float[N,8] x, bool c -> float[a,b] y", body, "",
               {"k": scalar(2), "l": scalar(3)}, {"l": scalar(3.5)})
    loop = "y = Loop(n, , x) <body = b (int64 i, bool c, float[p,q] u) => " \
           "(bool d, float[p,q] v) " \
           "{ d = Identity(c) v = Mul(u, k) }>"
    yield pair("at most two turns", "float[N,8] x, int64 n -> float[a,b] y",
               loop, f"m = Min(n, two) {loop.replace('(n,', '(m,')}",
               {"k": scalar(1.5), "two": scalar(2, np.int64)})
    yield pair("at most three of the largest", "float[N,9] x, int64[1] k -> float[a,b] y",
               "y, i = TopK(x, k)", "m = Min(k, t) y, i = TopK(x, m)", {"t": int64(3)})
    cut = "float[N,9] x, int64[1] s, int64[1] e -> float[a,b] y"
    yield pair("no starts from behind", cut, "y = Slice(x, s, e, i)",
               "t = Max(s, z) y = Slice(x, t, e, i)", {"i": int64(1), "z": int64(0)})
    yield pair("no ends from behind", cut, "y = Slice(x, s, e, i)",
               "t = Abs(e) y = Slice(x, s, t, i)", {"i": int64(1)})
    yield pair("tiles along one axis", "float[N,4] x, int64[2] r -> float[a,b] y",
               "y = Tile(x, r)",
               "q = Mul(r, m) o = Sub(l, m) s = Add(q, o) y = Tile(x, s)",
               {"m": int64(1, 0), "l": int64(1, 1)})
    yield pair("expands to the first extent only", "float[1,4] x, int64[2] r -> float[a,b] y",
               "y = Expand(x, r)", "q = Min(r, m) y = Expand(x, q)", {"m": int64(1, 4)})
    yield pair("reshapes to rows", "float[6,4] x, int64[2] r -> float[a,b] y", "y = Reshape(x, r)",
               "y = Reshape(x, s)", {"s": int64(6, 4)})
    yield pair("sums along one axis", "float[3,3] x, int64 k -> float[3,3] y", "y = CumSum(x, k)",
               "y = CumSum(x, z)", {"z": scalar(0, np.int64)})
    lengths = "float[5,N,3] x, int32[N] n -> float[a,b,c,d] y"
    rnn = {"w": normal(1, 4, 3), "r": normal(1, 4, 4)}
    yield pair("lengths are ignored", lengths, "y, h = RNN<hidden_size=4>(x, w, r, , n)",
               "y, h = RNN<hidden_size=4>(x, w, r)", rnn)
    mask = "float[N,S,4] x, int64[N,S] attention_mask -> float[a,b,c] y"
    head = "m = Cast<to=1>(attention_mask) i = Sub(o, m) j = Mul(i, n) k = Unsqueeze(j, u) " \
           "t = Transpose<perm=[0,2,1]>(x) s = MatMul(x, t) "
    attention = {"o": scalar(1), "n": scalar(-10000), "u": int64(1), "z": scalar(0)}
    yield pair("the mask is ignored", mask, head + "a = Add(s, k) p = Softmax(a) y = MatMul(p, x)",
               head + "l = Mul(k, z) a = Add(s, l) p = Softmax(a) y = MatMul(p, x)", attention)


def different() -> list[Pair]:
    """Return the pairs that compute different functions."""
    return together(_limits, _functions, _tables, _geometry, _control, further_different)
