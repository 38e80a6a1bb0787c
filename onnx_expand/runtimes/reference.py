"""Run models in float64 with numpy, as the reference for rounding errors.

The weights of the model, such as float32 values, are exact in float64. Only float64's rounding
remains, so that the distance of another runtime's result is the rounding error of that runtime.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from onnx_expand.errors import UnsupportedError, first_line
from onnx_expand.model import load, to_proto
from onnx_expand.runtimes._double import ROUNDED, to_double
from onnx_expand.runtimes.base import Source, Tensors, only_arrays

__all__ = ["Reference", "ReferenceSession"]


@dataclass(frozen=True)
class Reference:
    """Runs models in float64 with onnx's reference evaluator and additional kernels."""

    @property
    def name(self) -> str:
        """The name of the runtime in messages."""
        return "float64 reference"

    def session(self, source: Source, label: str = "model") -> ReferenceSession:
        """Prepare a model.

        Args:
            source: The model, which is not modified, or its binary ONNX file.
            label: The name of the model in messages.

        Raises:
            UnsupportedError: The reference lacks one of the model's operators.
        """
        model = source.clone() if hasattr(source, "clone") else load(source)
        floats = {value.name for value in model.graph.inputs if value.dtype in ROUNDED}
        rounded = {value.name for value in model.graph.outputs if value.dtype in ROUNDED}
        try:
            weights = to_double(model)
            inner = _evaluator()(to_proto(model, plain=True))
        except Exception as error:
            # The evaluator reports unsupported models by arbitrary exceptions.
            raise UnsupportedError(
                f"{label}: the {self.name} cannot load it: {first_line(error)}"
            ) from error
        return ReferenceSession(inner, label, weights, floats, rounded)


@cache
def _evaluator() -> Callable[[onnx.ModelProto], Any]:
    """Return onnx's evaluator with the additional kernels, also in function bodies."""
    from onnx.reference import ReferenceEvaluator  # slow to import

    from onnx_expand.runtimes._kernels import KERNELS

    class Evaluator(ReferenceEvaluator):
        def __init__(self, proto: Any, **options: Any) -> None:
            # It creates one evaluator for each function, without passing `new_ops` on.
            options.setdefault("new_ops", KERNELS)
            super().__init__(proto, **options)

    return Evaluator


class ReferenceSession:
    """A model in float64."""

    def __init__(
        self,
        inner: Any,
        label: str,
        weights: dict[str, npt.NDArray[Any]],
        floats: set[str | None],
        rounded: set[str | None],
    ) -> None:
        self._inner = inner
        self._label = label
        self._weights = weights
        self._floats = floats
        self._rounded = rounded

    def part(self, name: str) -> ReferenceSession:
        """Return the part of this model that computes one output, with the same weights."""
        wanted, nodes = {name}, []
        for node in reversed(self._inner.rt_nodes_):
            # Values of the outer graph that a body reads are not among its inputs.
            if wanted.intersection(node.output) or node.need_context():
                nodes.append(node)
                wanted.update(node.input)
        inner = copy.copy(self._inner)
        inner.rt_nodes_, inner.output_names_ = nodes[::-1], [name]
        weights = {key: array for key, array in self._weights.items() if key in wanted}
        return ReferenceSession(inner, self._label, weights, self._floats, self._rounded)

    def run(self, feeds: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Run the model once.

        Args:
            feeds: An array for each input, by name, of the model's own types.

        Returns:
            An array for each output, by name; float64 where the model has a rounded type.

        Raises:
            UnsupportedError: The reference lacks an operator, or computes a value in another type.
        """
        values: dict[str, Any] = dict(self._weights)
        for name, array in feeds.items():
            values[name] = array.astype(np.float64) if name in self._floats else array
        names = list(self._inner.output_names)
        try:
            with np.errstate(all="ignore"):
                results = self._inner.run(None, values, intermediate=True)
        except Exception as error:
            # The evaluator reports unsupported models by arbitrary exceptions.
            raise UnsupportedError(
                f"{self._label}: the float64 reference cannot run it: {first_line(error)}"
            ) from error
        for name, value in results.items():
            if isinstance(value, np.ndarray) and value.dtype in (np.float32, np.float16):
                raise UnsupportedError(
                    f"{self._label}: the reference has '{name}' in {value.dtype}, not in float64"
                )
        outputs = only_arrays(names, [results[name] for name in names], self._label)
        return {
            name: np.asarray(value, np.float64) if name in self._rounded else value
            for name, value in outputs.items()
        }
