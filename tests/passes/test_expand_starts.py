"""Initial weights of expanded models: preserved, contracted, and non-linear counterparts."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnx_expand
from models import mobilenetv2, smallnet
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Reason, Refusal, UsageError
from onnx_expand.factorize import Options, Unit, factorize, preserve
from onnx_expand.factorize.condition import Path, condition
from onnx_expand.factorize.kernels import (
    adjoint_first,
    adjoint_second,
    blocks,
    compose,
    least_squares,
)
from tests.support.expanding import arrays, expand, skipped
from tests.support.graphs import compute, retrained
from tests.support.graphs_text import fold, graph, ops, weights
from tests.support.likeness import unlike_only_in_weights
from tests.support.strategies import with_numbers

PRESERVED: dict[str, Any] = {"init": "preserve", "first_width": "expand"}


# -- Preserved -------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["ck+fc", "cl+fc", "acnet", "dbb", "mobileone", "lowrank"])
def test_a_trained_network_is_preserved(strategy: str) -> None:
    """From trained weights the expanded network passes the tool's own check."""
    pytest.importorskip("onnxruntime")
    model = retrained(smallnet.build(size=16))
    expanded, report = expand(model, strategy=strategy, **PRESERVED)
    assert len(report.expanded) >= 3
    assert all(e.residual is not None and e.residual < 1e-13 for e in report.expanded)
    assert onnx_expand.check(model, expanded, samples=1, providers=["cpu"])


def test_depthwise_networks_are_preserved() -> None:
    """Grouped layers are preserved group by group."""
    pytest.importorskip("onnxruntime")
    model = retrained(mobilenetv2.build(size=32, classes=5, width=0.25))
    expanded, report = expand(model, strategy="cl", rate=2, **PRESERVED)
    assert len(report.expanded) == 18
    assert onnx_expand.check(model, expanded, samples=1, providers=["cpu"])


def test_half_precision_networks_are_preserved() -> None:
    """In float16 a preserved network differs by its own rounding only."""
    pytest.importorskip("onnxruntime")
    model = retrained(smallnet.build(kernel=5, size=16))
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), tensor.name))
    half = onnx.TensorProto.FLOAT16
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        value.type.tensor_type.elem_type = half
    onnx.checker.check_model(model, full_check=True)
    for strategy in ("ck+fc", "cl+fc", "dbb+lowrank"):
        expanded, report = expand(model, strategy=strategy, **PRESERVED)
        assert len(report.expanded) == 5
        assert onnx_expand.check(model, expanded, samples=1, providers=["cpu"])


def test_preserved_units_are_well_conditioned() -> None:
    """Condition numbers are near those of the construction, and none is infinite."""
    _, report = expand(retrained(smallnet.build()), strategy="ck+fc", **PRESERVED)
    known = {e.node: e.condition for e in report.expanded}
    assert all(known[f"conv{i}"] < 100 for i in (1, 2, 3))  # type: ignore[operator]
    assert all(known[f"fc{i}"] < 4 for i in (1, 2))  # type: ignore[operator]
    _, report = expand(retrained(smallnet.build(kernel=5)), strategy="cl", **PRESERVED)
    assert all(e.condition is not None and e.condition < 5 for e in report.expanded)


def test_large_kernels_are_preserved() -> None:
    """9x9 is exact at rate 4, although corner shifts alone do not suffice."""
    layer = Geometry(3, 8, (9, 9), pads=(4,) * 4, bias=True)
    unit = factorize(layer, ("ck",), Options(4))
    assert isinstance(unit, Unit)
    filled = preserve(unit, with_numbers(layer, 0), np.random.default_rng(0), lambda a: a)
    assert filled.residual is not None  # type: ignore[union-attr]


