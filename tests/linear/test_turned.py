"""A Gemm that turns its other axes round keeps doing so, whatever stands beside it."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

import onnx_expand

BETWEEN = {
    "nothing": "b = Identity(a)",
    "an identity": "b = Transpose<perm = [0, 1]>(a)",
    "a turn": "b = Transpose<perm = [1, 0]>(a)",
    "two turns": "t = Transpose<perm = [1, 0]>(a) b = Transpose<perm = [1, 0]>(t)",
    "a scale": "b = Mul(a, s)",
    "a new axis and none": "t = Unsqueeze(a, i) b = Squeeze(t, i)",
    "a shape": "b = Reshape(a, r)",
}


@pytest.mark.parametrize("between", BETWEEN)
@pytest.mark.parametrize("policy", ["cheapest", "always"])
def test_products_of_turned_operands_stay(between: str, policy: str) -> None:
    """Two Gemms with every transposition and constants on either side, and views between."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 2), dtype=np.float32)
    for turns in product((0, 1), repeat=4):
        for first, second in product(("x, w", "w, x"), ("b, v", "v, b")):
            gemms = [
                f"Gemm<transA = {turns[2 * i]}, transB = {turns[2 * i + 1]}>({operands}, c)"
                for i, operands in enumerate((first, second))
            ]
            model = onnx.parser.parse_model(
                '<ir_version: 8, opset_import: ["" : 15]> g (float[M,N] x) => (float[P,Q] y) '
                f"{{ a = {gemms[0]} {BETWEEN[between]} y = {gemms[1]} }}"
            )
            arrays = {"w": rng.standard_normal((2, 2)), "v": rng.standard_normal((2, 2))}
            arrays |= {"c": rng.standard_normal(1), "s": np.array(1.5)}
            for name, array in arrays.items():
                tensor = numpy_helper.from_array(np.asarray(array, np.float32), name)
                model.graph.initializer.append(tensor)
            for name, values in (("i", [0]), ("r", [2, -1])):
                model.graph.initializer.append(numpy_helper.from_array(np.array(values), name))
            folded = onnx_expand.fold(model, policy=policy)
            (a,) = ReferenceEvaluator(model).run(None, {"x": x})
            (b,) = ReferenceEvaluator(folded).run(None, {"x": x})
            np.testing.assert_allclose(
                np.asarray(b), np.asarray(a), rtol=1e-4, atol=1e-5, err_msg=f"{gemms}"
            )
