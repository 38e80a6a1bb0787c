"""The command line: what it writes, what it refuses, and how it says so."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import onnx
import pytest

import onnx_expand
from models import smallnet
from onnx_expand.cli import main
from onnx_expand.cli.app import cli

HAS_ORT = importlib.util.find_spec("onnxruntime") is not None
HAS_TORCH = importlib.util.find_spec("torch") is not None
needs_ort = pytest.mark.skipif(not HAS_ORT, reason="onnxruntime is not installed")
needs_torch = pytest.mark.skipif(not HAS_TORCH, reason="torch is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model, and files that are none."""
    onnx.save(smallnet.build(kernel=7), tmp_path / "net.onnx")
    whole = (tmp_path / "net.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.onnx").write_text("this is no model\n")
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "out.onnx").write_bytes(b"precious")
    (tmp_path / "zero.onnx").symlink_to("/dev/zero")
    return tmp_path


def run(folder: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run a command inside a folder; its exit code, output and errors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code = main(words)
    out, err = capsys.readouterr()
    return code, out, err


COMMANDS = {
    "expand": ["expand", "{}", "out.onnx"],
    "train": ["train", "{}", "out.onnx", "--data", "digits"],
    "fold": ["fold", "{}", "out.onnx"],
    "check": ["check", "{}", "net.onnx"],
    "check second": ["check", "net.onnx", "{}"],
    "inspect": ["inspect", "{}"],
}


@pytest.mark.parametrize(
    "name", ["absent.onnx", "cut.onnx", "text.onnx", "empty.onnx", "zero.onnx", "."]
)
@pytest.mark.parametrize("command", COMMANDS)
def test_an_unreadable_model_is_one_line_and_code_3(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, name: str
) -> None:
    """Each command names the file, says what is wrong and leaves the output file alone."""
    if command == "train" and not HAS_TORCH:
        pytest.skip("torch is not installed")
    words = [word.format(name) for word in COMMANDS[command]]
    code, out, err = run(folder, capsys, *words)
    assert code == 3
    assert out == ""
    assert re.fullmatch(r"onnx-expand: error: [^\n]+\n", err)
    assert name in err
    assert (folder / "out.onnx").read_bytes() == b"precious"


USAGE = [
    ("expand net.onnx out.onnx --rate 0", "rate"),
    ("expand net.onnx out.onnx --rate nan", "rate"),
    ("expand net.onnx out.onnx --rate x", "rate"),
    ("expand net.onnx out.onnx --rate 1e9", "rate"),
    ("expand net.onnx out.onnx --rate 1e300", "rate"),
    ("expand net.onnx out.onnx --strategy zigzag", "zigzag"),
    ("expand net.onnx out.onnx --strategy cl+", "strategy"),
    ("expand net.onnx out.onnx --include (", "regular expression"),
    ("expand net.onnx out.onnx --exclude [", "regular expression"),
    ("expand net.onnx out.onnx --first-width wide", "first-width"),
    ("expand net.onnx out.onnx --seed -1", "seed"),
    ("expand net.onnx out.onnx --fc-layers 5", "2 or 3"),
    ("expand net.onnx absent/out.onnx", "absent"),
    ("expand net.onnx", "OUT"),
    ("fold net.onnx absent/out.onnx", "absent"),
    ("fold net.onnx out.onnx --report absent/r.json", "absent"),
    ("fold net.onnx out.onnx --policy greedy", "greedy"),
    ("fold net.onnx out.onnx --border blurred", "blurred"),
    ("fold net.onnx out.onnx --mean 1,x", "mean"),
    ("fold net.onnx out.onnx --mean 1,2", "mean"),
    ("fold net.onnx out.onnx --std 0", "std"),
    ("fold net.onnx out.onnx --mean 1 --input image", "image"),
    ("fold net.onnx", "OUT"),
    ("fold net.onnx .", "directory"),
    ("inspect net.onnx --json absent/r.json", "absent"),
    ("check net.onnx net.onnx --json absent/r.json", "absent"),
    ("check net.onnx net.onnx -n 0", "0"),
    ("check net.onnx", "B"),
    ("sharpen net.onnx", "sharpen"),
    ("fold net.onnx -", "stdout"),
    ("fold net.onnx out.onnx --html -", "only a report in JSON is written to stdout"),
    ("fold net.onnx out.onnx --certificate -", "only a report in JSON is written to stdout"),
    ("check net.onnx net.onnx --junit -", "only a report in JSON is written to stdout"),
    ("bench net.onnx --png -", "only a report in JSON is written to stdout"),
    ("expand net.onnx out.onnx --plan-out -", "only a report in JSON is written to stdout"),
    ("fold net.onnx out.onnx --shape image:-1,3,9,9", "'-1' is neither a whole number above 0"),
    ("inspect net.onnx --shape image:1,3,9.5,9", "'9.5' is neither a whole number above 0"),
    ("expand net.onnx out.onnx --strategy mobileone --branches 100000", "at most 256"),
    ("run net.onnx - --passes fold", "stdout"),
    ("fold net.onnx out.onnx --html net.onnx", "net.onnx"),
    ("fold net.onnx out.onnx --report ./net.onnx", "net.onnx"),
    ("fold net.onnx out.onnx --certificate net.onnx", "net.onnx"),
    ("fold net.onnx ./net.onnx --certificate c.json", "other than IN"),
    ("fold net.onnx net.onnx --html h.html", "other than IN"),
    ("expand net.onnx out.onnx --plan-out net.onnx", "net.onnx"),
    ("expand net.onnx out.onnx --plan p.json --plan-out p.json", "p.json"),
    ("expand net.onnx net.onnx --html h.html", "other than IN"),
    ("inspect net.onnx --json net.onnx", "net.onnx"),
    ("check net.onnx cut.onnx --junit cut.onnx", "cut.onnx"),
    ("check net.onnx cut.onnx --inputs i.npz --json i.npz", "i.npz"),
    ("bench net.onnx cut.onnx --png cut.onnx", "cut.onnx"),
    ("run net.onnx out.onnx --passes fold --report net.onnx", "net.onnx"),
    ("expand net.onnx out.onnx --ops ,", "ops"),
    ("expand net.onnx out.onnx --kernels 5,,3", "kernels"),
    ("expand net.onnx out.onnx --strides 1,", "strides"),
    ("check net.onnx net.onnx --providers cpu,", "providers"),
]


OVER_WEIGHTS = [
    "fold ext.onnx ext.data",
    "fold ext.onnx out.onnx --report ext.data",
    "fold ext.onnx out.onnx --certificate inner/../ext.data",
    "expand ext.onnx ext.data",
    "expand ext.onnx ext.data --strip-nonlinear",
    "expand ext.onnx out.onnx --plan-out ext.data",
    "inspect ext.onnx --json ext.data",
    "check net.onnx ext.onnx --junit ext.data",
    "bench net.onnx ext.onnx --png ext.data",
    "run ext.onnx ext.data --passes fold",
    "fold ext.onnx new.onnx --report new.onnx.data",
]


@pytest.mark.parametrize("words", OVER_WEIGHTS)
def test_outputs_never_overwrite_external_data(
    folder: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    """Outputs never overwrite the external data of models that are read or written."""
    net = onnx.load(folder / "net.onnx")
    (folder / "inner").mkdir()
    onnx.save(net, folder / "ext.onnx", save_as_external_data=True, location="ext.data")
    weights = (folder / "ext.data").read_bytes()
    code, out, err = run(folder, capsys, *words.split())
    assert (code, out) == (2, "")
    assert re.fullmatch(r"onnx-expand: error: [^\n]+weights[^\n]+\n", err)
    assert (folder / "ext.data").read_bytes() == weights
    with pytest.raises(onnx_expand.UsageError, match="weights"):
        onnx_expand.fold(folder / "ext.onnx", folder / "ext.data")


VALUED = [
    (name, option)
    for name, command in cli.commands.items()
    for option in command.params
    if isinstance(option, click.Option) and not option.is_flag
]


@pytest.mark.parametrize(
    ("name", "option"), VALUED, ids=[f"{name} {option.opts[-1]}" for name, option in VALUED]
)
def test_an_empty_value_is_not_a_missing_option(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, option: click.Option
) -> None:
    """`--ops "$UNSET"` is refused by name, whatever the option, and nothing is written."""
    needed = [p for p in cli.commands[name].params if p.required and p is not option]
    words = [
        w for p in needed for w in ([p.opts[-1], "x"] if p.opts[0][0] == "-" else ["net.onnx"])
    ]
    code, out, err = run(folder, capsys, name, *words, option.opts[-1], "")
    assert code == 2
    assert out == ""
    assert re.fullmatch(r"onnx-expand: error: [^\n]+\n", err)
    assert any(flag in err for flag in option.opts)
    assert (folder / "out.onnx").read_bytes() == b"precious"


@pytest.mark.parametrize(("words", "named"), USAGE)
def test_wrong_usage_is_one_line_and_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], words: str, named: str
) -> None:
    """A value that makes no sense is named, and the output file left alone."""
    code, out, err = run(folder, capsys, *words.split())
    assert code == 2
    assert out == ""
    assert re.fullmatch(r"onnx-expand: error: [^\n]+\n", err)
    assert named in err
    assert (folder / "out.onnx").read_bytes() == b"precious"
    assert (folder / "net.onnx").stat().st_size > 10_000
    assert not list(folder.glob(".*"))


