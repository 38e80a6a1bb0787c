"""The policy that measures."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import pytest

import onnx_expand
from onnx_expand.passes import Policy
from onnx_expand.passes.stopwatch import Stopwatch
from tests.graphs_text import bn, fold, graph, ops, weights

pytest.importorskip("onnxruntime")


def test_the_fastest_partition_is_chosen() -> None:
    """A narrow layer between wide ones stays where merging takes many times as long."""
    model = graph(
        """
        g (float[N,256,20,20] x) => (float[N,256,20,20] y) {
            a = Conv(x, v)
            b = Conv <pads: ints = [1, 1, 1, 1]> (a, w)
            c = Conv(b, u)
            y = BatchNormalization(c, n_s, n_b, n_m, n_v)
        }
        """,
        weights(v=(4, 256, 1, 1), w=(4, 4, 3, 3), u=(256, 4, 1, 1)) | bn("n", 256),
    )
    folded, report = fold(model, Policy.LATENCY)
    assert len(ops(folded)) > 1, "one 3x3 from 256 to 256 channels takes far longer"
    assert report.policy is Policy.LATENCY
    assert onnx_expand.check(model, folded, samples=1)


def test_a_wide_middle_is_merged() -> None:
    """From 8 to 512 channels and back is slower than 8 to 8, whatever the machine."""
    model = graph(
        """
        g (float[N,8,32,32] x) => (float[N,8,32,32] y) {
            a = Conv <pads: ints = [1, 1, 1, 1]> (x, v)
            b = Conv(a, w)
            c = Add(b, x)
            y = Relu(c)
        }
        """,
        weights(v=(512, 8, 3, 3), w=(8, 512, 1, 1)),
    )
    folded, _ = fold(model, Policy.LATENCY)
    assert ops(folded) in (["Conv", "Relu"], ["Conv", "Add", "Relu"])
    assert onnx_expand.check(model, folded, samples=1)


def test_what_was_measured_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes stay apart where together they take longer, and merge where they do not."""
    slow = {"Conv": 100, "BatchNormalization": 10}
    free = {"Conv": 100, "BatchNormalization": -10}  # as if it sped the layer up

    model = graph(
        "g (float[N,4,5,5] x) => (float[N,4,5,5] y) "
        "{ a = Conv(x, v) y = BatchNormalization(a, n_s, n_b, n_m, n_v) }",
        weights(v=(4, 4, 1, 1)) | bn("n", 4),
    )
    for taken, wanted in ((slow, ["Conv"]), (free, ["Conv", "BatchNormalization"])):

        def read(self: Stopwatch, nodes: Sequence[ir.Node], taken: dict[str, int] = taken) -> int:
            del self
            return sum(taken[node.op_type] for node in nodes)

        monkeypatch.setattr(Stopwatch, "nanoseconds", read)
        folded, _ = fold(model, Policy.LATENCY)
        assert ops(folded) == wanted
