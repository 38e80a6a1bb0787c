"""The operator sets in which a model can be built and run here."""

from __future__ import annotations

import onnx

try:
    import onnxruntime as ort
except ImportError:
    ort = None

__all__ = ["NEWEST"]


def _newest() -> int:
    """Find the newest opset of onnx that onnxruntime, if installed, loads."""
    h = onnx.helper
    ends = [h.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = h.make_graph([h.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    last = onnx.defs.onnx_opset_version()
    for opset in range(last, 17, -1) if ort else ():
        model = h.make_model(graph, opset_imports=[h.make_opsetid("", opset)], ir_version=10)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        except Exception:  # onnxruntime's own errors share no other base class
            continue
        return opset
    return last


NEWEST = _newest()
"""The newest opset that onnx knows and onnxruntime, if it is installed, loads."""
