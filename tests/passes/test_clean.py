"""Cleaning: fewer nodes, and results that are equal bit by bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, inliner, numpy_helper

import onnx_expand
from onnx_expand.passes.clean import Clean, Cleaned
from tests.support.graphs_text import graph, ops, weights
from tests.support.random_models import KINDS, random_model, sizes_of

ort = pytest.importorskip("onnxruntime")
Arrays = list[npt.NDArray[Any]]


def clean(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Cleaned]:
    """Return a cleaned copy, checked in full; cleaning it again must not change it."""
    own = ir.from_proto(copy.deepcopy(model))
    result = Clean().call(own)
    found = ir.to_proto(own)
    if _is_valid(model):
        onnx.checker.check_model(found, full_check=True)
    again = Clean().call(ir.from_proto(copy.deepcopy(found)))
    assert not again.modified
    assert result.modified == bool(result.cleaned)
    return found, result.cleaned


def _is_valid(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def run(model: onnx.ModelProto, **feeds: npt.NDArray[Any]) -> Arrays:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    # Pre-packed weights are multiplied in another order.
    options.add_session_config_entry("session.disable_prepacking", "1")
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: Arrays = session.run(None, feeds)
    return found


def _same(models: list[onnx.ModelProto], **feeds: npt.NDArray[Any]) -> None:
    """Return whether two models compute bitwise equal outputs."""
    first, second = (run(model, **feeds) for model in models)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)

LESS = {
    "twice": ("a = Exp(x) b = Exp(x) y = Add(a, b)", ["Exp", "Add"]),
    "a chain, twice": (
        "a = Exp(x) b = Sin(a) c = Exp(x) d = Sin(c) y = Sub(b, d)",
        ["Exp", "Sin", "Sub"],
    ),
    "equal constants": ("a = Pow(x, two) b = Pow(x, zwei) y = Sub(a, b)", ["Pow", "Sub"]),
    "unread": ("a = Exp(x) b = Sin(a) y = Cos(x)", ["Cos"]),
    "a shape": (
        "s = Shape(x) y = Reshape(x, s)",
        ["Reshape"],
    ),
    "shape arithmetic": (
        """s = Shape(x) zero = Constant <value: tensor = int64 {0}> () n = Gather(s, zero)
        axis = Constant <value: tensor = int64[1] {0}> () u = Unsqueeze(n, axis)
        rest = Constant <value: tensor = int64[1] {-1}> () t = Concat <axis = 0> (u, rest)
        y = Reshape(x, t)""",
        ["Reshape"],
    ),
    "a table": ("t = Gather(table, places) a = Sin(x) y = Add(a, t)", ["Sin", "Add"]),
    "add nothing": ("a = Sin(x) y = Add(a, nil)", ["Sin"]),
    "times one": ("a = Sin(x) y = Div(a, one)", ["Sin"]),
    "identities": ("a = Identity(x) b = Sin(a) y = Identity(b)", ["Sin"]),
    "inference dropout": ("a = Sin(x) y = Dropout(a)", ["Sin"]),
    "a cast to its own type": ("a = Sin(x) b = Cast <to = 1> (a) y = Cos(b)", ["Sin", "Cos"]),
    "slices": (
        "a = Slice(x, start, end, first) y = Slice(a, start, end, last)",
        ["Slice"],
    ),
    "constants in nodes": (
        "c = Constant <value: tensor = float {3}> () a = Sin(x) y = Max(a, c)",
        ["Sin", "Max"],
    ),
}
CONSTANTS: dict[str, npt.NDArray[Any]] = {
    "two": np.array(2, np.float32),
    "zwei": np.array(2, np.float32),
    "nil": np.zeros((3, 4), np.float32),
    "one": np.ones((1, 4), np.float32),
    "table": np.arange(8, dtype=np.float32),
    "places": np.arange(12).reshape(3, 4) % 8,
    "start": np.array([1]),
    "end": np.array([3]),
    "first": np.array([1]),
    "last": np.array([-1]),
    "wide": np.zeros((5, 1, 3, 4), np.float32),
}


def small(nodes: str, *, out: str = "float[A,B,C] y", **more: npt.NDArray[Any]) -> onnx.ModelProto:
    held = {**CONSTANTS, **more}
    words = set(nodes.replace("(", " ").replace(")", " ").replace(",", " ").split())
    return graph(
        f"g (float[2,3,4] x) => ({out}) {{ {nodes} }}", {k: held[k] for k in held if k in words}
    )


@pytest.mark.parametrize("name", LESS)
def test_superfluous_nodes_are_removed(name: str) -> None:
    nodes, left = LESS[name]
    model = small(nodes, out="float[A,B] y" if name == "shape arithmetic" else "float[A,B,C] y")
    found, cleaned = clean(model)
    assert ops(found) == left
    assert cleaned
    _same(x=X, models=[model, found])
    assert list(found.graph.output) == list(model.graph.output)
    assert list(found.graph.input) == list(model.graph.input)


STAYS = {
    "random numbers": "a = RandomNormalLike(x) b = RandomNormalLike(x) y = Sub(a, b)",
    "coins": "p = Sigmoid(x) a = Bernoulli(p) b = Bernoulli(p) y = Sub(a, b)",
    "dropout in training": """
        r = Constant <value: tensor = float {0.5}> () t = Constant <value: tensor = bool {1}> ()
        a = Dropout(x, r, t) b = Dropout(x, r, t) y = Sub(a, b)""",
    "an output that is an input": "y = Identity(x)",
    "zeros that widen": "a = Sin(x) y = Add(a, wide)",
    "a constant less nothing": "a = Sin(x) y = Sub(nil, a)",
    "slices of one axis": "a = Slice(x, start, end, last) y = Slice(a, start, end, last)",
}


@pytest.mark.parametrize("name", STAYS)
def test_needed_nodes_stay(name: str) -> None:
    out = "float[A,B,C,D] y" if "wide" in STAYS[name] else "float[A,B,C] y"
    model = small(STAYS[name], out=out)
    found, _ = clean(model)
    assert ops(found) == [op for op in ops(model) if op != "Constant"]


def test_equal_random_nodes_are_not_merged() -> None:
    """The witness: merged, their difference would be zero."""
    found, _ = clean(small(STAYS["random numbers"]))
    assert np.any(run(found, x=X)[0])


def test_zeros_of_both_signs_are_two_constants() -> None:
    """The witness: quotients by them are infinities of both signs."""
    model = small(
        """p = Constant <value: tensor = float {0.0}> ()
        n = Constant <value: tensor = float {-0.0}> ()
        a = Abs(x) b = Mul(a, p) c = Mul(a, n) d = Div(a, b) e = Div(a, c) y = Max(d, e)"""
    )
    found, _ = clean(model)
    assert ops(found) == ["Abs", "Mul", "Mul", "Div", "Div", "Max"]
    _same([model, found], x=X)


def test_equal_nodes_that_are_both_outputs_stay_two() -> None:
    model = small("y = Exp(x) z = Exp(x)", out="float[2,3,4] y, float[2,3,4] z")
    found, _ = clean(model)
    assert [v.name for v in found.graph.output] == ["y", "z"]
    assert ops(found) == ["Exp", "Exp"]


@pytest.mark.parametrize(
    "nodes", ["a = Exp(x) y = Exp(x) z = Sin(a)", "y = Exp(x) a = Exp(x) z = Sin(a)"]
)
def test_an_output_with_a_duplicate_keeps_its_name(nodes: str) -> None:
    model = small(nodes, out="float[2,3,4] y, float[2,3,4] z")
    found, _ = clean(model)
    assert ops(found) == ["Exp", "Sin"]
    assert list(found.graph.output) == list(model.graph.output)
    for want, got in zip(run(model, x=X), run(found, x=X), strict=True):
        np.testing.assert_array_equal(want, got)


def test_nodes_of_unknown_domains_are_not_merged() -> None:
    """Such a node may have a state or be random."""
    node = "custom.Draw"
    text = f"""<ir_version: 8, opset_import: ["" : 17, "custom" : 1]>
        g (float[2,3,4] x) => (float[2,3,4] y) {{ a = {node}(x) b = {node}(x) y = Sub(a, b) }}"""
    model = onnx.parser.parse_model(text)
    own = ir.from_proto(model)
    Clean().call(own)
    assert [n.op_type for n in own.graph] == ["Draw", "Draw", "Sub"]


def test_calls_of_functions_are_not_merged_and_their_bodies_are_cleaned() -> None:
    """Attribute references are equal if they have the same name."""
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[2,3,4] x) => (float[2,3,4] y) {
            a = own.f <p = 2.0, q = 3.0> (x) b = own.f <p = 2.0, q = 3.0> (x) y = Sub(a, b)
        }
        <opset_import: ["" : 17], domain: "own">
        f <p, q> (x) => (y) {
            a = Elu <alpha: float = @p> (x) b = Elu <alpha: float = @q> (x)
            c = Elu <alpha: float = @p> (x) s = Sub(a, b) i = Identity(s) y = Mul(i, c)
        }"""
    model = onnx.parser.parse_model(text)
    found, _ = clean(model)
    assert ops(found) == ["f", "f", "Sub"]
    assert [n.op_type for n in found.functions[0].node] == ["Elu", "Elu", "Sub", "Mul"]
    inlined = [inliner.inline_local_functions(m) for m in (model, found)]
    _same(x=X, models=inlined)


