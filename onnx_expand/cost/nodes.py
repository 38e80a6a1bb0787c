"""The cost of nodes and models: parameters, multiply-accumulates and node counts."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import onnx_ir as ir

from onnx_expand.algebra.geometry import Geometry
from onnx_expand.cost.machine import MACHINE
from onnx_expand.graph.attributes import flag_of, text_of
from onnx_expand.graph.facts import Facts, Shape
from onnx_expand.graph.ops import Trait, op_of, ops_with
from onnx_expand.graph.stored import stated_constant
from onnx_expand.graph.tensors import read_tensor
from onnx_expand.lift import Linear, lift
from onnx_expand.lower import Form

__all__ = ["Cost", "Inspection", "inspect_model", "node_counts", "parameters_of"]


class Cost(NamedTuple):
    """The terms of the cost that fold minimizes.

    Attributes:
        macs: Multiplications of convolutions and matrix products for one sample.
        parameters: Elements of constants.
        nodes: The number of nodes.
        elementwise: Elements that scales, shifts and sums write for one sample, which merging
            saves.
        copied: Elements that Concat and Split copy, and that products read, for one sample.
        transposed: Elements that a Transpose moves for one sample.
        starts: The number of convolutions and matrix products.
    """

    macs: int = 0
    parameters: int = 0
    nodes: int = 0
    elementwise: int = 0
    copied: int = 0
    transposed: int = 0
    starts: int = 0

    def __add__(self, other: Cost) -> Cost:  # type: ignore[override]
        return Cost._make(map(operator.add, self, other))

    def __sub__(self, other: Cost) -> Cost:
        return Cost._make(map(operator.sub, self, other))

    @property
    def overhead(self) -> int:
        """The time of all terms except `macs` on `MACHINE`, in picoseconds."""
        return (
            MACHINE.elementwise * self.elementwise
            + MACHINE.copied * self.copied
            + MACHINE.transposed * self.transposed
            + MACHINE.stored * self.parameters
            + MACHINE.launch * self.nodes
            + MACHINE.start * self.starts
        )

    @classmethod
    def of_form(cls, form: Form, geometry: Geometry, positions: int, shift_only: bool) -> Cost:
        """Return the cost of a map written in a form.

        Args:
            form: The form.
            geometry: The geometry of the map.
            positions: Output positions of one sample; input positions of a transposed map.
            shift_only: Whether an elementwise map only adds.
        """
        channels = geometry.out_channels
        if form is Form.ELEMENTWISE:
            steps = (not shift_only) + geometry.bias
            count = max(1, steps)
            return cls(0, channels * steps, count, channels * count * positions)
        # Only convolutions have groups.
        dense = 1 if form in {Form.CONV, Form.CONV_TRANSPOSE} else geometry.group
        products = geometry.macs_per_position * dense
        added = form is Form.MATMUL and geometry.bias
        elementwise = channels * positions * added
        parameters = products + channels * geometry.bias
        return cls(products * positions, parameters, 1 + added, elementwise)

    @classmethod
    def of_node(cls, linear: Linear, facts: Facts) -> Cost:
        """Return the cost at one position of an unchanged node; each reader counts a constant.

        A broadcast element counts once per channel, as it would in a merged node.
        """
        geometry, inputs = linear.geometry, linear.node.inputs
        others = [v for i, v in enumerate(inputs) if v is not None and i != linear.slot]
        if linear.node.op_type == "Gemm" and facts.opset < _GEMM_MAY_ADD:
            others = [v for v in others if v is not inputs[2] or not _is_zero(v, facts)]
        sizes = [math.prod(facts.dims(value)) for value in others if facts.is_constant(value)]
        if linear.node.op_type in _PRODUCTS:
            products = geometry.macs_per_position
            return cls(products, max(sum(sizes), geometry.parameters), 1)
        parameters = sum(max(size, geometry.out_channels) for size in sizes)
        computes = Trait.STEP in op_of(linear.node).traits
        return cls(0, parameters, 1, geometry.out_channels * computes)


_GEMM_MAY_ADD = 11  # the first opset in which a Gemm need not add anything


def _is_zero(value: ir.Value, facts: Facts) -> bool:
    return facts.is_constant(value) and not read_tensor(facts.tensor(value)).any()


# -- Parameters -------------------------------------------------------------------------------


def parameters_of(value: ir.Value) -> int:
    """Return how many elements of a value are trainable weights.

    A floating-point initializer or Constant counts if some node reads it as a weight. Inputs such
    as the running statistics of a normalization, bounds and scales do not count, nor does a
    single element, except at inputs that are weights by the definition of the op.
    """
    tensor = value.const_value if value.is_initializer() else stated_constant(value)
    if tensor is None or not tensor.dtype.is_floating_point():
        return 0
    for node, index in value.uses():
        op = op_of(node)
        if index in op.settings:
            continue
        if tensor.size > 1 or index in op.weights:
            return tensor.size
    return 0


# -- Counting ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inspection:
    """The size and cost of a model, for one sample if the batch is dynamic.

    Attributes:
        parameters: Elements of the trainable weights.
        macs: Multiplications of convolutions and matrix products; None if a shape is not static.
        macs_with_elementwise: The count of the ExpandNets paper: the multiplications and, on
            feature maps (three axes or more), one per element for each convolution's bias, two
            for batch normalization, one for an activation or an elementwise sum, one per input
            element of a pooling. For fully connected layers only multiplications count.
        ops: The number of nodes by op type.
        linear_nodes: The number of nodes that are affine convolutions with constant weights.
        nodes: The number of nodes.
        unknown: Nodes whose count depends on a shape that is not static.
        uncounted: Op types that multiply but are not counted.
    """

    parameters: int
    macs: int | None
    macs_with_elementwise: int | None
    ops: dict[str, int]
    linear_nodes: int
    nodes: int
    unknown: list[str] = field(default_factory=list)
    uncounted: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain JSON types."""
        return asdict(self)


