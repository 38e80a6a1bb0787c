"""Executors of studies give the results of a single process, and lose no run."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from onnx_expand.cli import main
from onnx_expand.errors import ModelError, UnsupportedError
from onnx_expand.experiment.paper import Job, by_slurm, in_process, in_ray, perform, run_study
from tests.support.jobs import TOY, pair, squares

PIDS = "ONNX_EXPAND_TEST_PIDS"


def scores(executor: Any, place: Path) -> list[tuple[float, ...]]:
    """Return the scores of a toy study."""
    return [row.scores for row in run_study(pair(), TOY, (0, 1), place, executor=executor).rows]


def noted() -> Any:
    """Return data for a run, whose process writes its id on request."""
    if PIDS in os.environ:
        (Path(os.environ[PIDS]) / str(os.getpid())).touch()
    return squares()


_TRAIN = {"epochs": 40, "batch": 16, "schedule": "cosine"}
_LONG = Job("smallnet", TOY.build, None, f"{__name__}:noted", {}, _TRAIN)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start a local Ray cluster of two workers, whose processes can import the tests."""
    ray = pytest.importorskip("ray")
    (tmp_path / "pids").mkdir()
    monkeypatch.setenv(PIDS, str(tmp_path / "pids"))
    monkeypatch.setenv("PYTHONPATH", os.getcwd(), prepend=os.pathsep)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.filterwarnings("ignore")
def test_ray_equals_one_process(cluster: None, tmp_path: Path) -> None:
    """Two workers give the scores of one process."""
    assert scores(in_ray(), tmp_path / "ray") == scores(in_process, tmp_path / "one")


@pytest.mark.filterwarnings("ignore")
def test_a_killed_worker_loses_nothing(cluster: None, tmp_path: Path) -> None:
    """Its run resumes elsewhere from its last epoch, with identical results."""
    whole = perform(_LONG, tmp_path / "whole")
    (tmp_path / "pids" / str(os.getpid())).unlink()
    killed: list[int] = []

    def kill() -> None:
        """Kill the process that trains as soon as it has written a checkpoint."""
        until = time.monotonic() + 240
        while time.monotonic() < until and not [*(tmp_path / "ray").glob("*/checkpoint.pt")]:
            time.sleep(0.02)
        killed.extend(int(file.name) for file in (tmp_path / "pids").iterdir())
        for pid in killed:
            os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    ((_, result),) = in_ray()([_LONG], tmp_path / "ray")
    killer.join()
    assert len(killed) == 1
    assert len([*(tmp_path / "pids").iterdir()]) == 2
    assert result["curve"] == whole["curve"]
    assert result["score"] == whole["score"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["debug", "local"])
def test_slurm_equals_one_process(kind: str, tmp_path: Path) -> None:
    """Without Slurm: in this process, and in processes that submitit starts."""
    pytest.importorskip("submitit")
    executor = by_slurm(tmp_path / "logs", {"timeout_min": 60}, kind)
    assert scores(executor, tmp_path / "slurm") == scores(in_process, tmp_path / "one")


def test_a_job_whose_time_is_over_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A submitted job can be queued again, with identical results."""
    submitit = pytest.importorskip("submitit")
    sent: list[Any] = []

    class Engine:
        def __init__(self, *_: Any, **options: Any) -> None:
            assert options["slurm_max_num_timeout"] >= 100

        def update_parameters(self, **parameters: Any) -> None:
            assert parameters["timeout_min"] == 7

        def map_array(self, task: Any, *columns: Any) -> list[Any]:
            sent.extend((task, row) for row in zip(*columns, strict=True))
            return []

    monkeypatch.setattr(submitit, "AutoExecutor", Engine)
    assert [*by_slurm(tmp_path / "logs", {"timeout_min": 7})([_LONG], tmp_path / "runs")] == []
    ((task, row),) = sent

    class Stop:
        def on_batch(self, done: int, total: int) -> None: ...

        def on_epoch(self, result: Any) -> None:
            if result.epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        perform(_LONG, tmp_path / "runs", Stop())
    number, result = task.checkpoint(*row).result()
    assert number == 0
    assert result["curve"] == perform(_LONG, tmp_path / "whole")["curve"]


@pytest.mark.filterwarnings("ignore")
def test_errors_of_executors_are_one_line(cluster: None, tmp_path: Path) -> None:
    """The error is that of the run, or at least its last line."""
    pytest.importorskip("submitit")
    job = Job("smallnet", TOY.build, None, str(tmp_path / "nowhere.npz"))
    with pytest.raises(ModelError, match=r"^[^\n]*nowhere\.npz: no such file[^\n]*$"):
        list(in_ray()([job], tmp_path))
    with pytest.raises(UnsupportedError, match=r"^[^\n]*nowhere\.npz: no such file[^\n]*$"):
        list(by_slurm(tmp_path / "logs", {}, "local")([job], tmp_path))


def test_a_missing_executor_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error states what to install."""
    for module, name in (("ray", "ray"), ("submitit", "slurm")):
        monkeypatch.setitem(__import__("sys").modules, module, None)
        words = f"paper table1 --executor {name} --out {tmp_path}"
        assert main(words.split()) == 4
        assert f"pip install 'onnx-expand[{name}]'" in capsys.readouterr().err
