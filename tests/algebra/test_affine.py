"""The algebra is proved by its action: what a composed map computes is what its parts compute."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.algebra.contraction import compose_chain
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Reason, Refusal, RefusedError, UsageError
from tests.support.strategies import RANKS, affine_convs, geometries, rounding, sample_input

SEEDS = st.integers(0, 2**32 - 1)


def same_action(a: AffineConv, *chain: AffineConv, seed: int, rank: int) -> None:
    """Assert that one map computes what a chain computes, to the rounding of float64."""
    for extent in (14, 17):
        x = sample_input(a.geometry, seed, rank, extent)
        expected = x
        for f in chain:
            expected = f(expected)
        actual = a(x)
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, rtol=0, atol=rounding(*chain, a))


@settings(max_examples=400, deadline=None)
@given(st.data(), RANKS, SEEDS)
def test_composition_acts_as_one_after_the_other(
    data: st.DataObject, rank: int, seed: int
) -> None:
    """(g @ f)(x) == g(f(x)) for every stride, dilation, padding, group and rank that composes."""
    f = data.draw(affine_convs(rank=data.draw(st.sampled_from([0, rank]))))
    n = f.geometry.out_channels
    g = data.draw(affine_convs(rank=data.draw(st.sampled_from([0, rank])), in_channels=n))
    if isinstance(f.geometry.then(g.geometry), Refusal):
        g = replace(g, pads=())
    same_action(g @ f, f, g, seed=seed, rank=rank)


@settings(max_examples=150, deadline=None)
@given(affine_convs(rank=2), st.data(), SEEDS)
def test_padding_composes_where_the_first_map_reaches_far_enough(
    f: AffineConv, data: st.DataObject, seed: int
) -> None:
    """A second map that pads composes exactly once the first has no bias and pads to its reach."""
    pads = tuple(max(0, r - s) for r, s in zip(f.geometry.reach, f.strides, strict=True))
    ends = tuple(r - 1 for r in f.geometry.reach)
    f = replace(f, bias=None, pads=pads + ends)
    g = data.draw(affine_convs(rank=2, in_channels=f.geometry.out_channels))
    same_action(g @ f, f, g, seed=seed, rank=2)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(1, 2), SEEDS)
def test_a_border_refusal_has_a_witness(data: st.DataObject, rank: int, seed: int) -> None:
    """Where composition is refused at a border, merging would have changed a number."""
    f = data.draw(affine_convs(rank=rank))
    drawn = data.draw(affine_convs(rank=rank, in_channels=f.geometry.out_channels))
    # Every tap of the second map is read at some position when it neither strides nor dilates.
    g = AffineConv(drawn.weight, drawn.bias, pads=tuple(map(abs, drawn.pads)), group=drawn.group)
    f = replace(f, pads=tuple(map(abs, f.pads)))
    assume(isinstance(f.geometry.then(g.geometry), Refusal))
    with pytest.raises(RefusedError) as caught:
        g @ f
    assert caught.value.refusal.reason is Reason.BORDER
    merged = tuple(p + s * q for p, s, q in zip(f.pads, f.strides * 2, g.pads, strict=True))
    naive, bare = replace(f, pads=merged), replace(g, pads=())
    # The geometry is judged for inputs of every size: one size in a stride's period is a witness.
    differs = False
    for extent in range(30, 30 + max(f.strides)):
        x = sample_input(f.geometry, seed, rank, extent)
        differs |= not np.allclose(g(f(x)), bare(naive(x)), rtol=0, atol=1e-9)
    assert differs


@pytest.mark.parametrize("bias", [False, True])
def test_a_refusal_carries_the_measured_border_error(bias: bool) -> None:
    """3x3 pad 1 before 3x3 pad 1, and a biased 1x1 before a padded 3x3, say how wrong they are."""
    rng = np.random.default_rng(0)
    first = (
        AffineConv(rng.standard_normal((4, 3, 1, 1)), rng.standard_normal(4))
        if bias
        else AffineConv(rng.standard_normal((4, 3, 3, 3)), pads=(1, 1, 1, 1))
    )
    second = AffineConv(rng.standard_normal((2, 4, 3, 3)), pads=(1, 1, 1, 1))
    with pytest.raises(RefusedError) as caught:
        first.then(second)
    numbers = caught.value.refusal.numbers
    assert numbers["border_error"] > 0.1 * numbers["output_scale"]


def test_a_pointwise_map_without_bias_commutes_with_padding() -> None:
    """A 1x1 without bias may precede a padded convolution; a zero bias counts as none."""
    rng = np.random.default_rng(1)
    second = AffineConv(rng.standard_normal((2, 4, 3, 3)), pads=(1, 1, 1, 1))
    for bias in (None, np.zeros(4)):
        first = AffineConv(rng.standard_normal((4, 3, 1, 1)), bias)
        same_action(second @ first, first, second, seed=2, rank=2)


@settings(max_examples=100, deadline=None)
@given(st.data(), RANKS, SEEDS)
def test_composition_is_associative(data: st.DataObject, rank: int, seed: int) -> None:
    """(h @ g) @ f and h @ (g @ f) act alike, and so does the cheapest order of a chain."""
    f = data.draw(affine_convs(rank=rank))
    g = data.draw(affine_convs(rank=rank, in_channels=f.geometry.out_channels, padded=False))
    h = data.draw(affine_convs(rank=rank, in_channels=g.geometry.out_channels, padded=False))
    left, right = (h @ g) @ f, h @ (g @ f)
    assert left.geometry == right.geometry
    for composed in (left, right, compose_chain([f, g, h])):
        same_action(composed, f, g, h, seed=seed, rank=rank)


@settings(max_examples=100, deadline=None)
@given(affine_convs(), SEEDS)
def test_identity_is_neutral(f: AffineConv, seed: int) -> None:
    """Composition with the identity on either side keeps a map, number for number."""
    before = f @ AffineConv.identity(f.geometry.in_channels)
    after = AffineConv.identity(f.geometry.out_channels) @ f
    for same in (before, after):
        assert same.geometry == f.geometry
        np.testing.assert_array_equal(same.weight, f.weight)


@settings(max_examples=200, deadline=None)
@given(st.data(), SEEDS)
def test_addition_acts_as_the_sum_of_branches(data: st.DataObject, seed: int) -> None:
    """(f + h)(x) == f(x) + h(x), with kernels of other sizes, steps, offsets and groups."""
    f = data.draw(affine_convs(rank=data.draw(st.integers(1, 3))))
    g = f.geometry
    other = data.draw(geometries(rank=g.rank, in_channels=g.in_channels))
    begins = other.begins
    ends = tuple(c + r - 1 - b for c, r, b in zip(g.overhang, other.reach, begins, strict=True))
    groups = [d for d in range(1, 7) if g.in_channels % d == 0 == g.out_channels % d]
    h = AffineConv(
        np.random.default_rng(seed).standard_normal(
            (
                g.out_channels,
                g.in_channels // (group := data.draw(st.sampled_from(groups))),
                *other.kernel,
            )
        ),
        None,
        g.strides,
        other.dilations,
        begins + ends,
        group,
    )
    total = f + h
    x = sample_input(g, seed, g.rank)
    np.testing.assert_allclose(total(x), f(x) + h(x), rtol=0, atol=2 * (rounding(f) + rounding(h)))
    np.testing.assert_array_equal(total.weight, (h + f).weight)


@settings(max_examples=100, deadline=None)
@given(st.data(), SEEDS)
def test_composition_distributes_over_addition(data: st.DataObject, seed: int) -> None:
    """Composition g @ (f + h) acts as g @ f + g @ h without g's bias counted twice."""
    f = data.draw(affine_convs(rank=2))
    h = replace(f, weight=np.random.default_rng(seed).standard_normal(f.weight.shape))
    g = data.draw(affine_convs(rank=2, in_channels=f.geometry.out_channels, padded=False))
    joined = g @ (f + h)
    apart = g @ f + replace(g, bias=None) @ h
    x = sample_input(f.geometry, seed, 2)
    np.testing.assert_allclose(joined(x), apart(x), rtol=0, atol=4 * rounding(f, g))


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (Geometry(3, 4, (3, 3), strides=(2, 2), pads=(1, 1, 1, 1)), "strides"),
        (Geometry(3, 4, (3, 3)), "extents"),
        (Geometry(3, 5, (3, 3), pads=(1, 1, 1, 1)), "channels"),
        (Geometry(3, 4, (3,)), "spatial axes"),
    ],
)
def test_branches_that_do_not_fit_are_refused(other: Geometry, reason: str) -> None:
    """Branches of other strides, extents, channels or ranks are refused with that reason."""
    refusal = Geometry(3, 4, (3, 3), pads=(1, 1, 1, 1)).plus(other)
    assert isinstance(refusal, Refusal)
    assert reason in refusal.message


