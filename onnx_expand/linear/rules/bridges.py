"""Merge across a padded border, at a cost.

A map with a bias followed by a convolution that pads is not one convolution, since the padding has
zeros instead of the bias. Three rewrites are exact nevertheless, at a cost:

- `ones` appends a channel of ones to the input, whose weights carry the bias: the padding zeroes
  it outside. It is exact for each input size and costs 1 / m more products for m input channels.
- `pad` pads the input with the value that the first map maps to zero, which must be equal in all
channels. It adds a Pad node.
- `map` adds the contribution of the bias as an image of constants. It needs static extents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import onnx_ir as ir

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.errors import Reason, Refusal, RefusedError
from onnx_expand.graph.tensors import read_tensor
from onnx_expand.lower import Form, Target, constant, lower

__all__ = ["Border", "bridge"]


class Border(StrEnum):
    """How to merge a bias before a padded border."""

    EXACT = "exact"
    """Leave the nodes apart: nothing is added."""
    ONES = "ones"
    """Append a channel of ones to the input."""
    MAP = "map"
    """Add an image of constants."""
    PAD = "pad"
    """Pad with the value that the first map maps to zero."""


@dataclass(frozen=True)
class _Pair:
    f: AffineConv
    g: AffineConv
    extents: Sequence[int | None]
    target: Target


def bridge(
    border: Border,
    f: AffineConv,
    g: AffineConv,
    extents: Sequence[int | None],
    target: Target,
) -> list[ir.Node] | Refusal:
    """Write the composition of `f` and `g` exactly, although no single convolution computes it.

    Args:
        border: The rewrite.
        f: The first map, with the bias.
        g: The second map, which pads.
        extents: Spatial extents of the input, None for one that is not static.
        target: The name of the result.

    Returns:
        The nodes, or why this rewrite does not apply.
    """
    rank = g.rank
    f = f.at_rank(rank)
    without = replace(f, bias=None)
    refusal = without.geometry.then(g.geometry)
    if isinstance(refusal, Refusal):
        return refusal
    floating = g.geometry.floating()
    if floating is not None:
        return floating
    pair = _Pair(f, g, extents, target)
    return {Border.ONES: _ones, Border.MAP: _map, Border.PAD: _pad}[border](pair)


def _ones(pair: _Pair) -> list[ir.Node] | Refusal:
    f, g = pair.f, pair.g
    if not f.geometry.is_pointwise:
        return _refused("a channel of ones has the first map's output extents only before a 1x1")
    dense = g @ replace(f, bias=None)
    dense = dense.embedded(replace(dense.geometry, group=1))
    assert f.bias is not None
    carried = replace(g, bias=None) @ AffineConv(f.bias.reshape(-1, 1)).at_rank(g.rank)
    carried = carried.embedded(replace(dense.geometry, in_channels=1, group=1, bias=False))
    whole = replace(dense, weight=np.concatenate([dense.weight, carried.weight], axis=1))
    rank = g.rank + 2
    pads = np.zeros(2 * rank, dtype=np.int64)
    pads[rank + 1] = 1
    padded = _pad_node(pair.target, pads, 1.0)
    nodes = lower(whole, Form.CONV, (1, 1), replace(pair.target, x=padded.outputs[0]))
    return [padded, *nodes]


def _pad(pair: _Pair) -> list[ir.Node] | Refusal:
    f, g = pair.f, pair.g
    if not f.geometry.is_pointwise:
        return _refused("the first map is not pointwise")
    assert f.bias is not None
    sums = f.weight.sum(axis=tuple(range(1, f.weight.ndim)))
    if not np.all(sums):
        return _refused("no value becomes zero in every channel")
    values = -f.bias / sums
    value = float(np.asarray(values.mean()).astype(pair.target.dtype.numpy()))
    eps = float(np.finfo(np.float32).eps) if pair.target.dtype.itemsize == 4 else 0.0
    off = np.abs(sums * value + f.bias) > 2 * eps * np.abs(f.bias)
    if f.geometry.is_per_channel and np.all(f.weight == 1):
        # A map that only adds would be rounded too if it were written.
        numbers = constant(-f.bias, "", pair.target.dtype).const_value
        assert numbers is not None
        off &= read_tensor(numbers).astype(np.float64) != value
    if np.any(off):
        spread = float(np.ptp(values))
        return Refusal(
            Reason.BORDER,
            f"the value that becomes zero differs between channels, by {spread:.3g}",
            {"spread": spread},
            "fold with --border ones or map",
        )
    merged = replace(g, pads=()) @ f
    begins, ends = g.geometry.begins, g.geometry.ends
    pads = np.array([0, 0, *begins, 0, 0, *ends], dtype=np.int64)
    padded = _pad_node(pair.target, pads, value)
    nodes = lower(merged, Form.CONV, (1, 1), replace(pair.target, x=padded.outputs[0]))
    return [padded, *nodes]


def _map(pair: _Pair) -> list[ir.Node] | Refusal:
    f, g, target = pair.f, pair.g, pair.target
    known = [size for size in pair.extents if size is not None]
    if len(known) != g.rank:
        return _refused("an image of constants needs static extents")
    refusal = target.facts.writable(target.dtype).refusal("Add")
    if refusal is not None:
        return refusal
    assert f.bias is not None
    inner = f.geometry.output_extents(known)
    flat = np.broadcast_to(f.bias.reshape(1, -1, *(1,) * g.rank), (1, f.bias.size, *inner))
    image = g(flat)
    merged = replace(g, bias=None) @ replace(f, bias=None)
    shift = constant(image, target.names.bias, target.dtype)
    nodes = lower(merged, Form.CONV, (1, 1), target)
    add = ir.node("Add", [nodes[-1].outputs[0], shift], name=target.names.add)
    return [*nodes, add]


def _pad_node(
    target: Target, pads: np.ndarray[tuple[int], np.dtype[np.int64]], value: float
) -> ir.Node:
    refusal = target.facts.writable(target.dtype).refusal("Pad")
    if refusal is not None:
        raise RefusedError(refusal)
    names = target.names
    inputs, attributes = [target.x], dict[str, Any](mode="constant")
    fill = constant(np.array(value), f"{names.add}.value", target.dtype)
    if target.facts.opset < _PAD_READS:
        attributes |= {"pads": pads.tolist(), "value": value}
    else:
        amounts = ir.Tensor(pads, name=f"{names.add}.pads")
        inputs += [ir.val(amounts.name, const_value=amounts), fill]
    node = ir.node("Pad", inputs, attributes, name=names.add)
    shape = target.facts.shape(target.x)
    if shape is not None:
        rank = len(shape)
        node.outputs[0].shape = ir.Shape(
            None if size is None else size + int(pads[i] + pads[rank + i])
            for i, size in enumerate(shape)
        )
    node.outputs[0].type = ir.TensorType(target.dtype)
    return node


_PAD_READS = 11  # the first opset in which Pad reads its amounts as an input


def _refused(message: str) -> Refusal:
    return Refusal(Reason.UNSUPPORTED, message)
