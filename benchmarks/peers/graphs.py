"""The graphs that tools are compared on, each made by a script: `GRAPHS` by name.

`python -m benchmarks.peers.graphs NAME FILE` writes one.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from benchmarks.sites import gemms, mixed
from benchmarks.sketch import Sketch
from benchmarks.styles import Optimum, Paddle

__all__ = ["GRAPHS", "Graph"]


@dataclass(frozen=True)
class Graph:
    """A graph to compare tools on.

    Attributes:
        name: Its name.
        write: Writes it to a file.
        shapes: The extents of its inputs when it runs.
        is_large: Whether it takes minutes or gigabytes.
        runs: Whether its results are run and timed.
        below: For inputs that are integers, what they are less than.
    """

    name: str
    write: Callable[[Path], None]
    shapes: dict[str, list[int]]
    is_large: bool = False
    runs: bool = True
    below: Mapping[str, int] = field(default_factory=dict)

    def feeds(self) -> dict[str, npt.NDArray[Any]]:
        """Draw inputs."""
        rng = np.random.default_rng(0)
        return {
            name: rng.integers(0, self.below[name], shape)
            if name in self.below
            else rng.standard_normal(shape).astype(np.float32)
            for name, shape in self.shapes.items()
        }


def _export(
    module: str, net: str, shape: tuple[int, ...], exporter: str, opset: int, path: Path
) -> None:
    """Write a torch network as one of torch's two exporters does.

    Raises:
        RuntimeError: The exporter gives another operator set.
    """
    import torch

    from benchmarks.peers.convnets import retrain

    torch.manual_seed(0)
    built = getattr(importlib.import_module(f"benchmarks.peers.{module}"), net)()
    options: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"], "opset_version": opset}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            retrain(built),
            (torch.randn(shape),),
            path,
            dynamo=exporter == "dynamo",
            external_data=False,
            **options,
        )
    found = onnx.load(path, load_external_data=False).opset_import[0].version
    if found != opset:
        path.unlink()
        raise RuntimeError(f"the exporter writes operator set {found}, not {opset}")


def _torch(
    label: str, module: str, shape: tuple[int, ...], exporter: str, opset: int, net: str
) -> Graph:
    def write(path: Path) -> None:
        _export(module, net, shape, exporter, opset, path)

    return Graph(label, write, {"x": list(shape)})


def _scripted(
    name: str, build: Callable[[], onnx.ModelProto], shape: list[int], large: bool = False
) -> Graph:
    return Graph(name, lambda path: onnx.save(build(), path), {"x": shape}, is_large=large)


def channels_last() -> onnx.ModelProto:
    """A MobileNet as tf2onnx writes it: channels last, and a Transpose around every Conv."""
    s = Sketch()
    first, last = [0, 3, 1, 2], [0, 2, 3, 1]
    x = "x"

    def conv(x: str, m: int, n: int, kernel: int, stride: int = 1, group: int = 1) -> str:
        weight = s.weight(n, m // group, kernel, kernel)
        y = s.add(
            "Conv",
            s.add("Transpose", x, perm=first),
            weight,
            auto_pad="SAME_UPPER",
            strides=[stride] * 2,
            group=group,
        )
        y = s.add("Transpose", y, perm=last)
        scale = s.constant((s.random.random(n) + 0.5).astype(np.float32))
        y = s.add("Add", s.add("Mul", y, scale), s.weight(n))
        six, zero = s.constant(np.float32(6)), s.constant(np.float32(0))
        return str(s.add("Min", s.add("Max", y, zero), six))

    x = conv(x, 3, 16, 3, 2)
    for m, n, stride in ((16, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1)):
        x = conv(conv(x, m, m, 3, stride, m), m, n, 1)
    x = s.add("ReduceMean", x, axes=[1, 2], keepdims=0)
    y = s.add("Add", s.add("MatMul", x, s.weight(128, 100)), s.weight(100))
    return s.model({"x": ["N", 96, 96, 3]}, {y: ["N", 100]})


HEAVY_WIDTH = 8192
"""Rows and columns of the matrices of `heavy`."""


def heavy(path: Path) -> None:
    """Twelve MatMuls of 8192 x 8192, each with a scale and a Relu: 3 GiB beside the graph."""
    import onnx_ir as ir

    width = HEAVY_WIDTH
    block = np.random.default_rng(0).standard_normal((64, width)).astype(np.float32) / 64
    x = ir.val("x", dtype=ir.DataType.FLOAT, shape=["N", width])
    nodes, constants, value = [], [], x
    for i in range(12):
        for op, array in (("MatMul", np.tile(block, (width // 64, 1))), ("Mul", block[:1, :1])):
            constants.append(ir.val(f"{op}{i}", const_value=ir.Tensor(array, name=f"{op}{i}")))
            nodes.append(ir.node(op, [value, constants[-1]]))
            value = nodes[-1].outputs[0]
        nodes.append(ir.node("Relu", [value]))
        value = nodes[-1].outputs[0]
    value.shape, value.type = x.shape, x.type
    opsets = {"": 17}
    graph = ir.Graph(
        [x], [value], nodes=nodes, initializers=constants, opset_imports=opsets, name="heavy"
    )
    ir.save(ir.Model(graph, ir_version=8), path, external_data=f"{path.name}.data")


def _paddle(net: str, size: list[Any]) -> Callable[[Path], None]:
    """Return what writes a network as paddle2onnx does."""

    def write(path: Path) -> None:
        onnx.save(getattr(Paddle("p2o.", 32), net)(size, depth=6), path)

    return write


def _optimum(opset: int) -> Callable[[Path], None]:
    """Return what writes an encoder as Optimum does."""

    def write(path: Path) -> None:
        onnx.save(Optimum("/", 192, heads=3, opset=opset).network(4, words=1000), path)

    return write


def _all() -> list[Graph]:
    image = (1, 3, 224, 224)
    tokens = (1, 64, 192)
    found = [
        _torch(label, module, image, "TorchScript", 17, net)
        for label, module, net in (
            ("MobileOne-S0", "convnets", "mobileone"),
            ("RepVGG-A0", "convnets", "repvgg"),
            ("FastViT-T8", "convnets", "fastvit"),
            ("RepViT-M0.9", "convnets", "repvit"),
            ("GhostNetV3", "convnets", "ghostnetv3"),
            ("EfficientNet", "convnets", "efficientnet"),
            ("LeViT-128S", "transformers", "levit"),
            ("EfficientViT-M0", "transformers", "efficientvit"),
            ("ConvNeXt", "convnets", "convnext"),
        )
    ]
    for label, net, shape in (
        ("encoder", "encoder", tokens),
        ("decoder", "decoder", tokens),
        ("ViT", "vit", image),
        ("encoder with LoRA", "lora", tokens),
    ):
        # The newer exporter goes back from 18 to 17, where it can, and no further.
        for exporter, opsets in (("TorchScript", (13, 17, 20)), ("dynamo", (17, 18, 20))):
            for opset in opsets:
                if opset != 17 or net != "decoder" or exporter != "dynamo":
                    name = f"{label}, {exporter} {opset}"
                    found.append(_torch(name, "transformers", shape, exporter, opset, net))
    found += [
        _torch("ConvNeXt, dynamo 20", "convnets", image, "dynamo", 20, "convnext"),
        _scripted("channels last", channels_last, [1, 96, 96, 3]),
        *(
            Graph(f"Paddle {net}, {kind}", _paddle(net, size), {"x": [1, 3, 320, 320]})
            for net in ("classifier", "detector")
            for kind, size in (("static", [1, 3, 320, 320]), ("dynamic", ["N", 3, "H", "W"]))
        ),
        *(
            Graph(
                f"Optimum {opset}",
                _optimum(opset),
                {"ids": [1, 128], "mask": [1, 128]},
                below={"ids": 1000, "mask": 2},
            )
            for opset in (14, 17)
        ),
        _scripted("2,000 Gemms", lambda: gemms(2_000), [16, 8]),
        _scripted("100,000 nodes", lambda: mixed(100_000), [1, 4, 8, 8], large=True),
        Graph("3 GiB of weights", heavy, {"x": [1, 8192]}, is_large=True, runs=False),
    ]
    return found


GRAPHS = {graph.name: graph for graph in _all()}
"""The graphs by name."""


if __name__ == "__main__":
    GRAPHS[sys.argv[1]].write(Path(sys.argv[2]))
