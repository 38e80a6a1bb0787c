"""Graphs in the making, for benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

__all__ = ["Sketch"]


@dataclass
class Sketch:
    """A graph in the making.

    Attributes:
        seed: Decides the weights.
        nodes: The nodes so far.
        constants: The initializers so far.
    """

    seed: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def weight(self, *shape: int, dtype: Any = np.float32) -> str:
        """An initializer of random numbers."""
        scale = np.sqrt(max(1, np.prod(shape[1:], dtype=int)))
        return self.constant((self.random.standard_normal(shape) / scale).astype(dtype))

    def constant(self, array: npt.ArrayLike) -> str:
        """An initializer."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """A node; the name of its output, or the names if there are more."""
        index = len(self.nodes)
        names = [f"v{index}_{i}" if i else f"v{index}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, f"n{index}", **attributes))
        return names[0] if outputs == 1 else names

    def model(
        self, inputs: dict[str, Sequence[Any]], outputs: dict[str, Sequence[Any]], opset: int = 17
    ) -> onnx.ModelProto:
        """The model, with float32 inputs and outputs of these extents."""
        kind = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            "sites",
            [helper.make_tensor_value_info(n, kind, shape) for n, shape in inputs.items()],
            [helper.make_tensor_value_info(n, kind, shape) for n, shape in outputs.items()],
            self.constants,
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
        )
