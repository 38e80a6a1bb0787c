"""Find runtimes by name, including those that installed packages register."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnx_expand import plugins
from onnx_expand.errors import UsageError
from onnx_expand.runtimes.base import Runtime
from onnx_expand.runtimes.openvino import OpenVino
from onnx_expand.runtimes.ort import PROVIDERS, OnnxRuntime

__all__ = ["named_runtime", "runtime_names"]


def runtime_names() -> tuple[str, ...]:
    """Return the names of all runtimes except the reference, whether they work here or not."""
    return (*PROVIDERS, "openvino", *plugins.names(plugins.RUNTIMES))


def named_runtime(name: str, *, optimize: bool = False, threads: int | None = None) -> Runtime:
    """Return the runtime of a name.

    Args:
        name: A provider of onnxruntime (`cpu`, `cuda`, `tensorrt`), `openvino`, or the name that
            an installed package registers.
        optimize: Whether onnxruntime optimizes the graph; other runtimes ignore it.
        threads: Number of threads, if the runtime supports it.

    Raises:
        UsageError: There is no such runtime.
    """
    if name in PROVIDERS:
        return OnnxRuntime(name, optimize=optimize, threads=threads)
    if name == "openvino":
        return OpenVino(threads)
    if name not in plugins.names(plugins.RUNTIMES):
        known = ", ".join([*runtime_names(), "reference"])
        raise UsageError(f"provider '{name}' is none of {known}")
    make: Callable[[], Any] = plugins.load(plugins.RUNTIMES, name)
    made = make()
    if not (hasattr(made, "session") and isinstance(getattr(made, "name", None), str)):
        raise UsageError(
            f"'{name}' in {plugins.RUNTIMES} makes a {type(made).__name__}; it must have the "
            "attribute `name` and the method `session` of onnx_expand.runtimes.Runtime"
        )
    runtime: Runtime = made
    return runtime
