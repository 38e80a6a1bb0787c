"""The table of what folds, by op, type and opset, determined by folding tiny models.

python -m tests.support.table docs/support.md
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from onnx_expand import model as door
from onnx_expand.errors import OnnxExpandError
from onnx_expand.graph.editing import label
from onnx_expand.passes import Fold, FoldReport, Policy

__all__ = ["OPS", "OPSETS", "TYPES", "classify", "document"]

NEWEST = onnx.defs.onnx_opset_version()
OPSETS = (7, 9, 10, 11, 13, 14, 17, 18, 21, 22, NEWEST)
TYPES = ("float", "double", "float16", "bfloat16", "float8e4m3fn", "int8", "int32", "complex64")

IMAGE, MATRIX = (1, 4, 6, 6), (2, 4)
CONV, MATMUL = "y = Conv(a, k)", "y = MatMul(a, k)"


@dataclass(frozen=True)
class Op:
    """How a tiny model exercises an op.

    Attributes:
        text: The node, from x to a, for an opset; None if ONNX has no such form.
        shape: The shape of x.
        last: The following node, with which it should merge.
        weights: The shapes of its floating-point constants.
        integers: Its integer constants.
        behind: The shape of the weight of the last node, if it is not [4, 4].
    """

    text: Callable[[int], str]
    shape: tuple[int, ...] = IMAGE
    last: str = CONV
    weights: tuple[tuple[str, tuple[int, ...]], ...] = ()
    integers: tuple[tuple[str, tuple[int, ...]], ...] = ()
    behind: tuple[int, ...] = ()


def _plain(text: str) -> Callable[[int], str]:
    return lambda opset: text


def _since(opset: int, new: str, old: str) -> Callable[[int], str]:
    return lambda version: new if version >= opset else old


def _per_channel(op: str) -> Op:
    return Op(_plain(f"a = {op}(x, w)"), weights=(("w", (4, 1, 1)),))


OPS: dict[str, Op] = {
    "Conv": Op(_plain("a = Conv(x, w, b)"), weights=(("w", (4, 4, 3, 3)), ("b", (4,)))),
    "ConvTranspose": Op(
        _plain("a = ConvTranspose(x, w)"), last=CONV, weights=(("w", (4, 4, 3, 3)),)
    ),
    "Gemm": Op(_plain("a = Gemm(x, w, b)"), MATRIX, MATMUL, weights=(("w", (4, 4)), ("b", (4,)))),
    "MatMul": Op(_plain("a = MatMul(x, w)"), MATRIX, MATMUL, weights=(("w", (4, 4)),)),
    "Einsum": Op(
        _plain('a = Einsum <equation = "nc,cd->nd"> (x, w)'),
        MATRIX,
        MATMUL,
        weights=(("w", (4, 4)),),
    ),
    "BatchNormalization": Op(
        _plain("a = BatchNormalization(x, s, b, m, s)"),
        weights=(("s", (4,)), ("b", (4,)), ("m", (4,))),
    ),
    **{op: _per_channel(op) for op in ("Add", "Sub", "Mul", "Div", "Sum")},
    "Neg": Op(_plain("a = Neg(x)")),
    "Identity": Op(_plain("a = Identity(x)")),
    "Dropout": Op(_plain("a = Dropout(x)")),
    "LeakyRelu (alpha 1)": Op(_plain("a = LeakyRelu <alpha = 1.0> (x)")),
    "AveragePool": Op(_plain("a = AveragePool <kernel_shape = [2, 2]> (x)")),
    "GlobalAveragePool": Op(_plain("a = GlobalAveragePool(x)")),
    "ReduceMean": Op(
        _since(18, "a = ReduceMean(x, axes)", "a = ReduceMean <axes = [2, 3]> (x)"),
        integers=(("axes", (2, 3)),),
    ),
    "Pad": Op(
        _since(11, "a = Pad(x, pads)", "a = Pad <pads = [0, 0, 1, 1, 0, 0, 1, 1]> (x)"),
        integers=(("pads", (0, 0, 1, 1, 0, 0, 1, 1)),),
    ),
    "Slice": Op(
        _since(
            10,
            "a = Slice(x, start, end, axis)",
            "a = Slice <starts = [1], ends = [3], axes = [1]> (x)",
        ),
        integers=(("start", (1,)), ("end", (3,)), ("axis", (1,))),
        behind=(4, 2, 1, 1),
    ),
    "Gather": Op(_plain("a = Gather <axis = 1> (x, i)"), integers=(("i", (3, 2, 1, 0)),)),
    "Expand": Op(
        _plain("a = Expand(x, shape)"),
        (1, 1, 6, 6),
        "y = Conv(a, k)",
        integers=(("shape", (1, 4, 1, 1)),),
    ),
    "Tile": Op(
        _plain("a = Tile(x, repeats)"),
        integers=(("repeats", (1, 2, 1, 1)),),
        behind=(4, 8, 1, 1),
    ),
    "SpaceToDepth": Op(_plain("a = SpaceToDepth <blocksize = 2> (x)"), behind=(4, 16, 1, 1)),
    "DepthToSpace": Op(
        _since(
            11,
            'r = Conv(x, w) a = DepthToSpace <blocksize = 2, mode = "CRD"> (r)',
            "r = Conv(x, w) a = DepthToSpace <blocksize = 2> (r)",
        ),
        last="y = Mul(a, k)",
        weights=(("w", (4, 4, 1, 1)),),
        behind=(1, 1, 1, 1),
    ),
    "Split": Op(
        _since(
            18,
            "p, q = Split <axis = 1, num_outputs = 2> (x) a = Concat <axis = 1> (q, p)",
            "p, q = Split <axis = 1> (x) a = Concat <axis = 1> (q, p)",
        )
    ),
    "Concat": Op(
        _plain("p = Conv(x, w) q = Conv(x, v) a = Concat <axis = 1> (p, q)"),
        weights=(("w", (2, 4, 1, 1)), ("v", (2, 4, 1, 1))),
    ),
    "Transpose": Op(
        _plain(
            "t = Transpose <perm = [0, 2, 3, 1]> (x) u = MatMul(t, w) "
            "a = Transpose <perm = [0, 3, 1, 2]> (u)"
        ),
        weights=(("w", (4, 4)),),
    ),
    "Reshape": Op(
        _plain("r = Conv(x, w) a = Reshape(r, shape)"),
        last="y = Gemm(a, k)",
        weights=(("w", (4, 4, 6, 6)),),
        integers=(("shape", (1, 4)),),
    ),
}


def build(op: str, kind: str, opset: int) -> onnx.ModelProto | None:
    """Build a tiny model with an op, or None if ONNX has no such op or type in that opset."""
    row = OPS[op]
    shape = ",".join(map(str, row.shape))
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({kind}[{shape}] x) => ({kind} y) '
        f"{{ {row.text(opset)} {row.last} }}"
    )
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    code = model.graph.input[0].type.tensor_type.elem_type
    read = {name for node in model.graph.node for name in node.input}
    rng = np.random.default_rng(0)
    last = (4, 4) if row.last != CONV else (4, 4, 1, 1)
    for name, extents in (*row.weights, ("k", row.behind or last)):
        values = rng.uniform(0.5, 1.5, extents) if code != TensorProto.INT32 else np.ones(extents)
        array = values.astype(helper.tensor_dtype_to_np_dtype(code))
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for name, numbers in row.integers:
        if name in read:
            given = onnx.numpy_helper.from_array(np.array(numbers, np.int64), name)
            model.graph.initializer.append(given)
    try:
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        del model.graph.value_info[:]
        onnx.checker.check_model(model, full_check=True)
    except Exception:  # the errors of the checker and of inference
        return None
    return model


@cache
def classify(op: str, kind: str, opset: int) -> tuple[str, str]:
    """Return the outcome for an op, `folds`, `kept`, `refused` or `-`, and the reason."""
    model = build(op, kind, opset)
    if model is None:
        return "-", ""
    try:
        result, report = _folded(model, Policy.CHEAPEST)
    except OnnxExpandError as error:
        return "refused", str(error)
    if len(result.graph.node) < len(model.graph.node):
        return "folds", ""
    if len(_folded(model, Policy.ALWAYS)[0].graph.node) < len(model.graph.node):
        return "folds", "policy always"
    first = {label(node) for node in ir.serde.deserialize_model(model).graph}
    refusals = [k.refusal for k in report.kept if first & set(k.nodes)]
    if refusals:
        return "kept", str(refusals[0].reason)
    floating = ir.DataType(model.graph.input[0].type.tensor_type.elem_type).is_floating_point()
    return "kept", "too few bits" if floating else "no floating-point numbers"


def _folded(model: onnx.ModelProto, policy: Policy) -> tuple[onnx.ModelProto, FoldReport]:
    visit = door.visit(model)
    report = Fold(policy).call(visit.model).report
    result: onnx.ModelProto = visit.leave(visit.model)
    onnx.checker.check_model(result, full_check=True)
    return result, report


def document() -> str:
    """Return the page."""
    lines = [
        "# What folds",
        "",
        "The results of folding small models with each op before a convolution or a matrix "
        "product (`make support`);",
        "a test compares them with the current behaviour. Opsets tried: "
        f"{', '.join(map(str, OPSETS))}.",
        "",
        "- **folds**: the op is merged with its neighbour.",
        "- **folds (policy always)**: merging them takes more multiply-accumulates than it saves.",
        "- **kept**: the op stays, for the reason in the report.",
        "- A dash: ONNX does not define the op, or not for this type. If opsets are named, it is "
        "not defined in the others.",
        "- Ops without a row, of any domain, are preserved unchanged.",
        "",
        f"| op | {' | '.join(TYPES)} |",
        f"|{'---|' * (len(TYPES) + 1)}",
    ]
    lines += [f"| {op} | {' | '.join(map(_cell, [op] * len(TYPES), TYPES))} |" for op in OPS]
    return "\n".join(lines) + "\n"


def _cell(op: str, kind: str) -> str:
    """Return the outcome for an op of one type, with the opsets if it differs between them."""
    found: dict[tuple[str, str], list[int]] = {}
    for opset in OPSETS:
        found.setdefault(classify(op, kind, opset), []).append(opset)
    found.pop(("-", ""), None)
    texts = []
    for (outcome, reason), opsets in found.items():
        text = f"{outcome} ({reason})" if reason else outcome
        whole = tuple(opsets) == OPSETS
        texts.append(text if whole else f"{text}, opset {_ranges(opsets)}")
    return "; ".join(texts) or "-"


def _ranges(opsets: list[int]) -> str:
    return ", ".join(_spans(opsets))


def _spans(opsets: list[int]) -> Iterator[str]:
    """Group consecutive opsets among the tried ones."""
    places = [OPSETS.index(opset) for opset in opsets]
    start = 0
    for i in range(1, len(places) + 1):
        if i < len(places) and places[i] == places[i - 1] + 1:
            continue
        first, last = opsets[start], opsets[i - 1]
        newest = last == OPSETS[-1]
        yield f"{first}+" if newest else f"{first}" if first == last else f"{first}-{last}"
        start = i


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(document(), encoding="utf-8")
