"""How the time of fold grows with the graph: `python -m benchmarks.growth [PATTERN]`.

Each kind of graph is folded at one size and at ten times that, in turns; the figure is the ratio
of CPU times within one run. Where the work per node is the same, it is about ten.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable

import onnx
import onnx_ir as ir

from benchmarks.sites import SITES
from onnx_expand.passes import Fold, Policy

__all__ = ["calls", "seconds"]

_TIMES = 10
_ROUNDS = 3


def seconds(build: Callable[[int], onnx.ModelProto], nodes: int) -> tuple[int, int, float]:
    """Nodes before and after folding a graph of a size, and the CPU time that it takes."""
    proto = build(nodes)
    model = ir.serde.deserialize_model(proto)
    begin = time.process_time()
    Fold(Policy.CHEAPEST).call(model)
    return len(proto.graph.node), len(model.graph), time.process_time() - begin


def calls(build: Callable[[int], onnx.ModelProto], nodes: int) -> int:
    """How many Python functions are called in folding a graph of a size: the same in every run."""
    import cProfile

    model, profile = ir.serde.deserialize_model(build(nodes)), cProfile.Profile(builtins=False)
    profile.enable()
    Fold(Policy.CHEAPEST).call(model)
    profile.disable()
    return sum(entry.callcount for entry in profile.getstats())


def main() -> None:
    """Measure the kinds whose names match the pattern on the command line; all, without one."""
    pattern = sys.argv[1] if len(sys.argv) > 1 else ""
    print("| kind | nodes | after | CPU time | at ten times the nodes | ratio |")
    print("|---|---|---|---|---|---|")
    for name, site in SITES.items():
        if not re.search(pattern, name):
            continue
        small, large = list[tuple[int, int, float]](), list[tuple[int, int, float]]()
        for turn in range(_ROUNDS):
            small.append(seconds(site.build, site.nodes))
            if not turn or large[0][2] < _TIMES:
                large.append(seconds(site.build, _TIMES * site.nodes))
        nodes, after, first = min(small, key=lambda found: found[2])
        *_, second = min(large, key=lambda found: found[2])
        cells = (f"{nodes:,}", f"{after:,}", f"{first:.2f} s", f"{second:.2f} s")
        print(f"| {name} | {' | '.join(cells)} | {second / first:.1f} |", flush=True)


if __name__ == "__main__":
    main()
