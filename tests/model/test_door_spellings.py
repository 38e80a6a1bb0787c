"""Whatever checker or runtime take is taken, comes out as it went in, and folds.

Each model here says the same in another way: ONNX's own domain by its other name, descriptions
twice or of nothing, types left out, nodes in another order.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_expand
from onnx_expand import model as door
from onnx_expand.errors import ModelError, OnnxExpandError
from onnx_expand.passes import Fold, Policy
from tests.support.graphs_text import weights
from tests.support.sameness import differences

Edit = Callable[[onnx.ModelProto], Any]

_MAIN = """
g (float[N,4,8,8] x, bool k) => (float[N,4,8,8] y, float[N,4,8,8] z) {
    [one] a = Conv(x, w)
    [two] c = Add(a, b)
    [if] z = If(k) <
        then_branch = t () => (float[N,4,8,8] o) { q = Mul(x, s) r = Mul(q, s) o = Relu(r) },
        else_branch = e () => (float[N,4,8,8] p) { p = Neg(c) }
    >
    [last] y = Relu(c)
}
"""
_CALL = """
g (float[N,4,8,8] x, bool k) => (float[N,4,8,8] y, float[N,4,8,8] z) {
    a = Conv(x, w)  c = Add(a, b)  y = own.f(c)  z = Mul(c, s)
}
<domain: "own", opset_import: ["" : 17]>
f (x) => (y) {
    two = Constant <value: tensor = float {2}> ()
    h = Mul(x, two)  i = Mul(h, two)  y = Relu(i)
}
"""


def model(text: str) -> onnx.ModelProto:
    """One of the two models, with its weights."""
    made: onnx.ModelProto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 17, "own" : 1]>' + text
    )
    for name, array in weights(w=(4, 4, 1, 1), b=(4, 1, 1), s=()).items():
        made.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return made


def describe(name: str, *dims: Any, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """A description of a value."""
    return helper.make_tensor_value_info(name, kind, dims or ("N", 4, 8, 8))


def _branch(m: onnx.ModelProto, index: int = 0) -> onnx.GraphProto:
    return next(n for n in m.graph.node if n.op_type == "If").attribute[index].g


def _function(m: onnx.ModelProto) -> onnx.FunctionProto:
    return m.functions[0]


def _rename_domain(m: onnx.ModelProto) -> None:
    for graph in (m.graph, _branch(m, 0), _branch(m, 1)):
        for node in graph.node:
            node.domain = "ai.onnx"


def _rename_import(m: onnx.ModelProto) -> None:
    m.opset_import[0].domain = "ai.onnx"


def _rename_all(m: onnx.ModelProto) -> None:
    _rename_import(m)
    for node in m.graph.node:
        node.domain = "ai.onnx"


def _both_imports(m: onnx.ModelProto) -> None:
    m.opset_import.add(domain="ai.onnx", version=17)


def _untyped(index: int) -> Edit:
    return lambda m: _branch(m, index).output[0].ClearField("type")


def _empty_type(m: onnx.ModelProto) -> None:
    _untyped(0)(m)
    _branch(m, 0).output[0].type.SetInParent()


def _with_inner_body(m: onnx.ModelProto) -> None:
    """A branch within a function, with descriptions of what it reads."""
    body = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["b"])], "b", [], [onnx.ValueInfoProto(name="b")]
    )
    body.value_info.extend([describe("x"), describe("nothing")])
    true = numpy_helper.from_array(np.array(True))
    nodes = [
        helper.make_node("Constant", [], ["k"], value=true),
        helper.make_node("If", ["k"], ["unread"], then_branch=body, else_branch=body),
    ]
    _function(m).node.extend(nodes)


def _metadata(m: onnx.ModelProto) -> None:
    f = _function(m)
    f.doc_string, f.overload, m.graph.node[2].overload = "said", "of some kind", "of some kind"
    f.metadata_props.add(key="k", value="v")


def _attributes(m: onnx.ModelProto) -> None:
    _function(m).attribute_proto.append(helper.make_attribute("alpha", 1.0))
    _function(m).attribute.append("beta")


def _denotations(m: onnx.ModelProto) -> None:
    m.graph.input[0].type.denotation = "IMAGE"
    m.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"


def _documented(m: onnx.ModelProto) -> None:
    info = describe("a")
    info.doc_string = "said"
    info.metadata_props.add(key="k", value="v")
    m.graph.value_info.extend([info, describe("a", "N", 4, None, None)])


WHOLE: dict[str, tuple[str, Edit]] = {
    "as it is": (_MAIN, lambda m: None),
    "import by the other name": (_MAIN, _rename_import),
    "nodes by the other name": (_MAIN, _rename_domain),
    "all by the other name": (_MAIN, _rename_all),
    "import by both names": (_MAIN, _both_imports),
    "nodes by the other name, import by both": (
        _MAIN,
        lambda m: [edit(m) for edit in (_rename_domain, _both_imports)],
    ),
    "import twice": (_MAIN, lambda m: m.opset_import.add(domain="", version=17)),
    "import of nothing": (_MAIN, lambda m: m.opset_import.add(domain="none", version=3)),
    "untyped branch": (_MAIN, _untyped(0)),
    "untyped branches": (_MAIN, lambda m: (_untyped(0)(m), _untyped(1)(m))),
    "branch of empty type": (_MAIN, _empty_type),
    "untyped output": (_MAIN, lambda m: m.graph.output[0].ClearField("type")),
    "output of no shape": (
        _MAIN,
        lambda m: m.graph.output[0].type.tensor_type.ClearField("shape"),
    ),
    "input of no shape": (_MAIN, lambda m: m.graph.input[0].type.tensor_type.ClearField("shape")),
    "description without a type": (_MAIN, lambda m: m.graph.value_info.add(name="a")),
    "description of empty type": (
        _MAIN,
        lambda m: m.graph.value_info.add(name="a").type.SetInParent(),
    ),
    "description without a name": (_MAIN, lambda m: m.graph.value_info.append(describe(""))),
    "described twice": (_MAIN, lambda m: m.graph.value_info.extend([describe("a")] * 2)),
    "described twice, compatibly": (
        _MAIN,
        lambda m: m.graph.value_info.extend([describe("a"), describe("a", "N", 4, None, None)]),
    ),
    "described twice, otherwise": (
        _MAIN,
        lambda m: m.graph.value_info.extend([describe("a"), describe("a", "N", 4, 9, 9)]),
    ),
    "described twice in a branch": (
        _MAIN,
        lambda m: _branch(m).value_info.extend([describe("q"), describe("q", "N", 4, None, None)]),
    ),
    "described with words": (_MAIN, _documented),
    "description of an input": (_MAIN, lambda m: m.graph.value_info.append(describe("x"))),
    "other description of an input": (
        _MAIN,
        lambda m: m.graph.value_info.append(describe("x", "M", 4, None, None)),
    ),
    "description of an output": (
        _MAIN,
        lambda m: m.graph.value_info.append(describe("y", 1, 4, 8, 8)),
    ),
    "description of a weight": (
        _MAIN,
        lambda m: m.graph.value_info.append(describe("w", 4, "k", 1, 1)),
    ),
    "description of nothing": (
        _MAIN,
        lambda m: m.graph.value_info.extend([describe("nothing"), describe("nothing", 1)]),
    ),
    "unused weight": (
        _MAIN,
        lambda m: m.graph.output.append(describe("b", 4, 1, 1)),
    ),
    "input is output": (_MAIN, lambda m: m.graph.output.append(describe("x"))),
    "output twice": (_MAIN, lambda m: m.graph.output.append(m.graph.output[0])),
    "unused input": (_MAIN, lambda m: m.graph.input.append(describe("u"))),
    "graph without a name": (_MAIN, lambda m: m.graph.ClearField("name")),
    "absent optional input": (_MAIN, lambda m: m.graph.node[0].input.append("")),
    "denotations": (_MAIN, _denotations),
    "nameless extent": (
        _MAIN,
        lambda m: m.graph.input[0].type.tensor_type.shape.dim[0].Clear(),
    ),
    "old way to say that an extent is not static": (
        _MAIN,
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", -1),
    ),
    "function": (_CALL, lambda m: None),
    "description in a function": (_CALL, lambda m: _function(m).value_info.append(describe("h"))),
    "description of a function's input": (
        _CALL,
        lambda m: _function(m).value_info.append(describe("x")),
    ),
    "description of a function's output": (
        _CALL,
        lambda m: _function(m).value_info.append(describe("y")),
    ),
    "description of nothing in a function": (
        _CALL,
        lambda m: _function(m).value_info.append(describe("nothing")),
    ),
    "described twice in a function": (
        _CALL,
        lambda m: _function(m).value_info.extend([describe("h"), describe("h", 1, 1)]),
    ),
    "description without a type in a function": (
        _CALL,
        lambda m: _function(m).value_info.add(name="h"),
    ),
    "branch in a function": (_CALL, _with_inner_body),
    "attributes of a function": (_CALL, _attributes),
    "words of a function": (_CALL, _metadata),
    "import twice in a function": (
        _CALL,
        lambda m: _function(m).opset_import.add(domain="", version=17),
    ),
    "other opset in a function": (
        _CALL,
        lambda m: setattr(_function(m).opset_import[0], "version", 16),
    ),
    "unused function": (
        _CALL,
        lambda m: m.functions.add().MergeFrom(onnx.FunctionProto(name="g", domain="own")),
    ),
}


def made(case: str) -> onnx.ModelProto:
    """The model of a case."""
    text, edit = WHOLE[case]
    edited = model(text)
    edit(edited)
    return edited


@pytest.mark.parametrize("case", WHOLE)
def test_it_comes_out_as_it_went_in(case: str) -> None:
    """Field by field."""
    source = made(case)
    before = onnx.ModelProto()
    before.CopyFrom(source)
    assert differences(source, door.to_proto(door.read(source))) == []
    assert source == before


@pytest.mark.parametrize("case", WHOLE)
def test_it_folds_and_computes_what_it_did(case: str) -> None:
    """In onnxruntime, where the case is one that it takes; what is left keeps its spelling."""
    onnxruntime = pytest.importorskip("onnxruntime")
    source = made(case)
    folded = onnx_expand.fold(source, policy="cheapest")
    assert [n.op_type for n in folded.graph.node[:2]] != ["Conv", "Add"]
    last = {(node.output[0], node.op_type): node.domain for node in source.graph.node}
    kept = [node for node in folded.graph.node if node.op_type in {"If", "Relu", "f"}]
    assert kept
    # The body of a function that is called once may stand in the place of its call.
    keys = [(node.output[0], node.op_type) for node in kept]
    assert all(n.domain == last[key] for n, key in zip(kept, keys, strict=True) if key in last)
    assert sorted(map(str, folded.opset_import)) == sorted(map(str, source.opset_import))
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)}
    feeds |= {"k": np.array(True)}
    if "unused input" in case:
        feeds["u"] = feeds["x"]
    results = []
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if "nodes by the other name" in case:
        return  # its checker knows that name in the main graph only
    for one in (source, folded):
        session = onnxruntime.InferenceSession(one.SerializeToString(), options)
        results.append(session.run(None, feeds))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5)
    if source.functions:  # which check puts in the place of their calls, where it can
        assert onnx_expand.check(source, folded)


def test_what_is_there_twice_is_there_once() -> None:
    """A weight or an entry of the metadata that is repeated word for word; nodes are sorted."""
    source = model(_MAIN)
    plain = onnx.ModelProto()
    source.metadata_props.add(key="k", value="v")
    plain.CopyFrom(source)
    source.metadata_props.add(key="k", value="v")
    source.graph.initializer.add().CopyFrom(source.graph.initializer[0])
    nodes = onnx.GraphProto(node=reversed(list(source.graph.node)))
    del source.graph.node[:]
    source.graph.node.extend(nodes.node)
    out = door.to_proto(door.read(source))
    assert sorted(n.name for n in out.graph.node) == sorted(n.name for n in plain.graph.node)
    onnx.checker.check_model(out)
    del out.graph.node[:], plain.graph.node[:]
    assert differences(plain, out) == []


def test_an_output_that_is_not_wanted_may_have_an_empty_name() -> None:
    """At the end of a list it says no more than its absence: in graphs, branches and functions."""
    source: onnx.ModelProto = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 17, "own" : 1]>
        g (float[N,4,8,8] x, bool k) => (float[N,4,8,8] y) {
            a = Dropout(x)
            b = If(k) <then_branch = t () => (o) { o = Dropout(a) }, else_branch = e () => (p)
                { p = Dropout(a) }>
            y = own.f(b)
        }
        <domain: "own", opset_import: ["" : 17]> f (x) => (y) { y = Dropout(x) }
        """
    )
    plain = onnx.ModelProto()
    plain.CopyFrom(source)
    for graph in (source.graph, _branch(source), _branch(source, 1), _function(source)):
        for node in graph.node:
            if node.op_type == "Dropout":
                node.output.append("")
    assert source != plain
    assert differences(plain, door.to_proto(door.read(source))) == []


