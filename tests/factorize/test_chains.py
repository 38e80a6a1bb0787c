"""Starts of chains other than the framework's, and chains of long kernels."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

import onnx_expand
from models import smallnet
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Refusal
from onnx_expand.factorize import (
    CHAIN_STARTS,
    Options,
    Unit,
    as_affine,
    corners,
    factorize,
    kernels,
    preserve,
    random_unit,
    solve,
)
from onnx_expand.factorize.condition import Path, condition
from onnx_expand.factorize.corners import shifted_chain
from onnx_expand.factorize.kernels import adjoint_first, adjoint_second, compose
from tests.support.graphs_text import ops
from tests.support.strategies import with_numbers

# -- Other random starts ---------------------------------------------------------------------


@pytest.mark.parametrize("start", sorted(CHAIN_STARTS))
@pytest.mark.parametrize("strategy", ["cl", "ck", "fc"])
def test_other_starts_have_their_variance(start: str, strategy: str) -> None:
    """What each start says of the variance of a signal, of norms and of inner biases is so."""
    layer = Geometry(24, 40, () if strategy == "fc" else (5, 5), bias=True)
    unit = factorize(layer, (strategy,), Options(rate=2.0))
    assert isinstance(unit, Unit)
    target = with_numbers(layer, 0)
    filled = random_unit(unit, target, np.random.default_rng(0), start)
    maps = [as_affine(part) for part in filled.parts[0]]
    assert all(not np.any(affine.bias) for affine in maps[:-1])
    assert np.any(maps[-1].bias)
    rows = [np.square(affine.weight).sum(tuple(range(1, affine.weight.ndim))) for affine in maps]
    gains = [float(np.mean(row)) for row in rows]
    if start == "balanced":
        norms = [float(np.linalg.norm(affine.weight)) for affine in maps]
        assert norms == pytest.approx([norms[0]] * len(norms))
        default = random_unit(unit, target, np.random.default_rng(0))
        assert filled.affine.weight.std() == pytest.approx(default.affine.weight.std(), rel=0.2)
    else:
        whole = {"variance": 1.0, "orthogonal": 1.0, "matched": 1 / 3}[start]
        assert gains == pytest.approx([whole ** (1 / len(gains))] * len(gains), rel=0.1)


@pytest.mark.parametrize("start", sorted(CHAIN_STARTS))
def test_orthogonal_and_other_starts_reach_the_model(start: str) -> None:
    """`init` gives other numbers than the default, the same for the same seed, and folds back."""
    model = smallnet.build(size=16)
    usual = onnx_expand.expand(model, strategy="ck+fc")
    first, again = (onnx_expand.expand(model, strategy="ck+fc", init=start) for _ in range(2))
    numbers = [
        {t.name: numpy_helper.to_array(t) for t in m.graph.initializer}
        for m in (usual, first, again)
    ]
    assert all(np.array_equal(numbers[1][name], numbers[2][name]) for name in numbers[1])
    assert any(not np.array_equal(numbers[0][name], numbers[1][name]) for name in numbers[0])
    assert ops(onnx_expand.fold(first)) == ops(model)


def test_an_orthogonal_start_is_an_isometry() -> None:
    """Rows are orthonormal where there are no more of them than inputs, else columns are."""
    for outputs, group in ((8, 1), (200, 1), (64, 4)):
        layer = Geometry(16, outputs, (3, 3), group=group)
        weight, _ = CHAIN_STARTS["orthogonal"]([layer, layer], np.random.default_rng(0))
        for block in weight.reshape(group, outputs // group, -1):
            gram = block @ block.T if len(block) <= block.shape[1] else block.T @ block
            wide = max(1.0, len(block) / block.shape[1])
            np.testing.assert_allclose(gram, wide * np.eye(len(gram)), atol=1e-12)


# -- Long kernels ----------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("length", [12, 13, 31, 101])
def test_a_long_kernel_becomes_a_short_chain(rank: int, length: int) -> None:
    """Five layers at most, of nearly equal extents that make up the kernel's."""
    layer = Geometry(2, 3, (length,) * rank)
    unit = factorize(layer, ("ck",), Options())
    assert isinstance(unit, Unit)
    taps = [step.geometry.kernel[0] for step in unit.branches[0]]
    assert len(taps) == 5
    assert max(taps) - min(taps) <= 1
    composed = unit.composed()
    assert isinstance(composed, Geometry)
    assert composed.kernel == layer.kernel


