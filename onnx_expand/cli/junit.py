"""Verdicts in the XML that continuous integration reads."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from onnx_expand.equivalence import Verdict
from onnx_expand.model import replacing

__all__ = ["write_junit"]


def write_junit(verdict: Verdict, path: str, label: str) -> None:
    """Write a verdict as one test suite with a case for each output, input and provider."""
    figures = verdict.outputs
    wrong = [figure for figure in figures if not figure.equal]
    loose = [] if figures else list(verdict.differences)
    suite = ElementTree.Element(
        "testsuite",
        name=f"onnx-expand check {label}",
        tests=str(len(figures) + len(loose)),
        failures=str(len(wrong) + len(loose)),
        errors="0",
    )
    for figure in figures:
        place = figure.place
        name = f"{place.output} on {place.sample}"
        case = ElementTree.SubElement(suite, "testcase", classname=place.provider, name=name)
        if not figure.equal:
            failure = ElementTree.SubElement(case, "failure", message=figure.problem)
            failure.text = f"error {figure.max_error:.6g}, tolerance {figure.tolerance:.6g}"
    for difference in loose:
        case = ElementTree.SubElement(suite, "testcase", classname="signature", name="signature")
        ElementTree.SubElement(case, "failure", message=difference)
    tree = ElementTree.ElementTree(suite)
    ElementTree.indent(tree)
    with replacing(Path(path)) as partial:
        tree.write(partial, encoding="utf-8", xml_declaration=True)
