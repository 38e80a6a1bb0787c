"""Law: no rewrite takes one axis for another, whatever the extents, types and operand order."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnx_expand
from onnx_expand import lower
from onnx_expand.errors import Reason
from onnx_expand.linear.driver import Rule, Terms, rewrite
from onnx_expand.passes import Fold, Policy, folding
from tests.support.graphs_text import fold, graph, ops, weights
from tests.support.random_axes import axis_graph, outcome

_BLOCK = 25


@pytest.mark.parametrize("policy", ["cheapest", "always"])
@pytest.mark.parametrize("block", range(12))
def test_folded_graphs_run_on_every_size_and_compute_the_same(block: int, policy: str) -> None:
    """Graphs of views, products and constants of any shape stay what they are, on every size."""
    found = collections.Counter[str]()
    for seed in range(block * _BLOCK, (block + 1) * _BLOCK):
        g = axis_graph(seed)
        model = g.model()
        folded = onnx_expand.fold(model, policy=policy)
        found[f"{seed}: {outcome(g, model, folded)}" if len(g.nodes) else "equal"] += 1
        onnx.checker.check_model(folded)
    bad = [what for what in found if not what.endswith("equal")]
    assert not bad, bad


@pytest.mark.parametrize("policy", ["cheapest", "always"])
def test_folding_twice_is_folding_once(policy: str) -> None:
    """Also where folding takes away a node that told the extents of what it read."""
    for seed in (1448, 1546, 1623, 1636, *range(100, 130)):
        folded = onnx_expand.fold(axis_graph(seed).model(), policy=policy)
        assert onnx_expand.fold(folded, policy=policy) == folded, seed


@pytest.mark.parametrize("block", range(4))
def test_expanded_graphs_compute_the_same(block: int) -> None:
    """Layers that are expanded to compute what they did do so, whatever they read."""
    for seed in range(block * _BLOCK, (block + 1) * _BLOCK):
        g = axis_graph(seed)
        model = g.model()
        expanded = onnx_expand.expand(model, init="preserve")
        assert outcome(g, model, expanded) == "equal", seed


def test_a_product_keeps_its_transposition() -> None:
    """A constant times a transposed product is no product from the right."""
    model = graph(
        "g (float[3,4] x) => (float[3,3] y) { a = MatMul(x, w) y = Gemm<transB=1>(v, a) }",
        weights(w=(4, 2), v=(3, 2)),
    )
    folded, _ = fold(model)
    assert ops(folded) == ["Gemm"]
    assert onnx_expand.check(model, folded, samples=1)


def test_einsum_waits_for_the_extent_that_it_may_broadcast() -> None:
    """A weight of one number is stretched along an axis of any extent: no matrix does that."""
    text = (
        "g (float[N,{}] x) => (float[N,3] y) "
        '{{ a = Einsum<equation="ab,bz->az">(x, k) y = Mul(a, s) }}'
    )
    for extent, k in (("C", 1), ("C", 4), ("5", 1)):
        model = graph(text.format(extent), weights(k=(k, 3), s=(3,)))
        assert "Einsum" in ops(fold(model)[0])
    model = graph(text.format(5), weights(k=(5, 3), s=(3,)))
    assert ops(fold(model)[0]) == ["Gemm"]


# -- Numbers that are small, or large, in their type ------------------------------------------


_SPELLED = {
    np.float16: "float16",
    np.float32: "float",
    np.float64: "double",
}


def tiny(kind: Any, *, bias: bool) -> onnx.ModelProto:
    """A matrix with a channel of numbers below the normal ones, and an addition behind it."""
    least = np.float64(np.finfo(kind).smallest_normal)
    w = weights(w=(4, 3))["w"].astype(kind)
    w[1] = np.array([0.3, -0.2, 0.25]) * least
    b = np.array([[0.5, 0.4, 0.3, 0.2]] if bias else [[0.5, 0, 0.3, 0.2]], kind)
    name = _SPELLED[kind]
    return graph(
        f"g ({name}[N,3] x) => ({name}[N,4] y) "
        "{ t = Transpose<perm=[1,0]>(w) a = MatMul(x, t) y = Add(a, b) }",
        {"w": w, "b": b},
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_small_numbers_that_the_source_holds_are_kept(kind: type[np.generic], bias: bool) -> None:
    """Numbers below the normal ones stay as they are, and block nothing."""
    model = tiny(kind, bias=bias)
    folded, _ = fold(model)
    assert ops(folded) == ["Gemm"]
    held = [onnx.numpy_helper.to_array(t) for t in folded.graph.initializer]
    kept = next(a for a in held if a.ndim == 2)
    kept = kept if kept.shape == (4, 3) else kept.T
    original = onnx.numpy_helper.to_array(model.graph.initializer[0])
    np.testing.assert_array_equal(kept, original)


@pytest.mark.parametrize("scale", [1e-30, 1e-20])
def test_numbers_that_become_too_small_are_refused(scale: float) -> None:
    """What two factors hold and their product does not stays two factors."""
    model = graph(
        "g (float[N,3] x) => (float[N,4] y) { a = MatMul(x, w) y = Mul(a, s) }",
        {"w": weights(w=(3, 4))["w"] * np.float32(1e-20), "s": np.full(4, scale, np.float32)},
    )
    folded, report = fold(model)
    assert len(folded.graph.node) == 2
    assert Reason.OVERFLOW in {kept.refusal.reason for kept in report.kept}


def test_half_precision_that_overflows_is_refused_with_its_number() -> None:
    """300 times 300 is more than float16 holds."""
    big = np.full((4, 4), 300, np.float16)
    model = graph(
        "g (float16[N,4] x) => (float16[N,4] y) { a = MatMul(x, w) y = MatMul(a, v) }",
        {"w": big, "v": big},
    )
    folded, report = fold(model)
    assert len(folded.graph.node) == 2
    refusal = next(k.refusal for k in report.kept if k.refusal.reason is Reason.OVERFLOW)
    assert refusal.numbers["weight"] == pytest.approx(4 * 300 * 300)


def test_what_is_refused_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many nodes come behind, numbers that do not fit are composed a few times only."""
    tried = 0
    judge = lower.check_numbers

    def counted(*arguments: object) -> None:
        nonlocal tried
        tried += 1
        judge(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("onnx_expand.linear.chains.merge.check_numbers", counted)
    counts = []
    for length in (2, 60):
        rest = " ".join(
            f"r{i} = {'Relu' if i % 2 else 'Sigmoid'}({f'r{i - 1}' if i else 'b'})"
            for i in range(length)
        )
        big = np.full((4, 4), 300, np.float16)
        model = graph(
            "g (float16[N,4] x) => (float16[N,4] y) "
            f"{{ a = MatMul(x, w) b = MatMul(a, v) {rest} y = Identity(r{length - 1}) }}",
            {"w": big, "v": big},
        )
        tried = 0
        fold(model, Policy.ALWAYS)
        counts.append(tried)
    assert counts[0] == counts[1] <= 4, counts


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_long_chains_that_overflow_stay_quietly(kind: str) -> None:
    """A product beyond float64 is a refusal, tried a few times, and no warning."""
    number = 300 if kind == "float16" else 1e100
    array = np.full((4, 4), number, np.float16 if kind == "float16" else np.float64)
    count = 130
    nodes = " ".join(f"v{i} = MatMul({f'v{i - 1}' if i else 'x'}, w{i})" for i in range(count))
    model = graph(
        f"g ({kind}[N,4] x) => ({kind}[N,4] y) {{ {nodes} y = Relu(v{count - 1}) }}",
        {f"w{i}": array for i in range(count)},
    )
    folded, report = fold(model, Policy.ALWAYS)
    assert report.kept
    # Of 1e100 three, of 300 no two are one.
    assert len(folded.graph.node) >= (count if kind == "float16" else count // 3)
    held = [onnx.numpy_helper.to_array(t) for t in folded.graph.initializer]
    assert all(np.isfinite(a).all() for a in held)


def test_two_nodes_that_come_of_one_have_two_names() -> None:
    """A product that is written like another one gets a name of its own."""
    model = graph(
        "g (float[3,D,E,3,3] x) => (float[A,B,C,F] y) { [n0] a = Sum(x, t) [n1] b = MatMul(a, w) "
        "[n2] c = Neg(b) [n3] d = Reshape(c, s) [n4] y = MatMul(d, v) }",
        weights(t=(1, 1, 1, 1, 3), w=(1, 3, 2), v=(2, 1)) | {"s": np.array([3, -1, 3, 2])},
    )
    folded, _ = fold(model)
    names = [node.name for node in folded.graph.node]
    assert len(set(names)) == len(names)
    assert onnx_expand.check(model, folded, samples=1)


def test_pads_that_cut_may_leave_nothing() -> None:
    """A Pad adds to what is empty, on which a Conv ends with an error."""
    model = graph(
        "g (float[N,3,H,W] x) => (float[A,B,C,D] y) "
        "{ r = Relu(x) a = Pad(r, p) b = Pad(a, q) y = Slice(b, zero, one, three) }",
        {
            "p": np.array([0, 0, -1, 0, 0, 0, 0, 0]),
            "q": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
            "zero": np.array([0]),
            "one": np.array([-1]),
            "three": np.array([3]),
        },
    )
    folded, _ = fold(model, Policy.ALWAYS)
    verdict = onnx_expand.check(model, folded, samples=1)
    assert verdict, verdict.differences


@pytest.mark.parametrize("seed", [9208, 113, 135, 146, 372, 530, 571, 1343, 1481])
def test_no_rewrite_is_undone_by_the_next(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scale and a shift, a product and its bias, and views of unknown size come to rest."""
    made = list[int]()

    def counted(terms: Terms, rules: Sequence[Rule], tidying: Sequence[Rule]) -> int:
        made.append(rewrite(terms, rules, tidying))
        return made[-1]

    monkeypatch.setattr(folding, "rewrite", counted)
    model = ir.serde.deserialize_model(axis_graph(seed).model())
    nodes = len(model.graph)
    Fold().call(model)
    assert max(made) <= 2 * nodes
