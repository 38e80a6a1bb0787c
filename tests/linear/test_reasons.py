"""Whatever linear node stays next to another one is named in the report, with a reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

import onnx_expand
from onnx_expand import UnsupportedError
from onnx_expand.errors import Reason
from onnx_expand.passes import FoldReport
from tests.support.graphs_text import bn, weights
from tests.support.judge import Source, judge
from tests.support.numbers import assert_same
from tests.support.random_graphs import random_graph
from tests.support.random_layouts import random_layouts
from tests.support.random_models import KINDS, random_model, sizes_of
from tests.support.zoo import ZOO

FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
# Written out, so that an op which the package forgets is missed here.
LINEAR = {
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "BatchNormalization", "Add", "Sub"),
    *("Mul", "Div", "Sum", "Mean", "Neg", "Identity", "Dropout", "AveragePool", "Pad", "Slice"),
    *("GlobalAveragePool", "ReduceMean", "Gather", "Split", "Concat", "Transpose", "Reshape"),
    *("Flatten", "Squeeze", "Unsqueeze", "Cast", "Expand"),
}


def named(report: FoldReport) -> set[str]:
    """The nodes that have a reason, each of which says something."""
    for kept in report.kept:
        assert kept.refusal.message
        assert kept.refusal.reason in set(Reason)
    return {name for kept in report.kept for name in kept.nodes}


def unnamed(model: onnx.ModelProto, report: FoldReport) -> list[str]:
    """The linear nodes next to another one that no reason of the report names."""
    model = onnx.shape_inference.infer_shapes(model)
    reasons = named(report)
    return [
        f"{node.op_type} {name}"
        for node, others in _linear_nodes(model.graph)
        if (name := node.name or node.output[0]) not in reasons and others
    ]


def _linear_nodes(
    g: onnx.GraphProto, outer: frozenset[str] = frozenset()
) -> Iterator[tuple[onnx.NodeProto, list[onnx.NodeProto]]]:
    """The linear nodes of a graph on numbers that depend on an input, and their neighbours."""
    constants = {tensor.name for tensor in g.initializer}
    moving = (outer | {value.name for value in g.input}) - constants
    values = (*g.input, *g.output, *g.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    found = []
    for node in g.node:
        for body in (a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH):
            yield from _linear_nodes(body, frozenset(moving))
        if moving & set(node.input):
            moving |= set(node.output)
            if node.op_type in LINEAR and types.get(node.output[0]) in FLOATS:
                found.append(node)
    for node in found:
        near = [
            other
            for other in found
            if set(other.output) & set(node.input) or set(node.output) & set(other.input)
        ]
        yield node, near


def assert_explained(
    model: onnx.ModelProto, policy: str, border: str = "exact", *, seed: int | None = None
) -> FoldReport:
    """Assert that nothing linear stays without a reason; the report.

    With a seed, which draws the input, the numbers are compared, too.
    """
    folded, report = onnx_expand.fold(model, policy=policy, border=border, report=True)
    if seed is not None:
        assert_same(model, folded, seed)
    assert unnamed(folded, report) == []
    assert isinstance(report, FoldReport)
    return report


POLICIES = st.sampled_from(["cheapest", "always", "marked"])


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 14), POLICIES, st.booleans())
def test_random_graphs(seed: int, length: int, policy: str, layouts: bool) -> None:
    """On images with forks and joins, and across changes of layout."""
    model = (random_layouts if layouts else random_graph)(seed, length=length)
    assert_explained(model, policy, seed=seed)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(KINDS), POLICIES)
def test_random_models(seed: int, kind: str, policy: str) -> None:
    """With If, Loop and functions, in other types and older opsets."""
    model = random_model(seed, kind)
    try:
        folded = onnx_expand.fold(model, policy=policy)
    except UnsupportedError:
        return  # the model holds what cannot be kept
    assert judge(Source(model, sizes_of(model), seed), folded) == []
    assert_explained(model, policy)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 10), st.sampled_from(["map", "ones", "pad"]))
def test_random_graphs_with_bridges(seed: int, length: int, border: str) -> None:
    """Where bridges take nodes away, the reasons are about what is left."""
    assert_explained(random_graph(seed, length=length), "cheapest", border, seed=seed)


@pytest.mark.parametrize("name", ZOO)
def test_networks(name: str) -> None:
    """Blocks of networks, before and after expansion."""
    model = ZOO[name].build()
    assert_explained(model, "cheapest")
    assert_explained(onnx_expand.expand(model, rate=1, nonlinear="relu"), "auto")


def finished(text: str, constants: Mapping[str, np.ndarray[Any, Any]]) -> onnx.ModelProto:
    """A model of a graph whose outputs have the shapes that ONNX infers."""
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> ' + text)
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    for name, array in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return model


# Between a convolution and a normalization: what it is, and the reason.
BETWEEN = {
    "a cast": ("h = Cast <to = 1> (c) t = Cast <to = 11> (h)", Reason.UNSUPPORTED),
    "an expansion": (
        "m = ReduceMean <axes = [2]> (c) t = Expand(m, extents)",
        Reason.UNSUPPORTED,
    ),
    "another value": ("t = Add(c, z)", Reason.BRANCHES),
    "a concatenation": ("p = Concat <axis = 1> (c, z) t = Slice(p, zero, four, one)", None),
    "a gate": ("t = Mul(c, z)", Reason.DYNAMIC),
    "a division": ("t = Div(z, c)", Reason.DYNAMIC),
    "a constant over it": ("t = Div(one_f, c)", Reason.UNSUPPORTED),
    "a change of layout": ("t = Reshape(c, shape)", Reason.GEOMETRY),
    "a swap": ("t = Transpose <perm = [0, 1, 3, 2]> (c)", None),
    "an image of constants": ("t = Add(c, plane)", Reason.UNSUPPORTED),
    "other rows": ("t = Gather <axis = 2> (c, rows)", Reason.UNSUPPORTED),
    "a mean of channels": ("m = ReduceMean <axes = [1]> (c) t = Expand(m, extents)", None),
    "mirrored padding": ('t = Pad <mode = "reflect"> (c, pads)', Reason.UNSUPPORTED),
    "two readers": ("e = Exp(c) t = Neg(c)", Reason.SHARED),
}
CONSTANTS = {
    "extents": np.array([1, 4, 6, 6]),
    "shape": np.array([1, 4, 9, 4]),
    "zero": np.array([0]),
    "one": np.array([1]),
    "four": np.array([4]),
    "one_f": np.array([2.0]),
    "plane": np.arange(36.0).reshape(1, 1, 6, 6),
    "rows": np.array([5, 4, 3, 2, 1, 0]),
    "pads": np.array([0, 0, 1, 1, 0, 0, 0, 0]),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_what_stands_between_is_named(name: str) -> None:
    """Each kind of node between two maps has its own reason, with the policies that merge."""
    text, reason = BETWEEN[name]
    outputs = "double y, double e" if "e = Exp" in text else "double y"
    tensors = {**weights(w=(4, 4, 1, 1)), **bn("n", 4)}
    constants = {k: v.astype(np.float64) for k, v in tensors.items()}
    constants |= {k: v for k, v in CONSTANTS.items() if f"{k})" in text or f"{k}," in text}
    model = finished(
        f"g (double[1,4,6,6] x, double[1,4,6,6] z) => ({outputs}) {{ c = Conv(x, w) {text}"
        " y = BatchNormalization(t, n_s, n_b, n_m, n_v) }",
        constants,
    )
    for policy in ("cheapest", "always"):
        report = assert_explained(model, policy)
        assert reason is None or reason in {kept.refusal.reason for kept in report.kept}


OVERRIDABLE = {
    "Conv": "y = Conv(h, w)",
    "MatMul": "y = MatMul(h, m)",
    "Gemm": "f = Flatten(h) y = Gemm(f, g)",
    "Add": "y = Add(h, b)",
    "Mul": "y = Mul(b, h)",
    "Div": "y = Div(h, b)",
    "Sum": "y = Sum(b, h)",
    "Einsum": 'y = Einsum <equation = "nchw,wd->nchd"> (h, m)',
    "BatchNormalization": "y = BatchNormalization(h, s, s, s, s)",
    "Gather": "y = Gather <axis = 1> (h, i)",
    "transposed": "t = Transpose <perm = [1, 0, 2, 3]> (w) y = Conv(h, t)",
    "computed": "t = Mul(w, half) q = Neg(t) y = Conv(h, q)",
    "cast": "t = Cast <to = 1> (d) y = Conv(h, t)",
}
SHAPES = {
    **{"w": (4, 4, 1, 1), "m": (6, 6), "g": (144, 5), "b": (4, 1, 1), "s": (4,), "half": (1,)},
    **{"d": (4, 4, 1, 1), "i": (4,)},
}


@pytest.mark.parametrize("name", OVERRIDABLE)
def test_a_weight_that_callers_may_replace_says_so(name: str) -> None:
    """Whatever the op, and whether its weight is the initializer or is computed from it."""
    text = OVERRIDABLE[name]
    rng = np.random.default_rng(0)
    kinds = {"d": np.float64, "i": np.int64}
    constants = {
        key: rng.uniform(1, 2, shape).astype(kinds.get(key, np.float32))
        for key, shape in SHAPES.items()
        if f"{key})" in text or f"{key}," in text
    }
    model = finished(f"g (float[1,4,6,6] x) => (float y) {{ h = Neg(x) {text} }}", constants)
    for tensor in model.graph.initializer:
        if tensor.name != "half":
            made = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            model.graph.input.append(made)
    model.graph.node[-1].name = "last"  # what goes behind it takes its output
    _, report = onnx_expand.fold(model, report=True)
    about = [k.refusal for k in report.kept if "last" in k.nodes]
    assert {refusal.reason for refusal in about} == {Reason.OVERRIDABLE}
    assert all("--assume-constant-initializers" in refusal.hint for refusal in about)
    _, report = onnx_expand.fold(model, assume_constant_initializers=True, report=True)
    assert Reason.OVERRIDABLE not in {kept.refusal.reason for kept in report.kept}


def test_exports() -> None:
    """What torch writes: attention with its reshapes, scales and biases."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from tests.exports.blocks import BLOCKS
    from tests.exports.exporting import Route, export

    assert torch is not None
    for name in list(BLOCKS)[::4]:
        if (name, Route.SCRIPT) != ("orepa", Route.SCRIPT):
            for policy in ("cheapest", "marked"):
                assert_explained(export(name, Route.SCRIPT), policy)
