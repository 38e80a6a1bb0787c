"""Options of passes have their declared types, and `modified` is correct."""

from __future__ import annotations

import math
import re
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnx_expand
from models import smallnet
from onnx_expand import UsageError
from onnx_expand.passes import Border, Expand, Fold, Policy, Preprocess, StripNonlinear
from tests.support.graphs_text import bn, graph, weights
from tests.support.random_graphs import random_graph
from tests.support.random_layouts import random_layouts
from tests.support.zoo import ZOO

PASSES = (Fold, Expand, Preprocess, StripNonlinear)
OPTIONS = [(kind, field) for kind in PASSES for field in fields(kind) if field.init]
WRONG: tuple[Any, ...]
WRONG = ("no such text", -3, True, 2.5, math.nan, object(), b"auto", [object()], {})


@pytest.mark.parametrize(("kind", "field"), OPTIONS, ids=lambda part: getattr(part, "name", None))
def test_values_of_a_wrong_type_are_refused_by_name(kind: Any, field: Any) -> None:
    """Every option of every pass accepts its type or raises UsageError with its name."""
    hints = get_type_hints(kind)
    for value in WRONG:
        kept, message = None, ""
        try:
            kept = getattr(kind(**{field.name: value}), field.name)
        except UsageError as error:
            message = str(error)
        named = field.name.rstrip("s") in message.replace(" ", "_")
        assert named or _is(kept, hints[field.name]), value


def _is(value: Any, kind: Any) -> bool:
    """Return whether a value has a declared type; a bool is not a number."""
    return isinstance(value, tuple | dict) or type(value) in getattr(kind, "__args__", (kind,))


def test_texts_become_the_declared_types() -> None:
    """Names of members, lists with commas and numpy scalars become the declared types."""
    assert Fold("cheapest") == Fold(Policy.CHEAPEST)  # type: ignore[arg-type]
    assert Fold(border="map") == Fold(border=Border.MAP)  # type: ignore[arg-type]
    assert Expand(ops="Conv,Gemm", kernels="5, 7x1", strides="1,2") == Expand(  # type: ignore
        ops=("Conv", "Gemm"), kernels=("5", "7x1"), strides=(1, 2)
    )
    assert Preprocess("0.5, 0.25", "2") == Preprocess((0.5, 0.25), (2.0,))  # type: ignore
    rate = np.float32(2)
    assert type(Expand(rate=rate).rate) is float  # type: ignore[arg-type]
    assert type(Expand(seed=np.int64(3)).seed) is int  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", PASSES)
def test_defaults_are_of_the_declared_types(kind: Any) -> None:
    """A default is never refused or changed."""
    made = kind()
    for field in fields(kind):
        if field.init and field.default is not MISSING:
            assert getattr(made, field.name) == field.default


FOLD_TEXTS = [{"policy": str(p)} for p in Policy if p is not Policy.LATENCY]
FOLD_TEXTS += [{"border": str(border)} for border in Border]


@pytest.mark.parametrize("options", FOLD_TEXTS, ids=str)
def test_text_options_do_what_members_do(options: dict[str, Any]) -> None:
    """The result has the same bytes, whether an option is a text or a member."""
    model = smallnet.build(kernel=3)
    members = {"policy": Policy, "border": Border}
    typed = {name: members[name](value) for name, value in options.items()}
    results = [ir.serde.deserialize_model(model) for _ in range(2)]
    for result, given_options in zip(results, (options, typed), strict=True):
        Fold(**given_options).call(result)
    first, second = (ir.to_proto(result).SerializeToString() for result in results)
    assert first == second


# -- modified ------------------------------------------------------------------------------------


def stated(model: ir.Model) -> bytes:
    """Return the serialized model."""
    return ir.to_proto(model).SerializeToString(deterministic=True)


def assert_honest(run: Any, proto: onnx.ModelProto) -> bool:
    """Assert that `modified` is true exactly if the proto changed; return whether it did."""
    model = ir.serde.deserialize_model(proto)
    before = stated(model)
    result = run.call(model)
    changed = stated(result.model) != before
    assert result.modified == changed, run
    return changed


