"""Which layers are expanded: selection, plans, budgets, and what a run reports about them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

import onnx_expand
from models import mobilenetv2, smallnet
from onnx_expand.errors import Reason, UsageError
from onnx_expand.passes import ExpandReport
from onnx_expand.passes.named_plans import PLANS
from onnx_expand.passes.plan_files import load_plan, plan_text
from onnx_expand.passes.plans import How, Plan, Rule, Select
from tests.support.expanding import expand, skipped
from tests.support.graphs import named
from tests.support.graphs_text import graph, weights
from tests.support.likeness import unlike_only_in_weights

THREE = (4, 4, 3, 3)


def names(report: ExpandReport) -> list[str]:
    """Return the names of the expanded layers."""
    return [e.node for e in report.expanded]


@pytest.fixture(scope="module")
def mobile() -> onnx.ModelProto:
    return mobilenetv2.build(size=32, classes=5, width=0.5)


# -- Selection -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"ops": ("Gemm",)}, ["fc1", "fc2"]),
        ({"ops": ("Conv", "MatMul")}, ["conv1", "conv2", "conv3"]),
        ({"place": "first"}, ["conv1"]),
        ({"place": "last"}, ["fc2"]),
        ({"place": "inner"}, ["conv2", "conv3", "fc1"]),
        ({"place": "first+last"}, ["conv1", "fc2"]),
        ({"kernels": (7,), "exclude": "3"}, ["conv1", "conv2"]),
        ({"kernels": ("7x7",)}, ["conv1", "conv2", "conv3"]),
        ({"kernels": ((7, 1), 5)}, []),
        ({"strides": (1,)}, ["conv1", "conv2", "conv3"]),
        ({"strides": (2,)}, []),
        ({"depthwise": True}, []),
        ({"residual": True}, []),
        ({"path": "expanding"}, []),
        ({"include": "1$"}, ["conv1", "fc1"]),
    ],
)
def test_layers_are_selected(options: dict[str, Any], expected: list[str]) -> None:
    """Each kind of selection selects exactly its layers, and is the reason for the others."""
    _, report = expand(smallnet.build(), rate=1, **options)
    assert names(report) == expected
    assert set(skipped(report).values()) <= {Reason.SELECTION}
    assert len(report.expanded) + len(report.skipped) == 5


def test_depthwise_strided_and_residual_layers_are_distinguished(mobile: onnx.ModelProto) -> None:
    """MobileNetV2's depthwise layers and residual blocks are those of its paper."""
    kinds: dict[str, dict[str, Any]] = {
        "all": {},
        "depthwise": {"depthwise": True},
        "halving": {"depthwise": True, "strides": (2,)},
        "residual": {"residual": True},
        "outside": {"residual": False},
    }
    count = {
        key: len(names(expand(mobile, strategy="cl", rate=1, kernels=(3,), **options)[1]))
        for key, options in kinds.items()
    }
    # Of 17 blocks, 10 are residual and 4 halve the extents; the stem is one more 3x3.
    assert count == {"all": 18, "depthwise": 17, "halving": 4, "residual": 10, "outside": 8}


def test_projected_shortcuts_make_residual_blocks() -> None:
    """A block whose shortcut is a 1x1 convolution is residual; sums of two inputs are not."""
    model = graph(
        "g (float[N,4,9,9] x, float[N,4,9,9] z) => (float[N,4,P,Q] y) { "
        "s = Conv<pads=[1,1,1,1]>(x, w1) a = Relu(s) b = Conv<pads=[1,1,1,1]>(a, w2) c = Relu(b) "
        "d = Conv<pads=[1,1,1,1]>(c, w3) p = Conv(a, w4) e = Add(d, p) f = Relu(e) "
        "h = Conv<pads=[1,1,1,1]>(z, w5) y = Add(f, h) }",
        weights(w1=THREE, w2=THREE, w3=THREE, w4=(4, 4, 1, 1), w5=THREE),
    )
    names_of_nodes = ["stem", "r", "one", "r2", "two", "short", "sum", "r3", "other", "sum2"]
    model = named(model, *names_of_nodes)
    assert names(expand(model, residual=True)[1]) == ["one", "two"]
    assert names(expand(model, residual=False)[1]) == ["stem", "other"]