def test_bodies_are_cleaned_and_read_what_lies_outside() -> None:
    """An Identity that returns an outer value from a branch stays."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2,3,4] x, bool c) => (float[A,B,C] y) {
            a = Exp(x) b = Exp(x)
            y = If (c) <
                then_branch = t () => (float[A,B,C] p) { p = Identity(b) },
                else_branch = e () => (float[A,B,C] q) {
                    u = Sin(b) v = Sin(a) w = Identity(v) q = Add(u, w)
                }
            >
        }"""
    model = onnx.parser.parse_model(text)
    found, _ = clean(model)
    assert ops(found) == ["Exp", "If"]
    then, other = (a.g for a in sorted(found.graph.node[1].attribute, key=lambda a: -len(a.name)))
    bodies = {tuple(n.op_type for n in g.node) for g in (then, other)}
    assert bodies == {("Identity",), ("Sin", "Add")}
    for c in (True, False):
        _same(x=X, c=np.array(c), models=[model, found])


def test_outputs_decide_whether_batch_normalization_trains() -> None:
    """Before opset 14, five outputs mean training; the two nodes compute different values."""
    text = """g (float[2,3,4] x) => (float[A,B,C] y, float[A,B,C] z) {
        y, m, v, a, b = BatchNormalization(x, s, s, s, s)
        z = BatchNormalization(x, s, s, s, s) }"""
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 9]>' + text)
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "s"))
    own = ir.from_proto(model)
    Clean().call(own)
    assert len(list(own.graph)) == 2


