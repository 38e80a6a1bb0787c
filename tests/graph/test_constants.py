"""Constants that fold writes down are what onnxruntime computes, or are left where they were."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from onnx_expand.graph import evaluators
from onnx_expand.graph.budget import Budget
from onnx_expand.graph.constants import evaluate
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.proven import proven
from tests.support.constant_cases import OPS, Case, draw_case, types_of
from tests.support.constant_sweep import NEWEST, OLDEST, agree, cases, judge
from tests.support.graphs_text import fold, graph

pytest.importorskip("onnxruntime")

COUNT = max(300, int(os.environ.get("FUZZ_EXAMPLES", "0")))


def test_folded_constants_are_those_of_onnxruntime() -> None:
    """Random ops, operator sets, attributes and types; most are written down, none wrong."""
    verdicts: Counter[str] = Counter()
    for case in cases(COUNT, seed=COUNT):
        verdict = judge(case)
        assert verdict != "WRONG", str(case)
        verdicts[verdict] += 1
    assert verdicts["equal"] > COUNT / 2, verdicts


def test_every_op_of_the_table_agrees_with_onnxruntime() -> None:
    """Fresh cases of each version of each op for which the reference is trusted."""
    rng = np.random.default_rng(int(os.environ.get("FUZZ_EXAMPLES", "0")))
    compared = 0
    for key, types in proven().items():
        op, _, version = key.partition("-")
        opset = max(int(version), OLDEST)
        names = types_of(op, opset)
        for _ in range(COUNT // 60):
            case = draw_case(rng, op, opset, names[int(rng.integers(len(names)))])
            found = evaluators.signature(case.node(), case.inputs, opset)
            if found is not None and found[1] in types:
                verdict = agree(case)
                assert verdict is not False, str(case)
                compared += verdict is True
    assert compared > len(proven())


def test_the_table_leaves_out_what_the_reference_does_otherwise() -> None:
    """The reference knows one Softmax, one inference BatchNormalization, and Resizes its own."""
    assert "Add-14" in proven()
    assert "float" in proven()["Softmax-13"]
    for key in ("Softmax-1", "Softmax-11", "BatchNormalization-9", "Resize-13"):
        assert not proven().get(key), key


def test_without_onnxruntime_only_the_table_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the reference gives where onnxruntime is missing is what that would give."""
    monkeypatch.setattr(evaluators, "_onnxruntime", lambda: None)
    found = [
        (case, evaluate(case.node(), case.inputs, case.opset, Budget(0)))
        for case in cases(COUNT, seed=COUNT + 1)
    ]
    monkeypatch.undo()
    known = 0
    for case, results in found:
        if results is None or case.op in {"Shape", "Size"}:
            continue
        known += 1
        assert agree(case) is not False, str(case)
    assert known > COUNT / 4


UNDEFINED = {
    "division by zero": Case("Div", 17, [np.array([4, 5]), np.array([2, 0])]),
    "quotient that does not fit": Case(
        "Div", 17, [np.array([-(2**63)], np.int64), np.array([-1], np.int64)]
    ),
    "rest of a division by zero": Case("Mod", 17, [np.array([4, 5]), np.array([2, 0])]),
    "root of an integer": Case("Pow", 17, [np.array([4]), np.array([-1])]),
    "power that does not fit": Case(
        "Pow", 17, [np.array([9], np.int32), np.array([40], np.int32)]
    ),
    "not a number as an integer": Case("Cast", 17, [np.array([np.nan])], {"to": 7}),
    "number beyond the type": Case("Cast", 17, [np.array([300.0])], {"to": 3}),
    "negative as unsigned": Case("Cast", 17, [np.array([-1.5])], {"to": 2}),
    "number beyond four bits": Case("Cast", 21, [np.array([9])], {"to": 22}),
    "strides of zero": Case(
        "Conv", 17, [np.ones((1, 1, 3)), np.ones((1, 1, 1))], {"strides": [0]}
    ),
    "no group": Case("Conv", 17, [np.ones((1, 1, 3)), np.ones((1, 1, 1))], {"group": 0}),
    "more parts than outputs": Case(
        "Split", 18, [np.ones(4)], {"axis": 0, "num_outputs": 2**31}, 2
    ),
    "empty part of other extents": Case(
        "Concat", 17, [np.ones((1, 2)), np.ones((3, 0))], {"axis": 1}
    ),
    "empty part of another rank": Case("Concat", 17, [np.ones((1, 2)), np.ones(0)], {"axis": 0}),
    "text": Case("Identity", 17, [np.array(["a"])]),
}


@pytest.mark.parametrize("name", UNDEFINED)
def test_what_no_standard_defines_is_left(name: str) -> None:
    """Runtimes give one thing or another, or crash: no such number is written down."""
    case = UNDEFINED[name]
    assert evaluate(case.node(), case.inputs, case.opset, Budget(0)) is None


@pytest.mark.parametrize("op", OPS)
def test_a_strange_operand_ends_no_process(op: str) -> None:
    """Operands that do not fit, of other ranks, extents and values, are left or computed."""
    rng = np.random.default_rng(len(op))
    for _ in range(max(6, COUNT // 60)):
        opset = int(rng.integers(OLDEST, NEWEST + 1))
        names = types_of(op, opset)
        if not names:
            continue
        case = draw_case(rng, op, opset, names[int(rng.integers(len(names)))])
        for index, array in enumerate(case.inputs):
            change = int(rng.integers(5))
            if array is None:
                continue
            if change == 0:
                case.inputs[index] = array[..., None]
            elif change == 1:
                case.inputs[index] = array.reshape(-1)[:0]
            elif change == 2 and array.dtype == np.int64 and array.size:
                array.reshape(-1)[0] = rng.choice([-(2**63), 2**63 - 1, -1, 0, 2**31, 1 << 20])
        results = evaluate(case.node(), case.inputs, case.opset, Budget(0))
        if results is not None:
            assert all(isinstance(array, np.ndarray) for array in results)


def test_a_table_cut_at_a_dynamic_extent_is_no_constant() -> None:
    """Positions of a table up to the length of an input: the extent stands for no number."""
    model = graph(
        """
        g (float[N,L] x) => (float[N,L] y) {
            s = Shape(x)
            one = Constant <value: tensor = int64[1] {1}> ()
            two = Constant <value: tensor = int64[1] {2}> ()
            zero = Constant <value: tensor = int64[1] {0}> ()
            end = Slice(s, one, two, zero)
            positions = Slice(table, zero, end, zero)
            p = Cast <to = 1> (positions)
            y = Add(x, p)
        }
        """,
        {"table": np.arange(8)},
    )
    parsed = ir.serde.deserialize_model(model)
    facts = Facts(parsed)
    values = {out.name: out for node in parsed.graph for out in node.outputs}
    assert not facts.is_constant(values["positions"])
    folded, _ = fold(model)
    assert [n.op_type for n in folded.graph.node] == ["Shape", "Slice", "Slice", "Cast", "Add"]
