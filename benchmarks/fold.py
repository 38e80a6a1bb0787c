"""How fast fold is: `python -m benchmarks.fold`.

Every figure is a ratio of two times, or a growth, within one run: machines are noisy.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from benchmarks.peers.graphs import HEAVY_WIDTH, heavy
from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.contraction import compose_chain
from onnx_expand.passes import Fold, Policy

ROUNDS = 5


def chain(count: int, *, width: int, relu_every: int = 0) -> onnx.ModelProto:
    """A chain of Gemms, with a Relu behind every so many of them."""
    rng = np.random.default_rng(0)
    nodes, constants, value = [], [], "x"
    for i in range(count):
        # Orthogonal, so that the product of thousands neither grows nor vanishes.
        weight = np.linalg.qr(rng.standard_normal((width, width)))[0].astype(np.float32)
        constants.append(numpy_helper.from_array(weight, f"w{i}"))
        constants.append(numpy_helper.from_array(weight[0], f"b{i}"))
        nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [f"g{i}"], f"g{i}"))
        value = f"g{i}"
        if relu_every and i % relu_every == relu_every - 1:
            nodes.append(helper.make_node("Relu", [value], [f"r{i}"], f"r{i}"))
            value = f"r{i}"
    float_type = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", float_type, ["N", width])],
        [helper.make_tensor_value_info(value, float_type, ["N", width])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def median(action: Callable[[], object]) -> float:
    """The median time of an action, in seconds."""
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def against_onnxruntime(folder: Path) -> None:
    """2,000 small Gemms: a process that folds them against one that runs onnxruntime's passes."""
    source, target = folder / "chain.onnx", folder / "out.onnx"
    onnx.save(chain(2000, width=8), source)
    ours = "import onnx_expand as oe; oe.fold({!r}, {!r})"
    theirs = (
        "import onnxruntime as ort; o = ort.SessionOptions(); "
        "o.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC; "
        "o.optimized_model_filepath = {1!r}; ort.InferenceSession({0!r}, o)"
    )
    empty = "import onnx_expand.passes, onnx_expand.model"

    def run(code: str) -> float:
        words = [sys.executable, "-c", code.format(str(source), str(target))]
        return median(lambda: subprocess.run(words, check=True))

    fold_time, ort_time, start = run(ours), run(theirs), run(empty)
    nodes = len(onnx.load(target).graph.node)
    print(f"chain of 2,000 Gemms: fold {fold_time:.2f} s, of which start {start:.2f} s")
    print(f"  onnxruntime, basic: {ort_time:.2f} s; it leaves {nodes} nodes")
    print(f"  (fold - start) / onnxruntime: {(fold_time - start) / ort_time:.2f}")


def growth() -> None:
    """Ten times the nodes in at most twelve times the time."""
    times = []
    for count in (6_667, 66_667):
        model = ir.serde.deserialize_model(chain(count, width=4, relu_every=2))
        begin = time.perf_counter()
        Fold(Policy.CHEAPEST).call(model)
        times.append(time.perf_counter() - begin)
    print(f"10,000 and 100,000 nodes: {times[0]:.2f} s, {times[1]:.2f} s")
    print(f"  ratio: {times[1] / times[0]:.1f}")


def arithmetic() -> None:
    """A 512-channel CL unit at rate 4, against its matrix products in their best order."""
    rng = np.random.default_rng(0)
    m, wide = 512, 2048
    first = AffineConv(rng.standard_normal((wide, m, 1, 1)), pads=(1, 1, 1, 1))
    middle = AffineConv(rng.standard_normal((wide, wide, 3, 3)))
    last = AffineConv(rng.standard_normal((m, wide, 1, 1)))
    kernel = np.ascontiguousarray(np.moveaxis(middle.weight.reshape(wide, wide, 9), 2, 0))
    left, right = last.weight[:, :, 0, 0], first.weight[:, :, 0, 0]
    ours = median(lambda: compose_chain([first, middle, last]))
    theirs = median(lambda: [(left @ tap) @ right for tap in kernel])
    print(f"512-channel CL unit, rate 4: {ours:.2f} s, its products {theirs:.2f} s")
    print(f"  ratio: {ours / theirs:.2f}")


def memory(folder: Path) -> None:
    """3 GB of external weights: the peak memory of a process that folds them."""
    source, target = folder / "big.onnx", folder / "big.out.onnx"
    heavy(source)
    size = (folder / "big.onnx.data").stat().st_size
    code = (
        # What a process used before it became this one does not count.
        "import re, onnx_expand as oe; oe.fold({!r}, {!r}); "
        "status = open('/proc/self/status').read(); "
        "print(int(re.search('VmHWM:[^0-9]*([0-9]+)', status)[1]) / 2**20)"
    )
    words = [sys.executable, "-c", code.format(str(source), str(target))]
    peak = float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    region = HEAVY_WIDTH**2 * 4 / 2**30
    print(f"{size / 2**30:.1f} GiB of external weights: peak memory {peak:.2f} GiB")
    print(f"  weights of the largest region: {region:.2f} GiB")


def main() -> None:
    """Run all measurements."""
    with tempfile.TemporaryDirectory() as name:
        against_onnxruntime(Path(name))
        growth()
        arithmetic()
        memory(Path(name))


if __name__ == "__main__":
    main()
