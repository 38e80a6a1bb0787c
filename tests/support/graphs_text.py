"""Small graphs written as ONNX text, with random weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from onnx_expand.passes import Border, Fold, FoldReport, Policy

__all__ = ["bn", "fold", "graph", "ops", "weights"]

_HEADER = '<ir_version: 8, opset_import: ["" : 17]>\n'


def weights(seed: int = 0, **shapes: tuple[int, ...]) -> dict[str, npt.NDArray[np.float32]]:
    """Draw normal random values, scaled by fan-in so that activations stay near one."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.standard_normal(shape) / np.sqrt(max(1, int(np.prod(shape[1:]))))).astype(
            np.float32
        )
        for name, shape in shapes.items()
    }


def bn(name: str, channels: int, seed: int = 1) -> dict[str, npt.NDArray[np.float32]]:
    """Return the four parameters of a batch normalization: `<name>.s`, `.b`, `.m` and `.v`."""
    rng = np.random.default_rng([seed, len(name), ord(name[-1])])
    values = {
        "s": rng.uniform(0.5, 2, channels),
        "b": rng.standard_normal(channels),
        "m": rng.standard_normal(channels),
        "v": rng.uniform(0.5, 2, channels),
    }
    return {f"{name}_{key}": value.astype(np.float32) for key, value in values.items()}


def graph(
    text: str, constants: Mapping[str, npt.NDArray[np.generic]], *, opset: int = 17
) -> onnx.ModelProto:
    """Build a model from ONNX text and its initializers, checked in full."""
    model = onnx.parser.parse_model(_HEADER.replace("17", str(opset)) + text)
    for name, array in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    onnx.checker.check_model(model, full_check=True)
    return model


def fold(
    model: onnx.ModelProto,
    policy: Policy = Policy.CHEAPEST,
    border: Border = Border.EXACT,
    image: str | None = None,
) -> tuple[onnx.ModelProto, FoldReport]:
    """Return a folded copy of a model, checked in full, and the report."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    own = ir.serde.deserialize_model(copy)
    report = Fold(policy, border, image).call(own).report
    folded = ir.serde.serialize_model(own)
    onnx.checker.check_model(folded, full_check=True)
    return folded, report


def ops(model: onnx.ModelProto) -> list[str]:
    """Return the op types of a model's nodes, in order."""
    return [node.op_type for node in model.graph.node]
