"""Products of tokens are written as products of rows, and no value changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnx_expand
from onnx_expand.graph.editing import Rewriter
from onnx_expand.graph.facts import Facts
from onnx_expand.passes.rows import as_rows
from tests.support.composites import fused_ops
from tests.support.graphs_text import graph
from tests.support.judge import Source, judge
from tests.support.random_tokens import TokenGraph

RNG = np.random.default_rng(0)


def ops(model: onnx.ModelProto) -> list[str]:
    """Return the op types of a model's nodes."""
    return [node.op_type for node in model.graph.node]


def numbers(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Draw random constants."""
    return {n: RNG.standard_normal(s).astype(np.float32) / 4 for n, s in shapes.items()}


@settings(deadline=None)
@given(st.integers(0, 1 << 30), st.sampled_from(["cheapest", "always"]))
def test_random_tokens(seed: int, policy: str) -> None:
    """No value or rank changes, no node is added, and rewriting is idempotent."""
    model = TokenGraph(seed).model
    folded = onnx_expand.fold(model, policy=policy)
    assert judge(Source(model, ({"N": 1}, {"N": 3})), folded) == []
    assert len(folded.graph.node) <= len(model.graph.node)
    assert onnx_expand.fold(folded, policy=policy) == folded
    before, after = ranks(model), ranks(folded)
    kept = before.keys() & after.keys()
    assert {name: before[name] for name in kept} == {name: after[name] for name in kept}


def ranks(model: onnx.ModelProto) -> dict[str, int]:
    """Return the ranks of a model's tensors by name."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: len(value.type.tensor_type.shape.dim) for value in values}


HEADS = """
    g (float[{n},6,8] x) => (float[{n},6,8] y) {{
        q0 = MatMul(x, wq) q1 = Add(q0, bq) q2 = Reshape(q1, cut)
        q = Transpose <perm=[0,2,1,3]> (q2)
        k0 = MatMul(x, wk) k1 = Add(bk, k0) k2 = Reshape(k1, cut)
        k = Transpose <perm=[0,2,3,1]> (k2)
        v0 = MatMul(x, wv) v1 = Add(v0, bv) v2 = Reshape(v1, cut)
        v = Transpose <perm=[0,2,1,3]> (v2)
        s = MatMul(q, k) {mask} p = Softmax <axis=-1> ({scores})
        o = MatMul(p, v) t = Transpose <perm=[0,2,1,3]> (o) r = Reshape(t, back)
        z0 = MatMul(r, wo) z = Add(z0, bo) w = Add(z, x)
        m0 = MatMul(w, wm) m1 = Add(m0, bm) m2 = Gelu(m1) m3 = MatMul(m2, wn) m = Add(m3, bn)
        y = Add(m, w)
    }}
"""


MASKS = {
    "": "",
    "Add": "s2 = Add(s, bias)",
    "Where": "s2 = Where(seen, s, far)",
    "Trilu": "l = Trilu <upper=1> (ones, next) t2 = Mul(l, far) s2 = Add(s, t2)",
}
"""How exporters hide later tokens from earlier ones."""


def heads(n: int | str = 2, *, mask: str = "") -> onnx.ModelProto:
    """Build an encoder layer without normalizations."""
    shapes = {f"w{c}": (8, 8) for c in "qkvo"} | {f"b{c}": (8,) for c in "qkvo"}
    shapes |= {"wm": (8, 16), "bm": (16,), "wn": (16, 8), "bn": (8,)}
    constants = numbers(**shapes)
    constants |= {"cut": np.array([0, 0, 2, 4]), "back": np.array([0, 0, 8])}
    past = np.tri(6, dtype=np.float32)
    of_masks = {"bias": (past - 1) * np.float32(1e4), "seen": past > 0, "next": np.array(1)}
    of_masks |= {"far": np.array(-1e4, np.float32), "ones": np.ones((6, 6), np.float32)}
    constants |= {name: number for name, number in of_masks.items() if name in MASKS[mask]}
    scores = "s2" if mask else "s"
    return graph(HEADS.format(n=n, mask=MASKS[mask], scores=scores), constants, opset=20)


def test_a_layer_has_fewer_nodes_and_no_additions() -> None:
    """Three products share one Reshape, and splitting heads needs none."""
    model = heads()
    folded, report = onnx_expand.fold(model, report=True)
    assert judge(Source(model, ({},)), folded) == []
    assert ops(folded).count("Gemm") == 6
    assert ops(folded).count("Add") == 2  # the shortcuts
    assert ops(folded).count("Reshape") == 1 + 3 + 1 + 1 + 2
    assert len(folded.graph.node) == len(model.graph.node) - 2
    assert any("Reshape" in site.result_ops and "Gemm" in site.result_ops for site in report.sites)
    gone = {n.name for n in model.graph.node} - {n.name for n in folded.graph.node}
    assert all(gone.isdisjoint(kept.nodes) for kept in report.kept)


def test_a_single_product_stays() -> None:
    """Replacing an addition by two Reshapes would add a node."""
    model = graph(
        "g (float[2,6,8] x) => (float[2,6,8] y) { a = MatMul(x, w) y = Add(a, b) }",
        numbers(w=(8, 8), b=(8,)),
    )
    assert ops(onnx_expand.fold(model)) == ["MatMul", "Add"]


def test_products_of_symbolic_extents_stay_for_fusion(tmp_path: Path) -> None:
    """The witness: onnxruntime fuses the bias into its GELU, which a Gemm would prevent."""
    model = heads("N")
    folded = onnx_expand.fold(model)
    assert "Gemm" not in ops(folded)
    assert fused_ops(model, tmp_path)["BiasGelu"] == 1
    assert fused_ops(folded, tmp_path)["BiasGelu"] == 1
    text = """
        g (float[N,6,8] x) => (float[N,6,8] y) {
            r = Reshape(x, rows) a = Gemm(r, wm, bm) g = Gelu(a) b = Gemm(g, wn, bn)
            y = Reshape(b, tokens)
        }
    """
    constants = numbers(wm=(8, 16), bm=(16,), wn=(16, 8), bn=(8,))
    constants |= {"rows": np.array([-1, 8]), "tokens": np.array([-1, 6, 8])}
    assert fused_ops(graph(text, constants, opset=20), tmp_path)["BiasGelu"] == 0


@pytest.mark.parametrize("mask", MASKS)
def test_fusions_are_not_lost(mask: str, tmp_path: Path) -> None:
    """With static extents, the runtime itself converts the source to Gemms."""
    model = heads(mask=mask)
    folded = onnx_expand.fold(model)
    before, after = fused_ops(model, tmp_path), fused_ops(folded, tmp_path)
    assert not before - after
    assert ops(folded).count("Gemm") == 6
    assert judge(Source(model, ({},)), folded) == []


def with_overridable_matrices(model: onnx.ModelProto) -> None:
    """Make the matrices overridable."""
    for tensor in model.graph.initializer:
        if tensor.name[0] == "w":
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            model.graph.input.append(info)


def with_quantized_inputs(model: onnx.ModelProto) -> None:
    """Quantize the inputs of products."""
    for name, number in (("scale", np.float32(0.1)), ("zero", np.uint8(128))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(number), name))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for i, node in enumerate(nodes):
        if node.op_type == "MatMul" and node.input[1][0] == "w":
            pair = [f"{i}q", f"{i}d"]
            for op, x, y in (
                ("QuantizeLinear", node.input[0], pair[0]),
                ("DequantizeLinear", *pair),
            ):
                made = onnx.helper.make_node(op, [x, "scale", "zero"], [y], f"n{y}")
                model.graph.node.append(made)
            node.input[0] = pair[1]
        model.graph.node.append(node)


