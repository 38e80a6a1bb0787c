"""Table of the ops that rewrites write and onnxruntime's CPU provider implements.

Rewrites need no installed onnxruntime; a test compares every row with the installed one.
"""

from __future__ import annotations

__all__ = ["KERNELS", "NEWEST_TRIED", "OLDEST_TRIED", "is_implemented"]

OLDEST_TRIED, NEWEST_TRIED = 7, 28
"""The operator sets that were tried."""

_ALL = (OLDEST_TRIED, NEWEST_TRIED)
_FLOATS = {"float": _ALL, "float16": _ALL}
_REALS = {"float": _ALL, "float16": _ALL, "double": _ALL}

KERNELS: dict[str, dict[str, tuple[int, int]]] = {
    "Add": _REALS,
    "AveragePool": _FLOATS,
    "BatchNormalization": _REALS,
    "Concat": {**_REALS, "bfloat16": (13, NEWEST_TRIED)},
    "Conv": _FLOATS,
    "ConvTranspose": _FLOATS,
    "Div": _REALS,
    "Gemm": _REALS,
    "Identity": {**_REALS, "bfloat16": (13, NEWEST_TRIED)},
    "MatMul": _REALS,
    "Mul": _REALS,
    "PRelu": {**_FLOATS, "double": (16, 18)},
    "Pad": _REALS,  # bfloat16 since onnxruntime 1.32, and 1.30 is supported
    "Relu": _REALS,
    "Sub": _REALS,
    "Sum": _REALS,
}
"""By op and type, the first and the last operator set in which it runs."""


def is_implemented(op_type: str, dtype: str, opset: int) -> bool:
    """Return whether onnxruntime implements an op on the CPU.

    Args:
        op_type: An operator of the default domain.
        dtype: A type as ONNX's schemas spell it, `float16`.
        opset: The opset of the default domain; opsets later than the last in the table count as
            the last.
    """
    first, last = KERNELS.get(op_type, {}).get(dtype, (1, 0))
    return first <= min(opset, NEWEST_TRIED) <= last
