"""A stopped run resumes with the results of an uninterrupted one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from onnx_expand.cli import main  # noqa: E402
from onnx_expand.errors import ModelError, UsageError  # noqa: E402
from onnx_expand.experiment import (  # noqa: E402
    Checkpoints,
    DataOptions,
    Dataset,
    EpochResult,
    TrainOptions,
    load_data,
    train,
)
from onnx_expand.train import to_torch  # noqa: E402
from tests.support.networks import chain, network, plain, stripes, write_stripes  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Draw stripes, randomly augmented."""
    path = write_stripes(tmp_path_factory.mktemp("data") / "stripes.npz")
    options = DataOptions(augment=("flip", "crop:1"))
    return load_data(path, channels=1, size=(6, 6), classes=3, options=options)


class StopError(Exception):
    """Stops a run."""


class Stopper:
    """Stops a run after a number of steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_batch(self, done: int, total: int) -> None:
        """Counts."""
        self.steps -= 1
        if self.steps == 0:
            raise StopError

    def on_epoch(self, result: EpochResult) -> None:
        """Does nothing."""


VARIANTS: list[dict[str, Any]] = [
    {},
    {"optimizer": "adamw", "ema": 0.9, "schedule": "cosine", "warmup": 0.5},
    {"nesterov": True, "weight_decay": 0.01, "clip": 0.1, "accumulate": 3, "keep": "best"},
    {"amp": "bf16", "reset_momentum": True, "schedule": "poly"},
]


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("model", [network, plain])
def test_a_stopped_run_equals_an_uninterrupted_one(
    tmp_path: Path, data: Dataset, changes: dict[str, Any], model: Any
) -> None:
    """Stopped between and within epochs, weights and figures are bitwise equal."""
    options = TrainOptions(epochs=3, batch=16, lr=0.02, **changes)
    whole = to_torch(model())
    wanted = train(whole, data, options)
    for steps in (3, 8, 13, 24):
        path = tmp_path / f"{steps}.pt"
        with pytest.raises(StopError):
            train(
                to_torch(model()), data, options, Stopper(steps), checkpoints=Checkpoints(path, 2)
            )
        module = to_torch(model())
        torch.randn(3)  # a new process has another state of the generator
        history = train(module, data, options, checkpoints=Checkpoints(path, 2, resume=True))
        for name, tensor in whole.state_dict().items():
            assert torch.equal(module.state_dict()[name], tensor), name
        assert [e.loss for e in history.epochs] == [e.loss for e in wanted.epochs]
        assert [e.test_score for e in history.epochs] == [e.test_score for e in wanted.epochs]
        assert history.kept == wanted.kept


def test_a_finished_run_is_not_trained_again(tmp_path: Path, data: Dataset) -> None:
    """Its checkpoint returns the result; with a constant rate, epochs may be added."""
    path = tmp_path / "c.pt"
    first = to_torch(network())
    train(first, data, TrainOptions(epochs=2), checkpoints=Checkpoints(path))
    second = to_torch(network())
    stopper = Stopper(1)
    train(
        second, data, TrainOptions(epochs=2), stopper, checkpoints=Checkpoints(path, resume=True)
    )
    assert torch.equal(first.get_parameter("w"), second.get_parameter("w"))
    assert stopper.steps == 1
    third = to_torch(network())
    history = train(
        third, data, TrainOptions(epochs=3), checkpoints=Checkpoints(path, resume=True)
    )
    assert [result.epoch for result in history.epochs] == [1, 2, 3]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, data: Dataset) -> None:
    """Other options, another model, damaged files and foreign files are distinguished."""
    path = tmp_path / "c.pt"
    train(to_torch(network()), data, TrainOptions(epochs=1), checkpoints=Checkpoints(path))
    again = Checkpoints(path, resume=True)
    with pytest.raises(UsageError, match=r"with lr 0\.01, not 0\.5"):
        train(to_torch(network()), data, TrainOptions(epochs=1, lr=0.5), checkpoints=again)
    with pytest.raises(UsageError, match="another model or other data"):
        train(to_torch(plain()), data, TrainOptions(epochs=1), checkpoints=again)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="not a checkpoint"):
        train(to_torch(network()), data, TrainOptions(epochs=1), checkpoints=again)
    torch.save({"a": 1}, path)
    with pytest.raises(ModelError, match="not a checkpoint of this version"):
        train(to_torch(network()), data, TrainOptions(epochs=1), checkpoints=again)


def test_other_data_or_another_teacher_is_another_run(tmp_path: Path) -> None:
    """Augmentation, pixels, labels and the teacher's weights belong to the identity of a run."""
    onnx.save(network(), tmp_path / "net.onnx")
    onnx.save(plain(), tmp_path / "teacher.onnx")
    x, y = stripes()
    np.savez(tmp_path / "data.npz", x=x, y=y)
    command = ["train", str(tmp_path / "net.onnx"), str(tmp_path / "out.onnx"), "--no-fold-check"]
    command += ["--data", str(tmp_path / "data.npz"), "--teacher", str(tmp_path / "teacher.onnx")]
    assert main([*command, "--epochs", "1"]) == 0
    again = [*command, "--epochs", "2", "--resume"]
    assert main([*again, "--augment", "flip"]) == 2
    assert main([*again, "--temperature", "3"]) == 2
    x[70] = -x[70]
    np.savez(tmp_path / "data.npz", x=x, y=y)
    assert main(again) == 2
    x[70] = -x[70]
    np.savez(tmp_path / "data.npz", x=x, y=y)
    onnx.save(chain(), tmp_path / "teacher.onnx")
    assert main(again) == 2
    onnx.save(plain(), tmp_path / "teacher.onnx")
    assert main([*again, "--cache", "0"]) == 0


