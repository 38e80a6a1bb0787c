"""Polygraphy: loaders that fold and check."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import onnx_expand

pytest.importorskip("onnxruntime")
pytest.importorskip("polygraphy")


def test_loaders_go_into_each_other(path: Path) -> None:
    """A file is loaded, folded, compared and run by a runner of Polygraphy."""
    from polygraphy.backend.onnx import BytesFromOnnx, OnnxFromPath
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.comparator import Comparator

    from onnx_expand.integrations.polygraphy import CheckOnnx, FoldOnnx

    source = OnnxFromPath(str(path))
    checked = CheckOnnx(source, FoldOnnx(source, policy="cheapest"))
    runners = [
        OnnxrtRunner(SessionFromOnnx(BytesFromOnnx(loader)), name=name)
        for name, loader in (("source", source), ("folded", checked))
    ]
    assert bool(Comparator.compare_accuracy(Comparator.run(runners)))
    assert len(checked().graph.node) < len(onnx.load(path).graph.node)


def test_a_difference_is_a_polygraphy_error(expanded: onnx.ModelProto) -> None:
    """A model that is not the same, and an option that makes no sense."""
    from polygraphy.exception import PolygraphyException

    from onnx_expand.integrations.polygraphy import CheckOnnx, FoldOnnx

    other = onnx_expand.expand(onnx_expand.fold(expanded), strategy="cl", seed=1)
    with pytest.raises(PolygraphyException, match="differ"):
        CheckOnnx(expanded, other)()
    with pytest.raises(PolygraphyException, match="policy 'best'"):
        FoldOnnx(expanded, policy="best")()
