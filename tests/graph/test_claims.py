"""What a model says of its values decides nothing where its nodes say otherwise."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import onnx_expand
from onnx_expand.graph.facts import Facts
from onnx_expand.passes import Fold, Policy
from onnx_expand.runtimes import Reference
from tests.support.graphs_text import ops, weights
from tests.support.random_graphs import random_graph
from tests.support.random_layouts import random_layouts
from tests.support.stale_claims import WRAPS, read_shapes, spread_claims, without_claims

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
SIZES = ((2, 9, 8), (1, 9, 8), (3, 14, 11), (1, 64, 64))

Arrays = list[np.ndarray[Any, np.dtype[Any]]]


def fold(model: onnx.ModelProto, policy: Policy) -> onnx.ModelProto:
    """A folded copy."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    own = ir.serde.deserialize_model(copy)
    Fold(policy)(own)
    return ir.serde.serialize_model(own)


def outputs(model: onnx.ModelProto, size: tuple[int, int, int]) -> Arrays | None:
    """What a model computes for images of a size, in float64; None if it takes none of them."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    wanted = [size[0], dims[1].dim_value, *size[1:]][: len(dims)]
    for dim, extent in zip(dims, wanted, strict=True):
        if dim.dim_value > 0 and dim.dim_value != extent:
            return None
    x = np.random.default_rng(len(wanted)).standard_normal(wanted)
    try:
        session = Reference().session(ir.serde.deserialize_model(model), "model")
        found = session.run({model.graph.input[0].name: x})
    except Exception:  # whatever a runtime says of an image that is too small
        return None
    return [np.asarray(found[info.name], np.float64) for info in model.graph.output]


def assert_same(model: onnx.ModelProto, folded: onnx.ModelProto) -> int:
    """Assert that two models compute the same at each size that the first takes; how many."""
    count = 0
    for size in SIZES:
        before = outputs(model, size)
        if before is None:
            continue
        count += 1
        after = outputs(folded, size)
        assert after is not None, f"it does not take {size} any more"
        for a, b in zip(before, after, strict=True):
            assert a.shape == b.shape
            scale = max(1.0, float(np.max(np.abs(a), initial=0.0)))
            np.testing.assert_allclose(b, a, rtol=0, atol=3e-5 * scale)
    return count


def computed(model: onnx.ModelProto) -> tuple[list[Any], list[Any], list[Any]]:
    """The nodes, weights and functions of a model, without what it says of values."""
    plain = without_claims(model)
    for attribute in (a for node in plain.graph.node for a in node.attribute):
        del attribute.g.value_info[:]
    bodies = [list(function.node) for function in plain.functions]
    return list(plain.graph.node), list(plain.graph.initializer), bodies


@settings(max_examples=EXAMPLES, deadline=None)
# In the body of a function whose inputs have no type, some sums have none, either.
@example(seed=133, length=9, policy=Policy.ALWAYS, wrap="function", layouts=False)
@example(seed=129, length=5, policy=Policy.CHEAPEST, wrap="function", layouts=True)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 10),
    st.sampled_from([Policy.CHEAPEST, Policy.ALWAYS]),
    st.sampled_from(sorted(WRAPS)),
    st.booleans(),
)
def test_stale_claims_change_nothing(
    seed: int, length: int, policy: Policy, wrap: str, layouts: bool
) -> None:
    """With stale claims a model folds as without any, and takes what it took."""
    rng = np.random.default_rng(seed)
    plain = random_layouts(seed, length=length) if layouts else random_graph(seed, length=length)
    if not layouts:
        plain = read_shapes(plain, rng)
    model = spread_claims(WRAPS[wrap](plain), rng)
    folded = fold(model, policy)
    assert_same(model, folded)
    assert computed(folded) == computed(fold(without_claims(model), policy))


@settings(max_examples=EXAMPLES // 3, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 10), st.booleans())
def test_true_claims_stay_true(seed: int, length: int, layouts: bool) -> None:
    """What is written in the place of nodes is described as it is, as ONNX's checker sees it."""
    plain = random_layouts(seed, length=length) if layouts else random_graph(seed, length=length)
    model = onnx.shape_inference.infer_shapes(plain, data_prop=True)
    onnx.checker.check_model(fold(model, Policy.ALWAYS), full_check=True)


