"""Templates: how a node represents its map, so that a result can be written like it.

A result that fits the template of a node it replaces keeps op, attributes, layout and names;
otherwise a new template is built for the cheapest form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf import json_format

from onnx_expand.algebra.affine import AffineConv
from onnx_expand.errors import UsageError
from onnx_expand.graph.facts import Facts
from onnx_expand.graph.origins import inherit
from onnx_expand.lift import Axes, Linear
from onnx_expand.lower.forms import Form, from_behind

__all__ = ["Template", "fresh", "node_like"]


_WRITTEN = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Template:
    """How a node represents its map.

    Attributes:
        node: A node without inputs that has the op, name, attributes, doc string and metadata.
        inputs: The names of its inputs, "" for an omitted one.
        slot: The index of the activation among the inputs.
        weight: The shape of the weight constant.
        bias: The shape of the bias constant, None if there is none.
    """

    node: ir.Node
    inputs: tuple[str, ...]
    slot: int
    weight: tuple[int, ...]
    bias: tuple[int, ...] | None

    @classmethod
    def of(cls, linear: Linear, facts: Facts) -> Template | None:
        """Return the template of a Conv, ConvTranspose, Gemm or MatMul node; None for others."""
        node = linear.node
        if node.op_type not in _WRITTEN or linear.weight is None:
            return None
        return cls(
            node_like(node, []),
            tuple("" if value is None else value.name or "" for value in node.inputs),
            linear.slot,
            facts.dims(linear.weight),
            None if linear.bias is None else facts.dims(linear.bias),
        )

    def without_bias(self) -> Template:
        """Return the template without its bias."""
        return replace(self, inputs=self.inputs[:2], bias=None)

    def to_json(self) -> dict[str, Any]:
        """Return the template as plain JSON types."""
        node = json_format.MessageToDict(ir.serde.serialize_node(self.node))
        return {
            "node": node,
            "inputs": list(self.inputs),
            "slot": self.slot,
            "weight": list(self.weight),
            "bias": None if self.bias is None else list(self.bias),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Template:
        """Build a template from the result of `to_json`.

        Raises:
            ValueError: The data has another structure.
        """
        try:
            proto = json_format.ParseDict(data["node"], onnx.NodeProto())
            node = ir.serde.deserialize_node(proto)
            bias = data["bias"]
            return cls(
                node_like(node, []),
                tuple(map(str, data["inputs"])),
                int(data["slot"]),
                tuple(map(int, data["weight"])),
                None if bias is None else tuple(map(int, bias)),
            )
        except (KeyError, TypeError, json_format.ParseError) as error:
            raise ValueError(f"not a template: {error}") from None

    def input_name(self, index: int) -> str:
        """Return the name of an input, "" if there is none."""
        return self.inputs[index] if index < len(self.inputs) else ""


def fresh(form: Form, affine: AffineConv, axes: Axes, rank: int | None, name: str) -> Template:
    """Return a new template for a form.

    Raises:
        UsageError: MatMul cannot map these axes.
    """
    if form in {Form.CONV, Form.CONV_TRANSPOSE}:
        return _fresh_conv(form, affine, name)
    n, m = affine.weight.shape[0], affine.geometry.in_channels
    if form is Form.MATMUL:
        place = from_behind(axes[0], rank)
        if axes[0] != axes[1] or place not in {-1, -2}:
            raise UsageError(f"MatMul does not map axes {axes} of a tensor of rank {rank}")
        right = place == -1
        node = ir.node("MatMul", [], name=name)
        return Template(node, (), 0 if right else 1, (m, n) if right else (n, m), None)
    attributes: dict[str, int] = {}
    right = axes[1] == 1  # y = x W^T, or y = W x where the channels of y are its rows
    if right:
        attributes = {"transA": 1} if axes[0] == 0 else {}
        attributes["transB"] = 1
    elif axes[0] == 1:
        attributes = {"transB": 1}
    node = ir.node("Gemm", [], attributes, name=name)
    return Template(node, (), 0 if right else 1, (n, m), (n,) if right else (n, 1))


def _fresh_conv(form: Form, affine: AffineConv, name: str) -> Template:
    g = affine.geometry
    attributes: dict[str, Any] = {
        "dilations": g.dilations,
        "group": g.group,
        "kernel_shape": g.kernel,
        "pads": g.pads,
        "strides": g.strides,
    }
    shape = g.weight_shape
    if g.floats:
        del attributes["pads"]
        attributes |= {"auto_pad": g.auto_pad} if g.auto_pad else {}
        attributes |= {"output_shape": g.output_shape} if g.output_shape else {}
    if g.transposed:
        attributes["output_padding"] = g.extension
        shape = (g.in_channels, g.out_channels // g.group, *g.kernel)
    node = ir.node(form.value, [], attributes, name=name)
    return Template(node, (), 0, shape, (g.out_channels,))


def node_like(node: ir.Node, inputs: Sequence[ir.Value | None], outputs: int = 1) -> ir.Node:
    """Return a node with the op, name, attributes, doc string and metadata of another."""
    like = ir.Node(
        node.domain,
        node.op_type,
        inputs,
        list(node.attributes.values()),
        name=node.name,
        doc_string=node.doc_string,
        metadata_props=dict(node.metadata_props),
        num_outputs=outputs,
        version=node.version,
    )
    inherit([like], [node], is_new=False)
    return like
