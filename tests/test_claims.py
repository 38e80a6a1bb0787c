"""What a model says of its values decides nothing where its nodes say otherwise."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_expand.passes import Fold, Policy
from onnx_expand.runtimes import Reference
from tests.random_graphs import random_graph
from tests.random_layouts import random_layouts
from tests.stale_claims import WRAPS, read_shapes, spread_claims, without_claims

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "120"))
SIZES = ((2, 9, 8), (1, 9, 8), (3, 14, 11), (1, 64, 64))

Arrays = list[np.ndarray[Any, np.dtype[Any]]]


def fold(model: onnx.ModelProto, policy: Policy) -> onnx.ModelProto:
    """A folded copy."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    own = ir.serde.deserialize_model(copy)
    Fold(policy)(own)
    return ir.serde.serialize_model(own)


def outputs(model: onnx.ModelProto, size: tuple[int, int, int]) -> Arrays | None:
    """What a model computes for images of a size, in float64; None if it takes none of them."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    wanted = [size[0], dims[1].dim_value, *size[1:]][: len(dims)]
    for dim, extent in zip(dims, wanted, strict=True):
        if dim.dim_value > 0 and dim.dim_value != extent:
            return None
    x = np.random.default_rng(len(wanted)).standard_normal(wanted)
    try:
        session = Reference().session(ir.serde.deserialize_model(model), "model")
        found = session.run({model.graph.input[0].name: x})
    except Exception:  # whatever a runtime says of an image that is too small
        return None
    return [np.asarray(found[info.name], np.float64) for info in model.graph.output]


def assert_same(model: onnx.ModelProto, folded: onnx.ModelProto) -> int:
    """Assert that two models compute the same at each size that the first takes; how many."""
    count = 0
    for size in SIZES:
        before = outputs(model, size)
        if before is None:
            continue
        count += 1
        after = outputs(folded, size)
        assert after is not None, f"it does not take {size} any more"
        for a, b in zip(before, after, strict=True):
            assert a.shape == b.shape
            scale = max(1.0, float(np.max(np.abs(a), initial=0.0)))
            np.testing.assert_allclose(b, a, rtol=0, atol=3e-5 * scale)
    return count


def computed(model: onnx.ModelProto) -> tuple[list[Any], list[Any], list[Any]]:
    """The nodes, weights and functions of a model, without what it says of values."""
    plain = without_claims(model)
    for attribute in (a for node in plain.graph.node for a in node.attribute):
        del attribute.g.value_info[:]
    bodies = [list(function.node) for function in plain.functions]
    return list(plain.graph.node), list(plain.graph.initializer), bodies


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 10),
    st.sampled_from([Policy.CHEAPEST, Policy.ALWAYS]),
    st.sampled_from(sorted(WRAPS)),
    st.booleans(),
)
def test_stale_claims_change_nothing(
    seed: int, length: int, policy: Policy, wrap: str, layouts: bool
) -> None:
    """With stale claims a model folds as without any, and takes what it took."""
    rng = np.random.default_rng(seed)
    plain = random_layouts(seed, length=length) if layouts else random_graph(seed, length=length)
    if not layouts:
        plain = read_shapes(plain, rng)
    model = spread_claims(WRAPS[wrap](plain), rng)
    folded = fold(model, policy)
    assert_same(model, folded)
    assert computed(folded) == computed(fold(without_claims(model), policy))


@pytest.mark.parametrize("wrap", sorted(WRAPS))
def test_the_generator_makes_models_that_run_and_fold(wrap: str) -> None:
    """Most of the models that the law above is tried on take several sizes, and many fold."""
    ran = folds = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        model = spread_claims(WRAPS[wrap](read_shapes(random_graph(seed, length=6), rng)), rng)
        folded = fold(model, Policy.ALWAYS)
        ran += assert_same(model, folded) > 1
        folds += folded.ByteSize() != model.ByteSize()
    assert ran > 10
    assert folds > 10