def test_narrow_and_shared_constants_are_stored_once() -> None:
    """Quantized, half-precision and tied weights are not stored wider or twice."""
    w = np.random.default_rng(0).standard_normal((256, 256))
    text = """g (float[2,256] x) => (float[2,256] y) {
        q = DequantizeLinear(i8, scale) h = Cast <to = 1> (f16) t = Transpose(tied)
        a = MatMul(x, q) b = Sin(a) c = MatMul(b, h) d = Sin(c) e = MatMul(d, t) f = Sin(e)
        y = MatMul(f, tied) }"""
    held: dict[str, npt.NDArray[Any]] = {
        "i8": (w * 20).astype(np.int8),
        "scale": np.array(0.05, np.float32),
        "f16": w.astype(np.float16),
        "tied": w.astype(np.float32),
    }
    model = graph(text, held)
    found, cleaned = clean(model)
    assert ops(found) == ops(model)
    assert not cleaned
    folded = onnx_expand.fold(model)
    assert folded.ByteSize() <= model.ByteSize()


@pytest.mark.parametrize(("heads", "written"), [(2, True), (40, False)])
def test_large_tables_are_stored_if_the_model_hardly_grows(heads: int, written: bool) -> None:
    """The file may grow by one tenth at most."""
    rng = np.random.default_rng(0)
    text = """g (float[1,H,49,49] x, float[1,256] z) => (float[1,H,49,49] y, float[A,B] u) {
        t = Gather <axis = 1> (table, places) s = Add(x, t) y = Softmax(s) u = MatMul(z, w) }"""
    held: dict[str, npt.NDArray[Any]] = {
        "table": rng.standard_normal((heads, 49)).astype(np.float32),
        "places": rng.integers(0, 49, (49, 49)),
        **weights(w=(256, 512)),
    }
    model = graph(text.replace("H", str(heads)), held)
    found, cleaned = clean(model)
    assert ("Gather" not in ops(found)) == written
    before, after = (sum(len(t.raw_data) for t in m.graph.initializer) for m in (model, found))
    assert after - before == cleaned.grown <= before // 10 + (1 << 14)
    folded = onnx_expand.fold(model)
    assert ("Gather" not in ops(folded)) == written


