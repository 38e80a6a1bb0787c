"""OpenVINO on the CPU, in the precision of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from onnx_expand.plugins import optional
from onnx_expand.runtimes.base import Source, Tensors, as_unsupported, only_arrays
from onnx_expand.runtimes.content import content_of, discard

__all__ = ["OpenVino", "OpenVinoSession"]

_PRECISE: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}


@dataclass(frozen=True)
class OpenVino:
    """Runs models with OpenVINO on the CPU, without reduced precision.

    Attributes:
        threads: Number of threads; OpenVINO's choice if None.
    """

    threads: int | None = None

    @property
    def name(self) -> str:
        """The name of the runtime in messages."""
        return "OpenVINO"

    def session(self, source: Source, label: str = "model") -> OpenVinoSession:
        """Prepare a model; see `Runtime`."""
        missing = "the provider openvino needs OpenVINO: pip install openvino"
        openvino = optional("openvino", missing)
        options = dict(_PRECISE)
        if self.threads is not None:
            options["INFERENCE_NUM_THREADS"] = self.threads
        content, directory = content_of(source)
        try:
            with as_unsupported(f"{label}: {self.name} cannot load it"):
                core = openvino.Core()
                model = core.read_model(content)
                names = [output.any_name for output in model.outputs]
                inner = core.compile_model(model, "CPU", options)
        finally:
            discard(directory)
        return OpenVinoSession(inner, label, names)


@dataclass(frozen=True, eq=False)
class OpenVinoSession:
    """A model that OpenVINO has loaded."""

    _inner: Any
    _label: str
    _names: list[str]

    def run(self, feeds: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Run the model once; see `Session`."""
        with as_unsupported(f"{self._label}: OpenVINO cannot run it"):
            found = self._inner(dict(feeds))
            values = [found[i].copy() for i in range(len(self._names))]
        return only_arrays(self._names, values, self._label)
