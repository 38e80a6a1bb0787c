"""Run models: with onnxruntime, OpenVINO, or a float64 reference in numpy.

A runtime creates a session of a model, and a session computes output arrays from input arrays.
Each runtime is one file and imports its backend when it is first used.
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