def test_narrow_widths_are_refused_or_approximated() -> None:
    """Below rate 1, a layer is refused with its residual, or approximated."""
    model = retrained(smallnet.build(size=16))
    options: dict[str, Any] = {"strategy": "cl+fc", "rate": 0.5, **PRESERVED}
    _, report = expand(model, **options)
    assert not report.expanded
    assert set(skipped(report).values()) == {Reason.STRATEGY}
    assert all(0 < s.refusal.numbers["residual"] < 1 for s in report.skipped)
    _, report = expand(model, max_residual=1.0, **options)
    assert len(report.expanded) == 5
    assert all(e.residual is not None and 1e-3 < e.residual < 1 for e in report.expanded)
    json.dumps(report.as_dict(), allow_nan=False)


def test_least_squares_does_not_drift() -> None:
    """Solving for a layer again does not increase the residual."""
    layer = Geometry(3, 8, (7, 7), pads=(3,) * 4)
    unit = factorize(layer, ("ck",), Options(4, keep_first=True))
    assert isinstance(unit, Unit)
    target = with_numbers(layer, 0)
    filled = preserve(unit, target, np.random.default_rng(0), lambda a: a, most=1.0)
    assert filled.residual < 0.8  # type: ignore[union-attr, operator]


def test_truncation_is_optimal() -> None:
    """Narrow matrices are the leading singular directions (Eckart and Young)."""
    layer = Geometry(12, 9)
    target = with_numbers(layer, 1)
    values = np.linalg.svd(target.weight, compute_uv=False)
    unit = factorize(layer, ("fc",), Options(0.25, layers=2))
    assert isinstance(unit, Unit)
    filled = preserve(unit, target, np.random.default_rng(0), lambda a: a, most=1.0)
    best = np.linalg.norm(values[3:]) / np.linalg.norm(values)
    assert filled.residual == pytest.approx(best, rel=1e-9)  # type: ignore[union-attr]


def test_weights_of_zeros_are_preserved() -> None:
    """A layer of zeros, as in the start of some blocks, gets units that can learn."""
    constants = {"w": np.zeros((4, 4, 5, 5), np.float32), "b": np.ones(4, np.float32)}
    model = graph(
        "g (float[N,4,9,9] x) => (float[N,4,P,Q] y) { y = Conv<pads=[2,2,2,2]>(x, w, b) }",
        constants,
    )
    for strategy in ("ck", "cl", "repvgg"):
        expanded, report = expand(model, strategy=strategy, **PRESERVED)
        assert len(report.expanded) == 1
        assert report.expanded[0].condition is not None
        pytest.importorskip("onnxruntime")
        (y,) = compute(expanded, {"x": np.ones((1, 4, 9, 9), np.float32)})
        np.testing.assert_allclose(y, 1, atol=1e-5)


def test_weights_that_are_not_finite_are_refused() -> None:
    """A weight with NaN cannot be preserved, and does not change."""
    broken = np.full((4, 4, 3, 3), np.nan, np.float32)
    model = graph("g (float[N,4,6,6] x) => (float[N,4,P,Q] y) { y = Conv(x, w) }", {"w": broken})
    _, report = expand(model, **PRESERVED)
    assert set(skipped(report).values()) == {Reason.NON_FINITE}


def test_the_low_rank_path_starts_at_zero() -> None:
    """The base keeps its weights exactly, and the parallel path ends in zeros."""
    model = retrained(smallnet.build(size=16))
    for init in ("random", "preserve"):
        expanded, report = expand(model, strategy="lowrank", rank=3, init=init)
        # A path of 3 channels is not narrower than the image.
        assert [s.node for s in report.skipped] == ["conv1"]
        before, after = arrays(model), arrays(expanded)
        for name in ("conv2", "fc1"):
            np.testing.assert_array_equal(after[f"{name}.0.0.weight"], before[f"{name}.weight"])
            assert not np.any(after[f"{name}.1.1.weight"])
            assert after[f"{name}.1.0.weight"].shape[0] == 3


# -- The mathematics behind it ---------------------------------------------------------------


