"""Records of what holds for each op with any attributes.

Passes query these records instead of keeping sets of op types. Facts that must be computed for a
node (its map, its products, its cost of evaluation) are functions, registered for an op in the
module that uses them; `Handlers` accepts no op without a record.

Only operators of the default domain have records. The comparison of models has its own table of
ops (`equivalence/`), because the checker shares no knowledge with the code that it checks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Flag, auto
from typing import Protocol, TypeVar

__all__ = ["OPS", "Handlers", "Op", "Trait", "op_of", "ops_with"]


class Trait(Flag):
    """Properties of all nodes of an op, unless stated otherwise."""

    PURE = auto()
    """Without state, randomness or subgraphs: constants may be evaluated through it."""
    VARIES = auto()
    """Random, at least in some mode: two equal nodes may compute different values."""
    MOVES = auto()
    """Its output consists of unchanged elements of its inputs."""
    PLACES = auto()
    """It moves elements, or computes with the integers that determine where they move."""
    VIEW = auto()
    """It may only change the layout of the axes."""
    CUTS = auto()
    """It splits its input into parts."""
    SUM = auto()
    """It adds its inputs, with constant factors."""
    STEP = auto()
    """Where it is linear, each element of its output depends on one element of its input."""
    LAYER = auto()
    """A layer of weights, which can be expanded."""
    SHORTCUT = auto()
    """Allowed in a shortcut around layers: projections, but no activations."""
    UPSAMPLES = auto()
    """Its output may have more positions than its input."""
    ELEMENTWISE = auto()
    """Counted as one operation for each element of its output (ExpandNets, table 6)."""
    POOLS = auto()
    """Counted as one operation for each element of its input (ExpandNets, table 6)."""
    UNCOUNTED = auto()
    """It multiplies, but its products are not counted."""
    KEEPS_RANK = auto()
    """Its first output has the rank of its first input."""
    BROADCASTS = auto()
    """Its output has the largest rank of its inputs."""
    SOUND = auto()
    """Its output has no negative extent if its inputs have none."""
    GROWS = auto()
    """An element of its inputs may determine the length of its output."""
    RETYPES = auto()
    """Its output may have a wider type than its inputs."""


_NOTHING = Trait(0)


@dataclass(frozen=True)
class Op:
    """The record of an op.

    Attributes:
        name: The op type, of the default domain.
        traits: Its properties.
        weights: Inputs that are weights even if they have a single element.
        settings: Inputs that training does not update.
        deciding: Inputs whose elements determine the shape of the output.
    """

    name: str
    traits: Trait = _NOTHING
    weights: tuple[int, ...] = ()
    settings: tuple[int, ...] = ()
    deciding: tuple[int, ...] = ()


T = Trait
_RECORDS = (
    Op("Abs", T.PURE | T.SOUND | T.KEEPS_RANK),
    Op("Add", T.PURE | T.PLACES | T.STEP | T.ELEMENTWISE | T.SOUND | T.BROADCASTS | T.SUM),
    Op("And", T.PURE | T.SOUND),
    Op("ArgMax"),
    Op("ArgMin"),
    Op("Attention", T.UNCOUNTED),
    Op("AveragePool", T.POOLS | T.KEEPS_RANK | T.SHORTCUT),
    Op(
        "BatchNormalization",
        T.PURE | T.STEP | T.SOUND | T.KEEPS_RANK | T.SHORTCUT,
        weights=(1, 2),
        settings=(3, 4),
    ),
    Op("Bernoulli", T.VARIES),
    Op("Cast", T.PURE | T.MOVES | T.PLACES | T.SOUND | T.KEEPS_RANK | T.RETYPES),
    Op("CastLike", T.PURE | T.PLACES | T.RETYPES),
    Op("Ceil", T.PURE | T.KEEPS_RANK),
    Op("Celu", T.KEEPS_RANK),
    Op("Clip", T.PURE | T.ELEMENTWISE | T.SOUND | T.KEEPS_RANK, settings=(1, 2)),
    Op("Compress"),
    Op("Concat", T.PURE | T.MOVES | T.PLACES | T.SOUND),
    Op("Constant", T.PLACES | T.SOUND),
    Op("ConstantOfShape", T.PURE | T.PLACES | T.GROWS | T.RETYPES, deciding=(0,)),
    Op("Conv", T.PURE | T.KEEPS_RANK | T.LAYER | T.SHORTCUT, weights=(1, 2)),
    Op("ConvInteger", T.UNCOUNTED),
    Op("ConvTranspose", T.PURE | T.KEEPS_RANK | T.LAYER | T.UPSAMPLES, weights=(1, 2)),
    Op("Cos", T.PURE),
    Op("CumSum", T.PURE | T.KEEPS_RANK),
    Op("DeformConv", T.UNCOUNTED),
    Op("DepthToSpace", T.KEEPS_RANK | T.UPSAMPLES | T.VIEW),
    Op("DequantizeLinear", T.KEEPS_RANK),
    Op("Div", T.PURE | T.STEP | T.ELEMENTWISE | T.SOUND | T.BROADCASTS),
    Op("Dropout", T.VARIES | T.SOUND | T.KEEPS_RANK, settings=(1,)),
    Op("Einsum", T.PURE),
    Op("Elu", T.ELEMENTWISE | T.SOUND | T.KEEPS_RANK),
    Op("Equal", T.PURE | T.PLACES | T.SOUND),
    Op("Erf", T.PURE | T.ELEMENTWISE | T.SOUND | T.KEEPS_RANK),
    Op("Exp", T.PURE | T.SOUND | T.KEEPS_RANK),
    Op("Expand", T.PURE | T.PLACES | T.GROWS, deciding=(1,)),
    Op("Flatten", T.PURE | T.MOVES | T.PLACES | T.SOUND | T.VIEW),
    Op("Floor", T.PURE | T.KEEPS_RANK),
    Op("GRU", T.UNCOUNTED),
    Op("Gather", T.PURE | T.MOVES | T.PLACES | T.SOUND),
    Op("GatherElements", T.PURE),
    Op("GatherND", T.PURE),
    Op("Gelu", T.ELEMENTWISE | T.SOUND | T.KEEPS_RANK),
    Op("Gemm", T.PURE | T.SOUND | T.LAYER, weights=(0, 1, 2)),
    Op("GlobalAveragePool", T.POOLS | T.KEEPS_RANK),
    Op("GlobalLpPool", T.KEEPS_RANK),
    Op("GlobalMaxPool", T.POOLS | T.KEEPS_RANK),
    Op("Greater", T.PURE),
    Op("GreaterOrEqual", T.PURE),
    Op("GridSample"),
    Op("GroupNormalization", T.KEEPS_RANK, weights=(1, 2)),
    Op("HardSigmoid", T.ELEMENTWISE | T.SOUND | T.KEEPS_RANK),
    Op("HardSwish", T.ELEMENTWISE | T.SOUND | T.KEEPS_RANK),
    Op("Hardmax", T.KEEPS_RANK),
    Op("Identity", T.PURE | T.MOVES | T.PLACES | T.SOUND | T.KEEPS_RANK | T.SHORTCUT),
    Op("InstanceNormalization", T.KEEPS_RANK, weights=(1, 2)),
    Op("IsInf", T.KEEPS_RANK),
    Op("IsNaN", T.PURE | T.KEEPS_RANK),
    Op("LRN", T.KEEPS_RANK),
    Op("LSTM", T.UNCOUNTED),
    Op("LayerNormalization", T.SOUND | T.KEEPS_RANK, weights=(1, 2)),
    Op("LeakyRelu", T.ELEMENTWISE | T.SOUND | T.KEEPS_RANK),
    Op("Less", T.PURE),
    Op("LessOrEqual", T.PURE),
    Op("Log", T.PURE | T.SOUND | T.KEEPS_RANK),
    Op("LogSoftmax", T.KEEPS_RANK),
    Op("LpNormalization", T.KEEPS_RANK),
    Op("LpPool", T.KEEPS_RANK),
    Op("MatMul", T.PURE | T.SOUND | T.LAYER, weights=(0, 1)),
    Op("MatMulInteger", T.UNCOUNTED),
    Op("Max", T.PURE | T.SOUND | T.BROADCASTS),
    Op("MaxPool", T.POOLS | T.KEEPS_RANK),
    Op("MaxUnpool", T.UPSAMPLES),
    Op("Mean", T.PURE | T.BROADCASTS | T.SUM),
    Op("MeanVarianceNormalization", T.KEEPS_RANK),
    Op("Min", T.PURE | T.SOUND | T.BROADCASTS),
    Op("Mish", T.ELEMENTWISE | T.KEEPS_RANK),
    Op("Mod", T.PURE),
    Op("Mul", T.PURE | T.PLACES | T.STEP | T.ELEMENTWISE | T.SOUND | T.BROADCASTS),
    Op("Multinomial", T.VARIES),
    Op("Neg", T.PURE | T.STEP | T.SOUND | T.KEEPS_RANK),
    Op("NonZero", T.PURE | T.RETYPES),
    Op("Not", T.PURE | T.SOUND),
    Op("Or", T.PURE | T.SOUND),
    Op("PRelu", T.ELEMENTWISE | T.SOUND | T.KEEPS_RANK, weights=(1,)),
    Op(
        "Pad",
        T.PURE | T.PLACES | T.GROWS | T.KEEPS_RANK | T.SHORTCUT,
        settings=(2,),
        deciding=(1, 3),
    ),
    Op("Pow", T.PURE | T.SOUND | T.BROADCASTS),
    Op("QLinearConv", T.UNCOUNTED),
    Op("QLinearMatMul", T.UNCOUNTED),
    Op("QuantizeLinear", T.KEEPS_RANK),
    Op("RNN", T.UNCOUNTED),
    Op("RandomNormal", T.VARIES),
    Op("RandomNormalLike", T.VARIES),
    Op("RandomUniform", T.VARIES),
    Op("RandomUniformLike", T.VARIES),
    Op("Range", T.PURE | T.PLACES | T.GROWS | T.RETYPES, deciding=(0, 1, 2)),
    Op("Reciprocal", T.PURE | T.KEEPS_RANK),
    Op("ReduceL1"),
    Op("ReduceL2", T.PURE),
    Op("ReduceLogSum"),
    Op("ReduceLogSumExp"),
    Op("ReduceMax", T.PURE | T.SOUND),
    Op("ReduceMean", T.PURE | T.SOUND, deciding=(1,)),
    Op("ReduceMin", T.PURE),
    Op("ReduceProd", T.PURE),
    Op("ReduceSum", T.PURE | T.SOUND, deciding=(1,)),
    Op("ReduceSumSquare", T.PURE),
    Op("Relu", T.PURE | T.ELEMENTWISE | T.SOUND | T.KEEPS_RANK),
    Op("Reshape", T.PURE | T.MOVES | T.PLACES | T.SOUND | T.VIEW, deciding=(1,)),
    Op("Resize", T.PURE | T.GROWS | T.KEEPS_RANK | T.UPSAMPLES, settings=(1, 2), deciding=(2, 3)),
    Op("ReverseSequence", T.KEEPS_RANK),
    Op("Round", T.PURE | T.KEEPS_RANK),
    Op("ScatterElements", T.PURE),
    Op("ScatterND", T.PURE | T.PLACES),
    Op("Selu", T.ELEMENTWISE | T.KEEPS_RANK),
    Op("Shape", T.PURE | T.PLACES | T.SOUND | T.RETYPES),
    Op("Shrink", T.KEEPS_RANK),
    Op("Sigmoid", T.PURE | T.ELEMENTWISE | T.SOUND | T.KEEPS_RANK),
    Op("Sign", T.PURE | T.KEEPS_RANK),
    Op("Sin", T.PURE),
    Op("Size", T.PURE | T.RETYPES),
    Op("Slice", T.PURE | T.MOVES | T.PLACES | T.SOUND | T.KEEPS_RANK, deciding=(1, 2, 3, 4)),
    Op("Softmax", T.PURE | T.SOUND | T.KEEPS_RANK),
    Op("Softplus", T.ELEMENTWISE | T.KEEPS_RANK),
    Op("Softsign", T.KEEPS_RANK),
    Op("SpaceToDepth", T.KEEPS_RANK),
    Op("Split", T.PURE | T.MOVES | T.PLACES | T.CUTS, deciding=(1,)),
    Op("SplitToSequence", T.CUTS),
    Op("Sqrt", T.PURE | T.SOUND | T.KEEPS_RANK),
    Op("Squeeze", T.PURE | T.MOVES | T.PLACES | T.SOUND | T.VIEW, deciding=(1,)),
    Op("Sub", T.PURE | T.PLACES | T.STEP | T.ELEMENTWISE | T.SOUND | T.BROADCASTS | T.SUM),
    Op("Sum", T.PURE | T.STEP | T.ELEMENTWISE | T.SOUND | T.BROADCASTS | T.SUM),
    Op("Tanh", T.PURE | T.ELEMENTWISE | T.SOUND | T.KEEPS_RANK),
    Op("ThresholdedRelu", T.KEEPS_RANK),
    Op("Tile", T.PURE | T.GROWS, deciding=(1,)),
    Op("TopK"),
    Op("Transpose", T.PURE | T.MOVES | T.PLACES | T.SOUND | T.KEEPS_RANK | T.VIEW),
    Op("Trilu", T.PURE | T.KEEPS_RANK),
    Op("Unsqueeze", T.PURE | T.MOVES | T.PLACES | T.SOUND | T.VIEW, deciding=(1,)),
    Op("Upsample", T.KEEPS_RANK | T.UPSAMPLES, settings=(1,)),
    Op("Where", T.PURE | T.PLACES | T.SOUND | T.BROADCASTS),
    Op("Xor", T.PURE),
)

OPS = {record.name: record for record in _RECORDS}
"""The record of each op that anything is known of."""

_UNKNOWN = Op("")


class _Node(Protocol):
    @property
    def domain(self) -> str: ...
    @property
    def op_type(self) -> str: ...


def op_of(node: _Node) -> Op:
    """Return the record of a node's op; an empty record if there is none."""
    return _UNKNOWN if node.domain else OPS.get(node.op_type, _UNKNOWN)


def ops_with(traits: Trait) -> frozenset[str]:
    """Return the op types that have all of some traits."""
    return frozenset(name for name, record in OPS.items() if traits in record.traits)


_F = TypeVar("_F", bound=Callable[..., object])


class Handlers(dict[str, _F]):
    """Functions that answer one question about nodes, by op type."""

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def register(self, *op_types: str) -> Callable[[_F], _F]:
        """Return a decorator that registers a function for some op types.

        Raises:
            LookupError: One of them has no record in `OPS`, or has a function already.
        """
        for op_type in op_types:
            if op_type not in OPS:
                raise LookupError(f"{self._question}: '{op_type}' has no record in ops.py")
            if op_type in self:
                raise LookupError(f"{self._question}: '{op_type}' has two functions")

        def register(function: _F) -> _F:
            self.update(dict.fromkeys(op_types, function))
            return function

        return register
