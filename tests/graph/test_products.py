"""Extents that are multiples and quotients of symbolic ones are known to be that."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnx_expand
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.products import Product, combined, product, quotient, reshaped
from tests.support.graphs_text import graph, ops, weights
from tests.support.numbers import assert_same, outputs
from tests.support.random_extents import extent_graph

_VALUES = {"N": 6, "M": 10, "K": 15}
_EXTENTS = st.lists(st.sampled_from([1, 2, 3, 4, "N", "M", "K"]), min_size=1, max_size=5)


def _value(extent: object) -> int:
    if isinstance(extent, Product):
        powers = (_VALUES[str(name)] ** power for name, power in extent.powers)
        return int(extent.coefficient * np.prod([*powers]))
    return extent if isinstance(extent, int) else _VALUES[str(extent)]


@given(_EXTENTS, _EXTENTS)
def test_products_and_quotients_have_the_values_of_their_factors(
    a: list[int | str], b: list[int | str]
) -> None:
    """(a b) / b = a, and what is no product of extents is refused."""
    left, right = product(a), product(b)
    assert _value(left) == np.prod([_value(extent) for extent in a])
    assert quotient(product([left, right]), right) == left
    found = quotient(left, right)
    assert found is None or _value(found) * _value(right) == _value(left)
    assert quotient(product([left, "Z"]), product([right, "Y"])) is None


@given(_EXTENTS, st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4))
def test_a_reshape_infers_what_its_data_leave(a: list[int | str], b: list[int]) -> None:
    """All extents together give the number of elements."""
    shape = reshaped((*a, *b), (*a, -1))
    assert shape is not None
    assert shape == (*a, product(b))


def test_an_extent_that_may_be_zero_copies_another() -> None:
    """Of an empty batch, Reshape (x, [4, 3, -1, 0, 4]) has other extents than of a full one."""
    data = (4, 6, "N", 4)
    assert reshaped(data, (4, 3, -1, "N", 4)) == (4, 3, None, "N", 4)
    assert reshaped(data, (4, 3, "N", -1)) == (4, 3, "N", 8)
    twice = product([2, "N"])
    assert reshaped((twice, 1, 80), ("N", 2, -1)) == ("N", 2, 80)


@pytest.mark.parametrize("op", ["Add", "Div", "Max", "Min", "Mod", "Mul", "Neg", "Sub"])
def test_different_results_have_different_names(op: str) -> None:
    """Arithmetic that is no product stands for itself, with its operands."""
    count = 1 if op == "Neg" else 2
    drawn = [("N", 3), ("M", 3), ("N", 5), (3, "N"), ("N", 0), ("N", -2)]
    names = {combined(op, tuple(operands)[:count]) for operands in drawn}
    assert len(names) == len({operands[:count] for operands in drawn}) - (
        op in {"Add", "Max", "Min", "Mul"}
    )
    assert "N" not in names - {combined("Mul", ("N", 1))}


# A graph that computes the target of a Reshape from a symbolic batch, and what is left of it.
COMPUTED = {
    "twice the batch": (
        "s = Shape (x) n = Gather <axis = 0> (s, zero) m = Mul (n, two) u = Unsqueeze (m, first) "
        "c = Concat <axis = 0> (u, four) y = Reshape (x, c)",
        ["Reshape"],
    ),
    "the batch of parts": (
        "p = Reshape (x, parts) s = Shape (p) n = Gather <axis = 0> (s, zero) m = Div (n, two) "
        "u = Unsqueeze (m, first) c = Concat <axis = 0> (u, eight) y = Reshape (p, c)",
        ["Reshape"],
    ),
    "the rest of parts": (
        "p = Reshape (x, parts) r = Relu (p) s = Shape (x) n = Gather <axis = 0> (s, zero) "
        "u = Unsqueeze (n, first) c = Concat <axis = 0> (u, eight, rest) q = Reshape (r, c) "
        "y = Squeeze (q, last)",
        ["Relu", "Reshape", "Reshape", "Squeeze"],
    ),
    "an Expand of PyTorch": (
        "s = Shape (x) n = Gather <axis = 0> (s, zero) u = Unsqueeze (n, first) "
        "c = Concat <axis = 0> (u, eight) r = Reshape (c, rest) "
        "o = ConstantOfShape <value = int64[1] {1}> (pair) m = Mul (o, rest) e = Equal (r, m) "
        "w = Where (e, o, r) z = Expand (x, w) y = Relu (z)",
        ["Relu"],
    ),
    "an Expand of a row": (
        "s = Shape (x) n = Gather <axis = 0> (s, zero) u = Unsqueeze (n, first) "
        "c = Concat <axis = 0> (u, eight) z = Expand (row, c) t = Shape (z) "
        "k = Gather <axis = 0> (t, zero) v = Unsqueeze (k, first) "
        "d = Concat <axis = 0> (v, rest) a = Mul (z, x) y = Reshape (a, d)",
        ["Concat", "Expand", "Gather", "Mul", "Shape", "Unsqueeze"],
    ),
}


@pytest.mark.parametrize(("text", "left"), COMPUTED.values(), ids=COMPUTED)
def test_targets_that_arithmetic_computes_are_constants(text: str, left: list[str]) -> None:
    """Nothing remains of the arithmetic."""
    numbers = {"zero": 0, "two": 2, "first": [0], "last": [2], "four": [4], "eight": [8]}
    numbers |= {"rest": [-1], "parts": [-1, 4], "pair": [2]}
    integers = {name: np.array(number, np.int64) for name, number in numbers.items()}
    constants: dict[str, Any] = {**integers, **(weights(row=(1, 8)) if "row" in text else {})}
    model = graph(f"g (float[N,8] x) => (float[A,B] y) {{ {text} }}", constants)
    folded = onnx_expand.fold(model)
    assert sorted(ops(folded)) == sorted(left)
    assert_same(model, folded, 0)
    assert onnx_expand.fold(folded) == folded


@pytest.mark.parametrize("name", ["N", "2*N", "2*M"])
def test_a_name_that_looks_like_a_product_is_none(name: str) -> None:
    """Whatever an exporter calls an extent, twice another is not it."""
    model = graph(
        """g (float[N,8] x, float[E,4] z) => (float[A,4] y, float[B,4] w) {
            s = Shape (x) n = Gather <axis = 0> (s, zero) m = Mul (n, two)
            c = Concat <axis = 0> (m, four) y = Reshape (x, c) w = Relu (z)
        }""",
        {name: np.array([n], np.int64) for name, n in {"zero": 0, "two": 2, "four": 4}.items()},
    )
    model.graph.input[1].type.tensor_type.shape.dim[0].dim_param = name
    own = ir.serde.deserialize_model(model)
    facts = Facts(own)
    given, made = facts.extents(own.graph.inputs[1]), facts.extents_in(_target(own))
    assert given is not None
    assert made == (Product(2, frozenset({("N", 1)})), 4)
    assert given[0] != made[0]
    shape = facts.named_shape(own.graph.outputs[0])
    assert shape is None or shape[0] != name


def _target(model: ir.Model) -> ir.Value | None:
    return next(node for node in model.graph if node.op_type == "Reshape").inputs[1]


def test_parts_of_one_stored_weight_are_stored_instead_of_it() -> None:
    """The projections of an attention, cut from one weight, fold like weights of their own."""
    model = graph(
        """g (float[N,16] x, float[N,16] z) => (float[N,16] y) {
            a = Slice (w, zero, k, zero) b = Slice (w, k, end, zero)
            at = Transpose <perm = [1, 0]> (a) bt = Transpose <perm = [1, 0]> (b)
            q = MatMul (x, at) t = Mul (q, half) v = MatMul (z, bt) y = Mul (t, v)
        }""",
        {
            **weights(w=(32, 16)),
            **{n: np.array([v], np.int64) for n, v in {"zero": 0, "k": 16, "end": 32}.items()},
            "half": np.array(0.5, np.float32),
        },
    )
    folded = onnx_expand.fold(model)
    assert ops(folded) == ["MatMul", "MatMul", "Mul"]
    assert folded.ByteSize() < model.ByteSize()


@pytest.mark.parametrize("block", range(6))
def test_random_targets_lead_to_the_same_numbers(block: int) -> None:
    """Whatever computes where numbers go, at every size; what is followed is stored at once."""
    for seed in range(10 * block, 10 * block + 10):
        model = extent_graph(seed)
        for policy in ("cheapest", "always"):
            folded = onnx_expand.fold(model, policy=policy)
            for size in (1, 2, 3, 5):
                _assert_agree(model, folded, size)
            assert seed % 2 or onnx_expand.fold(folded, policy=policy) == folded, seed


def _assert_agree(model: onnx.ModelProto, folded: onnx.ModelProto, batch: int) -> None:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    shape = [dim.dim_value or batch for dim in dims]
    x = np.random.default_rng(batch).standard_normal(shape)
    (expected,), (found,) = outputs(model, x), outputs(folded, x)
    assert expected.shape == found.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
