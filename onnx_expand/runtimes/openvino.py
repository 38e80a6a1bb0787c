"""OpenVINO on the CPU, in the model's own precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from onnx_expand.errors import UnsupportedError
from onnx_expand.runtimes.base import Source, Tensors, first_line, only_arrays
from onnx_expand.runtimes.content import content_of, discard

__all__ = ["OpenVino", "OpenVinoSession"]

_PRECISE: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}


@dataclass(frozen=True)
class OpenVino:
    """Runs models with OpenVINO on the CPU, without reduced precision.

    Attributes:
        threads: How many threads compute; all that OpenVINO chooses when missing.
    """

    threads: int | None = None

    @property
    def name(self) -> str:
        """How messages name the runtime."""
        return "OpenVINO"

    def session(self, source: Source, label: str = "model") -> OpenVinoSession:
        """Prepare a model.

        Args:
            source: The model, which is not changed, or the binary ONNX file that holds it.
            label: How messages name the model.

        Raises:
            UnsupportedError: OpenVINO is not installed, or cannot load the model.
        """
        try:
            import openvino  # only those who ask for it need it
        except ImportError:
            raise UnsupportedError(
                "the provider openvino needs OpenVINO: pip install openvino"
            ) from None
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
            # OpenVINO's exceptions have no common base of their own.
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

        Args:
            feeds: An array for every input, by name.

        Returns:
            An array for every output, by name.

        Raises:
            UnsupportedError: OpenVINO cannot run the model on these arrays.
        """
        try:
            found = self._inner(dict(feeds))
            values = [found[i].copy() for i in range(len(self._names))]
        except Exception as error:
            # OpenVINO's exceptions have no common base of their own.
            raise UnsupportedError(
                f"{self._label}: OpenVINO cannot run it: {first_line(error)}"
            ) from error
        return only_arrays(self._names, values, self._label)