def test_huge_constants_are_not_stored() -> None:
    """A Constant that would be larger than the model is not even computed."""
    text = """g (float[1,N] x) => (float[A,B] y) {
        s = Constant <value: tensor = int64[2] {8192, 8192}> ()
        c = ConstantOfShape(s) t = ReduceSum(c) y = Add(x, t) }"""
    found, _ = clean(graph(text, {}))
    assert found.ByteSize() < 1000


def test_a_dynamic_batch_needs_no_shape_arithmetic() -> None:
    """One extent becomes -1, or the input's extents are copied with 0."""
    text = """g (float[N,L,12] x) => (float[A,B,C,D] y) {
        s = Shape(x) zero = Constant <value: tensor = int64[1] {0}> ()
        one = Constant <value: tensor = int64[1] {1}> () n = Gather(s, zero) l = Gather(s, one)
        rest = Constant <value: tensor = int64[2] {3, 4}> () t = Concat <axis = 0> (n, l, rest)
        y = Reshape(x, t) }"""
    model = graph(text, {})
    found, _ = clean(model)
    assert ops(found) == ["Reshape"]
    for extents in ((2, 5), (1, 1), (0, 5), (3, 0)):
        x = np.ones((*extents, 12), np.float32)
        _same(x=x, models=[model, found])


def test_marked_folds_and_those_that_ask_for_it_clean_nothing() -> None:
    model = small(LESS["twice"][0])
    assert ops(onnx_expand.fold(model)) == ["Exp", "Add"]
    assert ops(onnx_expand.fold(model, clean=False)) == ops(model)
    assert ops(onnx_expand.fold(model, policy="marked")) == ops(model)


def test_old_files_keep_their_constants_in_nodes() -> None:
    """Before IR version 4 an initializer was an input, which callers may override."""
    model = small(LESS["constants in nodes"][0])
    model.ir_version = 3
    found, cleaned = clean(model)
    assert ops(found) == ops(model)
    assert not cleaned


@pytest.mark.parametrize("opset", [7, 8, 9])
def test_old_constants_are_no_integers(opset: int) -> None:
    """Before opset 9 a Constant holds floating-point numbers, which a Cast converts."""
    text = (
        f'<ir_version: 3, opset_import: ["" : {opset}]> g (float[2,3,4] x) => (float[A,B] y) {{'
        " s = Shape(x) c = Constant <value: tensor = float[1] {-1}> () r = Cast <to = 7> (c)"
        " d = Constant <value: tensor = float[1] {6}> () q = Cast <to = 7> (d)"
        " t = Concat <axis = 0> (q, r) a = Reshape(x, t) e = Exp(a) y = Sin(e) }"
    )
    model = onnx.parser.parse_model(text)
    folded = onnx_expand.fold(model)
    onnx.checker.check_model(folded, full_check=True)
    left = ["Reshape", "Exp", "Sin"]
    assert [n.op_type for n in folded.graph.node if n.op_type not in {"Constant", "Cast"}] == left
    assert folded.ir_version == 3
    assert not folded.graph.initializer
    assert onnx_expand.fold(folded) == folded
    _same(x=X, models=[model, folded])