@needs_ort
@pytest.mark.parametrize("extents", ["0,3,9,9", "1,3,9999999,999999999", "99999999999999,3,9,9"])
@pytest.mark.parametrize("command", ["fold net.onnx out.onnx", "check net.onnx net.onnx"])
def test_extents_that_no_input_has(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, extents: str
) -> None:
    """Nothing is compared on no numbers, and nothing is asked of memory that nobody has."""
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,H,W] x) => (float[N,3,H,W] y) '
    onnx.save(onnx.parser.parse_model(text + "{ y = Relu(x) }"), folder / "net.onnx")
    code, _, err = run(folder, capsys, *command.split(), "--shape", f"x:{extents}")
    assert code == 2
    assert re.fullmatch(r"onnx-expand: error: [^\n]+'x'[^\n]+\n", err)


@needs_torch
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("--data digits --epochs 0", 2),
        ("--data digits --lr -1", 2),
        ("--data digits --batch 0", 2),
        ("--data absent.npz", 3),
        ("--data text.onnx", 3),
        ("--data .", 3),
    ],
)
def test_training_refuses_bad_options_and_data(
    folder: Path, capsys: pytest.CaptureFixture[str], words: str, code: int
) -> None:
    """Options out of range are wrong usage, data that cannot be read is unreadable."""
    found, _, err = run(folder, capsys, "train", "net.onnx", "out.onnx", *words.split())
    assert found == code
    assert re.fullmatch(r"onnx-expand: error: [^\n]+\n", err)
    assert (folder / "out.onnx").read_bytes() == b"precious"


