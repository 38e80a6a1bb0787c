"""Verdicts as JUnit XML, for continuous integration."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from onnx_expand.cli.text import plain
from onnx_expand.equivalence import Figure, Verdict
from onnx_expand.model import replacing

__all__ = ["write_junit"]


def write_junit(verdict: Verdict, path: str, label: str) -> None:
    """Write a verdict as one test suite, with a case for each figure and each bounded part."""
    cases = [
        (f.place.provider, f"{f.place.output} on {f.place.sample}", f.problem, _text(f))
        for f in verdict.outputs
    ]
    for region in verdict.regions:
        if not region.obstacle:
            problem = "" if region.holds else region.summary()
            text = f"error {region.error:.6g}, bound {region.bound:.6g}"
            cases.append((region.provider, f"the part before {region.tensor}", problem, text))
    cases += [("models", text, text, text) for text in _others(verdict)]
    suite = ElementTree.Element(
        "testsuite",
        name=plain(f"onnx-expand check {label}"),
        tests=str(len(cases)),
        failures=str(sum(bool(problem) for _, _, problem, _ in cases)),
        errors="0",
    )
    for place, name, problem, text in cases:
        case = ElementTree.SubElement(suite, "testcase", classname=plain(place), name=plain(name))
        if problem:
            ElementTree.SubElement(case, "failure", message=plain(problem)).text = plain(text)
    tree = ElementTree.ElementTree(suite)
    ElementTree.indent(tree)
    with replacing(Path(path)) as partial:
        tree.write(partial, encoding="utf-8", xml_declaration=True)


def _others(verdict: Verdict) -> list[str]:
    """Return the differences of no output value and no part, such as an input only one has."""
    wrong = {figure.place.output for figure in verdict.outputs if not figure.equal}
    heads = tuple(f"output '{name}':" for name in wrong)
    parts = {region.summary() for region in verdict.regions}
    return [
        text for text in verdict.differences if text not in parts and not text.startswith(heads)
    ]


def _text(figure: Figure) -> str:
    return f"error {figure.max_error:.6g}, tolerance {figure.tolerance:.6g}"
