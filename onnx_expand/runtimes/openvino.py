"""OpenVINO on the CPU, in the precision of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from onnx_expand.errors import UnsupportedError, first_line
from onnx_expand.plugins import optional
from onnx_expand.runtimes.base import Source, Tensors, only_arrays
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
        """Prepare a model.

        Args:
            source: The model, which is not modified, or its binary ONNX file.
            label: The name of the model in messages.

        Raises:
            UnsupportedError: OpenVINO is not installed, or cannot load the model.
        """
        missing = "the provider openvino needs OpenVINO: pip install openvino"
        openvino = optional("openvino", missing)
        options = dict(_PRECISE)
        if self.threads is not None:
            options["INFERENCE_NUM_THREADS"] = self.threads
        content, directory = content_of(source)
        try:
            core = openvino.Core()
            model = core.read_model(content)
            names = [output.any_name for output in model.outputs]
            inner = core.compile_model(model, "CPU", options)
        except Exception as error:
            # OpenVINO's exceptions have no common base class.
            raise UnsupportedError(
                f"{label}: {self.name} cannot load it: {first_line(error)}"
            ) from error
        finally:
            discard(directory)
        return OpenVinoSession(inner, label, names)


class OpenVinoSession:
    """A model that OpenVINO has loaded."""

    def __init__(self, inner: Any, label: str, names: list[str]) -> None:
        self._inner = inner
        self._label = label
        self._names = names

    def run(self, feeds: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Run the model once.

        Returns:
            An array for each output, by name.

        Raises:
            UnsupportedError: OpenVINO cannot run the model on these arrays.
        """
        try:
            found = self._inner(dict(feeds))
            values = [found[i].copy() for i in range(len(self._names))]
        except Exception as error:
            # OpenVINO's exceptions have no common base class.
            raise UnsupportedError(
                f"{self._label}: OpenVINO cannot run it: {first_line(error)}"
            ) from error
        return only_arrays(self._names, values, self._label)
