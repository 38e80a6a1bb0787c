"""Judge whether a rewritten model computes the same as its source.

The judge is independent of the rewriting code. It measures the effect of rounding on the source's
outputs: every constant, input and intermediate value is disturbed by about one ulp, in
onnxruntime, and the outputs of the rewritten model may differ by a multiple of the resulting
change.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, inliner, numpy_helper

__all__ = ["Source", "judge"]

Array = npt.NDArray[Any]
_FLOATS: dict[int, Any] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.FLOAT16: np.float16,
}
_KINDS: dict[str, np.dtype[Any]] = {
    "tensor(float16)": np.dtype(np.float16),
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(bool)": np.dtype(np.bool_),
}
_TRIALS = 3


class Source:
    """A model, its outputs at some sizes, and their changes under rounding.

    Attributes:
        model: The model.
        runnable: Converts it, and what is made of it, to what onnxruntime runs.
        coarseness: How much coarser its numbers are than those of the converted model.
        runs: For each size the inputs, the outputs and the change of each output.
        error: Why it cannot be judged by running it, or an empty text.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        sizes: Sequence[Mapping[str, int]],
        seed: int = 0,
        given: Sequence[dict[str, Array]] = (),
        runnable: Callable[[onnx.ModelProto], onnx.ModelProto] = lambda model: model,
        coarseness: float = 1.0,
    ) -> None:
        """Run a model at some sizes on random inputs, and on the given inputs.

        Args:
            model: The model.
            sizes: Extents of its symbols, at all of which it must run.
            seed: The seed of inputs and disturbances.
            given: Further inputs; those that the model rejects are left out if it accepts others.
            runnable: Converts it to a model that onnxruntime runs.
            coarseness: How much coarser its numbers are than those of the converted model.
        """
        self.model, self.runnable, self.coarseness = model, runnable, coarseness
        self.error = ""
        self.runs: list[tuple[dict[str, Array], list[Array], list[float]]] = []
        rng = np.random.default_rng(seed)
        try:
            own = runnable(model)
            session = _session(own)
            moved = [_session(_disturbed(own, rng, coarseness)) for _ in range(_TRIALS)]
            accepted = [feeds for feeds in given if _runs(session, feeds)] or given
            for feeds in (*accepted, *(_feeds(session, extents, rng) for extents in sizes)):
                self.runs.append(_measure(session, moved, feeds, rng, coarseness))
        except Exception as error:  # onnxruntime's errors have no common type
            self.error = _line(error)

    @functools.cached_property
    def is_optimized(self) -> bool:
        """Return whether onnxruntime runs it with all optimizations, some of which fail."""
        try:
            session = _session(self.runnable(self.model), fast=True)
            found = [session.run(None, feeds) for feeds, _, _ in self.runs]
        except Exception:
            return False
        runs = zip(self.runs, found, strict=True)
        return not any(_differences(self.model, own, arrays) for (_, *own), arrays in runs)


def judge(
    source: Source, result: onnx.ModelProto, *, slack: float = 1.0, strict: bool = True
) -> list[str]:
    """Return what is wrong with a model that should compute the same as its source, if anything.

    Args:
        source: The source.
        result: The rewritten model.
        slack: The factor of the tolerance, compared with a fold's.
        strict: Whether opset imports and metadata must not change.
    """
    problems = _interface(source.model, result, strict)
    problems += _validity(source.model, result)
    if source.error:
        return problems
    converted = source.runnable(result)
    for fast in (False, True):
        if fast and (problems or not source.is_optimized):
            break
        word = " optimized" if fast else ""
        try:
            session = _session(converted, fast)
        except Exception as error:
            return [*problems, f"does not load{word}: {_line(error)}"]
        for feeds, wanted, moves in source.runs:
            try:
                found = session.run(None, feeds)
            except Exception as error:
                shapes = {name: array.shape for name, array in feeds.items()}
                problems.append(f"does not run{word} at {shapes}: {_line(error)}")
                continue
            floor = 0.0 if strict else slack
            problems += _differences(result, (wanted, moves), found, slack, floor)
    return problems


def _differences(
    model: onnx.ModelProto,
    known: Sequence[Any],
    found: Sequence[Array],
    slack: float = 1.0,
    floor: float = 0.0,
) -> list[str]:
    """Return how outputs differ from the known ones by more than their known changes."""
    problems = []
    for port, a, b, move in zip(model.graph.output, known[0], found, known[1], strict=True):
        unit = float(np.finfo(a.dtype).eps) if a.dtype.kind == "f" else 0.0
        problems += _difference(port.name, a, np.asarray(b), move * slack + floor * unit)
    return problems


def _interface(source: onnx.ModelProto, result: onnx.ModelProto, strict: bool) -> list[str]:
    """Check that the interface is unchanged."""
    problems = []
    for side in ("input", "output"):
        before, after = getattr(source.graph, side), getattr(result.graph, side)
        if [v.SerializeToString() for v in before] != [v.SerializeToString() for v in after]:
            problems.append(
                f"{side}s changed: {[v.name for v in after]} of {[v.name for v in before]}"
            )
    if strict and list(source.opset_import) != list(result.opset_import):
        problems.append("operator sets changed")
    if strict and list(source.metadata_props) != list(result.metadata_props):
        problems.append("metadata changed")
    if source.ir_version != result.ir_version:
        problems.append("the IR version changed")
    return problems


