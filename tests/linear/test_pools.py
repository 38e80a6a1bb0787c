"""An average pads for itself where its numbers are those of a Pad before it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.graphs import compute
from tests.support.graphs_text import bn, fold, graph, ops, weights

pytest.importorskip("onnxruntime")


def ints(*numbers: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.array(numbers, np.int64)


PADS = [(1, 1, 1, 1), (0, 1, 1, 0), (2, 0, 0, 2)]
POOLS = ["kernel_shape=[3,3]", "kernel_shape=[3,4], strides=[2,1]"]


@pytest.mark.parametrize("pads", PADS)
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    "own",
    ["", ', auto_pad="VALID"', ', auto_pad="NOTSET"', ", pads=[0,0,1,0], count_include_pad=1"],
)
@pytest.mark.parametrize("opset", [11, 13, 18])
def test_zeros_before_an_average_are_its_padding(
    pads: tuple[int, ...], pool: str, own: str, opset: int
) -> None:
    """One node, of the same numbers at all sizes."""
    text = (
        "g (float[N,3,H,W] x) => (float[N,3,P,Q] y) "
        f"{{ p = Pad(x, a) y = AveragePool<{pool}{own}>(p) }}"
    )
    model = graph(text, {"a": ints(0, 0, *pads[:2], 0, 0, *pads[2:])}, opset=opset)
    folded, _ = fold(model)
    assert ops(folded) == ["AveragePool"]
    for height, width in ((3, 4), (7, 5), (9, 12)):
        x = np.random.default_rng(height).standard_normal((2, 3, height, width))
        feeds = {"x": x.astype(np.float32)}
        a, b = compute(model, feeds)[0], compute(folded, feeds)[0]
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_normalization_goes_across_both() -> None:
    """The scale goes into the layer before; the shift, which zeros do not have, stays behind."""
    text = (
        "g (float[N,4,H,W] x) => (float[N,4,P,Q] y) "
        "{ c = Conv(x, w) p = Pad(c, a) m = AveragePool<kernel_shape=[3,3]>(p) "
        "y = Mul(m, p_s) }"
    )
    constants = weights(w=(4, 4, 1, 1)) | {"p_s": bn("p", 4)["p_s"].reshape(4, 1, 1)}
    model = graph(text, constants | {"a": ints(0, 0, 1, 1, 0, 0, 1, 1)})
    folded, _ = fold(model)
    assert ops(folded) == ["Conv", "AveragePool"]
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 4, 7, 6)).astype(np.float32)}
    a, b = compute(model, feeds)[0], compute(folded, feeds)[0]
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "pads"),
    [
        # Windows that lie in the padding alone: onnxruntime refuses them.
        ("p = Pad(x, a) y = AveragePool<kernel_shape=[2,2]>(p)", (2, 0, 0, 0)),
        # What is cut is no padding.
        ("p = Pad(x, a) y = AveragePool<kernel_shape=[3,3]>(p)", (-1, 0, 0, 1)),
        # Ones are not zeros.
        ("p = Pad(x, a, o) y = AveragePool<kernel_shape=[3,3]>(p)", (1, 1, 1, 1)),
        # Copies are not zeros.
        ('p = Pad<mode="edge">(x, a) y = AveragePool<kernel_shape=[3,3]>(p)', (1, 1, 1, 1)),
        # The pool's own padding does not count, the Pad's does.
        ("p = Pad(x, a) y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(p)", (1, 1, 1, 1)),
        ("p = Pad(x, a) y = AveragePool<kernel_shape=[3,3], ceil_mode=1>(p)", (1, 1, 1, 1)),
        ("p = Pad(x, a) z = Relu(p) y = AveragePool<kernel_shape=[3,3]>(p)", (1, 1, 1, 1)),
        ("p = Pad(x, a) y = MaxPool<kernel_shape=[3,3]>(p)", (1, 1, 1, 1)),
    ],
)
def test_other_padding_stays(nodes: str, pads: tuple[int, ...]) -> None:
    """Each of these would come out otherwise as one node, or not run."""
    extra = ", float[N,3,R,S] z" if "z = " in nodes else ""
    model = graph(
        f"g (float[N,3,9,9] x) => (float[N,3,P,Q] y{extra}) {{ {nodes} }}",
        {"a": ints(0, 0, *pads[:2], 0, 0, *pads[2:]), "o": np.array(1, np.float32)},
    )
    assert ops(fold(model)[0]) == ops(model)
