"""onnxruntime, on the CPU or on a CUDA device."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx
import onnx_ir as ir

from onnx_expand.errors import UnsupportedError, UsageError, first_line
from onnx_expand.plugins import optional
from onnx_expand.runtimes.aborts import require_no_abort
from onnx_expand.runtimes.base import Source, Tensors, only_arrays
from onnx_expand.runtimes.content import content_of, discard

__all__ = ["OnnxRuntime", "OrtSession", "detect_providers"]

_SUFFIX = "ExecutionProvider"
PROVIDERS = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "Tensorrt"}
"""The names of providers in options, and in onnxruntime without the suffix."""
# The errors of TF32 would exceed the differences that a comparison is to find.
_OPTIONS: dict[str, dict[str, str]] = {"CUDA" + _SUFFIX: {"use_tf32": "0"}}
_FATAL = 4


@dataclass(frozen=True)
class OnnxRuntime:
    """Runs models with onnxruntime.

    Attributes:
        provider: `cpu`, `cuda` or `tensorrt`.
        optimize: Whether onnxruntime rewrites the graph, as deployed. Otherwise it runs the graph
            as written, so that a comparison is one of the two graphs.
        threads: Number of threads that one operator may use; onnxruntime's choice if None.
    """

    provider: str = "cpu"
    optimize: bool = False
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.provider not in PROVIDERS:
            raise UsageError(f"provider '{self.provider}' is none of {', '.join(PROVIDERS)}")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads is {self.threads}; it must be at least 1")

    @property
    def name(self) -> str:
        """The name of the runtime in messages."""
        return f"onnxruntime on {PROVIDERS[self.provider]}"

    def session(self, source: Source, label: str = "model") -> OrtSession:
        """Prepare a model.

        Args:
            source: The model, which is not modified, or its binary ONNX file.
            label: The name of the model in messages.

        Raises:
            UnsupportedError: onnxruntime is missing, lacks the provider, or cannot load the model.
        """
        ort = _import()
        wanted = PROVIDERS[self.provider] + _SUFFIX
        _require(wanted, ort.get_available_providers())
        if isinstance(source, ir.Model):
            require_no_abort(source, label)
        content, directory = content_of(source)
        try:
            inner = ort.InferenceSession(
                content,
                self._options(ort),
                providers=[(wanted, _OPTIONS.get(wanted, {}))],
                enable_fallback=0,
            )
        except Exception as error:
            # onnxruntime's exceptions have no common base class.
            discard(directory)
            raise UnsupportedError(
                f"{label}: {self.name} cannot load it: {first_line(error)}"
            ) from error
        session = OrtSession(inner, label, self.name)
        if directory is not None:
            # The session may map weights from the files as long as it exists.
            weakref.finalize(session, discard, directory)
        _require(wanted, inner.get_providers()[:1])
        return session

    def _options(self, ort: Any) -> Any:
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL  # errors are raised as exceptions
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = (
            level.ORT_ENABLE_ALL if self.optimize else level.ORT_DISABLE_ALL
        )
        if not self.optimize:
            # Idle threads that spin would occupy cores that the other runtime needs.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        return options


class OrtSession:
    """A model that onnxruntime has loaded."""

    def __init__(self, inner: Any, label: str, runtime: str) -> None:
        self._inner = inner
        self._label = label
        self._runtime = runtime
        self._names = [output.name for output in inner.get_outputs()]

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers in use, the requested one first."""
        return tuple(self._inner.get_providers())

    def run(self, feeds: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Run the model once.

        Returns:
            An array for each output, by name.

        Raises:
            UnsupportedError: onnxruntime cannot run the model on these arrays.
        """
        try:
            values = self._inner.run(None, dict(feeds))
        except Exception as error:
            # onnxruntime's exceptions have no common base class.
            raise UnsupportedError(
                f"{self._label}: {self._runtime} cannot run it: {first_line(error)}"
            ) from error
        return only_arrays(self._names, values, self._label)


def detect_providers() -> tuple[str, ...]:
    """Return the providers that work on this machine: `cpu`, and `cuda` if a GPU responds.

    Raises:
        UnsupportedError: onnxruntime is not installed.
    """
    offered = _import().get_available_providers()
    if "CUDA" + _SUFFIX not in offered:
        return ("cpu",)
    # The GPU build lists CUDA on machines without a GPU too, so that only a run shows it.
    tiny = ir.serde.deserialize_model(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 13]> g (float[1] x) => (float[1] y) {y = Neg(x)}'
        )
    )
    try:
        OnnxRuntime("cuda").session(tiny)
    except UnsupportedError:
        return ("cpu",)
    return ("cpu", "cuda")


def _import() -> Any:
    missing = "check needs onnxruntime: pip install 'onnx-expand[cpu]' or [gpu]"
    return optional("onnxruntime", missing)


def _require(wanted: str, offered: list[str]) -> None:
    if wanted not in offered:
        known = {name + _SUFFIX: short for short, name in PROVIDERS.items()}
        short = ", ".join(known[name] for name in offered if name in known) or "none"
        raise UnsupportedError(
            f"onnxruntime cannot use provider '{known[wanted]}' here; available: {short}"
        )
