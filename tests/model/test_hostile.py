"""Broken models do no harm: a share of the fuzzer's, and what it found, one test for each bug."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

import onnx_expand
from onnx_expand.errors import ModelError
from onnx_expand.graph.facts import Facts
from onnx_expand.passes import Fold
from tests.support.graphs_text import graph
from tests.support.hostile import attempt, run
from tests.support.mutations import Broken
from tests.support.sameness import differences

Array = npt.NDArray[np.generic]


def test_a_share_of_the_broken_models() -> None:
    """Each of some hundred broken models ends with 0, 3 or 4, one line and no traceback."""
    figures = run(seed=1, numbers=range(300))
    assert figures["failures"] == []
    assert figures["codes"]["0"] > 50
    assert figures["codes"]["3"] > 50


def test_an_endless_merge_is_noticed(tmp_path: Path) -> None:
    """The judge of the fuzzer sees a traceback and a second line of an error."""
    model = graph("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }", {})
    assert attempt(Broken(model.SerializeToString()), tmp_path).is_fine
    outcome = attempt(Broken(model.SerializeToString()), tmp_path, ["--no-such-option"])
    assert outcome.code == 2
    assert not outcome.is_fine


def unchecked(text: str, opset: int = 17, **constants: npt.ArrayLike) -> onnx.ModelProto:
    """A model that ONNX's checker lets pass although no runtime could run it."""
    model: onnx.ModelProto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> {text}'
    )
    for name, values in constants.items():
        array = np.asarray(values)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(model)
    return model


