"""The parts of one model, cut out and run in a runtime, in float64 or with absolute values."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.equivalence.parts.cutting import constants_of, keep_outputs, target
from onnx_expand.equivalence.parts.linearity import dependences, work
from onnx_expand.equivalence.parts.magnitude import computed_constants, make_absolute, roundings
from onnx_expand.graph.facts import Facts
from onnx_expand.runtimes.base import Runtime, Tensors
from onnx_expand.runtimes.ort import OnnxRuntime
from onnx_expand.runtimes.reference import Reference, ReferenceSession

__all__ = ["Side"]


class Side:
    """The parts of one model, cut out."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._facts = Facts(model)
        self.roundings = roundings(model, self._facts)
        self.dependences = dependences(model, self._facts)
        self.work = work(model, self._facts)
        self._sessions: list[ReferenceSession] = []

    @property
    def weights(self) -> int:
        """The number of elements in the weights of the parts."""
        held = (value.const_value for value in self._model.graph.initializers.values())
        return sum(tensor.size for tensor in held if tensor is not None)

    def sessions(self) -> tuple[ReferenceSession, ReferenceSession]:
        """Return the float64 sessions, as is and with absolute values, after both have run."""
        exact, absolute = self._sessions
        return exact, absolute

    def keep(self, names: Iterable[str]) -> None:
        """Remove the nodes that these tensors do not depend on."""
        keep_outputs(self._model, {target(name) for name in names})

    def run(self, values: Tensors, runtime: Runtime) -> Tensors:
        """Run the parts in a runtime."""
        return _run(self._model, values, runtime)

    def load_exactly(self) -> None:
        """Load the parts in float64, before their values are made absolute."""
        self._sessions.append(Reference().session(self._model, "the differing parts"))

    def run_exactly(self, values: Tensors) -> Tensors:
        """Run the parts in float64."""
        self.load_exactly()
        return self._sessions[-1].run(_feeds(self._model, values))

    def run_absolutely(self, values: Tensors, unit: float) -> Tensors:
        """Run the parts with absolute values; this modifies the model, so call `run` before."""
        drift = self._drift(values, unit)
        make_absolute(self._model, self._facts, drift)
        positive = {
            name: np.abs(array) if array.dtype.kind == "f" else array
            for name, array in values.items()
        }
        return self.run_exactly(positive)

    def _drift(self, values: Tensors, unit: float) -> dict[str, npt.NDArray[np.float64]]:
        """Measure the errors of constants that the model computes in its own types, in roundoffs.

        Arithmetic of weights is not a sum of products, so its error is measured.
        """
        names = computed_constants(self._model, self._facts)
        if not names:
            return {}
        alone = constants_of(self._model, names)
        exact, own = (_run(alone, values, r) for r in (Reference(), OnnxRuntime("cpu")))
        return {n: np.abs(exact[n] - own[n].astype(np.float64)) / unit for n in names}


def _run(model: ir.Model, values: Tensors, runtime: Runtime) -> Tensors:
    return runtime.session(model, "the differing parts").run(_feeds(model, values))


def _feeds(model: ir.Model, values: Tensors) -> Tensors:
    return {value.name or "": values[value.name or ""] for value in model.graph.inputs}
