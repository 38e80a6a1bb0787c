"""What fold certifies, `check --certificate` confirms, whatever the options of fold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnx_expand.cli import main
from tests.support.graphs_text import bn, weights

pytest.importorskip("onnxruntime")

POLICIES = ("auto", "cheapest", "always", "marked")
BORDERS = ("exact", "ones", "map", "pad")
PREPROCESSING = {
    "none": "",
    "mean": "--mean 0.485,0.456,0.406",
    "std": "--std 0.229,0.224,0.225",
    "one number": "--mean 127.5 --std 58",
    "swap": "--swap-rb",
    "all": "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --swap-rb --input image",
}
OTHERS = {"nothing": "", "inline": "--inline", "constant": "--assume-constant-initializers"}


def network() -> onnx.ModelProto:
    """A stem, a function with a convolution, and a weight that a caller may replace."""
    text = """<ir_version: 10, opset_import: ["" : 17, "own" : 1]>
        g (float[N,3,9,8] image, float[6] n_b) => (float[N,4,9,8] y) {
            a = Conv <pads: ints = [1, 1, 1, 1]> (image, v, c)
            b = BatchNormalization(a, n_s, n_b, n_m, n_v)
            r = Relu(b)
            y = own.block(r, w)
        }
        <domain: "own", opset_import: ["" : 17]>
        block (p, q) => (t) { s = Conv(p, q) t = Add(s, s) }"""
    model: onnx.ModelProto = onnx.parser.parse_model(text)
    arrays = weights(v=(6, 3, 3, 3), c=(6,), w=(4, 6, 1, 1)) | bn("n", 6)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()
    )
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("certificates") / "net.onnx"
    onnx.save(network(), path)
    return str(path)


def certified(source: str, folder: Path, options: str) -> tuple[str, str, dict[str, Any]]:
    """The folded model, its certificate, and what that says."""
    target, paper = str(folder / "out.onnx"), str(folder / "c.json")
    assert main(["fold", source, target, "--certificate", paper, *options.split()]) == 0
    return target, paper, json.loads(Path(paper).read_text())


@pytest.fixture
def _briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time whole models for a moment: which one is faster does not matter here."""
    monkeypatch.setattr("onnx_expand.passes.benchmark._PER_MODEL", 0.005)


@pytest.mark.usefixtures("_briefly")
@pytest.mark.parametrize(
    ("policy", "border", "other", "preprocessing"),
    [
        *(
            (policy, "exact", other, preprocessing)
            for policy in POLICIES
            for other in OTHERS
            for preprocessing in PREPROCESSING
        ),
        *(("cheapest", b, "nothing", p) for b in BORDERS[1:] for p in PREPROCESSING),
        ("latency", "exact", "nothing", "all"),
    ],
)
def test_what_fold_certifies_is_confirmed(
    source: str, tmp_path: Path, policy: str, border: str, other: str, preprocessing: str
) -> None:
    """All combinations of options, those of preprocessing included."""
    how = f"--policy {policy} --seconds 0.1 --border {border}"
    options = f"{how} {OTHERS[other]} {PREPROCESSING[preprocessing]}"
    target, paper, data = certified(source, tmp_path, options)
    assert data["verdict"]["equal"] is True
    assert data["verdict"]["rests_on"] in {"proof", "identity"}
    for region in data["verdict"]["regions"]:
        assert "no weight is off by more than" in region["proof"]["statement"]
    assert data["relation"]["kind"] == ("preprocessed" if preprocessing != "none" else "same")
    assert main(["check", source, target, "--certificate", paper, "-n", "1"]) == 0


def test_preprocessing_is_what_is_certified(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The relation says of what; without it, or with another one, the two models differ."""
    target, paper, data = certified(source, tmp_path, PREPROCESSING["all"])
    relation = data["relation"]
    assert "(x - mean) / std, red and blue swapped" in relation["text"]
    assert relation["preprocess"] == {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "swap_rb": True,
        "input": "image",
    }
    assert main(["check", source, target]) == 1
    relation["preprocess"]["std"][0] *= 1.01
    Path(paper).write_text(json.dumps(data))
    capsys.readouterr()
    assert main(["check", source, target, "--certificate", paper, "--bisect"]) == 1
    assert "different" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "similar"},
        {},
        [],
        {"kind": "preprocessed"},
        {"kind": "preprocessed", "preprocess": {"mean": "a", "std": [1], "swap_rb": False}},
        {
            "kind": "preprocessed",
            "preprocess": {"mean": [0], "std": [0], "swap_rb": False, "input": None},
        },
    ],
)
def test_a_relation_that_is_not_known_is_refused(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any
) -> None:
    """One line that names the certificate, and exit code 3: nothing was compared."""
    target, paper, data = certified(source, tmp_path, "")
    Path(paper).write_text(json.dumps({**data, "relation": change}))
    capsys.readouterr()
    assert main(["check", source, target, "--certificate", paper]) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "c.json: is not a certificate of fold" in err


def test_a_certificate_of_the_first_schema_is_read(source: str, tmp_path: Path) -> None:
    """It knew no relation: the two models were the same."""
    target, paper, data = certified(source, tmp_path, "")
    del data["relation"]
    Path(paper).write_text(json.dumps({**data, "schema": 1}))
    assert main(["check", source, target, "--certificate", paper]) == 0