ONES = np.ones((4, 4, 1, 1))
IMAGE = "g (float[N,4,8,8] x) => (y) ".replace("(y)", "(float[N,4,8,8] y)")
CONTRADICTIONS = {
    "normalization of other channels": unchecked(
        IMAGE + "{ a = Conv(x, w) y = BatchNormalization(a, s, t, s, t) }",
        w=ONES,
        s=np.ones(2),
        t=np.ones(3),
    ),
    "slices of several lengths": unchecked(
        IMAGE + "{ a = Conv(x, w) y = Slice(a, i, j) }",
        w=ONES,
        i=np.array([0, 0]),
        j=np.array([1]),
    ),
    "pads of too few axes": unchecked(
        IMAGE + "{ a = Conv(x, w) y = Pad(a, p) }", w=ONES, p=np.array([0, 0, 1])
    ),
    "an axis twice": unchecked(
        IMAGE + "{ a = Conv(x, w) y = Unsqueeze(a, i) }", w=ONES, i=np.array([0, 0])
    ),
    "axes that are no integers": unchecked(
        IMAGE + "{ a = Conv(x, w) y = Reshape(a, i) }", w=ONES, i=np.array([np.nan, 1.0])
    ),
    "complex weights": unchecked(
        IMAGE + "{ a = Conv(x, w) y = BatchNormalization(a, s, s, s, s) }",
        w=ONES,
        s=np.ones(4) * (1 + 1j),
    ),
    "kernels of different ranks": unchecked(
        IMAGE + "{ a = Conv(x, w) y = Conv(a, v) }", w=ONES, v=np.ones((4, 4, 1))
    ),
    "no channels": unchecked(
        IMAGE + "{ a = Conv(x, w) y = Conv(a, v) }",
        w=np.ones((0, 4, 1, 1)),
        v=np.ones((4, 0, 1, 1)),
    ),
    "another kernel": unchecked(
        IMAGE + "{ a = Conv <kernel_shape = [3, 3]> (x, w) y = Conv(a, w) }", w=ONES
    ),
    "groups of other channels": unchecked(
        IMAGE + "{ a = Conv <group = 2> (x, w) y = Conv(a, w) }", w=ONES
    ),
    "an index beyond the channels": unchecked(
        IMAGE + "{ a = Conv(x, w) b = Gather <axis = 1> (a, i) y = Conv(b, w) }",
        w=ONES,
        i=np.array([0, 1, 2, 4]),
    ),
    "an index far below zero": unchecked(
        IMAGE + "{ a = Conv(x, w) b = Gather <axis = 1> (a, i) y = Conv(b, w) }",
        w=ONES,
        i=np.array([0, 1, 2, -5]),
    ),
    "parts of fewer than no channels": unchecked(
        IMAGE + "{ a = Conv(x, w) b, c = Split <axis = 1> (a, i) y = Conv(b, w) }",
        w=ONES,
        i=np.array([-1, 5]),
    ),
    "group of none": unchecked(IMAGE + "{ a = Conv <group = 0> (x, w) y = Conv(a, w) }", w=ONES),
    "a product of an image": unchecked(
        "g (float[N] x) => (float[N] y) { a = Gemm(x, w) y = Gemm(a, w) }", w=np.ones((4, 4))
    ),
    "pads without end": unchecked(
        IMAGE
        + "{ a = Conv <pads = [8589934592, 0, 0, 0]> (x, w, b) "
        + "y = Conv <pads = [8589934592, 1, 1, 1]> (a, v) }",
        w=ONES,
        b=np.ones(4),
        v=np.ones((4, 4, 3, 3)),
    ),
    "strides without end": unchecked(
        IMAGE
        + "{ a = Conv <strides = [4611686018427387904, 1]> (x, w) "
        + "y = Conv <strides = [2, 2]> (a, w) }",
        w=ONES,
    ),
    "dilations without end": unchecked(
        IMAGE
        + "{ a = Conv <dilations = [1099511627776, 1]> (x, w) "
        + "y = Conv <dilations = [3, 3]> (a, w) }",
        w=np.ones((4, 4, 3, 3)),
    ),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_are_left_as_they_are(case: str) -> None:
    """Nodes that do not fit each other stay, with a reason; inspecting them works as well."""
    model = CONTRADICTIONS[case]
    onnx_expand.inspect(model)
    assert differences(model, onnx_expand.fold(model)) == []


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ("[fault] y = Conv <strides = 2> (x, w)", "node 'fault', Conv"),
        ("[fault] y = Conv <no_such = 1> (x, w)", "node 'fault', Conv"),
        ("[fault] y = Conv(x)", "node 'fault', Conv"),
        ("[fault] y = Conv(z, w)", "'z' of node: name: fault OpType: Conv is not output of any"),
    ],
)
def test_invalid_models_are_refused_by_the_name_of_a_node(body: str, place: str) -> None:
    """The checker's complaint becomes one line, with the node of its second line."""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> {IMAGE} {{ {body} }}'
    )
    model.graph.initializer.append(numpy_helper.from_array(ONES.astype(np.float32), "w"))
    with pytest.raises(ModelError) as error:
        onnx_expand.fold(model)
    assert place in str(error.value)
    assert "\n" not in str(error.value)


def test_a_merge_that_gains_nothing_is_not_made_again_and_again() -> None:
    """A bias of zeros that the plan leaves out and the template keeps is no gain.

    The merge was made without end.
    """
    rng = np.random.default_rng(0)
    model = unchecked(
        "g (float[N,6,4] x) => (float[1,N,2,4] y) { a = Relu(x) "
        "b = Transpose <perm = [0, 1, 2]> (a) c = Conv(b, w, z) y = Unsqueeze(c, i) }",
        w=rng.standard_normal((2, 6, 1)),
        z=np.zeros(2),
        i=np.array([0]),
    )
    onnx.checker.check_model(onnx_expand.fold(model), full_check=True)


def test_a_constant_that_is_mapped_keeps_its_name_for_itself() -> None:
    """Where linear nodes map a constant, the result's weight takes another name than that."""
    model = unchecked(
        "g (float[4] x) => (float[4] y) "
        "{ a = Dropout(c) b = BatchNormalization(a, c, s, s, s) y = Add(b, x) }",
        c=np.arange(4.0),
        s=np.ones(4),
    )
    result = onnx_expand.fold(model)
    onnx.checker.check_model(result)
    weights = {t.name: t for t in result.graph.initializer}
    assert len(weights) == len(result.graph.initializer)
    if "c" in weights:
        np.testing.assert_array_equal(numpy_helper.to_array(weights["c"]), np.arange(4.0))


