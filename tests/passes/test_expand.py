"""Expand: strategies, the selection of layers, and initial weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest

import onnx_expand
from models import mobilenetv2, smallnet
from onnx_expand.algebra.geometry import Geometry
from onnx_expand.errors import Reason, Refusal, UsageError
from onnx_expand.factorize import Options, Unit, factorize, parse_strategy, random_init
from tests.support.expanding import arrays, expand, skipped
from tests.support.graphs_text import graph, ops, weights


def chain(layer: Geometry, name: str, options: Options) -> list[Geometry]:
    """Return the layers of the chain by which a strategy replaces a layer."""
    unit = factorize(layer, (name,), options)
    assert isinstance(unit, Unit), unit
    assert len(unit.branches) == 1
    return [step.geometry for step in unit.branches[0]]


def test_auto_leaves_dense_layers_beside_convolutions() -> None:
    """They are expanded if named, or if the model has no convolution."""
    _, report = onnx_expand.expand(smallnet.build(size=16), report=True)
    assert {entry.node for entry in report.expanded} == {"conv1", "conv2", "conv3"}
    skipped = {entry.node: str(entry.refusal) for entry in report.skipped}
    assert set(skipped) == {"fc1", "fc2"}
    assert all("ck+cl+fc" in reason for reason in skipped.values())
    for named in ({"include": "fc1"}, {"ops": ("Gemm",)}):
        _, some = onnx_expand.expand(smallnet.build(size=16), report=True, **named)
        assert {"fc1"} <= {entry.node for entry in some.expanded} <= {"fc1", "fc2"}
    _, every = onnx_expand.expand(smallnet.build(size=16), strategy="ck+cl+fc", report=True)
    assert len(every.expanded) == 5
    text = "g (float[N,4] x) => (float[N,3] y) { y = Gemm(x, w) }"
    dense = graph(text, {"w": np.ones((4, 3), np.float32)})
    _, alone = onnx_expand.expand(dense, report=True)
    assert [entry.how.strategy for entry in alone.expanded] == ["fc"]


def test_every_layer_has_a_strategy() -> None:
    """`auto` takes the first of ck, cl and fc that applies."""
    assert parse_strategy("auto") == ("ck", "cl", "fc")
    kernels = {5: 2, 7: 3, 9: 4, 11: 5, 3: 3, 4: 2, 6: 3, 1: 3}
    for kernel, count in kernels.items():
        unit = factorize(Geometry(3, 8, (kernel, kernel)), parse_strategy("auto"), Options())
        assert isinstance(unit, Unit)
        assert len(unit.branches[0]) == count
    assert isinstance(factorize(Geometry(3, 8), ("ck", "cl"), Options()), Refusal)
    assert isinstance(factorize(Geometry(3, 8, (3, 2)), ("ck",), Options()), Refusal)
    assert isinstance(factorize(Geometry(3, 8, (3, 3)), ("fc",), Options()), Refusal)


@pytest.mark.parametrize(
    ("kernel", "parts"),
    [
        ((5, 5), [(3, 3), (3, 3)]),
        ((4, 4), [(3, 3), (2, 2)]),
        ((7, 1), [(3, 1), (3, 1), (3, 1)]),
        ((5, 3), [(3, 3), (3, 1)]),
        ((2, 5), [(2, 3), (1, 3)]),
        ((6,), [(3,), (3,), (2,)]),
        ((5, 4, 1), [(3, 3, 1), (3, 2, 1)]),
    ],
)
def test_ck_splits_each_axis_separately(
    kernel: tuple[int, ...], parts: list[tuple[int, ...]]
) -> None:
    """Even and non-square kernels become kernels of at most 3 taps, too."""
    assert [f.kernel for f in chain(Geometry(4, 8, kernel), "ck", Options(2))] == parts


def test_widths_are_the_papers() -> None:
    """CL, CK, FC and the grouped CL have the paper's channels, paddings and strides."""
    layer = Geometry(3, 8, (7, 7), strides=(2, 2), pads=(3,) * 4, bias=True)
    cl, ck = (chain(layer, name, Options(2)) for name in ("cl", "ck"))
    assert [f.in_channels for f in cl] + [8] == [3, 6, 16, 8]
    assert [f.in_channels for f in ck] + [8] == [3, 6, 16, 8]
    assert [f.strides for f in cl] == [(1, 1), (2, 2), (1, 1)]
    assert [f.strides for f in ck] == [(1, 1), (1, 1), (2, 2)]
    assert [f.pads for f in cl] == [(3,) * 4, (0,) * 4, (0,) * 4]
    assert [f.pads for f in ck] == [(3,) * 4, (0,) * 4, (0,) * 4]
    assert all(f.bias for f in (*cl, *ck))
    depthwise = chain(Geometry(6, 6, (3, 3), group=6), "cl", Options(4))
    assert [(f.group, f.out_channels) for f in depthwise] == [(6, 24), (6, 24), (6, 6)]
    dense = Geometry(10, 4)
    for count, widths in ((2, [10, 20]), (3, [10, 20, 8])):
        fc = chain(dense, "fc", Options(2, layers=count))
        assert [f.in_channels for f in fc] == widths
    for rate, width in ((0.25, 4), (0.3, 5), (1.7, 27), (0.001, 1)):
        assert chain(Geometry(16, 16, (3, 3)), "cl", Options(rate))[1].in_channels == width


