"""The demo at toy size: all documented files are written and agree."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

import onnx_expand
from onnx_expand.cli import main


def test_the_demo_writes_its_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Table, paired difference with interval, models, curves, and a self-contained page."""
    words = ["--epochs", "1", "--seeds", "2", "--images", "100", "--processes", "1", "--out"]
    assert main(["demo", *words, str(tmp_path)]) == 0
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "report.json").read_text())
    found = report["comparison"]
    pairs = [100 * (r["accuracy"]["folded"] - r["accuracy"]["compact"]) for r in report["runs"]]
    assert found["per_seed"] == pytest.approx(pairs)
    assert found["mean"] == pytest.approx(statistics.mean(pairs))
    assert found["low"] <= found["mean"] <= found["high"]
    assert f"{found['mean']:+.2f} points" in out
    assert f"{found['low']:+.2f} to {found['high']:+.2f}" in out
    assert onnx_expand.check(tmp_path / "expanded.onnx", tmp_path / "folded.onnx")
    counts = [
        onnx_expand.inspect(tmp_path / f"{k}.onnx").parameters for k in ("compact", "folded")
    ]
    assert counts[0] == counts[1]
    page = (tmp_path / "index.html").read_text()
    assert f"{found['mean']:+.2f} points" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rate that diverges, and invalid options."""
    words = f"--epochs 1 --seeds 2 --images 100 --processes 1 --lr 1e30 --out {tmp_path}"
    assert main(["demo", *words.split()]) == 4
    assert re.match(r"onnx-expand: error: seed 0: the loss is (nan|inf)", capsys.readouterr().err)
    assert main(["demo", "--seeds", "1"]) == 2
    for name, value in (("strategy", "zigzag"), ("rate", "nan"), ("lr", "-1")):
        capsys.readouterr()
        assert main(["demo", f"--{name}", value, "--out", str(tmp_path / "new")]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert not (tmp_path / "new").exists()
