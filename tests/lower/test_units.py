"""The records of expanded units, after other tools have changed the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnx_expand
from onnx_expand.errors import Reason
from onnx_expand.lower.units import unit_member
from onnx_expand.passes import Fold, Policy
from onnx_expand.runtimes import Reference
from tests.support.graphs_text import bn, graph, ops, weights

NOTE = "onnx_expand.expanded"


def assert_same(a: onnx.ModelProto, b: onnx.ModelProto) -> None:
    """Assert that two models compute the same for an image."""
    x = np.random.default_rng(0).standard_normal((2, 3, 12, 12))
    one, other = (
        Reference().session(ir.serde.deserialize_model(model), "model").run({"x": x})["y"]
        for model in (a, b)
    )
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-4)


def network() -> onnx.ModelProto:
    """Build two convolutions, each with a batch normalization."""
    constants = {**weights(v=(8, 3, 3, 3), w=(4, 8, 3, 3)), **bn("p", 8), **bn("q", 4)}
    return graph(
        """g (float[N,3,12,12] x) => (float[N,4,8,8] y) {
            [conv1] a = Conv(x, v)
            [norm1] b = BatchNormalization(a, p_s, p_b, p_m, p_v)
            c = Relu(b)
            [conv2] d = Conv(c, w)
            [norm2] y = BatchNormalization(d, q_s, q_b, q_m, q_v)
        }""",
        constants,
    )


def expanded() -> onnx.ModelProto:
    """Expand the network."""
    model: onnx.ModelProto = onnx_expand.expand(network(), strategy="cl", rate=1, init="preserve")
    return model


def _without_node_metadata(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        del node.metadata_props[:]


def _without_one_node_metadata(model: onnx.ModelProto) -> None:
    """Remove the record of the last node of each unit, as optimizers do that replace it."""
    for node in model.graph.node:
        if any('"index":2' in entry.value for entry in node.metadata_props):
            del node.metadata_props[:]


def _without_names(model: onnx.ModelProto) -> None:
    _without_node_metadata(model)
    for node in model.graph.node:
        node.name = ""


def _doubled(model: onnx.ModelProto) -> None:
    """Duplicate nodes together with their records."""
    records = [n.metadata_props[0].value for n in model.graph.node if n.metadata_props]
    for node in model.graph.node:
        if node.metadata_props:
            node.metadata_props[0].value = records[0]


def _contradicting(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for entry in node.metadata_props:
            if '"index":1' in entry.value:
                entry.value = entry.value.replace('"size":3', '"size":4')


TOOLS: dict[str, Callable[[onnx.ModelProto], None]] = {
    "drops the metadata of nodes": _without_node_metadata,
    "drops the metadata of some nodes": _without_one_node_metadata,
    "drops names and metadata": _without_names,
    "copies metadata": _doubled,
    "edits metadata": _contradicting,
}


@pytest.mark.parametrize("tool", TOOLS)
def test_a_model_note_without_unit_records_has_no_effect(tool: str) -> None:
    """Without the records of units, fold treats the model as any other."""
    model = expanded()
    assert NOTE in {entry.key for entry in model.metadata_props}
    TOOLS[tool](model)
    result = Fold().call(onnx_expand.model.read(model))
    assert result.report.policy is Policy.CHEAPEST
    folded = onnx_expand.fold(model)
    assert ops(folded) == ["Conv", "Relu", "Conv"]
    assert not folded.metadata_props
    assert_same(model, folded)


def test_models_optimized_by_onnxruntime_fold(tmp_path: Path) -> None:
    """The optimizer merges nodes and drops their metadata, but not that of the model."""
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    model = expanded()
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    optimized = onnx.load(tmp_path / "optimized.onnx")
    folded = onnx_expand.fold(optimized)
    assert ops(folded) == ["Conv", "Relu", "Conv"]
    assert_same(model, folded)


def test_models_of_the_version_converter_fold() -> None:
    """The converter drops the metadata of nodes, but not that of the model."""
    model = expanded()
    converted = onnx.version_converter.convert_version(model, 18)
    folded = onnx_expand.fold(converted)
    assert ops(folded) == ["Conv", "Relu", "Conv"]
    assert_same(model, folded)


def test_an_expand_that_matched_nothing_leaves_no_note() -> None:
    """The model does not change, and folds as any other."""
    model = network()
    nothing = onnx_expand.expand(model, strategy="cl", include="no such layer")
    assert ops(nothing) == ops(model)
    assert not nothing.metadata_props
    assert ops(onnx_expand.fold(nothing)) == ["Conv", "Relu", "Conv"]


def test_a_restored_model_stays_with_a_reason() -> None:
    """Folding a restored model again changes nothing, until a tool changes a node."""
    back = onnx_expand.fold(expanded())
    assert ops(back) == ops(network())
    assert onnx_expand.fold(back).SerializeToString() == back.SerializeToString()
    report = Fold().call(onnx_expand.model.read(back)).report
    assert report.policy is Policy.MARKED
    assert report.kept[0].refusal.reason is Reason.POLICY
    assert "cheapest" in str(report.kept[0].refusal)
    assert ops(onnx_expand.fold(back, policy="cheapest")) == ["Conv", "Relu", "Conv"]
    back.graph.node[0].name = "renamed"
    assert ops(onnx_expand.fold(back)) == ["Conv", "Relu", "Conv"]


def test_units_of_two_branches_are_two_units() -> None:
    """Values in two branches may have equal names, but a unit belongs to one graph."""
    model = graph(
        """g (float[N,3,8,8] x, bool k) => (float[N,4,6,6] y) {
            y = If(k) <
                then_branch = t () => (float[N,4,6,6] z) { [one] z = Conv(x, w) },
                else_branch = e () => (float[N,4,6,6] z) { [two] z = Conv(x, v) }
            >
        }""",
        weights(w=(4, 3, 3, 3), v=(4, 3, 3, 3)),
    )
    made = onnx_expand.expand(model, strategy="cl", rate=1, init="preserve")
    inner = [a.g for a in made.graph.node[0].attribute]
    assert [len(g.node) for g in inner] == [3, 3]
    read = onnx_expand.model.read(made)
    assert all(unit_member(node) for g in read.graph.subgraphs() for node in g)
    back = onnx_expand.fold(made)
    assert [len(a.g.node) for a in back.graph.node[0].attribute] == [1, 1]
    assert [a.g.node[0].name for a in back.graph.node[0].attribute] == ["one", "two"]