def inspect_model(model: ir.Model) -> Inspection:
    """Count a model's weights, nodes and multiplications; a symbolic batch has extent 1."""
    facts = Facts(model, one_sample=True)
    nodes = [node for graph in model.graphs() for node in graph]
    products: list[int | None] = [_products(node, facts) for node in nodes]
    extras: list[int | None] = [_elementwise(node, facts) for node in nodes]
    unknown = [
        node.name or node.op_type
        for node, *counts in zip(nodes, products, extras, strict=True)
        if None in counts
    ]
    macs, more = _total(products), _total(extras)
    ops = Counter(f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in nodes)
    return Inspection(
        parameters=sum(
            parameters_of(value)
            for graph in model.graphs()
            for value in (*graph.initializers.values(), *_stated(graph))
        ),
        macs=macs,
        macs_with_elementwise=None if macs is None or more is None else macs + more,
        ops=dict(sorted(ops.items())),
        linear_nodes=sum(isinstance(lift(node, facts), Linear) for node in nodes),
        nodes=len(nodes),
        unknown=unknown,
        uncounted=sorted(ops_with(Trait.UNCOUNTED) & set(ops)),
    )


def node_counts(model: ir.Model) -> dict[str, tuple[int, int | None]]:
    """Return, by the name of each node's first output, its parameters and multiplications.

    Multiplications are counted as in `inspect_model`, None if a shape is not static.
    """
    facts = Facts(model, one_sample=True)
    return {
        node.outputs[0].name or "": (
            sum(parameters_of(value) for value in {v for v in node.inputs if v is not None}),
            _products(node, facts),
        )
        for graph in model.graphs()
        for node in graph
        if node.outputs
    }


def _stated(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the outputs of a graph's Constant nodes."""
    for node in graph:
        if node.op_type == "Constant" and node.domain == "":
            yield node.outputs[0]


def _total(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _size(shape: Shape | None) -> int | None:
    if shape is None:
        return None
    known = [d for d in shape if d is not None]
    return math.prod(known) if len(known) == len(shape) else None


def _products(node: ir.Node, facts: Facts) -> int | None:
    counter = _PRODUCTS.get(node.op_type) if node.domain == "" else None
    return 0 if counter is None else counter(node, facts)


def _conv_products(node: ir.Node, facts: Facts) -> int | None:
    """Count one multiplication per weight of each output, or of each input if transposed."""
    value = node.outputs[0] if node.op_type == "Conv" else node.inputs[0]
    size, weight = _size(facts.shape(value)), facts.shape(node.inputs[1])
    fan = None if weight is None else _size(weight[1:])
    return None if size is None or fan is None else size * fan


def _gemm_products(node: ir.Node, facts: Facts) -> int | None:
    outputs, a = _size(facts.shape(node.outputs[0])), facts.shape(node.inputs[0])
    axis = 0 if flag_of(node, "transA", facts.opset) else 1
    depth = a[axis] if a is not None and len(a) == 2 else None
    return None if outputs is None or depth is None else outputs * depth


def _matmul_products(node: ir.Node, facts: Facts) -> int | None:
    outputs, a = _size(facts.shape(node.outputs[0])), facts.shape(node.inputs[0])
    return None if outputs is None or not a or a[-1] is None else outputs * a[-1]


def _einsum_products(node: ir.Node, facts: Facts) -> int | None:
    """Count one multiplication per combination of all indices, if there are two factors."""
    terms = text_of(node, "equation", facts.opset).replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int | None] = {}
    for term, value in zip(terms, node.inputs, strict=False):
        shape = facts.shape(value)
        if shape is None:
            return None
        head, dots, tail = term.partition("...")
        more = len(shape) - len(head) - len(tail) if dots else 0
        # The axes of the dots are aligned from the back.
        letters = [*head, *(f".{more - i}" for i in range(more)), *tail]
        if len(letters) != len(shape):
            return None
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter] = size if sizes.get(letter, 1) == 1 else sizes[letter]
    return _size(tuple(sizes.values())) if len(terms) > 1 else 0


_PRODUCTS: dict[str, Callable[[ir.Node, Facts], int | None]] = {
    "Conv": _conv_products,
    "ConvTranspose": _conv_products,
    "Einsum": _einsum_products,
    "Gemm": _gemm_products,
    "MatMul": _matmul_products,
}


def _elementwise(node: ir.Node, facts: Facts) -> int | None:
    if node.domain or not node.outputs:
        return 0
    traits = op_of(node).traits
    if Trait.POOLS in traits:
        return _size(facts.shape(node.inputs[0]))
    shape = facts.shape(node.outputs[0])
    if shape is not None and len(shape) < 3:
        return 0  # a fully connected layer, for which only multiplications count
    size = _size(shape)
    if node.op_type == "BatchNormalization":
        return None if size is None else 2 * size
    biased = node.op_type == "Conv" and len(node.inputs) > 2 and node.inputs[2] is not None
    return size if biased or Trait.ELEMENTWISE in traits else 0
