"""The records of ops agree with ONNX's schemas, and no op that is treated lacks one."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnx import helper

from onnx_expand.graph.ops import OPS, Handlers, Op, Trait, op_of, ops_with
from onnx_expand.lift import LINEAR_OPS
from onnx_expand.lift.base import LIFTERS, lifts

_HISTORY: dict[str, list[onnx.defs.OpSchema]] = {}
for _schema in onnx.defs.get_all_schemas_with_history():
    if _schema.domain == "":
        _HISTORY.setdefault(_schema.name, []).append(_schema)

_RECORDS = sorted(OPS.values(), key=lambda record: record.name)
# A function of its inputs, in spite of its mark; the others run bodies.
_MARKED_ALL_THE_SAME = {"AffineGrid", "If", "Loop", "Scan", "SequenceMap"}


def _is_random(schema: Any) -> bool:
    # Ops whose bodies onnx says nothing of are "unknown": they are not random.
    return str(schema.node_determinism) == "NodeDeterminism.NonDeterministic"


def _id(record: Op) -> str:
    return record.name


@pytest.mark.parametrize("record", _RECORDS, ids=_id)
def test_a_record_is_of_an_op_that_onnx_has(record: Op) -> None:
    assert record.name in _HISTORY


@pytest.mark.parametrize("record", _RECORDS, ids=_id)
def test_the_inputs_that_a_record_names_exist(record: Op) -> None:
    named = {*record.weights, *record.settings, *record.deciding}
    most = max(schema.max_input for schema in _HISTORY[record.name])
    assert all(index < most for index in named)
    assert not set(record.weights) & set(record.settings)


@pytest.mark.parametrize("record", _RECORDS, ids=_id)
def test_what_decides_a_shape_is_made_of_integers_or_scales(record: Op) -> None:
    schema = max(_HISTORY[record.name], key=lambda s: s.since_version)
    kinds = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    for index in record.deciding:
        given = schema.inputs[index].type_str
        allowed = kinds.get(given, [given])
        assert any("int" in kind for kind in allowed) or schema.inputs[index].name == "scales"


def test_random_ops_are_those_that_the_schemas_call_so() -> None:
    random = {name for name, history in _HISTORY.items() if any(map(_is_random, history))}
    assert ops_with(Trait.VARIES) == random - _MARKED_ALL_THE_SAME


def test_no_pure_op_is_random_or_has_a_body() -> None:
    for name in ops_with(Trait.PURE):
        assert Trait.VARIES not in OPS[name].traits
        for schema in _HISTORY[name]:
            kinds = {str(a.type).rpartition(".")[2] for a in schema.attributes.values()}
            assert not kinds & {"GRAPH", "GRAPHS"}


@pytest.mark.parametrize("name", sorted(LINEAR_OPS))
def test_every_lifted_op_has_a_record(name: str) -> None:
    assert name in OPS


def test_a_lifter_without_a_record_is_refused() -> None:
    with pytest.raises(LookupError, match="'Celebrate' has no record"):
        lifts("Celebrate")
    assert "Celebrate" not in LIFTERS


def test_an_op_has_one_function_for_one_question() -> None:
    table = Handlers[object]("what?")  # type: ignore[type-var]
    table.register("Add")(len)
    with pytest.raises(LookupError, match="'Add' has two functions"):
        table.register("Mul", "Add")
    assert dict(table) == {"Add": len}


def test_a_node_of_another_domain_has_a_record_that_says_nothing() -> None:
    assert op_of(helper.make_node("Add", ["a", "b"], ["y"])) is OPS["Add"]
    other = op_of(helper.make_node("Add", ["a", "b"], ["y"], domain="example"))
    assert other == Op("")
    assert not other.traits


def test_traits_of_shapes_agree_with_inference() -> None:
    """Ops that keep the rank or broadcast do so where ONNX's inference knows the output."""
    tried = 0
    for name in sorted(ops_with(Trait.KEEPS_RANK) | ops_with(Trait.BROADCASTS)):
        count = min(_HISTORY[name][-1].max_input, 2) if Trait.BROADCASTS in OPS[name].traits else 1
        names = [f"i{i}" for i in range(count)]
        node = helper.make_node(name, names, ["y"])
        ports = [
            helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2, 3, 4, 5][i:])
            for i, n in enumerate(names)
        ]
        graph = helper.make_graph([node], "g", ports, [helper.make_empty_tensor_value_info("y")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
        try:
            inferred = onnx.shape_inference.infer_shapes(model).graph.output[0].type.tensor_type
        except onnx.shape_inference.InferenceError:
            continue  # it wants more inputs
        if inferred.HasField("shape"):
            tried += 1
            assert len(inferred.shape.dim) == 4, name
    assert tried > 30
