"""Run tools and fold on the same graphs: `python -m benchmarks.peers --help`."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.graphs import GRAPHS, Graph
from benchmarks.peers.tables import put_in, section
from benchmarks.peers.tools import TOOLS

_LIMIT = 900  # seconds of a process
_LONG = 10.0  # seconds of CPU above which a tool is not run once more


def _run(module: str, *words: str) -> tuple[Any, str]:
    """What a process prints as JSON, or why it prints nothing."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.peers.{module}", *words]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_LIMIT, env=env, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"takes more than {_LIMIT} s"
    if done.returncode < 0:
        return None, f"dies of signal {-done.returncode}"
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0:
        return (json.loads(lines[-1]) if module != "graphs" else None), ""
    words_said = done.stderr.strip().splitlines()
    return None, (words_said[-1] if words_said else f"ends with {done.returncode}")[:200]


def _ask(folder: Path, what: str, **plan: Any) -> tuple[Any, str]:
    file = folder / "plan.json"
    file.write_text(json.dumps(plan))
    return _run("evaluate", what, str(file))


def _transform(
    folder: Path, source: Path, tools: Sequence[str], rounds: int
) -> dict[str, dict[str, Any]]:
    """Run each tool some times, in turns; the least time and most memory of each."""
    rows: dict[str, dict[str, Any]] = {tool: {} for tool in tools}
    for turn in range(rounds):
        for tool in tools:
            row = rows[tool]
            if "problem" in row or (turn and row["cpu"] > _LONG):
                continue
            target = _target(folder, tool)
            target.parent.mkdir(exist_ok=True)
            for old in target.parent.iterdir():
                old.unlink()
            took, problem = _run("tools", tool, str(source), str(target))
            if problem:
                rows[tool] = {"problem": problem}
                continue
            row["cpu"] = min(took["cpu"], row.get("cpu", took["cpu"]))
            row["memory"] = max(took["memory"], row.get("memory", 0))
    return rows


def _target(folder: Path, tool: str) -> Path:
    return folder / re.sub("[^a-z]+", "-", tool) / f"model{TOOLS[tool][1]}"


def compare(
    graph: Graph, tools: Sequence[str], folder: Path, rounds: int, seconds: float
) -> dict[str, Any]:
    """Everything about one graph: a row for each tool."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "source.onnx"
    if not source.exists():
        _, problem = _run("graphs", graph.name, str(source))
        if problem:
            return {"graph": graph.name, "problem": problem, "rows": {}}
    rows = _transform(folder, source, tools, rounds)
    feeds, meant = folder / "feeds.npz", folder / "meant.npz"
    np.savez(feeds, **graph.feeds())  # type: ignore[arg-type]
    if graph.runs and not meant.exists():
        _ask(folder, "reference", path=str(source), feeds=str(feeds), target=str(meant))
    for tool, row in rows.items():
        if "problem" in row:
            continue
        path = str(_target(folder, tool))
        found, problem = _ask(folder, "counts", path=path)
        row.update(found or {"unreadable": problem})
        if graph.runs and meant.exists():
            found, problem = _ask(folder, "errors", path=path, feeds=str(feeds), meant=str(meant))
            row.update(found or {"fails": problem})
    timed = {
        t: str(_target(folder, t)) for t, r in rows.items() if "error" in r and t != "openvino"
    }
    if graph.runs and timed:
        times, _ = _ask(folder, "timings", paths=timed, feeds=str(feeds), seconds=seconds)
        for tool, values in (times or {}).items():
            rows[tool]["times"] = values
    return {"graph": graph.name, "rows": rows}


def main() -> None:
    """Compare, and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    parser.add_argument("--graphs", default="", help="only names that match this pattern")
    parser.add_argument("--tools", default=",".join(TOOLS), help="by name, with commas")
    parser.add_argument("--large", action="store_true", help="graphs of minutes and gigabytes too")
    parser.add_argument("--folder", type=Path, default=Path("peers"), help="for what is made")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each tool, in turns")
    parser.add_argument("--seconds", type=float, default=20.0, help="of timing for each graph")
    parser.add_argument("--page", type=Path, help="the file whose section is written")
    chosen = parser.parse_args()
    for graph in GRAPHS.values():
        if not re.search(chosen.graphs, graph.name) or (graph.is_large and not chosen.large):
            continue
        own = chosen.folder / re.sub("[^A-Za-z0-9]+", "-", graph.name)
        found = compare(graph, chosen.tools.split(","), own, chosen.rounds, chosen.seconds)
        (own / "result.json").write_text(json.dumps(found))
        print(graph.name, found.get("problem", "done"), flush=True)
    files = [chosen.folder / re.sub("[^A-Za-z0-9]+", "-", n) / "result.json" for n in GRAPHS]
    text = section([json.loads(file.read_text()) for file in files if file.exists()])
    if chosen.page is None:
        print(text)
    else:
        put_in(chosen.page, text)


if __name__ == "__main__":
    main()
