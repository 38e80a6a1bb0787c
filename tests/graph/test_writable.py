"""Law: what is written is in the model's operator set, and runs where the model ran."""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import onnx_expand
from onnx_expand.algebra.affine import AffineConv
from onnx_expand.errors import OnnxExpandError, Refusal
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.kernels import KERNELS, NEWEST_TRIED, OLDEST_TRIED, is_implemented
from onnx_expand.lift import Axes
from onnx_expand.lower import Form, Names, Target, form_of, lower
from tests.support.opsets import NEWEST
from tests.support.random_axes import axis_graph

TYPES: dict[str, Any] = {
    "float": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "double": np.float64,
}
LATER = {("Pad", "bfloat16")}  # what only some supported versions of onnxruntime implement
OPSETS = range(OLDEST_TRIED, min(NEWEST_TRIED, NEWEST) + 1)


def kind_of(spelled: str) -> int:
    """The number of a type that is spelled as in ONNX's schemas."""
    return int(getattr(TensorProto, spelled.upper()))


def tensor(name: str, array: Any, spelled: str) -> onnx.TensorProto:
    """A constant of a type."""
    numbers = np.asarray(array).astype(TYPES[spelled])
    return helper.make_tensor(name, kind_of(spelled), numbers.shape, numbers.tobytes(), raw=True)


def runs(model: onnx.ModelProto, shape: list[int], spelled: str) -> bool:
    """Whether a model of one input is valid, and onnxruntime loads and runs it on the CPU."""
    try:
        onnx.checker.check_model(model, full_check=True)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        x = np.ones(shape, TYPES[spelled])
        value = (
            ort.OrtValue.ortvalue_from_numpy_with_onnx_type(x.view(np.uint16), kind_of(spelled))
            if spelled == "bfloat16"
            else ort.OrtValue.ortvalue_from_numpy(x)
        )
        session.run_with_ort_values([model.graph.output[0].name], {"x": value})
    except Exception:  # each library has its own
        return False
    return True


# -- The table of kernels ---------------------------------------------------------------------

ONES = np.ones
CONSTANTS: dict[str, list[Any]] = {
    "Add": [ONES((2, 1, 1))],
    "BatchNormalization": [ONES(2)] * 4,
    "Concat": [ONES((1, 2, 3, 3))],
    "Conv": [ONES((2, 2, 1, 1)), ONES(2)],
    "ConvTranspose": [ONES((2, 2, 2, 2)), ONES(2)],
    "Div": [ONES((2, 1, 1))],
    "Gemm": [ONES((2, 2)), ONES(2)],
    "MatMul": [ONES((3, 3))],
    "Mul": [ONES((2, 1, 1))],
    "PRelu": [ONES((2, 1, 1))],
    "Sub": [ONES((2, 1, 1))],
    "Sum": [ONES((1, 2, 3, 3))],
}
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "AveragePool": {"kernel_shape": [2, 2]},
    "Concat": {"axis": 1},
}


def of_one_op(op_type: str, spelled: str, opset: int) -> tuple[onnx.ModelProto, list[int]]:
    """A model of one node, and the shape of its input."""
    shape = [3, 2] if op_type == "Gemm" else [1, 2, 3, 3]
    held = [tensor(f"c{i}", a, spelled) for i, a in enumerate(CONSTANTS.get(op_type, []))]
    attributes = dict(ATTRIBUTES.get(op_type, {}))
    if op_type == "Pad":
        pads = [0, 1, 0, 0] * 2
        if opset < 11:
            attributes["pads"] = pads
        else:
            held = [
                helper.make_tensor("c0", TensorProto.INT64, [8], pads),
                tensor("c1", 1, spelled),
            ]
    node = helper.make_node(op_type, ["x", *(t.name for t in held)], ["y"], **attributes)
    return one_node(node, shape, spelled, opset, held), shape