def test_a_full_disk_is_one_line(tmp_path: Path, data: Dataset) -> None:
    """A checkpoint that does not fit leaves the previous one, and no partial file."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "c.pt"
    train(to_torch(network()), data, TrainOptions(epochs=1), checkpoints=Checkpoints(path))
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(UsageError, match=r"c\.pt: cannot be written: .*is the disk full"):
            train(to_torch(network()), data, TrainOptions(epochs=1), checkpoints=Checkpoints(path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


class Trap:
    """A class as in a malicious checkpoint."""

    def __reduce__(self) -> Any:
        return os.system, ("touch trapped",)


def test_a_checkpoint_cannot_run_code(
    tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only tensors and plain values are read."""
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "trap": Trap()}, tmp_path / "c.pt")
    again = Checkpoints(tmp_path / "c.pt", resume=True)
    with pytest.raises(ModelError, match="not a checkpoint"):
        train(to_torch(network()), data, TrainOptions(epochs=1), checkpoints=again)
    assert not (tmp_path / "trapped").exists()


def test_a_killed_process_is_continued_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After SIGKILL, the resumed command writes the same file as an uninterrupted one."""
    onnx.save(plain(), tmp_path / "net.onnx")
    write_stripes(tmp_path / "data.npz", 600)
    words = [
        "train", "net.onnx", "{}", "--data", "data.npz",
        "--epochs", "12", "--batch", "8", "--ema", "0.9", "--checkpoint-every", "7",
        "--schedule", "cosine", "--no-fold-check",
    ]  # fmt: skip

    def command(target: str, *more: str) -> list[str]:
        return [word.format(target) for word in words] + list(more)

    monkeypatch.chdir(tmp_path)
    assert main(command("whole.onnx")) == 0
    checkpoint = tmp_path / "killed.run" / "checkpoint-model-0.pt"
    process = subprocess.Popen(
        [sys.executable, "-m", "onnx_expand", *command("killed.onnx")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.005)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed.onnx").exists()
    assert main(command("killed.onnx", "--resume")) == 0
    assert (tmp_path / "killed.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    rows = (tmp_path / "killed.run" / "history.csv").read_text().splitlines()
    assert len(rows) == 13
    assert not list((tmp_path / "killed.run").glob(".*"))
