"""Measure the time of stretches of a graph in onnxruntime, for the policy `latency`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnx_expand.errors import RefusedError, UnsupportedError
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.tensors import read_tensor

__all__ = ["Stopwatch"]

# Assumed extents where none is static: a batch of one sample.
_BATCH, _EXTENT = 1, 64
_SECONDS = 0.02
_IR_VERSION = 10


@dataclass
class Stopwatch:
    """Measures stretches of a graph, each as a model of its own.

    Attributes:
        facts: Shapes, types and constants of the model.
        provider: `cpu` or `cuda`; by default the first that this machine has.
    """

    facts: Facts
    provider: str | None = None
    _idle: float | None = None

    def nanoseconds(self, nodes: Sequence[ir.Node]) -> int | None:
        """Return the time that some nodes take, without the overhead of a run.

        Args:
            nodes: The nodes in order; the first output of the last one is the result.

        Returns:
            Nanoseconds, at least one; None if the nodes do not run alone.

        Raises:
            UnsupportedError: onnxruntime is missing or lacks the provider.
        """
        if self._idle is None:
            x = ir.val("x", dtype=ir.DataType.FLOAT, shape=ir.Shape([1]))
            self._idle = self._seconds([ir.node("Identity", [x])])
            if self._idle is None:
                raise UnsupportedError("the policy latency needs onnxruntime, which does not run")
        taken = self._seconds(nodes)
        return None if taken is None else max(1, round((taken - self._idle) * 1e9))

    def _seconds(self, nodes: Sequence[ir.Node]) -> float | None:
        # imported here because it is slow to import and seldom needed
        from onnx_expand.runtimes import OnnxRuntime, detect_providers, timings

        provider = self.provider or next(iter(detect_providers()), "cpu")
        on_cpu = provider == "cpu"
        runtime = OnnxRuntime(provider, optimize=True, threads=1 if on_cpu else None)
        try:
            model = self._model(nodes)
            rng = np.random.default_rng(0)
            feeds = {
                value.name or "": rng.standard_normal(_static(value.shape)).astype(
                    (value.dtype or ir.DataType.FLOAT).numpy()
                )
                for value in model.graph.inputs
            }
            session = runtime.session(model, "stretch")
            clock = time.process_time if on_cpu else time.perf_counter
            sessions = {"stretch": session}
            taken = timings(sessions, {"stretch": feeds}, seconds=_SECONDS, clock=clock)
            return float(np.median(taken["stretch"]))
        except (RefusedError, UnsupportedError):
            return None

    def _model(self, nodes: Sequence[ir.Node]) -> ir.Model:
        """Return the nodes as a model; values that they only read become inputs or constants."""
        twins: dict[ir.Value, ir.Value] = {}
        inputs: list[ir.Value] = []
        constants: list[ir.Value] = []
        made: list[ir.Node] = []

        def twin(value: ir.Value | None) -> ir.Value | None:
            if value is None:
                return None
            if value not in twins:
                name = f"v{len(twins)}"
                if value.const_value is not None or self.facts.is_constant(value):
                    tensor = value.const_value
                    tensor = self.facts.tensor(value) if tensor is None else tensor
                    own = ir.Tensor(read_tensor(tensor), tensor.dtype, name=name)
                    constants.append(ir.val(name, const_value=own))
                    twins[value] = constants[-1]
                else:
                    inputs.append(self._input(value, name))
                    twins[value] = inputs[-1]
            return twins[value]

        for node in nodes:
            copy = ir.Node(
                node.domain,
                node.op_type,
                [twin(value) for value in node.inputs],
                list(node.attributes.values()),
                num_outputs=len(node.outputs),
            )
            for i, (old, new) in enumerate(zip(node.outputs, copy.outputs, strict=True)):
                new.name = f"n{len(made)}.{i}"
                twins[old] = new
            made.append(copy)
        result = twins[nodes[-1].outputs[0]]
        result.dtype = next((v.dtype for v in inputs if v.dtype), ir.DataType.FLOAT)
        graph = ir.Graph(
            inputs,
            [result],
            nodes=made,
            initializers=constants,
            opset_imports={"": self.facts.opset or 17},
            name="stretch",
        )
        return ir.Model(graph, ir_version=_IR_VERSION)

    def _input(self, value: ir.Value, name: str) -> ir.Value:
        shape, dtype = self.facts.shape(value), self.facts.dtype(value)
        if shape is None:
            raise UnsupportedError(f"the rank of '{value.name}' is not known")
        extents = [_BATCH if i == 0 else _EXTENT for i in range(len(shape))]
        static = [known or other for known, other in zip(shape, extents, strict=True)]
        return ir.val(name, dtype=dtype or ir.DataType.FLOAT, shape=ir.Shape(static))


def _static(shape: ir.Shape | None) -> tuple[int, ...]:
    return () if shape is None else tuple(d for d in shape if isinstance(d, int))