def test_initial_weights_are_those_of_pytorch() -> None:
    """Weights and biases are uniform within 1 / sqrt(fan-in), with groups counted."""
    for layer in (
        Geometry(64, 96, (3, 3), bias=True),
        Geometry(64, 96, (3, 3), group=8, bias=True),
    ):
        bound = 1 / math.sqrt(math.prod(layer.weight_shape[1:]))
        affine = random_init(layer, np.random.default_rng(0))
        assert np.max(np.abs(affine.weight)) <= bound
        assert np.std(affine.weight) == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert affine.bias is not None
        assert np.max(np.abs(affine.bias)) <= bound


# -- Options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rate": 0}, "rate"),
        ({"rate": -1}, "rate"),
        ({"rate": math.nan}, "rate"),
        ({"rate": math.inf}, "rate"),
        ({"strategy": "xl"}, "'xl' is none of "),
        ({"strategy": ""}, "none of"),
        ({"strategy": "cl+"}, "none of"),
        ({"strategy": "cl+auto"}, "none of"),
        ({"include": "("}, "include"),
        ({"exclude": "*"}, "exclude"),
        ({"first_width": "wide"}, "first_width"),
        ({"layers": 1}, "layers"),
        ({"layers": 4}, "layers"),
        ({"seed": -1}, "seed"),
        ({"init": "zeros"}, "init"),
        ({"nonlinear": "tanh"}, "nonlinear"),
        ({"nonlinear": "relu", "init": "preserve"}, "preserve"),
        ({"nonlinear": "relu", "init": "contracted"}, "contracted"),
        ({"norm": "ln"}, "norm"),
        ({"branches": 0}, "branches"),
        ({"rank": 0}, "rank"),
        ({"plan": "no such plan"}, "no such plan"),
        ({"ops": ("Relu",)}, "Relu"),
        ({"kernels": ("3y3",)}, "3y3"),
        ({"kernels": (0,)}, "kernel"),
        ({"strides": (0,)}, "strides"),
        ({"place": "middle"}, "middle"),
        ({"path": "left"}, "left"),
        ({"max_params_mult": 0.5}, "max_params_mult"),
        ({"max_params_mult": math.nan}, "max_params_mult"),
        ({"max_residual": 2}, "max_residual"),
        ({"no_such": 1}, "no_such"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], words: str) -> None:
    """An invalid option raises UsageError, which names it, before the model is read."""
    with pytest.raises(UsageError) as caught:
        onnx_expand.expand("no such file.onnx", **options)
    assert words in str(caught.value)


# -- Selection -------------------------------------------------------------------------------


def test_include_and_exclude() -> None:
    """Names are matched anywhere; exclude wins over include."""
    model = smallnet.build()
    _, report = expand(model, include="conv", exclude="2$")
    assert [e.node for e in report.expanded] == ["conv1", "conv3"]
    assert skipped(report) == dict.fromkeys(["conv2", "fc1", "fc2"], Reason.SELECTION)


def test_pointwise_convolutions_are_left_unless_named() -> None:
    """1x1 convolutions are expanded only if include names them."""
    model = graph(
        "g (float[N,4,6,6] x) => (float[N,4,6,6] y) { y = Conv(x, w) }", weights(w=(4, 4, 1, 1))
    )
    model.graph.node[0].name = "point"
    expanded, report = expand(model)
    assert ops(expanded) == ["Conv"]
    assert skipped(report) == {"point": Reason.SELECTION}
    assert len(expand(model, include="point")[0].graph.node) == 3