def test_a_long_kernel_is_preserved_soon() -> None:
    """A kernel of 401 taps is solved for in steps that are few, not hundreds for each layer."""
    calls = 0

    def counted(*args: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        return compose(*args, **keywords)

    layer = Geometry(6, 6, (401,))
    unit = factorize(layer, ("ck",), Options())
    assert isinstance(unit, Unit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solve, "compose", counted)
        found = preserve(unit, with_numbers(layer, 0), np.random.default_rng(0), lambda a: a)
    assert not isinstance(found, Refusal)
    assert found.residual is not None
    assert found.residual < 1e-11
    assert calls < 2500


@given(data=st.data())
def test_shifts_around_one_layer_compute_any_kernel(data: st.DataObject) -> None:
    """Over extents, widths and groups: where the widths suffice, the chain is exact."""
    rank = data.draw(st.integers(1, 2))
    extent = st.tuples(*[st.integers(1, 4)] * rank)
    taps = data.draw(st.lists(extent, min_size=2, max_size=5 - rank))
    g, m, n = (data.draw(st.integers(1, 2)) for _ in range(3))
    widths = [m, *(data.draw(st.integers(1, 18)) for _ in taps[1:]), n]
    whole = [1 + sum(t[axis] - 1 for t in taps) for axis in range(rank)]
    wanted = np.random.default_rng(0).standard_normal((g, n, m, *whole))
    found = shifted_chain(widths, taps, wanted.shape)
    assume(found is not None)
    assert found is not None
    chain = list(found.kernels)
    chain[found.middle] = found.solution(wanted)
    assert [k.shape[1:3] for k in chain] == [(b, a) for a, b in itertools.pairwise(widths)]
    assert [k.shape[3:] for k in chain] == taps
    computed = kernels.product(chain)
    assert computed is not None
    np.testing.assert_allclose(computed, wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kernel", [(7, 3), (5, 3), (3, 9), (9,), (61,), (6, 4)])
def test_kernels_of_any_shape_are_preserved_at_rate_4(kernel: tuple[int, ...]) -> None:
    """Axes of different extents, of which some layers cover one only, included."""
    unit = factorize(Geometry(4, 5, kernel), ("ck",), Options())
    assert isinstance(unit, Unit)
    target = with_numbers(Geometry(4, 5, kernel), 0)
    found = preserve(unit, target, np.random.default_rng(0), lambda a: a)
    assert not isinstance(found, Refusal)
    assert found.is_exact


@pytest.mark.parametrize("stored", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("kernel", [(61,), (7, 7), (7, 3)])
def test_the_closed_form_is_exact_and_trains_every_unit(
    kernel: tuple[int, ...], stored: type[np.floating[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As near as conjugate gradients come, in each type, and no channel starts dead."""
    monkeypatch.setattr(solve, "_EXTRA", 0)
    unit = factorize(Geometry(3, 4, kernel), ("ck",), Options(5))
    assert isinstance(unit, Unit)
    target = with_numbers(Geometry(3, 4, kernel), 0)
    found = preserve(
        unit, target, np.random.default_rng(0), lambda a: a.astype(stored).astype(np.float64)
    )
    assert not isinstance(found, Refusal)
    assert found.is_exact
    assert found.condition is not None
    assert found.condition < 300
    for part in found.parts[0]:
        weight = as_affine(part).weight
        assert weight.reshape(weight.shape[0], -1).any(axis=1).all()
        assert weight.swapaxes(0, 1).reshape(weight.shape[1], -1).any(axis=1).all()


@pytest.mark.parametrize("kernel", [(15,), (7, 7)])
def test_a_chain_without_the_freedom_is_refused_soon(
    kernel: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first layer that keeps its width leaves too little to the others."""
    solved: list[int] = []
    moved = solve._moved

    def counted(kernels: Any, index: int, wanted: Any, steps: int) -> Any:
        solved.append(steps)
        return moved(kernels, index, wanted, steps)

    monkeypatch.setattr(solve, "_moved", counted)
    unit = factorize(Geometry(4, 4, kernel), ("ck",), Options(keep_first=True))
    assert isinstance(unit, Unit)
    target = with_numbers(Geometry(4, 4, kernel), 0)
    found = preserve(unit, target, np.random.default_rng(0), lambda a: a)
    assert isinstance(found, Refusal)
    assert len(solved) == 1
    preserve(unit, target, np.random.default_rng(0), lambda a: a, most=1e-3)
    assert len(solved) > 2


@given(data=st.data())
@settings(max_examples=30)
def test_no_chain_is_exact_without_the_freedom(data: st.DataObject) -> None:
    """Solving for all layers in turn never reaches what the count of elements rules out."""
    taps = [(t,) for t in data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))]
    widths = data.draw(st.lists(st.integers(1, 9), min_size=len(taps) + 1, max_size=len(taps) + 1))
    assume(not solve._may_be_exact(widths, taps))
    wanted = np.random.default_rng(0).standard_normal(
        (1, widths[-1], widths[0], 1 + sum(t - 1 for (t,) in taps))
    )
    rng = np.random.default_rng(1)
    assert shifted_chain(widths, taps, wanted.shape) is None
    kernels = solve._stirred(solve._random(widths, taps, 1, rng), rng)
    assert solve._solved(kernels, wanted, lambda a: a, 0.0).residual > 1e-6


def test_long_kernels_take_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a good start would take minutes; where even its condition would, that is left out."""
    taken: list[int] = []

    def corrected(chain: corners.Shifted, wanted: Any, *_: Any) -> solve.Fit:
        taken.append(len(chain.before) * len(chain.after))
        return solve.Fit(tuple(chain.kernels), 0.0)

    monkeypatch.setattr(solve, "_corrected", corrected)
    layer = Geometry(1, 64, (401,))
    unit = factorize(layer, ("ck",), Options())
    assert isinstance(unit, Unit)
    widths, taps = unit.widths, [s.geometry.kernel for s in unit.branches[0]]
    wanted = np.ones((1, 64, 1, 401))
    solve.fit_chain(widths, taps, wanted, np.random.default_rng(0), lambda a: a)
    assert taken == [9]
    huge = [
        np.broadcast_to(0.0, (1, n, m, 81)) for m, n in itertools.pairwise([1, *[1000] * 4, 250])
    ]
    path = Path(tuple(huge), (True,) * 5, (slice(None),))
    assert condition([path], (1, 250, 1, 401), np.random.default_rng(0)) is None


@pytest.mark.parametrize(("taps", "inner"), [((31,), (40,)), ((30,), (25,)), ((5, 5), (9, 30))])
def test_long_kernels_compose_by_frequencies(
    taps: tuple[int, ...], inner: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fourier transforms give what a product for each tap gives, and so do the adjoints."""
    rng = np.random.default_rng(0)
    second = rng.standard_normal((2, 5, 4, *taps))
    first = rng.standard_normal((2, 4, 3, *inner))

    def three() -> list[Any]:
        whole = compose(second, first)
        gradient = np.cos(np.arange(whole.size)).reshape(whole.shape)
        return [whole, adjoint_first(second, gradient), adjoint_second(first, gradient)]

    found = three()
    monkeypatch.setattr(kernels, "_BLOCK", 1)
    in_blocks = three()
    monkeypatch.setattr(kernels, "_MANY", 10**9)
    for a, b, wanted in zip(found, in_blocks, three(), strict=True):
        np.testing.assert_allclose(a, wanted, rtol=0, atol=1e-11)
        np.testing.assert_allclose(b, wanted, rtol=0, atol=1e-11)
        assert not np.array_equal(a, wanted)
