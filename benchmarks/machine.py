"""Fits the machine model by which fold ranks: `python -m benchmarks.machine`.

Each figure is the least time of single nodes in onnxruntime, one thread, in turns; what any run
takes is taken off. Prints the numbers of `onnx_expand/cost/machine.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from onnx_expand.runtimes import OnnxRuntime, Session, timings

_SECONDS = 12.0
_IMAGE = (1, 64, 56, 56)
_ROWS, _WIDTH = 256, 512
_VECTOR = 2048
_MANY = 40
_TINY = (1, 4, 4, 4)


def _session(
    nodes: Sequence[onnx.NodeProto], shape: Sequence[int], **constants: np.ndarray
) -> tuple[Session, dict[str, np.ndarray]]:
    """A session of nodes from x to y, and what to feed it."""
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        list(nodes),
        "probe",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    held = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model))
    feeds = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    runtime = OnnxRuntime("cpu", optimize=True, threads=1)
    return runtime.session(held, "probe"), feeds


def _probes() -> dict[str, tuple[Session, dict[str, np.ndarray]]]:
    rng = np.random.default_rng(0)
    names = ["x", *(f"v{i}" for i in range(_MANY - 1)), "y"]
    scale = rng.standard_normal((1, 64, 1, 1)).astype(np.float32)
    weight = rng.standard_normal((_WIDTH, _WIDTH)).astype(np.float32)
    wide = rng.standard_normal((_VECTOR, _VECTOR)).astype(np.float32)
    relu = [helper.make_node("Relu", ["x"], ["y"])]
    turn = [helper.make_node("Transpose", ["x"], ["y"], perm=[0, 2, 3, 1])]
    tiny = rng.standard_normal((_TINY[1], _TINY[1], 1, 1)).astype(np.float32)
    convs = [helper.make_node("Conv", [a, "c"], [b]) for a, b in itertools.pairwise(names)]
    join = [helper.make_node("Concat", ["x", "x"], ["y"], axis=1)]
    few = [helper.make_node("Sin", [a], [b]) for a, b in itertools.pairwise(names)]

    def binary(op: str) -> list[onnx.NodeProto]:
        return [helper.make_node(op, ["x", "c"], ["y"])]

    return {
        "idle": _session(relu, [1]),
        "launch": _session(few, [1]),
        "start": _session(convs, _TINY, c=tiny),
        "pass": _session(binary("Mul"), _IMAGE, c=scale),
        "transpose": _session(turn, _IMAGE),
        "concat": _session(join, _IMAGE),
        "product": _session(binary("MatMul"), [_ROWS, _WIDTH], c=weight),
        "stored": _session(binary("MatMul"), [1, _VECTOR], c=wide),
    }


def main() -> None:
    """Measure, and print nanoseconds and what they are in passes."""
    probes = _probes()
    sessions = {name: session for name, (session, _) in probes.items()}
    feeds = {name: feed for name, (_, feed) in probes.items()}
    least = {n: min(t) * 1e9 for n, t in timings(sessions, feeds, seconds=_SECONDS).items()}
    idle, numbers = least["idle"], float(np.prod(_IMAGE))
    found = {
        "launch": (least["launch"] - idle) / (_MANY - 1),
        "start": (least["start"] - least["launch"]) / (_MANY - 1),
        "pass": (least["pass"] - idle) / numbers,
        "transpose": (least["transpose"] - idle) / numbers,
        "concat": (least["concat"] - idle) / numbers / 2,
        "product": (least["product"] - idle) / (_ROWS * _WIDTH * _WIDTH),
        "stored": (least["stored"] - idle) / _VECTOR**2,
    }
    for name, nanoseconds in found.items():
        print(f"{name}: {nanoseconds:.4g} ns, {nanoseconds / found['pass']:.3g} passes")


if __name__ == "__main__":
    main()
