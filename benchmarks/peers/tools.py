"""The tools that are compared, each run in a process of its own.

`python -m benchmarks.peers.tools TOOL SOURCE TARGET` runs one and prints what it took as JSON.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["TOOLS"]

_Action = Callable[[], None]


def _source(source: str, target: str) -> _Action:
    def run() -> None:
        shutil.copy(source, target)
        beside = Path(f"{source}.data")
        if beside.exists():
            Path(target).with_name(beside.name).symlink_to(beside)

    return run


def _fold(source: str, target: str) -> _Action:
    import onnx_expand.model
    import onnx_expand.passes

    def run() -> None:
        onnx_expand.fold(source, target)

    return run


def _onnxslim(source: str, target: str) -> _Action:
    import onnxslim

    return lambda: onnxslim.slim(source, target)


def _onnxsim(source: str, target: str) -> _Action:
    import onnx
    import onnxsim

    def run() -> None:
        model, agrees = onnxsim.simplify(source)
        if not agrees:
            raise RuntimeError("its own check fails")
        large = model.ByteSize() > 2**31 - 2**20
        onnx.save(model, target, save_as_external_data=large)

    return run


def _onnxoptimizer(source: str, target: str) -> _Action:
    import onnx
    import onnxoptimizer

    return lambda: onnx.save(onnxoptimizer.optimize(onnx.load(source)), target)


def _onnxscript(source: str, target: str) -> _Action:
    import onnx_ir as ir
    from onnxscript import optimizer

    def run() -> None:
        model = ir.load(source)
        optimizer.optimize(model)
        ir.save(model, target, external_data=f"{Path(target).name}.data")

    return run


def _onnxruntime(source: str, target: str) -> _Action:
    import onnxruntime as ort

    def run() -> None:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = target
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    return run


def _openvino(source: str, target: str) -> _Action:
    import openvino

    def run() -> None:
        openvino.save_model(openvino.convert_model(source), target, compress_to_fp16=False)

    return run


TOOLS: dict[str, tuple[Callable[[str, str], _Action], str]] = {
    "source": (_source, ".onnx"),
    "fold": (_fold, ".onnx"),
    "onnxslim": (_onnxslim, ".onnx"),
    "onnxsim": (_onnxsim, ".onnx"),
    "onnxscript": (_onnxscript, ".onnx"),
    "onnxoptimizer": (_onnxoptimizer, ".onnx"),
    "onnxruntime basic": (_onnxruntime, ".onnx"),
    "openvino": (_openvino, ".xml"),
}
"""By name what imports a tool and gives its run, and the ending of what it writes."""


def _peak() -> int:
    """The most memory that this process has held, in KiB."""
    status = Path("/proc/self/status").read_text()
    found = re.search("VmHWM:[^0-9]*([0-9]+)", status)
    assert found is not None
    return int(found[1])


def main() -> None:
    """Run the tool that the command line names."""
    tool, source, target = sys.argv[1:]
    action = TOOLS[tool][0](source, target)
    held, begin = _peak(), time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    action()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = time.process_time() - begin
    cpu += after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    print(json.dumps({"cpu": cpu, "memory": max(_peak() - held, 0) * 1024}))


if __name__ == "__main__":
    main()