def _validity(source: onnx.ModelProto, result: onnx.ModelProto) -> list[str]:
    try:
        onnx.checker.check_model(source, full_check=True)
    except Exception:
        return []
    try:
        onnx.checker.check_model(result, full_check=True)
    except Exception as error:
        return [f"is not valid: {_line(error)}"]
    return []


def _difference(name: str, a: Array, b: Array, move: float) -> list[str]:
    if a.dtype != b.dtype or a.shape != b.shape:
        return [f"'{name}': {b.dtype}{b.shape} for {a.dtype}{a.shape}"]
    if a.dtype.kind != "f":
        return [] if np.isinf(move) or np.array_equal(a, b) else [f"'{name}': other integers"]
    if not np.isfinite(a).all() or not a.size:
        return []
    if not np.isfinite(b).all():
        return [f"'{name}': not finite"]
    far = float(np.max(np.abs(a.astype(float) - b.astype(float))))
    return (
        [] if far <= move else [f"'{name}': {far:.3g} off, {move:.3g} allowed, of {_size(a):.3g}"]
    )


def _size(a: Array) -> float:
    return float(np.max(np.abs(a.astype(float)), initial=0.0))


def _session(model: onnx.ModelProto, fast: bool = False) -> Any:
    options = ort.SessionOptions()
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if fast else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _feeds(session: Any, extents: Mapping[str, int], rng: np.random.Generator) -> dict[str, Array]:
    feeds: dict[str, Array] = {}
    for port in session.get_inputs():
        shape = [extents[d] if isinstance(d, str) else d for d in port.shape]
        kind = _KINDS[port.type]
        if kind == np.bool_:
            feeds[port.name] = np.array(rng.random() < 0.5)
        else:
            feeds[port.name] = np.asarray(rng.standard_normal(shape), kind)
    return feeds


def _runs(session: Any, feeds: dict[str, Array]) -> bool:
    try:
        session.run(None, feeds)
    except Exception:  # onnxruntime's errors have no common type
        return False
    return True


def _measure(
    session: Any,
    moved: Sequence[Any],
    feeds: dict[str, Array],
    rng: np.random.Generator,
    coarseness: float,
) -> tuple[dict[str, Array], list[Array], list[float]]:
    """Return the outputs, and their changes under rounding."""
    wanted = [np.asarray(value) for value in session.run(None, feeds)]
    moves = [0.0] * len(wanted)
    for other in moved:
        inputs = {name: _shaken(array, rng, coarseness) for name, array in feeds.items()}
        for slot, value in enumerate(other.run(None, inputs)):
            a = wanted[slot]
            if a.dtype.kind != "f":  # ties may fall either way
                moves[slot] = np.inf if not np.array_equal(a, value) else moves[slot]
                continue
            if not np.isfinite(a).all() or not a.size:
                continue
            off = np.abs(np.asarray(value, float) - a.astype(float))
            moves[slot] = max(moves[slot], float(np.max(np.where(np.isfinite(off), off, np.inf))))
    allowed = []
    for a, move in zip(wanted, moves, strict=True):
        unit = float(np.finfo(a.dtype).eps) if a.dtype.kind == "f" else 0.0
        allowed.append(20 * move + 20 * coarseness * unit * _size(a) + 1e-30)
    return feeds, wanted, allowed


def _shaken(array: Array, rng: np.random.Generator, coarseness: float) -> Array:
    """Shift values by up to two ulps."""
    if array.dtype.kind != "f":
        return array
    unit = coarseness * float(np.finfo(array.dtype).eps)
    off = 1 + unit * rng.choice([-1.0, 1.0], array.shape)
    return np.asarray(array.astype(float) * off).astype(array.dtype)


def _disturbed(
    model: onnx.ModelProto, rng: np.random.Generator, coarseness: float
) -> onnx.ModelProto:
    """Disturb every constant and every intermediate value of a model slightly."""
    other = inliner.inline_local_functions(model) if model.functions else onnx.ModelProto()
    if not model.functions:
        other.CopyFrom(model)
    types = _types(other)
    _disturb_graph(other.graph, types, rng, coarseness)
    return other


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the element type of each floating-point value, by inference."""
    inferred = onnx.shape_inference.infer_shapes(model)
    found: dict[str, int] = {}

    def look(graph: onnx.GraphProto) -> None:
        for value in [*graph.input, *graph.output, *graph.value_info]:
            if value.type.tensor_type.elem_type in _FLOATS:
                found[value.name] = value.type.tensor_type.elem_type
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    look(attribute.g)

    look(inferred.graph)
    return found


_KEEP = {"Constant", "ConstantOfShape", "Shape", "If", "Loop", "Scan"}


def _disturb_graph(
    graph: onnx.GraphProto,
    types: Mapping[str, int],
    rng: np.random.Generator,
    coarseness: float,
) -> None:
    for tensor in graph.initializer:
        if tensor.data_type in _FLOATS:
            moved = _shaken(numpy_helper.to_array(tensor), rng, coarseness)
            tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    nodes = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _disturb_graph(attribute.g, types, rng, coarseness)
        nodes.append(node)
        if node.op_type in _KEEP:
            continue
        for slot, name in enumerate(node.output):
            kind = types.get(name)
            if kind is None:
                continue
            plain, factor = f"{name}~plain", f"{name}~factor"
            node.output[slot] = plain
            unit = coarseness * float(np.finfo(_FLOATS[kind]).eps)
            off = np.array(1 + unit * rng.choice([-1, 1]), _FLOATS[kind])
            graph.initializer.append(numpy_helper.from_array(off, factor))
            nodes.append(helper.make_node("Mul", [plain, factor], [name]))
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