def test_a_ratio_that_is_computed_costs_nothing() -> None:
    """A Dropout whose ratio no one knows is counted, and stays."""
    model = unchecked(
        "g (float[N,4] x, float r) => (float[N,4] y) { a = Relu(x) b = Dropout(a, r) y = Relu(b) }"
    )
    assert len(onnx_expand.fold(model).graph.node) <= 3


def test_functions_that_call_each_other_are_refused() -> None:
    """A circle of functions is an error of the model, not one of shape inference."""
    model = unchecked("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    model.ir_version = 10
    model.opset_import.add(domain="own", version=1)
    opsets = [helper.make_opsetid("own", 1)]
    for name, other in (("f", "g"), ("g", "f")):
        body = [helper.make_node(other, ["p"], ["q"], domain="own")]
        model.functions.append(helper.make_function("own", name, ["p"], ["q"], body, opsets))
    with pytest.raises(onnx_expand.ModelError, match=r"calls itself|Cycle"):
        onnx_expand.fold(model)


BACKWARDS = {
    "negative extents": unchecked(
        "g (float[1,2,4,4] x) => (float[1,2,4,4] y) "
        "{ a = Pad(x, p) b = Relu(a) c = Slice(b, i, e, d) y = Relu(c) }",
        p=np.array([0, 0, -9, 0, 0, 0, 0, 0]),
        i=np.array([0]),
        e=np.array([-1]),
        d=np.array([2]),
    ),
    "negative extents behind a slice": unchecked(
        "g (float[1,2,4,4] x) => (float[1,2,4,4] y) "
        "{ a = Slice(x, i, e, d) b = Conv(a, w) c = Slice(b, i, e, d) y = Slice(c, i, e, d) }",
        w=np.ones((2, 2, 9, 9)),
        i=np.array([0]),
        e=np.array([-1]),
        d=np.array([2]),
    ),
    "an empty axis backwards": unchecked(
        "g (float[1,0] x) => (float[1,0] y) { a = Relu(x) y = Slice(a, i, e, d, s) }",
        i=np.array([-1]),
        e=np.array([-9]),
        d=np.array([1]),
        s=np.array([-1]),
    ),
    "an axis that a slice empties backwards": unchecked(
        "g (float[1,4] x) => (float[1,0] y) { a = Slice(x, e, e, d) y = Slice(a, i, n, d, s) }",
        i=np.array([-1]),
        e=np.array([1]),
        n=np.array([-9]),
        d=np.array([1]),
        s=np.array([-1]),
    ),
}


@pytest.mark.parametrize("case", BACKWARDS)
def test_slices_that_end_shape_inference_are_kept_from_it(case: str) -> None:
    """ONNX's inference ends the process on these; two of them are valid models."""
    model = BACKWARDS[case]
    assert differences(model, onnx_expand.fold(model)) == []


def test_slices_that_are_hidden_at_first_are_inferred_in_the_end() -> None:
    """What is known behind Slices is known as before, with convolutions between them."""
    model = graph(
        "g (float[N,4,9,9] x) => (float[N,P,Q,R] y) "
        "{ a = Slice(x, i, e, d) b = Conv(a, w) c = Slice(b, i, e, d) f = Relu(c) "
        "g = Slice(f, i, e, d) h = Relu(g) y = Relu(h) }",
        {
            "w": np.ones((4, 4, 3, 3), np.float32),
            "i": np.array([0]),
            "e": np.array([-1]),
            "d": np.array([2]),
        },
    )
    visit = onnx_expand.model.visit(model)
    facts = Facts(visit.model)
    shapes = [facts.shape(node.outputs[0]) for node in visit.model.graph]
    heights = [None if shape is None else shape[2] for shape in shapes]
    assert heights == [8, 6, 5, 5, 4, 4, 4]


@pytest.mark.parametrize("made", [False, True])
def test_shapes_of_more_axes_than_memory_are_not_inferred(made: bool) -> None:
    """A list that claims to be longer than any shape would take all memory for its axes."""
    head = "g (float[1,3,1] x, int64[4611686018427387904] s) => (float[3,3,3] y) "
    if made:
        head = "g (float[1,3,1] x) => (float[3,3,3] y) "
    body = "s = ConstantOfShape(n)" if made else ""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> {head} {{ {body} y = Expand(x, s) }}'
    )
    if made:
        model.graph.initializer.append(numpy_helper.from_array(np.array([2**62]), "n"))
        fill = numpy_helper.from_array(np.array([1]))
        model.graph.node[0].attribute.append(helper.make_attribute("value", fill))
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), hard))
    try:
        assert differences(model, onnx_expand.fold(model)) == []
        pytest.importorskip("onnxruntime")
        with pytest.raises(onnx_expand.UnsupportedError, match=r"any shape|too much"):
            onnx_expand.check(model, model)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_negative_extents_are_not_known_ones() -> None:
    """An extent of -1, as old exporters wrote for one that is not static, is that."""
    model = unchecked(
        "g (float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) y = MatMul(a, w) }",
        w=np.ones((4, 4)),
    )
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    result = onnx_expand.fold(model)
    assert len(result.graph.node) == 1
    assert differences(model.graph.input[0], result.graph.input[0]) == []
    pytest.importorskip("onnxruntime")
    assert onnx_expand.check(model, result)