def one_node(
    node: onnx.NodeProto,
    shape: list[int],
    spelled: str,
    opset: int,
    held: list[onnx.TensorProto],
) -> onnx.ModelProto:
    """A node and its constants as a model that maps x to y."""
    kind = kind_of(spelled)
    x = helper.make_tensor_value_info("x", kind, shape)
    y = helper.make_tensor_value_info("y", kind, list("abcde"[: len(shape)]))
    graph = helper.make_graph([node], "g", [x], [y], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize("op_type", KERNELS)
def test_the_table_of_kernels_is_what_onnxruntime_has(op_type: str) -> None:
    """Every op, type and opset of the table runs, and none that it leaves out does."""
    wrong = []
    for spelled in TYPES:
        for opset in OPSETS:
            model, shape = of_one_op(op_type, spelled, opset)
            if (op_type, spelled) in LATER:
                continue
            if runs(model, shape, spelled) != is_implemented(op_type, spelled, opset):
                wrong.append((spelled, opset))
    assert not wrong


# -- Forms ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """A map that is to be written."""

    shape: list[int]
    axes: Axes | None
    affine: AffineConv


def normal(*shape: int) -> Any:
    """Normal random numbers."""
    return np.random.default_rng(list(shape)).standard_normal(shape)


CASES = {
    "conv": Case([1, 4, 5, 6], (1, 1), AffineConv(normal(6, 4, 3, 3), normal(6), pads=(1,) * 4)),
    "conv without bias": Case([1, 4, 5, 6], (1, 1), AffineConv(normal(6, 4, 3, 3))),
    "conv of rank 1": Case([1, 4, 5], (1, 1), AffineConv(normal(6, 4, 3))),
    "transposed": Case(
        [1, 4, 5, 6],
        (1, 1),
        AffineConv(normal(6, 4, 2, 2), normal(6), strides=(2, 2), transposed=True),
    ),
    "pointwise": Case([1, 4, 5, 6], (1, 1), AffineConv(normal(6, 4), normal(6))),
    "pointwise of rank 3": Case([1, 2, 4, 5, 6], (1, 1), AffineConv(normal(6, 2))),
    "gemm": Case([3, 4], (1, 1), AffineConv(normal(6, 4), normal(6))),
    "gemm without bias": Case([3, 4], (1, 1), AffineConv(normal(6, 4))),
    "gemm from the left": Case([4, 3], (0, 0), AffineConv(normal(6, 4), normal(6))),
    "gemm, transposed": Case([4, 3], (0, 1), AffineConv(normal(6, 4))),
    "gemm from the left, transposed": Case([3, 4], (1, 0), AffineConv(normal(6, 4), normal(6))),
    "square gemm": Case([4, 4], (1, 0), AffineConv(normal(4, 4), normal(4))),
    "matmul": Case([2, 3, 4], (2, 2), AffineConv(normal(6, 4), normal(6))),
    "matmul without bias": Case([2, 2, 3, 4], (3, 3), AffineConv(normal(6, 4))),
    "matmul from the left": Case([2, 4, 3], (1, 1), AffineConv(normal(6, 4), normal(6))),
    "matmul of a vector": Case([4], (0, 0), AffineConv(normal(6, 4), normal(6))),
    "scale": Case([2, 4, 3], (1, 1), AffineConv.per_channel(normal(4))),
    "scale and shift": Case([2, 4, 3], (2, 2), AffineConv.per_channel(normal(3), normal(3))),
    "shift": Case([2, 4, 3], (0, 0), AffineConv.per_channel(np.ones(2), normal(2))),
    "number": Case([2, 4, 3], None, AffineConv.per_channel(normal(1), normal(1))),
}


def written(case: Case, spelled: str, opset: int) -> onnx.ModelProto | Refusal:
    """A map written behind an Identity of a type; or why it is not."""
    identity = helper.make_node("Identity", ["x"], ["y"])
    model = ir.serde.deserialize_model(one_node(identity, case.shape, spelled, opset, []))
    facts, node = Facts(model), model.graph[0]
    x, dtype = node.outputs[0], ir.DataType(kind_of(spelled))
    form = form_of(
        case.affine.geometry,
        case.axes,
        len(case.shape),
        facts.writable(dtype),
        scales=bool(np.any(case.affine.weight != 1)),
    )
    if isinstance(form, Refusal):
        return form
    names = Names("node", "weight", "bias", "add")
    nodes = lower(case.affine, form, case.axes, Target(x, dtype, names, facts))
    x.name = "inner"
    model.graph.extend(nodes)
    for i, new in enumerate(nodes):
        new.outputs[0].name = "y" if i == len(nodes) - 1 else f"between{i}"
        new.outputs[0].type = ir.TensorType(dtype)
        for value in new.inputs:
            if value is not None and value.const_value is not None:
                model.graph.register_initializer(value)
    last = nodes[-1].outputs[0]
    last.shape = ir.Shape(list("abcde"[: len(case.shape)]))
    model.graph.outputs[0] = last
    return ir.serde.serialize_model(model)


@pytest.mark.parametrize("spelled", TYPES)
@pytest.mark.parametrize("name", CASES)
def test_a_form_is_refused_or_runs(name: str, spelled: str) -> None:
    """In every operator set, what is written is valid and runs; what could run is not refused."""
    for opset in OPSETS:
        if not is_implemented("Identity", spelled, opset):
            continue
        case = CASES[name]
        model = written(case, spelled, opset)
        if isinstance(model, Refusal):
            assert spelled in {"bfloat16", "double"}, (opset, model)
        else:
            assert runs(model, case.shape, spelled), opset


def test_forms_that_are_refused() -> None:
    """A convolution in float64 is refused, a product in its place is not."""
    for opset in OPSETS:
        for name, case in CASES.items():
            refused = isinstance(written(case, "double", opset), Refusal)
            assert refused == (name.startswith(("conv", "transposed", "pointwise"))), (name, opset)


def test_a_product_stands_in_for_gemm_where_there_is_none() -> None:
    """A model that holds MatMul and Add in bfloat16 gets those, not a Gemm that it lacks."""
    affine, bias = AffineConv(normal(6, 4), normal(6)), AffineConv(normal(6, 4))
    held = Facts(ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 17}), ir_version=10))
    writable = dataclasses.replace(
        held.writable(ir.DataType.BFLOAT16), held=frozenset({"MatMul", "Add"})
    )
    assert form_of(affine.geometry, (1, 1), 2, writable) is Form.MATMUL
    assert form_of(bias.geometry, (1, 1), 2, writable) is Form.MATMUL
    without = dataclasses.replace(writable, held=frozenset({"MatMul"}))
    assert isinstance(form_of(affine.geometry, (1, 1), 2, without), Refusal)