def test_layers_that_cannot_be_expanded_have_reasons() -> None:
    """Shared, overridable and dynamic weights, and strategies that do not apply."""
    model = graph(
        "g (float[N,4,9,9] x, float[4,4,3,3] v, float[4,4,3,3] u) => (float[N,4,P,Q] y) "
        "{ a = Conv(x, w) b = Relu(a) c = Conv(b, w) d = Conv(c, v) y = Conv(d, u) }",
        weights(w=(4, 4, 3, 3), v=(4, 4, 3, 3)),
    )
    for index, node in enumerate(model.graph.node):
        node.name = f"n{index}"
    expanded, report = expand(model)
    assert ops(expanded) == ops(model)
    assert skipped(report) == {
        "n0": Reason.SHARED,
        "n2": Reason.SHARED,
        "n3": Reason.OVERRIDABLE,
        "n4": Reason.DYNAMIC,
    }
    _, report = expand(smallnet.build(), strategy="fc")
    assert set(skipped(report).values()) == {Reason.STRATEGY}


def test_expanded_layers_are_not_expanded_again() -> None:
    """A second run does not change the factors of the first."""
    once, _ = expand(smallnet.build(), rate=1)
    twice, report = expand(once, rate=1)
    assert not report.expanded
    assert {s.refusal.reason for s in report.skipped} == {Reason.SELECTION}
    assert twice.SerializeToString() == once.SerializeToString()


def test_first_convolutions_keep_the_images_width() -> None:
    """`keep` leaves the first factor of the first convolution as wide as its input."""
    for first_width, width in (("keep", 3), ("expand", 12)):
        _, report = expand(smallnet.build(), strategy="cl", first_width=first_width)
        first, second, *_ = report.expanded
        assert first.widths == (3, width, 32, 8)
        assert second.widths == (8, 32, 64, 16)


def test_mobilenets_depthwise_layers_are_expanded_by_group() -> None:
    """Depthwise 3x3 convolutions are replaced by three with as many groups."""
    model = mobilenetv2.build(size=32, classes=5, width=0.25)
    expanded, report = expand(model, strategy="cl", rate=2)
    assert len(report.expanded) == 1 + 17
    assert report.after.parameters > report.before.parameters
    groups = [
        next(a.i for a in n.attribute if a.name == "group")
        for n in expanded.graph.node
        if n.op_type == "Conv" and n.name.startswith("features.1.conv.0.0")
    ]
    assert len(groups) == 3
    assert len(set(groups)) == 1
    assert groups[0] > 1


def test_the_report_is_plain_data() -> None:
    """The report has the expansion of each layer in JSON types."""
    expanded, report = expand(smallnet.build(), strategy="ck")
    data = report.as_dict()
    assert data["expanded"][0]["node"] == "conv1"
    names = {node.name for node in expanded.graph.node}
    assert names.issuperset(data["expanded"][0]["result"])
    assert data["after"]["parameters"] == onnx_expand.inspect(expanded).parameters


# -- Numbers ---------------------------------------------------------------------------------


def test_the_seed_determines_the_weights() -> None:
    """The same seed gives the same bytes, another one other weights."""
    model = smallnet.build()
    a, b, c = (onnx_expand.expand(model, rate=1, seed=seed) for seed in (5, 5, 6))
    assert a.SerializeToString() == b.SerializeToString()
    assert a.SerializeToString() != c.SerializeToString()
    assert list(arrays(a)) == list(arrays(c))


def test_weights_of_layers_are_independent() -> None:
    """Excluding one layer changes no weight of another."""
    model = smallnet.build()
    some, every = (
        arrays(onnx_expand.expand(model, rate=1, exclude=exclude)) for exclude in ("conv2", None)
    )
    shared = [name for name in every if name in some]
    assert len(shared) > len(every) - 10
    for name in shared:
        np.testing.assert_array_equal(some[name], every[name])


def test_a_layer_keeps_whether_it_has_a_bias() -> None:
    """Every factor has a bias exactly when the layer has one, even one of zeros."""
    for inputs, count in (("x, w", 2), ("x, w, b", 3)):
        model = graph(
            f"g (float[N,4,6,6] x) => (float[N,4,P,Q] y) {{ y = Conv({inputs}) }}",
            {
                k: v
                for k, v in {
                    "w": weights(w=(4, 4, 3, 3))["w"],
                    "b": np.zeros(4, np.float32),
                }.items()
                if k in inputs
            },
        )
        expanded, _ = expand(model)
        assert [len(node.input) for node in expanded.graph.node] == [count] * 3


def test_other_types_are_expanded_in_their_own_type() -> None:
    """A float16 layer gets float16 factors."""
    model = graph(
        "g (float16[N,4] x) => (float16[N,4] y) { y = Gemm(x, w) }",
        {"w": np.eye(4, dtype=np.float16)},
    )
    expanded, _ = expand(model)
    assert {t.data_type for t in expanded.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert len(expanded.graph.node) == 3
