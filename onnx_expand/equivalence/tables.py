"""Compare what random inputs may not reach: constants, and every row of a table.

The inputs of a comparison read a few hundred of fifty thousand rows. Therefore constants are
compared directly if the nodes that read them are equal; if not, the part that reads a table runs
alone on all of its rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.equivalence.compare import Figure, Place, Tolerance, compare
from onnx_expand.equivalence.inputs.demand import Demand
from onnx_expand.equivalence.parts.cells import (
    Swap,
    common_tensors,
    differing_cells,
    swapped_constants,
)
from onnx_expand.equivalence.parts.cutting import keep_outputs
from onnx_expand.equivalence.parts.regions import are_close, run_inner
from onnx_expand.errors import UnsupportedError
from onnx_expand.graph.tensors import read_tensor
from onnx_expand.runtimes.base import Session, Tensors
from onnx_expand.runtimes.named import named_runtime
from onnx_expand.runtimes.reference import Reference

__all__ = ["compare_constants", "compare_rows", "settled_tensors"]

Array = npt.NDArray[Any]

_UNITS = 16.0  # ulps: the error that multiplying a weight out may cause
_CLOSE = 0.01
_FILL = 1e4  # a value this large stands for infinity, and so does a larger one
_TURNS = 512  # runs for the rows of one table
_NODES = 64  # nodes of a part that may run so often
_NUMBERS = 1 << 22  # elements in its weights besides the table
# Inputs whose values a node adds, multiplies or passes on, so that each of them has an effect.
_READ = {
    "Gather": {0}, "GatherElements": {0}, "GatherND": {0}, "MatMul": {0, 1}, "Gemm": {0, 1, 2},
    "Conv": {1, 2}, "ConvTranspose": {1, 2}, "Add": {0, 1}, "Sub": {0, 1}, "Mul": {0, 1},
    "Div": {0, 1}, "BatchNormalization": {1, 2, 3, 4}, "LayerNormalization": {1, 2},
    "InstanceNormalization": {1, 2}, "PRelu": {1}, "Where": {1, 2}, "LSTM": {1, 2, 3},
    "GRU": {1, 2, 3}, "RNN": {1, 2, 3}, "DequantizeLinear": {0, 1}, "MatMulInteger": {1},
    "ConvInteger": {1}, "QLinearConv": {3, 4}, "QLinearMatMul": {3, 4}, "Einsum": {0, 1},
}  # fmt: skip


def settled_tensors(
    a: ir.Model, b: ir.Model, feeds: Tensors, providers: tuple[str, str]
) -> set[str]:
    """Return the outputs, and the tensors of a common name with about equal values in both models.

    Raises:
        UnsupportedError: A runtime cannot run a model with its inner tensors as outputs.
    """
    types = common_tensors(a, b)
    values = run_inner(a, types, feeds, named_runtime(providers[0]))
    others = run_inner(b, types, feeds, named_runtime(providers[1]))
    names = types.keys() & values.keys() & others.keys()
    ends = {value.name or "" for value in a.graph.outputs}
    return {n for n in names if n in ends or are_close(values[n], others[n], _CLOSE)}


def compare_constants(a: ir.Model, b: ir.Model, names: set[str], slack: float = 1.0) -> list[str]:
    """Return the differences between constants that are read by otherwise equal nodes.

    Args:
        a: The reference model.
        b: The model to compare.
        names: The tensors that are equal in both.
        slack: The allowed difference as a multiple of the one that rounding explains.

    Returns:
        One sentence for each difference.
    """
    found: dict[str, str] = {}
    for swap in swapped_constants(a, b, names):
        if swap.readers and all(index in _READ.get(op, ()) for op, index in swap.readers):
            text = _difference(swap, slack)
            if text:
                found.setdefault(swap.name, text)
    return list(found.values())


def _difference(swap: Swap, slack: float) -> str:
    x, y = np.asarray(read_tensor(swap.a)), np.asarray(read_tensor(swap.b))
    where = f"initializer '{swap.name}', read for '{swap.tensor}' by the same nodes in both,"
    if x.dtype != y.dtype or x.shape != y.shape:
        return ""  # broadcast or padded: only the outputs can be compared
    wrong = _apart(x, y, slack)
    if not wrong.any():
        return ""
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
    return (
        f"{where} is {x[index]} in A, {y[index]} in B at {list(index)}; {int(wrong.sum())} differ"
    )


def _apart(x: Array, y: Array, slack: float) -> npt.NDArray[np.bool_]:
    """Return where two constants differ by more than rounding explains."""
    if x.dtype.kind not in "fV":
        return np.asarray(x != y)
    eps, wide, other = _eps(x.dtype), x.astype(np.float64), y.astype(np.float64)
    with np.errstate(invalid="ignore"):
        gap = np.abs(wide - other)
        axes = tuple(range(1, wide.ndim))
        size = np.max(np.abs(wide), axis=axes, keepdims=True) if wide.size else wide
        wrong = (gap > slack * _UNITS * eps * size) | (np.isnan(wide) != np.isnan(other))
        same = (wide == other) | (np.isnan(wide) & np.isnan(other))
        if wide.size == 1:
            fill = (np.minimum(np.abs(wide), np.abs(other)) >= _FILL) & (wide * other > 0)
            same |= fill
    return np.asarray((wrong | (np.isinf(wide) | np.isinf(other))) & ~same)


def _eps(dtype: np.dtype[Any]) -> float:
    return float(np.finfo(dtype).eps) if dtype.kind == "f" else 2.0**-7


def compare_rows(
    a: ir.Model,
    b: ir.Model,
    names: set[str],
    demands: Mapping[str, Demand],
    inputs: Mapping[str, Tensors],
    provider: tuple[str, str],
    tolerance: Tolerance,
) -> list[Figure]:
    """Run the parts that read tables on the rows that no input has read so far.

    Returns:
        The worst figure of each part.
    """
    unread = {name: _unread(name, demand, inputs) for name, demand in demands.items()}
    rows = {name: left for name, left in unread.items() if left is not None}
    if not rows:
        return []
    found = []
    for cell in differing_cells(a, b, names):
        parts = _part(a, cell.tensor), _part(b, cell.tensor)
        reads = {v.name or "" for v in (*parts[0].graph.inputs, *parts[1].graph.inputs)}
        own = {name: left for name, left in rows.items() if name in reads}
        if own and all(map(_is_light, parts)):
            figures = list(_run_rows(parts, cell.tensor, own, inputs, provider, tolerance))
            found += [max(figures, key=lambda figure: figure.ratio)] if figures else []
    return found


def _unread(name: str, demand: Demand, inputs: Mapping[str, Tensors]) -> Array | None:
    if not demand.rows or demand.low is None:
        return None
    low = max(0, demand.low)
    every = np.arange(low, low + demand.rows - (low - demand.low))
    read = [np.unique(feeds[name]) for feeds in inputs.values() if name in feeds]
    left = np.setdiff1d(every, np.concatenate(read)) if read else every
    return left if left.size else None


def _run_rows(
    parts: tuple[ir.Model, ir.Model],
    tensor: str,
    rows: Mapping[str, Array],
    inputs: Mapping[str, Tensors],
    provider: tuple[str, str],
    tolerance: Tolerance,
) -> Iterator[Figure]:
    label, feeds = max(inputs.items(), key=lambda item: sum(item[1][n].size for n in rows))
    try:
        left = named_runtime(provider[0]).session(parts[0], "the rows of a table")
        right = named_runtime(provider[1]).session(parts[1], "the rows of a table")
        truth = Reference().session(parts[0], "the rows of a table")
        sessions: list[tuple[Session, ir.Model]] = [
            *((left, parts[0]), (right, parts[1]), (truth, parts[0]))
        ]
        for taken in _chunks(rows, feeds):
            given = {**feeds, **taken}
            x, y, want = (
                session.run({v.name or "": given[v.name or ""] for v in part.graph.inputs})[tensor]
                for session, part in sessions
            )
            first = ", ".join(f"{n} {int(v.min())} to {int(v.max())}" for n, v in taken.items())
            place = Place(
                tensor, f"rows {first}, as on {label}", "/".join(dict.fromkeys(provider))
            )
            eps = _eps(x.dtype)
            near = None if x.shape != want.shape else want
            yield compare(place, x, y, near, 0.0, eps, tolerance)
    except UnsupportedError:
        return  # only the whole model accepts these rows


def _chunks(rows: Mapping[str, Array], feeds: Tensors) -> Iterator[dict[str, Array]]:
    turns = max(math.ceil(left.size / max(1, feeds[name].size)) for name, left in rows.items())
    # If there are too many, evenly spaced ones and the last are used.
    for turn in np.unique(np.linspace(0, turns - 1, min(turns, _TURNS)).astype(int)):
        taken = {}
        for name, left in rows.items():
            size = feeds[name].size
            picks = left[(turn * size + np.arange(size)) % left.size]
            taken[name] = picks.astype(feeds[name].dtype).reshape(feeds[name].shape)
        yield taken


def _part(model: ir.Model, tensor: str) -> ir.Model:
    """Return the part of a model that computes one of its tensors."""
    copy = model.clone()
    for node in copy.graph:
        for out in node.outputs:
            if out.name == tensor and out not in copy.graph.outputs:
                copy.graph.outputs.append(out)
    keep_outputs(copy, {tensor})
    return copy


def _is_light(model: ir.Model) -> bool:
    nodes: Sequence[ir.Node] = list(model.graph)
    tables = {node.inputs[0] for node in nodes if node.op_type == "Gather"}
    numbers = sum(
        value.const_value.size
        for value in model.graph.initializers.values()
        if value.const_value is not None and value not in tables
    )
    return len(nodes) <= _NODES and numbers <= _NUMBERS
