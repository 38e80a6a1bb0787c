"""The pages of train and of the demo show the measured figures, and their scripts work."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import onnx_expand
from onnx_expand.cli import main
from onnx_expand.experiment.data.dataset import Dataset
from onnx_expand.experiment.data.loading import load_data
from onnx_expand.experiment.gallery import Gallery
from onnx_expand.model import load
from onnx_expand.pages.training import Curve, Difference, png, training_page
from onnx_expand.runtimes import OnnxRuntime
from tests.support.browser import CHROMIUM, browse, data_of
from tests.support.networks import network, write_stripes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a comparison over two seeds, with its page and its report."""
    place = tmp_path_factory.mktemp("training")
    onnx.save(network(), place / "net.onnx")
    onnx_expand.expand(str(place / "net.onnx"), place / "big.onnx", strategy="cl", rate=2)
    write_stripes(place / "data.npz")
    words = f"--data {place}/data.npz --epochs 3 --batch 16 --repeat 2"
    files = f"--html {place}/page.html --report {place}/r.json --then-fold {place}/small.onnx"
    more = f"--compare-baseline {place}/net.onnx"
    code = main(["train", f"{place}/big.onnx", f"{place}/out.onnx", "-q",
                 *f"{words} {files} {more}".split()])  # fmt: skip
    assert code == 0
    return place


def test_curves_are_those_of_the_report(folder: Path) -> None:
    """Each run, epoch and seed; the paired difference with its interval; the options."""
    data, report = data_of(folder / "page.html"), json.loads((folder / "r.json").read_text())
    training = data["training"]
    runs = {(run["model"], run["seed"]): run["epochs"] for run in report["runs"]}
    assert len(runs) == 4
    for arm in training["arms"]:
        for curve in arm["curves"]:
            epochs = runs.pop((arm["name"], curve["seed"]))
            assert curve["loss"] == [epoch["loss"] for epoch in epochs]
            assert curve["test"] == [epoch["test_score"] for epoch in epochs]
            assert curve["train"] == [epoch["train_score"] for epoch in epochs]
    assert not runs
    comparison = report["comparison"]
    assert training["difference"]["values"] == comparison["differences"]
    assert training["difference"]["interval"] == comparison["interval"]
    settings = dict(map(tuple, training["settings"]))
    assert settings["train.epochs"] == "3"
    origin = dict(map(tuple, data["origin"]))
    assert origin["command"].startswith("onnx-expand train ")
    assert {"input: big.onnx", "trained: out.onnx", "folded: small.onnx"} <= set(origin)
    assert "torch" in origin


def test_samples_are_those_of_the_data(folder: Path) -> None:
    """The images are the test images, and the predictions are those of the model."""
    samples = data_of(folder / "page.html")["training"]["samples"]
    data = load_data(str(folder / "data.npz"), channels=1, size=(6, 6), classes=3)
    model = load(folder / "small.onnx")
    session = OnnxRuntime().session(model, "small")
    name = model.graph.inputs[0].name or ""
    scores = next(iter(session.run({name: data.x_test}).values()))
    assert len(samples) == len(data.x_test)
    assert [s["truth"] for s in samples] == [data.classes[i] for i in data.y_test]
    assert [s["predicted"] for s in samples] == [data.classes[i] for i in scores.argmax(axis=1)]
    image = pytest.importorskip("PIL.Image")
    for sample, x in zip(samples, data.x_test, strict=True):
        shown = np.asarray(image.open(io.BytesIO(base64.b64decode(sample["image"].split(",")[1]))))
        assert (shown == shown[..., :1]).all()
        assert np.corrcoef(shown[..., 0].ravel(), x[0].ravel())[0, 1] > 0.999


@pytest.mark.parametrize("shape", [(9,), (1, 8), (2, 4, 4), (4, 4, 4)])
def test_only_images_are_shown(shape: tuple[int, ...], folder: Path) -> None:
    """Vectors, and images of channels without colors, are not."""
    x = np.zeros((6, *shape), np.float32)
    data = Dataset.of(x, np.zeros(6, np.int64), x, np.zeros(6, np.int64))
    assert Gallery.of(data, load(folder / "small.onnx")) is None