@pytest.mark.parametrize("kind", KINDS)
def test_random_models_compute_the_same(kind: str) -> None:
    """Results are bitwise equal at every size, no node is added, and cleaning is idempotent."""
    ran = 0
    for seed in range(40):
        model = random_model(seed, kind)
        found, _ = clean(model)
        assert sum(_counts(found).values()) <= sum(_counts(model).values())
        assert list(found.graph.output) == list(model.graph.output)
        assert list(found.opset_import) == list(model.opset_import)
        for sizes in sizes_of(model):
            try:
                feeds = _feeds(model, sizes, seed)
                wanted = run(model, **feeds)
            except Exception:  # onnxruntime's errors have no common type
                continue
            ran += 1
            for a, b in zip(wanted, run(found, **feeds), strict=True):
                np.testing.assert_array_equal(a, b)
    assert ran >= 60


def _feeds(
    model: onnx.ModelProto, sizes: dict[str, int], seed: int
) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(seed)
    held = {t.name for t in model.graph.initializer}
    feeds = {}
    for port in model.graph.input:
        if port.name not in held:
            kind = helper.tensor_dtype_to_np_dtype(port.type.tensor_type.elem_type)
            dims = port.type.tensor_type.shape.dim
            shape = [
                d.dim_value if d.HasField("dim_value") else sizes.get(d.dim_param, 2) for d in dims
            ]
            feeds[port.name] = (rng.standard_normal(shape) * 2).astype(kind)
    return feeds


def _counts(model: onnx.ModelProto) -> dict[str, int]:
    counts: dict[str, int] = {}

    def walk(nodes: Any) -> None:
        for node in nodes:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
            for attribute in node.attribute:
                walk(attribute.g.node)

    walk(model.graph.node)
    for function in model.functions:
        walk(function.node)
    return counts


# -- Peers ------------------------------------------------------------------------------------


def _slim(model: onnx.ModelProto) -> onnx.ModelProto:
    found: onnx.ModelProto = pytest.importorskip("onnxslim").slim(model)
    return found


def _simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    found: onnx.ModelProto = pytest.importorskip("onnxsim").simplify(model)[0]
    return found


def _onnxscript(model: onnx.ModelProto) -> onnx.ModelProto:
    found: onnx.ModelProto = pytest.importorskip("onnxscript.optimizer").optimize(model)
    return found


PEERS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "onnxslim": _slim,
    "onnxsim": _simplified,
    "onnxscript": _onnxscript,
}
# Exports around attention: heads, positions, windows, repeated index arithmetic.
EXPORTED = {
    "attention": """
        s = Shape(x) i0 = Constant <value: tensor = int64 {0}> () n = Gather(s, i0)
        s2 = Shape(x) i1 = Constant <value: tensor = int64 {1}> () l = Gather(s2, i1)
        ax = Constant <value: tensor = int64[1] {0}> ()
        n0 = Unsqueeze(n, ax) l0 = Unsqueeze(l, ax)
        h = Constant <value: tensor = int64[2] {2, 4}> ()
        t = Concat <axis = 0> (n0, l0, h)
        q = MatMul(x, wq) qh = Reshape(q, t) qt = Transpose <perm = [0, 2, 1, 3]> (qh)
        k = MatMul(x, wk) kh = Reshape(k, t) kt = Transpose <perm = [0, 2, 3, 1]> (kh)
        v = MatMul(x, wv) vh = Reshape(v, t) vt = Transpose <perm = [0, 2, 1, 3]> (vh)
        p = MatMul(qt, kt) bias = Gather <axis = 1> (table, places) pb = Add(p, bias)
        a = Softmax <axis = -1> (pb) o = MatMul(a, vt) ot = Transpose <perm = [0, 2, 1, 3]> (o)
        c = Constant <value: tensor = int64[1] {8}> () u = Concat <axis = 0> (n0, l0, c)
        y = Reshape(ot, u)""",
    "patches": """
        s0 = Constant <value: tensor = int64[1] {0}> ()
        s1 = Constant <value: tensor = int64[1] {1}> ()
        big = Constant <value: tensor = int64[1] {9223372036854775807}> ()
        a1 = Constant <value: tensor = int64[1] {1}> ()
        a2 = Constant <value: tensor = int64[1] {2}> ()
        st = Constant <value: tensor = int64[1] {2}> ()
        a = Slice(x, s0, big, a1, st) b = Slice(a, s0, big, a2, st)
        c = Slice(x, s0, big, a1, st) d = Slice(c, s1, big, a2, st)
        y = Concat <axis = -1> (b, d)""",
}


