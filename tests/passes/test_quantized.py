"""Models that onnxruntime quantized: what it fuses in them, it fuses in the folded ones, too."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnx_expand
from tests.support.composites import fused_ops
from tests.support.graphs import compute
from tests.support.graphs_text import bn, graph, weights

quantization = pytest.importorskip("onnxruntime.quantization")

_Shape = tuple[int, ...]


def convolutions(opset: int) -> tuple[onnx.ModelProto, _Shape]:
    """Build convolutions with normalizations, activations, a shortcut, a scale and a head."""
    text = """g (float[1,3,16,16] x) => (float[1,10] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, k1) b = BatchNormalization(a, m_s, m_b, m_m, m_v)
        c = Relu(b) d = Conv <pads = [1, 1, 1, 1], group = 8> (c, k2)
        e = BatchNormalization(d, n_s, n_b, n_m, n_v) f = Relu(e) h = Conv(f, k3)
        i = BatchNormalization(h, o_s, o_b, o_m, o_v) j = Conv(i, k4) l = Add(j, i) q = Relu(l)
        s = Mul(q, scale) t = GlobalAveragePool(s) u = Flatten(t) v = MatMul(u, g)
        y = Add(v, bias)
    }"""
    constants = weights(k1=(8, 3, 3, 3), k2=(8, 1, 3, 3), k3=(16, 8, 1, 1), k4=(16, 16, 1, 1))
    constants |= weights(g=(16, 10), bias=(10,), scale=(16, 1, 1))
    constants |= bn("m", 8) | bn("n", 8) | bn("o", 16)
    return graph(text, constants, opset=opset), (1, 3, 16, 16)


def transformer(opset: int) -> tuple[onnx.ModelProto, _Shape]:
    """Build attention of one head behind a normalization, and a layer with GELU."""
    axes = "<axes = [-1]> ({})" if opset < 18 else "({}, axes)"
    text = f"""g (float[1,12,32] x) => (float[1,12,32] y) {{
        mean = ReduceMean {axes.format("x")} c = Sub(x, mean) p = Pow(c, two)
        var = ReduceMean {axes.format("p")} e = Add(var, epsilon) root = Sqrt(e) d = Div(c, root)
        w = Mul(d, scale) n = Add(w, shift)
        qa = MatMul(n, wq) q = Add(qa, bq) ka = MatMul(n, wk) k = Add(ka, bk)
        va = MatMul(n, wv) v = Add(va, bv) kt = Transpose <perm = [0, 2, 1]> (k)
        sa = MatMul(q, kt) sb = Div(sa, six) so = Softmax <axis = -1> (sb) m = MatMul(so, v)
        oa = MatMul(m, wo) o = Add(oa, bo) z = Add(x, o)
        ua = MatMul(z, wu) u = Add(ua, bu) g = Div(u, root2) h = Erf(g) i = Add(h, one)
        j = Mul(u, i) l = Mul(j, half) da = MatMul(l, wd) db = Add(da, bd) y = Add(z, db)
    }}"""
    numbers = {"two": 2, "epsilon": 1e-5, "six": 32**0.5, "root2": 2**0.5, "one": 1, "half": 0.5}
    constants: dict[str, Any] = {name: np.array(x, np.float32) for name, x in numbers.items()}
    constants |= weights(wq=(32, 32), wk=(32, 32), wv=(32, 32), wo=(32, 32), wu=(32, 64))
    constants |= weights(wd=(64, 32), bu=(64,), bq=(32,), bk=(32,), bv=(32,), bo=(32,), bd=(32,))
    constants |= weights(scale=(32,), shift=(32,))
    if opset >= 18:
        constants["axes"] = np.array([-1])
    return graph(text, constants, opset=opset), (1, 12, 32)


def reader(shape: _Shape) -> Any:
    """Return random inputs for calibration."""

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            rng = np.random.default_rng(0)
            each = (rng.standard_normal(shape).astype(np.float32) for _ in range(3))
            self.arrays: Iterator[dict[str, Any]] = ({"x": array} for array in each)

        def get_next(self) -> dict[str, Any] | None:
            return next(self.arrays, None)

    return Reader()


def static(form: str, **options: Any) -> Callable[..., onnx.ModelProto]:
    """Return a quantizer with calibration that writes QDQ or QOperator."""

    def run(model: onnx.ModelProto, shape: _Shape, path: Path) -> onnx.ModelProto:
        form_of = quantization.QuantFormat[form]
        quantization.quantize_static(model, path, reader(shape), quant_format=form_of, **options)
        return onnx.load(path)

    return run


def dynamic(model: onnx.ModelProto, shape: _Shape, path: Path) -> onnx.ModelProto:
    """Quantize weights by channel; activations are quantized as they come."""
    del shape
    quantization.quantize_dynamic(model, path, per_channel=True)
    return onnx.load(path)


def four_bits(model: onnx.ModelProto, shape: _Shape, path: Path) -> onnx.ModelProto:
    """Pack the weights of products by four bits, as MatMulNBits takes them."""
    del shape, path
    module = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    how = module.DefaultWeightOnlyQuantConfig(block_size=16, is_symmetric=True)
    quantizer = module.MatMulNBitsQuantizer(model, algo_config=how)
    quantizer.process()
    return quantizer.model.model  # type: ignore[no-any-return]


_SIXTEEN = {"activation_type": quantization.QuantType.QUInt16}
KINDS: dict[str, Callable[..., onnx.ModelProto]] = {
    "QDQ": static("QDQ"),
    "QDQ by channel": static("QDQ", per_channel=True),
    "QDQ, 16 bits": static("QDQ", **_SIXTEEN, extra_options={"UseQDQContribOps": True}),
    "QOperator by channel": static("QOperator", per_channel=True),
    "dynamic": dynamic,
    "four bits": four_bits,
}


def optimized(model: onnx.ModelProto, folder: Path, *, every: bool) -> tuple[Counter[str], int]:
    """Return the fused ops that onnxruntime creates in a model, and the number of its nodes."""
    fused = fused_ops(model, folder, every=every)
    return fused, len(onnx.load(folder / "optimized.onnx").graph.node)


# What onnxruntime computes in a layout of its own; of two that merged there is one.
_PLAIN = ("Conv", "GlobalAveragePool", "ReorderInput", "ReorderOutput")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("opset", [13, 17, 18, 21, 23])
@pytest.mark.parametrize("build", [convolutions, transformer])
@pytest.mark.parametrize("kind", KINDS)
def test_no_fusion_of_a_quantized_model_is_lost(
    kind: str, build: Callable[[int], tuple[onnx.ModelProto, _Shape]], opset: int, tmp_path: Path
) -> None:
    """Neither by extended optimizations nor by all, and no number changes beyond rounding."""
    logging.disable(logging.WARNING)
    model, shape = build(opset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = KINDS[kind](model, shape, tmp_path / "quantized.onnx")
    logging.disable(logging.NOTSET)
    folded = onnx_expand.fold(quantized)
    for every in (False, True):
        before, most = optimized(quantized, tmp_path, every=every)
        after, count = optimized(folded, tmp_path, every=every)
        assert count <= most
        for plain in _PLAIN:
            del before[plain]
        assert not before - after, (before, after)
    assert before
    assert len(folded.graph.node) <= len(quantized.graph.node)
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    (expected,), (found,) = compute(quantized, {"x": x}), compute(folded, {"x": x})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
