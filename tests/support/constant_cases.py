"""Random nodes on constants: every pure op in every opset, with every type it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_expand.graph.attributes import schema_of
from onnx_expand.graph.ops import Trait, ops_with

__all__ = ["OPS", "TYPES", "Case", "draw_case", "types_of"]

Array = npt.NDArray[Any]
OPS = sorted(ops_with(Trait.PURE))

TYPES: dict[str, Any] = {
    **{n: np.dtype(n) for n in ("float32", "float64", "float16", "int64", "int32", "bool")},
    **{n: np.dtype(n) for n in ("int8", "uint8", "int16", "uint16", "uint32", "uint64")},
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "int4": np.dtype(ml_dtypes.int4),
}
_SPECIAL = [0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -2.5, 1.0, -1.0, np.inf, -np.inf, np.nan, 300.0, 7e4]


@dataclass
class Case:
    """One node, its inputs, and the opset.

    Attributes:
        op: The operator.
        opset: The opset version of the default domain.
        inputs: One array for each input, None for one that is omitted.
        attributes: Its attributes.
        outputs: The number of its outputs.
    """

    op: str
    opset: int
    inputs: list[Array | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1

    def node(self) -> ir.Node:
        """Return the node, without a graph."""
        values = [None if a is None else ir.val(f"c{i}") for i, a in enumerate(self.inputs)]
        made = ir.node(self.op, values, self.attributes, num_outputs=self.outputs)
        for i, out in enumerate(made.outputs):
            out.name = f"o{i}"
        return made

    def __str__(self) -> str:
        given = ["-" if a is None else f"{a.dtype}{list(a.shape)}" for a in self.inputs]
        return f"{self.op} at opset {self.opset} of {', '.join(given)} with {self.attributes}"


class _Draw:
    """The random choices of one case."""

    def __init__(self, rng: np.random.Generator, op: str, name: str, version: int) -> None:
        self.rng = rng
        self.op = op
        self.dtype = TYPES[name]
        self.version = version

    def pick(self, *options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def shape(self, low: int = 0, high: int = 4, most: int = 4) -> tuple[int, ...]:
        return tuple(
            int(d) for d in self.rng.integers(1, most + 1, self.rng.integers(low, high + 1))
        )

    def array(self, shape: Sequence[int], dtype: Any = None, *, plain: bool = False) -> Array:
        """Draw values of a type; unless plain, some of them unusual."""
        dtype = self.dtype if dtype is None else np.dtype(dtype)
        if dtype.kind == "b":
            return np.asarray(self.rng.integers(0, 2, shape)).astype(bool)
        if dtype.kind in "iu" or dtype == TYPES["int4"]:
            low, high = (-8, 7) if dtype.kind != "u" else (0, 15)
            array = np.asarray(self.rng.integers(low, high + 1, shape)).astype(dtype)
            if not plain and array.size and dtype.kind in "iu" and self.pick(0, 0, 1):
                info = np.iinfo(dtype)
                array.reshape(-1)[0] = self.pick(info.min, info.max)
            return array
        array = np.asarray(self.rng.standard_normal(shape) * self.pick(1, 1, 4))
        if not plain and array.size and self.pick(0, 1):
            flat = array.reshape(-1)
            for _ in range(self.pick(1, 2, flat.size)):
                flat[int(self.rng.integers(flat.size))] = self.pick(*_SPECIAL)
        with np.errstate(all="ignore"):
            return array.astype(dtype)

    def ints(self, *numbers: int) -> Array:
        return np.array(numbers, np.int64)

    def axis(self, rank: int) -> int:
        return int(self.rng.integers(-rank, rank))

    def axes(self, rank: int) -> list[int]:
        chosen = [a for a in range(rank) if self.pick(0, 1)]
        return [a - rank if self.pick(0, 1) else a for a in chosen]


_Maker = Callable[[_Draw], "tuple[list[Array | None], dict[str, Any]] | Case"]
_MAKERS: dict[str, _Maker] = {}


def _makes(*ops: str) -> Callable[[_Maker], _Maker]:
    def register(maker: _Maker) -> _Maker:
        _MAKERS.update(dict.fromkeys(ops, maker))
        return maker

    return register


def types_of(op: str, opset: int) -> list[str]:
    """Return the types that the first input of an op may have."""
    schema = schema_of(op, opset)
    if schema is None or not schema.inputs:
        return []
    allowed = schema.inputs[{"Where": 1}.get(op, 0)].types
    names = {
        name: f"tensor({ir.DataType.from_numpy(t).name.lower()})" for name, t in TYPES.items()
    }
    return [name for name, text in names.items() if text in allowed]


def draw_case(rng: np.random.Generator, op: str, opset: int, dtype: str) -> Case:
    """Draw a case of an op, which may be invalid."""
    schema = schema_of(op, opset)
    assert schema is not None
    draw = _Draw(rng, op, dtype, schema.since_version)
    made = _MAKERS.get(op, _elementwise)(draw)
    case = made if isinstance(made, Case) else Case(op, opset, made[0], made[1])
    case.op, case.opset = op, opset
    return case


@_makes(
    *("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Identity", "Log", "Neg", "Not", "Reciprocal"),
    *("Relu", "Round", "Sigmoid", "Sign", "Sin", "Sqrt", "Tanh", "Shape", "Size", "IsNaN"),
    "NonZero",
)
def _unary(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    return [d.array(d.shape())], {}


def _elementwise(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    """Draw two operands that broadcast with each other."""
    shape = d.shape()
    other = [e if d.pick(0, 1, 1) else 1 for e in shape][d.pick(0, 0, len(shape) // 2) :]
    pair = [d.array(shape), d.array(other)]
    return (pair if d.pick(0, 1) else pair[::-1]), {}  # type: ignore[return-value]


@_makes("Sum", "Mean", "Max", "Min")
def _variadic(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    shape = d.shape()
    return [
        d.array([e if d.pick(0, 1, 1) else 1 for e in shape]) for _ in range(d.pick(1, 2, 3))
    ], {}


@_makes("Mod")
def _mod(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    inputs, _ = _elementwise(d)
    return inputs, ({"fmod": 1} if d.dtype.kind not in "iu" or d.pick(0, 1) else {})


@_makes("Where")
def _where(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    inputs, _ = _elementwise(d)
    shape = max((a.shape for a in inputs if a is not None), key=len)
    return [d.array(shape, bool), *inputs], {}


@_makes("Clip")
def _clip(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    x, low, high = d.array(d.shape()), d.array((), plain=True), d.array((), plain=True)
    if d.version < 11:
        return [x], {k: float(v) for k, v in (("min", low), ("max", high)) if d.pick(0, 1)}
    return [x, d.pick(None, low), *d.pick([], [high])], {}


@_makes("Cast")
def _cast(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    to = ir.DataType.from_numpy(TYPES[d.pick(*TYPES)])
    return [d.array(d.shape())], {"to": int(to)} | d.pick(
        {}, {"saturate": 0} if d.version >= 19 else {}
    )


@_makes("CastLike")
def _cast_like(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    return [d.array(d.shape()), d.array((1,), TYPES[d.pick(*TYPES)], plain=True)], {}


@_makes("Concat")
def _concat(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    shape = d.shape(1)
    axis = d.axis(len(shape))
    parts: list[Array | None] = []
    for _ in range(d.pick(1, 2, 3)):
        own = list(shape)
        own[axis] = d.pick(0, 1, 2, 3)
        parts.append(d.array(own))
    return parts, {"axis": axis if d.version >= 11 else axis % len(shape)}


@_makes("Flatten", "Softmax")
def _axis(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    shape = d.shape(1)
    axis = d.axis(len(shape))
    return [d.array(shape)], d.pick({}, {"axis": axis if d.version >= 11 else axis % len(shape)})


@_makes("CumSum")
def _cumulated(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    shape = d.shape(1)
    flags = {name: 1 for name in ("exclusive", "reverse") if d.pick(0, 1)}
    return [d.array(shape), np.array(d.axis(len(shape)), d.pick(np.int32, np.int64))], flags


@_makes("Transpose")
def _transpose(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    shape = d.shape(1)
    return [d.array(shape)], d.pick({}, {"perm": [int(p) for p in d.rng.permutation(len(shape))]})


@_makes("Trilu")
def _trilu(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    k = d.pick([], [np.array(d.pick(-9, -1, 0, 1, 9))])
    return [d.array(d.shape(2)), *k], d.pick({}, {"upper": 0})


@_makes("Reshape")
def _reshape(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    shape = d.shape(1)
    target = d.pick(
        [-1], [0, -1], [*shape, 1], [1, *shape[::-1]], [-1, shape[-1]], [0] * len(shape)
    )
    allow = {"allowzero": 1} if d.version >= 14 and d.pick(0, 0, 1) else {}
    if d.version < 5:
        return [d.array(shape)], {"shape": target}
    return [d.array(shape), d.ints(*target)], allow


@_makes("Squeeze")
def _squeeze(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    shape = [1 if d.pick(0, 1) else e for e in d.shape(1)]
    ones = [i - len(shape) * d.pick(0, 1) for i, e in enumerate(shape) if e == 1]
    ones = ones if d.version >= 11 else [i % len(shape) for i in ones]
    if d.pick(0, 1):
        return [d.array(shape)], {}
    return (
        ([d.array(shape), d.ints(*ones)], {})
        if d.version >= 13
        else ([d.array(shape)], {"axes": ones})
    )


@_makes("Unsqueeze")
def _unsqueeze(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    shape = d.shape()
    axes = sorted({d.axis(len(shape) + 2) % (len(shape) + 2) for _ in range(2)})[: d.pick(1, 2)]
    rank = len(shape) + len(axes)
    axes = [a for a in axes if a < rank][: len(axes)]
    if d.version >= 11:
        axes = [a - rank if d.pick(0, 1) else a for a in axes]
    return (
        ([d.array(shape), d.ints(*axes)], {})
        if d.version >= 13
        else ([d.array(shape)], {"axes": axes})
    )


@_makes(*(f"Reduce{kind}" for kind in ("Max", "Mean", "Min", "Prod", "Sum", "SumSquare", "L2")))
def _reduce(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    shape = d.shape()
    axes = d.axes(len(shape))
    axes = axes if d.version >= 11 else [a % len(shape) for a in axes]
    attributes: dict[str, Any] = d.pick({}, {"keepdims": 0}, {"keepdims": 1})
    x = d.array(shape)
    if d.version >= 18 or (d.version >= 13 and d.op == "ReduceSum"):
        noop = d.pick({}, {"noop_with_empty_axes": 1}, {"noop_with_empty_axes": 0})
        return [x, *d.pick([], [d.ints(*axes)], [d.ints()])], attributes | noop
    return [x], attributes | d.pick({}, {"axes": axes} if axes else {})


@_makes("Slice")
def _slice(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    shape = d.shape(1)
    axes = d.axes(len(shape)) or [0]
    starts = [d.pick(0, 1, -1, -2, 9, -9) for _ in axes]
    ends = [d.pick(1, 2, -1, 9, -9, np.iinfo(np.int64).max) for _ in axes]
    if d.version < 10:
        where = {"axes": [a % len(shape) for a in axes]}
        return [d.array(shape)], {"starts": starts, "ends": [int(e) for e in ends]} | where
    dtype = d.pick(np.int64, np.int64, np.int32)
    steps = [d.pick(1, 2, -1, -2) for _ in axes]
    lists = [starts, [min(e, np.iinfo(dtype).max) for e in ends], axes, steps]
    return [d.array(shape), *(np.array(n, dtype) for n in lists[: d.pick(3, 4)])], {}


@_makes("Split")
def _split(d: _Draw) -> Case:
    shape = list(d.shape(1))
    axis, parts = d.axis(len(shape)), d.pick(1, 2, 3)
    axis = axis if d.version >= 11 else axis % len(shape)
    sizes = [d.pick(1, 1, 2, 0 if d.version >= 13 else 1) for _ in range(parts)]
    attributes: dict[str, Any] = {"axis": axis}
    if d.version == 1 or d.pick(0, 1):
        shape[axis] = sum(sizes)
        if d.version < 13:
            return Case("", 0, [d.array(shape)], attributes | {"split": sizes}, parts)
        return Case("", 0, [d.array(shape), d.ints(*sizes)], attributes, parts)
    shape[axis] = parts * d.pick(1, 2) + (d.pick(0, 1) if d.version >= 18 else 0)
    more = {"num_outputs": parts} if d.version >= 18 else {}
    return Case("", 0, [d.array(shape)], attributes | more, parts)


@_makes("Gather")
def _gather(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    shape = d.shape(1)
    axis = d.axis(len(shape))
    low = -shape[axis] if d.version >= 11 else 0
    indices = d.rng.integers(low, shape[axis], d.shape(0, 2)).astype(d.pick(np.int64, np.int32))
    return [d.array(shape), np.asarray(indices)], {"axis": axis}


@_makes("GatherElements", "ScatterElements")
def _elements(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    shape = d.shape(1, 3)
    axis = d.axis(len(shape))
    own = [int(d.rng.integers(1, e + 1)) for e in shape]
    indices = np.asarray(d.rng.integers(-shape[axis], shape[axis], own))
    return [d.array(shape), indices], {"axis": axis}


def _scatter_elements(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    made = _elements(d)
    assert not isinstance(made, Case)
    (data, indices), attributes = made
    assert indices is not None
    assert data is not None
    extent, axis = data.shape[attributes["axis"]], attributes["axis"]
    count = indices.shape[axis]
    kinds = ["none"] + (["add", "mul"] if d.version >= 16 else [])
    kinds += ["max", "min"] if d.version >= 18 else []
    kind = d.pick(*kinds)
    if kind == "none":  # duplicate indices are undefined
        line = np.arange(extent)[d.rng.permutation(extent)][:count]
        expand = [1] * indices.ndim
        expand[axis] = count
        indices = np.array(np.broadcast_to(line.reshape(expand), indices.shape))
    attributes |= (
        {"reduction": kind} if (d.version >= 16 and d.pick(0, 1)) or kind != "none" else {}
    )
    return [data, indices, d.array(indices.shape)], attributes


_MAKERS["ScatterElements"] = _scatter_elements


@_makes("GatherND")
def _gather_nd(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    shape = d.shape(1, 3)
    batch = d.pick(0, 0, 1) if d.version >= 12 and len(shape) > 1 else 0
    named = int(d.rng.integers(1, len(shape) - batch + 1))
    lead = (*shape[:batch], *d.shape(0, 2))
    limits = np.array(shape[batch : batch + named])
    indices = d.rng.integers(-limits, limits, (*lead, named))
    return [d.array(shape), np.asarray(indices)], ({"batch_dims": batch} if batch else {})


@_makes("ScatterND")
def _scatter_nd(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    shape = d.shape(1, 3)
    named = int(d.rng.integers(1, len(shape) + 1))
    places = np.array(list(np.ndindex(*shape[:named])))
    count = d.pick(0, 1, 2, len(places))
    chosen = places[d.rng.permutation(len(places))[:count]].astype(np.int64)
    kinds = ["none", "none"] + (["add", "mul"] if d.version >= 16 else [])
    kind = d.pick(*(kinds + (["max", "min"] if d.version >= 18 else [])))
    updates = d.array((len(chosen), *shape[named:]))
    return [d.array(shape), chosen, updates], ({} if kind == "none" else {"reduction": kind})


@_makes("Expand")
def _expand(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    shape = [1 if d.pick(0, 1) else e for e in d.shape()]
    wide = [*d.shape(0, 1), *(d.pick(1, 3) if e == 1 else d.pick(1, e) for e in shape)]
    return [d.array(shape), d.ints(*wide)], {}


@_makes("Tile")
def _tile(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    shape = d.shape(1, 3)
    return [d.array(shape), d.ints(*(d.pick(0, 1, 2, 3) for _ in shape))], {}


@_makes("ConstantOfShape")
def _constant_of_shape(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    value = d.array((1,), TYPES[d.pick(*list(TYPES)[:9])])
    return [d.ints(*(d.pick(0, 1, 2, 3) for _ in range(d.pick(0, 1, 2))))], d.pick(
        {}, {"value": ir.Tensor(value)}
    )


@_makes("Range")
def _range(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    numbers = d.pick((0, 5, 1), (5, 0, -2), (0, 1, 0.1), (3, 3, 1), (-1, 7, 3), (0, 2.5, 0.5))
    return [np.array(n).astype(d.dtype) for n in numbers], {}


@_makes("Pad")
def _pad(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    shape = [e + 1 for e in d.shape(1, 3)]
    modes = ["constant", "reflect", "edge", *(["wrap"] if d.version >= 19 else [])]
    mode = d.pick(*modes)
    pads = [d.pick(0, 1, 1, -1 if mode == "constant" else 0) for _ in range(2 * len(shape))]
    stated = d.pick({}, {"mode": mode}) if mode == "constant" else {"mode": mode}
    if d.version < 11:
        name = "pads" if d.version >= 2 else "paddings"
        return [d.array(shape)], {name: pads} | stated | d.pick({}, {"value": 1.5})
    fill = d.pick([], [d.array((), plain=True)])
    if d.version >= 18 and d.pick(0, 1):
        axes = d.axes(len(shape)) or [0]
        own = pads[: 2 * len(axes)]
        return [d.array(shape), d.ints(*own), d.pick(None, *fill), d.ints(*axes)], stated
    return [d.array(shape), d.ints(*pads), *fill], stated


@_makes("Resize")
def _resize(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    shape = (1, d.pick(1, 2), d.pick(2, 3, 4), d.pick(2, 3, 5))
    scales = np.array([1, 1, d.pick(0.6, 1, 1.5, 2), d.pick(0.5, 1, 2, 2.4)], np.float32)
    x = d.array(shape, plain=True)
    mode = d.pick("nearest", "linear", *(["cubic"] if d.version >= 11 else []))
    attributes = d.pick({}, {"mode": mode}) if mode == "nearest" else {"mode": mode}
    if d.version < 11:
        return [x, scales], attributes
    ways = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]
    ways += ["half_pixel_symmetric"] if d.version >= 19 else []
    attributes |= d.pick({}, {"coordinate_transformation_mode": d.pick(*ways)})
    if mode == "nearest":
        rounds = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
        attributes |= d.pick({}, {"nearest_mode": d.pick(*rounds)})
    elif mode == "cubic":
        attributes |= d.pick({}, {"cubic_coeff_a": -0.5}, {"exclude_outside": 1})
    if d.version >= 18:
        attributes |= d.pick({}, {"antialias": 1} if mode != "nearest" else {})
    empty = None if d.version >= 13 else np.zeros(0, np.float32)
    if d.pick(0, 1):
        return [x, empty, scales], attributes
    sizes = d.ints(*shape[:2], d.pick(1, 3, 5), d.pick(2, 3, 7))
    return [x, empty, None if d.version >= 13 else np.zeros(0, np.float32), sizes], attributes


@_makes("MatMul")
def _matmul(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    m, k, n = d.shape(3, 3)
    a, b = (m, k), (k, n)
    lead = d.shape(0, 2)
    first, second = d.pick((a, b), ((*lead, *a), b), (a, (*lead, *b)), ((k,), b), (a, (k,)))
    return [d.array(first), d.array(second)], {}


@_makes("Gemm")
def _gemm(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    m, k, n = d.shape(3, 3)
    a, b = d.pick(0, 1), d.pick(0, 1)
    c = d.array(d.pick((n,), (m, n), (1, n), (m, 1), (1,), ()))
    inputs = [d.array((k, m) if a else (m, k)), d.array((n, k) if b else (k, n))]
    names = {"transA": a, "transB": b} | d.pick({}, {"alpha": 0.5}) | d.pick({}, {"beta": -2.0})
    return [*inputs, *(d.pick([], [c]) if d.version >= 11 else [c])], names


@_makes("Einsum")
def _einsum(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    equation = d.pick(
        *("ij,jk->ik", "ij,jk", "bij,bjk->bik", "i,j->ij", "ij->ji", "ii->i", "ij->i"),
        *("...ij,...jk->...ik", "ij,ij->", "ij,jk,kl->il"),
    )
    sizes = dict(zip("bijkl", d.shape(5, 5), strict=True))
    if "ii" in equation:
        sizes["i"] = 3
    terms = equation.partition("->")[0].split(",")
    lead = d.shape(0, 1)
    shapes = [(*(lead if "..." in t else ()), *(sizes[c] for c in t if c != ".")) for t in terms]
    return [d.array(shape) for shape in shapes], {"equation": equation}


def _window(d: _Draw, rank: int) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    for name, options in {"strides": (1, 2), "dilations": (1, 2)}.items():
        attributes |= d.pick({}, {name: [d.pick(*options) for _ in range(rank)]})
    attributes |= d.pick({}, {"pads": [d.pick(0, 1, 2) for _ in range(2 * rank)]})
    return attributes


@_makes("Conv")
def _conv(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    rank, group, m, n = d.pick(1, 2), d.pick(1, 2), d.pick(1, 2), d.pick(1, 2)
    kernel = [d.pick(1, 2, 3) for _ in range(rank)]
    x = d.array((d.pick(1, 2), m * group, *(d.pick(5, 6) for _ in kernel)), plain=True)
    w = d.array((n * group, m, *kernel), plain=True)
    attributes = _window(d, rank) | ({"group": 2} if group == 2 else {})
    if "pads" not in attributes and "dilations" not in attributes:
        attributes |= d.pick({}, {"auto_pad": d.pick("SAME_UPPER", "SAME_LOWER", "VALID")})
    return [x, w, *d.pick([], [d.array((n * group,), plain=True)])], attributes


@_makes("ConvTranspose")
def _conv_transpose(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    rank, group, m, n = d.pick(1, 2), d.pick(1, 2), d.pick(1, 2), d.pick(1, 2)
    kernel = [d.pick(1, 2, 3) for _ in range(rank)]
    x = d.array((d.pick(1, 2), m * group, *(d.pick(4, 5) for _ in kernel)), plain=True)
    w = d.array((m * group, n, *kernel), plain=True)
    attributes = _window(d, rank) | ({"group": 2} if group == 2 else {})
    if attributes.get("strides") == [2] * rank:
        attributes |= d.pick({}, {"output_padding": [1] * rank})
    return [x, w, *d.pick([], [d.array((n * group,), plain=True)])], attributes


@_makes("BatchNormalization")
def _normalization(d: _Draw) -> tuple[list[Array | None], dict[str, Any]]:
    shape = (2, 3, *d.shape(0, 2))
    vectors = [d.array((3,), plain=True) for _ in range(3)]
    variance = np.abs(d.array((3,), plain=True)) + np.array(0.5, d.dtype)
    attributes: dict[str, Any] = d.pick({}, {"epsilon": 0.01}) | d.pick({}, {"momentum": 0.5})
    if d.version < 9:
        attributes |= d.pick({}, {"spatial": d.pick(0, 1)})
    if d.version < 7:
        attributes |= {"is_test": 1}
    if d.version >= 14:
        attributes |= d.pick({}, {"training_mode": 0})
    return [d.array(shape, plain=True), *vectors, variance.astype(d.dtype)], attributes
