"""The provenance of new nodes: correct, short, and without side effects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnx_expand
from onnx_expand.cli import main
from onnx_expand.equivalence.verdict import Basis
from onnx_expand.graph.editing import label
from onnx_expand.passes import Clean
from onnx_expand.passes.provenance import FOLDED_FROM, folded_from
from tests.support.judge import Source, judge
from tests.support.numbers import assert_same
from tests.support.random_graphs import random_graph
from tests.support.random_models import KINDS, random_model, sizes_of

SEEDS = st.integers(0, 2**32 - 1)

LONGEST = 400


def stated(model: onnx.ModelProto) -> dict[str, str]:
    """Return the provenance of each node that has one, by the node's name."""
    found = {}
    for node in model.graph.node:
        texts = [entry.value for entry in node.metadata_props if entry.key == FOLDED_FROM]
        assert len(texts) <= 1
        if texts:
            found[node.name or node.output[0]] = texts[0]
    return found


def without(model: onnx.ModelProto) -> bytes:
    """Return the bytes of a model without provenance."""
    own = ir.serde.deserialize_model(model)
    for graph in (own.graph, *(function.graph for function in own.functions.values())):
        for node in graph.all_nodes():
            node.metadata_props.pop(FOLDED_FROM, None)
    return ir.serde.serialize_model(own).SerializeToString(deterministic=True)


def labels(model: onnx.ModelProto) -> set[str]:
    """Return the names of all nodes of a model, with subgraphs and functions."""
    own = ir.serde.deserialize_model(model)
    graphs = (own.graph, *(function.graph for function in own.functions.values()))
    return {label(node) for graph in graphs for node in graph.all_nodes()}


def row(*ops: str) -> onnx.ModelProto:
    """Build a chain of 1x1 convolutions, scales and shifts, named by op and position."""
    numbers = np.random.default_rng(0)
    nodes, tensors, x = [], [], "x"
    for i, op in enumerate(ops):
        shape = (4, 4, 1, 1) if op == "Conv" else (1, 4, 1, 1)
        weight = np.exp(numbers.standard_normal(shape) / 8).astype(np.float32)
        read = [x] if op == "Relu" else [x, f"w{i}"]
        tensors += [onnx.numpy_helper.from_array(weight, read[1])] if len(read) > 1 else []
        nodes.append(onnx.helper.make_node(op, read, [f"y{i}"], name=f"{op}{i}"))
        x = f"y{i}"
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4, 5, 5])
        for name in ("x", x)
    ]
    graph = onnx.helper.make_graph(nodes, "row", ends[:1], ends[1:], tensors)
    opsets = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(2, 14), st.sampled_from(["cheapest", "always"]))
def test_names_are_those_of_the_source(seed: int, length: int, policy: str) -> None:
    """Each name belongs to a source node that was removed or renamed."""
    model = random_graph(seed, length=length)
    folded, report = onnx_expand.fold(model, policy=policy, report=True)
    assert_same(model, folded, seed)
    known = labels(model)
    own = {label(node): folded_from(node) for node in ir.serde.deserialize_model(folded).graph}
    for node, found in own.items():
        if found is not None:
            names, unnamed = found
            assert known.issuperset(names)
            assert len(set(names)) == len(names)
            assert names != (node,)
            assert unnamed == 0
    # The nodes of a site equal the provenance of its node, unless another site changed it.
    for site in report.sites:
        alone = not any(
            other is not site and {*site.nodes, *site.result} & {*other.nodes, *other.result}
            for other in report.sites
        )
        for name in site.result if alone and len(site.nodes) > 1 else ():
            if name in own:
                assert set(own[name][0]) == set(site.nodes)  # type: ignore[index]


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from(KINDS))
def test_the_rest_of_the_model_is_not_touched(seed: int, kind: str) -> None:
    """Provenance changes nothing else in the model, and files hardly grow."""
    model = random_model(seed, kind)
    said = onnx_expand.fold(model)
    assert judge(Source(model, sizes_of(model), seed), said) == []
    silent = onnx_expand.fold(model, provenance=False)
    assert FOLDED_FROM.encode() not in silent.SerializeToString()
    assert without(said) == without(silent)
    texts = stated(said).values()
    assert all(len(text) <= LONGEST for text in texts)
    again = onnx_expand.fold(said)
    assert again.SerializeToString() == said.SerializeToString()


