"""Fold many random models and report the results.

    python -m tests.support.fuzz --count 5000

Each model is folded with every policy and judged. Some models are also expanded, or have their
borders bridged. A failing model is shrunk and written to the directory `--keep`.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import multiprocessing as mp
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

import onnx_expand
from onnx_expand.errors import OnnxExpandError
from onnx_expand.passes import Fold
from tests.support.crossing import crossed
from tests.support.judge import Source, judge
from tests.support.random_axes import axis_graph
from tests.support.random_empty import empty_graph
from tests.support.random_extents import extent_graph
from tests.support.random_models import KINDS, random_model, sizes_of
from tests.support.wrapped_nodes import wrapped

_SECONDS = 60
_MEMORY = 4 << 30

WRAPPED = "wrapped"
"""The kind of model that is a node test of ONNX between linear neighbours."""

__all__ = ["OTHERS", "WRAPPED", "Finding", "failures", "try_one", "ways"]


@dataclass
class Finding:
    """The result for one model.

    Attributes:
        seed: The model's seed.
        kind: Its kind.
        runs: Whether onnxruntime runs it at all.
        problems: The errors of each rewriting.
        folded: Whether any rewriting changed it.
    """

    seed: int
    kind: str
    runs: bool = True
    folded: bool = False
    problems: dict[str, list[str]] = field(default_factory=dict)


def ways(seed: int) -> list[str]:
    """Return the rewritings of one model: every policy, and occasionally others."""
    found = ["auto", "cheapest", "always"]
    if seed % 7 == 0:
        found.append("preserve")
    if seed % 5 == 0:
        found.append(f"border {('ones', 'map', 'pad')[seed // 5 % 3]}")
    if seed % 40 == 0:
        found.append("latency")
    if seed % 3 == 0:
        found.append("inline")
    return found


def rewrite(model: onnx.ModelProto, way: str) -> onnx.ModelProto:
    """Return the model after one of the rewritings."""
    if way == "preserve":
        result = onnx_expand.expand(model, init="preserve")
    elif way.startswith("border"):
        result = onnx_expand.fold(model, border=way.split()[1])
    elif way == "inline":
        result = onnx_expand.fold(model, inline=True)
    elif way == "latency":
        result = onnx_expand.fold(model, policy=way, shapes=_drawn_shapes(model))
    else:
        result = onnx_expand.fold(model, policy=way)
    assert isinstance(result, onnx.ModelProto)
    return result


def _drawn_shapes(model: onnx.ModelProto) -> dict[str, list[int | str]]:
    """Return input shapes at the first size, at which the shapes that a model declares hold."""
    size = next(iter(sizes_of(model)), {})
    return {
        value.name: [
            dim.dim_value or size.get(dim.dim_param, dim.dim_param)
            for dim in value.type.tensor_type.shape.dim
        ]
        for value in model.graph.input
        if any(dim.dim_param in size for dim in value.type.tensor_type.shape.dim)
    }


def failures(model: onnx.ModelProto, way: str, source: Source | None = None) -> list[str]:
    """Return what is wrong with a model after one of the rewritings."""
    source = source or Source(model, sizes_of(model))
    before = model.SerializeToString(deterministic=True)
    try:
        result = rewrite(model, way)
    except OnnxExpandError as error:
        return [] if way == "preserve" else [f"refused: {error}"]
    except Exception:
        return [f"traceback: {traceback.format_exc().strip().splitlines()[-1]} in {_where()}"]
    if model.SerializeToString(deterministic=True) != before:
        return ["the caller's model was changed"]
    slack = 200.0 if way == "preserve" else 1.0
    problems = judge(source, result, slack=slack, strict=way not in {"inline", "preserve"})
    if way == "preserve" or problems:
        return problems
    return problems + _steadiness(model, result, way)


def _steadiness(model: onnx.ModelProto, result: onnx.ModelProto, way: str) -> list[str]:
    """Check that folding is idempotent, deterministic, and reports whether it changed anything."""
    problems: list[str] = []
    if way == "latency":
        return problems
    again = rewrite(result, way)
    if again.SerializeToString(deterministic=True) != result.SerializeToString(deterministic=True):
        problems.append(f"folding again changes it: {_nodes(again)} of {_nodes(result)}")
    if way in {"cheapest", "always"}:
        twin = ir.serde.deserialize_model(onnx.ModelProto.FromString(model.SerializeToString()))
        before = ir.serde.serialize_model(twin).SerializeToString(deterministic=True)
        said = Fold(way).call(twin).modified  # type: ignore[arg-type]
        after = ir.serde.serialize_model(twin).SerializeToString(deterministic=True)
        if said != (before != after):
            problems.append(f"says modified={said}")
    return problems


def _nodes(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def _where() -> str:
    frames = [f for f in traceback.extract_tb(sys.exc_info()[2]) if "onnx_expand" in f.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "elsewhere"


def _wrapped(seed: int) -> Source | None:
    found = wrapped(seed)
    return found and Source(found[0], (), seed, [found[1]])


def _axes(seed: int) -> Source | None:
    drawn = axis_graph(seed)
    model = drawn.model()
    read = {port.name for port in model.graph.input}
    shapes = {name: shape for name, shape in drawn.shapes.items() if name in read}
    return Source(model, (), seed, [{"x": x} | shapes for x in drawn.inputs()])


def _of_extents(draw: Callable[[int], onnx.ModelProto], seed: int) -> Source:
    """Draw a model of one input, with inputs of all sizes from 0.

    Of several symbols, one at most is 0: a target of a Reshape copies an extent where it computes
    0, which of two empty axes may be the other one's.
    """
    model, rng = draw(seed), np.random.default_rng(seed)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    names = sorted({dim.dim_param for dim in dims if dim.dim_param})
    feeds = []
    for sizes in itertools.product((3, 1, 0), repeat=len(names)):
        if sizes.count(0) > 1:
            continue
        own = dict(zip(names, sizes, strict=True))
        shape = [own.get(dim.dim_param, dim.dim_value) for dim in dims]
        feeds.append({"x": rng.standard_normal(shape).astype(np.float32)})
    return Source(model, (), seed, feeds)


OTHERS: dict[str, Callable[[int], Source | None]] = {
    WRAPPED: _wrapped,
    "crossing": crossed,
    "axes": _axes,
    "empty": functools.partial(_of_extents, empty_graph),
    "extents": functools.partial(_of_extents, extent_graph),
}
"""Kinds with inputs of their own. Those of odd seeds of `extents` compute extents in ways that no
rule follows."""


def _drawn(seed: int, kind: str) -> Source | None:
    """Draw a model with its outputs; None if the kind has none for this seed."""
    if kind in OTHERS:
        return OTHERS[kind](seed)
    model = random_model(seed, kind)
    return Source(model, sizes_of(model), seed)


def try_one(seed: int, kind: str) -> Finding:
    """Apply the rewritings to one model."""
    finding = Finding(seed, kind)
    source = _drawn(seed, kind)
    if source is None:
        finding.runs = False
        return finding
    model = source.model
    if source.error:
        finding.runs = False
        return finding
    for way in ways(seed):
        if way in {"latency", "preserve"} and kind in OTHERS:
            continue  # a size to measure may be unknown; layers to train are not empty
        problems = failures(model, way, source)
        if problems:
            finding.problems[way] = problems
    return finding


class _SlowError(BaseException):
    """A model took too long; a BaseException, so that no handler of errors catches it."""


def _prepare() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    signal.signal(signal.SIGALRM, _give_up)


def _give_up(*_: object) -> None:
    raise _SlowError


def _work(job: tuple[int, str]) -> Finding:
    signal.alarm(_SECONDS)
    try:
        return try_one(*job)
    except _SlowError:
        return Finding(*job, problems={"auto": [f"takes longer than {_SECONDS} s"]})
    except MemoryError:
        return Finding(*job, problems={"auto": ["takes too much memory"]})
    finally:
        signal.alarm(0)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--kinds", default=",".join((*KINDS, *OTHERS)))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="a directory for models that fail, made smaller")
    parser.add_argument("--report", type=Path, help="a file for the figures as JSON")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    kinds = arguments.kinds.split(",")
    jobs = [
        (arguments.first + i // len(kinds), kinds[i % len(kinds)]) for i in range(arguments.count)
    ]
    start, counts = time.perf_counter(), Counter[str]()
    failed = []
    with mp.get_context("spawn").Pool(arguments.processes, _prepare, maxtasksperchild=500) as pool:
        for finding in pool.imap_unordered(_work, jobs, chunksize=4):
            counts["models"] += 1
            counts["source does not run"] += not finding.runs
            counts["failed"] += bool(finding.problems)
            found = {_sort(p) for problems in finding.problems.values() for p in problems}
            counts.update(f"  {sort}" for sort in found)
            if finding.problems:
                failed.append(vars(finding))
                print(json.dumps(failed[-1]), flush=True)
                if arguments.keep:
                    _keep(finding, arguments.keep)
    figures = {"counts": dict(counts), "seconds": round(time.perf_counter() - start, 1)}
    print(json.dumps(figures, indent=2))
    if arguments.report:
        arguments.report.write_text(json.dumps({**figures, "failed": failed}, indent=2) + "\n")
    return 1 if failed else 0


def _sort(problem: str) -> str:
    """Return a problem without the details of one model, for grouping."""
    return re.split("[:'{]", problem)[0].strip() or "numbers"


def _keep(finding: Finding, directory: Path) -> None:
    from tests.support.shrink import shrink

    drawn = _drawn(finding.seed, finding.kind)
    assert drawn is not None
    given = [feeds for feeds, _, _ in drawn.runs] if finding.kind in OTHERS else []
    directory.mkdir(parents=True, exist_ok=True)
    way, problems = next(iter(finding.problems.items()))
    sort = _sort(problems[0])

    def still(model: onnx.ModelProto) -> bool:
        own = {port.name for port in model.graph.input}
        feeds = [{name: run[name] for name in own if name in run} for run in given]
        sizes = [] if given else sizes_of(model)
        source = Source(model, sizes, finding.seed, feeds, drawn.runnable, drawn.coarseness)
        if source.error:
            return False
        found = failures(model, way, source)
        return any(_sort(problem) == sort for problem in found)

    model = shrink(drawn.model, still)
    stem = f"{finding.kind}_{finding.seed}_{way.replace(' ', '_')}"
    onnx.save(model, directory / f"{stem}.onnx")
    text = "\n".join([*problems, onnx.printer.to_text(model)])
    (directory / f"{stem}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
