"""The networks of the paper: expanded as in the paper, folded back, and what that costs."""

from __future__ import annotations

import copy
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

import onnx_expand
from benchmarks.networks import CASES, NETWORKS, Case, Published, expansion_rows, network_row
from models import mobilenet, mobilenetv2, networks, shufflenetv2
from onnx_expand.passes import Expand
from onnx_expand.passes.named_plans import PLANS
from tests.support.graphs import retrained
from tests.support.smallest import SMALLEST

PAGE = Path(__file__).parents[1] / "docs" / "networks.md"
# Networks whose tables take long are left to the script that writes them.
QUICK = {"smallnet", "mobilenet", "mobilenetv2", "shufflenetv2", "yololite"}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, SMALLEST[name]) for name in networks()},
    **{f"smallnet-{k}": ("smallnet", {"kernel": k, "stages": 4}) for k in (5, 7, 9)},
    "mobilenet-cifar": ("mobilenet", {"size": 32, "width": 0.25, "stride": 1}),
    "yololite-norm": ("yololite", {"size": 32, "norm": True}),
    "unet-paper": (
        "unet",
        {"size": 188, "width": 2, "channels": 1, "padding": "valid", "norm": False},
    ),
    "batch": ("shufflenetv2", {"size": 32, "batch": 2, "opset": 21}),
}
# The wide ones at a low rate, for speed.
RATES = {"alexnet": 0.25, "resnet18": 0.1}
CHOICES = [pytest.param(case, id=f"{case.network}-{case.choice}") for case in CASES]


def skeleton(model: onnx.ModelProto) -> bytes:
    """All of a model but the values of its weights, expand's note and absent texts."""
    own = copy.deepcopy(model)
    for tensor in own.graph.initializer:
        zeros = np.zeros_like(numpy_helper.to_array(tensor))
        tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
    kept = {p.key: p.value for p in own.metadata_props if p.key != "onnx_expand.expanded"}
    onnx.helper.set_model_props(own, kept)
    own.producer_version = own.producer_version or "none"
    for node in own.graph.node:
        node.domain = node.domain or "ai.onnx"
    return own.SerializeToString(deterministic=True)


def small(case: Case) -> onnx.ModelProto:
    """The network of a choice, small where it can be."""
    options = case.options if case.network == "smallnet" else SMALLEST[case.network]
    return networks()[case.network].build(**{"classes": 10, **options})


