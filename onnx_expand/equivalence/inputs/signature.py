"""The inputs and outputs of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

__all__ = ["Port", "Signature"]


@dataclass(frozen=True)
class Port:
    """An input or output of a model.

    Attributes:
        name: Its name.
        dtype: The type of its elements; None if it is not a tensor or the type is not declared.
        shape: Extents: a name if symbolic, None if unnamed. None without a rank.
    """

    name: str
    dtype: ir.DataType | None
    shape: tuple[int | str | None, ...] | None

    @classmethod
    def of(cls, value: ir.Value) -> Port:
        """Create the port of a graph input or output."""
        tensor = isinstance(value.type, ir.TensorType)
        shape = None
        if value.shape is not None:
            shape = tuple(map(_extent, value.shape))
        return cls(value.name or "", value.dtype if tensor else None, shape)

    def symbols(self) -> tuple[int | str, ...]:
        """Return the extents, with a unique name for each unnamed one."""
        return tuple(
            f"{self.name}[{axis}]" if extent is None else extent
            for axis, extent in enumerate(self.shape or ())
        )


def _extent(dim: int | ir.SymbolicDim) -> int | str | None:
    if isinstance(dim, int):
        return dim if dim >= 0 else None  # old exporters wrote -1
    return dim.value or None


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a model by name.

    Attributes:
        inputs: The inputs that a caller must provide, without overridable initializers.
        outputs: The outputs.
    """

    inputs: dict[str, Port]
    outputs: dict[str, Port]

    @classmethod
    def of(cls, model: ir.Model) -> Signature:
        """Create the signature of a model."""
        given = (v for v in model.graph.inputs if v.name not in model.graph.initializers)
        inputs, outputs = map(Port.of, given), map(Port.of, model.graph.outputs)
        return cls({p.name: p for p in inputs}, {p.name: p for p in outputs})

    def with_shapes(self, shapes: Mapping[str, tuple[int | str, ...]]) -> Signature:
        """Return this signature with other input shapes, by name."""
        inputs = {
            name: replace(port, shape=shapes[name]) if name in shapes else port
            for name, port in self.inputs.items()
        }
        return replace(self, inputs=inputs)

    def differences(self, other: Signature) -> list[str]:
        """Return the differences between this model, A, and another, B, that callers would notice.

        Symbolic extents are compatible with anything, but where A accepts any extent B must do so,
        too. Declared output shapes are not compared; the actual shapes are compared in runs.
        """
        found = []
        for kind, left, right in (
            ("input", self.inputs, other.inputs),
            ("output", self.outputs, other.outputs),
        ):
            found += [f"{kind} '{name}' is in A only" for name in left if name not in right]
            found += [f"{kind} '{name}' is in B only" for name in right if name not in left]
            for name in left:
                if name in right:
                    found += _port_differences(kind, left[name], right[name])
        if not found and list(self.outputs) != list(other.outputs):
            orders = (", ".join(signature.outputs) for signature in (self, other))
            found.append("the order of the outputs is {} in A, {} in B".format(*orders))
        return found


def _port_differences(kind: str, a: Port, b: Port) -> Iterator[str]:
    is_untold = kind == "output" and None in (a.dtype, b.dtype)
    if a.dtype != b.dtype and not is_untold:
        yield f"{kind} '{a.name}' is {a.dtype} in A, {b.dtype} in B"
    if kind == "output" or a.shape is None or b.shape is None:
        return
    shapes = f"{_shape_text(a)} in A, {_shape_text(b)} in B"
    if len(a.shape) != len(b.shape):
        yield f"{kind} '{a.name}' has {len(a.shape)} axes in A, {len(b.shape)} in B: {shapes}"
        return
    for axis, (left, right) in enumerate(zip(a.shape, b.shape, strict=True)):
        # B must accept what A accepts; it may accept more.
        narrower = isinstance(right, int) and not isinstance(left, int)
        if narrower or (isinstance(left, int) and isinstance(right, int) and left != right):
            yield f"{kind} '{a.name}' differs on axis {axis}: {shapes}"


def _shape_text(port: Port) -> str:
    return "[" + ", ".join(str("?" if d is None else d) for d in port.shape or ()) + "]"