@pytest.mark.parametrize("taps", [((2, 3), (3, 1)), ((1, 1), (2, 2)), ((), ())])
def test_adjoints_are_adjoint(taps: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """<compose(b, a), G> is <a, A* G> and <b, B* G>, and compose agrees with AffineConv."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((2, 3, 4, *taps[0]))
    b = rng.standard_normal((2, 5, 3, *taps[1]))
    whole = compose(b, a)
    gradient = rng.standard_normal(whole.shape)
    inner = np.vdot(whole, gradient)
    assert np.vdot(a, adjoint_first(b, gradient)) == pytest.approx(inner)
    assert np.vdot(b, adjoint_second(a, gradient)) == pytest.approx(inner)
    np.testing.assert_allclose(compose(b, a[:, :, :, ...]), whole)


def test_least_squares_finds_the_smallest_solution() -> None:
    """For a wide and a tall matrix, the solution is that of the pseudo-inverse."""
    rng = np.random.default_rng(0)
    for shape in ((4, 9), (9, 4)):
        matrix, wanted = rng.standard_normal(shape), rng.standard_normal(shape[0])
        x = least_squares(matrix.dot, matrix.T.dot, wanted, goal=0, steps=50)
        np.testing.assert_allclose(x, np.linalg.pinv(matrix) @ wanted, rtol=1e-9, atol=1e-12)


def test_the_condition_number_is_that_of_the_operator() -> None:
    """Lanczos finds the eigenvalues of the dense operator."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((1, 5, 2, 1)), rng.standard_normal((1, 3, 5, 2))
    path = Path((first, second), (True, True), (slice(None),))
    shape = (1, 3, 2, 2)
    columns = []
    for unit in np.eye(12):
        g = unit.reshape(shape)
        moved = compose(second, adjoint_first(second, g))
        moved += compose(adjoint_second(first, g), first)
        columns.append(moved.ravel())
    values = np.linalg.eigvalsh(np.array(columns))
    assert condition([path], shape, rng) == pytest.approx(values[-1] / values[0], rel=1e-6)


def test_a_single_layer_has_condition_one() -> None:
    """A single layer learns equally in all directions."""
    layer = Geometry(4, 6, (3, 3))
    kernel = blocks(with_numbers(layer, 0).weight, 1)
    path = Path((kernel,), (True,), (slice(None), slice(None)))
    assert condition([path], kernel.shape, np.random.default_rng(0)) == pytest.approx(1)


# -- Contracted ------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["ck+fc", "cl+fc", "acnet"])
def test_a_contracted_start_is_the_compact_network(strategy: str) -> None:
    """Only the weights of the network change, to those of a contracted random expansion."""
    model = smallnet.build(size=16)
    options: dict[str, Any] = {"strategy": strategy, "rate": 2, "seed": 3}
    contracted = onnx_expand.expand(model, init="contracted", **options)
    assert unlike_only_in_weights(contracted, model)
    assert not contracted.metadata_props
    folded = onnx_expand.fold(onnx_expand.expand(model, **options))
    found, wanted = arrays(contracted), arrays(folded)
    assert list(found) == list(wanted)
    assert all(np.array_equal(found[name], wanted[name]) for name in found)
    assert not np.array_equal(found["conv2.weight"], arrays(model)["conv2.weight"])


def test_a_contracted_start_needs_a_compact_network() -> None:
    """A model with expansions is not contracted along with new ones."""
    expanded = onnx_expand.expand(smallnet.build(size=16), include="conv1")
    with pytest.raises(UsageError, match="fold it first"):
        onnx_expand.expand(expanded, init="contracted")


# -- Activations between the layers ----------------------------------------------------------


@pytest.mark.parametrize("kind", ["relu", "prelu"])
def test_stripping_gives_the_linear_expansion(kind: str) -> None:
    """The non-linear counterpart without its activations is the linear expansion, to the byte."""
    model = smallnet.build(size=16)
    linear = onnx_expand.expand(model, strategy="ck+fc", rate=1, seed=2)
    bent = onnx_expand.expand(model, strategy="ck+fc", rate=1, seed=2, nonlinear=kind)
    onnx.checker.check_model(bent, full_check=True)
    assert len(bent.graph.node) == len(linear.graph.node) + 10
    stripped = onnx_expand.strip_nonlinear(bent)
    assert stripped.SerializeToString() == linear.SerializeToString()
    # Training changes the weights, which stripping must keep.
    trained = retrained(bent, 5)
    kept = onnx_expand.strip_nonlinear(trained)
    assert ops(kept) == ops(linear)
    for name, array in arrays(kept).items():
        np.testing.assert_array_equal(array, arrays(trained)[name])
    assert unlike_only_in_weights(onnx_expand.fold(kept), model)


@pytest.mark.parametrize("policy", ["auto", "cheapest", "always"])
def test_fold_keeps_nonlinear_units_with_a_reason(policy: str) -> None:
    """No policy merges across an activation, and the report names it."""
    from onnx_expand.passes import Policy

    bent = retrained(
        onnx_expand.expand(smallnet.build(size=16), strategy="cl+fc", rate=1, nonlinear="prelu")
    )
    folded, report = fold(bent, Policy(policy))
    reasons = [k for k in report.kept if k.refusal.reason is Reason.ACTIVATION]
    assert len(reasons) == 5
    assert all("strip-nonlinear" in k.refusal.hint for k in reasons)
    assert ops(folded).count("PRelu") == 10
    pytest.importorskip("onnxruntime")
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    (a,), (b,) = compute(bent, {"input": x}), compute(folded, {"input": x})
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.max(np.abs(a)))


