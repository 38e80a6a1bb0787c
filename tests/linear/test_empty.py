"""Empty tensors keep their shapes: no Reshape target that fold writes is for full ones alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import pytest

import onnx_expand
from onnx_expand.errors import OnnxExpandError
from onnx_expand.graph.products import product, spelled
from tests.support.numbers import outputs
from tests.support.random_empty import empty_graph
from tests.support.random_extents import extent_graph

_SIZES = (3, 1, 0)


def _inputs(model: onnx.ModelProto) -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """Draw an input at each size."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    names = sorted({dim.dim_param for dim in dims if dim.dim_param})
    for sizes in itertools.product(_SIZES, repeat=len(names)):
        own = dict(zip(names, sizes, strict=True))
        shape = [own.get(dim.dim_param, dim.dim_value) for dim in dims]
        yield np.random.default_rng(0).standard_normal(shape)


@pytest.mark.parametrize(
    ("draw", "start"),
    [
        *((empty_graph, start) for start in (0, 30, 200, 420)),
        (extent_graph, 30),
    ],
)
def test_empty_tensors_keep_their_shapes(
    draw: Callable[[int], onnx.ModelProto], start: int
) -> None:
    """Where the source runs at an extent of 0, the folded model gives the same shape."""
    empty = 0
    for seed in range(start, start + 30):
        model = draw(seed)
        folded = onnx_expand.fold(model, policy="always")
        # onnxruntime runs no convolution over an empty axis.
        assert all(node.op_type != "Conv" for node in folded.graph.node), seed
        for x in _inputs(model):
            try:
                (expected,) = outputs(model, x)
            except OnnxExpandError:
                assert not x.size
                continue
            (found,) = outputs(folded, x)
            copies = x.shape.count(0) > 1  # where targets copy an extent in place of a computed 0
            assert found.shape == expected.shape or (copies and not found.size), seed
            if x.size:
                np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
            empty += not x.size
    assert empty


@pytest.mark.parametrize(
    ("extents", "data", "wanted", "target"),
    [
        (("N", 8), ("N", 2, 4), ("N", 8), (-1, 8)),
        (("N", 8), ("N", 2, 4), (0, 8), (0, 8)),
        (("N", "M", 8), ("N", "M", 2, 4), ("N", "M", 8), (0, 0, 8)),
        # Of N = 0, [0, -1, 4] is an error.
        (("N", "M", 4), ("N", product(["M", 4])), ("N", "M", 4), None),
        (("N", "M", 4), ("N", product(["M", 4])), ("N", -1, 4), (0, -1, 4)),
        (("N", "M", 4), ("N", product(["M", 4])), (-1, "M", 4), None),
        (("N", "M", 4), (product(["N", "M"]), 4), ("N", "M", 4), None),
        ((2, 0), (2, 0), (2, 0), None),
    ],
)
def test_a_target_is_written_for_empty_tensors_too(
    extents: tuple[object, ...],
    data: tuple[object, ...],
    wanted: tuple[object, ...],
    target: tuple[int, ...] | None,
) -> None:
    assert spelled(extents, data, wanted) == target


@pytest.mark.parametrize(
    ("draw", "seed"), [(empty_graph, 1733), (extent_graph, 1743), (extent_graph, 1783)]
)
def test_a_second_fold_learns_nothing_new(
    draw: Callable[[int], onnx.ModelProto], seed: int
) -> None:
    """Constant targets tell more than the computed ones that they replace."""
    folded = onnx_expand.fold(draw(seed), policy="cheapest")
    assert onnx_expand.fold(folded, policy="cheapest") == folded
