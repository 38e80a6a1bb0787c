"""Every tool of `docs/integrations.md` runs, and its table says what came out.

`python -m tests.support.hosts docs/integrations.md`, in the environment of `make toolchains`.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir

import onnx_expand
from models import smallnet
from onnx_expand.errors import ModelError
from onnx_expand.passes import Fold, Policy

__all__ = ["HOSTS", "table"]

Run = Callable[[Path], str]
"""Runs a host on a model in a file, and says what came out; files go beside the model."""

_START, _END = "<!-- made by tests/support/hosts.py -->\n", "<!-- end -->\n"


def _outcome(before: Any, after: Any) -> str:
    """Nodes before and after, and the verdict."""
    counts = [onnx_expand.inspect(model).nodes for model in (before, after)]
    return f"{counts[0]} nodes to {counts[1]}; {onnx_expand.check(before, after).summary()}"


def _sequential(path: Path) -> str:
    common = importlib.import_module("onnx_ir.passes.common")
    passes = ir.passes.Sequential(
        common.CommonSubexpressionEliminationPass(), Fold(Policy.CHEAPEST), common.CheckerPass()
    )
    return _outcome(path, passes(ir.load(path)).model)


def _manager(path: Path) -> str:
    manager = ir.passes.PassManager([Fold(Policy.CHEAPEST)], steps=9, early_stop=True)
    return _outcome(path, manager(ir.load(path)).model)


def _onnxscript(path: Path) -> str:
    optimizer = importlib.import_module("onnxscript.optimizer")
    model = ir.load(path)
    Fold(Policy.CHEAPEST)(model)
    optimizer.optimize_ir(model)
    return _outcome(path, model)


def _torch(path: Path) -> str:
    import torch

    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU()
    ).eval()
    x = torch.randn(1, 3, 8, 8)
    program = torch.onnx.export(network, (x,), dynamo=True, optimize=False, verbose=False)
    return _outcome(program, onnx_expand.fold(program, policy="cheapest"))


def _olive(path: Path) -> str:
    os.environ["OLIVE_DISABLE_TELEMETRY"] = "1"
    run = importlib.import_module("onnx_expand.integrations.olive").run
    large = path.with_name("large.onnx")
    onnx.save(onnx.load(path), large, save_as_external_data=True, size_threshold=0, location="w")
    run(
        {
            "input_model": {"type": "ONNXModel", "model_path": str(large)},
            "passes": {"fold": {"type": "OnnxExpandFold", "policy": "cheapest"}},
            "output_dir": str(path.with_name("out")),
            "cache_dir": str(path.with_name("cache")),
        }
    )
    (found,) = path.with_name("out").rglob("*.onnx")
    return _outcome(large, found)


def _qonnx(path: Path) -> str:
    wrapper = importlib.import_module("qonnx.core.modelwrapper").ModelWrapper
    fold = importlib.import_module("onnx_expand.integrations.qonnx").FoldLinear
    return _outcome(path, wrapper(str(path)).transform(fold(policy="cheapest")).model)


def _polygraphy(path: Path) -> str:
    backend = importlib.import_module("polygraphy.backend.onnx")
    ours = importlib.import_module("onnx_expand.integrations.polygraphy")
    source = backend.OnnxFromPath(str(path))
    return _outcome(path, ours.CheckOnnx(source, ours.FoldOnnx(source, policy="cheapest"))())


def _graphsurgeon(path: Path) -> str:
    graph = gs.import_onnx(onnx.load(path))
    return _outcome(graph, onnx_expand.fold(graph, policy="cheapest"))


def _onnxruntime(path: Path) -> str:
    load = importlib.import_module("onnx_expand.integrations.onnxruntime").inference_session
    session = load(path, providers=["CPUExecutionProvider"])
    names = ", ".join(value.name for value in session.get_outputs())
    return f"a session of the folded model, compared with the file, with the outputs {names}"


def _openvino(path: Path) -> str:
    folded = path.with_name("folded.onnx")
    onnx_expand.fold(path, folded, policy="cheapest")
    verdict = onnx_expand.check(path, folded, providers=["cpu"], providers_b=["openvino"])
    return f"A in onnxruntime, B in OpenVINO: {verdict.summary()}"


def _optimum(name: str) -> Run:
    def run(path: Path) -> str:
        exporters = importlib.import_module("optimum.exporters.onnx")
        small = importlib.import_module("tests.integrations.test_optimum").small
        network, task = small(name)
        folder = path.with_name(name)
        exporters.onnx_export_from_model(network.eval(), folder, task=task, do_validation=False)
        return _outcome(folder / "model.onnx", onnx_expand.fold(onnx.load(folder / "model.onnx")))

    return run


def _loop(name: str) -> Run:
    def run(path: Path) -> str:
        loops = importlib.import_module("examples.loops")
        train = importlib.import_module("onnx_expand.train")
        model, data = loops.run(name)
        score = loops.evaluate(train.to_torch(model), data)
        return f"expanded, trained 3 epochs and folded: {score:.1%} of the test digits"

    return run


HOSTS: dict[str, tuple[str, Run]] = {
    "onnx_ir `Sequential`": ("onnx-ir", _sequential),
    "onnx_ir `PassManager`": ("onnx-ir", _manager),
    "onnxscript `optimize_ir`": ("onnxscript", _onnxscript),
    "torch `ONNXProgram`": ("torch", _torch),
    "Olive, external weights": ("olive-ai", _olive),
    "QONNX": ("qonnx", _qonnx),
    "Polygraphy": ("polygraphy", _polygraphy),
    "graphsurgeon": ("onnx-graphsurgeon", _graphsurgeon),
    "onnxruntime session": ("onnxruntime", _onnxruntime),
    "OpenVINO": ("openvino", _openvino),
    "Optimum, BERT": ("optimum-onnx", _optimum("bert")),
    "Optimum, ViT": ("optimum-onnx", _optimum("vit")),
    "Optimum, ResNet": ("optimum-onnx", _optimum("resnet")),
    "Accelerate": ("accelerate", _loop("accelerate")),
    "Lightning": ("lightning", _loop("lightning")),
    "Hugging Face `Trainer`": ("transformers", _loop("transformers")),
}
"""The package and the run of each host, by its name in the table."""


def table() -> str:
    """Run all hosts, and say what came out of each."""
    lines = ["| tool | version | result |", "|---|---|---|"]
    compact = smallnet.build(kernel=7, stages=3, classes=10)
    expanded = onnx_expand.expand(compact, strategy="ck+fc", rate=2)
    for name, (package, run) in HOSTS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "expanded.onnx")
            onnx.save(expanded, path)
            print(name, file=sys.stderr)
            lines.append(f"| {name} | {version(package)} | {run(path)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the table into a page."""
    page = Path(sys.argv[1])
    text = page.read_text(encoding="utf-8")
    before, start, rest = text.partition(_START)
    _, end, after = rest.partition(_END)
    if not (start and end):
        raise ModelError(f"{page}: no place for the table")
    page.write_text(f"{before}{start}\n{table()}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