@settings(max_examples=EXAMPLES // 3, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.sampled_from(sorted(WRAPS)))
def test_stale_claims_change_no_expansion_and_no_count(seed: int, length: int, wrap: str) -> None:
    """A model is expanded as without claims, takes what it took, and costs what it costs."""
    rng = np.random.default_rng(seed)
    plain = WRAPS[wrap](read_shapes(random_graph(seed, length=length), rng))
    model = spread_claims(plain, rng)
    bare = without_claims(model)
    assert onnx_expand.inspect(model) == onnx_expand.inspect(bare)
    made = [
        onnx_expand.expand(m, strategy="cl", rate=1, include=".", init="preserve")
        for m in (model, bare)
    ]
    assert_same(model, made[0])
    assert computed(made[0]) == computed(made[1])


@pytest.mark.parametrize("wrap", sorted(WRAPS))
def test_the_generator_makes_models_that_run_and_fold(wrap: str) -> None:
    """Most of the models that the law above is tried on take several sizes, and many fold."""
    ran = folds = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        model = spread_claims(WRAPS[wrap](read_shapes(random_graph(seed, length=6), rng)), rng)
        folded = fold(model, Policy.ALWAYS)
        ran += assert_same(model, folded) > 1
        folds += folded.ByteSize() != model.ByteSize()
    assert ran > 10
    assert folds > 10


@pytest.mark.parametrize("claimed", ["N,4,32,32", "N,4", "1,4,h,w", None])
def test_claims_of_outputs_are_no_difference(claimed: str | None) -> None:
    """What check compares are outputs, not what models say of them."""
    pytest.importorskip("onnxruntime")
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,4,h,w] x) => (float[{}] y) {}'
    nodes = "{ y = Relu(x) }"
    a = onnx.parser.parse_model(text.format("N,4,64,64", nodes))
    b = onnx.parser.parse_model(text.format(claimed or "N", nodes))
    if claimed is None:
        b.graph.output[0].ClearField("type")
    assert onnx_expand.check(a, b)
    cut = "{ i = Constant<value = int64[1] {0}>() y = Gather<axis = 2>(x, i) }"
    assert not onnx_expand.check(a, onnx.parser.parse_model(text.format("N,4,64,64", cut)))


# -- What each kind of claim must not do -------------------------------------------------------

HEAD = '<ir_version: 8, opset_import: ["" : 17, "own" : 1]>'


def parsed(text: str, constants: dict[str, np.ndarray[Any, np.dtype[Any]]]) -> onnx.ModelProto:
    """A model from ONNX text and its weights."""
    model: onnx.ModelProto = onnx.parser.parse_model(HEAD + text)
    for name, array in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def test_two_extents_of_one_name_are_two() -> None:
    """A Reshape that is exact only where height and width are equal is no rename of axes."""
    w = weights(w=(4, 3, 1, 1), v=(4, 4, 1, 1))
    model = parsed(
        """g (float[N,3,dyn,dyn] x) => (float[N,4,p,q] y) {
            a = Conv(x, w)
            s = Shape(a)
            i = Constant<value = int64[4] {0, 1, 3, 2}>()
            t = Gather(s, i)
            b = Reshape(a, t)
            y = Conv(b, v)
        }""",
        w,
    )
    assert assert_same(model, fold(model, Policy.ALWAYS)) > 2


def test_a_default_that_a_caller_may_replace_decides_no_shape() -> None:
    """An initializer that is an input is one shape of many, and so are the numbers in it."""
    model = parsed(
        """g (float[N,4,8,8] x, int64[4] s) => (float[a,b,c,d] y) {
            r = Reshape(x, s)
            m = GlobalAveragePool(r)
            y = Conv(m, w)
        }""",
        weights(w=(4, 4, 1, 1)),
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 4, 8, 8]), "s"))
    unknown = (None, None, None, None)
    assert shapes(model) == {"r": unknown, "m": (None, 4, 1, 1), "y": (None, 4, 1, 1)}
    assert ops(fold(model, Policy.ALWAYS)) == ops(model)


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...] | None]:
    """What is known of the shapes of values that nodes compute."""
    own = ir.serde.deserialize_model(model)
    facts = Facts(own)
    return {out.name or "": facts.shape(out) for node in own.graph for out in node.outputs}


def test_what_old_exporters_wrote_is_no_extent() -> None:
    """With an extent of -1, windows and pads would come to a positive number."""
    model = parsed(
        """g (float[N,3,h,w] x) => (float[N,4,p,q] y) {
            y = Conv<pads = [3, 3, 3, 3]>(x, w)
        }""",
        weights(w=(4, 3, 3, 3)),
    )
    for dim in list(model.graph.input[0].type.tensor_type.shape.dim)[2:]:
        dim.Clear()
        dim.dim_value = -1
    assert shapes(model) == {"y": (None, 4, None, None)}