def test_a_model_of_other_inputs_has_no_predictions(folder: Path) -> None:
    """The images are shown without predictions; a fixed batch is filled."""
    model = load(folder / "small.onnx")
    x = np.linspace(-3, 3, 6 * 25, dtype=np.float32).reshape(6, 1, 5, 5)
    data = Dataset.of(x, np.arange(6), x, np.arange(6))
    found = Gallery.of(data, model)
    assert found is not None
    assert found.predicted == ()
    assert found.truth == tuple(map(str, range(6)))
    assert (found.images.min(), found.images.max()) == (0, 255)


def test_a_png_is_the_image() -> None:
    """Another reader decodes the same bytes."""
    image = pytest.importorskip("PIL.Image")
    drawn = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    read = np.asarray(image.open(io.BytesIO(png(drawn))))
    np.testing.assert_array_equal(read, drawn)


HARD = (
    # One epoch, one seed, nothing but what has to be there.
    training_page("train", "t", "accuracy", {"a": [Curve(0, [1.0], [None], [0.5])]}, []),
    # What is not finite, scores that never change, names that want to be run.
    training_page(
        "train",
        "</script><script>window.hacked = 1</script>",
        "test loss",
        {
            "<b>": [Curve(0, [1.0, float("nan"), 0.0], [None] * 3, [0.5, 0.5, 0.5])],
            "b": [Curve(0, [9.0, 1.0, 1e-9], [0.1, 0.2, 0.3], [0.5, float("inf"), 0.5])],
        },
        [("</td>", "<img src=x onerror='window.hacked = 2'>")],
        difference=Difference(("<b>", "b"), (0,), (0.0,), None, "nothing is told"),
        gallery=Gallery(np.zeros((2, 1, 1, 3), np.uint8), ("<i>", "b"), ("b", "b")),
        tables=[("Rows", ["a", "b"], [["1", "2"], ["", "x" * 300]])],
        settings=[("one", "two")],
    ),
)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_of_a_run_in_a_browser(folder: Path) -> None:
    """No script fails, clicks sort, and a width of 400 pixels suffices."""
    seen = browse(folder / "page.html")
    assert "error:" not in seen
    assert int(seen["width"]) <= 400
    assert seen["charts"] == "3"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("place", range(len(HARD)))
def test_odd_pages_in_a_browser(place: int, tmp_path: Path) -> None:
    """A page of few figures, and one of values that are not finite and names like scripts."""
    (tmp_path / "page.html").write_text(HARD[place], encoding="utf-8")
    seen = browse(tmp_path / "page.html")
    assert "error:" not in seen
    assert seen["hacked"] == "undefined"
    assert int(seen["width"]) <= 400
    assert "NaN" not in seen["curves"]
    assert "Infinity" not in seen["curves"]


def test_an_unwritable_page_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page that cannot be written is an error before training."""
    onnx.save(network(), tmp_path / "net.onnx")
    write_stripes(tmp_path / "data.npz")
    words = f"{tmp_path}/net.onnx {tmp_path}/out.onnx --data {tmp_path}/data.npz"
    assert main(["train", *words.split(), "--html", str(tmp_path / "no" / "page.html")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out.run").exists()


def test_lines_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line for each epoch, without a bar; nothing with -q."""
    onnx.save(network(), tmp_path / "net.onnx")
    write_stripes(tmp_path / "data.npz")
    words = f"{tmp_path}/net.onnx {tmp_path}/out.onnx --data {tmp_path}/data.npz --epochs 3"
    assert main(["train", *words.split()]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(": epoch " in line for line in lines) == 3
    assert not any("\u2501" in line for line in lines)
    assert main(["train", *words.split(), "-q"]) == 0
    assert capsys.readouterr().out == ""
