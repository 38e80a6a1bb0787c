"""What people read: whole words and all columns that a terminal has room for."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

import onnx_expand
from onnx_expand.cli.render import print_line, print_verdict
from tests.support.graphs_text import graph, weights

pytest.importorskip("onnxruntime")


def console(width: int, *, terminal: bool) -> tuple[Console, io.StringIO]:
    """A console of so many columns, and what is printed on it."""
    screen = io.StringIO()
    found = Console(
        file=screen, width=width, force_terminal=terminal, soft_wrap=True, highlight=False
    )
    return found, screen


@pytest.mark.parametrize("width", [40, 80, 200])
def test_sentences_are_wrapped_at_words_on_a_terminal_only(width: int) -> None:
    """No word is cut or lost, further lines are indented, and a pipe gets one line."""
    text = "  12 kept: border: " + "node_of_a_long_name.0, " * 9 + "and 3 more"
    out, screen = console(width, terminal=True)
    print_line(out, text)
    lines = screen.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    assert all(line.startswith("    ") for line in lines[1:])
    assert " ".join(screen.getvalue().split()) == " ".join(text.split())
    out, screen = console(width, terminal=False)
    print_line(out, text)
    assert screen.getvalue() == f"{text}\n"


@pytest.mark.parametrize(("width", "terminal"), [(80, True), (200, True), (80, False)])
def test_figures_fit_a_terminal(width: int, terminal: bool) -> None:
    """What matters least is left out first, the errors never, and a pipe gets all columns."""
    text = "g (float[1,2,8,8] x) => (float[1,2,8,8] y) { y = Conv<pads=[1,1,1,1]>(x, w) }"
    constants = weights(w=(2, 2, 3, 3))
    other = {"w": np.nextafter(constants["w"], np.float32(9), dtype=np.float32)}
    verdict = onnx_expand.check(graph(text, constants), graph(text, other))
    out, screen = console(width, terminal=terminal)
    print_verdict(out, verdict)
    (header,) = (line for line in screen.getvalue().splitlines() if line.startswith("output  "))
    assert {"max abs", "floor", "error/tolerance", "border", "interior"} <= {
        column.strip() for column in header.split("  ")
    }
    assert ("ulp" in header) == (width == 200 or not terminal)
    assert len(header) <= width or not terminal
