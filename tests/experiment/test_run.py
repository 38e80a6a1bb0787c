"""The command `train`: files, refusals, comparison, folding."""

from __future__ import annotations

import csv
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")

import onnx_expand  # noqa: E402
from models import smallnet  # noqa: E402
from onnx_expand.cli import main  # noqa: E402
from onnx_expand.errors import DifferentError  # noqa: E402
from onnx_expand.experiment import Experiment  # noqa: E402
from onnx_expand.experiment.folding import fold_and_check  # noqa: E402
from onnx_expand.model import load  # noqa: E402
from onnx_expand.passes import Fold, FoldResult  # noqa: E402
from onnx_expand.recipes import Setup  # noqa: E402
from onnx_expand.train.initialize import initialize  # noqa: E402
from tests.support.networks import network, write_stripes  # noqa: E402
from tests.support.torch_graphs import images, parse, with_weights  # noqa: E402


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a folder with a network, an expanded one, data, and a file that must not change."""
    monkeypatch.chdir(tmp_path)
    onnx.save(network(), "net.onnx")
    onnx_expand.expand("net.onnx", tmp_path / "big.onnx", strategy="cl", rate=2)
    write_stripes(tmp_path / "data.npz")
    (tmp_path / "out.onnx").write_bytes(b"precious")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], words: str) -> tuple[int, str, str]:
    """Run `train`; return its exit code, output and errors."""
    code = main(["train", *words.split()])
    return code, *capsys.readouterr()


def test_a_run_writes_figures_curves_and_a_checkpoint(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All have equal figures, and the normalization of images is stated."""
    code, out, err = run(
        capsys, "net.onnx out.onnx --data data.npz --epochs 3 --batch 16 --report r.json"
    )
    assert (code, err) == (0, "")
    assert "data: data.npz: 120 training and 30 test images of 1x6x6, 3 classes" in out
    lines = (folder / "out.run" / "history.csv").read_text().splitlines()
    rows = list(csv.DictReader(lines))
    report = json.loads((folder / "r.json").read_text())
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [float(row["loss"]) for row in rows] == [e["loss"] for e in report["epochs"]]
    assert [float(row["accuracy"]) for row in rows] == [e["test_score"] for e in report["epochs"]]
    assert report["settings"]["train"]["batch"] == 16
    assert (folder / "out.run" / "checkpoint-model-0.pt").exists()
    assert onnx.load("out.onnx").graph.node[0].op_type == "Conv"
    if sys.modules.get("matplotlib"):
        assert (folder / "out.run" / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_an_expansion_is_checked_early_and_folded_late(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the first epoch the sites are named; the folded file has the compact nodes."""
    code, out, _ = run(
        capsys, "big.onnx out.onnx --data data.npz --epochs 1 --then-fold small.onnx"
    )
    assert code == 0
    assert re.search(r"after epoch 1: \d+ sites fold; ", out)
    small, net = onnx.load("small.onnx"), onnx.load("net.onnx")
    assert [n.op_type for n in small.graph.node] == [n.op_type for n in net.graph.node]


def test_a_fold_that_would_be_wrong_stops_training(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first epoch, with exit code 1, and nothing written."""
    pytest.importorskip("onnxruntime")
    from dataclasses import replace

    from onnx_expand.algebra import affine

    right = affine.AffineConv.__matmul__

    def wrong(g: affine.AffineConv, f: affine.AffineConv) -> affine.AffineConv:
        product = right(g, f)
        return replace(product, weight=product.weight * 1.01)

    monkeypatch.setattr(affine.AffineConv, "__matmul__", wrong)
    with pytest.raises(DifferentError, match="the folded model differs"):
        fold_and_check(load("big.onnx"), "big.onnx")
    code, _, err = run(capsys, "big.onnx out.onnx --data data.npz --epochs 50")
    assert code == 1
    assert re.fullmatch(r"onnx-expand: error: big.onnx: the folded model differs[^\n]+\n", err)
    assert Path("out.onnx").read_bytes() == b"precious"


def test_a_trained_model_is_written_when_folding_fails(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the folded file is not written."""

    def wrong(model: Any, label: str) -> Any:
        raise DifferentError(f"{label}: the folded model differs")

    monkeypatch.setattr("onnx_expand.experiment.run.fold_and_check", wrong)
    words = "big.onnx out.onnx --data data.npz --epochs 1 --no-fold-check --then-fold small.onnx"
    assert run(capsys, words)[0] == 1
    assert onnx.load("out.onnx").graph.node
    assert not Path("small.onnx").exists()


def test_a_folded_model_that_does_not_run_is_not_written(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trained model runs, so that a folded model which does not is a difference."""
    pytest.importorskip("onnxruntime")
    right = Fold.call

    def wrong(self: Fold, model: ir.Model) -> FoldResult:
        result = right(self, model)
        model.graph[0].domain = "nowhere"
        model.opset_imports["nowhere"] = 1
        return FoldResult(model, True, result.report)

    monkeypatch.setattr(Fold, "call", wrong)
    words = "big.onnx out.onnx --data data.npz --epochs 1 --no-fold-check --then-fold small.onnx"
    code, _, err = run(capsys, words)
    assert code == 1
    assert "A runs, and B does not" in err
    assert onnx.load("out.onnx").graph.node
    assert not Path("small.onnx").exists()


def test_paths_are_printed_as_they_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Colons and brackets in names are not interpreted as markup."""
    (folder / "[red]:one:.npz").write_bytes((folder / "data.npz").read_bytes())
    code, out, _ = run(capsys, "net.onnx a.onnx --data [red]:one:.npz --epochs 1")
    assert code == 0
    assert "data: [red]:one:.npz: 120 training" in out


def test_the_compact_model_is_trained_from_the_same_seeds(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given or folded, each seed trains both; the first seed's model is written."""
    words = "--data data.npz --epochs 2 --batch 16 --seed 4 --repeat 2 --report r.json"
    code, out, _ = run(capsys, f"big.onnx a.onnx {words} --compare-baseline net.onnx --reinit")
    assert code == 0
    assert "accuracy of 2 seeds: big.onnx" in out
    report = json.loads(Path("r.json").read_text())
    assert [(r["model"], r["seed"]) for r in report["runs"]] == [
        ("model", 4), ("baseline", 4), ("model", 5), ("baseline", 5),
    ]  # fmt: skip
    assert report["comparison"]["scores"][1] == [
        r["epochs"][-1]["test_score"] for r in report["runs"] if r["model"] == "baseline"
    ]
    code, _, _ = run(
        capsys, "big.onnx b.onnx --data data.npz --epochs 2 --batch 16 --seed 4 --reinit"
    )
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()
    code, out, _ = run(capsys, f"big.onnx c.onnx {words} --compare-baseline fold")
    assert code == 0
    assert "not in the initial weights" in out
    flat = parse("f = Flatten(x) y = Gemm(f, g)", "(float[n, 1, 6, 6] x) => (float[n, 3] y)")
    onnx.save(with_weights(flat, g=images(36, 3)), "flat.onnx")
    code, _, err = run(capsys, f"flat.onnx c.onnx {words} --compare-baseline fold")
    assert code == 4
    assert "nothing folds" in err


def test_initial_weights_are_torchs() -> None:
    """Ranges are those of torch's layers, statistics are reset, shapes and names do not change."""
    model = smallnet.build(kernel=7)
    new = {t.name: onnx.numpy_helper.to_array(t) for t in _proto(initialize(model, 1)).initializer}
    old = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    again = {
        t.name: onnx.numpy_helper.to_array(t) for t in _proto(initialize(model, 1)).initializer
    }
    assert {k: v.shape for k, v in new.items()} == {k: v.shape for k, v in old.items()}
    for node in model.graph.node:
        if node.op_type not in {"Conv", "Gemm"}:
            continue
        weight = new[node.input[1]]
        fan_in = int(np.prod(weight.shape[1:]))
        bound = 1 / np.sqrt(fan_in)
        assert 0.9 * bound < np.abs(weight).max() <= bound
        assert not np.array_equal(weight, old[node.input[1]])
        np.testing.assert_array_equal(weight, again[node.input[1]])
        assert np.abs(new[node.input[2]]).max() <= bound


def _proto(model: Any) -> onnx.GraphProto:
    from onnx_expand.model import to_proto

    return to_proto(model).graph


REFUSED = [
    ("--data data.npz --lr 1e30 --epochs 50", 4, "the loss is nan in epoch"),
    ("--data data.npz --batch 0", 2, "batch"),
    ("--data data.npz --betas 1", 2, "betas"),
    ("--data data.npz --milestones a,b", 2, "milestones"),
    ("--data data.npz --augment mirror", 2, "mirror"),
    ("--data data.npz --loss nothing:here", 2, "nothing"),
    ("--data data.npz --teacher absent.onnx", 3, "absent.onnx"),
    ("--data data.npz --compare-baseline absent.onnx", 3, "absent.onnx"),
    ("--data data.npz --then-fold absent/small.onnx", 2, "absent"),
    ("--data data.npz --folder data.npz", 2, "is a file"),
    ("--data data.npz --then-fold ./out.onnx", 2, "two results would be written there"),
    ("--data data.npz --report out.onnx", 2, "two results would be written there"),
    ("--data data.npz --compare-baseline few.onnx --epochs 1000000", 4, "few.onnx: the model has"),
    ("--data data.npz --compare-baseline idle.onnx --epochs 1000000", 4, "nothing to train"),
    ("--data data.npz --freeze .", 2, "freeze: '.' leaves nothing of model to train"),
    ("--data data.npz --compare-baseline none.onnx --epochs 1000000", 4, "none.onnx: the model"),
    ("--data data.npz --device cuda:77", 2, "cuda"),
    ("--data data.npz --task detect", 2, "labelled to classify"),
    ("--data data.npz --recipe unknown", 2, "cifar-smallnet"),
    ("--data labels.npz", 3, "label 7 is not in 0..2"),
    ("--data shapes.npz", 3, "the model takes 6x6"),
    ("--data empty", 3, "contains no images"),
]


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize(("words", "code", "named"), REFUSED)
def test_refusals_are_one_line_and_leave_the_output(
    folder: Path, capsys: pytest.CaptureFixture[str], words: str, code: int, named: str
) -> None:
    """Each with its exit code."""
    x = np.zeros((9, 1, 6, 6), np.float32)
    np.savez("labels.npz", x=x, y=np.full(9, 7))
    np.savez("shapes.npz", x=np.zeros((9, 1, 5, 6), np.float32), y=np.arange(9) % 3)
    (folder / "empty" / "a").mkdir(parents=True)
    idle = parse("p = GlobalMaxPool(x) y = Flatten(p)", "(float[n, 1, 6, 6] x) => (float[n, 1] y)")
    onnx.save(idle, "idle.onnx")
    for name, inputs in (("few", 36), ("none", 35)):
        flat = parse("f = Flatten(x) y = Gemm(f, g)", "(float[n, 1, 6, 6] x) => (float[n, 2] y)")
        onnx.save(with_weights(flat, g=images(inputs, 2)), f"{name}.onnx")
    found, _, err = run(capsys, f"net.onnx out.onnx {words}")
    assert (found, re.fullmatch(r"onnx-expand: error: [^\n]+\n", err) is not None) == (code, True)
    assert named in err
    assert Path("out.onnx").read_bytes() == b"precious"
    assert not Path("out.run").exists() or any(Path("out.run").iterdir())


@pytest.mark.filterwarnings("ignore:overflow")
def test_divergence_keeps_the_last_good_checkpoint(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that fails later keeps the state before and names it; the next run renames it."""
    assert run(capsys, "net.onnx a.onnx --data data.npz --epochs 1")[0] == 0
    kept = Path("a.run/checkpoint-model-0.pt").read_bytes()
    # Two epochs go well, then the rate is multiplied by 1e30.
    words = "--data data.npz --epochs 9 --schedule step --milestones 2 --gamma 1e30"
    code, _, err = run(capsys, f"net.onnx a.onnx {words}")
    assert code == 4
    assert re.search(r"in epoch [34], step \d+; .*; the state after epoch [23] is in a\.run", err)
    assert Path("a.run/checkpoint-model-0.previous.pt").read_bytes() == kept
    state = torch.load("a.run/checkpoint-model-0.pt", weights_only=True)["state"]
    assert state["epoch"] in {2, 3}
    assert all(bool(t.isfinite().all()) for t in state["module"].values())


def test_unreadable_images_are_reported_at_the_end(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are omitted, counted and named; --strict refuses them."""
    image = pytest.importorskip("PIL.Image")
    for number in range(10):
        for name in "abc":
            (folder / "images" / name).mkdir(parents=True, exist_ok=True)
            image.new("L", (6, 6), number).save(folder / "images" / name / f"{number}.png")
    (folder / "images" / "b" / "2.png").write_bytes(b"broken")
    code, out, _ = run(capsys, "net.onnx a.onnx --data images --epochs 1")
    assert code == 0
    assert "1 images or boxes left out" in out
    assert "b/2.png: not an image" in out
    code, out, _ = run(capsys, "net.onnx a.onnx --data images --epochs 1 --cache 0 --workers 1")
    assert code == 0
    assert "1 images could not be read" in out
    code, _, err = run(capsys, "net.onnx out.onnx --data images --strict")
    assert code == 3
    assert "b/2.png: not an image" in err


def test_tensorboard_is_optional(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, the error states what to install; else each epoch has its figures."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    code, _, err = run(capsys, "net.onnx out.onnx --data data.npz --tensorboard")
    assert code == 4
    assert "onnx-expand[tensorboard]" in err
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, path: str) -> None:
            assert path.endswith("model-0")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def flush(self) -> None: ...

        def close(self) -> None: ...

    old = folder / "a.run" / "tensorboard" / "model-0" / "events.out.tfevents.1.host"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"of the run that is gone on with")
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    code, _, _ = run(capsys, "net.onnx a.onnx --data data.npz --tensorboard --epochs 2")
    assert code == 0
    assert {(name, step) for name, _, step in written} == {
        (name, step) for name in ("lr", "train/loss", "train/score", "test/accuracy")
        for step in (1, 2)
    }  # fmt: skip
    assert not old.exists()


def test_other_inputs_than_images_are_trained(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Vectors and tokens come as arrays; options for images are refused."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((60, 5)).astype(np.float32)
    y = (rows[:, 0] > 0).astype(np.int64)
    tokens = np.where(y[:, None] == 1, 3, 1) + rng.integers(0, 2, (60, 4))
    np.savez("rows.npz", x=rows, y=y)
    np.savez("tokens.npz", x=tokens.astype(np.uint8), y=y)
    flat = parse("h = Gemm(x, v) r = Relu(h) y = Gemm(r, g)", "(float[n, 5] x) => (float[n, 2] y)")
    onnx.save(with_weights(flat, v=images(5, 8), g=images(8, 2)), "flat.onnx")
    text = parse(
        "e = Gather(t, x) a = Constant<value_ints=[1]>() m = ReduceMean<keepdims=0>(e, a)"
        "y = Gemm(m, g)",
        "(int64[n, 4] x) => (float[n, 2] y)", opset=18,
    )  # fmt: skip
    onnx.save(with_weights(text, t=images(6, 3), g=images(3, 2)), "text.onnx")
    for name, data in (("flat", "rows"), ("text", "tokens")):
        words = f"{name}.onnx {name}2.onnx --data {data}.npz --epochs 30 --lr 0.1 --batch 8"
        code, out, err = run(capsys, words)
        assert (code, err) == (0, "")
        found = re.search(r"test accuracy ([\d.]+)% after", out)
        assert found is not None
        assert float(found[1]) > 80
    code, _, err = run(capsys, "flat.onnx out.onnx --data rows.npz --augment flip")
    assert (code, "augment needs images" in err) == (2, True)
    code, _, err = run(capsys, "flat.onnx out.onnx --data digits")
    assert (code, "needs images [N, C, H, W]" in err) == (4, True)
    both = parse(
        "h = Gemm(x, v) y = Add(h, z)", "(float[n, 5] x, float[n, 2] z) => (float[n, 2] y)"
    )
    onnx.save(with_weights(both, v=images(5, 2)), "both.onnx")
    code, _, err = run(capsys, "both.onnx out.onnx --data rows.npz")
    assert (code, "a model of one input; this has 2" in err) == (4, True)
    code, _, err = run(capsys, "flat.onnx out.onnx --data tokens.npz")
    assert code == 4
    assert "does not run on a batch" in err


def test_resuming_reports_its_start(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It starts at the beginning without a checkpoint, else from the checkpoint."""
    code, out, _ = run(capsys, "net.onnx a.onnx --data data.npz --epochs 1 --resume")
    assert code == 0
    assert "no checkpoint; starts at the beginning" in out
    code, out, _ = run(capsys, "net.onnx a.onnx --data data.npz --epochs 2 --resume")
    assert code == 0
    assert "goes on" in out
    assert len(Path("a.run/history.csv").read_text().splitlines()) == 3
    code, _, err = run(capsys, "net.onnx a.onnx --data data.npz --epochs 2 --resume --lr 1")
    assert code == 2
    assert "with lr 0.01, not 1.0" in err


def test_options_of_a_recipe_can_be_switched_off(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given options override a recipe, flags included; its notes are printed."""
    words = "net.onnx a.onnx --data data.npz --recipe imagenet-mobilenet --epochs 1 --batch 16"
    off = " --no-nesterov --augment flip --mean 0 --std 1 --report r.json"
    code, out, _ = run(capsys, words + off)
    assert code == 0
    assert "recipe imagenet-mobilenet: as for MobileNet and MobileNetV2" in out
    settings = json.loads(Path("r.json").read_text())["settings"]
    assert settings["train"]["nesterov"] is False
    assert settings["data"]["augment"] == ["flip"]
    assert (settings["train"]["lr"], settings["train"]["epochs"]) == (0.1, 1)


def test_masks_and_boxes_are_trained_by_the_same_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data determines the task and the score, and the model folds."""
    pytest.importorskip("PIL.Image")
    from tests.support.folders import segments, voc

    segments(folder / "seg")
    voc(folder / "voc")
    body = "h = Conv<pads=[1, 1, 1, 1]>(x, v) y = Conv{}(h, w)"
    for name, settings, channels, metric, extents in (
        ("seg", "", 2, "mIoU", "8, 10"),
        ("voc", "<strides=[4, 4]>", 25, "mAP@0.5", "20, 40"),
    ):
        model = parse(
            body.format(settings),
            f"(float[n, 3, {extents}] x) => (float[n, {channels}, h, w] y)",
        )
        weights = {"v": images(4, 3, 3, 3), "w": images(channels, 4, 1, 1, seed=1)}
        onnx.save(with_weights(model, **weights), f"{name}.onnx")
        words = f"{name}.onnx {name}2.onnx --data {name} --epochs 1 --lr 1e-4 --augment flip"
        code, out, err = run(capsys, f"{words} --then-fold {name}3.onnx")
        assert (code, err) == (0, "")
        assert f"test {metric} " in out
        header = Path(f"{name}2.run/history.csv").read_text().split()[0]
        assert metric in header
        assert Path(f"{name}3.onnx").exists()


def test_an_experiment_prints_nothing_in_python(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report has the figures that the command prints."""
    setup = Setup.of(epochs=1, batch=16, then_fold="small.onnx")
    report = Experiment("big.onnx", "trained.onnx", "data.npz", setup).run()
    assert capsys.readouterr() == ("", "")
    assert len(report.history.epochs) == 1
    assert report.folded is not None
    assert len(report.folded.report.sites) > 0
    assert report.as_dict()["settings"]["train"]["batch"] == 16
    assert Path("small.onnx").exists()


def test_a_comparison_is_fair_or_refused_before_it_begins(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A compact layer is its own product; a tensor that the compact model lacks is an error."""
    words = "big.onnx out.onnx --data data.npz --epochs 1 --batch 16 --compare-baseline net.onnx"
    code, out, _ = run(capsys, f"{words} --repeat 1 --weight-decay 0.1 --decay product")
    assert code == 0
    assert "one seed is inconclusive" in out
    inner = next(
        n.output[0] for n in onnx.load("big.onnx").graph.node
        if n.output[0] not in {o for m in onnx.load("net.onnx").graph.node for o in m.output}
    )  # fmt: skip
    hint = f"--teacher big.onnx --distill hint --student-layer {inner} --teacher-layer {inner}"
    code, out, err = run(capsys, f"{words} {hint}")
    assert code == 2
    assert f"no inner tensor '{inner}'" in err
    assert "seed 0" not in out
