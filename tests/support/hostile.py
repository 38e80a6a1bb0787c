"""Fold many broken models and report the results.

The command line's own `main` folds each model in a process with bounded memory. Valid results are
exit code 0, 3 or 4 with one line; never a traceback, and never more than ten seconds.

    python -m tests.support.hostile --count 50000
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing as mp
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from onnx_expand.cli import main as command_line
from tests.support.mutations import Broken, broken, sources

__all__ = ["Outcome", "attempt", "run"]

SECONDS = 10
MEMORY = 4 << 30
_ALLOWED = {0, 3, 4}


class Hang(BaseException):
    """A model took too long; a BaseException, so that no handler of errors catches it."""


@dataclass(frozen=True)
class Outcome:
    """The result for one model.

    Attributes:
        code: The exit code, or what happened instead.
        seconds: The duration.
        detail: The evidence of a failure.
    """

    code: int | str
    seconds: float
    detail: str = ""

    @property
    def is_fine(self) -> bool:
        """Whether the result is one of the valid ones."""
        return self.code in _ALLOWED


def attempt(model: Broken, directory: Path, options: Sequence[str] = ("--check", "0")) -> Outcome:
    """Fold one broken model, from a file to a file."""
    source, target = directory / "model.onnx", directory / "out.onnx"
    source.write_bytes(model.content)
    for name, content in model.files.items():
        (directory / name).write_bytes(content)
    if not (directory / "link").is_symlink():
        (directory / "link").symlink_to("/etc/passwd")
    said, errors = io.StringIO(), io.StringIO()
    start = time.perf_counter()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
            code: int | str = command_line(["fold", str(source), str(target), *options])
        detail = errors.getvalue()
    except Hang:
        code, detail = "hang", traceback.format_exc()
    except BaseException:
        code, detail = "traceback", traceback.format_exc()
    seconds = time.perf_counter() - start
    lines = [line for line in detail.splitlines() if not line.startswith("onnx-expand: warning: ")]
    if code in {3, 4} and (len(lines) != 1 or not lines[0].startswith("onnx-expand: error: ")):
        code = f"{code} with more than one line"
    if code != 0 and target.exists():
        code, detail = f"{code} but a file was written", detail
    left = {p.name for p in directory.iterdir()} - {"model.onnx", "out.onnx", "link", *model.files}
    if left - {"out.onnx.data"}:
        code, detail = "left files behind", repr(sorted(left))
    for path in (target, target.with_name("out.onnx.data")):
        path.unlink(missing_ok=True)
    for name in model.files:
        (directory / name).unlink()
    return Outcome(code, seconds, detail)


def _worker(seed: int, connection: Connection, options: Sequence[str]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, _raise_hang)
    sources()
    directory = Path(tempfile.mkdtemp())
    try:
        while (number := connection.recv()) is not None:
            model = broken(seed, number)
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            outcome = attempt(model, directory, options)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send(outcome)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _raise_hang(*_: object) -> None:
    raise Hang


class _Process:
    """A process that folds models one by one, and is restarted when it dies."""

    def __init__(self, seed: int, options: Sequence[str]) -> None:
        self._seed, self._options = seed, options
        self._start()

    def _start(self) -> None:
        self._connection, inner = mp.Pipe()
        context = mp.get_context("fork")
        self._process = context.Process(
            target=_worker, args=(self._seed, inner, self._options), daemon=True
        )
        self._process.start()
        inner.close()

    def fold(self, number: int) -> Outcome:
        self._connection.send(number)
        try:
            if self._connection.poll(2 * SECONDS):
                outcome: Outcome = self._connection.recv()
                return outcome
            detail: int | str | None = "stuck in native code"
        except (EOFError, ConnectionResetError):
            self._process.join()
            detail = self._process.exitcode
        self._process.kill()
        self._process.join()
        self._start()
        return Outcome("killed", 2.0 * SECONDS, str(detail))

    def stop(self) -> None:
        self._connection.send(None)
        self._process.join()


def run(
    seed: int, numbers: Sequence[int], options: Sequence[str] = ("--check", "0")
) -> dict[str, Any]:
    """Fold the broken models of some numbers in a separate process.

    Returns:
        The counts of each exit code and mutation, the slowest model, the peak memory, and all
        failures.
    """
    sources()  # once, before the process is forked
    process = _Process(seed, options)
    codes: Counter[str] = Counter()
    mutations: Counter[str] = Counter()
    folded_after: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    slowest, failures = (0.0, -1), []
    start = time.perf_counter()
    for number in numbers:
        outcome = process.fold(number)
        done = broken(seed, number).mutations
        codes[str(outcome.code)] += 1
        mutations.update(set(done))
        folded_after.update(set(done) if outcome.code == 0 else ())
        slowest = max(slowest, (outcome.seconds, number))
        if outcome.code in {3, 4}:
            reasons[_kind(outcome.detail)] += 1
        if not outcome.is_fine:
            failures.append({"number": number, "mutations": done, **vars(outcome)})
            print(json.dumps(failures[-1]), file=sys.stderr, flush=True)
    process.stop()
    return {
        "seed": seed,
        "models": len(numbers),
        "codes": dict(codes),
        "slowest": {"seconds": round(slowest[0], 3), "number": slowest[1]},
        "memory_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        "seconds": round(time.perf_counter() - start, 1),
        "mutations": {k: [folded_after[k], n] for k, n in mutations.most_common()},
        "reasons": dict(reasons.most_common(40)),
        "failures": failures,
    }


def _kind(line: str) -> str:
    """Return a message without the details of one model, for grouping."""
    words = line.split("model.onnx: ", 1)[-1].split()
    return " ".join(w for w in words[:9] if not any(c.isdigit() or c in "'\"/" for c in w))


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true", help="compare in onnxruntime, too")
    parser.add_argument("--policy", default="auto")
    parser.add_argument("--report", help="a file for the figures as JSON")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    options = ["--policy", arguments.policy, *([] if arguments.check else ["--check", "0"])]
    numbers = range(arguments.first, arguments.first + arguments.count)
    figures = run(arguments.seed, numbers, options)
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.report:
        Path(arguments.report).write_text(text + "\n", encoding="utf-8")
    return 1 if figures["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