def test_a_later_fold_adds_to_it() -> None:
    """A node that is merged again names the nodes of the first source."""
    model = row("Conv", "Mul", "Add", "Conv")
    first = model.graph
    half = onnx.ModelProto()
    half.CopyFrom(model)
    del half.graph.node[3:]
    half.graph.output[0].name = "y2"
    part = onnx_expand.fold(half)
    assert [json.loads(text) for text in stated(part).values()] == [["Conv0", "Mul1", "Add2"]]
    part.graph.node.append(first.node[3])
    part.graph.initializer.append(first.initializer[3])
    part.graph.output[0].name = "y3"
    whole = onnx_expand.fold(part)
    (text,) = stated(whole).values()
    assert json.loads(text) == ["Conv0", "Mul1", "Add2", "Conv3"]
    silent = onnx_expand.fold(part, provenance=False)  # the list is complete
    assert not stated(silent)


@pytest.mark.parametrize("count", [2, 40, 300])
def test_a_long_list_ends_with_a_count(count: int) -> None:
    """The text is short for any number of nodes and accounts for all of them."""
    folded = onnx_expand.fold(row(*["Mul"] * count))
    (text,) = stated(folded).values()
    assert len(text) <= LONGEST
    (node,) = ir.serde.deserialize_model(folded).graph
    found = folded_from(node)
    assert found is not None
    names, unnamed = found
    assert names == tuple(f"Mul{i}" for i in range(len(names)))
    assert len(names) + unnamed == count
    assert (unnamed == 0) == (count == 2 or not isinstance(json.loads(text)[-1], int))


def test_a_name_that_is_too_long_is_counted() -> None:
    """A name that exceeds the limit is counted, not listed."""
    model = row("Conv", "Mul")
    model.graph.node[0].name = "long" * 1000
    (node,) = ir.serde.deserialize_model(onnx_expand.fold(model)).graph
    assert folded_from(node) == ((), 2)


def test_restored_nodes_keep_their_provenance() -> None:
    """Restored nodes are not made by fold, so their provenance does not change."""
    model = onnx_expand.fold(row("Conv", "Mul"))
    assert stated(model)
    for source in (model, row("Conv", "Relu")):
        expanded = onnx_expand.expand(source, strategy="cl", kernels="1")
        assert len(expanded.graph.node) > len(source.graph.node)
        assert stated(onnx_expand.fold(expanded)) == stated(source)


def test_every_door_keeps_it(tmp_path: Path) -> None:
    """Files, onnx_ir, graphsurgeon and clean preserve provenance."""
    model = row("Conv", "Mul", "Relu", "Relu")
    onnx.save(model, tmp_path / "in.onnx")
    wanted = ["Conv0", "Mul1"]
    onnx_expand.fold(str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx"))
    folded = onnx.load(tmp_path / "out.onnx")
    graph = onnx_expand.fold(gs.import_onnx(model))
    own = onnx_expand.fold(ir.serde.deserialize_model(model))
    cleaned = Clean()(ir.serde.deserialize_model(folded)).model
    twice = onnx_expand.run(folded, "clean,check")
    through = onnx_expand.model.read(graph)
    for found in (folded, twice, *map(ir.serde.serialize_model, (own, cleaned, through))):
        assert [json.loads(text) for text in stated(found).values()] == [wanted]
    assert not any(key.startswith("onnx_expand") for node in own.graph for key in node.meta)


def test_check_sees_no_difference() -> None:
    """Models that differ only in provenance are identical."""
    model = row("Conv", "Mul")
    said, silent = onnx_expand.fold(model), onnx_expand.fold(model, provenance=False)
    assert said != silent
    verdict = onnx_expand.check(said, silent)
    assert verdict
    assert verdict.rests_on is Basis.IDENTITY


@settings(max_examples=60, deadline=None)
@given(
    st.text()
    | st.recursive(
        st.none() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner)
    ).map(json.dumps)
)
def test_foreign_values_of_the_key_do_no_harm(text: str) -> None:
    """A node with another value under this key counts as itself."""
    model = row("Conv", "Mul")
    model.graph.node[0].metadata_props.add(key=FOLDED_FROM, value=text)
    (found,) = stated(onnx_expand.fold(model)).values()
    before = folded_from(ir.serde.deserialize_model(model).graph[0])
    names, unnamed = before or (("Conv0",), 0)
    after = folded_from(ir.serde.deserialize_model(onnx_expand.fold(model)).graph[0])
    assert after is not None
    assert len(found) <= LONGEST
    assert len(after[0]) + after[1] == len(dict.fromkeys((*names, "Mul1"))) + unnamed


def test_the_command_line_leaves_it_out(tmp_path: Path) -> None:
    """`--no-provenance` omits the metadata."""
    source, target = str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")
    onnx.save(row("Conv", "Mul"), source)
    assert main(["fold", source, target, "-q"]) == 0
    assert stated(onnx.load(target))
    assert main(["fold", source, target, "-q", "--no-provenance"]) == 0
    assert not stated(onnx.load(target))