@settings(max_examples=100, deadline=None)
@given(st.data(), SEEDS)
def test_finest_groups_change_nothing_but_the_layout(data: st.DataObject, seed: int) -> None:
    """A block-diagonal weight written densely is found again, and acts as before."""
    f = data.draw(affine_convs(rank=1, channels=(2, 4, 6)))
    dense = f.embedded(replace(f.geometry, group=1))
    found = dense.finest()
    assert found.group >= f.group
    same_action(found, f, seed=seed, rank=1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=3, max_size=80), SEEDS)
def test_long_chains_contract_in_any_order(widths: list[int], seed: int) -> None:
    """A chain of matrices longer than one run is contracted to their product."""
    rng = np.random.default_rng(seed)
    chain = [
        AffineConv(rng.standard_normal((n, m)) / np.sqrt(m), rng.standard_normal(n))
        for m, n in itertools.pairwise(widths)
    ]
    x = rng.standard_normal((3, widths[0]))
    expected = x
    for f in chain:
        expected = f(expected)
    actual = compose_chain(chain)(x)
    scale = max(1.0, float(np.max(np.abs(expected))))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-11 * scale)


def test_counts() -> None:
    """MACs and parameters are those of the textbook."""
    conv = AffineConv(np.ones((16, 8, 3, 3)), np.ones(16), pads=(1, 1, 1, 1))
    assert conv.parameters == 16 * 8 * 9 + 16
    assert conv.macs((10, 12)) == 16 * 8 * 9 * 120
    assert AffineConv(np.ones((5, 7))).macs() == 35


