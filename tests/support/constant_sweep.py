"""Compare the constants that fold computes with onnxruntime, over ops, opsets and types.

`python -m tests.support.constant_sweep --count 4000` folds this many random models whose weights a
node computes, and counts the wrong ones. `--table FILE` instead compares ONNX's reference
implementation with onnxruntime and writes where both agree.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from onnx_expand.errors import OnnxExpandError
from onnx_expand.graph.attributes import schema_of
from onnx_expand.graph.constants import is_defined
from onnx_expand.graph.evaluators import by_onnxruntime, by_reference, signature
from onnx_expand.passes import Fold
from tests.support.constant_cases import OPS, TYPES, Case, draw_case, types_of
from tests.support.opsets import NEWEST

__all__ = ["NEWEST", "OLDEST", "agree", "cases", "judge", "table"]

Array = npt.NDArray[Any]
OLDEST = 7  # onnxruntime's
_ROUNDING = {"e": 2.0**-10, "f": 2.0**-23, "d": 2.0**-52}
_SUMMING = frozenset(
    {
        *("BatchNormalization", "Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul", "Mean"),
        *("ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare", "Resize", "Sum"),
    }
)
# Ops whose result in onnxruntime depends on how loops are split: NaN among other values, sums of
# 16-bit values in float32. Ends of Slices beyond all extents are rare and differ as int32.
_UNCERTAIN = {
    "Slice": frozenset({"int32"}),
    **dict.fromkeys(
        ("ReduceMax", "ReduceMin"), frozenset({"float", "double", "float16", "bfloat16"})
    ),
    **dict.fromkeys(_SUMMING, frozenset({"float16", "bfloat16"})),
}
_ENOUGH = 5  # comparisons that succeeded
_DRAWS = 30


def cases(count: int, seed: int) -> Iterator[Case]:
    """Draw cases, with each op equally likely."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        op = OPS[i % len(OPS)]
        opset = int(rng.integers(OLDEST, NEWEST + 1))
        names = types_of(op, opset)
        if not names:
            continue
        # Half of them have the types of weights and shapes.
        common = [n for n in ("float32", "float64", "int64", "float16") if n in names]
        chosen = common if common and rng.integers(2) else names
        yield draw_case(rng, op, opset, chosen[int(rng.integers(len(chosen)))])


def source_of(case: Case) -> onnx.ModelProto:
    """Build a model that adds the result of a case, as float64, to its inputs."""
    node = ir.serde.serialize_node(case.node())
    nodes, inputs, outputs = [node], [], []
    constants = [
        numpy_helper.from_array(np.asarray(a), f"c{i}")
        for i, a in enumerate(case.inputs)
        if a is not None
    ]
    constants.append(numpy_helper.from_array(np.array([-1]), "flat"))
    double = onnx.TensorProto.DOUBLE
    for name in node.output:
        nodes += [
            helper.make_node("Cast", [name], [f"{name}d"], to=double),
            helper.make_node("Reshape", [f"{name}d", "flat"], [f"{name}v"]),
            helper.make_node("Add", [f"x{name}", f"{name}v"], [f"y{name}"]),
        ]
        inputs.append(f"x{name}")
        outputs.append(f"y{name}")
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info(name, double, ["N", "K" + name]) for name in inputs],
        [helper.make_tensor_value_info(name, double, None) for name in outputs],
        constants,
    )
    opset = helper.make_opsetid("", case.opset)
    form = max(helper.find_min_ir_version_for([opset]), 10 if case.opset > 17 else 7)
    return helper.make_model(graph, opset_imports=[opset], ir_version=form)


def _run(model: onnx.ModelProto, sizes: Sequence[int] | None = None) -> list[Array] | None:
    """Return the outputs for zeros in onnxruntime without optimizations, or None if it refuses."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        extents = sizes or [1] * len(session.get_inputs())
        zeros = {
            value.name: np.zeros((1, size))
            for value, size in zip(session.get_inputs(), extents, strict=True)
        }
        return [np.asarray(array) for array in session.run(None, zeros)]
    except Exception:  # onnxruntime's exceptions have no common base class
        return None


def judge(case: Case) -> str:
    """Return fold's outcome for a case: equal, left, invalid (for onnxruntime), or WRONG."""
    source = source_of(case)
    truth = _run(source)
    if truth is not None:
        sizes = [array.shape[-1] for array in truth]
        for value, size in zip(source.graph.input, sizes, strict=True):
            value.type.tensor_type.shape.dim[1].dim_value = size
    model = ir.serde.deserialize_model(source)
    try:
        Fold().call(model)
    except OnnxExpandError:
        return "left" if truth is not None else "invalid"
    folded = ir.serde.serialize_model(model)
    is_baked = not any(node.op_type == case.op for node in folded.graph.node) or (
        case.op in {"Cast", "Reshape", "Add"} and len(folded.graph.node) < len(source.graph.node)
    )
    if truth is None:
        is_handed_on = len(case.inputs) == 1 and case.op in {"Max", "Mean", "Min", "Sum"}
        is_wrong = is_baked and not is_handed_on and not _is_known(case)
        return "WRONG" if is_wrong else "invalid"
    if 0 in sizes:
        return "invalid"
    found = _run(folded, sizes)
    if found is None:
        return "WRONG"
    same = all(_is_same(a, b, case) for a, b in zip(truth, found, strict=True))
    return "WRONG" if not same else "equal" if is_baked else "left"