@pytest.mark.parametrize("spelled", ["float", "float16", "double"])
@pytest.mark.parametrize("border", ["ones", "pad", "map"])
def test_bridged_borders_are_valid_in_every_operator_set(border: str, spelled: str) -> None:
    """Pad takes its amounts as attributes or inputs, as the operator set says."""
    merged = 0
    for opset in OPSETS:
        shape = [1, 2, 5, 6]
        scale, shift = (np.full((1, 2, 1, 1), n) for n in (0.5, 0.25))
        constants = {"s": scale, "t": shift, "w": normal(3, 2, 3, 3)}
        model = one_node(
            helper.make_node("Conv", ["b", "w"], ["y"], pads=[1, 1, 1, 1]),
            shape,
            spelled,
            opset,
            [tensor(name, array, spelled) for name, array in constants.items()],
        )
        before = [("Mul", ["x", "s"], ["a"]), ("Add", ["a", "t"], ["b"])]
        nodes = [helper.make_node(*node) for node in before]
        del model.graph.node[1:]
        model.graph.node.extend(nodes)
        model.graph.node.append(model.graph.node[0])
        del model.graph.node[0]
        folded = onnx_expand.fold(model, policy="always", border=border)
        onnx.checker.check_model(folded, full_check=True)
        ops = {node.op_type for node in folded.graph.node}
        merged += ops != {node.op_type for node in model.graph.node}
        if is_implemented("Conv", spelled, opset):
            assert runs(folded, shape, spelled), opset
            assert onnx_expand.check(model, folded, samples=1)
    assert merged == len(OPSETS)


# -- Models -----------------------------------------------------------------------------------


def as_bfloat16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model of another floating-point type with all its numbers in bfloat16."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kinds = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}
    for info in (*copy.graph.input, *copy.graph.output, *copy.graph.value_info):
        if info.type.tensor_type.elem_type in kinds:
            info.type.tensor_type.elem_type = TensorProto.BFLOAT16
    for held in copy.graph.initializer:
        if held.data_type in kinds:
            array = onnx.numpy_helper.to_array(held)
            held.CopyFrom(tensor(held.name, array, "bfloat16"))
    return copy


@pytest.mark.parametrize("policy", ["cheapest", "always"])
def test_no_kind_of_node_appears_that_nothing_runs(policy: str) -> None:
    """Models in bfloat16 get no op that they did not hold and that the CPU lacks."""
    tried = changed = 0
    for seed in range(250):
        model = as_bfloat16(axis_graph(seed).model())
        opset = model.opset_import[0].version
        try:
            onnx.checker.check_model(model, full_check=True)
        except Exception:  # it is not in its operator set
            continue
        folded = onnx_expand.fold(model, policy=policy)
        tried += 1
        onnx.checker.check_model(folded, full_check=True)
        held = {node.op_type for node in model.graph.node}
        fresh = {node.op_type for node in folded.graph.node} - held
        changed += len(folded.graph.node) < len(model.graph.node)
        for op_type in fresh:
            assert is_implemented(op_type, "bfloat16", opset), (seed, op_type)
    assert tried > 40
    assert changed > 5


@pytest.mark.parametrize("spelled", ["float16", "bfloat16", "double"])
@pytest.mark.parametrize(
    "strategy", ["cl", "ck", "acnet", "repvgg", "dbb", "mobileone", "lowrank"]
)
def test_expanded_layers_are_refused_or_run(strategy: str, spelled: str) -> None:
    """A strategy whose ops a type lacks leaves the layer, and says why."""
    for opset in (7, 10, 13, 17, 22):
        weight = normal(4, 4, 3, 3) / 6
        node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
        model = one_node(node, [1, 4, 6, 6], spelled, opset, [tensor("w", weight, spelled)])
        try:
            onnx.checker.check_model(model, full_check=True)
        except Exception:  # it is not in its operator set
            continue
        try:
            expanded = onnx_expand.expand(model, strategy=strategy, init="preserve")
        except OnnxExpandError:
            continue
        onnx.checker.check_model(expanded, full_check=True)
        for fresh in {n.op_type for n in expanded.graph.node} - {"Conv"}:
            assert is_implemented(fresh, spelled, opset), (opset, fresh)
        if is_implemented("Conv", spelled, opset):
            assert runs(expanded, [1, 4, 6, 6], spelled), opset
