"""Forward error bounds of linear cells: the largest effect of rounding, in any order of summation.

A sum of n products, computed in any order with unit roundoff u, is at most gamma_n |w| |x| away
from w x, where gamma_n = n u / (1 - n u) (Higham, Accuracy and Stability of Numerical Algorithms,
2nd ed., sections 3.1 and 3.5). Through a chain of layers the n of the layers add up, and |w| |x|
becomes |W_k| ... |W_1| |x|, which is evaluated by running the graph with absolute values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.graph.attributes import flag_of, float_of, int_of, ints_of, text_of
from onnx_expand.graph.facts import Facts

__all__ = [
    "Rounding",
    "computed_constants",
    "gamma",
    "is_float",
    "make_absolute",
    "products",
    "roundings",
]

_COARSE = 0.5
_LAMBDA = 10.0
_UNITS = {
    int(ir.DataType.DOUBLE): 2.0**-53,
    int(ir.DataType.FLOAT): 2.0**-24,
    int(ir.DataType.FLOAT16): 2.0**-11,
    int(ir.DataType.BFLOAT16): 2.0**-8,
}

# Ops that only move values, or average them with nonnegative weights that sum to one.
_MOVING = {
    *("Cast", "Concat", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "Identity"),
    *("Pad", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose"),
    *("Unsqueeze", "MaxPool", "GlobalMaxPool", "Max"),
}
# Ops with a Lipschitz constant of at most one that map zero to zero; the bound ignores them.
_CONTRACTING = {"Abs", "Neg", "Relu", "LeakyRelu", "PRelu", "Clip"}
_ADDING = {"Add", "Sub", "Sum", "Mean"}


def gamma(terms: int, unit: float) -> float:
    """Return the relative error to which `terms` roundings of unit roundoff `unit` can add up.

    Where `terms * unit` reaches one half, as in float16, it is replaced by the bound that holds
    with overwhelming probability, which grows with the square root of `terms` (Higham and Mary, A
    New Approach to Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 41, 2019), with the
    constant lambda = 10.
    """
    if terms * unit < _COARSE:
        return terms * unit / (1 - terms * unit)
    return math.expm1(_LAMBDA * math.sqrt(terms) * unit)


@dataclass(frozen=True)
class Rounding:
    """The roundings on the way to a value.

    Attributes:
        terms: The number of consecutive roundings.
        unit: The unit roundoff of the coarsest type on the way.
    """

    terms: int = 0
    unit: float = 0.0

    @property
    def gamma(self) -> float:
        """The relative error to which they can add up."""
        return gamma(self.terms, self.unit)


def roundings(model: ir.Model, facts: Facts) -> dict[str, Rounding | str]:
    """Return the roundings on the way to each output of a model.

    Args:
        model: A model whose inputs have static shapes.
        facts: The facts of the model.

    Returns:
        The roundings by output name, or a sentence about the node that allows no bound.
    """
    found: dict[ir.Value, Rounding | str] = {}
    for node in model.graph:
        rounding = _after(node, facts, found)
        found.update(dict.fromkeys(node.outputs, rounding))
    return {out.name or "": found.get(out, Rounding()) for out in model.graph.outputs}


def _after(
    node: ir.Node, facts: Facts, known: Mapping[ir.Value, Rounding | str]
) -> Rounding | str:
    reads = [value for value in node.inputs if value is not None]
    if any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values()):
        return f"no bound is known for {node.op_type} '{node.name or node.outputs[0].name}'"
    if all(map(facts.is_constant, reads)):
        return Rounding()
    before: list[Rounding] = []
    for value in reads:
        rounding = known.get(value, Rounding())
        if isinstance(rounding, str):
            return rounding
        before.append(rounding)
    dtypes = [facts.dtype(out) for out in node.outputs if out.name]
    if all(dtype is not None and dtype.is_integer() for dtype in dtypes) and (
        node.op_type in {"Shape", "Size"} or not any(is_float(value, facts) for value in reads)
    ):
        return Rounding()  # extents and indices
    rule = _RULES.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
    own = None if rule is None else rule(node, facts)
    unit = max((_unit(dtype) for dtype in dtypes), default=math.inf)
    if own is None or not math.isfinite(unit):
        name = node.name or node.outputs[0].name
        return f"no bound is known for {node.op_type} '{name}'"
    terms = [rounding.terms for rounding in before]
    # The errors of both factors of a product add up; of the terms of a sum the largest counts.
    earlier = sum(terms) if node.op_type in _PRODUCTS else max(terms)
    return Rounding(own + earlier, max(unit, *(rounding.unit for rounding in before)))


def _unit(dtype: ir.DataType | None) -> float:
    return math.inf if dtype is None else _UNITS.get(int(dtype), math.inf)


def _nothing(node: ir.Node, facts: Facts) -> int | None:
    del node, facts
    return 0


def _cast(node: ir.Node, facts: Facts) -> int | None:
    pair = (facts.dtype(node.inputs[0]), facts.dtype(node.outputs[0])) if node.inputs[0] else ()
    return 1 if pair and all(d is not None and d.is_floating_point() for d in pair) else None


def _contracts(node: ir.Node, facts: Facts) -> int | None:
    if node.op_type == "LeakyRelu":
        return 1 if abs(float_of(node, "alpha", facts.opset)) <= 1 else None
    if node.op_type == "PRelu":
        slope = node.inputs[1]
        known = slope is not None and facts.is_constant(slope)
        return 1 if known and slope and bool((np.abs(facts.array(slope)) <= 1).all()) else None
    if node.op_type == "Clip":
        return 0 if _keeps_zero(node, facts) else None
    return 0


def _keeps_zero(node: ir.Node, facts: Facts) -> bool:
    for place, name, sign in ((1, "min", -1), (2, "max", 1)):
        value = node.inputs[place] if len(node.inputs) > place else None
        if value is None:
            bound = float_of(node, name, facts.opset, sign * math.inf)
        elif facts.is_constant(value):
            bound = float(facts.array(value).reshape(-1)[0])
        else:
            return False
        if bound * sign < 0:
            return False
    return True


def _sum(node: ir.Node, facts: Facts) -> int | None:
    del facts
    return len(node.inputs)


def _kernel(node: ir.Node, facts: Facts) -> int | None:
    """Conv and ConvTranspose: the products of a window, and the bias."""
    dims = facts.shape(node.inputs[1])
    if dims is None or None in dims or len(dims) < 2:
        return None
    sizes = [extent or 0 for extent in dims]
    across = sizes[0] if node.op_type == "ConvTranspose" else sizes[1]
    return across * math.prod(sizes[2:]) + 1


def _contraction(node: ir.Node, facts: Facts) -> int | None:
    """MatMul and Gemm: the products over the inner extent; Gemm's two factors and its C."""
    dims = facts.shape(node.inputs[0])
    if not dims:
        return None
    axis = -2 if node.op_type == "Gemm" and flag_of(node, "transA", facts.opset) else -1
    inner = dims[axis]
    return None if inner is None else inner + 3