def _is_same(truth: Array, found: Array, case: Case) -> bool:
    """Return whether two results are bitwise equal.

    Between two nodes that it computes in float32, onnxruntime omits the model's rounding to
    float16.
    """
    if np.array_equal(truth, found, equal_nan=True):
        return True
    if case.op in _SUMMING and truth.shape == found.shape:
        # Kernels sum in another order if a weight is stored in the model.
        unit, scale = _ROUNDING.get(case.inputs[0].dtype.char, 0), _scale(case)  # type: ignore[union-attr]
        if np.allclose(truth, found, rtol=0, atol=4 * unit * scale, equal_nan=True):
            return True
    halves = any(a is not None and a.dtype == np.float16 for a in case.inputs)
    with np.errstate(over="ignore"):
        rounded = truth.astype(np.float16)
    return halves and np.array_equal(rounded, found, equal_nan=True)


def _is_known(case: Case) -> bool:
    """Return whether a single node is known although the model around it does not run.

    A node that returns its input, such as an Expand to a smaller shape, is removed unevaluated.
    """
    if case.op in {"Shape", "Size"}:
        return True
    if by_onnxruntime(case.node(), case.inputs, case.opset) is not None:
        return True
    found = by_reference(case.node(), case.inputs, case.opset)
    given = case.inputs[0] if case.inputs else None
    return found is not None and given is not None and np.array_equal(found[0], given)


def agree(case: Case) -> bool | None:
    """Return whether the reference agrees with onnxruntime, or None if unknown."""
    node = case.node()
    if not is_defined(node, case.inputs):
        return None
    truth = by_onnxruntime(node, case.inputs, case.opset)
    if truth is None:
        return None
    found = by_reference(node, case.inputs, case.opset)
    if found is None:
        return None  # it fails, so it returns nothing wrong
    scale = _scale(case) if case.op in _SUMMING else 0.0
    return all(_are_close(a, b, scale) for a, b in zip(truth, found, strict=True))


def _scale(case: Case) -> float:
    """Return the possible magnitude of the terms of a case's sums."""
    scale = 1.0
    for array in case.inputs:
        if array is not None and array.dtype.kind == "f" and array.size:
            with np.errstate(all="ignore"):
                known = np.where(np.isfinite(array), np.abs(array.astype(np.float64)), 0)
            scale *= max(1.0, float(known.max()))
    return scale


def _are_close(a: Array, b: Array, scale: float) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.char not in _ROUNDING:
        return a.tobytes() == b.tobytes() or bool(
            np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        )
    unit = _ROUNDING[a.dtype.char]
    x, y = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        near = np.abs(x - y) <= 4 * unit * np.maximum(np.abs(x), scale)
        return bool(np.all(near | (x == y) | (np.isnan(x) & np.isnan(y))))


def _variety(op: str, opset: int) -> int:
    """Return the factor by which an op needs more cases, for its types and attributes."""
    if op.startswith("Cast"):
        return len(TYPES)
    schema = schema_of(op, opset)
    return (
        20 if op == "Resize" else 1 if schema is None else min(4, 1 + len(schema.attributes) // 2)
    )


def table(seed: int, ops: Sequence[str] = OPS) -> dict[str, set[str]]:
    """Return the types for which each version of each op agreed in every comparison."""
    rng = np.random.default_rng(seed)
    agreed: Counter[tuple[str, str]] = Counter()
    failed: set[tuple[str, str]] = set()
    for op in ops:
        versions = {s.since_version for n in range(OLDEST, NEWEST + 1) if (s := schema_of(op, n))}
        for version in sorted(versions):
            opset = max(version, OLDEST)
            for name in types_of(op, opset):
                for _ in range(_DRAWS * _variety(op, opset)):
                    case = draw_case(rng, op, opset, name)
                    key = signature(case.node(), case.inputs, opset)
                    if key is None or key in failed:
                        continue
                    if _UNCERTAIN.get(op, frozenset()) & set(key[1].split()):
                        continue
                    verdict = agree(case)
                    if verdict is False:
                        failed.add(key)
                    elif verdict:
                        agreed[key] += 1
    found: dict[str, set[str]] = {}
    for key, count in agreed.items():
        if key not in failed and count >= _ENOUGH:
            found.setdefault(key[0], set()).add(key[1])
    return found


def main(words: Sequence[str] | None = None) -> int:
    """Run the sweep, or write the table; return 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", metavar="FILE")
    options = parser.parse_args(words)
    if options.table:
        found = table(options.seed)
        lines = [f"{key}: {'; '.join(sorted(types))}\n" for key, types in sorted(found.items())]
        with open(options.table, "w") as stream:
            stream.writelines(lines)
        return 0
    counts: Counter[str] = Counter()
    ops: dict[str, Counter[str]] = {}
    for case in cases(options.count, options.seed):
        verdict = judge(case)
        counts[verdict] += 1
        ops.setdefault(case.op, Counter())[verdict] += 1
        if verdict == "WRONG":
            print(f"WRONG: {case}", flush=True)
    for op, own in sorted(ops.items()):
        print(f"{op:20} " + ", ".join(f"{n} {kind}" for kind, n in sorted(own.items())))
    print("total: " + ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())))
    return int(counts["WRONG"] > 0)


if __name__ == "__main__":
    sys.exit(main())
