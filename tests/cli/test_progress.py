"""What is shown while a command works: bars on a terminal and nowhere else, logs where asked."""

from __future__ import annotations

import io
import logging
import time
from pathlib import Path
from typing import Any

import onnx
import pytest
from rich.console import Console

import onnx_expand
from models import smallnet
from onnx_expand.cli import main, progress
from onnx_expand.progress import counted, listening, tell

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An expanded network."""
    path = tmp_path_factory.mktemp("progress") / "big.onnx"
    onnx.save(onnx_expand.expand(smallnet.build(kernel=5), strategy="cl", rate=1), path)
    return str(path)


def test_who_listens_is_told() -> None:
    """Each item, what is nested, and nothing once the block has ended."""
    heard: list[tuple[str, int, int | None]] = []
    with listening(lambda *told: heard.append(told)):
        assert list(counted("items", ["a", "b"])) == ["a", "b"]
        assert list(counted("unknown", iter("c"))) == ["c"]
        tell("alone")
    tell("nobody")
    assert heard == [("items", 0, 2), ("items", 1, 2), ("unknown", 0, None), ("alone", 0, None)]


@pytest.mark.parametrize("command", ["fold", "check", "bench", "expand", "run"])
def test_commands_say_what_they_do(
    command: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """On a terminal a bar goes to standard error and is gone at the end; standard output has none.

    Elsewhere, and with -q, there is no bar.
    """
    out = str(tmp_path / "out.onnx")
    words = {
        "fold": ["fold", model, out],
        "check": ["check", model, model],
        "bench": ["bench", model, "--seconds", "0.3", "--no-memory"],
        "expand": ["expand", model, out, "--strategy", "fc"],
        "run": ["run", model, out, "--passes", "fold,check"],
    }[command]
    screen = io.StringIO()
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    assert main(words) == 0
    usual = capsys.readouterr()
    assert usual.err == ""

    def terminal(**options: Any) -> Console:
        assert options.pop("stderr")
        return Console(file=screen, force_terminal=True, width=90, **options)

    monkeypatch.setattr(progress, "Console", terminal)
    assert main([*words, "-q"]) == 0
    assert capsys.readouterr().out == ""
    assert screen.getvalue() == ""
    assert main(words) == 0
    assert "\x1b" not in capsys.readouterr().out
    said = {"fold": "folding", "check": "running both", "bench": "timing", "expand": "expanding"}
    assert said.get(command, "running passes") in screen.getvalue()
    assert screen.getvalue().rfind("\x1b[?25h") > screen.getvalue().rfind("\x1b[?25l")


def test_what_is_quick_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the first second no bar appears, and none after the block."""
    screen = io.StringIO()
    monkeypatch.setattr(
        progress, "Console", lambda **_: Console(file=screen, force_terminal=True, width=90)
    )
    monkeypatch.setattr(progress, "_DELAY", 0.05)
    with progress.working("quick"):
        pass
    time.sleep(0.1)
    assert screen.getvalue() == ""
    with progress.working("slow [bold]\x1b[2J"):
        time.sleep(0.3)
    assert "slow [bold]\\x1b[2J" in screen.getvalue()


def test_errors_end_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error passes through, and the cursor is back."""
    screen = io.StringIO()
    monkeypatch.setattr(
        progress, "Console", lambda **_: Console(file=screen, force_terminal=True, width=90)
    )
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    with pytest.raises(ValueError, match="no"), progress.working("work"):  # noqa: PT012
        time.sleep(0.2)
        raise ValueError("no")
    text = screen.getvalue()
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")


def test_the_library_prints_nothing(model: str, capfd: Any, tmp_path: Path) -> None:
    """Its functions write to no stream, and log to loggers of their packages if anybody looks."""
    folded = tmp_path / "out.onnx"
    onnx_expand.fold(model, folded)
    onnx_expand.check(model, folded)
    assert capfd.readouterr() == ("", "")
    assert [type(h) for h in logging.getLogger("onnx_expand").handlers] == [logging.NullHandler]


def test_logs_where_asked(model: str, tmp_path: Path, capsys: Any) -> None:
    """`--log` writes to standard error for one command, and for no other after it."""
    words = ["fold", model, str(tmp_path / "out.onnx"), "-q"]
    assert main(["--log", "info", *words]) == 0
    said = capsys.readouterr().err
    assert "INFO onnx_expand.passes: fold, policy marked: 3 sites folded" in said
    assert "INFO onnx_expand.equivalence: " in said
    assert main(words) == 0
    assert capsys.readouterr().err == ""