@needs_ort
@needs_torch
def test_the_whole_loop(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Expand, train, fold, check and inspect work on each other's files."""
    steps = [
        "expand net.onnx big.onnx --strategy ck+fc --rate 2 --report expand.json",
        "train big.onnx trained.onnx --data data.npz --epochs 1 --batch 8 --report train.json",
        "fold trained.onnx small.onnx --report fold.json",
        "check trained.onnx small.onnx --json check.json",
        "inspect small.onnx --sites --json inspect.json",
    ]
    rng = np.random.default_rng(0)
    images = rng.standard_normal((40, 3, 32, 32)).astype(np.float32)
    np.savez(folder / "data.npz", x=images, y=np.arange(40) % 10)
    for step in steps:
        code, _, err = run(folder, capsys, *step.split())
        assert (code, err) == (0, "")
    compact, small = (onnx.load(folder / name) for name in ("net.onnx", "small.onnx"))
    assert [n.name for n in small.graph.node] == [n.name for n in compact.graph.node]
    reports = {p.stem: json.loads(p.read_text()) for p in folder.glob("*.json")}
    assert reports["check"]["equal"] is True
    assert reports["inspect"]["parameters"] == 66_186
    assert {site["result"][0] for site in reports["fold"]["folded"]} >= {"conv1", "fc1"}
    assert len(reports["train"]["epochs"]) == 1


@needs_ort
def test_models_that_differ_are_code_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A different seed is a different model."""
    onnx.save(smallnet.build(kernel=7, seed=1), folder / "other.onnx")
    code, out, _ = run(folder, capsys, "check", "net.onnx", "other.onnx")
    assert code == 1
    assert out.startswith("different")


@needs_ort
def test_a_fold_that_would_be_wrong_is_not_written(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the folded model does not compute the same, nothing is written and the code is 1."""
    from onnx_expand.algebra import affine

    right = affine.AffineConv.__matmul__

    def wrong(g: affine.AffineConv, f: affine.AffineConv) -> affine.AffineConv:
        from dataclasses import replace

        product = right(g, f)
        return replace(product, weight=product.weight * 1.001)

    monkeypatch.setattr(affine.AffineConv, "__matmul__", wrong)
    code, _, err = run(folder, capsys, "fold", "net.onnx", "out.onnx", "--policy", "cheapest")
    assert code == 1
    assert "not written" in err
    assert (folder / "out.onnx").read_bytes() == b"precious"


def test_json_on_standard_output_is_only_json(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With `-` the figures come as JSON and nothing else does."""
    code, out, _ = run(folder, capsys, "inspect", "net.onnx", "--json", "-")
    assert code == 0
    assert json.loads(out)["macs"] == 4_448_896
    code, out, _ = run(folder, capsys, "fold", "net.onnx", "--dry-run", "--report", "-")
    assert code == 0
    assert json.loads(out)["policy"] == "cheapest"


def test_a_dry_run_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--dry-run` says what would be folded and leaves every file as it was."""
    code, out, _ = run(folder, capsys, "fold", "net.onnx", "out.onnx", "--dry-run")
    assert code == 0
    assert "conv1 + bn1" in out
    assert (folder / "out.onnx").read_bytes() == b"precious"


def test_help_teaches(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command explains itself with an example or a sentence per option."""
    for command in ("expand", "train", "fold", "check", "inspect"):
        code, out, _ = run(folder, capsys, command, "--help")
        assert code == 0
        assert len(out.splitlines()) > 8
    code, _, err = run(folder, capsys)
    assert code == 2
    assert "Exit codes" in err


@needs_torch
def test_an_interrupt_leaves_no_partial_file(folder: Path) -> None:
    """Ctrl-C during training ends with one line and leaves the output file alone."""
    words = ["train", "net.onnx", "out.onnx", "--data", "digits", "--epochs", "1000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "onnx_expand", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()  # the data is loaded
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    # Python ends itself by the signal, which a shell reports as 130 too, where the interrupt came
    # while it executed a string, as imports do; the line is written all the same.
    assert process.returncode in {130, -signal.SIGINT}
    assert err.strip() == "onnx-expand: error: interrupted"
    assert (folder / "out.onnx").read_bytes() == b"precious"
    assert not list(folder.glob(".*"))