def test_constants_keep_their_own_names() -> None:
    """Asking what a Constant node holds gives the tensor within it no name."""
    model = unchecked(
        "g (float[N,4] x) => (float[N,4] y) { c = Constant <value = float[4] {1, 2, 3, 4}> () "
        "a = Relu(x) y = Pow(a, c) }"
    )
    assert differences(model, onnx_expand.fold(model, clean=False)) == []


def test_reports_of_contradictions_name_the_nodes() -> None:
    """What was left because it contradicts itself is in the report, with that reason."""
    visit = onnx_expand.model.visit(CONTRADICTIONS["normalization of other channels"])
    kept = Fold().call(visit.model).report.kept
    assert any("contradict" in k.refusal.message and k.nodes for k in kept)


def test_integers_in_other_files_tell_shapes(tmp_path: Path) -> None:
    """The extents of a Reshape are known wherever its numbers lie."""
    text = "g (float[N,6] x) => (float[N,P,2] y) { y = Reshape(x, s) }"
    model = graph(text, {"s": np.array([-1, 3, 2])})
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    read = onnx_expand.model.load(tmp_path / "m.onnx")
    facts = Facts(read)
    assert facts.shape(next(iter(read.graph)).outputs[0]) == (None, 3, 2)


def test_extents_that_no_runtime_takes_are_no_channels() -> None:
    """A Reshape to negative extents is not looked across."""
    model = unchecked(
        "g (float[N,6,4] x) => (float[N,2,2,2] y) "
        "{ a = Conv(x, w) b = Mul(a, s) c = Reshape(b, t) y = Relu(c) }",
        w=np.ones((2, 6, 1)),
        s=np.ones((2, 1)) * 3,
        t=np.array([-(2**63)] * 3),
    )
    for policy in ("cheapest", "always"):
        assert onnx_expand.fold(model, policy=policy).graph.node[-1].op_type == "Relu"


@pytest.mark.parametrize("count", [60, 1100, 5000])
def test_functions_that_double_each_other_are_counted(count: int) -> None:
    """The number of nodes may exceed every float, and the order of functions is arbitrary."""
    h = onnx.helper
    imports = [h.make_opsetid("", 17), h.make_opsetid("own", 1)]
    functions = [
        h.make_function("own", "f0", ["x"], ["y"], [h.make_node("Neg", "x", "y")], imports)
    ]
    for i in range(1, count):
        nodes = [h.make_node(f"f{i - 1}", [a], [b], domain="own") for a, b in ("xa", "ay")]
        functions.append(h.make_function("own", f"f{i}", ["x"], ["y"], nodes, imports))
    ports = [h.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy"]
    call = h.make_node(f"f{count - 1}", ["x"], ["y"], domain="own")
    graph = h.make_graph([call], "g", ports[:1], ports[1:])
    model = h.make_model(graph, opset_imports=imports, functions=functions[::-1], ir_version=8)
    with pytest.raises(onnx_expand.UnsupportedError, match=r"it has \S+ nodes, more than"):
        onnx_expand.fold(model)
