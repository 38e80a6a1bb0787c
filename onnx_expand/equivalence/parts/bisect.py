"""Find where two models begin to differ: the first tensor of a common name with other values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_expand.documents import table
from onnx_expand.equivalence.compare import Figure, Place, Tolerance, compare, distance
from onnx_expand.equivalence.parts.cells import common_tensors
from onnx_expand.equivalence.parts.regions import run_inner
from onnx_expand.errors import UnsupportedError
from onnx_expand.graph.editing import label
from onnx_expand.graph.upstream import upstream
from onnx_expand.model import ModelLike, read
from onnx_expand.runtimes.base import Tensors
from onnx_expand.runtimes.named import named_runtime

__all__ = ["Divergence", "bisect"]

_FEW = Tolerance()
_TERMS = 64  # of a typical sum


@dataclass(frozen=True)
class Divergence:
    """The first tensor that both models have by one name and compute differently.

    Attributes:
        tensor: Its name.
        node_a: The node that computes it in A.
        node_b: The node that computes it in B.
        error: The largest difference.
        tolerance: The difference that rounding explains.
        after: The last tensors of common names before it, which agree.
        replaced: Nodes between these and it that are in A but not in B (the merged ones).
        compared: The number of tensors with a common name.
    """

    tensor: str
    node_a: str
    node_b: str
    error: float
    tolerance: float
    after: tuple[str, ...]
    replaced: tuple[str, ...]
    compared: int

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as strict JSON types."""
        return table(self)

    def summary(self) -> str:
        """Return the finding in one line."""
        text = (
            f"first differs '{self.tensor}' (node '{self.node_a}' in A, '{self.node_b}' in B): "
            f"error {self.error:.2g}, where rounding explains {self.tolerance:.2g}"
        )
        if self.after:
            text += f"; after {', '.join(repr(name) for name in self.after)}, which agree"
        if self.replaced:
            text += f"; merged there: {', '.join(self.replaced)}"
        return text


def bisect(
    a: ModelLike, b: ModelLike, feeds: Tensors, *, provider: str = "cpu"
) -> Divergence | None:
    """Find the first tensor by a common name in which two models differ.

    A tensor agrees if the difference is within a few times the rounding error of A itself.

    Returns:
        The first such tensor in A's order, or None if all agree.

    Raises:
        UnsupportedError: onnxruntime cannot run a model with its inner tensors as outputs.
    """
    left, right = read(a), read(b)
    types = common_tensors(left, right)
    names = list(types)
    runtime = named_runtime(provider)
    values = [run_inner(model, types, feeds, runtime) for model in (left, right)]
    noise = run_inner(left, types, _moved(feeds), runtime)
    agreed: list[str] = []
    for name in names:
        x, y = (found[name] for found in values)
        figure = compare(Place(name, "", provider), x, y, None, *_rounding(x, noise[name]), _FEW)
        if not figure.equal:
            return _found(left, right, figure, agreed, len(names))
        agreed.append(name)
    return None


def _moved(feeds: Tensors) -> Tensors:
    """Shift every floating-point input by one ulp."""
    return {
        name: np.nextafter(array, np.inf).astype(array.dtype) if array.dtype.kind == "f" else array
        for name, array in feeds.items()
    }


def _rounding(x: Any, moved: Any) -> tuple[float, float]:
    """Return the change of a tensor when the inputs move, and the epsilon of its type."""
    if x.dtype.kind != "f" or x.shape != moved.shape:
        return 0.0, 0.0
    # The rounding error of a sum of n terms is about sqrt(n) roundings.
    return distance(x, moved), _TERMS**0.5 * float(np.finfo(x.dtype).eps)


def _found(
    a: ir.Model,
    b: ir.Model,
    figure: Figure,
    agreed: Sequence[str],
    compared: int,
) -> Divergence:
    name = figure.place.output
    left, right = _producer(a, name), _producer(b, name)
    mine = {out.name for node in b.graph for out in node.outputs}
    known = set(agreed)
    behind: dict[str, None] = {}

    def differing(node: ir.Node) -> Iterator[ir.Value | None]:
        for value in node.inputs:
            if value is not None and value.name in known:
                behind[value.name or ""] = None
            else:
                yield value

    nodes = {left, *(value.producer() for value in upstream(*differing(left), through=differing))}
    replaced = []
    for node in a.graph:
        is_gone = all(out.name not in mine for out in node.outputs)
        if node in nodes and node.op_type != "Constant" and (is_gone or node is left):
            replaced.append(label(node))
    names = left.name or left.op_type, right.name or right.op_type
    merged = tuple(replaced) if len(replaced) > 1 else ()
    numbers = figure.max_error, figure.tolerance
    return Divergence(name, *names, *numbers, tuple(behind), merged, compared)


def _producer(model: ir.Model, name: str) -> ir.Node:
    for node in model.graph:
        if any(out.name == name for out in node.outputs):
            return node
    raise UnsupportedError(f"no node computes '{name}'")
