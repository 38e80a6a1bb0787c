"""Composite patterns before and after fold, in onnxruntime: `python -m benchmarks.patterns`.

Every row is a pattern between two matrix products on [1, 196, 512], at an operator set, in a
spelling that is drawn at random and in one that onnxruntime fuses. Ratios of the time of one
thread, over blocks of new sessions in turns, with a 95 % interval.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

import onnx_expand
from onnx_expand.graph.patterns import PATTERNS
from onnx_expand.passes.benchmark import Benchmark
from tests.support.composites import model_of, spelled

_SECONDS = 4.0
_SHAPE = (1, 196, 512)
_OPSETS = (13, 17, 23)


def row(source: onnx.ModelProto) -> str:
    """Time of the folded model by the source's."""
    held = {
        "source": ir.serde.deserialize_model(source),
        "folded": ir.serde.deserialize_model(onnx_expand.fold(source)),
    }
    result = Benchmark(held["source"], "cpu", seconds=_SECONDS).time(held)
    middle, low, high = result.ratio("folded", "source")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    """Print a table."""
    print("| pattern | operator set | as drawn | as fused |")
    print("|---|---|---|---|")
    for pattern in (p for p in PATTERNS if p.name != "attention"):
        for opset in _OPSETS:
            cells = []
            for expression in (pattern.spelling, pattern.fused):
                if expression is None:
                    cells.append("")
                    continue
                source = model_of(
                    spelled(expression, np.random.default_rng(opset)), opset, shape=_SHAPE
                )
                cells.append(row(source))
            print(f"| {pattern.name} | {opset} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
