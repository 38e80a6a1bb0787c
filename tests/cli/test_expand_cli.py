"""The command `onnx-expand expand`: what it shows, writes and refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest

from models import smallnet
from onnx_expand.cli import main
from tests.support.likeness import unlike_only_in_weights


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(smallnet.build(size=16), "net.onnx")
    return tmp_path


def run(words: str) -> int:
    """The exit code of `onnx-expand expand` with these words."""
    try:
        code = main(["expand", *words.split()])
    except SystemExit as ended:
        return int(ended.code or 0)
    return int(code)


def test_a_dry_run_shows_figures_and_writes_no_model(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table has strategy, widths, parameters and products, whole, and a plan may be kept."""
    assert run("net.onnx --plan paper:smallnet-ck+fc --dry-run --plan-out p.json") == 0
    out = capsys.readouterr().out
    assert re.search(r"conv2 +Conv 7x7 +ck +8 -> 32 -> 64 -> 16 +6,288 -> 30,064", out)
    assert "66,186" not in out  # 16 x 16 images have a smaller first matrix
    assert sorted(p.name for p in net.iterdir()) == ["net.onnx", "p.json"]
    nodes = json.loads(Path("p.json").read_text())["nodes"]
    assert nodes["conv1"]["strategy"] == "ck"
    assert set(nodes) == {"conv1", "conv2", "conv3", "fc1"}
    assert run("net.onnx big.onnx --plan p.json") == 0
    assert len(onnx.load("big.onnx").graph.node) == 16 + 2 * 4


def test_preserved_units_show_residual_and_condition(
    net: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With preserve the table tells how exact and how well conditioned each unit is."""
    assert run("net.onnx big.onnx --init preserve --strategy cl --report r.json") == 0
    assert re.search(r"residual +condition", capsys.readouterr().out)
    entries = json.loads(Path("r.json").read_text())["expanded"]
    assert all(e["residual"] < 1e-13 and 1 <= e["condition"] < 5 for e in entries)


def test_activations_come_and_go(net: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What --nonlinear inserts --strip-nonlinear removes."""
    assert run("net.onnx bent.onnx --nonlinear prelu --rate 1") == 0
    assert run("bent.onnx plain.onnx --strip-nonlinear") == 0
    assert "6 activations removed" in capsys.readouterr().out
    assert run("net.onnx linear.onnx --rate 1") == 0
    assert Path("plain.onnx").read_bytes() == Path("linear.onnx").read_bytes()


def test_a_contracted_start_has_the_nodes_of_the_network(net: Path) -> None:
    """--init contracted writes the compact network."""
    assert run("net.onnx start.onnx --init contracted --rate 1") == 0
    assert unlike_only_in_weights(onnx.load("start.onnx"), onnx.load("net.onnx"))


def test_the_plans_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """--list-plans needs no model."""
    assert run("--list-plans") == 0
    out = capsys.readouterr().out
    assert all(
        f"paper:{name}" in out for name in ("smallnet-ck", "mobilenetv2", "yolo-lite", "unet")
    )


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("net.onnx", "OUT"),
        ("--dry-run", "IN"),
        ("net.onnx out.onnx --plan nope.json", "nope.json"),
        ("net.onnx out.onnx --plan paper:nothing", "--list-plans"),
        ("net.onnx out.onnx --plan-out absent/p.json", "absent"),
        ("net.onnx out.onnx --kernels 3,x", "x"),
        ("net.onnx out.onnx --strides a", "strides"),
        ("net.onnx out.onnx --ops Conv,Softmax", "Softmax"),
        ("net.onnx out.onnx --place nowhere", "nowhere"),
        ("net.onnx out.onnx --max-params-mult 0.1", "max_params_mult"),
        ("net.onnx out.onnx --nonlinear relu --init preserve", "preserve"),
        ("net.onnx out.onnx --rank 0", "rank"),
    ],
)
def test_words_without_sense_are_refused(
    net: Path, words: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong option ends with code 2, one line that names it, and no file."""
    assert run(words) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"onnx-expand: error: [^\n]+\n", error)
    assert text in error
    assert [p.name for p in net.iterdir()] == ["net.onnx"]
