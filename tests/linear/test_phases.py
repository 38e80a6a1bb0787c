"""Law: every n-th row and column from several starts, concatenated, are maps of one image.

Such as the slices at the beginning of a detector: a 3x3 behind them is one 6x6 of stride 2, at
every size at which the Concat gets as many of each.
"""

from __future__ import annotations

import itertools
import re

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnx_expand
from onnx_expand.errors import Reason
from tests.support.graphs_text import fold, graph, ops, weights
from tests.support.numbers import outputs

_END = np.array([2**31 - 1, 2**31 - 1])


def _phases(
    starts: list[tuple[int, int]], step: int, shape: str, layer: str, kernel: int
) -> onnx.ModelProto:
    """Slices from some starts, concatenated, and a layer behind them."""
    nodes, constants = [], weights(w=(5, 2 * len(starts), kernel, kernel), b=(5,))
    numbers: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int64]]] = {
        "end": _END, "axes": np.array([2, 3]), "steps": np.array([step, step])
    }  # fmt: skip
    for i, start in enumerate(starts):
        numbers[f"s{i}"] = np.array(start)
        nodes.append(f"p{i} = Slice(x, s{i}, end, axes, steps)")
    joined = ", ".join(f"p{i}" for i in range(len(starts)))
    text = f"{' '.join(nodes)} k = Concat<axis=1>({joined}) y = {layer}(k, w, b)"
    return graph(
        f"g (float[{shape}] x) => (float[A,B,C,D] y) {{ {text} }}", {**constants, **numbers}
    )


@pytest.mark.parametrize("shape", ["1,2,16,12", "N,2,16,12", "N,2,H,12", "N,2,16,W", "N,2,H,W"])
@pytest.mark.parametrize("opset", [11, 13, 17, 21])
def test_focus_is_one_layer(shape: str, opset: int) -> None:
    """The four slices and the 3x3 are one 6x6 of stride 2, whatever extents are free."""
    starts = [(0, 0), (1, 0), (0, 1), (1, 1)]
    model = _phases(starts, 2, shape, "Conv<pads=[1,1,1,1]>", 3)
    model.opset_import[0].version = opset
    folded, _ = fold(model)
    assert ops(folded) == ["Conv"]
    kernel = next(t for t in folded.graph.initializer if len(t.dims) == 4)
    assert list(kernel.dims) == [5, 2, 6, 6]
    verdict = onnx_expand.check(model, folded, samples=1)
    assert verdict, verdict.differences


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_phases_are_maps_at_every_size(data: st.DataObject) -> None:
    """Whatever the step, the starts, their order and the layer: the numbers stay."""
    step = data.draw(st.integers(2, 3))
    every = list(itertools.product(range(step), range(step)))
    starts = data.draw(st.lists(st.sampled_from(every), min_size=2, max_size=4))
    kernel, pad = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 1))
    stride = data.draw(st.integers(1, 2))
    shape = data.draw(st.sampled_from(["N,2,H,W", "1,2,H,12", "N,2,12,W"]))
    layer = f"Conv<pads=[{pad},{pad},{pad},{pad}], strides=[{stride},{stride}]>"
    model = _phases(starts, step, shape, layer, kernel)
    folded, _ = fold(model)
    rng = np.random.default_rng(0)
    ran = 0
    for height, width in itertools.product((12, 13, 14, 17, 18), (12, 13, 15, 18)):
        pairs = zip(shape.split(","), (1, 2, height, width), strict=True)
        size = [int(given) if given.isdigit() else free for given, free in pairs]
        x = rng.standard_normal(size)
        try:
            (expected,) = outputs(model, x)
        except Exception:  # the Concat gets more of one than of another
            continue
        ran += 1
        (found,) = outputs(folded, x)
        np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5)
    assert ran


@pytest.mark.parametrize(("shape", "axes"), [("1,2,H,16", "axis 2"), ("1,2,H,W", "axes 2 and 3")])
def test_phases_that_are_added_stay(shape: str, axes: str) -> None:
    """A sum of them stays: of three rows it adds one to each of two, which no layer does."""
    model = graph(
        f"g (float[{shape}] x) => (float[A,B,C,D] y) "
        "{ p = Slice(x, zero, end, both, steps) q = Slice(x, one, end, both, steps) "
        "k = Add(p, q) y = Conv(k, w) }",
        weights(w=(3, 2, 1, 1))
        | {"zero": np.array([0, 0]), "one": np.array([1, 1]), "end": _END}
        | {"both": np.array([2, 3]), "steps": np.array([2, 2])},
    )
    folded, report = fold(model)
    assert ops(folded) == ["Slice", "Slice", "Add", "Conv"]
    why = [k.refusal for k in report.kept if k.refusal.reason is Reason.UNKNOWN_SHAPE]
    assert any(axes in refusal.message for refusal in why), report.kept
    # The witness: three rows are two and one, and the source runs.
    x = np.ones((1, 2, 3, 16 if "16" in shape else 3))
    (y,) = outputs(model, x)
    assert y.shape[2] == 2


def test_a_size_without_a_definition_is_not_compared() -> None:
    """Of one row there is none from the second on: onnxruntime runs, and leaves out channels."""
    starts = [(0, 0), (1, 0), (0, 1), (1, 1)]
    model = _phases(starts, 2, "N,2,H,W", "Conv", 1)
    folded, _ = fold(model)
    assert ops(folded) == ["Conv"]
    verdict = onnx_expand.check(model, folded, samples=1)
    assert verdict, verdict.differences
    assert not [label for label in verdict.inputs if re.search(r"[HW]=1\b", label)]
    # A mistake still shows.
    wrong = _phases(starts[::-1], 2, "N,2,H,W", "Conv", 1)
    assert not onnx_expand.check(model, wrong, samples=1)
