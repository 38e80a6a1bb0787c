"""Errors of elementary functions are measured, and do not cause false alarms."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnx_expand
from onnx_expand import check
from onnx_expand.equivalence.elementary import FUNCTIONS, excess, with_kernel_noise
from onnx_expand.model import read
from onnx_expand.runtimes import Reference
from onnx_expand.runtimes.ort import OnnxRuntime
from tests.support.graphs_text import bn, graph, weights
from tests.support.moved import moved

pytest.importorskip("onnxruntime")

# In units of the last place of one, as in docs/check.md; other functions have no excess.
EXCESS = {
    "Sigmoid": (0.8, 0.8), "Elu": (0.5, 0), "Selu": (0.8, 0), "Celu": (0.5, 0),
    "Gelu": (1.1, 0), "HardSigmoid": (0.2, 0), "HardSwish": (0.4, 0),
    "LogSoftmax": (1.0, 3.5), "Sin": (0, 2.5), "Cos": (0, 2.5),
}  # fmt: skip
TYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE)


@pytest.mark.parametrize("op", FUNCTIONS)
def test_kernels_are_as_exact_as_in_the_table(op: str) -> None:
    """The measured error of each kernel is near the one in the table."""
    node = ir.node(op, [ir.val("x")])
    for dtype, listed in zip(TYPES, EXCESS.get(op, (0, 0)), strict=True):
        unit = float(np.finfo(dtype.numpy()).eps)
        found = excess(node, dtype, 20, OnnxRuntime("cpu")) / unit
        assert found <= 2 * listed + 0.01
        assert found >= listed / 20


EXACT: dict[str, Callable[[float], float]] = {
    "Sigmoid": lambda x: 1 / (1 + math.exp(-x)), "Softplus": lambda x: math.log1p(math.exp(x)),
    "Softsign": lambda x: x / (1 + abs(x)), "Elu": lambda x: x if x > 0 else math.expm1(x),
    "Celu": lambda x: x if x > 0 else math.expm1(x), "Tanh": math.tanh, "Sin": math.sin,
    "Mish": lambda x: x * math.tanh(math.log1p(math.exp(x))), "Cos": math.cos,
    "Atan": math.atan, "Sinh": math.sinh, "Cosh": math.cosh, "Asinh": math.asinh,
    "Gelu": lambda x: x * math.erfc(-x / math.sqrt(2)) / 2, "Erf": math.erf, "Exp": math.exp,
    "HardSigmoid": lambda x: min(1.0, max(0.0, float(np.float32(0.2)) * x + 0.5)),
    "HardSwish": lambda x: x * min(1.0, max(0.0, x / 6 + 0.5)), "Asin": math.asin,
    "Acos": math.acos, "Atanh": math.atanh, "Tan": math.tan,
    "Selu": lambda x: 1.0507010221481323 * (x if x > 0 else 1.6732631921768188 * math.expm1(x)),
}  # fmt: skip


@pytest.mark.parametrize("op", EXACT)
def test_the_reference_functions_are_exact(op: str) -> None:
    """The float64 reference equals Python's mathematical functions."""
    x = np.linspace(-1, 1, 81) * min(FUNCTIONS[op], 30)
    opset = 20 if op != "HardSwish" else 14
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["" : {opset}]> '
        f"g (double[81] x) => (double[81] y) {{ y = {op}(x) }}"
    )
    found = Reference().session(ir.serde.deserialize_model(model), op).run({"x": x})["y"]
    wanted = np.array([EXACT[op](float(number)) for number in x])
    np.testing.assert_allclose(found, wanted, rtol=1e-13, atol=4e-16)


def tail(op: str, shift: float, scale: float) -> onnx.ModelProto:
    """Build a normalized convolution and a function in its tail, where results are tiny."""
    text = (
        "g (float[N,3,H,W] x) => (float[N,4,P,Q] y) {"
        "a = Conv<pads=[1,1,1,1]>(x, w) b = BatchNormalization(a, n_s, n_b, n_m, n_v)"
        f"c = {op}(b) y = Conv(c, v) }}"
    )
    arrays = {**weights(w=(4, 3, 3, 3), v=(4, 4, 1, 1)), **bn("n", 4)}
    arrays["n_b"] = arrays["n_b"] + np.float32(shift)
    arrays["n_s"] = arrays["n_s"] * np.float32(scale)
    return graph(text, arrays)


@pytest.mark.parametrize(("shift", "scale"), [(-20, 0.1), (-12, 1), (-40, 2), (0, 1), (-6, 0.3)])
@pytest.mark.parametrize(
    "op",
    [
        *("Sigmoid", "Tanh", "Exp", "Elu", "Softplus", "Softsign", "HardSigmoid", "HardSwish"),
        *("Erf", "Softmax<axis = 1>", "LogSoftmax<axis = 1>", "Selu"),
    ],
)
def test_tails_of_functions_are_not_differences(op: str, shift: float, scale: float) -> None:
    """A folded normalization before a saturated function is equal; a wrong weight is found."""
    model = tail(op, shift, scale)
    folded = onnx_expand.fold(model)
    verdict = check(model, folded, samples=1, providers=["cpu"])
    assert verdict, verdict.summary()
    name = next(node.input[1] for node in folded.graph.node if node.op_type == "Conv")
    assert not check(model, moved(folded, name, 1e-2), samples=1, providers=["cpu"])


def test_exact_kernels_cost_nothing() -> None:
    """Only functions whose kernels have an excess are disturbed, in a copy of the model."""
    cpu = OnnxRuntime("cpu")
    assert with_kernel_noise(read(tail("Tanh", 0, 1)), cpu, 0) is None
    assert with_kernel_noise(read(tail("Relu", 0, 1)), cpu, 0) is None
    model = read(tail("Sigmoid", 0, 1))
    disturbed = with_kernel_noise(model, cpu, 0)
    assert disturbed is not None
    assert len(list(model.graph)) == 4
    assert len(list(disturbed.graph)) == 9
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 3, 5, 5)).astype(np.float32)}
    gap = cpu.session(model).run(feeds)["y"] - cpu.session(disturbed).run(feeds)["y"]
    assert 1e-9 < float(np.max(np.abs(gap))) < 1e-6
