"""What became of a graph: its counts, its numbers and how long it takes.

`python -m benchmarks.peers.evaluate outputs|timings PLAN` reads a JSON file and prints JSON: a
runtime that crashes takes no more than this process with it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["counts", "reference"]

_Arrays = dict[str, npt.NDArray[Any]]
_BLOCKS, _LEAST = 12, 6  # sessions of each result: the usual number, and what an interval needs
_PATIENCE = 300.0  # seconds after which the least number is enough
_RUNS = 12  # of each session


def counts(path: Path) -> dict[str, Any]:
    """Nodes, linear nodes, products and bytes of a model's file."""
    beside = [p for p in path.parent.glob(f"{path.stem}*") if p != path]
    size = path.stat().st_size + sum(p.stat().st_size for p in beside)
    if path.suffix == ".xml":
        import openvino

        kinds = [op.get_type_name() for op in openvino.Core().read_model(path).get_ops()]
        return {
            "nodes": sum(kind not in {"Constant", "Parameter", "Result"} for kind in kinds),
            "bytes": size,
        }
    import onnx_expand

    found = onnx_expand.inspect(path)
    constants = found.ops.get("Constant", 0)
    return {
        "nodes": found.nodes - constants,
        "constants": constants,
        "linear": found.linear_nodes,
        "macs": found.macs,
        "bytes": size,
    }


def reference(path: Path, feeds: Path, target: Path) -> None:
    """What a model means on some inputs, in float64.

    Args:
        path: The model.
        feeds: Its inputs, an `.npz` file.
        target: Where the outputs go.
    """
    from onnx_expand.runtimes import Reference

    session = Reference().session(path, path.name)
    np.savez(target, **session.run(dict(np.load(feeds))))  # type: ignore[arg-type]


def _session(path: str, optimize: bool) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _outputs(path: str, feeds: _Arrays) -> list[npt.NDArray[Any]]:
    if path.endswith(".xml"):
        import openvino

        core = openvino.Core()
        compiled = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = compiled(feeds)
        return [found[i] for i in range(len(compiled.outputs))]
    return list(_session(path, True).run(None, feeds))


def _errors(path: str, feeds: str, meant: str) -> dict[str, float]:
    """The largest difference from what is meant, relative to the largest number there."""
    wanted = list(np.load(meant).values())
    found = _outputs(path, dict(np.load(feeds)))
    if len(found) != len(wanted) or any(
        a.shape != b.shape for a, b in zip(found, wanted, strict=True)
    ):
        raise ValueError("other outputs than the source")
    differences = (
        np.max(np.abs(a.astype(np.float64) - b), initial=0.0) / np.max(np.abs(b), initial=1e-30)
        for a, b in zip(found, wanted, strict=True)
    )
    return {"error": float(max(differences))}


def _timings(paths: Mapping[str, str], feeds: str, seconds: float) -> dict[str, list[float]]:
    """Median times of blocks of runs by name; the n-th of all were taken in turns.

    Every block has sessions of its own, made in mixed order: two sessions of one model differ by
    1 to 4 %, which an interval over the runs of one session would not show.
    """
    arrays = dict(np.load(feeds))
    times: dict[str, list[float]] = {name: [] for name in paths}
    rng, names = np.random.default_rng(0), list(paths)
    started, done = time.perf_counter(), 0
    while done < _LEAST or time.perf_counter() - started < (
        seconds if done >= _BLOCKS else max(seconds, _PATIENCE)
    ):
        done += 1
        sessions = {names[i]: _session(paths[names[i]], True) for i in rng.permutation(len(names))}
        for session in sessions.values():
            session.run(None, arrays)
        block: dict[str, list[float]] = {name: [] for name in names}
        for index in (i for _ in range(_RUNS) for i in rng.permutation(len(names))):
            begin = time.thread_time()  # what others do on the machine does not count
            sessions[names[index]].run(None, arrays)
            block[names[index]].append(time.thread_time() - begin)
        for name, values in block.items():
            times[name].append(float(np.median(values)))
    return times


def main() -> None:
    """Do what the command line names, by the plan in a file."""
    what, plan = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    found: Any = None
    if what == "counts":
        found = counts(Path(plan["path"]))
    elif what == "reference":
        reference(*(Path(plan[key]) for key in ("path", "feeds", "target")))
    elif what == "errors":
        found = _errors(plan["path"], plan["feeds"], plan["meant"])
    else:
        found = _timings(plan["paths"], plan["feeds"], plan["seconds"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
