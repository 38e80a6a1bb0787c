"""Two processes that share each step compute the same as one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from onnx_expand.cli import main  # noqa: E402
from onnx_expand.experiment import (  # noqa: E402
    DataOptions,
    Distiller,
    DistillOptions,
    EpochResult,
    TrainOptions,
    load_data,
    train,
)
from onnx_expand.train import to_torch  # noqa: E402
from tests.support.networks import chain, network, plain, write_stripes  # noqa: E402

ROOT = Path(__file__).parents[2]

# 120 training samples: steps of 32 leave a rest of 24, steps of 14 one of 8. With 59 the last
# step has two samples: each process has one, in one part instead of two. With 17 it has one more
# than the processes can share evenly, and with 1 the second process has nothing at all.
HINT = {"distill": "hint", "student_layer": "c", "teacher_layer": "a", "teacher_weight": 0.5}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (plain, {"batch": 32, "accumulate": 3, "ema": 0.5}),
    "statistics": (network, {"batch": 14, "sync_bn": True, "optimizer": "adamw"}),
    "odd": (plain, {"batch": 59, "accumulate": 2, "clip": 0.05}),
    "uneven": (network, {"batch": 17, "sync_bn": True, "weight_decay": 0.1}),
    "idle": (plain, {"batch": 1, "nesterov": True, "lr": 0.002}),
    # 120 = 3 x 37 + 9: parts of 13, 12 and 12 samples, then of 3; the statistics of a part are
    # over both processes. The last 9 parts of one sample leave the second process idle.
    "parts": (network, {"batch": 37, "accumulate": 3, "sync_bn": True, "ema": 0.9}),
    "alone": (network, {"batch": 111, "accumulate": 50, "sync_bn": True}),
    "kd": (network, {"batch": 37, "sync_bn": True, "teach": {"temperature": 2.0}}),
    "hint": (plain, {"batch": 37, "clip": 0.1, "teach": HINT}),
    "pkt": (plain, {"batch": 37, "accumulate": 2, "teach": {"distill": "pkt"}}),
    "composed": (chain, {"batch": 32, "accumulate": 3, "execution": "composed"}),
}


def trained(folder: Path, name: str) -> tuple[dict[str, Any], tuple[EpochResult, ...]]:
    """Return the weights of a case, and its epochs."""
    build, changes = CASES[name]
    settings = dict(changes)
    teach = settings.pop("teach", None)
    model = build()
    for node in model.graph.node:
        if node.op_type == "Dropout":  # each process draws its own random values
            node.op_type = "Identity"
    augment = DataOptions(augment=("flip", "crop:1"))
    source = folder / ("few.npz" if name == "idle" else "data.npz")
    data = load_data(source, channels=1, size=(6, 6), classes=3, options=augment)
    teacher = None
    if teach is not None:
        teacher = Distiller(chain(), DistillOptions(teacher="given", **teach))
    module = to_torch(model) if teacher is None else teacher.student(model)
    options = TrainOptions(**{"epochs": 2, "lr": 0.05, **settings})
    history = train(module, data, options, teacher=teacher)
    return module.state_dict(), history.epochs


def start(folder: Path, *words: str) -> list[str]:
    """Run a Python command in two processes, as torchrun does; return what each printed."""
    results = begin(folder, *words)
    assert all(code == 0 for code, _, _ in results), results
    return [out for _, out, _ in results]


def begin(folder: Path, *words: str) -> list[tuple[int, str, str]]:
    """Run a Python command in two processes, as torchrun does; return exit codes and outputs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    base = {
        **os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        "WORLD_SIZE": "2", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    children = [
        subprocess.Popen(
            [sys.executable, *words], cwd=folder, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.PIPE, env={**base, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    results = [child.communicate(timeout=120) for child in children]
    codes = [child.returncode for child in children]
    return [(code, *result) for code, result in zip(codes, results, strict=True)]


SCRIPT = """
import sys, pathlib, torch
from onnx_expand.experiment.training.parallel import process_group
from tests.experiment.test_parallel import CASES, trained
torch.set_num_threads(1)
folder = pathlib.Path(sys.argv[1])
with process_group("cpu") as world:
    results = {name: trained(folder, name) for name in CASES}
if world.first:
    weights = {name: (state, [e.test_score for e in epochs], [e.loss for e in epochs])
               for name, (state, epochs) in results.items()}
    torch.save(weights, folder / "two.pt")
"""


def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Weights, losses and scores agree up to rounding, for any remainder of a step."""
    write_stripes(tmp_path / "data.npz")
    write_stripes(tmp_path / "few.npz", 12)
    start(tmp_path, "-c", SCRIPT, str(tmp_path))
    results = torch.load(tmp_path / "two.pt")
    for name, (state, scores, losses) in results.items():
        alone, epochs = trained(tmp_path, name)
        for key, tensor in alone.items():
            # Sums of at most 60 terms in another order, amplified by a few steps of rate 0.05.
            torch.testing.assert_close(
                state[key], tensor, rtol=2e-5, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}"
            )
        assert scores == [e.test_score for e in epochs]
        np.testing.assert_allclose(losses, [e.loss for e in epochs], rtol=1e-5)


def test_only_the_first_process_writes_and_prints(tmp_path: Path) -> None:
    """The command under torchrun writes the files of one process, and prints once."""
    model = network()
    onnx.save(model, tmp_path / "net.onnx")
    write_stripes(tmp_path / "data.npz")
    words = ["--data", "data.npz", "--batch", "30", "--sync-bn"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert main(["train", "net.onnx", "one.onnx", *words, "--epochs", "2"]) == 0
        # Two processes resume the run of one.
        assert main(["train", "net.onnx", "two.onnx", *words, "--epochs", "1"]) == 0
    (tmp_path / "two.onnx").unlink()
    command = ["-m", "onnx_expand", "train", "net.onnx", "two.onnx", *words]
    out, silent = start(tmp_path, *command, "--epochs", "2", "--resume")
    assert "2 processes share each step" in out
    assert "goes on" in out
    assert silent == ""
    files = sorted(path.name for path in (tmp_path / "two.run").iterdir())
    assert [name for name in files if name != "curves.png"] == [
        "checkpoint-model-0.pt",
        "history.csv",
    ]
    one, two = (
        {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
        for path in (tmp_path / "one.onnx", tmp_path / "two.onnx")
    )
    for key, array in one.items():
        np.testing.assert_allclose(two[key], array, rtol=2e-5, atol=2e-6)


LOST = """
import sys
from onnx_expand.errors import OnnxExpandError, UsageError
from onnx_expand.experiment.training.parallel import process_group
try:
    with process_group("cpu") as world:
        if not world.first:
            raise UsageError("this one fails")
        world.gather("waits")
except OnnxExpandError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def test_a_lost_process_is_one_line(tmp_path: Path) -> None:
    """The failed process reports the reason, the other one that it has lost a process."""
    (first, _, waited), (second, _, failed) = begin(tmp_path, "-c", LOST)
    assert (first, second) == (1, 1)
    assert failed.strip() == "UsageError: this one fails"
    lines = [line for line in waited.splitlines() if not line.startswith("[")]
    assert len(lines) == 1
    assert lines[0].startswith("UnsupportedError: process 0 lost another process")
