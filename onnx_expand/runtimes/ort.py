"""onnxruntime, on the CPU or on a CUDA device."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx
import onnx_ir as ir

from onnx_expand.errors import UnsupportedError, UsageError
from onnx_expand.plugins import optional
from onnx_expand.runtimes.aborts import require_no_abort
from onnx_expand.runtimes.base import Source, Tensors, as_unsupported, only_arrays
from onnx_expand.runtimes.content import content_of, discard
from onnx_expand.runtimes.loops import may_be_endless

__all__ = ["OnnxRuntime", "OrtSession", "detect_providers"]

_SUFFIX = "ExecutionProvider"
PROVIDERS = {"cpu": "CPU", "cuda": "CUDA", "tensorrt": "Tensorrt"}
"""The names of providers in options, and in onnxruntime without the suffix."""
# The errors of TF32 would exceed the differences that a comparison is to find.
_OPTIONS: dict[str, dict[str, str]] = {"CUDA" + _SUFFIX: {"use_tf32": "0"}}
_FATAL = 4
_PATIENCE = 2.0  # seconds for one run of a model whose loops may be endless


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
        """Prepare a model; see `Runtime`."""
        ort = _import()
        wanted = PROVIDERS[self.provider] + _SUFFIX
        _require(wanted, ort.get_available_providers())
        if isinstance(source, ir.Model):
            require_no_abort(source, label)
        content, directory = content_of(source)
        providers = [(wanted, _OPTIONS.get(wanted, {}))]
        try:
            with as_unsupported(f"{label}: {self.name} cannot load it"):
                inner = ort.InferenceSession(
                    content, self._options(ort), providers=providers, enable_fallback=0
                )
        except UnsupportedError:
            discard(directory)
            raise
        patience = _PATIENCE if isinstance(source, ir.Model) and may_be_endless(source) else None
        session = OrtSession(inner, label, self.name, patience)
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

    def __init__(
        self, inner: Any, label: str, runtime: str, patience: float | None = None
    ) -> None:
        self._inner = inner
        self._patience = patience
        self._is_over = False
        self._label = label
        self._runtime = runtime
        self._names = [output.name for output in inner.get_outputs()]

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers in use, the requested one first."""
        return tuple(self._inner.get_providers())

    def run(self, feeds: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Run the model once; see `Session`."""
        with as_unsupported(f"{self._label}: {self._runtime} cannot run it"):
            values = self._run(dict(feeds))
        return only_arrays(self._names, values, self._label)

    def _run(self, feeds: dict[str, npt.NDArray[Any]]) -> list[Any]:
        """Run the model; after a run that took too long, none is tried again."""
        if self._patience is None:
            return list(self._inner.run(None, feeds))
        options = _import().RunOptions()
        watch = threading.Timer(self._patience, self._stop, [options])
        watch.start()
        try:
            if not self._is_over:
                return list(self._inner.run(None, feeds, options))
        except Exception:
            if not self._is_over:
                raise
        finally:
            watch.cancel()
        raise TimeoutError(f"a loop did not end within {self._patience:g} s")

    def _stop(self, options: Any) -> None:
        self._is_over = options.terminate = True


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
