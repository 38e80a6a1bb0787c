"""The ways in which torch writes a module as ONNX."""

from __future__ import annotations

import functools
import io
import warnings
from enum import StrEnum

import onnx
import torch

from tests.exports.blocks import BLOCKS, build

__all__ = ["Route", "export"]


class Route(StrEnum):
    """An exporter with its options; the batch is dynamic, and with `_HW` the extents too."""

    SCRIPT = "script"
    """The exporter of old, which folds constants and normalizations itself."""
    KEPT = "script-kept"
    """The same without any folding."""
    KEPT_HW = "script-kept-hw"
    DYNAMO = "dynamo"
    """Today's exporter with its optimizer."""
    RAW = "dynamo-raw"
    """The same without it."""
    RAW_HW = "dynamo-raw-hw"

    @property
    def has_dynamic_extents(self) -> bool:
        """Whether the last two axes of an image are dynamic."""
        return self.endswith("-hw")


@functools.cache
def export(name: str, path: Route) -> onnx.ModelProto:
    """A block as a model."""
    axes = {0: "batch"}
    if path.has_dynamic_extents:
        axes |= {2: "height", 3: "width"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not path.startswith("dynamo"):
            return _script(name, axes, plain=path is Route.SCRIPT)
        raw, optimized = _dynamo(name, tuple(axes.items()))
        return optimized if path is Route.DYNAMO else raw


def _example(name: str, batch: int) -> tuple[torch.Tensor]:
    return (torch.randn(batch, *BLOCKS[name].shape),)


def _script(name: str, axes: dict[int, str], *, plain: bool) -> onnx.ModelProto:
    mode = torch.onnx.TrainingMode.EVAL if plain else torch.onnx.TrainingMode.PRESERVE
    stream = io.BytesIO()
    torch.onnx.export(
        build(name),
        _example(name, 1),  # a larger one it writes into the shapes that index_put broadcasts to
        stream,  # type: ignore[arg-type]  # this exporter does take one
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": axes},
        training=mode,
        do_constant_folding=plain,
        dynamo=False,
    )
    return onnx.load_from_string(stream.getvalue())


@functools.cache
def _dynamo(
    name: str, axes: tuple[tuple[int, str], ...]
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The model as it is written, and what the optimizer makes of it: one run for both."""
    program = torch.onnx.export(
        build(name),
        _example(name, 2),  # an extent of one it takes for static
        input_names=["x"],
        output_names=["y"],
        dynamic_shapes=(dict(axes),),
        optimize=False,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    raw = program.model_proto
    program.optimize()
    return raw, program.model_proto
