"""Names from models reach terminals, XML and JSON as text that does nothing."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from onnx_expand.cli import main
from onnx_expand.cli.text import plain

pytest.importorskip("onnxruntime")

HARMFUL = (
    "\x1b[2J\x1b[31mred\x1b[0m",
    "two\nlines\r\nonnx-expand: error: another",
    "\x00nul\x07bell\x7f\x9b31m",
    "\u202eright to left\u2066\u200b\u2028",
    "[red]markup[/red] [link=file:///]x[/] \\[bold]",
    "<script>&\"']]>\ufffe\uffff",
)
COMMANDS = {
    "fold": ["fold", "a.onnx", "out.onnx", "--report", "report.json"],
    "expand": ["expand", "a.onnx", "out.onnx", "--include", ".", "--report", "report.json"],
    "inspect": ["inspect", "a.onnx", "--sites", "--json", "report.json"],
    "check": [
        "check",
        "a.onnx",
        "b.onnx",
        "--bisect",
        "--junit",
        "v.xml",
        "--json",
        "report.json",
    ],
    "bench": ["bench", "a.onnx", "--seconds", "0.01", "--no-memory", "--json", "report.json"],
    "shape": ["check", "a.onnx", "b.onnx", "--shape", "no:1"],
    "same": ["check", "a.onnx", "a.onnx", "--junit", "v.xml", "--json", "report.json"],
}


def is_harmless(text: str) -> bool:
    """Whether a terminal shows a text and does nothing else."""
    return all(
        c == "\n" or unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in text
    )


def write(folder: Path, harm: str, name: str, bias: float) -> None:
    """A small network in which every name does harm."""
    text = (
        "g (float[N,3,6,6] x) => (float[N,4,6,6] y) {a = Conv<pads=[1,1,1,1]>(x, w) "
        "b = BatchNormalization(a, s, t, m, v) c = Relu(b) y = Add(c, k)}"
    )
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    rng = np.random.default_rng(0)
    arrays = {n: rng.uniform(0.5, 1, 4) for n in "stmv"}
    arrays |= {"w": rng.normal(size=(4, 3, 3, 3)), "k": np.full((1, 4, 1, 1), bias)}
    for key, array in arrays.items():
        tensor = numpy_helper.from_array(array.astype(np.float32), key)
        model.graph.initializer.append(tensor)
    for port in (*model.graph.input, *model.graph.output):
        port.name += harm
    for tensor in model.graph.initializer:
        tensor.name += harm
    for number, node in enumerate(model.graph.node):
        node.name = f"{harm}{number}"
        for place, value in enumerate(node.input):
            node.input[place] = value + harm
        for place, value in enumerate(node.output):
            node.output[place] = value + harm
    model.graph.name += harm
    onnx.save(model, folder / name)


@pytest.mark.parametrize("harm", HARMFUL, ids=ascii)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_prints_what_a_name_says(
    command: str,
    harm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Standard output and errors only show; XML is well-formed, and JSON holds the name."""
    write(tmp_path, harm, "a.onnx", 1.0)
    write(tmp_path, harm, "b.onnx", 2.0)
    monkeypatch.chdir(tmp_path)
    code = main(COMMANDS[command])
    assert code == {"check": 1, "shape": 2}.get(command, 0)
    for text in capsys.readouterr():
        assert is_harmless(text), ascii(text)
    for line in text.splitlines():
        assert line.startswith("onnx-expand: ")
    if (tmp_path / "v.xml").exists():
        suite = ElementTree.parse(tmp_path / "v.xml").getroot()
        failures = suite.findall("*/failure")
        assert int(suite.get("failures", "0")) == len(failures)
        assert bool(failures) == (command == "check")
    if (tmp_path / "report.json").exists():
        assert isinstance(json.loads((tmp_path / "report.json").read_text()), dict)


def test_markup_is_shown_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Brackets in a name are no styles, so that none of them is lost."""
    write(tmp_path, "[red]x[/red]", "a.onnx", 1.0)
    monkeypatch.chdir(tmp_path)
    main(["check", "a.onnx", "a.onnx"])
    assert "y[red]x[/red]" in capsys.readouterr().out


@given(st.text(alphabet=st.characters(codec=None)))
def test_plain_text_is_readable_xml(text: str) -> None:
    """Any text becomes one line of well-formed XML, and stays what it is if nothing is wrong."""
    shown = plain(text)
    assert is_harmless(shown)
    assert "\n" not in shown
    element = ElementTree.Element("a", name=shown)
    assert ElementTree.fromstring(ElementTree.tostring(element, "utf-8")).get("name") == shown
    assert plain(shown) == shown
    if text.isascii() and text.isprintable():
        assert shown == text