def test_the_contracting_path_ends_at_the_first_upsampling() -> None:
    """Layers before an upsampling are on the contracting path, it and those after it are not."""
    model = graph(
        "g (float[N,4,8,8] x) => (float[N,4,P,Q] y) { a = Conv<pads=[1,1,1,1]>(x, w1) "
        "b = Relu(a) c = ConvTranspose<strides=[2,2]>(b, w2) d = Relu(c) y = Conv(d, w3) }",
        weights(w1=(4, 4, 3, 3), w2=(4, 4, 2, 2), w3=(4, 4, 3, 3)),
    )
    model = named(model, "down", "r", "up", "r2", "head")
    assert names(expand(model, path="contracting")[1]) == ["down"]
    assert names(expand(model, path="expanding")[1]) == ["up", "head"]


# -- Plans -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["json", "yaml", "yml"])
def test_a_written_plan_repeats_the_expansion(tmp_path: Path, suffix: str) -> None:
    """The plan that a run writes expands the same model to the same bytes."""
    if suffix != "json":
        pytest.importorskip("yaml")
    model = smallnet.build()
    options = {"strategy": "ck+fc", "rate": 1.5, "exclude": "2", "first_width": "expand"}
    expanded, report = expand(model, layers=2, **options)
    path = tmp_path / f"plan.{suffix}"
    path.write_text(plan_text(report.plan, yaml=suffix != "json"), encoding="utf-8")
    again, second = expand(model, plan=str(path))
    assert again.SerializeToString() == expanded.SerializeToString()
    assert second.plan == report.plan


def test_rules_decide_in_order_and_options_fill_in() -> None:
    """The first rule that selects a layer applies; nodes come first, options fill gaps."""
    rules = (
        Rule(Select(include="conv1"), How("cl")),
        Rule(Select(ops=("Conv",), limit=1), How("ck", rate=3)),
        Rule(Select(ops=("Gemm",)), How("fc", layers=2)),
    )
    plan = Plan("mine", rules=rules, nodes={"fc2": How("fc", rate=5)})
    _, report = expand(smallnet.build(), plan=plan, rate=2)
    found = {e.node: (e.how.strategy, e.how.rate, len(e.result)) for e in report.expanded}
    assert found == {
        "conv1": ("cl", 2, 3),
        "conv2": ("ck", 3, 3),
        "fc1": ("fc", 2, 2),
        "fc2": ("fc", 5, 3),
    }
    assert skipped(report) == {"conv3": Reason.SELECTION}
    _, report = expand(smallnet.build(), plan=plan, exclude="fc")
    assert names(report) == ["conv1", "conv2"]


BAD_PLANS = [
    ("p.json", "{", "not JSON"),
    ("p.json", "[]", "mapping"),
    ("p.json", '{"node": {}}', "'node' is none of"),
    ("p.json", '{"schema": 2}', "schema"),
    ("p.json", '{"nodes": []}', "mapping from node names"),
    ("p.json", '{"nodes": {"fc1": {"rate": "big"}}}', "node 'fc1': rate is 'big'; it must be"),
    ("p.json", '{"nodes": {"fc1": {"rate": 0}}}', "rate"),
    ("p.json", '{"nodes": {"fc1": {"rate": true}}}', "rate"),
    ("p.json", '{"nodes": {"fc1": {"strategy": "xl"}}}', "xl"),
    ("p.json", '{"nodes": {"fc1": {"ops": "Conv"}}}', "'ops' is none of"),
    ("p.json", '{"nodes": {"fc1": 3}}', "not a mapping"),
    ("p.json", '{"nodes": {"fc9": {}}}', "no layer 'fc9'"),
    ("p.json", '{"rules": [{"include": "("}]}', "rule 1: include"),
    ("p.json", '{"rules": [{"depthwise": 1}]}', "rule 1: depthwise is 1; it must be True"),
    ("p.json", '{"rules": [{"ops": ["Conv", 2]}]}', "rule 1: ops is 2; it must be a text"),
    ("p.json", '{"rules": [{"limit": -1}]}', "limit"),
    ("p.json", '{"rules": [{"kernels": "wide"}]}', "wide"),
    ("p.yaml", "nodes: [", "not YAML"),
]


