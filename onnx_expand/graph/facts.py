"""Facts about the values of a model that hold for every run: shapes, dtypes and constants."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.graph.budget import Budget
from onnx_expand.graph.claims import MADE_UP
from onnx_expand.graph.computed import Computed
from onnx_expand.graph.products import Product
from onnx_expand.graph.shapes import BODY, Dim, Inference, default_opset
from onnx_expand.graph.stored import (
    _BLOCK,
    read_external,
    stored_bytes,
    values_of,
)
from onnx_expand.graph.tensors import read_tensor
from onnx_expand.graph.writable import Dialect, Writable
from onnx_expand.model import DESCRIBED, is_external

__all__ = ["Facts", "Shape"]

Shape = tuple[int | None, ...]

_NOT_REAL = {ir.DataType.COMPLEX64, ir.DataType.COMPLEX128, ir.DataType.STRING}
_FEW = 1 << 12  # elements of which a temporary copy costs less than their sum
# Each round of inference resolves at least one more computed shape.
_ROUNDS = 16


class Facts:
    """Shapes, dtypes, constants and opset of one model.

    Inferred shapes are stored here; queries do not change the model.

    Args:
        model: The model. Values that a pass adds later have their own shapes.
        one_sample: Whether a symbolic batch, the first axis of an input, counts as 1.
        budget: The budget for evaluating constants, if other models share it.

    Attributes:
        has_overridable: Whether there are initializers that callers may override.
        is_told: Whether nodes told more of their inputs than follows from the model's inputs.
    """

    def __init__(
        self, model: ir.Model, *, one_sample: bool = False, budget: Budget | None = None
    ) -> None:
        self.opset = default_opset(model.graph.opset_imports)
        graphs = list(model.graphs())
        self.has_overridable = any(
            value.is_graph_input() for g in graphs for value in g.initializers.values()
        )
        self.budget = Budget(sum(map(stored_bytes, graphs))) if budget is None else budget
        self._extents: dict[int, tuple[ir.TensorProtocol, tuple[int, ...]]] = {}
        self._computed = Computed(self.opset, self.budget, self.extents, self.dtype)
        # The shapes that the model declares for these values may be wrong.
        self._described = {value for graph in graphs for value in values_of(graph)}
        is_body = bool(model.meta.get(BODY))
        inference = Inference(model, one_sample=one_sample, is_body=is_body)
        self._inferred, self._dtypes = inference.dims, inference.dtypes
        self._names = inference.names
        inference.run(proves=False)
        for _ in range(_ROUNDS):
            stated = inference.resolve(self.extents, self.extents_in)
            filled = inference.fill_in(self._number)
            if not filled and not stated and not inference.prove():
                break
            self._computed.retry()
            inference.run(proves=inference.is_told)
        self.is_told = inference.is_told
        self._dialect = Dialect(self.opset, self._held(graphs))

    def _held(self, graphs: Iterable[ir.Graph]) -> dict[ir.DataType, set[str]]:
        """Return the default-domain op types in the graphs, by the dtype of their outputs."""
        held: dict[ir.DataType, set[str]] = {}
        for graph in graphs:
            for node in graph:
                dtype = self.dtype(node.outputs[0]) if node.outputs and not node.domain else None
                if dtype is not None:
                    held.setdefault(dtype, set()).add(node.op_type)
        return held

    def writable(self, dtype: ir.DataType | None) -> Writable:
        """Return the ops that may be written into the model for a dtype."""
        return self._dialect.of(dtype)

    def _number(self, value: ir.Value) -> npt.NDArray[Any] | None:
        tensor = self._computed.constant(value)
        return None if tensor is None else read_tensor(tensor)

    def shape(self, value: ir.Value | None) -> Shape | None:
        """Return the extents of a value, None for dynamic ones; None if the rank is unknown."""
        dims = self.named_shape(value)
        return None if dims is None else tuple(d if isinstance(d, int) else None for d in dims)

    def named_shape(self, value: ir.Value | None) -> tuple[Dim, ...] | None:
        """Return the extents as `shape` does, with the names of dynamic extents that have one."""
        if value is None:
            return None
        if value.const_value is not None and not value.is_graph_input():
            return self._extents_of(value.const_value)
        known = self._inferred.get(value)
        return _plain(value.shape) if known is None and value not in self._described else known

    def set_extents(self, value: ir.Value, dims: Sequence[Hashable]) -> None:
        """Set the extents of a new value, which may be extents of others as of `extents`.

        The shape stored in the value has the dimension names of the model.
        """
        known = tuple(map(self._names.of, dims))
        self._inferred[value] = known
        value.shape = ir.Shape([self._names.spell(d) if isinstance(d, str) else d for d in known])

    def correct_shapes(self, model: ir.Model) -> None:
        """Correct the declared shapes of inner values in a rewritten model that are refuted.

        Runtimes may rely on a declared shape; nodes that were removed may have prevented this.
        """
        outputs = set(model.graph.outputs)
        for graph in model.graphs():
            inputs = () if graph is model.graph else graph.inputs
            for value in (*inputs, *(out for node in graph for out in node.outputs)):
                known = self._inferred.get(value)
                if known is not None and value not in outputs and _is_refuted(value, known):
                    self.set_extents(value, known)
                    value.meta.pop(DESCRIBED, None)

    def extents(self, value: ir.Value | None) -> tuple[Hashable, ...] | None:
        """Return the extents as `shape` does, with an identifier for each dynamic extent.

        Equal extents may have different identifiers, but different ones never share one.
        """
        dims = self.named_shape(value)
        if dims is None:
            return None
        return tuple((value, i) if d is None else self._names.meant(d) for i, d in enumerate(dims))

    def count_known(self, value: ir.Value) -> tuple[int, int]:
        """Count the extents of a value that are numbers, and those that are symbols or products.

        Both are -1 if the rank is unknown.
        """
        extents = self.extents(value)
        if extents is None:
            return -1, -1
        named = [e for e in extents if isinstance(e, str) and not e.startswith(MADE_UP)]
        products = [e for e in extents if isinstance(e, Product)]
        return sum(isinstance(e, int) for e in extents), len(named) + len(products)

    def extents_in(self, value: ir.Value | None) -> tuple[Hashable, ...] | None:
        """Return the elements of a tensor of extents; None if they are not known."""
        return None if value is None else self._computed.extents_in(value)

    def transfer(self, old: ir.Value, new: ir.Value) -> None:
        """Copy the facts about a value to the one that replaces it."""
        if old in self._described:
            self._described.add(new)
        if old in self._inferred:
            self._inferred[new] = self._inferred[old]
        if old in self._dtypes:
            self._dtypes[new] = self._dtypes[old]

    def note_rank(self, value: ir.Value, rank: int) -> None:
        """Record the rank that an op's definition implies for a value of unknown shape."""
        if value not in self._inferred and self.shape(value) is None:
            self._inferred[value] = (None,) * rank

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """Return the dtype of a value, if known."""
        if value.const_value is not None and not value.is_graph_input():
            return value.const_value.dtype
        return self._dtypes.get(value, value.dtype)

    def rank(self, value: ir.Value | None) -> int | None:
        """Return the number of axes of a value, if known."""
        shape = self.shape(value)
        return None if shape is None else len(shape)

    def tensor(self, value: ir.Value) -> ir.TensorProtocol:
        """Return the tensor of a constant value.

        Raises:
            RefusedError: The value is not constant, or a caller may override it.
        """
        tensor = self._computed.constant(value)
        if tensor is not None:
            return tensor
        if value.is_initializer() and value.const_value is not None:
            raise RefusedError(
                Refusal(
                    Reason.OVERRIDABLE,
                    f"'{value.name}' is also a graph input, so that a caller may override it",
                    hint="if no caller does, give --assume-constant-initializers",
                )
            )
        message = f"'{value.name}' is computed while the model runs"
        raise RefusedError(Refusal(Reason.DYNAMIC, message))

    def dims(self, value: ir.Value) -> tuple[int, ...]:
        """Return the shape of a constant value.

        Raises:
            RefusedError: As `tensor`.
        """
        return self._extents_of(self.tensor(value))

    def _extents_of(self, tensor: ir.TensorProtocol) -> tuple[int, ...]:
        # Some tensors compute their shape at each access.
        known = self._extents.get(id(tensor))
        if known is None or known[0] is not tensor:
            known = tensor, tuple(d for d in tensor.shape if isinstance(d, int))
            self._extents[id(tensor)] = known
        return known[1]

    def readers(self, value: ir.Value) -> Iterator[ir.Node]:
        """Yield the nodes that read a value's elements, once per use.

        Nodes with fixed values, such as a Shape of static extents, are left out.
        """
        return (use.node for use in value.uses() if not self.is_fixed(use.node))

    def is_fixed(self, node: ir.Node) -> bool:
        """Return whether a node's results are constant although its input is not."""
        return self.fixed_values(node) is not None

    def fixed_values(self, node: ir.Node) -> list[ir.Value] | None:
        """Return the constants that derive from a node of a variable input; None if others do."""
        if node.domain or node.op_type not in {"Shape", "Size", "CastLike"}:
            return None
        found: list[ir.Value] = []
        pending = list(node.outputs)
        while pending:
            value = pending.pop()
            if self.is_constant(value):
                found.append(value)
            elif self._computed.has_extents(value) and not value.is_graph_output():
                pending += [out for user in value.consumers() for out in user.outputs]
            else:
                return None
        return found

    def is_constant(self, value: ir.Value | None) -> bool:
        """Return whether a value is constant."""
        return value is not None and self._computed.constant(value) is not None

    def array(self, value: ir.Value) -> npt.NDArray[np.float64]:
        """Return the elements of a constant value in float64.

        Raises:
            RefusedError: The value is not constant, not finite, or not of real numbers.
        """
        tensor = self.tensor(value)
        if tensor.dtype in _NOT_REAL:
            message = f"'{value.name}' has dtype {tensor.dtype.name.lower()}, not real numbers"
            raise RefusedError(Refusal(Reason.UNSUPPORTED, message))
        if is_external(tensor) and tensor.nbytes >= _BLOCK:
            array = read_external(tensor)
        else:
            array = np.asarray(read_tensor(tensor), dtype=np.float64)
            if tensor.dtype == ir.DataType.DOUBLE:
                array = array.view()
                array.flags.writeable = False  # the array shares the tensor's memory
        if not _is_finite(array):
            raise RefusedError(Refusal(Reason.NON_FINITE, f"'{value.name}' holds NaN or infinity"))
        return array


def _is_finite(array: npt.NDArray[np.float64]) -> bool:
    if array.size > _FEW:
        with np.errstate(all="ignore"):
            if np.isfinite(array.sum()):  # implies finite elements, and needs no temporary array
                return True
    return bool(np.isfinite(array).all())


def _is_refuted(value: ir.Value, known: tuple[Dim, ...]) -> bool:
    """Return whether the declared shape of a value contradicts its known one."""
    if value.shape is None:
        return False
    return len(value.shape) != len(known) or any(map(_differ, value.shape, known))


def _differ(claimed: int | ir.SymbolicDim, known: Dim) -> bool:
    """Return whether a declared extent is static and differs from the known one."""
    if not isinstance(claimed, int) or known is None:
        return False
    return known != claimed if isinstance(known, int) else not known.startswith(MADE_UP)


def _plain(shape: ir.Shape | None) -> Shape | None:
    """Return the static extents that a new value declares."""
    return None if shape is None else tuple(d if isinstance(d, int) else None for d in shape)