RUNS = (
    Fold("cheapest"),  # type: ignore[arg-type]
    Fold("always"),  # type: ignore[arg-type]
    Fold("marked"),  # type: ignore[arg-type]
    Fold(inline=True),
    Fold(border="map"),  # type: ignore[arg-type]
    Expand(rate=1),
    Expand(include="nothing has such a name"),
    StripNonlinear(),
)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 10), st.booleans(), st.sampled_from(range(len(RUNS)))
)
def test_modified_is_true_exactly_when_the_model_changed(
    seed: int, length: int, layouts: bool, run: int
) -> None:
    """On random graphs, the first time and the second."""
    model = (random_layouts if layouts else random_graph)(seed, length=length)
    assert_honest(RUNS[run], model)
    again = ir.serde.deserialize_model(model)
    RUNS[run].call(again)
    assert_honest(RUNS[run], ir.to_proto(again))


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_modified_on_the_zoo(run: Any) -> None:
    """`modified` is correct for networks with normalizations, expanded and finished ones."""
    for member in list(ZOO.values())[:4]:
        model = member.build()
        assert_honest(run, model)
        assert_honest(run, onnx_expand.fold(model))
    assert_honest(Expand(rate=1, init="contracted"), smallnet.build())
    for expanded in (
        onnx_expand.expand(smallnet.build(), rate=1),
        onnx_expand.expand(smallnet.build(), rate=1, nonlinear="relu"),
    ):
        assert_honest(run, expanded)


def test_modified_where_only_metadata_change() -> None:
    """Dropping a mark is a change; a pass without work makes none."""
    model = graph(
        "g (float[1,2,9,9] x) => (float[1,2,9,9] y) { y = Relu(x) }",
        {},
    )
    assert not assert_honest(Fold(), model)
    assert not assert_honest(Expand(), model)
    assert not assert_honest(Preprocess(), model)
    assert assert_honest(Preprocess(mean=(1.0,)), model)
    entry = model.metadata_props.add()
    entry.key, entry.value = "onnx_expand.expanded", "true"
    assert assert_honest(Fold("cheapest"), model)  # type: ignore[arg-type]


FUNCTION = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
g (float[1,2,9,9] x) => (float[1,2,9,9] y) { y = own.f(x) }
<domain: "own", opset_import: ["" : 17]>
f (x) => (y) { a = Identity(x) y = Relu(a) }"""


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_modified_where_functions_and_branches_change(run: Any) -> None:
    """Bodies of functions and of If are part of the model."""
    assert_honest(run, onnx.parser.parse_model(FUNCTION))
    branch = graph(
        "g (float[1,2,9,9] x, bool c) => (float[1,2,9,9] y) {"
        " y = If (c) <"
        "  then_branch = t () => (float[1,2,9,9] a) { p = Identity(x) a = Relu(p) },"
        "  else_branch = e () => (float[1,2,9,9] b) { q = Conv(x, w)"
        "   b = BatchNormalization(q, n_s, n_b, n_m, n_v) }> }",
        {**weights(w=(2, 2, 1, 1)), **bn("n", 2)},
    )
    assert_honest(run, branch)


@pytest.mark.parametrize(("kind", "largest"), [("float", 3.4e38), ("float16", 65504.0)])
def test_preprocessing_beyond_the_type_is_refused(kind: str, largest: float) -> None:
    """A divisor whose reciprocal overflows is refused; the largest finite values are accepted."""
    text = f"g ({kind}[1, 3, 2, 2] x) => ({kind}[1, 3, 2, 2] y) {{ y = Relu(x) }}"
    model = ir.from_proto(
        onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    )
    for mean, std in ((0.0, 1 / largest), (largest, 1.0), (0.0, largest)):
        assert Preprocess((mean,), (std,)).call(model.clone()).modified
    for mean, std, named in (
        (0.0, 0.3 / largest, "std"),
        (0.0, 1e-300, "std"),
        (1.01 * largest, 1.0, "mean"),
    ):
        with pytest.raises(UsageError, match=re.escape(f"{named} contains {mean or std:g}, wh")):
            Preprocess((0.0, mean, 0.0), (1.0, std, 1.0)).call(model.clone())
