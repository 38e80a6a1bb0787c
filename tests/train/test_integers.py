"""Integers of every width and sign: translations equal onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")
ort = pytest.importorskip("onnxruntime")

from onnx.reference import ReferenceEvaluator  # noqa: E402

from onnx_expand.errors import OnnxExpandError  # noqa: E402
from onnx_expand.train import to_torch  # noqa: E402
from tests.support.integer_cases import TYPES, Case, cases  # noqa: E402
from tests.support.torch_graphs import assert_same, images, parse  # noqa: E402

Array = npt.NDArray[Any]


def expected(case: Case) -> list[Array] | None:
    """Return the result of onnxruntime, or of ONNX's reference if it has no kernel."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    content = case.model.SerializeToString()
    try:
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except (
        ort.capi.onnxruntime_pybind11_state.NotImplemented,
        ort.capi.onnxruntime_pybind11_state.InvalidGraph,
    ):
        pass
    else:
        return list(session.run(None, case.feeds))
    try:
        with np.errstate(all="ignore"):
            return list(ReferenceEvaluator(case.model).run(None, case.feeds))
    except Exception:
        return None


def computed(case: Case) -> list[Array] | None:
    """Return the result of the translation; None if it is refused."""
    try:
        found = to_torch(case.model)(*map(torch.from_numpy, case.feeds.values()))
    except OnnxExpandError:
        return None
    return [value.numpy() for value in (found if isinstance(found, tuple) else (found,))]


def same(a: Array, b: Array) -> bool:
    """Return whether two results are equal, integers exactly."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    exact = a.dtype.kind != "f"
    return np.array_equal(a, b) if exact else np.allclose(a, b, rtol=1e-6, equal_nan=True)


# At least this many of a type's nodes are translated; the others are refused. torch only moves and
# converts unsigned integers of more than 8 bits.
@pytest.mark.parametrize("opset", [17, 26])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.filterwarnings("ignore")
def test_nodes_of_integers_match_onnxruntime(dtype: np.dtype[Any], opset: int) -> None:
    """Sums wrap around, ties go to the first, or the node is refused."""
    wrong, translated = [], 0
    for case in cases(dtype, opset):
        ours, theirs = computed(case), expected(case)
        if ours is None or theirs is None:
            continue
        translated += 1
        if not all(map(same, ours, theirs)):
            wrong.append(f"{case.name}: {ours} for {theirs}")
    assert not wrong, "\n".join(wrong)
    assert translated >= (20 if dtype.kind == "u" and dtype.itemsize > 1 else 40)


@pytest.mark.parametrize("largest", [0, 1])
def test_ties_go_to_the_first(largest: int) -> None:
    """TopK selects the first of equal elements, along any axis."""
    x = np.round(images(6, 9)).astype(np.float32)
    for axis in (0, 1):
        body = f"k = Constant<value_ints=[5]>() v, y = TopK<axis={axis}, largest={largest}>(x, k)"
        assert_same(parse(body, "(float[a, b] x) => (float[] v, int64[] y)"), x)


TRANSFORMS = [
    "half_pixel",
    "asymmetric",
    "align_corners",
    "pytorch_half_pixel",
    "half_pixel_symmetric",
]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_the_nearest_neighbour_is_onnxruntimes(transform: str, policy: str) -> None:
    """Positions are rounded alike, halves included, and one scale applies to all axes if asked."""
    rng = np.random.default_rng(0)
    for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        attributes = (
            f'axes=[2, 3], keep_aspect_ratio_policy="{policy}", nearest_mode="{rounding}", '
            f'coordinate_transformation_mode="{transform}"'
        )
        for _ in range(10):
            height, width = rng.integers(1, 20, 2)
            wanted = rng.integers(height // 2 + 1, 32), rng.integers(width // 2 + 1, 32)
            body = f"s = Constant<value_ints=[{wanted[0]}, {wanted[1]}]>() "
            body += f"y = Resize<{attributes}>(x, , , s)"
            signature = "(float[n, c, h, w] x) => (float[n, c, a, b] y)"
            assert_same(parse(body, signature, opset=19), images(1, 1, height, width))
