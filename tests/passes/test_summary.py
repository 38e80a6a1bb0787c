"""The summary of fold: one line per kind, everything with -v, nothing with -q."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import onnx_expand
from models import mobilenetv2, smallnet
from onnx_expand.cli import main
from onnx_expand.passes import FoldReport
from onnx_expand.passes.summary import group_reasons, group_sites, scope_of

# Of any width it has the same nodes and names.
NETWORK = mobilenetv2.build(size=32, width=0.25, classes=5)

PARTS = st.sampled_from(["conv", "bn", "stages", "0", "1", "17", "a_b"])
NAMES = st.lists(
    st.tuples(st.lists(PARTS, min_size=1, max_size=5), st.sampled_from("./")).map(
        lambda drawn: drawn[1].join(drawn[0])
    ),
    min_size=1,
    max_size=6,
)


@given(NAMES)
def test_a_scope_fits_all_its_names(names: list[str]) -> None:
    """The pattern, with `*` for any text, matches every name; one name is its own pattern."""
    pattern = ".*".join(map(re.escape, scope_of(names).split("*")))
    assert all(re.fullmatch(pattern, name) for name in names)
    if len(set(names)) == 1:
        assert scope_of(names) == names[0]


def test_scopes_of_exporters() -> None:
    """In names of equal length, differing parts become stars; in others, the end."""
    assert scope_of(["stages.0.conv", "stages.1.conv"]) == "stages.*.conv"
    assert scope_of(["/a/0/Conv", "/a/1/Conv", "/a/2/x/Conv"]) == "/a/*"
    assert scope_of(["conv", "fc"]) == "*"
    assert scope_of(["conv1", "conv12", "conv3"]) == "conv*"
    assert scope_of(["a.conv1.x", "a.conv2"]) == "a.conv*"
    assert scope_of(["a.1", "a.12"]) == "a.*"


@pytest.fixture(scope="module")
def report() -> FoldReport:
    """Build a report of 52 sites of a few kinds."""
    expanded = onnx_expand.expand(NETWORK, strategy="mobileone+fc")
    found: FoldReport = onnx_expand.fold(expanded, policy="cheapest", report=True)[1]
    return found


def test_groups_hold_every_site_and_reason_once(report: FoldReport) -> None:
    """Grouping loses nothing: the groups are a partition of the sites and of the reasons."""
    groups, reasons = group_sites(report.sites), group_reasons(report.kept)
    assert sorted(map(id, report.sites)) == sorted(id(s) for g in groups for s in g.sites)
    assert sorted(map(id, report.kept)) == sorted(id(k) for g in reasons for k in g.kept)
    assert len(groups) < len(report.sites) / 5
    for site in report.sites:
        assert len(site.ops) == len(site.nodes)
        assert len(site.result_ops) == len(site.result)


def test_lines_are_few_and_short(report: FoldReport, capsys: Any, tmp_path: Path) -> None:
    """A fold of 52 sites prints less than a screen; -v names each site, -q prints nothing."""
    expanded = onnx_expand.expand(NETWORK, strategy="mobileone+fc")
    source, target = str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")
    onnx.save(expanded, source)
    words = ["fold", source, target, "--policy", "cheapest", "--check", "0"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") < 28
    assert all(len(line) < 400 for line in printed.splitlines())
    assert main([*words, "-v"]) == 0
    printed = capsys.readouterr().out
    assert all(f"-> {site.result[0]}" in printed for site in report.sites)
    assert all(str(kept.refusal) in printed for kept in report.kept)
    assert main([*words, "-q"]) == 0
    assert capsys.readouterr().out == ""


def test_a_fold_without_sites_is_reported(capsys: Any, tmp_path: Path) -> None:
    """A model without foldable nodes has a line that states this."""
    source, target = str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")
    onnx.save(onnx_expand.fold(smallnet.build(kernel=3), policy="cheapest"), source)
    assert main(["fold", source, target, "--check", "0"]) == 0
    assert capsys.readouterr().out.startswith("Nothing was folded; the model is written as it was")