def _einsum(node: ir.Node, facts: Facts) -> int | None:
    """Einsum: the products over the indices that the output lacks."""
    equation = text_of(node, "equation", facts.opset).replace(" ", "")
    left, arrow, right = equation.partition("->")
    if not arrow:
        return None
    extents: dict[str, int] = {}
    for labels, value in zip(left.split(","), node.inputs, strict=True):
        dims = facts.shape(value)
        if dims is None:
            return None
        head, _, tail = labels.partition("...")
        ends = dims[len(dims) - len(tail) :]
        for label, extent in [*zip(head, dims, strict=False), *zip(tail, ends, strict=True)]:
            if extent is None:
                return None
            extents[label] = max(extent, extents.get(label, 1))
    summed = [extent for label, extent in extents.items() if label not in right]
    return math.prod(summed) + len(node.inputs)


def _reduction(node: ir.Node, facts: Facts) -> int | None:
    """Means and sums: the elements that each output element reduces."""
    dims, out = facts.shape(node.inputs[0]), facts.shape(node.outputs[0])
    if dims is None or out is None or None in dims or None in out:
        return None
    size, kept = (math.prod(extent or 0 for extent in shape) for shape in (dims, out))
    return size // max(1, kept) + 2


def _window(node: ir.Node, facts: Facts) -> int | None:
    del facts
    return math.prod(ints_of(node, "kernel_shape")) + 2


def _resize(node: ir.Node, facts: Facts) -> int | None:
    """Resize: sums of neighbours, weighted by rounded fractions of positions."""
    dims, out = facts.shape(node.inputs[0]), facts.shape(node.outputs[0])
    mode = text_of(node, "mode", facts.opset)
    if dims is None or out is None or None in dims or None in out:
        return None
    extents = [(a or 1, b or 1) for a, b in zip(dims, out, strict=True)]
    if mode == "nearest":
        # For other scales, rounding of a position may select another neighbour.
        return 0 if all(b % a == 0 for a, b in extents) else None
    # Positions are computed in the model's type, with errors relative to their own size.
    return 4 * len(extents) * max(map(max, extents)) if mode == "linear" else None