@pytest.mark.parametrize(
    ("reader", "proved"),
    [
        ("Conv<group=2>(a, w)", (None, 8, None, None)),
        ("ConvTranspose(a, w)", (None, 6, None, None)),
        ("BatchNormalization(b, s, s, s, s) c = Conv(y, k)", (None, 6, None, None)),
    ],
)
def test_weights_prove_channels_and_types(reader: str, proved: tuple[int | None, ...]) -> None:
    """Behind an op that ONNX does not know, of whose output nothing is claimed."""
    arrays = weights(w=(6, 4, 3, 3), s=(6,), k=(2, 6, 3, 3))
    nodes = f"a = own.Foreign(x) b = Relu(a) y = {reader}"
    text = f"g (float[N,3,8,8] x) => (float[N,4,p,q] y) {{ {nodes} }}"
    read = {name: array for name, array in arrays.items() if f" {name}" in reader}
    found = shapes(parsed(text, read))
    assert found["b" if "(b" in reader else "a"] == proved


def test_channels_do_not_pass_back_through_a_broadcast() -> None:
    """A product of four channels may be one of a single channel and four factors."""
    model = parsed(
        """g (float[N,3,8,8] x) => (float[N,4,p,q] y) {
            a = own.Foreign(x) b = Conv(a, k) r = Relu(a) c = Mul(a, m) y = Conv(c, w)
        }""",
        weights(w=(4, 4, 3, 3), m=(1, 4, 1, 1), k=(4, 4, 1, 1)),
    )
    del model.graph.node[1]
    found = shapes(model)
    assert found["c"] == (None, 4, None, None)
    assert found["a"] is None


def test_behind_foreign_ops_ranks_are_proved() -> None:
    """By what reads them, whatever is claimed; where nothing does, nothing is known."""
    model = parsed(
        """g (float[N,3,8,8] x) => (float[N,4,p,q] y, float[N] z)
        <float[1,4,8] a, float[1,4] b, float[1,4,8,8] c> {
            a = own.Foreign(x)
            b = Relu(a)
            y = Conv(b, w)
            c = own.Foreign(x)
            z = Sigmoid(c)
        }""",
        weights(w=(4, 4, 3, 3)),
    )
    found = shapes(model)
    assert found["a"] == (None, None, None, None)
    assert found["b"] == (None, 4, None, None)
    assert found["y"] == (None, 4, None, None)
    assert found["c"] is None
    assert found["z"] is None


def test_a_branch_proves_nothing_outside() -> None:
    """It may not be taken: a model may choose by the number of axes."""
    model = parsed(
        """g (float x, bool k) => (float[N] z) {
            a = own.Foreign(x)
            z = If(k) <
                then_branch = t () => (float[N] p) { p = Conv(a, w) },
                else_branch = e () => (float[N] q) { q = Neg(a) }
            >
        }""",
        weights(w=(4, 4, 3, 3)),
    )
    assert shapes(model)["a"] is None


def test_wrong_types_are_not_believed() -> None:
    """An output that is claimed to be another type makes its inputs no other type."""
    model = parsed(
        "g (float[N,3,8,8] x) => (double[N,4,8,8] y) <double[1] a> { a = Conv(x, w) y = Relu(a) }",
        weights(w=(4, 3, 1, 1)),
    )
    own = ir.serde.deserialize_model(model)
    facts = Facts(own)
    assert {facts.dtype(out) for node in own.graph for out in node.outputs} == {ir.DataType.FLOAT}
    assert shapes(model)["a"] == (None, 4, 8, 8)


@pytest.mark.parametrize("op", ["LinearRegressor", "Scaler", "TreeEnsembleRegressor"])
def test_schemas_promise_types_where_inference_has_none(op: str) -> None:
    """Such an op returns float whatever it reads; a Cast of its output to float does nothing."""
    nodes = [
        onnx.helper.make_node(op, ["x"], ["a"], domain="ai.onnx.ml"),
        onnx.helper.make_node("Cast", ["a"], ["b"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Exp", ["b"], ["y"]),
    ]
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.DOUBLE, ["N", 3])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", None])
    imports = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 3)]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", [x], [y]), opset_imports=imports, ir_version=8
    )
    assert [node.op_type for node in onnx_expand.fold(model).graph.node] == [op, "Exp"]
