"""Files that are bombs end in one line, or are left alone, within seconds and little memory."""

from __future__ import annotations

import contextlib
import io
import multiprocessing as mp
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest

from models import smallnet
from onnx_expand.cli import main
from tests.support.bombs import MODELS, PLANS

SECONDS = 20
MEMORY = 2 << 30

COMMANDS = (
    ("inspect", "{}"),
    ("fold", "{}", "{}.out"),
    ("fold", "{}", "{}.out", "--policy", "always", "--check", "0"),
    ("fold", "{}", "{}.out", "--inline"),
    ("expand", "{}", "{}.out"),
    ("check", "{}", "{}"),
)


def _run(arguments: Sequence[str], connection: mp.connection.Connection) -> None:
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        code = main(list(arguments))
    connection.send((code, errors.getvalue()))


def limited(*arguments: str) -> tuple[int, str]:
    """The exit code of a command within the limits, and its errors.

    The command line runs in a process of its own, so that what it takes can be bounded.
    """
    ours, theirs = mp.Pipe()
    process = mp.get_context("fork").Process(target=_run, args=(arguments, theirs), daemon=True)
    start = time.perf_counter()
    process.start()
    theirs.close()
    try:
        assert ours.poll(SECONDS), f"{' '.join(arguments)}: not done after {SECONDS} s"
        code, errors = ours.recv()
    except EOFError:
        process.join()
        pytest.fail(f"{' '.join(arguments)}: ended by {process.exitcode}")
    finally:
        process.kill()
        process.join()
    assert time.perf_counter() - start < SECONDS
    return code, errors


def assert_decent(code: int, errors: str) -> None:
    """Assert that a command ended as it may: done, or with one line that says why not."""
    lines = [line for line in errors.splitlines() if "warning: " not in line]
    assert code in {0, 1, 2, 3, 4}
    assert "Traceback" not in errors
    assert len(lines) <= 1, errors


@pytest.mark.parametrize("name", MODELS)
def test_models_that_are_bombs(name: str, tmp_path: Path) -> None:
    """Every command ends within the limits, and writes a whole file or none."""
    pytest.importorskip("onnxruntime")
    path = tmp_path / "bomb.onnx"
    onnx.save(MODELS[name](), path)
    for command in COMMANDS:
        code, errors = limited(*[part.replace("{}", str(path)) for part in command])
        assert_decent(code, errors)
        written = tmp_path / "bomb.onnx.out"
        assert written.exists() == (code == 0 and len(command) > 2 and command[0] != "check")
        written.unlink(missing_ok=True)


@pytest.mark.parametrize("name", PLANS)
def test_plans_that_are_bombs(name: str, tmp_path: Path) -> None:
    """A plan that is nested or repeats itself without end is wrong usage, in one line."""
    suffix, text = PLANS[name]
    if suffix == "yaml":
        pytest.importorskip("yaml")
    plan, model = tmp_path / f"plan.{suffix}", tmp_path / "model.onnx"
    plan.write_text(text(), encoding="utf-8")
    onnx.save(smallnet.build(), model)
    code, errors = limited("expand", str(model), str(tmp_path / "out.onnx"), "--plan", str(plan))
    assert_decent(code, errors)
    assert code == 2
    assert len(errors) < 1000
    assert not (tmp_path / "out.onnx").exists()