@pytest.mark.parametrize(
    "make",
    [
        lambda: AffineConv(np.ones(3)),
        lambda: AffineConv(np.ones((3, 2)), np.ones(2)),
        lambda: AffineConv(np.ones((3, 2, 3)), strides=(1, 1)),
        lambda: AffineConv(np.ones((3, 2)), group=2),
        lambda: AffineConv(np.ones((3, 2, 1)))(np.ones((1, 3, 4))),
        lambda: compose_chain([]),
        lambda: Geometry(1, 1, (1,), strides=(0,)),
    ],
)
def test_shapes_that_do_not_fit_are_errors(make: object) -> None:
    """A weight, bias or input of the wrong shape is an error with a message."""
    assert callable(make)
    with pytest.raises(UsageError):
        make()


@pytest.mark.parametrize("count", [2, 7, 8, 33, 100])
def test_chains_of_equal_matrices_compose(count: int) -> None:
    """Many matrices of one size, with and without biases and scales between, act as one."""
    rng = np.random.default_rng(count)
    chain = [AffineConv(rng.standard_normal((5, 3)))]
    for i in range(count):
        weight = np.linalg.qr(rng.standard_normal((5, 5)))[0]
        chain.append(AffineConv(weight, rng.standard_normal(5) if i % 3 else None))
        if i % 5 == 4:
            chain.append(AffineConv.per_channel(rng.uniform(0.9, 1.1, 5), rng.standard_normal(5)))
    chain.append(AffineConv(rng.standard_normal((4, 5)), rng.standard_normal(4)))
    x = rng.standard_normal((2, 3))
    expected = x
    for f in chain:
        expected = f(expected)
    found = compose_chain(chain)(x)
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * count * scale)


def test_what_is_kept_is_not_composed_in_place() -> None:
    """A map of one channel is a matrix as well, and has its numbers still when it was composed."""
    one = AffineConv.per_channel([2.0], [1.0])
    for _ in range(2):
        composed = compose_chain([one, AffineConv.per_channel([3.0])], owned=True)
        np.testing.assert_array_equal(composed.weight, [[6.0]])
        np.testing.assert_array_equal(one.weight, [[2.0]])