def _normalization(node: ir.Node, facts: Facts) -> int | None:
    """BatchNormalization: subtract, divide by the root of the variance, scale and shift."""
    fixed = all(value is not None and facts.is_constant(value) for value in node.inputs[1:])
    is_inference = len([out for out in node.outputs if out.name]) == 1
    is_inference &= not int_of(node, "training_mode", facts.opset)
    return 8 if fixed and is_inference else None


def _division(node: ir.Node, facts: Facts) -> int | None:
    divisor = node.inputs[1]
    return 1 if divisor is not None and facts.is_constant(divisor) else None


_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "Mul"}
_Rule = Callable[[ir.Node, Facts], "int | None"]
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_MOVING, _nothing),
    "Cast": _cast,
    **dict.fromkeys(_CONTRACTING, _contracts),
    **dict.fromkeys(_ADDING, _sum),
    "Mul": _sum,
    "Div": _division,
    **dict.fromkeys(("Conv", "ConvTranspose"), _kernel),
    **dict.fromkeys(("MatMul", "Gemm"), _contraction),
    "Einsum": _einsum,
    **dict.fromkeys(("ReduceSum", "ReduceMean", "GlobalAveragePool"), _reduction),
    "AveragePool": _window,
    "Resize": _resize,
    "BatchNormalization": _normalization,
}


def products(node: ir.Node, facts: Facts) -> int | None:
    """Return the number of roundings, hence operations, of an output element, if known."""
    rule = _RULES.get(node.op_type)
    return None if rule is None or node.domain else rule(node, facts)


def computed_constants(model: ir.Model, facts: Facts) -> list[str]:
    """Return the constants that nodes compute and that non-constant nodes read."""
    found: dict[str, None] = {}
    for node in model.graph:
        if all(value is None or facts.is_constant(value) for value in node.inputs):
            continue
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if value is None or producer is None or producer.op_type == "Constant":
                continue
            if facts.is_constant(value) and is_float(value, facts):
                found[value.name or ""] = None
    return list(found)


def make_absolute(
    model: ir.Model, facts: Facts, drift: Mapping[str, npt.NDArray[np.float64]]
) -> None:
    """Replace a model in place by the one that bounds it: |w| for each weight, + for each -.

    Args:
        model: A private copy, for all outputs of which `roundings` returns a bound.
        facts: The facts of the model.
        drift: The errors of constants that the model computes, in unit roundoffs.
    """
    graph = model.graph
    fixed: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if all(value is None or facts.is_constant(value) for value in node.inputs):
            continue
        for place, value in enumerate(node.inputs):
            if value is None or not facts.is_constant(value) or not is_float(value, facts):
                continue
            if node.op_type == "BatchNormalization" and place == 4:
                continue  # the variance
            sign = -1.0 if node.op_type == "BatchNormalization" and place == 3 else 1.0
            key = value
            if sign < 0 or key not in fixed:
                array = sign * (np.abs(facts.array(value)) + drift.get(value.name or "", 0.0))
                fresh = _initializer(graph, f"|{value.name}|{len(fixed)}", array)
                fixed[fresh if sign < 0 else key] = fresh
            else:
                fresh = fixed[key]
            node.replace_input_with(place, fresh)
        if any(is_float(out, facts) for out in node.outputs):
            _make_positive(node)


def is_float(value: ir.Value, facts: Facts) -> bool:
    """Return whether a value is in floating point, or of unknown type."""
    dtype = facts.dtype(value)
    return dtype is None or dtype.is_floating_point()


def _initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    value = ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.DOUBLE),
        shape=ir.Shape(array.shape),
        const_value=ir.Tensor(array, name=name),
    )
    graph.register_initializer(value)
    return value


def _make_positive(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if name in {"alpha", "beta", "value"} and attribute.type == ir.AttributeType.FLOAT:
            node.attributes[name] = ir.AttrFloat32(name, abs(attribute.value))
    if node.op_type == "Sub":
        node.op_type = "Add"
    elif node.op_type in _CONTRACTING:
        node.op_type = "Identity"
        node.attributes.clear()
        node.resize_inputs(1)
