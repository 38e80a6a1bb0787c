"""Whatever the graph: folding changes no number, adds no product, and is done when it is done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import onnx_expand
from onnx_expand.algebra.affine import AffineConv
from onnx_expand.linear.chains import merge
from onnx_expand.linear.chains.composed import chain_affine
from onnx_expand.linear.chains.steps import Step
from onnx_expand.passes import Border, Policy
from tests.support.graphs import doubled
from tests.support.graphs_text import fold, ops
from tests.support.numbers import assert_same, outputs
from tests.support.random_graphs import random_graph
from tests.support.random_layouts import random_layouts

# `make fuzz` raises it.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "120"))

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=EXAMPLES, deadline=None)
@example(seed=918, length=14, policy=Policy.ALWAYS)  # a difference of a value with itself
@example(seed=610, length=6, policy=Policy.CHEAPEST)  # a transposed convolution that is a 1x1
@example(seed=216, length=5, policy=Policy.ALWAYS)  # a scale that comes out as one
@example(seed=802185, length=7, policy=Policy.ALWAYS)  # the same, two layers on
@example(seed=1280, length=3, policy=Policy.CHEAPEST)  # parts put together again as they were
@example(seed=18357, length=6, policy=Policy.CHEAPEST)  # a shift of parts put together again
@example(seed=12421, length=4, policy=Policy.ALWAYS)  # padding that a slice cuts off again
@example(seed=600488, length=13, policy=Policy.CHEAPEST)  # more groups than the layer had
@given(SEEDS, st.integers(2, 14), st.sampled_from([Policy.CHEAPEST, Policy.ALWAYS]))
def test_folding_changes_no_number(seed: int, length: int, policy: Policy) -> None:
    """Folded and original agree; the cheapest policy adds no product; folding twice is once."""
    model = random_graph(seed, length=length)
    onnx.checker.check_model(model, full_check=True)
    folded, _ = fold(model, policy)
    assert_same(model, folded, seed)
    again, report = fold(folded, policy)
    assert again.SerializeToString() == folded.SerializeToString()
    assert not report.sites
    assert fold(model, policy)[0].SerializeToString() == folded.SerializeToString()
    if policy is Policy.CHEAPEST:
        before, after = onnx_expand.inspect(model).macs, onnx_expand.inspect(folded).macs
        assert before is not None
        assert after is not None
        assert after <= before
    else:
        assert len(folded.graph.node) <= len(model.graph.node)


@settings(max_examples=EXAMPLES, deadline=None)
@given(SEEDS, st.integers(2, 12), st.sampled_from([Policy.CHEAPEST, Policy.ALWAYS]))
def test_folding_across_layouts_changes_no_number(seed: int, length: int, policy: Policy) -> None:
    """The same for graphs that rename axes between their maps."""
    model = random_layouts(seed, length=length)
    onnx.checker.check_model(model, full_check=True)
    folded, _ = fold(model, policy)
    assert_same(model, folded, seed)
    again, _ = fold(folded, policy)
    assert again.SerializeToString() == folded.SerializeToString()
    if policy is Policy.CHEAPEST:
        before, after = onnx_expand.inspect(model).macs, onnx_expand.inspect(folded).macs
        assert before is None or (after is not None and after <= before)
    assert len(folded.graph.node) <= len(model.graph.node) or policy is Policy.CHEAPEST


@settings(max_examples=EXAMPLES // 3, deadline=None)
@example(seed=147731, length=6, border=Border.ONES)  # a scale and a shift before a concatenation
@example(seed=600103, length=13, border=Border.MAP)  # a bridge leaves a gather before a layer
@given(SEEDS, st.integers(2, 10), st.sampled_from([Border.ONES, Border.MAP, Border.PAD]))
def test_bridged_borders_change_no_number(seed: int, length: int, border: Border) -> None:
    """However borders are bridged, the outputs stay, and a second fold changes nothing."""
    model = random_graph(seed, length=length)
    folded, _ = fold(model, border=border)
    assert_same(model, folded, seed)
    assert fold(folded, border=border)[0] == folded


@settings(max_examples=EXAMPLES // 3, deadline=None)
@given(SEEDS, st.integers(2, 14), st.booleans())
def test_every_weight_is_rounded_once(seed: int, length: int, layouts: bool) -> None:
    """The weights of a folded float32 model are those of its float64 twin, rounded."""
    model = (random_layouts if layouts else random_graph)(seed, length=length)
    single, double = (fold(m)[0] for m in (model, doubled(model)))
    # Runtimes lack some kernels of float64, which are not written then.
    assume(ops(single) == ops(double))
    assert not _rounded_otherwise(single, double)


def _rounded_otherwise(single: onnx.ModelProto, double: onnx.ModelProto) -> list[str]:
    """The constants of a model that are not those of its float64 twin, rounded."""
    found = []
    for narrow, wide in zip(single.graph.initializer, double.graph.initializer, strict=True):
        exact = onnx.numpy_helper.to_array(wide)
        rounded = exact.astype(np.float32) if exact.dtype == np.float64 else exact
        if not np.array_equal(onnx.numpy_helper.to_array(narrow), rounded):
            found.append(narrow.name)
    return found


def test_a_weight_that_is_rounded_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were what is merged rounded, and then merged with more, the law above would not hold."""
    exactly = chain_affine

    def rounded(steps: Sequence[Step]) -> AffineConv:
        affine = exactly(steps)
        return replace(affine, weight=affine.weight.astype(np.float32).astype(np.float64))

    found = 0
    for seed in range(12):
        model = random_graph(seed, length=10)
        double = fold(doubled(model))[0]
        with monkeypatch.context() as patch:
            patch.setattr(merge, "chain_affine", rounded)
            single = fold(model)[0]
        if ops(single) == ops(double):
            found += bool(_rounded_otherwise(single, double))
    assert found


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_types_fold_too(dtype: type) -> None:
    """In float64 the folded graph agrees to float64; in float16 to float16."""
    tolerance = 1e-11 if dtype is np.float64 else 2e-2
    folds = 0
    for seed in range(40):
        model = random_graph(seed, length=6, dtype=dtype)
        folded, report = fold(model)
        folds += len(report.sites)
        x = np.random.default_rng(seed).standard_normal((2, 4, 9, 8))
        for first, second in zip(outputs(model, x), outputs(folded, x), strict=True):
            scale = max(1.0, float(np.max(np.abs(first), initial=0.0)))
            np.testing.assert_allclose(second, first, rtol=0, atol=tolerance * scale)
    assert folds > 20
