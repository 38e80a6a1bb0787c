"""What models are run by: onnxruntime, OpenVINO, and a float64 reference on numpy.

A runtime turns a model into a session, and a session turns input arrays into output arrays. Each
runtime lives in one file and imports its backend when it is first used.
"""

from onnx_expand.runtimes.base import Runtime, Session, Tensors
from onnx_expand.runtimes.latency import latency, timings
from onnx_expand.runtimes.named import named_runtime, runtime_names
from onnx_expand.runtimes.openvino import OpenVino
from onnx_expand.runtimes.ort import OnnxRuntime, detect_providers
from onnx_expand.runtimes.reference import Reference

__all__ = [
    "OnnxRuntime",
    "OpenVino",
    "Reference",
    "Runtime",
    "Session",
    "Tensors",
    "detect_providers",
    "latency",
    "named_runtime",
    "runtime_names",
    "timings",
]
