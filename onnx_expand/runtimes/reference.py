"""Run models in float64 with numpy, as the reference for rounding errors.

The weights of the model, such as float32 values, are exact in float64. Only float64's rounding
remains, so that the distance of another runtime's result is the rounding error of that runtime.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from onnx_expand.errors import UnsupportedError
from onnx_expand.model import load, to_proto
from onnx_expand.runtimes._double import ROUNDED, to_double
from onnx_expand.runtimes.base import Source, Tensors, as_unsupported, only_arrays

__all__ = ["Reference", "ReferenceSession"]


@dataclass(frozen=True)
class Reference:
    """Runs models in float64 with onnx's reference evaluator and additional kernels."""

    @property
    def name(self) -> str:
        """The name of the runtime in messages."""
        return "float64 reference"

    def session(self, source: Source, label: str = "model") -> ReferenceSession:
        """Prepare a model; see `Runtime`."""
        model = source.clone() if hasattr(source, "clone") else load(source)
        floats = {value.name for value in model.graph.inputs if value.dtype in ROUNDED}
        rounded = {value.name for value in model.graph.outputs if value.dtype in ROUNDED}
        with as_unsupported(f"{label}: the {self.name} cannot load it"):
            weights = to_double(model)
            inner = _evaluator()(to_proto(model, plain=True))
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


@dataclass(frozen=True, eq=False)
class ReferenceSession:
    """A model in float64.

    Attributes:
        floats: The inputs that are converted to float64.
        rounded: The outputs that have a rounded type in the model.
    """

    _inner: Any
    _label: str
    _weights: dict[str, npt.NDArray[Any]]
    floats: set[str | None]
    rounded: set[str | None]

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
        return replace(self, _inner=inner, _weights=weights)

    def run(self, feeds: Tensors) -> dict[str, npt.NDArray[Any]]:
        """Run the model once; see `Session`. Values of rounded types are float64.

        Raises:
            UnsupportedError: The reference lacks an operator, or computes a value in another type.
        """
        values: dict[str, Any] = dict(self._weights)
        for name, array in feeds.items():
            values[name] = array.astype(np.float64) if name in self.floats else array
        names = list(self._inner.output_names)
        text = f"{self._label}: the float64 reference cannot run it"
        with as_unsupported(text), np.errstate(all="ignore"):
            results = self._inner.run(None, values, intermediate=True)
        for name, value in results.items():
            if isinstance(value, np.ndarray) and value.dtype in (np.float32, np.float16):
                raise UnsupportedError(
                    f"{self._label}: the reference has '{name}' in {value.dtype}, not in float64"
                )
        outputs = only_arrays(names, [results[name] for name in names], self._label)
        return {
            name: np.asarray(value, np.float64) if name in self.rounded else value
            for name, value in outputs.items()
        }