@pytest.mark.parametrize("strategy", ["cl", "ck+fc", "ck+cl+fc"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_fold_undoes_every_strategy_on_every_network(variant: str, strategy: str) -> None:
    """Whatever is expanded, folding gives back the very graph: only weights have new values."""
    name, options = VARIANTS[variant]
    model = networks()[name].build(**{"classes": 10, **options})
    # The first factor keeps its width in half of the cases.
    first = ("keep", "expand")[zlib.crc32(f"{variant} {strategy}".encode()) % 2]
    rate = RATES.get(name, 1.5)
    expanded = onnx_expand.expand(model, strategy=strategy, rate=rate, first_width=first)
    if "cl" in strategy:
        assert len(expanded.graph.node) > len(model.graph.node)
    # What nothing was expanded in is a model like any other, of which more would be folded.
    nothing = expanded.SerializeToString() == model.SerializeToString()
    folded = onnx_expand.fold(expanded, policy="marked" if nothing else "auto")
    assert skeleton(folded) == skeleton(model)


@pytest.mark.parametrize("case", CHOICES)
def test_the_choices_of_the_paper_fold_to_what_they_compute(case: Case) -> None:
    """With trained weights the folded network is the compact one, and computes the same."""
    pytest.importorskip("onnxruntime")
    model = small(case)
    rate = RATES.get(case.network, 2)
    expanded = retrained(onnx_expand.expand(model, rate=rate, **case.expand))
    assert len(expanded.graph.node) > len(model.graph.node)
    folded = onnx_expand.fold(expanded)
    assert skeleton(folded) == skeleton(model)
    verdict = onnx_expand.check(expanded, folded, samples=1, providers=["cpu"])
    assert verdict, verdict.summary()


def test_what_the_authors_code_expands() -> None:
    """Counts that follow from the authors' PyTorch layers at rate 4, written out by hand."""
    # The stem becomes 3 -> 12 -> 128 -> 32 in place of 3 -> 32; a depthwise layer of c channels
    # becomes c groups of 1 -> 4 -> 4 -> 1 in place of 9 c.
    stem = 3 * 12 + 12 * 128 * 9 + 128 * 32 - 3 * 32 * 9
    by_group = 4 + 4 * 4 * 9 + 4 - 9
    depthwise = 32 + 64 + 2 * 128 + 2 * 256 + 6 * 512 + 1024
    (case,) = [case for case in CASES if case.network == "mobilenet"]
    expanded = onnx_expand.expand(mobilenet.build(size=32), rate=4, **case.expand)
    count = onnx_expand.inspect(expanded).parameters
    assert count == 4_231_976 + stem + by_group * depthwise
    # Stride 2 begins the second, third, fourth and sixth group, at 6 times their input's width.
    (case,) = [case for case in CASES if case.network == "mobilenetv2"]
    expanded = onnx_expand.expand(mobilenetv2.build(size=32), rate=4, **case.expand)
    count = onnx_expand.inspect(expanded).parameters
    assert count == 3_504_872 + stem + by_group * 6 * (16 + 24 + 32 + 96)
    # One depthwise layer in each unit, of half its channels; two in those of stride 2.
    stem = 3 * 12 + 12 * 96 * 9 + 96 * 24 - 3 * 24 * 9
    depthwise = (24 + 48 + 96) + 4 * 24 + 8 * 48 + 4 * 96
    (case,) = [case for case in CASES if case.network == "shufflenetv2"]
    expanded = onnx_expand.expand(shufflenetv2.build(size=32), rate=4, **case.expand)
    count = onnx_expand.inspect(expanded).parameters
    assert count == 1_366_792 + stem + by_group * depthwise


@pytest.mark.parametrize("case", [p for p in CHOICES if p.values[0].network in QUICK])  # type: ignore[union-attr]
def test_the_table_of_expansions_is_up_to_date(case: Case) -> None:
    """The page in docs has the rows that its script gives now."""
    page = PAGE.read_text(encoding="utf-8").splitlines()
    rows = list(expansion_rows(case))
    assert set(rows) <= set(page)
    for rate, row in zip(case.rates, rows, strict=True):
        parameters, macs = case.paper.get(rate, (None, None))
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        assert parameters is None or cells[3] == cells[4] == f"{parameters:,}"
        assert macs is None or cells[6] == cells[7] == f"{macs:.2f}"


@pytest.mark.parametrize("entry", [e for e in NETWORKS if e.network in QUICK])
def test_the_table_of_networks_is_up_to_date(entry: Published) -> None:
    """The page in docs has the rows that its script gives now, with the published count."""
    row = network_row(entry)
    assert row in PAGE.read_text(encoding="utf-8").splitlines()
    own, published = (cell.strip() for cell in row.split("|")[2:4])
    assert published.startswith(f"{own} (")


# What each plan expands, written down from the paper and the authors' code: a pattern that matches
# the names of these nodes and of no others.
PLANNED = {
    "alexnet": ("alexnet", r"features\.\d+"),
    "paper:mobilenet": ("mobilenet", r"model\.\d+\.0"),
    "paper:mobilenetv2": ("mobilenetv2", r"features\.(0|(2|4|7|14)\.conv\.1)\.0"),
    "paper:mobilenetv2-nonresidual": (
        "mobilenetv2",
        r"features\.(0|1\.conv\.0|(2|4|7|11|14|17)\.conv\.1)\.0",
    ),
    "paper:shufflenetv2": (
        "shufflenetv2",
        r"conv1\.0|stage\d\.0\.branch1\.0|stage\d\.\d\.branch2\.3",
    ),
    "paper:smallnet-acnet": ("smallnet", r"conv\d"),
    "paper:smallnet-ck": ("smallnet", r"conv\d"),
    "paper:smallnet-ck+fc": ("smallnet", r"conv\d|fc1"),
    "paper:smallnet-cl": ("smallnet", r"conv\d"),
    "paper:smallnet-cl+fc": ("smallnet", r"conv\d|fc1"),
    "paper:smallnet-fc": ("smallnet", r"fc1"),
    "paper:smallnet-wide-ck": ("smallnet", r"conv\d"),
    "paper:smallnet-wide-cl": ("smallnet", r"conv\d"),
    "paper:unet": ("unet", r"down\d\.conv\d"),
    "paper:yolo-lite": ("yololite", r"conv[1-5]"),
}


def test_every_plan_for_a_network_is_tested() -> None:
    """A new plan of the paper needs a line above."""
    assert {name for name in PLANS if name.startswith("paper:")} <= set(PLANNED)


@pytest.mark.parametrize("plan", PLANNED)
def test_plans_expand_what_the_paper_expands(plan: str) -> None:
    """Each plan chooses the layers that it should, and folding gives back the very graph."""
    name, pattern = PLANNED[plan]
    # At full width, where a block has a shortcut or not as in the paper.
    options = {**SMALLEST[name], "kernel": 7, "size": 32} if name == "smallnet" else SMALLEST[name]
    full = {"width": 1.0} if name == "mobilenetv2" else {}
    model = networks()[name].build(**{"classes": 10, **options, **full})
    rate = RATES.get(name, 2)
    report = Expand(plan=plan, rate=rate).call(ir.serde.deserialize_model(model)).report
    chosen = {expansion.node for expansion in report.expanded}
    expected = {
        node.name
        for node in model.graph.node
        if node.op_type in {"Conv", "Gemm"} and re.fullmatch(pattern, node.name)
    }
    assert chosen == expected
    expanded = onnx_expand.expand(model, plan=plan, rate=rate)
    assert skeleton(onnx_expand.fold(retrained(expanded))) == skeleton(model)