@pytest.mark.parametrize("other", ["", "ai.onnx"])
def test_two_versions_of_one_domain_are_refused(other: str) -> None:
    """Which of the two holds is anybody's guess."""
    source = model(_MAIN)
    source.opset_import.add(domain=other, version=11)
    with pytest.raises(OnnxExpandError, match="versions 17 and 11"):
        door.read(source)
    source = model(_MAIN)
    source.graph.initializer.add().CopyFrom(source.graph.initializer[1])
    source.graph.initializer[-1].name = "w"
    with pytest.raises(ModelError, match="not unique"):
        door.read(source)


@pytest.mark.parametrize("edit", [_rename_import, _rename_all, _both_imports])
def test_the_other_name_of_the_domain_is_known_everywhere(edit: Edit) -> None:
    """Each command does with it what it does with the usual one."""
    plain, source = model(_MAIN), model(_MAIN)
    edit(source)
    assert onnx_expand.inspect(source) == onnx_expand.inspect(plain)
    results = [
        onnx_expand.expand(m, include="one", rate=1, strategy="cl") for m in (source, plain)
    ]
    one, other = ([(n.op_type, list(n.input)) for n in m.graph.node] for m in results)
    assert one == other
    assert len(one) > 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert onnx_expand.check(plain, source)
        assert onnx_expand.check(source, onnx_expand.fold(source))
    handed = ir.serde.deserialize_model(source)
    folded = onnx_expand.fold(handed)
    assert dict(folded.graph.opset_imports) == dict(handed.graph.opset_imports)
    assert [n.op_type for n in folded.graph] == ["Conv", "If", "Relu"]
    assert onnx_expand.inspect(handed) == onnx_expand.inspect(plain)
    Fold(Policy.CHEAPEST)(handed)
    assert [n.op_type for n in handed.graph] == ["Conv", "If", "Relu"]


@pytest.mark.parametrize("edit", [_rename_import, _rename_all, _both_imports])
def test_the_other_name_of_the_domain_trains(edit: Edit) -> None:
    """The importer knows it, too."""
    pytest.importorskip("torch")
    from onnx_expand.train import to_torch

    text = (
        "g (float[N,4,8,8] x) => (float[N,4,8,8] y) { a = Conv(x, w) c = Add(a, b) y = Mul(c, s) }"
    )
    plain, source = model(text), model(text)
    edit(source)
    import torch

    x = torch.ones(1, 4, 8, 8)
    expected = to_torch(plain)(x)
    for one in (source, ir.serde.deserialize_model(source)):
        torch.testing.assert_close(to_torch(one)(x), expected)