def with_biases_of_tokens(model: onnx.ModelProto) -> None:
    """Add something else to each token."""
    for tensor in model.graph.initializer:
        if tensor.name[0] == "b" and tensor.name != "back":
            row = onnx.numpy_helper.to_array(tensor)
            table = np.outer(np.arange(1, 7), row).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(table, tensor.name))


@pytest.mark.parametrize(
    "change", [with_overridable_matrices, with_quantized_inputs, with_biases_of_tokens]
)
def test_refused(change: Callable[[onnx.ModelProto], None]) -> None:
    """Products of overridable matrices, quantized inputs or per-token biases stay."""
    model = heads()
    change(model)
    folded = onnx_expand.fold(model)
    assert "Gemm" not in ops(folded)
    assert judge(Source(model, ({},)), folded) == []


def test_locked_nodes_stay() -> None:
    """Locked labels exclude products."""
    model = ir.serde.deserialize_model(heads())
    names = {out.name: node.name or out.name for node in model.graph for out in node.outputs}
    locked = frozenset(names[name] or "" for name in ("m0", "m1", "m3", "m"))
    found = list(as_rows(model.graph, Facts(model), Rewriter(model), locked))
    assert sum(node.op_type == "Gemm" for node in model.graph) == 4
    assert locked.isdisjoint(name for rowed in found for name in rowed.old)