@pytest.mark.parametrize("batch", ["2", "N"])
@pytest.mark.parametrize("name", EXPORTED)
@pytest.mark.parametrize("peer", PEERS)
def test_no_peer_leaves_fewer_nodes(peer: str, name: str, batch: str) -> None:
    held: dict[str, npt.NDArray[Any]] = {
        **weights(wq=(8, 8), wk=(8, 8), wv=(8, 8)),
        "table": np.arange(32, dtype=np.float32).reshape(2, 16),
        "places": np.arange(36).reshape(6, 6) % 16,
    }
    used = {k: v for k, v in held.items() if k in EXPORTED[name]}
    text = f"g (float[{batch},6,8] x) => (float[A,B,C] y) {{ {EXPORTED[name]} }}"
    model = graph(text, used)
    theirs = PEERS[peer](copy.deepcopy(model))
    ours = onnx_expand.fold(model)
    assert len(ours.graph.node) <= len(theirs.graph.node)
    x = np.random.default_rng(1).standard_normal((2, 6, 8)).astype(np.float32)
    np.testing.assert_allclose(run(model, x=x)[0], run(ours, x=x)[0], rtol=1e-5, atol=1e-6)


# Constants computed from stored ones, and the remaining ops of each.
MADE = {
    "a repetition": (
        "g (int64[2,3] i) => (float[2,3] y) "
        "{ e = Expand (p, two) y = GatherElements <axis=1> (e, i) }",
        ["GatherElements"],
    ),
    "a product of what others read": (
        "g (int64[2,3] i) => (float[2,3] y) { c = MatMul (rows, w) t = Tanh (c) "
        "a = GatherElements (w, i) b = GatherElements (rows, i) d = GatherElements (t, i) "
        "y = Sum (a, b, d) }",
        ["GatherElements", "GatherElements", "GatherElements", "Sum"],
    ),
    "a table whose shape is read": (
        "g (int64[3] i) => (float[3] y) { t = Transpose <perm=[1,0]> (p) s = Shape (t) "
        "n = Gather <axis=0> (s, first) e = Reshape (t, n) y = GatherElements (e, i) }",
        ["GatherElements"],
    ),
    "places of what is not zero": (
        "g (int64[2,3] i) => (int64[2,3] y) { n = NonZero (ones) t = Transpose <perm=[1,0]> (n) "
        "s = Squeeze (t, first1) u = Unsqueeze (s, first) y = GatherElements (u, i) }",
        ["GatherElements"],
    ),
    "a running sum": (
        "g (int64[2,3] i) => (int64[2,3] y) { c = CumSum (ones, one) y = Gather <axis=0> (c, i) }",
        ["Gather"],
    ),
}


@pytest.mark.parametrize(("text", "left"), MADE.values(), ids=MADE)
def test_constants_computed_from_constants_are_stored(text: str, left: list[str]) -> None:
    """Repetition, arithmetic and a consumer of the shape do not copy a stored constant."""
    numbers = {"two": [2, 1], "first": [0], "first1": [1], "ones": [1] * 9, "one": 0}
    model = graph(
        text,
        {
            **weights(p=(1, 128), w=(12, 12), rows=(12, 12)),
            **{name: np.array(number, np.int64) for name, number in numbers.items()},
        },
    )
    folded = onnx_expand.fold(model)
    assert ops(folded) == left
    assert onnx_expand.check(model, folded, samples=1)