@pytest.mark.parametrize(("name", "text", "words"), BAD_PLANS)
def test_an_invalid_plan_is_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    """An invalid plan raises UsageError, in one line that names the file and the entry."""
    if name.endswith("yaml"):
        pytest.importorskip("yaml")
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        onnx_expand.expand(smallnet.build(), plan=str(path))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plan_that_is_not_text_is_refused(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are an error of the file."""
    path = tmp_path / "p.json"
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(UsageError, match="cannot be read"):
        load_plan(str(path))


def test_yaml_without_its_package_is_an_error_of_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without PyYAML, the error of a YAML plan states what to install, and JSON works."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    path = tmp_path / "p.yaml"
    path.write_text("nodes: {}", encoding="utf-8")
    with pytest.raises(UsageError, match="pip install pyyaml"):
        load_plan(str(path))
    with pytest.raises(UsageError, match="PyYAML"):
        plan_text({}, yaml=True)
    assert json.loads(plan_text({"a": How("cl")}, yaml=False))["nodes"] == {
        "a": {"strategy": "cl"}
    }


@pytest.mark.parametrize("name", PLANS)
def test_named_plans_are_undone_by_fold(name: str, mobile: onnx.ModelProto) -> None:
    """Every plan of the package is valid, and fold restores the expanded layers."""
    assert PLANS[name].summary
    for model in (smallnet.build(), mobile):
        expanded, report = expand(model, plan=name, rate=1)
        policy = "auto" if report.expanded else "marked"
        restored = onnx_expand.fold(onnx_expand.expand(model, plan=name, rate=1), policy=policy)
        assert unlike_only_in_weights(restored, model)
        assert len(expanded.graph.node) >= len(model.graph.node)


@pytest.mark.parametrize(
    ("rate", "parameters"),
    [(0.25, 37_912), (0.5, 42_810), (0.75, 48_428), (1, 54_766), (2, 87_318), (4, 186_982)],
)
def test_the_papers_plan_has_the_papers_parameters(rate: float, parameters: int) -> None:
    """SmallNet by `paper:smallnet-ck` has the counts of table 9, to the last one."""
    _, report = expand(smallnet.build(), plan="paper:smallnet-ck", rate=rate)
    assert report.after.parameters == parameters


@pytest.mark.parametrize(
    ("plan", "rate", "parameters", "macs"),
    [
        ("fc", 2, 339_402, 6.23),
        ("fc", 4, 675_914, 6.56),
        ("wide-cl", 2, 562_954, 25.02),
        ("wide-cl", 4, 2_171_554, 98.19),
        ("wide-ck", 2, 237_722, 14.24),
        ("wide-ck", 4, 653_250, 42.44),
    ],
)
def test_the_papers_plans_have_table_6(
    plan: str, rate: float, parameters: int, macs: float
) -> None:
    """SmallNet with four stages has the parameters and products of table 6."""
    _, report = expand(smallnet.build(stages=4), plan=f"paper:smallnet-{plan}", rate=rate)
    assert report.after.parameters == parameters
    assert report.after.macs is not None
    assert report.after.macs / 1e6 == pytest.approx(macs, abs=0.01)


def test_mobilenetv2_is_expanded_as_the_authors_do(mobile: onnx.ModelProto) -> None:
    """The stem and the depthwise layers that halve the extents, and the wider reading."""
    _, report = expand(mobile, plan="paper:mobilenetv2", rate=1)
    assert len(report.expanded) == 5
    _, report = expand(mobile, plan="paper:mobilenetv2-nonresidual", rate=1)
    assert len(report.expanded) == 8


# -- Budget and report -----------------------------------------------------------------------


def test_the_budget_selects_the_layers_that_grow_least() -> None:
    """The model grows by at most the given factor, and excluded layers are reported."""
    model = smallnet.build()
    for most in (1, 1.3, 2, 5):
        _, report = expand(model, max_params_mult=most, strategy="ck+fc")
        assert report.after.parameters <= most * report.before.parameters
        refusals = [s.refusal for s in report.skipped]
        assert {r.reason for r in refusals} <= {Reason.COST}
        grown = report.after.parameters - report.before.parameters
        left = most * report.before.parameters - report.before.parameters - grown
        assert all(r.numbers["growth"] > left for r in refusals)
    _, report = expand(model, max_params_mult=2, strategy="ck+fc")
    assert names(report) == ["conv1", "conv2", "fc2"]


def test_figures_of_layers_add_up_to_those_of_the_model() -> None:
    """Parameters and products of the table are those that inspect counts."""
    for strategy in ("ck+fc", "acnet", "dbb+lowrank"):
        _, report = expand(smallnet.build(), strategy=strategy)
        for key in ("parameters", "macs"):
            grown = sum(getattr(e, key)[1] - getattr(e, key)[0] for e in report.expanded)
            assert getattr(report.after, key) - getattr(report.before, key) == grown
        json.dumps(report.as_dict(), allow_nan=False)
