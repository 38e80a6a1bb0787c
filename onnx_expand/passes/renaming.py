"""Writing renames down again, around a map that had them inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.renames import Extent, Rename
from onnx_expand.values import Facts

__all__ = ["state_shape", "write_renames"]


def write_renames(
    renames: Sequence[Rename],
    x: ir.Value,
    channels: int | None,
    facts: Facts,
    unique: Callable[[str], str],
) -> list[ir.Node]:
    """Copies of renames, one after the other, for a value with so many channels.

    Args:
        renames: What to copy, in order.
        x: What the first one reads.
        channels: Channels of x, None where the renames see what they saw before.
        facts: What is known about the model.
        unique: Gives a name that nothing else has.

    Raises:
        RefusedError: A Reshape spells the number of channels where it cannot be changed.
    """
    nodes: list[ir.Node] = []
    for rename in renames:
        inputs = [x, *rename.node.inputs[1:]]
        if channels is not None:
            assert rename.axes is not None
            passage = rename.forward(rename.axes[0])
            assert passage is not None
            channels *= passage.repeat * passage.tile
            if rename.node.op_type == "Reshape":
                inputs[1] = _operand(rename, channels, facts, unique)
        old = rename.node
        node = ir.Node(
            old.domain,
            old.op_type,
            inputs,
            list(old.attributes.values()),
            name=unique(old.name) if old.name else old.name,
            doc_string=old.doc_string,
            metadata_props=dict(old.metadata_props),
            num_outputs=1,
            version=old.version,
        )
        x = node.outputs[0]
        axis = None if channels is None or rename.axes is None else rename.axes[1]
        state_shape(x, rename.target, axis, channels, facts, facts.dtype(old.outputs[0]))
        nodes.append(node)
    return nodes


def state_shape(
    value: ir.Value,
    extents: Sequence[Extent],
    axis: int | None,
    channels: int | None,
    facts: Facts,
    dtype: ir.DataType | None,
) -> None:
    """State the shape of a new value, which has so many channels on an axis, and its type."""
    dims = list(extents)
    if axis is not None:
        dims[axis] = channels
    facts.state(value, dims)
    if dtype is not None:
        value.dtype = dtype


def _operand(
    rename: Rename, channels: int, facts: Facts, unique: Callable[[str], str]
) -> ir.Value:
    """The operand of a Reshape for a number of channels: a constant, if it can be one."""
    given = rename.node.inputs[1]
    assert given is not None
    assert rename.axes is not None
    axis, extents = rename.axes[1], facts.extents_in(given)
    changes = channels != rename.channels[1] and (extents is None or extents[axis] not in {0, -1})
    if given.producer() is None and not changes:
        return given
    unknown = [i for i, e in enumerate(extents or ()) if e == -1 or not isinstance(e, int)]
    if extents is None or len(unknown) > 1 or (changes and axis in unknown):
        if not changes:
            return given
        message = f"'{given.name}' spells the number of channels and is no constant"
        raise RefusedError(Refusal(Reason.DYNAMIC, message))
    numbers = [-1 if i in unknown else e for i, e in enumerate(extents)]
    array = np.array(numbers, dtype=np.int64)
    if changes:
        array[axis] = channels
    name = unique(given.name or "shape")
    return ir.val(name, const_value=ir.Tensor(array, name=name))