def test_only_the_inserted_activations_are_stripped() -> None:
    """A user's own activations stay, and a model without inserted ones does not change."""
    model = smallnet.build(size=16)
    bent = onnx_expand.expand(model, strategy="cl", rate=1, nonlinear="relu")
    stripped = onnx_expand.strip_nonlinear(bent)
    assert ops(stripped).count("Relu") == ops(model).count("Relu")
    again = copy.deepcopy(stripped)
    assert onnx_expand.strip_nonlinear(again).SerializeToString() == again.SerializeToString()


def test_sums_have_no_nonlinear_counterpart() -> None:
    """Activations are inserted between layers of a chain; sums of branches are kept."""
    model = smallnet.build(size=16)
    expanded, report = expand(model, strategy="acnet", nonlinear="relu")
    assert ops(expanded) == ops(model)
    assert set(skipped(report).values()) == {Reason.STRATEGY}


def test_slopes_follow_the_channels() -> None:
    """A PRelu has a slope per channel on the channel axis, in matrices as well."""
    model = graph("g (float[N,5,4] x) => (float[N,5,6] y) { y = MatMul(x, w) }", weights(w=(4, 6)))
    bent, _ = expand(model, strategy="fc", rate=2, nonlinear="prelu")
    slopes = [a for name, a in arrays(bent).items() if name.endswith("slope")]
    assert [s.shape for s in slopes] == [(8,), (12,)]
    assert all(np.all(s == 0.25) for s in slopes)


def test_large_layers_have_a_bound_of_their_condition() -> None:
    """The bound for large layers is at least the condition number, and near it."""
    from onnx_expand.factorize import condition as module

    for layer, name in ((Geometry(6, 9, (3, 3), group=3), "cl"), (Geometry(9, 6), "fc")):
        for count in (2, 3):
            unit = factorize(layer, (name,), Options(2, layers=count))
            assert isinstance(unit, Unit)
            target = with_numbers(layer, 0)
            filled = preserve(unit, target, np.random.default_rng(0), lambda a: a)
            assert not isinstance(filled, Refusal)
            kernels = tuple(blocks(f.weight, layer.group) for f in filled.parts[0])  # type: ignore[union-attr]
            path = Path(kernels, (True,) * len(kernels), (slice(None),) * layer.rank)
            bound = module._bound(path, np.random.default_rng(1))
            assert filled.condition is not None
            assert filled.condition <= bound * (1 + 1e-6)
            assert bound < 3 * filled.condition
