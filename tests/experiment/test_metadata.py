"""The interpretation of a trained model is printed, reported, and stored in the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

pytest.importorskip("torch")
pytest.importorskip("PIL")

import onnx_expand
from onnx_expand.cli import main
from tests.support.networks import network, write_stripes
from tests.support.torch_graphs import images, parse, with_weights

NOTE = """<annotation><object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>
<ymax>{}</ymax></bndbox></object></annotation>"""


def run(capsys: pytest.CaptureFixture[str], words: str) -> tuple[int, str]:
    """Run `train`; return its exit code and output."""
    code = main(["train", *words.split()])
    return code, capsys.readouterr().out


def metadata(path: str) -> dict[str, str]:
    """Return the metadata of a model's file."""
    return dict(ir.load(path).metadata_props)


def picture(path: Path, seed: int) -> None:
    """Write an image of noise."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def boxes(root: Path) -> None:
    """Write images with one box each, of two classes and several shapes."""
    (root / "Annotations").mkdir(parents=True)
    for number in range(8):
        picture(root / "JPEGImages" / f"{number}.jpg", number)
        note = NOTE.format("ox" if number % 2 else "ant", 2, 3, 5 + number, 6 + number % 3)
        (root / "Annotations" / f"{number}.xml").write_text(note)


def test_the_order_of_classes_is_reported_and_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is on screen, in the report, in the model, and in its folded form."""
    monkeypatch.chdir(tmp_path)
    for name in ("plum", "fig", "kiwi"):
        for number in range(5):
            picture(tmp_path / "fruit" / name / f"{number}.png", number)
    onnx.save(network(), "net.onnx")
    onnx_expand.expand("net.onnx", tmp_path / "big.onnx", strategy="cl", rate=2)
    words = "big.onnx out.onnx --data fruit --epochs 1 --report r.json --then-fold small.onnx"
    code, out = run(capsys, words)
    assert code == 0
    assert "classes: 0 fig, 1 kiwi, 2 plum" in out
    assert json.loads(Path("r.json").read_text())["classes"] == ["fig", "kiwi", "plum"]
    for file in ("out.onnx", "small.onnx"):
        kept = metadata(file)
        assert json.loads(kept["onnx_expand.classes"]) == ["fig", "kiwi", "plum"]
        assert len(json.loads(kept["onnx_expand.mean"])) == 1


def test_anchors_are_reported_and_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The printed anchors of k-means, given to another run, produce the same weights."""
    monkeypatch.chdir(tmp_path)
    boxes(tmp_path / "data")
    model = parse("y = Conv(x, w)", "(float[n, 3, 16, 16] x) => (float[n, 14, 4, 4] y)")
    model.graph.node[0].attribute.extend(
        [onnx.helper.make_attribute("strides", [4, 4])],
    )
    onnx.save(with_weights(model, w=images(14, 3, 4, 4) * 0.1), "net.onnx")
    code, out = run(capsys, "net.onnx a.onnx --data data --epochs 1 --lr 0.001 --report r.json")
    assert code == 0
    line = next(line for line in out.splitlines() if line.startswith("anchors"))
    given = line.partition("--anchors ")[2].strip()
    found = json.loads(Path("r.json").read_text())["anchors"]
    np.testing.assert_allclose(np.ravel(found), [float(n) for n in given.split(",")], rtol=1e-5)
    assert json.loads(metadata("a.onnx")["onnx_expand.anchors"]) == found
    exact = ",".join(repr(number) for anchor in found for number in anchor)
    words = f"net.onnx b.onnx --data data --epochs 1 --lr 0.001 --anchors {exact}"
    assert run(capsys, words)[0] == 0
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


def test_the_compact_model_is_written_and_its_loss_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is in the run's folder; numbered classes are not reported."""
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "net.onnx")
    onnx_expand.expand("net.onnx", tmp_path / "big.onnx", strategy="cl", rate=2)
    write_stripes(tmp_path / "data.npz")
    words = "big.onnx out.onnx --data data.npz --epochs 2 --compare-baseline net.onnx --repeat 2"
    code, out = run(capsys, f"{words} --report r.json")
    assert code == 0
    assert "classes:" not in out
    baseline = onnx.load("out.run/baseline.onnx")
    assert [n.op_type for n in baseline.graph.node] == [
        n.op_type for n in onnx.load("net.onnx").graph.node
    ]
    alone = run(capsys, "net.onnx alone.onnx --data data.npz --epochs 2")[0]
    assert alone == 0
    assert Path("out.run/baseline.onnx").read_bytes() == Path("alone.onnx").read_bytes()
    report = json.loads(Path("r.json").read_text())
    losses = [[r["epochs"][-1]["loss"] for r in report["runs"] if r["model"] == name]
              for name in ("model", "baseline")]  # fmt: skip
    assert report["training_loss"]["scores"] == losses
    assert "training loss of 2 seeds" in out


def test_folding_is_not_reported_where_nothing_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of one matrix."""
    monkeypatch.chdir(tmp_path)
    flat = parse("f = Flatten(x) y = Gemm(f, g)", "(float[n, 1, 6, 6] x) => (float[n, 3] y)")
    onnx.save(with_weights(flat, g=images(36, 3)), "net.onnx")
    write_stripes(tmp_path / "data.npz")
    code, out = run(capsys, "net.onnx out.onnx --data data.npz --epochs 1")
    assert code == 0
    assert "fold" not in out


@pytest.mark.parametrize("patience", [1, 3])
def test_a_run_ends_when_its_patience_does(
    patience: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It ends that many epochs after the best one, even if resumed."""
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "net.onnx")
    write_stripes(tmp_path / "data.npz")
    words = f"net.onnx out.onnx --data data.npz --epochs 60 --lr 0.05 --patience {patience}"
    assert run(capsys, f"{words} --report r.json")[0] == 0
    scores = [e["test_score"] for e in json.loads(Path("r.json").read_text())["epochs"]]
    assert len(scores) < 60
    assert len(scores) - 1 - scores.index(max(scores)) == patience
    assert run(capsys, f"{words} --resume --report again.json")[0] == 0
    again: Any = json.loads(Path("again.json").read_text())
    assert [e["test_score"] for e in again["epochs"]] == scores
