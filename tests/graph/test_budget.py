"""A few nodes can ask for any time and memory: each ends soon, and in little."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_expand.graph.budget import Work, work_of
from tests.support.graphs_text import graph

pytest.importorskip("onnxruntime")

SECONDS, BYTES = 20, 2 << 30
MEAN = "k{n} = ReduceMean<keepdims=0>(c{n})"
LAYER = "a = MatMul(x, w) y = Mul(a, k)"
ONES = {"w": np.ones((4, 4), np.float32), "one": np.ones((1, 1), np.float32)}

# Nodes that compute a factor k; {n} numbers those of a chain, up to the count.
BOMBS = {
    "many": (60, "c{n} = ConstantOfShape(s) k{n} = ReduceMean<keepdims=0>(c{n})", [1 << 26]),
    "many small": (
        300,
        "c{n} = Expand(one, s) k{n} = ReduceMean<keepdims=0>(c{n})",
        [1 << 11] * 2,
    ),
    "products": (20, "c{n} = MatMul({c}, {c}) " + MEAN, [3000] * 2),
    "integers": (
        20,
        "i{n} = Cast<to=7>({c}) c{n} = MatMul(i{n}, i{n}) f{n} = Cast<to=1>(c{n}) "
        "k{n} = ReduceMean<keepdims=0>(f{n})",
        [1200] * 2,
    ),
    "outer": (
        4,
        'c{n} = Einsum<equation = "ij,kl->ijkl">({c0}, {c0}) k{n} = ReduceMean<keepdims=0>(c{n})',
        [256, 256],
    ),
    "inner": (
        20,
        'c{n} = Einsum<equation = "ij,jk->ik">({c}, {c}) k{n} = ReduceMean<keepdims=0>(c{n})',
        [3000] * 2,
    ),
    "broadcast": (
        9,
        "t{n} = Transpose({c0}) c{n} = Add(t{n}, {c0}) k{n} = ReduceMean<keepdims=0>(c{n})",
        [1, 1 << 15],
    ),
    "layers": (
        20,
        "c{n} = Conv<pads=[1,1,1,1]>({c}, {c0}) k{n} = ReduceMean<keepdims=0>(c{n})",
        [512, 512, 3, 3],
    ),
    "copies": (
        20,
        "c{n} = Concat<axis=0>({c}, {c}) k{n} = ReduceMean<keepdims=0>(c{n})",
        [64, 64],
    ),
    "readers": (500, "c{n} = Add({c0}, one) k{n} = ReduceMean<keepdims=0>({c0})", [1 << 12] * 2),
}


def bomb(name: str, place: str) -> onnx.ModelProto:
    """A model whose factor takes far more than the model is worth, in a place of its graph."""
    count, text, extents = BOMBS[name]
    lines, before = ["c0 = Expand(one, s)"], "c0"
    for n in range(1, count + 1):
        lines.append(text.format(n=n, c=before, c0="c0"))
        before = f"c{n}"
    total = "k = Sum(" + ", ".join(f"k{n}" for n in range(1, count + 1)) + ")"
    nodes = " ".join([*lines, total])
    if place == "function":
        held = ", ".join(map(str, extents))
        own = (
            f"s = Constant<value = int64[{len(extents)}] {{{held}}}>() "
            "one = Constant<value = float[1,1] {1}>() "
            f"w = Constant<value = float[4,4] {{{', '.join('1' * 16)}}}>()"
        )
        return onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17, "f" : 1]>'
            "g (float[N,4] x) => (float[N,4] y) { y = f.B(x) }"
            '<domain: "f", opset_import: ["" : 17]>'
            f"B (x) => (y) {{ {own} {nodes} {LAYER} }}"
        )
    if place == "body":
        body = f"b () => (float[N,4] o) {{ {nodes} p = MatMul(x, w) o = Mul(p, k) }}"
        nodes = f"q = Constant<value = bool {{1}}>() y = If(q) <then_branch = {body}, "
        nodes += "else_branch = e () => (float[N,4] v) { v = MatMul(x, w) }>"
    else:
        nodes += f" {LAYER}"
    text = f"g (float[N,4] x) => (float[N,4] y) {{ {nodes} }}"
    proto = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>' + text)
    for key, array in {**ONES, "s": np.array(extents)}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, key))
    return proto


def run(model: onnx.ModelProto, folder: Path, *options: str) -> tuple[int, str]:
    """Fold a model in a process of its own; exit code and what it says to the user."""
    source = folder / "bomb.onnx"
    onnx.save(model, source)
    words = [sys.executable, "-m", "onnx_expand", "fold", str(source), str(folder / "out.onnx")]
    begin = time.monotonic()
    with (folder / "said").open("w") as said:
        process = subprocess.Popen([*words, *options], stdout=subprocess.DEVNULL, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = used.ru_utime + used.ru_stime
    assert seconds < SECONDS, f"{seconds:.1f} s of CPU time, {time.monotonic() - begin:.1f} s"
    assert used.ru_maxrss * 1024 < BYTES, f"{used.ru_maxrss / 2**20:.2f} GiB"
    return process.returncode, (folder / "said").read_text()


@pytest.mark.parametrize(
    ("name", "place"),
    [*((name, "main") for name in BOMBS), ("many", "body"), ("many", "function")],
)
def test_constants_that_explode_are_left_alone(name: str, place: str, tmp_path: Path) -> None:
    """Folding ends within 20 seconds and 2 GiB, verification included, and says so in a line."""
    code, said = run(bomb(name, place), tmp_path)
    assert code in {0, 4}
    assert len(said.splitlines()) <= 1
    assert "Traceback" not in said


def vector(*shape: int) -> onnx.TensorProto:
    """A constant of ones."""
    return onnx.numpy_helper.from_array(np.ones(shape, np.float32))


WIDE = {
    "thin products": (
        "g (float[N,4,60000] x) => (float[N,4,60000] y) { a = MatMul(x, u) y = MatMul(a, v) }",
        {"u": np.ones((60000, 1), np.float32), "v": np.ones((1, 60000), np.float32)},
    ),
    "channels": (
        "g (float[N,60000,1] x) => (float[N,30000,1] y) { a = Slice(x, z, e, o) y = Mul(a, k) }",
        {
            "z": np.array([0]),
            "e": np.array([30000]),
            "o": np.array([1]),
            "k": np.ones((30000, 1), np.float32),
        },
    ),
    "endless channels": (
        "g (float[1,9000000000,1] x) => (float[1,3,1] y) { a = Slice(x, z, e, o) y = Mul(a, k) }",
        {
            "z": np.array([0]),
            "e": np.array([3]),
            "o": np.array([1]),
            "k": np.ones((3, 1), np.float32),
        },
    ),
    "window": (
        "g (float[N,3,H,W] x) => (float[N,3,P,Q] y) "
        "{ a = AveragePool<kernel_shape=[90000,90000]>(x) y = Mul(a, k) }",
        {"k": np.ones((3, 1, 1), np.float32)},
    ),
}


@pytest.mark.parametrize("policy", ["cheapest", "always"])
@pytest.mark.parametrize("name", WIDE)
def test_merged_weights_that_explode_are_not_composed(
    name: str, policy: str, tmp_path: Path
) -> None:
    """No map is written as a matrix that is far larger than what the model stores."""
    text, constants = WIDE[name]
    code, said = run(graph(text, constants), tmp_path, "--policy", policy, "--check", "0")
    assert code in {0, 4}, said
    assert "Traceback" not in said


def test_a_node_costs_what_it_writes_and_multiplies() -> None:
    """The bounds of ops whose cost is not that of their inputs, against shapes by hand."""
    import onnx_ir as ir

    def cost(op: str, *arrays: np.ndarray, **attributes: object) -> Work | None:
        values = [ir.val(f"i{i}") for i in range(len(arrays))]
        return work_of(ir.node(op, values, attributes), arrays)  # type: ignore[arg-type]

    def ones(*shape: int) -> np.ndarray:
        return np.ones(shape, np.float32)

    assert cost("MatMul", ones(2, 3, 4), ones(4, 5)) == Work(30, 120)
    assert cost("Gemm", ones(4, 3), ones(5, 4), transA=1, transB=1) == Work(30, 60)
    assert cost("Add", ones(7, 1), ones(3, 1, 9)) == Work(189)
    assert cost("Expand", ones(3, 1), np.array([4, 1, 5])) == Work(60)
    assert cost("Tile", ones(3, 2), np.array([4, 5])) == Work(120)
    assert cost("ConstantOfShape", np.array([3, 4])) == Work(12)
    assert cost("ConstantOfShape", np.array([3, -4])) is None
    assert cost("Range", np.array(1), np.array(9), np.array(2)) == Work(4)
    assert cost("Range", np.array(1), np.array(9), np.array(0)) is None
    assert cost("Pad", ones(2, 3), np.array([1, 0, -1, 4])) == Work(21)
    assert cost("Gather", ones(5, 6), np.zeros((2, 2), int), axis=1) == Work(20)
    assert cost("GatherND", ones(5, 6), np.zeros((7, 1), int)) == Work(42)
    assert cost("Einsum", ones(3, 4), ones(4, 5), equation="ij,jk->ik") == Work(15 + 32, 60)
