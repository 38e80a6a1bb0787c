"""Expand small models."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
from onnx import numpy_helper

from onnx_expand.errors import Reason
from onnx_expand.passes import Expand, ExpandReport


def expand(model: onnx.ModelProto, **options: Any) -> tuple[onnx.ModelProto, ExpandReport]:
    """Return an expanded copy of a model, checked in full, and the report."""
    own = ir.serde.deserialize_model(onnx.ModelProto.FromString(model.SerializeToString()))
    report = Expand(**options).call(own).report
    expanded = ir.serde.serialize_model(own)
    onnx.checker.check_model(expanded, full_check=True)
    return expanded, report


def skipped(report: ExpandReport) -> dict[str, Reason]:
    """Return why layers were skipped, by name."""
    return {s.node: s.refusal.reason for s in report.skipped}


def arrays(model: onnx.ModelProto) -> dict[str, Any]:
    """Return the initializers of a model by name."""
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
